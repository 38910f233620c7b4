// The Training section: when the next run is due, what came of the last ones with their logs, and examples to decide on.

import { call } from "./api.js";
import { el, hint, moment, openSheet, plural, problem } from "./dom.js";

const LOOK_EVERY = 3_000;
const STATES = { done: "good", failed: "bad", interrupted: "warn", running: "", waiting: "" };

/** The Training tab. */
export class TrainingTab {
  constructor(root) {
    this.root = root;
    this.said = el("div", { role: "status" });
    this.state = el("div");
    this.cards = new Map(); // by the example's id
    this.examples = el("ol", { class: "cards two", hidden: true });
    this.none = hint("None waits. A thumb down with the mark Tone makes one.");
    this.none.hidden = true;
    this.heading = el("h2", { tabindex: -1 }, "Examples to decide on");
    this.runs = el("div");
    this.start = el("button", { type: "button", class: "primary", onclick: () => this.act("/v1/training/runs", "The run begins in a moment.") }, "Train now");
    root.append(
      el("div", { class: "page-head" }, el("h1", {}, "Training"), this.start),
      hint("The voice is trained on examples that people approved, by a schedule. A run that its gate does not let through changes nothing."),
      this.said,
      this.state,
      this.heading,
      this.examples,
      this.none,
      el("h2", {}, "Runs"),
      this.runs,
    );
  }

  async open() {
    clearTimeout(this.timer);
    const turn = (this.turn = {});
    try {
      const [status, { data: runs }, { data: examples }] = await Promise.all([call("/v1/training"), call("/v1/training/runs?limit=20"), call("/v1/examples?state=open")]);
      if (turn !== this.turn) return; // asked before a later one was, so it may show what is decided on already
      this.draw(status, runs);
      this.drawExamples(examples);
      this.running = Boolean(status.current);
    } catch (error) {
      if (turn !== this.turn) return;
      this.state.replaceChildren(problem(error)); // a restart of the server does not end a run: it is asked again
    }
    if (this.running) this.timer = setTimeout(() => this.root.hidden || this.open(), LOOK_EVERY);
  }

  draw(status, runs) {
    const { schedule, current } = status;
    this.start.disabled = Boolean(current) || !status.trainer;
    const count = status.new_examples === null ? "The examples cannot be read here." : `${plural(status.new_examples, "new example")}; a run needs ${status.min_new_examples} at the time due.`;
    this.state.replaceChildren(
      el(
        "div",
        { class: "card" },
        el("header", {}, el("h3", {}, `Next at ${moment(schedule.next)}`), el("span", { class: `badge ${status.trainer ? "good" : "bad"}` }, status.trainer ? "trainer running" : "no trainer")),
        el("p", { class: "facts-line" }, `${schedule.expression} · ${schedule.zone}`),
        el("p", {}, count),
        schedule.note ? el("p", { class: "hint" }, schedule.note) : null,
        current ? progress(current) : null,
        current?.resumes ? el("button", { type: "button", class: "link", onclick: () => this.act(`/v1/training/runs/${current.id}/cancel`, "The run ends in a moment.") }, "Cancel the run") : null,
      ),
    );
    this.runs.replaceChildren(runs.length ? el("ol", { class: "cards two" }, runs.map((run) => this.card(run))) : hint("There was no run yet."));
  }

  card(run) {
    const verdict = run.state === "done" ? (run.promoted ? "promoted" : "not promoted") : run.state;
    const kind = run.state === "done" && !run.promoted ? "warn" : STATES[run.state];
    const by = run.cause === "schedule" ? "by the schedule" : `by ${run.user || "hand"}`;
    return el(
      "li",
      { class: "card" },
      el("header", {}, el("h3", { class: "mono" }, run.adapter ?? run.name), el("span", { class: `badge ${kind}` }, verdict)),
      el("p", { class: "facts-line" }, `${moment(run.started_at)} · ${by}${run.attempt > 1 ? ` · attempt ${run.attempt}` : ""}`),
      run.message ? el("p", {}, run.message) : null,
      run.reasons.length ? el("details", {}, el("summary", {}, "Verdict"), el("ul", {}, run.reasons.map((reason) => el("li", {}, reason)))) : null,
      el("button", { type: "button", class: "link", onclick: () => showLog(run) }, "Log"),
    );
  }

  /** Adds what is new and takes away what is gone. Cards that stay are not moved: a moved one loses the focus. */
  drawExamples(examples) {
    const rows = new Map(examples.map((row) => [row.id, row]));
    for (const [id, card] of this.cards) if (!card.shows(rows.get(id))) this.remove(id);
    let place = this.examples.firstElementChild;
    for (const row of examples) {
      if (!this.cards.has(row.id)) this.cards.set(row.id, new ExampleCard(row, (text) => this.decided(row.id, text)));
      const { element } = this.cards.get(row.id);
      if (element === place) place = place.nextElementSibling;
      else this.examples.insertBefore(element, place);
    }
    this.showWhetherAny();
  }

