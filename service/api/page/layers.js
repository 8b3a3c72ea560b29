// A size layer by layer: how much of each is kept, and in how many bits.

import {make, vary} from "./dom.js";
import {percent, short} from "./numbers.js";

const STEPS = [[2, "up to 2 bits"], [4, "up to 4"], [8, "up to 8"], [16, "16"], [Infinity, "32 and more"]];
const step = bits => (bits === null ? "none" : String(STEPS.findIndex(([most]) => bits <= most + 0.5)));
const written = bits => (bits === null ? "" : ` · ${Number(bits.toFixed(1))} bit`);

export function picture(layers) {
  const rows = layers.map(layer => {
    const kept = layer.original ? layer.params / layer.original : 1;
    const rank = layer.rank === null ? "whole" : `rank ${layer.rank} of ${layer.largest}`;
    const bar = vary(make("span", {class: "bar", "aria-hidden": "true"}, make("span", {class: "kept", "data-bits": step(layer.bits)})), "--kept", `${100 * Math.min(kept, 1)}%`);
    return make("li", {}, make("span", {class: "name", title: layer.layer}, layer.layer, make("small", {}, ` ${layer.kind}`)), bar,
      make("span", {class: "figures"}, `${rank}${written(layer.bits)}`),
      make("span", {class: "figures quiet"}, `${short(layer.params)} of ${short(layer.original)} (${percent(kept, kept < 0.1 ? 1 : 0)})`),
      layer.reason && make("span", {class: "reason"}, `Stays whole: ${layer.reason}`));
  });
  const used = new Set(layers.map(layer => step(layer.bits)));
  const legend = STEPS.map(([, words], at) => used.has(String(at)) && make("li", {}, make("span", {class: "swatch kept", "data-bits": String(at), "aria-hidden": "true"}), words));
  return make("div", {class: "layers"},
    make("ul", {class: "legend", "aria-label": "Bits of a number"}, legend, used.has("none") && make("li", {}, make("span", {class: "swatch kept", "data-bits": "none", "aria-hidden": "true"}), "coded together")),
    make("ol", {tabindex: 0, "aria-label": "Layers, what is kept of each"}, rows));
}

/** What no layer covers, where that is known and is more than a trifle. */
export function uncovered(found) {
  if (!found || found.share < 0.05) return null;
  const named = found.tensors.slice(0, 3).map(tensor =>
    make("li", {}, make("code", {}, tensor.name), ` ${percent(tensor.share)}: ${tensor.reason || `read by ${tensor.read_by.join(" and ")}`}`));
  const more = found.tensors.length + found.others.tensors - named.length;
  return make("div", {class: "note"}, make("p", {}, `${percent(found.share)} of the parameters are in no layer that can be cut, and stay whole in every size:`),
    make("ul", {}, named, more > 0 && make("li", {}, `and ${more} more`)));
}
