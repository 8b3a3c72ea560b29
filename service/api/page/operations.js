// Work under way: followed by asking, since a browser keeps only a few streams open at a time.

import {announce, make} from "./dom.js";
import {ask, get} from "./api.js";
import {told} from "./problem.js";
import {bytes, whole} from "./numbers.js";

const OFTEN = 400, NOW_AND_THEN = 4000;
const rest = ms => new Promise(resolve => setTimeout(resolve, ms));

/** Follows an operation to its end, which is returned; `heard` is called with it each time. */
export async function follow(id, heard, gone = () => false) {
  for (;;) {
    const operation = await get(`/operations/${encodeURIComponent(id)}`);
    heard(operation);
    if (operation.done || gone()) return operation;
    await rest(OFTEN);
  }
}

const isIngest = operation => operation.id.startsWith("ingest-");

function words({state, progress}) {
  if (state === "queued") return progress.phase === "queued" ? "waits for a worker" : progress.phase;
  if (progress.total) return `${progress.phase}: ${whole(progress.completed)} of ${whole(progress.total)} ${progress.unit}`;
  return progress.phase;
}

/** How far an operation is, and the button that ends it, or tries it again. `update` takes it as it is now. */
export function panel(first, title) {
  const bar = make("progress", {"aria-label": title}), phase = make("span", {class: "phase"});
  const button = make("button", {class: "small", type: "button"}, "Cancel");
  const note = make("p", {class: "quiet", hidden: true});
  const place = make("div", {class: "operation", "data-operation": first.id},
    make("div", {class: "row"}, make("strong", {}, title), button), bar, phase, note);
  let last = first;
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const path = `/operations/${encodeURIComponent(first.id)}`;
      update(await (last.state === "failed" ? ask(`${path}/retry`, {method: "POST"}) : ask(path, {method: "DELETE"})).then(answer => answer.json()));
    } catch (error) {
      place.append(told(error));
    }
    button.disabled = false;
  });
  function update(operation) {
    last = operation;
    const {progress, state} = operation;
    if (progress.total) [bar.max, bar.value] = [progress.total, progress.completed];
    else bar.removeAttribute("value");
    phase.textContent = state === "failed" ? operation.error?.detail || "failed" : state === "cancelled" ? "cancelled" : words(operation);
    bar.hidden = operation.done || state === "queued";
    // What failed by a fault of the upload's own would fail again, and is not kept.
    const again = state === "failed" && operation.error.status >= 500;
    button.hidden = operation.done && !again;
    button.textContent = again ? "Try again" : "Cancel";
    button.setAttribute("aria-label", `${button.textContent}: ${title}`);
    note.textContent = progress.note || "";
    note.hidden = !progress.note;
  }
  update(first);
  return {place, update};
}

/** All that is under way, live; `changed` is called when something has ended, `seen` with all each time. Ends once
 * `place` is off the page. */
export async function underway(place, changed, seen) {
  const list = make("div", {class: "operations"}), trouble = make("div");
  const section = make("section", {hidden: true, "aria-labelledby": "underway"}, make("h2", {id: "underway"}, "Under way"), trouble, list);
  place.append(section);
  const panels = new Map();
  do {
    let found;
    try {
      found = (await get("/operations")).operations;
    } catch (error) {
      section.hidden = false;
      trouble.replaceChildren(told(error));
      await rest(NOW_AND_THEN);
      continue;
    }
    trouble.replaceChildren();
    const ids = new Set(found.map(operation => operation.id));
    const over = [...panels.keys()].filter(id => !ids.has(id));
    for (const id of over) {
      panels.get(id).place.remove();
      panels.delete(id);
    }
    for (const operation of found) {
      const known = panels.get(operation.id);
      if (known) known.update(operation);
      else {
        const called = operation.names.join(", ") || operation.model;
        const fresh = panel(operation, isIngest(operation) ? `${called}: being published` : `${called}: ${bytes(operation.bytes)}${operation.format === "torchscript" ? "" : `, ${operation.format}`}`);
        panels.set(operation.id, fresh);
        list.append(fresh.place);
      }
    }
    section.hidden = panels.size === 0;
    seen(found);
    if (over.length) {
      announce(over.length === 1 ? "An operation has ended." : `${over.length} operations have ended.`);
      changed();
    }
    await rest(found.some(operation => !operation.done) ? OFTEN : NOW_AND_THEN);
  } while (place.isConnected);
}
