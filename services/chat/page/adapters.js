// The Adapters section: versions in the registry, which one is active, and what the gate said.

import { call } from "./api.js";
import { el, hint, moment, problem } from "./dom.js";

/** The Adapters tab. */
export class AdaptersTab {
  constructor(root) {
    this.root = root;
    this.list = el("div");
    this.said = el("div", { role: "status" });
    root.append(el("div", { class: "page-head" }, el("h1", {}, "Adapters")), hint("An adapter is the voice: how to answer, what to cite, when to decline. Promoting one takes effect with the next question."), this.said, this.list);
  }

  async open() {
    try {
      this.me = await call("/v1/me");
      const { data } = await call("/v1/adapters");
      this.draw(data);
    } catch (error) {
      this.list.replaceChildren(problem(error));
    }
  }

  draw(versions) {
    if (!versions.length) {
      this.list.replaceChildren(hint("There is no adapter yet: the base model answers. Make one with tandem train."));
      return;
    }
    const names = [...new Set(versions.map((version) => version.name))];
    this.list.replaceChildren(...names.map((name) => this.group(name, versions.filter((version) => version.name === name))));
  }

  group(name, versions) {
    const back = this.me.admin && versions.length > 1 && versions.some((version) => version.active);
    const rollback = back ? el("button", { type: "button", class: "quiet", onclick: () => this.act(`/v1/adapters/${encodeURIComponent(name)}/rollback`, {}) }, "Roll back") : null;
    return el("section", { class: "group" }, el("div", { class: "group-head" }, el("h2", {}, name), rollback), el("ol", { class: "cards two" }, versions.map((version) => this.card(version))));
  }

  card(version) {
    const gate = version.gate;
    const verdict = gate ? el("span", { class: `badge ${gate.passed ? "good" : "bad"}` }, gate.passed ? "gate passed" : "gate failed") : el("span", { class: "badge" }, "no gate");
    const facts = [
      ["Base model", version.base],
      ["Made", moment(version.created_at)],
      ["Prompt", version.prompt_matches ? "as in use" : "another template than the one in use"],
    ].filter(([, value]) => value);
    return el(
      "li",
      { class: `card${version.active ? " chosen" : ""}` },
      el("header", {}, el("h3", { class: "mono" }, version.served), version.active ? el("span", { class: "badge voice-badge" }, "active") : null, verdict),
      el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      version.problem ? el("p", { class: "notice bad" }, version.problem) : null,
      el("details", {}, el("summary", {}, "Manifest"), el("pre", { class: "code", tabindex: 0 }, JSON.stringify(version.manifest, null, 2))),
      this.me.admin && !version.active
        ? el("div", { class: "row end" }, el("button", { type: "button", class: "primary", onclick: () => this.act(`/v1/adapters/${encodeURIComponent(version.name)}/promote`, { digest: version.digest }) }, "Promote"))
        : null,
    );
  }

  async act(path, json) {
    try {
      const active = await call(path, { method: "POST", json });
      this.said.replaceChildren(el("p", { class: "notice good" }, `${active.served} is active now.`));
      await this.open();
    } catch (error) {
      this.said.replaceChildren(problem(error));
    }
  }
}
