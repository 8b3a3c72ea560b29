// What is said of a size: its numbers, what was measured of it, and how it is had.

import {make} from "./dom.js";
import {bytes, lost, percent, short, value, whole} from "./numbers.js";
import {fileName, ready, save} from "./download.js";
import {told} from "./problem.js";

/** A size as the API describes it, as a point of the curve has it: with what was measured beside. */
export function pointOf(size, measure) {
  const found = size.made?.measurement;
  return {...size, method: size.made?.method ?? null, accuracy: found?.value ?? null, loss: measure.loss(found?.value),
    low: found?.low, high: found?.high, n: found?.n, changed: found?.changed, worst: found?.worst};
}

function stat(term, figure, more) {
  return make("div", {class: "stat"}, make("dt", {}, term), make("dd", {}, make("span", {class: "figure"}, figure), more && make("small", {}, more)));
}

/** The 95 % interval of a point, in one piece; "" where it has none. */
export const range = (point, measure) => point.low === null || point.low === undefined ? "" :
  `95 %: ${value(point.low, measure.share)} to ${value(point.high, measure.share)}`.replaceAll(" %", "\u00a0%");

/** What a class is called: by the card's labels of the first output, else by its number. */
const label = (labels, index) => String((Array.isArray(labels) ? labels : labels?.["0"])?.[index] ?? `class ${index}`);

/** All figures of a size, as a list. */
export function stats(model, measure, size) {
  const point = pointOf(size, measure), {changed, worst} = point;
  const interval = range(point, measure);
  const list = [
    stat(size.bounds && !size.made ? "File, at most" : "File", `${whole(size.made?.bytes ?? size.bytes)} B`, `${percent(size.bytes / model.bytes)} of the original file`),
    stat("Parameters", whole(size.params), `${percent(size.params / model.params)} of ${short(model.params)}`),
    stat("Multiplications", short(size.macs), model.macs ? `${percent(size.macs / model.macs)} of ${short(model.macs)}` : null),
    point.accuracy === null
      ? stat("Accuracy", size.made || !model.measured ? "unmeasured" : "not measured yet", model.measured ? (size.made ? null : "it is as soon as the file is made") : "published without evaluation data")
      : stat(measure.metric, value(point.accuracy, measure.share), [lost(point.loss, measure.higher), interval].filter(Boolean).join(", ")),
  ];
  if (changed) list.push(stat("Answers changed", `${whole(changed.differ)} of ${whole(changed.answers)}`, changed.lost === null ? "against the original" : `${whole(changed.lost)} now wrong, ${whole(changed.gained)} now right`));
  if (worst) list.push(stat("Worst class", value(worst.value, true), label(model.card?.labels, worst.index)));
  return make("dl", {class: "stats"}, list);
}

/** The publisher's own numbers of a size. */
export function reports(size) {
  const found = size.made?.reported ?? [];
  return found.length ? make("p", {class: "note"}, `Its publisher reports: ${found.map(each => `${each.metric} ${each.value}${each.n ? ` (n=${each.n})` : ""}`).join(", ")}.`) : null;
}

/** A button that downloads a size, once it is made and measured. `after` is called when it has been. */
export function downloader(size, after, {words = null, kind = "primary", measurable = true} = {}) {
  const place = make("div", {class: "making", "aria-live": "polite"});
  const name = `${size.format === "torchscript" ? "" : `${size.format}, `}${bytes(size.made?.bytes ?? size.bytes)}`;
  const button = make("button", {type: "button", class: kind, disabled: !size.url}, words ?? `Download ${name}`);
  const run = async then => {
    button.disabled = true;
    place.replaceChildren();
    try {
      await then(await ready(size.url, place));
      place.replaceChildren();
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(told(error));
    }
    button.disabled = false;
  };
  button.addEventListener("click", () => run(async headers => {
    await save(size.url, fileName(headers), (done, total) => place.replaceChildren(make("progress", {max: total, value: done, "aria-label": "Download"})));
    if (!size.made) after();
  }));
  const measure = size.made || !measurable ? null : make("button", {type: "button", onclick: () => run(after)}, "Measure it");
  return make("div", {class: "get"}, make("p", {class: "actions"}, button, measure), place,
    size.url ? null : make("p", {class: "quiet"}, "No query is known that asks for exactly this size."));
}
