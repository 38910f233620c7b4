// The Adapters section: versions in the registry, which one is active or on trial, and what the gate said.

import { call } from "./api.js";
import { el, hint, moment, plural, problem, seconds } from "./dom.js";

const percent = (share) => `${(100 * share).toFixed(share < 0.1 && share > 0 ? 1 : 0)}%`;
const part = (count, all) => (all ? `${percent(count / all)} of ${all}` : "none yet");
const TRIAL_SHARE = 0.1;
const [HAD, FAILED, CITED, DECLINED, TOOK] = ["Conversations", "Failed", "Cites", "Declined", "Median"];

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
      const names = [...new Set(data.map((version) => version.name))];
      const trials = this.me.admin ? await Promise.all(names.map((name) => call(address(name, "canary")))) : [];
      this.draw(names, data, trials);
    } catch (error) {
      this.list.replaceChildren(problem(error));
    }
  }

  draw(names, versions, trials) {
    if (!versions.length) {
      this.list.replaceChildren(hint("There is no adapter yet: the base model answers. Make one with tandem train."));
      return;
    }
    this.list.replaceChildren(...names.map((name, n) => this.group(name, versions.filter((version) => version.name === name), trials[n])));
  }

  group(name, versions, trial) {
    const back = this.me.admin && versions.length > 1 && versions.some((version) => version.active);
    // What is shown as active goes along: whoever looks at an old page would otherwise step back from another version.
    const expected = versions.find((version) => version.active)?.digest;
    const rollback = back ? el("button", { type: "button", class: "quiet", onclick: () => this.act(address(name, "rollback"), { expected }, (version) => `${version.served} is active again.`) }, "Roll back") : null;
    return el("section", { class: "group" }, el("div", { class: "group-head" }, el("h2", {}, name), rollback), trial ? this.trial(name, trial) : null, el("ol", { class: "cards two" }, versions.map((version) => this.card(version))));
  }

  /** The canary under way and how it stands, or how the last one ended. */
  trial(name, { running, last_end: end }) {
    if (!running) return end?.reason ? hint(`The last candidate on trial was withdrawn ${moment(end.at)}. ${end.reason}`) : null;
    const cell = (label, text) => el("td", { "data-label": label }, text);
    const row = (label, side) => el("tr", {}, cell("Adapter", el("span", {}, el("code", {}, side.served), ` ${label}`)), cell(HAD, String(side.conversations)), cell(FAILED, part(side.failed, side.conversations)), cell(CITED, part(side.cited, side.stated)), cell(DECLINED, part(side.declined, side.conversations - side.failed)), cell(TOOK, side.seconds === null ? "" : seconds(side.seconds * 1000)));
    return el(
      "div",
      { class: "card" },
      el("p", {}, `On trial since ${moment(running.started_at)}: a candidate answers ${percent(running.share)} of the conversations.`),
      running.lacking ? el("p", { class: "hint" }, running.lacking) : null,
      el("table", {}, el("thead", {}, el("tr", {}, ["Adapter", HAD, FAILED, CITED, DECLINED, TOOK].map((title) => el("th", { scope: "col" }, title)))), el("tbody", {}, row("candidate", running.candidate), row("active", running.active))),
      running.behind.map((reason) => el("p", { class: "notice bad" }, reason)),
      el("div", { class: "row end" }, el("button", { type: "button", class: "quiet", onclick: () => this.act(address(name, "canary"), undefined, (version) => `${version.served} is on trial no more.`, "DELETE") }, "Stop the trial")),
    );
  }

  card(version) {
    const gate = version.gate;
    const verdict = gate ? el("span", { class: `badge ${gate.passed ? "good" : "bad"}` }, gate.passed ? "gate passed" : "gate failed") : el("span", { class: "badge" }, "no gate");
    const facts = [
      ["Base model", version.base],
      ["Made", moment(version.created_at)],
      ["Prompt", version.prompt_matches ? "as in use" : "another template than the one in use"],
      ["Gate", gate?.examples ? `${plural(gate.examples, "question")} asked` : ""],
    ].filter(([, value]) => value);
    return el(
      "li",
      { class: `card${version.active ? " chosen" : ""}` },
      el("header", {}, el("h3", { class: "mono" }, version.served), this.state(version), verdict),
      el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      version.problem ? el("p", { class: "notice bad" }, version.problem) : null,
      el("details", {}, el("summary", {}, "Manifest"), el("pre", { class: "code", tabindex: 0 }, JSON.stringify(version.manifest, null, 2))),
      this.me.admin && !version.active ? el("div", { class: "row end" }, this.buttons(version)) : null,
    );
  }

  state(version) {
    if (version.active) return el("span", { class: "badge voice-badge" }, "active");
    return version.canary === null ? null : el("span", { class: "badge voice-badge" }, `on trial, ${percent(version.canary)}`);
  }

  buttons(version) {
    const { name, digest } = version;
    const trial = el("button", { type: "button", class: "quiet", onclick: () => this.act(address(name, "canary"), { digest, share: TRIAL_SHARE }, (now) => `${now.served} answers ${percent(now.canary)} of the conversations.`) }, `Try on ${percent(TRIAL_SHARE)}`);
    const promote = el("button", { type: "button", class: "primary", onclick: () => this.act(address(name, "promote"), { digest }, (now) => `${now.served} is active now.`) }, "Promote");
    return [version.canary === null ? trial : null, promote];
  }

  async act(path, json, says, method = "POST") {
    if (this.acting) return;
    this.acting = true;
    // A second click would do it again, to what the first one made of it.
    for (const button of this.list.querySelectorAll("button")) button.disabled = true;
    try {
      const version = await call(path, { method, json });
      this.said.replaceChildren(el("p", { class: "notice good" }, says(version)));
    } catch (error) {
      this.said.replaceChildren(problem(error));
    }
    this.acting = false;
    await this.open(); // after a refusal too: it may be because things are no longer as they are shown
  }
}

const address = (name, rest) => `/v1/adapters/${encodeURIComponent(name)}/${rest}`;
