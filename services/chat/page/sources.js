// The panel beside the answers: the passages that one answer was made from.

import { day, el, hint, outwardLink } from "./dom.js";

const panel = () => document.getElementById("sources");
let shown = null;

/**
 * Shows an answer's passages; with `n` that one is marked and brought into view.
 * @param {AnswerView} answer
 * @param {?number} n
 */
export function showSources(answer, n = null) {
  shown = answer;
  for (const other of document.querySelectorAll(".answer.chosen")) other.classList.remove("chosen");
  answer.element.classList.add("chosen");
  const cited = new Set((answer.receipt?.citations ?? []).map((passage) => passage.n));
  const title = answer.element.parentElement?.classList.contains("grid") ? `Sources of “${answer.element.querySelector("h3").textContent}”` : "Sources";
  panel().replaceChildren(
    el("button", { type: "button", class: "link back", onclick: () => back(answer) }, "Back to the answer"),
    el("h2", {}, title),
    answer.passages.length
      ? hint(cited.size ? "What the model was given. Cited ones are marked." : "What the model was given. None is cited.")
      : hint(answer.receipt ? "This answer was made without documents." : "There is no answer, so there are no sources."),
    ...answer.passages.map((passage) => card(passage, cited.has(passage.n), passage.n === n)),
  );
  if (n !== null) bringIntoView(n);
}

/** Shows the newest answer's sources unless the reader has chosen another one of the same turn. */
export function followAnswer(answer, turn) {
  if (!shown || !turn.includes(shown)) showSources(answer);
  else if (shown === answer) showSources(answer);
}

export function clearSources() {
  shown = null;
  panel().replaceChildren(el("h2", {}, "Sources"), hint("The passages behind an answer appear here, with the numbers it cites them by."));
}

function bringIntoView(n) {
  const chosen = panel().querySelector(`[data-n="${n}"]`);
  if (!chosen) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  chosen.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  chosen.focus({ preventScroll: true });
}

/** On a narrow screen the sources stand below the conversation. */
function back(answer) {
  answer.element.scrollIntoView({ block: "center" });
}

function card(passage, cited, chosen) {
  const facts = [
    passage.version && `version ${passage.version}`,
    passage.effective_from && `in force from ${day(passage.effective_from)}`,
    passage.page && `page ${passage.page}`,
  ].filter(Boolean);
  const classes = `card source${cited ? " cited" : ""}${chosen ? " chosen" : ""}`;
  return el(
    "article",
    { class: classes, "data-n": passage.n, tabindex: -1, "aria-label": `Source ${passage.n}` },
    el("header", {}, el("span", { class: "number" }, passage.n), el("h3", {}, passage.title || passage.document_id), cited ? el("span", { class: "badge good" }, "cited") : null),
    passage.heading ? el("p", { class: "crumbs" }, passage.heading.split(" > ").join(" › ")) : null,
    facts.length ? el("p", { class: "facts-line" }, facts.join(" · ")) : null,
    el("blockquote", {}, passage.quote),
    el("footer", {}, el("code", {}, passage.document_id), passage.url ? outwardLink(passage.url, "Open the document") : null),
  );
}
