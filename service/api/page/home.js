// The first view: what a device takes, what is under way, and all models.

import {make} from "./dom.js";
import {told} from "./problem.js";
import {device} from "./device.js";
import {firstPage, many, models} from "./models.js";
import {underway} from "./operations.js";

export async function homeView(place) {
  document.title = "RightRank";
  const page = await firstPage();
  const choices = page.next ? await many() : page.models;
  const top = make("div"), middle = make("div"), list = models(page);
  place.replaceChildren(top, middle, list.section);
  if (choices.length) top.append(device(choices));
  else top.append(make("section", {class: "empty"}, make("h1", {}, "One trained model in, any size out"),
    make("p", {}, "Publish a trained network once; every device fetches the size that fits it, with its measured accuracy. There is no model here yet."),
    make("p", {class: "actions"}, make("a", {class: "button primary", href: "#/upload"}, "Publish a model"))));
  const changed = async () => {
    await list.reload();
    if (!top.querySelector(".device")) {
      const now = await many();
      if (now.length) top.replaceChildren(device(now));
    }
  };
  underway(middle, changed, list.mark).catch(error => middle.replaceChildren(told(error)));
}
