// The Documents section: what is in force, what was, uploads, and ingest runs.

import { call, documentPath } from "./api.js";
import { day, el, hint, moment, openSheet, outwardLink, plural, problem } from "./dom.js";

const STATUS = { live: ["in force", "good"], upcoming: ["upcoming", "warn"], ended: ["ended", ""], staged: ["being written", "warn"] };
const RUN_EVERY = 1500;

const badge = (status) => el("span", { class: `badge ${STATUS[status]?.[1] ?? ""}` }, STATUS[status]?.[0] ?? status);

function inForce(version) {
  const { live_from: from, live_until: until } = version;
  if (from && until) return `${day(from)} until ${day(until)}`;
  if (from) return `from ${day(from)}`;
  return until ? `until ${day(until)}` : "always";
}

const readers = (groups) => (groups === null ? "admins only" : groups.length ? groups.join(", ") : "nobody but admins");

/** The Documents tab. */
export class DocumentsTab {
  constructor(root) {
    this.root = root;
    this.filter = "";
    this.table = el("div");
    this.runs = el("div");
    this.tools = el("div");
    this.count = el("span", { class: "count" });
    const search = el("input", { type: "search", "aria-label": "Filter the documents", placeholder: "Filter", oninput: () => this.drawTable((this.filter = search.value)) });
    root.append(el("div", { class: "page-head" }, el("h1", {}, "Documents"), this.count, search), this.tools, this.table, this.runs);
  }

  async open() {
    try {
      this.me = await call("/v1/me");
      this.documents = (await call("/v1/documents")).data;
    } catch (error) {
      this.table.replaceChildren(problem(error));
      return;
    }
    this.drawTools();
    this.drawTable();
    this.drawRuns();
  }

