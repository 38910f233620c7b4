// The Signals section: early signs of failure, each with what to do.

import { call } from "./api.js";
import { el, hint, problem } from "./dom.js";

const words = (name) => `${name[0].toUpperCase()}${name.slice(1)}`.replaceAll("_", " ");

/** The Signals tab. */
export class SignalsTab {
  constructor(root) {
    this.list = el("div");
    root.append(el("div", { class: "page-head" }, el("h1", {}, "Signals")), hint("Early signs of failure. One that fires says what to do."), this.list);
  }

  async open() {
    try {
      const { data } = await call("/v1/signals");
      this.list.replaceChildren(el("ol", { class: "cards two" }, data.map(card)));
    } catch (error) {
      this.list.replaceChildren(problem(error));
    }
  }
}

function card(signal) {
  const state = signal.firing ? el("span", { class: "badge bad" }, "firing") : el("span", { class: "badge good" }, "quiet");
  return el(
    "li",
    { class: "card" },
    el("header", {}, el("h3", {}, words(signal.name)), state),
    el("p", {}, signal.detail),
    el("p", { class: "facts-line" }, `${Number(signal.value.toFixed(3))} · fires above ${signal.threshold}`),
    signal.firing ? el("p", { class: "notice" }, signal.action) : null,
  );
}