  remove(id) {
    this.cards.get(id)?.element.remove();
    this.cards.delete(id);
  }

  showWhetherAny() {
    this.examples.hidden = !this.cards.size;
    this.none.hidden = !this.examples.hidden;
  }

  async decided(id, text) {
    this.said.replaceChildren(el("p", { class: "notice good" }, text));
    this.remove(id);
    this.showWhetherAny();
    this.heading.focus(); // the button that had the focus is gone, and this is where the next example is
    await this.open();
  }

  async act(path, said) {
    try {
      await call(path, { method: "POST", json: {} });
      this.said.replaceChildren(el("p", { class: "notice good" }, said));
    } catch (error) {
      this.said.replaceChildren(problem(error));
    }
    await this.open();
  }
}

/** An example that waits: its parts can be changed before it is approved. */
class ExampleCard {
  constructor(row, decided) {
    this.row = row;
    this.decided = decided;
    this.said = el("div", { role: "alert" });
    this.fields = el("div", { class: "example-fields" });
    this.fill(row.example);
    this.invented = el("input", { type: "checkbox", name: "invented_people" });
    this.edited = false;
    const button = (label, kind, act) => el("button", { type: "button", class: kind, onclick: () => this.tried(act) }, label);
    this.element = el(
      "li",
      { class: "card", oninput: () => (this.edited = true) },
      el("header", {}, el("h3", {}, row.example.question), el("span", { class: "badge" }, row.user)),
      row.comment ? el("p", { class: "hint" }, row.comment) : null,
      this.fields,
      el("label", { class: "switch" }, this.invented, el("span", { class: "track", "aria-hidden": "true" }), "These people are invented"),
      this.said,
      el("div", { class: "row end" }, button("Make names and figures up", "quiet", () => this.makeUp()), button("Refuse", "quiet", () => this.refuse()), button("Approve", "primary", () => this.approve())),
    );
  }

  /** Whether the card still stands for what waits: for the same example, or for what somebody is making of it. */
  shows(row) {
    return row !== undefined && (this.edited || JSON.stringify(row) === JSON.stringify(this.row));
  }

  fill({ question, sources, answer }) {
    const area = (label, text, rows) => {
      const box = el("textarea", { rows }, text);
      this.fields.append(el("label", { class: "field wide-field" }, el("span", {}, label), box));
      return box;
    };
    this.fields.replaceChildren();
    this.question = area("Question", question, 1);
    this.sources = sources.map((source, n) => ({ ...source, box: area(`Source ${n + 1}${source.title ? `: ${source.title}` : ""}`, source.text, 3) }));
    this.answer = area("Answer", answer, 4);
  }

  async tried(act) {
    if (this.trying) return; // a second click would decide on what is decided on
    this.trying = true;
    this.said.replaceChildren();
    try {
      await act();
    } catch (error) {
      this.said.replaceChildren(el("p", { class: "notice bad" }, error.message));
    }
    this.trying = false;
  }

  async makeUp() {
    this.edited = true;
    this.fill((await call(`/v1/examples/${this.row.id}`)).made_up);
  }

  async approve() {
    const sources = this.sources.map(({ title, heading, box }) => ({ title, heading, text: box.value }));
    await call(`/v1/examples/${this.row.id}/approve`, { method: "POST", json: { question: this.question.value, sources, answer: this.answer.value, invented_people: this.invented.checked } });
    await this.decided("Approved: the next run is trained on it.");
  }

  async refuse() {
    await call(`/v1/examples/${this.row.id}/refuse`, { method: "POST", json: {} });
    await this.decided("Refused: nothing is trained on it.");
  }
}

function progress(run) {
  const at = run.progress;
  if (!at.steps) return el("p", {}, run.state === "waiting" ? "A run waits for the trainer." : run.state === "interrupted" ? "A run was interrupted and goes on soon." : "A run is under way.");
  const words = `Step ${at.step} of ${at.steps} · loss ${at.loss.toFixed(3)} · ${Math.round(at.tokens_per_second)} tokens/s · ${Math.ceil(at.seconds_left / 60)} min left`;
  return el("div", {}, el("progress", { max: at.steps, value: at.step, "aria-label": "The run under way" }), el("p", { class: "facts-line" }, words));
}

async function showLog(run) {
  try {
    const { data } = await call(`/v1/training/runs/${run.id}/log?limit=5000`);
    const lines = data.map((line) => `${moment(line.at)}  ${line.stage.padEnd(8)} ${line.message}`).join("\n");
    openSheet("Log", el("p", { class: "hint mono" }, run.id), el("pre", { class: "code", tabindex: 0 }, lines || "Nothing was logged."));
  } catch (error) {
    openSheet("Log", problem(error));
  }
}
