// The list of models.

import {make, unique} from "./dom.js";
import {address, get} from "./api.js";
import {told} from "./problem.js";
import {bytes, short, value, when} from "./numbers.js";

const AT_ONCE = 20, SETTLE = 250;

/** The section of all models. `first` is the page that is there already; `reload` reads it anew. */
export function models(first) {
  const search = make("input", {type: "search", placeholder: "name or id", id: unique(), autocomplete: "off", spellcheck: "false"});
  const rows = make("tbody"), more = make("button", {type: "button"}, "More"), note = make("p", {class: "note", role: "status", hidden: true});
  const body = make("div", {});
  let cursor = null, timer = 0, turn = 0;

  function add(page) {
    cursor = page.next;
    more.hidden = !cursor;
    rows.append(...page.models.map(row));
    chips(page.models, rows);
    note.hidden = rows.children.length > 0;
    note.textContent = search.value ? `No model is called ${search.value}.` : "No model yet.";
  }
  async function load(anew) {
    const mine = ++turn;
    try {
      const page = await get(address("/models", {limit: AT_ONCE, search: search.value.trim(), cursor: anew ? null : cursor}));
      if (mine !== turn) return;
      if (anew) rows.replaceChildren();
      body.replaceChildren();
      add(page);
    } catch (error) {
      if (mine === turn) body.replaceChildren(told(error));
    }
  }
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => load(true), SETTLE); });
  more.addEventListener("click", () => load(false));
  add(first);
  const section = make("section", {"aria-labelledby": "models"},
    make("div", {class: "row"}, make("h2", {id: "models"}, "Models"), make("div", {class: "search"}, make("label", {for: search.id}, "Search "), search)),
    body,
    make("table", {class: "list"},
      make("thead", {}, make("tr", {}, ["Model", "State", "Parameters", "Whole file", "Accuracy", "Published"].map(words => make("th", {scope: "col"}, words)))), rows),
    note, make("p", {class: "actions"}, more));
  return {section, reload: () => load(true), mark: operations => mark(rows, operations)};
}

export const firstPage = () => get(address("/models", {limit: AT_ONCE}));

/** As many as one answer has: those that a device can be asked about. */
export const many = async () => (await get(address("/models", {limit: 200}))).models;

function row(model) {
  const called = model.names.at(-1) ?? model.id, {baseline} = model;
  const accuracy = baseline && baseline.value !== null ? `${value(baseline.value, Boolean(baseline.counted))} ${baseline.metric}` : "unmeasured";
  return make("tr", {"data-model": model.id},
    make("th", {scope: "row"}, make("a", {href: `#/model/${called}`}, called), make("span", {class: "aliases"}), make("small", {class: "quiet"}, model.names.slice(0, -1).join(", "))),
    make("td", {"data-label": "State"}, make("span", {class: "state"}, "ready")),
    make("td", {"data-label": "Parameters", class: "number"}, short(model.params)),
    make("td", {"data-label": "Whole file", class: "number"}, bytes(model.bytes)),
    make("td", {"data-label": "Accuracy", class: "number"}, accuracy),
    make("td", {"data-label": "Published"}, when(model.created), model.publisher && make("small", {class: "quiet"}, ` by ${model.publisher}`)));
}

/** What is being made of which model. */
function mark(rows, operations) {
  for (const each of rows.children) {
    const mine = operations.filter(operation => operation.model === each.dataset.model && !operation.done).length;
    const state = each.querySelector(".state");
    state.textContent = mine ? `${mine} ${mine === 1 ? "size" : "sizes"} under way` : "ready";
    state.classList.toggle("busy", mine > 0);
  }
}

/** The aliases of each name, beside the version that they stand for. */
async function chips(models, rows) {
  const versions = new Map(models.flatMap(model => model.names.map(name => [name, model.id])));
  for (const name of new Set([...versions.keys()].map(name => name.split("@")[0]))) {
    const found = await get(`/names/${name}`).catch(() => null);
    for (const {alias, version} of found?.aliases ?? []) {
      const id = versions.get(`${name}@${version}`);
      rows.querySelector(`[data-model="${id}"] .aliases`)?.append(" ", make("span", {class: "chip"}, `@${alias}`));
    }
  }
}