  drawTable() {
    if (!this.documents) return;
    const wanted = this.filter.trim().toLowerCase();
    const rows = this.documents.filter((document) => `${document.title} ${document.id} ${document.groups ?? ""}`.toLowerCase().includes(wanted));
    this.count.textContent = plural(this.documents.length, "document");
    if (!rows.length) {
      const words = this.documents.length ? `No document matches “${this.filter}”.` : "There are no documents that you may read. Add some with tandem ingest FOLDER, or upload one.";
      this.table.replaceChildren(hint(words));
      return;
    }
    const head = ["Document", "Version", "In force", "Readers", "Status", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "unseen" }, "Actions")));
    this.table.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map((row) => this.row(row)))));
  }

  row(document) {
    const actions = [el("button", { type: "button", class: "link", onclick: () => this.showVersions(document) }, plural(document.versions, "version"))];
    if (this.me.admin) actions.push(el("button", { type: "button", class: "link danger", onclick: () => this.confirmDelete(document) }, "Delete"));
    return el(
      "tr",
      {},
      el("td", { "data-label": "Document" }, el("div", {}, el("strong", {}, document.title || document.id), el("code", {}, document.id))),
      el("td", { "data-label": "Version" }, document.version || `no. ${document.seq}`),
      el("td", { "data-label": "In force" }, inForce(document)),
      el("td", { "data-label": "Readers" }, readers(document.groups)),
      el("td", { "data-label": "Status" }, badge(document.status)),
      el("td", { class: "actions" }, actions),
    );
  }

  async showVersions(document) {
    openSheet(document.title || document.id, hint("Looking."));
    try {
      const { data } = await call(documentPath(document.id, "/versions"));
      const changes = el("div");
      const list = data.map((version, i) =>
        el(
          "li",
          { class: "card" },
          el("header", {}, el("h3", {}, version.version ? `Version ${version.version}` : `No. ${version.seq}`), badge(version.status)),
          el("p", { class: "facts-line" }, `In force ${inForce(version)} · ${plural(version.chunks, "chunk")} · ingested ${moment(version.created_at)}`),
          version.source_url ? outwardLink(version.source_url, "Open the source") : null,
          data[i + 1] ? el("button", { type: "button", class: "link", onclick: () => this.showDiff(document, data[i + 1], version, changes) }, "What changed") : null,
        ),
      );
      openSheet(document.title || document.id, el("p", { class: "hint" }, el("code", {}, document.id)), el("ol", { class: "cards" }, list), changes);
    } catch (error) {
      openSheet(document.title || document.id, problem(error));
    }
  }

  async showDiff(document, older, newer, into) {
    try {
      const { lines } = await call(documentPath(document.id, `/diff?from=${older.seq}&to=${newer.seq}`));
      const kinds = { "+": "added", "-": "removed" };
      const shown = lines.slice(2).map((line) => el("span", { class: `diff-line ${kinds[line[0]] ?? ""}` }, line));
      into.replaceChildren(el("h3", {}, `From no. ${older.seq} to no. ${newer.seq}`), lines.length ? el("pre", { class: "code", tabindex: 0 }, shown) : hint("The text is the same: only the metadata changed."));
      into.scrollIntoView({ block: "nearest" });
    } catch (error) {
      into.replaceChildren(problem(error));
    }
  }

  confirmDelete(document) {
    const title = `Delete “${document.title || document.id}”?`;
    const into = el("div");
    const remove = async (event) => {
      event.target.disabled = true;
      try {
        const report = await call(documentPath(document.id), { method: "DELETE" });
        openSheet("Deleted", el("p", {}, `${document.id} is gone, with its text and vectors.`), el("pre", { class: "code", tabindex: 0 }, JSON.stringify(report, null, 2)));
        this.open();
      } catch (error) {
        into.replaceChildren(problem(error));
      }
    };
    openSheet(title, el("p", {}, "All its versions, their text and their vectors go. If the file still lies in its folder, the next ingest brings it back."), into, el("div", { class: "row end" }, el("button", { type: "button", class: "primary stop", onclick: remove }, "Delete")));
  }

  drawTools() {
    this.tools.replaceChildren();
    if (!this.me.admin || !this.me.ingestion) return;
    this.tools.append(el("details", { class: "tool" }, el("summary", {}, "Upload a document"), this.uploadForm()));
    if (this.me.server_paths) this.tools.append(el("details", { class: "tool" }, el("summary", {}, "Ingest a folder of the server"), this.folderForm()));
  }

  uploadForm() {
    const field = (name, label, props = {}) => el("label", { class: "field" }, el("span", {}, label), el("input", { name, ...props }));
    const said = el("div", { role: "status" });
    const submit = async (event) => {
      event.preventDefault();
      const form = event.target;
      const button = form.querySelector("[type=submit]");
      const data = new FormData(form);
      for (const [name, value] of [...data]) if (value === "") data.delete(name);
      button.disabled = true;
      said.replaceChildren(hint("Reading and embedding."));
      try {
        const report = await call("/v1/documents", { method: "POST", form: data });
        said.replaceChildren(el("p", { class: "notice good" }, summary(report)));
        form.reset();
        this.open0();
      } catch (error) {
        said.replaceChildren(problem(error));
      } finally {
        button.disabled = false;
      }
    };
    return el(
      "form",
      { class: "tool-form", onsubmit: submit },
      field("file", "File (Markdown, HTML, text, PDF, DOCX)", { type: "file", required: true, accept: ".md,.markdown,.html,.htm,.txt,.pdf,.docx" }),
      field("title", "Title", { placeholder: "from the document" }),
      field("groups", "Readers, separated by commas", { placeholder: "as in the document, else admins only" }),
      field("version", "Version"),
      field("effective_from", "In force from", { type: "date" }),
      field("effective_until", "In force until", { type: "date" }),
      el("div", { class: "row end" }, el("button", { type: "submit", class: "primary" }, "Upload")),
      said,
    );
  }

  folderForm() {
    const said = el("div", { role: "status" });
    const submit = async (event) => {
      event.preventDefault();
      const data = new FormData(event.target);
      try {
        await call("/v1/ingest/runs", { method: "POST", json: { paths: [data.get("path")], dry_run: data.has("dry_run") } });
        said.replaceChildren();
        this.drawRuns();
      } catch (error) {
        said.replaceChildren(problem(error));
      }
    };
    return el(
      "form",
      { class: "tool-form", onsubmit: submit },
      el("label", { class: "field" }, el("span", {}, "Folder or file, by its path on the server"), el("input", { name: "path", required: true, spellcheck: "false", placeholder: "/srv/policies" })),
      el("label", { class: "switch" }, el("input", { type: "checkbox", name: "dry_run" }), el("span", { class: "track", "aria-hidden": "true" }), "Only say what would change"),
      el("div", { class: "row end" }, el("button", { type: "submit", class: "primary" }, "Ingest")),
      said,
    );
  }

  /** Reloads the table and the runs without closing the form that is open. */
  async open0() {
    this.documents = (await call("/v1/documents")).data;
    this.drawTable();
    this.drawRuns();
  }

  async drawRuns() {
    clearTimeout(this.timer);
    if (!this.me.admin) return;
    try {
      const { data } = await call("/v1/ingest/runs?limit=8");
      const running = data.some((run) => run.state === "running");
      if (this.wasRunning && !running) this.open0();
      this.wasRunning = running;
      this.runs.replaceChildren(el("h2", {}, "Ingest runs"), data.length ? el("ol", { class: "cards" }, data.map(runCard)) : hint("Nothing was ingested yet."));
    } catch (error) {
      this.runs.replaceChildren(problem(error));
    }
    if (this.wasRunning && !this.root.hidden) this.timer = setTimeout(() => this.drawRuns(), RUN_EVERY);
  }
}

function runCard(run) {
  const tone = { running: "warn", done: "good", failed: "bad" }[run.state] ?? "";
  const failed = run.report?.failed ?? [];
  const progress = run.progress ?? {};
  return el(
    "li",
    { class: "card run" },
    el("header", {}, el("h3", {}, run.paths.join(", ") || "upload"), run.report?.dry_run ? el("span", { class: "badge" }, "dry run") : null, el("span", { class: `badge ${tone}` }, run.state)),
    el("p", { class: "facts-line" }, moment(run.started_at), run.report ? ` · ${summary(run.report)}` : ""),
    run.state === "running" && progress.total ? el("progress", { max: progress.total, value: progress.done, "aria-label": "Progress" }) : null,
    run.message ? el("p", { class: "notice bad" }, run.message) : null,
    failed.length ? el("details", {}, el("summary", {}, `${plural(failed.length, "file")} could not be taken`), el("ul", {}, failed.map((file) => el("li", {}, el("code", {}, file.path), ` ${file.message}`)))) : null,
  );
}

function summary(report) {
  const counts = ["added", "updated", "unchanged", "deleted", "failed"].filter((name) => report[name]?.length).map((name) => `${report[name].length} ${name}`);
  const text = counts.length ? counts.join(", ") : "nothing to do";
  return `${text} · ${plural(report.chunks_embedded ?? 0, "chunk")} embedded, ${report.chunks_reused ?? 0} reused · ${(report.seconds ?? 0).toFixed(1)} s`;
}
