// Which view is shown: what stands behind # in the address says so. A key never does.

import {make} from "./dom.js";
import {current, forget} from "./key.js";
import {told} from "./problem.js";
import {homeView} from "./home.js";
import {modelView} from "./model.js";
import {uploadView} from "./upload.js";

const main = document.getElementById("view");
let leave = null, shown = "", turn = 0;

const VIEWS = {
  "": place => homeView(place),
  upload: place => uploadView(place),
  model: (place, remember, [reference], query) => modelView(place, decodeURIComponent(reference ?? ""), Object.fromEntries(query), remember),
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
  // A place of its own, or an answer that comes late would be shown in the view that is looked at by then. What was
  // shown stays there until there is something to show.
  const place = make("div", {}, [...main.childNodes]);
  main.replaceChildren(place);
  main.setAttribute("aria-busy", "true");
  try {
    const after = await (VIEWS[name] ?? VIEWS[""])(place, what => { if (mine === turn) remember(what); }, rest, new URLSearchParams(query));
    if (mine === turn) leave = after ?? null;
    else after?.();
  } catch (error) {
    place.replaceChildren(told(error));
  }
  if (mine !== turn) return;
  main.setAttribute("aria-busy", "false");
  if (mine > 1) {
    main.focus();
    scrollTo(0, 0);
  }
}

// Its address is a place on the page, which here is not what # stands for.
document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  main.focus();
});
const button = document.getElementById("forget");
const keyed = () => { button.hidden = !current(); };
button.addEventListener("click", forget);
document.addEventListener("key", keyed);
keyed();
addEventListener("hashchange", show);
shown = null;
show();
