// One answer: its text with citation buttons, how it was made, and the thumbs.

import { ApiError, call, complete } from "./api.js";
import { announce, el, icon, openSheet, outwardLink, problem, seconds } from "./dom.js";
import { showSources } from "./sources.js";

export const ARMS = {
  tandem: { name: "Tandem", about: "facts and voice", facts: true, voice: true },
  "tandem-rag": { name: "Retrieval only", about: "facts without voice", facts: true, voice: false },
  "tandem-style": { name: "Style only", about: "voice without facts", facts: false, voice: true },
  "tandem-base": { name: "Bare model", about: "neither", facts: false, voice: false },
};

const THUMB = "M2.5 9h3v8h-3zM5.5 9.5l3.6-6.7c1.3 0 2 .9 1.8 2.2L10.4 8h5.2c1 0 1.7.9 1.5 1.9l-1.2 5.7c-.2.8-.8 1.4-1.7 1.4H5.5";
const DEGRADED = {
  retrieval_only: "The model is not answering just now, so these are the closest passages.",
  no_adapter: "The adapter is not available, so the base model answered.",
};

/**
 * An answer and its element.
 * @param {string} model a key of ARMS
 * @param {?Object} saved what `state()` gave, to show a kept conversation again
 */
export class AnswerView {
  constructor(model, saved = null) {
    this.model = model;
    this.text = saved?.text ?? "";
    this.receipt = saved?.receipt ?? null;
    this.error = saved?.error ?? null;
    this.first = saved?.first ?? null;
    this.total = saved?.total ?? null;
    this.stopped = saved?.stopped ?? false;
    this.rating = saved?.rating ?? null;
    this.busy = false;
    this.body = el("div", { class: "answer-text" });
    this.foot = el("div", { class: "answer-foot" });
    this.element = el("article", { class: "answer", "data-model": model }, this.heading(), this.body, this.foot);
    this.draw();
  }

  /** What is kept in the tab's storage. */
  state() {
    const { model, text, receipt, error, first, total, stopped, rating } = this;
    return { model, text, receipt, error, first, total, stopped, rating };
  }

  get passages() {
    return this.receipt?.passages ?? [];
  }

  heading() {
    const arm = ARMS[this.model];
    const part = (kind, on) => el("span", { class: `part ${kind} ${on ? "on" : "off"}` }, on ? kind : `no ${kind}`);
    return el("header", { class: "answer-head" }, el("h3", {}, arm.name), part("facts", arm.facts), part("voice", arm.voice));
  }

  /** Asks the server and draws while the answer comes. */
  async ask(messages, asOf, signal) {
    const started = performance.now();
    this.busy = true;
    this.draw();
    try {
      const body = { model: this.model, messages, ...(asOf ? { tandem: { as_of: asOf } } : {}) };
      for await (const chunk of complete(body, signal)) {
        if (chunk.tandem) this.receipt = chunk.tandem;
        const piece = chunk.choices[0]?.delta?.content;
        if (!piece) continue;
        this.first ??= performance.now() - started;
        this.text += piece;
        this.drawSoon();
      }
    } catch (error) {
      if (error.name === "AbortError") this.stopped = true;
      else if (error instanceof ApiError) this.error = error.message;
      else throw error;
    } finally {
      this.total = performance.now() - started;
      this.busy = false;
      this.draw();
    }
    announce(this.error ?? `${ARMS[this.model].name} answered: ${this.text}`);
  }

  drawSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    this.element.classList.toggle("busy", this.busy);
    this.body.replaceChildren(...this.paragraphs());
    if (this.busy) return this.foot.replaceChildren();
    this.foot.replaceChildren(...this.footnotes());
  }

  paragraphs() {
    const nodes = this.text
      .split(/\n{2,}/)
      .filter((block) => block.trim())
      .map((block) => this.block(block));
    if (this.busy && !this.text) nodes.push(el("p", { class: "thinking", "aria-label": "The answer is being made" }, el("i"), el("i"), el("i")));
    if (this.error) nodes.push(el("p", { class: "notice bad" }, this.error));
    if (this.stopped) nodes.push(el("p", { class: "hint" }, "Stopped."));
    return nodes;
  }

  block(block) {
    const lines = block.trim().split("\n");
    if (lines.every((line) => /^\s*[-*•]\s+/.test(line))) {
      return el("ul", {}, lines.map((line) => el("li", {}, this.inline(line.replace(/^\s*[-*•]\s+/, "")))));
    }
    return el("p", {}, this.inline(block.trim()));
  }

  /** Text with citation markers as buttons, **strong** words, and links to sources; all else stays as it is. */
  inline(text) {
    const pattern = /\[(\d{1,3})\](?!\()|\*\*([^*\n]+)\*\*|\[([^\]\n]+)\]\((https?:[^)\s]+)\)/g;
    const nodes = [];
    let last = 0;
    for (const match of text.matchAll(pattern)) {
      nodes.push(text.slice(last, match.index));
      nodes.push(this.token(match));
      last = match.index + match[0].length;
    }
    nodes.push(text.slice(last));
    return nodes;
  }

  token([whole, number, strong, label, url]) {
    if (strong) return el("strong", {}, strong);
    if (url) return this.passages.some((passage) => passage.url === url) ? outwardLink(url, label) : whole;
    const n = Number(number);
    const passage = this.passages.find((candidate) => candidate.n === n);
    return el(
      "button",
      {
        type: "button",
        class: "cite",
        disabled: !passage,
        title: passage?.title,
        "aria-label": `Source ${n}${passage ? `: ${passage.title}` : ""}`,
        onclick: () => showSources(this, n),
      },
      n,
    );
  }

  footnotes() {
    const notes = [];
    const reason = this.receipt?.degraded;
    if (reason) notes.push(el("p", { class: "notice" }, DEGRADED[reason] ?? `Degraded: ${reason}.`));
    const facts = [];
    if (this.first !== null) facts.push(`first text ${seconds(this.first)}`);
    if (this.total !== null && this.receipt) facts.push(`whole ${seconds(this.total)}`);
    if (this.receipt?.adapter) facts.push(this.receipt.adapter);
    const cited = this.receipt?.citations.length ?? 0;
    const row = el("div", { class: "answer-facts" }, facts.length ? el("span", {}, facts.join(" · ")) : null);
    if (this.passages.length) {
      const label = `${cited} of ${this.passages.length} sources cited`;
      row.append(el("button", { type: "button", class: "link", onclick: () => showSources(this) }, label));
    }
    if (this.receipt) row.append(el("button", { type: "button", class: "link", onclick: () => this.openReceipt() }, "Receipt"), this.thumbs());
    if (row.childNodes.length) notes.push(row);
    return notes;
  }

  thumbs() {
    const said = this.rating;
    const thumb = (rating, label) =>
      el(
        "button",
        { type: "button", class: `thumb ${rating}`, "aria-pressed": said?.rating === rating ? "true" : "false", "aria-label": label, title: label, onclick: () => this.rate(rating, "") },
        icon(THUMB),
      );
    const box = el("div", { class: "thumbs" }, thumb("up", "Good answer"), thumb("down", "Bad answer"));
    if (said) {
      const subject = (about, label) =>
        el("button", { type: "button", class: "chip", "aria-pressed": said.about === about ? "true" : "false", onclick: () => this.rate(said.rating, about) }, label);
      const question = said.about ? "Thank you." : "Thank you. Facts or tone?";
      box.append(el("span", { class: "thumb-question" }, question), subject("facts", "Facts"), subject("tone", "Tone"));
      if (said.about === "tone") box.append(el("button", { type: "button", class: "link", onclick: () => this.suggest() }, "Suggest a better answer"));
    }
    return box;
  }

  /** Opens a sheet with the answer to write anew; a person decides on it before anything is trained on it. */
  suggest() {
    const text = el("textarea", { rows: 8, maxlength: 8000, required: true }, this.text);
    const send = async (event) => {
      event.preventDefault();
      await this.rate(this.rating.rating, "tone", text.value);
      document.getElementById("sheet").close();
    };
    const label = el("label", { class: "field wide-field" }, el("span", {}, "How should it be said? Keep the [1] of its sources."), text);
    openSheet("A better answer", el("form", { onsubmit: send }, label, el("div", { class: "row end" }, el("button", { type: "submit", class: "primary" }, "Suggest it"))));
  }

  async rate(rating, about, suggestion = "") {
    try {
      await call("/v1/feedback", { method: "POST", json: { answer_id: this.receipt.answer_id, rating, about, suggestion } });
      this.rating = { rating, about };
      this.draw();
      this.foot.querySelector(about ? ".chip[aria-pressed=true]" : ".thumb[aria-pressed=true]")?.focus();
    } catch (error) {
      this.foot.append(problem(error));
    }
  }

  async openReceipt() {
    try {
      const receipt = await call(`/v1/answers/${encodeURIComponent(this.receipt.answer_id)}`);
      openSheet("Receipt", el("p", { class: "hint" }, "Everything this answer was made from."), el("pre", { class: "code", tabindex: 0 }, JSON.stringify(receipt, null, 2)));
    } catch (error) {
      openSheet("Receipt", problem(error));
    }
  }
}
