// Which view is shown: what stands behind # in the address says so. A key never does.

import {current, forget} from "./key.js";
import {told} from "./problem.js";
import {homeView} from "./home.js";
import {modelView} from "./model.js";
import {uploadView} from "./upload.js";

const place = document.getElementById("view");
let leave = null, shown = "", turn = 0;

const VIEWS = {
  "": () => homeView(place),
  upload: () => uploadView(place),
  model: ([reference], query) => modelView(place, decodeURIComponent(reference ?? ""), Object.fromEntries(query), remember),
};

/** Puts what is looked at into the address, so that a link to it shows the same. */
function remember(what) {
  shown = `${location.hash.split("?")[0]}?${new URLSearchParams(what)}`;
  history.replaceState(null, "", shown);
}

async function show() {
  if (location.hash === shown) return;
  shown = location.hash;
  const mine = ++turn;
  leave?.();
  leave = null;
  const [path, query] = shown.replace(/^#\/?/, "").split("?"), [name, ...rest] = path.split("/");
  for (const link of document.querySelectorAll("nav a[href^='#']")) link.toggleAttribute("aria-current", link.hash === `#/${name}`);
  place.setAttribute("aria-busy", "true");
  try {
    const after = await (VIEWS[name] ?? VIEWS[""])(rest, new URLSearchParams(query));
    if (mine === turn) leave = after ?? null;
    else after?.();
  } catch (error) {
    if (mine === turn) place.replaceChildren(told(error));
  }
  place.setAttribute("aria-busy", "false");
  if (mine > 1) {
    place.focus();
    scrollTo(0, 0);
  }
}

// Its address is a place on the page, which here is not what # stands for.
document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  place.focus();
});
const button = document.getElementById("forget");
const keyed = () => { button.hidden = !current(); };
button.addEventListener("click", forget);
document.addEventListener("key", keyed);
keyed();
addEventListener("hashchange", show);
shown = null;
show();
