// "What has your device?": one file that suits it, and those beside.

import {among, announce, field, fill, make, select} from "./dom.js";
import {address, get, modelAt, Trouble} from "./api.js";
import {shown, told} from "./problem.js";
import {bytes, lost, read, value} from "./numbers.js";
import {measured} from "./points.js";
import {recommend} from "./recommend.js";
import {downloader, pointOf, range} from "./facts.js";
import {ready} from "./download.js";
import {formatName} from "./model.js";

const SETTLE = 250;
const known = new Map();

/** A description, asked for once, and again where there was no answer. */
function described(id) {
  if (!known.has(id)) known.set(id, get(modelAt(id)).catch(error => { known.delete(id); throw error; }));
  return known.get(id);
}

/** The form, over models as the list has them. */
export function device(models) {
  const model = select(models.map(each => [each.id, each.names.at(-1) ?? each.id]), models[0].id);
  const runtime = make("select", {});
  const room = make("input", {inputmode: "decimal", placeholder: "any", autocomplete: "off", spellcheck: "false"});
  const work = make("input", {inputmode: "decimal", placeholder: "any", autocomplete: "off", spellcheck: "false"});
  const reach = make("input", {inputmode: "decimal", placeholder: "any", autocomplete: "off"});
  const sure = make("input", {type: "checkbox", id: "sure"});
  const result = make("div", {class: "result", "aria-live": "polite", "aria-busy": "true"});
  const form = make("form", {class: "device", "aria-labelledby": "device", onsubmit: event => { event.preventDefault(); find(); }},
    make("h1", {id: "device"}, "What has your device?"),
    make("div", {class: "fields"},
      field("Model", model), field("Room for the file", room, "such as 60 kB or 1.5 MB"), field("Multiplications for a sample", work, "such as 2 M"), field("Runtime", runtime)),
    make("details", {}, make("summary", {}, "It has to reach an accuracy"),
      make("div", {class: "fields"}, field("Accuracy of at least", reach, "such as 0.97 or 97 %; of an error, at most"),
        make("div", {class: "field check"}, make("span", {}, sure, make("label", {for: "sure"}, " in truth, with 95 % confidence")), make("small", {}, "not only as measured: of all files of a fixed row that are, the smallest")))),
    result);
  let timer = 0, turn = 0;
  for (const control of [room, work, reach]) control.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, SETTLE); });
  for (const control of [runtime, sure]) control.addEventListener("change", find);
  model.addEventListener("change", () => { runtime.replaceChildren(); find(); });
  find();
  return form;

  /** What was written, or null where that is no number, which the field then says. */
  function number(input, parse) {
    const found = parse(input.value), wrong = Number.isNaN(found);
    input.setAttribute("aria-invalid", String(wrong));
    return found;
  }

  async function find() {
    const mine = ++turn;
    const limits = {max_bytes: number(room, read), max_macs: number(work, read)};
    const least = number(reach, text => (text.trim() ? Number(text.replace(/\s*%$/, "")) / (text.includes("%") ? 100 : 1) : null));
    const wrong = [...Object.values(limits), least].some(Number.isNaN);
    result.setAttribute("aria-busy", String(!wrong));
    if (wrong) return result.replaceChildren(make("p", {class: "note"}, "One of these is no number. A size is written as 60000, 60 kB or 1.5 MiB."));
    try {
      const about = await described(model.value);
      if (mine !== turn) return;
      const offered = about.formats.filter(each => each.precisions.length);
      if (!runtime.options.length) among(runtime, offered.map(each => [each.format, formatName(each.format)]), offered[0].format);
      const found = least !== null && sure.checked ? await certified(about, limits, least) : await suiting(about, limits, least);
      if (mine !== turn) return;
      fill(result, found);
      announce(result.querySelector("h3")?.textContent ?? "");
    } catch (error) {
      if (mine === turn) result.replaceChildren(told(error));
    }
    if (mine === turn) result.setAttribute("aria-busy", "false");
  }

  async function suiting(about, limits, least) {
    const format = runtime.value, {points, measure} = await measured(about, format);
    const offer = about.formats.find(each => each.format === format).precisions;
    let refusal = null;
    const asked = limits.max_bytes === null && limits.max_macs === null ? {budget: 1} : limits;
    const plans = (await Promise.all(offer.map(precision => get(address(`${modelAt(about.id)}/plan`, {...asked, precision, format})).catch(error => {
      if (!(error instanceof Trouble) || error.problem.status !== 422) throw error;
      if (!refusal || error.problem.nearest < refusal.nearest) refusal = error.problem;
      return null;
    })))).filter(Boolean);
    if (!plans.length) return [shown(refusal)];
    const reaches = least === null ? null : point => (measure.higher ? point.accuracy >= least : point.accuracy <= least);
    const {chosen, smaller, larger, untried} = recommend(points, plans, limits, measure.grain, reaches);
    if (!chosen) return [make("p", {class: "note"}, `No measured file within these limits reaches ${least}. `), ...waiting(about, measure, untried)];
    const size = each => each && get(`${modelAt(about.id)}/plans/${each.plan}`);
    const int8 = offer.includes("int8") ? get(address(`${modelAt(about.id)}/plan`, {budget: 1, precision: "int8", format})).catch(() => null) : null;
    const [main, less, more, plain] = await Promise.all([chosen.layers ? chosen : size(chosen), size(smaller), size(larger), int8]);
    return [
      make("div", {class: "choice"}, option("Take this", about, measure, main, "primary"), less && option("Next smaller", about, measure, less), more && option("Next larger", about, measure, more, "", over(more, limits))),
      plain && plain.plan !== main.plan ? line(about, measure, plain) : null,
      ...waiting(about, measure, untried),
    ];
  }

  function over(size, limits) {
    if (limits.max_bytes !== null && size.bytes > limits.max_bytes) return "More room than it has";
    return limits.max_macs !== null && size.macs > limits.max_macs ? "More work than it can do" : null;
  }

  function option(words, about, measure, size, kind = "", warning = null) {
    const point = pointOf(size, measure);
    const accuracy = point.accuracy === null ? (about.measured ? "not measured yet" : "accuracy unmeasured") : `${measure.metric} ${value(point.accuracy, measure.share)}`;
    return make("article", {class: `option ${kind}`},
      make("h3", {}, `${words}: ${bytes(size.bytes)}`),
      make("p", {class: "big"}, accuracy),
      make("p", {}, `${size.precision}, ${size.whole ? "whole" : "cut"}${point.loss === null ? "" : `, ${lost(point.loss, measure.higher)}`}`),
      range(point, measure) && make("p", {class: "quiet"}, range(point, measure)),
      warning && make("p", {class: "warning"}, warning),
      downloader(size, find, {words: "Download", kind: kind || "plain", measurable: about.measured}),
      make("p", {}, make("a", {href: `#/model/${about.names.at(-1) ?? about.id}?${new URLSearchParams({format: size.format, precision: size.precision, plan: size.plan, bytes: size.bytes})}`}, "Look at it")));
  }

  function line(about, measure, size) {
    const point = pointOf(size, measure);
    const known = point.accuracy === null ? (about.measured ? "not measured yet" : "accuracy unmeasured") : `${measure.metric} ${value(point.accuracy, measure.share)}, ${lost(point.loss, measure.higher)}`;
    return make("div", {class: "honest"}, make("p", {}, make("strong", {}, "int8 of everything"), `, nothing cut: ${bytes(size.bytes)}, ${known}. `), point.accuracy === null ? downloader(size, find, {words: "Download", kind: "plain", measurable: about.measured}) : null);
  }

  /** What may be better and was never measured. */
  function waiting(about, measure, untried) {
    if (!untried.length || !about.measured) return [];
    const place = make("div");
    const button = make("button", {type: "button"}, "Measure them");
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        for (const plan of untried) await ready(plan.url, place);
        find();
      } catch (error) {
        if (error.name !== "AbortError") place.replaceChildren(told(error));
      }
    });
    return [make("div", {class: "honest"}, make("p", {}, `Not measured yet, and perhaps better: ${untried.map(plan => `${plan.precision} at ${bytes(plan.bytes)}`).join(", ")}. `), make("p", {class: "actions"}, button), place)];
  }

  async function certified(about, limits, least) {
    const place = make("div");
    result.replaceChildren(place);
    const url = address(modelAt(about.id), {min_accuracy: least, confidence: 0.95, format: runtime.value, max_bytes: limits.max_bytes, max_macs: limits.max_macs});
    const headers = await ready(url, place);
    const size = await get(`${modelAt(about.id)}/plans/${headers.get("RightRank-Plan")}`);
    const {measure} = await measured(about, runtime.value);
    const words = /="([^"]+)";confidence="([^"]+)";n=(\d+)/.exec(headers.get("RightRank-Certified") ?? "");
    return [make("div", {class: "choice"}, option("Take this", about, measure, size, "primary")),
      words ? make("p", {class: "note"}, `Certified: with a confidence of ${words[2]} its ${measure.metric} is ${words[1]} or more in truth, by ${words[3]} samples.`) : ""];
  }
}
