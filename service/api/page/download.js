// A file, made where it has to be, and saved by the browser.

import {ask, get, Trouble, problemIn, AWAY} from "./api.js";
import {current, headers} from "./key.js";
import {follow, panel} from "./operations.js";

/** Has a size made and measured; `place` shows how far it is. Its headers. Throws Trouble. */
export async function ready(url, place) {
  let shown = null;
  for (;;) {
    const answer = await head(url);
    if (answer.status !== 202) return answer.headers;
    const operation = answer.headers.get("Location").replace(/^.*\/operations\//, "");
    shown ||= panel(await get(`/operations/${operation}`), "This size is being made and measured");
    if (!shown.place.isConnected) place.replaceChildren(shown.place);
    const ended = await follow(operation, shown.update, () => !place.isConnected);
    if (ended.error) throw new Trouble(ended.error);
    if (!ended.done) throw new DOMException("gone", "AbortError");
  }
}

/** HEAD has no body to say what is wrong, so a refusal is asked for once more. */
async function head(url) {
  try {
    return await ask(url, {method: "HEAD", headers: {Accept: "*/*", Prefer: "respond-async"}});
  } catch (error) {
    if (!(error instanceof Trouble) || error.problem.type) throw error;
    const answer = await ask(url, {headers: {Accept: "*/*", Range: "bytes=0-0", Prefer: "respond-async"}});
    await answer.body?.cancel();
    return answer;
  }
}

/** Saves the file at `url`. A link cannot carry a key, so with one the page fetches it itself; `heard(done, total)`. */
export async function save(url, name, heard) {
  if (!current()) return leave(url, name);
  const answer = await fetch(url, {headers: {Accept: "*/*", ...headers()}}).catch(() => { throw new Trouble(AWAY); });
  if (!answer.ok) throw new Trouble(await problemIn(answer));
  const total = Number(answer.headers.get("Content-Length")), pieces = [];
  let done = 0;
  for (const reader = answer.body.getReader(); ;) {
    const piece = await reader.read();
    if (piece.done) break;
    pieces.push(piece.value);
    heard(done += piece.value.length, total);
  }
  const made = URL.createObjectURL(new Blob(pieces, {type: "application/octet-stream"}));
  leave(made, name);
  setTimeout(() => URL.revokeObjectURL(made), 60_000);
}

function leave(href, name) {
  const link = document.createElement("a");
  Object.assign(link, {href, download: name});
  document.body.append(link);
  link.click();
  link.remove();
}

export const fileName = headers => /filename="([^"]+)"/.exec(headers.get("Content-Disposition") ?? "")?.[1] ?? "model";
