// What a publisher says of a model, as text.

import {make} from "./dom.js";

const text = thing => (typeof thing === "string" ? thing : JSON.stringify(thing, null, 2));
const filled = thing => thing !== null && thing !== undefined && thing !== "" && !(typeof thing === "object" && Object.keys(thing).length === 0);

/** The card of a description; null where there is none. */
export function card(said) {
  if (!filled(said)) return null;
  const {description, license, labels, preprocessing} = said;
  return make("section", {class: "said", "aria-label": "What its publisher says"},
    filled(description) && make("p", {class: "description"}, text(description)),
    make("dl", {class: "facts"},
      filled(license) && [make("dt", {}, "Licence"), make("dd", {}, text(license))],
      filled(preprocessing) && [make("dt", {}, "Preprocessing"), make("dd", {}, make("pre", {tabindex: 0}, text(preprocessing)))],
      filled(labels) && [make("dt", {}, "Labels"), make("dd", {}, Array.isArray(labels) ? several(labels) : make("pre", {tabindex: 0}, text(labels)))]));
}

function several(labels) {
  const words = labels.map(text);
  if (words.join(", ").length < 160) return words.join(", ");
  return make("details", {}, make("summary", {}, `${words.length}: ${words.slice(0, 4).join(", ")}, …`), make("ol", {start: 0}, words.map(word => make("li", {}, word))));
}
