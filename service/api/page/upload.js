// Publishing a model: files by drag and drop, options as the API names them, and then its operation live.

import {announce, field, make, select} from "./dom.js";
import {get, AWAY} from "./api.js";
import {headers, wanted} from "./key.js";
import {follow, panel} from "./operations.js";
import {shown, told} from "./problem.js";
import {bytes, percent} from "./numbers.js";

const ROLES = [
  ["checkpoint", "Checkpoint", ".pt2,.safetensors,.pt,.pth,.ckpt", "a .pt2 file of torch.export, or a state dict with an architecture"],
  ["evaluation", "Evaluation", ".safetensors,.npz", "inputs and targets: what accuracy is measured on"],
  ["calibration", "Calibration", ".safetensors,.npz", "inputs alone, a few hundred: what the cut learns from"],
];
const EFFORTS = {cut: "cut: prefixes are copied", refit: "refit: each size is fitted to the original", tune: "tune: one training for all sizes", polish: "polish: and one for each size"};

/** Which role a dropped file has, by its name: how that ends says more than the words in it. */
function role(name, free) {
  if (/\.(pt2|pt|pth|ckpt)$/i.test(name)) return "checkpoint";
  const data = /\.npz$/i.test(name), left = free.filter(role => !data || role !== "checkpoint");
  const rules = [["evaluation", /eval|test|valid/i], ["calibration", /calib|train/i]];
  return rules.find(([role, rule]) => left.includes(role) && rule.test(name))?.[0] ?? left[0] ?? (data ? "evaluation" : "checkpoint");
}

