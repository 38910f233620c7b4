// Speaks to the server: JSON calls, the event stream of a completion, and the key where the server wants one.

const KEY = "tandem-key";

export class ApiError extends Error {
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

/** A call that gives JSON. Throws ApiError with the server's own sentence. */
export async function call(path, { method = "GET", json, form, signal } = {}) {
  const response = await send(path, { method, json, form, signal });
  return response.status === 204 ? null : response.json();
}

/** A document's id is a path: its slashes stay, everything else is escaped. */
export const documentPath = (id, rest = "") => `/v1/documents/${id.split("/").map(encodeURIComponent).join("/")}${rest}`;

/** Streams a completion: yields the parsed chunks until [DONE]. */
export async function* complete(body, signal) {
  const response = await send("/v1/chat/completions", { method: "POST", json: { ...body, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError("The connection ended before the answer did. Ask again.");
    buffer += value;
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const line = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new ApiError(chunk.error.message, 0, chunk.error.param);
      yield chunk;
    }
  }
}

async function send(path, { method, json, form, signal }) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = `Bearer ${key}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: json !== undefined ? JSON.stringify(json) : form });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("Tandem does not answer. Is the server still running?");
    }
    if (response.ok) return response;
    const error = await refusal(response);
    // Another call may have got a key in the meantime: then try with that one before asking again.
    if (response.status !== 401) throw error;
    if (sessionStorage.getItem(KEY) === key && !(await askForKey(key ? error.message : ""))) throw error;
  }
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new ApiError(error.message, response.status, error.param);
  } catch {
    return new ApiError(`The server answered with status ${response.status}.`, response.status);
  }
}

let asking = null;

/** Asks for the key once, however many calls wait for it. Gives whether there is one now. */
function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const input = document.getElementById("key");
    if (reason) document.getElementById("key-reason").textContent = reason;
    input.value = "";
    document.getElementById("key-cancel").onclick = () => dialog.close("");
    document.getElementById("key-form").onsubmit = () => sessionStorage.setItem(KEY, input.value.trim());
    dialog.addEventListener("close", () => resolve(Boolean(input.value.trim()) && dialog.returnValue !== ""), { once: true });
    dialog.returnValue = "";
    document.getElementById("key-form").querySelector("[type=submit]").value = "given";
    dialog.showModal();
    input.focus();
  }).finally(() => {
    asking = null;
  });
  return asking;
}
