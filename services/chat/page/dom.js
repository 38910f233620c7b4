// Makes elements. Text is always a text node: nothing here, or on this page, parses HTML.

/**
 * Creates an element.
 * @param {string} tag
 * @param {Object} props attributes; `onclick` and the like are listeners, `class` and `data-…` are attributes,
 *   false, null and undefined leave the attribute out.
 * @param {...(Node|string|number|null|Array)} children
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== "").map(textOrNode));
  return node;
}

function textOrNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** A drawing of one path, for buttons; it has no text of its own. */
export function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(svg.namespaceURI, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

/** An outward link; only http and https addresses become one, whatever a document says its address is. */
export function outwardLink(url, text) {
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    return null;
  }
  if (!["http:", "https:"].includes(parsed.protocol)) return null;
  return el("a", { href: parsed.href, target: "_blank", rel: "noopener noreferrer" }, text);
}

const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const MOMENT = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** A day such as 2026-03-01, for people. */
export const day = (iso) => (iso ? DAY.format(new Date(`${iso}T00:00:00Z`)) : "");

/** A point in time, for people. The server's times are UTC, also where SQLite forgot to say so. */
export const moment = (iso) => (iso ? MOMENT.format(new Date(/Z|[+-]\d\d:\d\d$/.test(iso) ? iso : `${iso}Z`)) : "");

export const seconds = (ms) => `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** Tells screen readers. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/** Opens the one sheet of the page with a title and content. */
export function openSheet(title, ...content) {
  const sheet = document.getElementById("sheet");
  document.getElementById("sheet-title").textContent = title;
  document.getElementById("sheet-body").replaceChildren(...content);
  if (!sheet.open) sheet.showModal();
}

export const problem = (error) => el("p", { class: "notice bad", role: "alert" }, error.message);

export const hint = (...children) => el("p", { class: "hint" }, ...children);
