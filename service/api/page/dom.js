// Elements. What a service says becomes text and nothing else: there is no other way here to put words on the page.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "rect", "path", "line", "circle", "defs", "pattern", "g"]);

/** An element with attributes (`on…`: listeners; true and false: there or not) and children, null ones left out. */
export function make(tag, attributes = {}, ...children) {
  const node = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  return fill(node, ...children);
}

const there = children => children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false);

/** Gives an element children in place of those that it has, null ones left out. */
export function fill(node, ...children) {
  node.replaceChildren(...there(children));
  return node;
}

/** A variable of a style, which a policy on inline styles lets a script set. */
export function vary(node, name, value) {
  node.style.setProperty(name, value);
  return node;
}

let count = 0;
/** An id that no other element has. */
export const unique = () => `n${++count}`;

/** A labelled field, with a line below that says more. */
export function field(label, control, more = null) {
  control.id ||= unique();
  const note = more && make("small", {id: `${control.id}-more`}, more);
  if (note) control.setAttribute("aria-describedby", note.id);
  return make("div", {class: "field"}, make("label", {for: control.id}, label), control, note);
}

/** A choice among `options`, pairs of value and words. */
export function select(options, chosen, attributes = {}) {
  return among(make("select", attributes), options, chosen);
}

/** Gives a choice other options. */
export function among(node, options, chosen) {
  fill(node, options.map(([value, words]) => make("option", {value}, words)));
  node.value = chosen;
  return node;
}

/** Says something to who listens rather than looks. */
export function announce(words) {
  document.getElementById("said").textContent = words;
}
