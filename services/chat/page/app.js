// Starts the page: sections by the address' fragment, and the status line.

import { AdaptersTab } from "./adapters.js";
import { call } from "./api.js";
import { Conversation } from "./ask.js";
import { DocumentsTab } from "./documents.js";
import { SignalsTab } from "./signals.js";
import { TrainingTab } from "./training.js";

const STATUS_EVERY = 15_000;
const PARTS = { database: "the state database", index: "the document index", model: "the model" };

const tabs = {
  documents: new DocumentsTab(document.getElementById("documents")),
  adapters: new AdaptersTab(document.getElementById("adapters")),
  training: new TrainingTab(document.getElementById("training")),
  signals: new SignalsTab(document.getElementById("signals")),
};

function openTab() {
  const named = location.hash.slice(1);
  const name = ["ask", ...Object.keys(tabs)].includes(named) ? named : "ask";
  for (const section of document.querySelectorAll(".tab")) section.hidden = section.id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.tab === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  tabs[name]?.open();
}

let answered = false; // whether the model did since the page was opened

async function drawStatus() {
  const line = document.getElementById("status");
  const text = line.querySelector(".status-text");
  let state = "down";
  let words = "No connection to the server";
  try {
    const response = await fetch("/readyz");
    const ready = await response.json();
    state = ready.status;
    answered ||= state === "ready";
    const missing = Object.keys(PARTS).filter((part) => ready.parts[part] !== "ok");
    if (state === "ready") words = `Ready · ${ready.adapter ?? "no adapter"}`;
    else if (state === "degraded") words = answered ? "The model is not answering: passages only" : "Waiting for the model: passages only";
    else words = `Missing: ${missing.map((part) => PARTS[part]).join(" and ")}`;
  } catch {
    // The words above say it.
  }
  line.dataset.state = state;
  if (text.textContent !== words) text.textContent = words; // so that it is read out when it changes, and only then
  line.title = words;
}

document.getElementById("sheet-close").addEventListener("click", () => document.getElementById("sheet").close());
// A click on the backdrop closes the sheet, as people expect.
document.getElementById("sheet").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close();
});
window.addEventListener("hashchange", openTab);

new Conversation();
openTab();
drawStatus();
setInterval(() => document.hidden || drawStatus(), STATUS_EVERY);
document.addEventListener("visibilitychange", () => document.hidden || drawStatus());