export async function uploadView(place) {
  document.title = "Publish – RightRank";
  const described = (await get("/openapi.json")).paths["/models"].post.requestBody.content["multipart/form-data"].schema.properties;
  const known = described.options.properties;
  const files = {}, inputs = {};
  const zone = make("div", {class: "drop"}, make("p", {}, make("strong", {}, "Drop files here"), " or choose them below"));
  const pickers = ROLES.map(([name, label, accept, more]) => {
    inputs[name] = make("input", {type: "file", accept, onchange: event => take(name, event.target.files[0])});
    const text = make("span", {class: "file quiet"});
    inputs[name].addEventListener("taken", () => { text.textContent = files[name] ? `${files[name].name}, ${bytes(files[name].size)}` : ""; });
    return make("div", {class: "pickers"}, field(name === "checkpoint" ? `${label} (needed)` : label, inputs[name], more), text);
  });
  const name = make("input", {autocomplete: "off", spellcheck: "false", pattern: described.name.pattern.replace(/^\^|\$$/g, "").replaceAll("-]", "\\-]"), title: "small letters, digits, dots, dashes and underscores"});
  const effort = select(known.effort.enum.map(each => [each, EFFORTS[each] ?? each]), known.effort.default);
  const precision = select([["", "as they are"], ...known.precision.enum.map(each => [each, each])], "");
  const metric = select([["", "as the data say"], ...known.metric.enum.map(each => [each, each])], "");
  const formats = known.formats.items.enum.map(each => make("label", {class: "check"}, make("input", {type: "checkbox", value: each}), ` ${each} `));
  const architecture = make("input", {autocomplete: "off", spellcheck: "false"});
  const budgets = make("input", {autocomplete: "off", placeholder: known.budgets.default.join(", ")});
  const said = described.card ? {
    description: make("textarea", {rows: 2}),
    license: make("input", {autocomplete: "off", placeholder: "Apache-2.0"}),
    labels: make("textarea", {rows: 2, placeholder: "one a line"}),
  } : {};
  const button = make("button", {class: "primary"}, "Publish"), result = make("div", {class: "making", "aria-live": "polite"});
  const form = make("form", {class: "upload", onsubmit: event => { event.preventDefault(); send(); }},
    make("p", {class: "crumb"}, make("a", {href: "#/"}, "Models")), make("h1", {}, "Publish a model"),
    zone, make("div", {class: "fields"}, pickers),
    make("div", {class: "fields"}, field("Name", name, "such as digits; left out, it has an id alone"), field("Effort", effort, "all but cut want calibration data"), field("Precision", precision, "in which files come that name none")),
    make("details", {}, make("summary", {}, "More"),
      make("div", {class: "fields"}, field("Metric", metric), field("Budgets measured ahead", budgets, "shares from 0 to 1"), field("Architecture", architecture, "of a state dict: resnet18, or JSON with name and arguments"),
        make("fieldset", {class: "field"}, make("legend", {}, "Also made ahead as"), formats))),
    said.description && make("details", {}, make("summary", {}, "What travels with it"),
      make("div", {class: "fields"}, field("Description", said.description), field("Licence", said.license), field("Labels", said.labels, "the names of the classes, in their order"))),
    make("p", {class: "actions"}, button), result);
  place.replaceChildren(form);

  function take(name, file) {
    if (file) files[name] = file;
    else delete files[name];
    inputs[name].dispatchEvent(new Event("taken"));
  }
  for (const kind of ["dragenter", "dragover"]) form.addEventListener(kind, event => { event.preventDefault(); zone.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) form.addEventListener(kind, () => zone.classList.remove("over"));
  form.addEventListener("drop", event => {
    event.preventDefault();
    for (const file of event.dataTransfer.files) {
      const free = ROLES.map(([name]) => name).filter(name => !files[name]);
      take(role(file.name, free), file);
    }
    announce(`Chosen: ${Object.entries(files).map(([name, file]) => `${name} ${file.name}`).join(", ")}`);
  });

  function body() {
    const data = new FormData(), options = {};
    if (effort.value !== known.effort.default) options.effort = effort.value;
    if (precision.value) options.precision = precision.value;
    if (metric.value) options.metric = metric.value;
    const also = formats.map(each => each.querySelector("input")).filter(each => each.checked).map(each => each.value);
    if (also.length) options.formats = also;
    if (budgets.value.trim()) options.budgets = budgets.value.split(",").map(Number);
    for (const [name, file] of Object.entries(files)) data.append(name, file, file.name);
    if (name.value.trim()) data.append("name", name.value.trim());
    if (architecture.value.trim()) data.append("architecture", architecture.value.trim());
    const card = Object.fromEntries(Object.entries(said).map(([name, control]) => [name, control.value.trim()]).filter(([, words]) => words));
    if (card.labels) card.labels = card.labels.split("\n").map(label => label.trim()).filter(Boolean);
    if (Object.keys(card).length) data.append("card", JSON.stringify(card));
    if (Object.keys(options).length) data.append("options", JSON.stringify(options));
    return data;
  }

  async function send() {
    button.disabled = true;
    const bar = make("progress", {"aria-label": "Upload", value: 0, max: 1}), phase = make("span", {class: "phase"}, "0 %");
    result.replaceChildren(make("div", {class: "operation"}, make("strong", {}, "Sending"), bar, phase));
    try {
      const answer = await post(body(), (done, total) => { [bar.max, bar.value] = [total, done]; phase.textContent = `${percent(done / total, 0)} of ${bytes(total)}`; });
      const called = name.value.trim() || answer.id;
      const live = panel(await get(`/operations/${answer.operation}`), `${called}: being published`);
      result.replaceChildren(live.place);
      const ended = await follow(answer.operation, live.update, () => !live.place.isConnected);
      if (ended.error) result.append(shown(ended.error));
      else if (ended.done) {
        const open = make("a", {class: "button primary", href: `#/model/${answer.id}`}, `Open ${called}`);
        result.replaceChildren(make("div", {class: "note"}, make("p", {}, make("strong", {}, `${called} is published. `), "Its sizes are being measured."), (ended.result.notes ?? []).map(note => make("p", {}, note)), make("p", {class: "actions"}, open)));
        open.focus();
      }
    } catch (error) {
      result.replaceChildren(error.title ? shown(error) : told(error));
    }
    button.disabled = false;
  }
}

/** Sends a form, and tells how much is sent, which `fetch` does not. Throws a problem document. */
async function post(data, heard) {
  for (;;) {
    const carried = headers();
    const {status, text} = await new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", "/models");
      for (const [name, value] of Object.entries(carried)) request.setRequestHeader(name, value);
      request.upload.addEventListener("progress", event => heard(event.loaded, event.total));
      request.addEventListener("load", () => resolve({status: request.status, text: request.responseText}));
      request.addEventListener("error", () => reject(AWAY));
      request.send(data);
    });
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      throw {title: "An answer that is none", detail: `The service answered ${status}.`, status};
    }
    if (status === 202) return answer;
    if (status !== 401) throw answer;
    if (JSON.stringify(carried) === JSON.stringify(headers())) await wanted(answer);
  }
}
