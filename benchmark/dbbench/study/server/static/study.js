// Everything works without this file. It adds the keys 1, 2, 3, keeps a double click from sending
// the form twice, and fetches the next question's images in advance.
"use strict";

const form = document.querySelector("form");
let sent = false;

if (form) {
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
    form.setAttribute("aria-busy", "true");
  });

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || sent) return;
    const choice = { 1: "left", 2: "right", 3: "undecided" }[event.key];
    const button = choice && form.querySelector(`button[value="${choice}"]`);
    if (button) {
      button.focus();
      button.click();
    }
  });

  for (const image of (form.dataset.preload || "").split(" ").filter(Boolean)) {
    new Image().src = `/image/${image}`;
  }
}

// A page that the browser kept (Back) may have been answered since: ask the server.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
