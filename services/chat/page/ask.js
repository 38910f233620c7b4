// The conversation: asking, one arm or four, and keeping it for as long as the tab is open.

import { call } from "./api.js";
import { ARMS, AnswerView } from "./answer.js";
import { el, hint, plural } from "./dom.js";
import { clearSources, followAnswer, showSources } from "./sources.js";

const KEPT = "tandem-conversation";
const HISTORY = 6; // turns sent along; the server shortens further

const byId = (id) => document.getElementById(id);

/** The Ask tab. */
export class Conversation {
  constructor() {
    this.turns = [];
    this.running = null;
    for (const [model, arm] of Object.entries(ARMS)) byId("arm").append(el("option", { value: model }, arm.name));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.running.abort();
      else this.ask();
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.running) byId("composer").requestSubmit();
    });
    byId("question").addEventListener("input", () => this.fit());
    byId("compare").addEventListener("change", () => this.fitControls());
    byId("fresh").addEventListener("click", () => this.clear());
    this.restore();
    this.fitControls();
  }

  async ask() {
    const question = byId("question").value.trim();
    if (!question) return;
    const models = byId("compare").checked ? Object.keys(ARMS) : [byId("arm").value];
    const turn = { question, asOf: byId("as-of").value, answers: models.map((model) => new AnswerView(model)) };
    const earlier = this.turns.slice(-HISTORY);
    if (!this.turns.length) byId("turns").replaceChildren();
    this.turns.push(turn);
    byId("turns").append(this.element(turn));
    byId("question").value = "";
    this.fit();
    this.run(new AbortController());
    const { signal } = this.running;
    this.scrollToEnd();
    await Promise.all(
      turn.answers.map(async (answer) => {
        await answer.ask(messages(earlier, question, answer.model), turn.asOf, signal);
        const lead = turn.answers.find((candidate) => candidate.passages.length) ?? turn.answers[0];
        followAnswer(lead, turn.answers);
      }),
    );
    this.run(null);
    this.keep();
    if (matchMedia("(min-width: 60rem)").matches) byId("question").focus();
  }

  run(controller) {
    this.running = controller;
    byId("send").textContent = controller ? "Stop" : "Ask";
    byId("send").classList.toggle("stop", Boolean(controller));
    byId("question").required = !controller; // an empty field must not keep anyone from stopping
    byId("fresh").hidden = Boolean(controller) || !this.turns.length;
  }

  element(turn) {
    const many = turn.answers.length > 1;
    const note = turn.asOf ? el("span", { class: "badge" }, `as of ${turn.asOf}`) : null;
    return el(
      "section",
      { class: "turn" },
      el("div", { class: "question" }, el("p", {}, turn.question), note),
      el("div", { class: many ? "grid" : "single" }, turn.answers.map((answer) => answer.element)),
    );
  }

  clear() {
    this.turns = [];
    sessionStorage.removeItem(KEPT);
    this.showEmpty();
    clearSources();
    this.run(null);
    byId("question").focus();
  }

  keep() {
    const turns = this.turns.slice(-30).map(({ question, asOf, answers }) => ({ question, asOf, answers: answers.map((answer) => answer.state()) }));
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(turns));
    } catch {
      sessionStorage.removeItem(KEPT); // too long to keep: the page goes on without
    }
  }

  restore() {
    let turns = [];
    try {
      turns = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
    } catch {
      sessionStorage.removeItem(KEPT);
    }
    this.turns = turns.map(({ question, asOf, answers }) => ({ question, asOf, answers: answers.map((saved) => new AnswerView(saved.model, saved)) }));
    clearSources();
    if (!this.turns.length) return this.clearToEmpty();
    byId("turns").append(...this.turns.map((turn) => this.element(turn)));
    const last = this.turns.at(-1).answers;
    showSources(last.find((answer) => answer.passages.length) ?? last[0]);
    return this.run(null);
  }

  clearToEmpty() {
    this.showEmpty();
    this.run(null);
  }

  /** What stands where the conversation will be: what can be asked about. */
  async showEmpty() {
    const about = el("div", { class: "chips" });
    const line = hint("Looking at the documents.");
    byId("turns").replaceChildren(
      el("div", { class: "empty" }, el("h1", {}, "Ask the documents"), el("p", {}, "Facts come from the documents in force, each with its source. The voice comes from the adapter."), line, about),
    );
    try {
      const { data } = await call("/v1/documents");
      const live = data.filter((document) => document.status === "live");
      line.textContent = live.length
        ? `${plural(live.length, "document")} in force. For example:`
        : "No document that you may read is in force yet: add some under Documents, or with tandem ingest FOLDER.";
      about.replaceChildren(...pick(live, 6).map((document) => this.suggestion(document.title || document.id)));
    } catch (error) {
      line.textContent = error.message;
    }
  }

  suggestion(title) {
    const fill = () => {
      const field = byId("question");
      field.value = `What does “${title}” say about `;
      this.fit();
      field.focus();
      field.setSelectionRange(field.value.length, field.value.length);
    };
    return el("button", { type: "button", class: "chip", onclick: fill }, title);
  }

  fit() {
    const field = byId("question");
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, 180)}px`;
  }

  fitControls() {
    const comparing = byId("compare").checked;
    byId("arm").disabled = comparing;
    byId("ask").classList.toggle("comparing", comparing);
  }

  scrollToEnd() {
    byId("turns").lastElementChild?.scrollIntoView({ block: "start", behavior: "auto" });
  }
}

/** The conversation as this arm is to see it: its own earlier answers where there are any, else the first arm's. */
function messages(turns, question, model) {
  const before = turns.flatMap((turn) => {
    const own = turn.answers.find((answer) => answer.model === model && answer.text) ?? turn.answers.find((answer) => answer.text);
    return own ? [{ role: "user", content: turn.question }, { role: "assistant", content: own.text }] : [];
  });
  return [...before, { role: "user", content: question }];
}

/** `n` of the list, spread over it, so that the suggestions come from different folders. */
function pick(list, n) {
  if (list.length <= n) return list;
  return Array.from({ length: n }, (_, i) => list[Math.floor((i * list.length) / n)]);
}
