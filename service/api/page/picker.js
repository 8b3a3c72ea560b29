// One size of a model: a slider over those that there are, and all that is known of the one it stands at.

import {among, announce, field, fill, make} from "./dom.js";
import {address, get, modelAt} from "./api.js";
import {told} from "./problem.js";
import {bytes, lost, value} from "./numbers.js";
import {downloader, reports, stats} from "./facts.js";
import {lines} from "./snippets.js";
import {picture, uncovered} from "./layers.js";

const SETTLE = 180;

/**
 * The picker of a model. `heard(size)` is told what is picked; `again()` has the curve read anew; `other(format)` shows
 * another format. Of a pick the page knows only what the service said of that size.
 */
export function picker(model, {heard, again, other}) {
  const slider = make("input", {type: "range", min: 0, step: 1});
  const precisions = make("select", {});
  const reading = make("output", {class: "reading"});
  const card = make("section", {class: "pick", "aria-label": "The size that is picked", "aria-busy": "true"});
  const detail = make("div", {class: "detail"});
  let state = {format: null, precision: null, points: [], measure: null}, stops = [], turn = 0, timer = 0;

  slider.addEventListener("input", () => {
    const stop = stops[slider.value];
    say(stop);
    clearTimeout(timer);
    timer = setTimeout(() => choose(stop), SETTLE);
  });
  precisions.addEventListener("change", () => settle(precisions.value, stops[slider.value]?.bytes));

  function say(stop) {
    const point = state.points.find(point => point.plan === stop.plan);
    const words = point ? `${value(point.accuracy, state.measure.share)}, ${lost(point.loss, state.measure.higher)}` : model.measured ? "not measured yet" : "unmeasured";
    reading.textContent = `${bytes(stop.bytes)} · ${words}`;
    slider.setAttribute("aria-valuetext", `${bytes(stop.bytes)}, ${words}`);
  }

  /** The slider's stops in a precision; it then stands where the file is nearest to `near` bytes. */
  async function settle(precision, near) {
    const mine = ++turn;
    const found = await get(address(`${modelAt(model.id)}/sizes`, {precision, format: state.format}));
    if (mine !== turn) return null;
    state.precision = precision;
    precisions.value = precision;
    const known = state.points.filter(point => point.precision === precision);
    const every = new Map([...found.sizes, ...known].map(stop => [stop.plan, stop]));
    stops = [...every.values()].sort((one, other) => one.bytes - other.bytes);
    slider.max = stops.length - 1;
    if (near === undefined) return found;
    return choose(nearest(near));
  }

  const nearest = size => stops.reduce((one, other) => (Math.abs(Math.log(other.bytes / size)) < Math.abs(Math.log(one.bytes / size)) ? other : one));

  async function choose(stop) {
    const mine = ++turn;
    slider.value = stops.indexOf(stop);
    say(stop);
    card.setAttribute("aria-busy", "true");
    const known = state.points.some(point => point.plan === stop.plan);
    const base = modelAt(model.id);
    try {
      const size = await get(known ? `${base}/plans/${stop.plan}` : address(`${base}/plan`, {max_bytes: stop.bytes, precision: state.precision, format: state.format}));
      if (mine === turn) show(size);
    } catch (error) {
      if (mine === turn) card.replaceChildren(told(error));
    }
    card.setAttribute("aria-busy", "false");
  }

  function show(size) {
    heard(size);
    fill(card,
      make("h2", {}, `${size.precision}, ${size.whole ? "the whole network" : "cut"}`, size.made ? make("small", {}, ` ${size.made.method}`) : null),
      stats(model, state.measure, size), reports(size), downloader(size, again, {measurable: model.measured}));
    fill(detail,
      make("section", {}, make("h2", {}, "Fetch and run exactly this"), size.url ? lines(model, size, other) : make("p", {}, "No query is known that asks for exactly this size.")),
      make("section", {}, make("h2", {}, "Layer by layer"), picture(size.layers), uncovered(model.uncovered)));
    announce(`${bytes(size.bytes)} in ${size.precision} is picked.`);
  }

  return {
    control: make("div", {class: "slider"}, field("Precision", precisions), make("div", {class: "field grow"}, make("label", {for: slider.id ||= "size"}, "File size"), slider, reading)),
    card,
    detail,
    /** The format, its measured points, and where to stand: at a plan, or near so many bytes in a precision. */
    async show({format, points, measure, plan, precision, near}) {
      const offer = model.formats.find(each => each.format === format).precisions;
      among(precisions, offer.map(each => [each, each]), precision);
      Object.assign(state, {format, points, measure});
      const found = points.find(point => point.plan === plan);
      if (found) {
        await settle(found.precision);
        await choose(stops.find(stop => stop.plan === plan));
      } else await settle([precision, "int8"].find(each => offer.includes(each)) ?? offer[0], near);
    },
    async pick(point) {
      if (point.precision !== state.precision) await settle(point.precision);
      await choose(stops.find(stop => stop.plan === point.plan));
    },
  };
}
