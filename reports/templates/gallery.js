// The page has all content without this file; it only selects one subject and prompt, and sorts.
(function () {
  "use strict";
  const subjects = Array.from(document.querySelectorAll("details.subject"))
    .filter((d) => d.querySelector("tr[data-prompt]"));
  const picker = document.getElementById("picker");
  const pickSubject = document.getElementById("pick-subject");
  const pickPrompt = document.getElementById("pick-prompt");
  const stage = document.getElementById("stage");
  const rows = (d) => Array.from(d.querySelectorAll("tr[data-prompt]"));
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text) element.textContent = text;
    return element;
  };

  function fillPrompts(wanted) {
    const found = rows(subjects[pickSubject.selectedIndex]);
    pickPrompt.replaceChildren(...found.map((row) => new Option(row.cells[0].textContent.trim(), row.dataset.prompt)));
    const index = found.findIndex((row) => row.dataset.prompt === wanted);
    pickPrompt.selectedIndex = Math.max(0, index);
  }

  function show() {
    const subject = subjects[pickSubject.selectedIndex];
    const row = rows(subject)[pickPrompt.selectedIndex];
    const left = make("div", "side");
    left.append(make("h3", "", "Reference images"), subject.querySelector(".references").cloneNode(true));
    const right = make("div", "side");
    for (const cell of Array.from(row.cells).slice(1)) {
      const block = make("div", "block");
      const title = make("h3");
      title.append(make("i", "swatch " + cell.dataset.colour), cell.dataset.method);
      block.append(title, ...Array.from(cell.childNodes, (node) => node.cloneNode(true)));
      right.append(block);
    }
    stage.setAttribute("style", subject.getAttribute("style"));
    stage.replaceChildren(left, right);
    history.replaceState(null, "", "#show=" + encodeURIComponent(subject.dataset.subject) + "/" + encodeURIComponent(row.dataset.prompt));
  }

  function step(by) {
    const count = pickPrompt.options.length;
    pickPrompt.selectedIndex = (pickPrompt.selectedIndex + by + count) % count;
    show();
  }

  function turn(by) {
    const count = subjects.length, wanted = pickPrompt.value;
    pickSubject.selectedIndex = (pickSubject.selectedIndex + by + count) % count;
    fillPrompts(wanted);
    show();
  }

  // "#show=subject/prompt", also from links on the page; either part may be missing.
  function follow() {
    if (!location.hash.startsWith("#show=")) return false;
    const [subject, prompt] = location.hash.slice(6).split("/").map(decodeURIComponent);
    const index = subjects.findIndex((d) => d.dataset.subject === subject);
    if (index < 0) return false;
    pickSubject.selectedIndex = index;
    fillPrompts(prompt || pickPrompt.value);
    show();
    return true;
  }

  if (subjects.length) {
    pickSubject.replaceChildren(...subjects.map((d) => new Option(d.dataset.subject)));
    const hash = location.hash;
    fillPrompts();
    picker.hidden = false;
    if (!follow()) {
      show();
      history.replaceState(null, "", hash || location.pathname);
    }
    window.addEventListener("hashchange", () => {
      if (follow()) document.getElementById("gallery").scrollIntoView();
    });
    const keys = { ArrowLeft: [step, -1], ArrowRight: [step, 1], ArrowUp: [turn, -1], ArrowDown: [turn, 1] };
    stage.addEventListener("keydown", (event) => {
      const found = keys[event.key];
      if (!found || event.target !== stage || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      found[0](found[1]);
    });
    pickSubject.addEventListener("change", () => { fillPrompts(pickPrompt.value); show(); });
    pickPrompt.addEventListener("change", show);
    document.getElementById("previous").addEventListener("click", () => step(-1));
    document.getElementById("next").addEventListener("click", () => step(1));
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
    heads.forEach((head, column) => {
      const button = make("button", "sort");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending" && column > 0 || head.getAttribute("aria-sort") === "ascending";
        const key = (row) => column ? parseFloat(row.cells[column].dataset.value) : row.cells[0].textContent;
        const compare = (a, b) => column ? (isNaN(key(a)) ? -Infinity : key(a)) - (isNaN(key(b)) ? -Infinity : key(b)) : key(a).localeCompare(key(b));
        const sorted = Array.from(table.tBodies[0].rows).sort((a, b) => (down ? -1 : 1) * compare(a, b));
        table.tBodies[0].append(...sorted);
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      });
    });
  }
})();
