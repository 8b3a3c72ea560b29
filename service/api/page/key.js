// The reader's key: for this tab only, and never part of an address.

import {make, field} from "./dom.js";

const PLACE = "rightrank-key";

export const current = () => sessionStorage.getItem(PLACE) || "";

export function forget() {
  sessionStorage.removeItem(PLACE);
  location.reload();
}

/** What a request carries. */
export const headers = () => (current() ? {Authorization: `Bearer ${current()}`} : {});

let asking = null;

/** Asks for a key, once for all who want one; `problem` says why. Ends when there is one. */
export function wanted(problem) {
  asking ||= new Promise(resolve => {
    const input = make("input", {type: "password", autocomplete: "off", required: true});
    const dialog = make("dialog", {"aria-labelledby": "key-title"},
      make("form", {method: "dialog"},
        make("h2", {id: "key-title"}, problem.title),
        make("p", {}, current() ? problem.detail : "This service answers only who has a key. Its operator makes one with rightrank key create."),
        field("Key", input, "Kept in this tab until it is closed."),
        make("p", {class: "actions"}, make("button", {class: "primary"}, "Use this key"))));
    dialog.addEventListener("cancel", event => event.preventDefault());
    dialog.querySelector("form").addEventListener("submit", event => {
      event.preventDefault();
      sessionStorage.setItem(PLACE, input.value.trim());
      dialog.remove();
      asking = null;
      document.dispatchEvent(new Event("key"));
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
  return asking;
}
