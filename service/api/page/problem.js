// A problem document, shown as it is: what it is called, what is wrong here, and what to do.

import {make} from "./dom.js";
import {Trouble, AWAY} from "./api.js";

export function shown(problem) {
  const kind = String(problem.type || "").match(/^\/problems\/([a-z-]+)$/);
  return make("div", {class: "problem", role: "alert"},
    make("h3", {}, problem.title),
    problem.detail && make("p", {}, problem.detail),
    problem.hint && make("p", {class: "hint"}, problem.hint),
    kind && make("p", {class: "quiet"}, make("a", {href: `/problems/${kind[1]}`}, kind[1]), problem.status ? ` · ${problem.status}` : ""));
}

/** The same of anything that was thrown; what is no problem of the service is told to the console too. */
export function told(error) {
  if (error instanceof Trouble) return shown(error.problem);
  if (error.name !== "AbortError") console.error(error);
  return shown({...AWAY, title: "Something went wrong on this page", detail: String(error.message || error), hint: "Load it anew."});
}
