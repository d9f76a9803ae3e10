// Steps through the slices of the cases of this page, and sorts the table of all cases.
// `scenes` has the slices of each case, `colours` the colour of each class.

"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let scene = 0;
let place = 0;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
}

function draw() {
  const { slices, width, height, count } = scenes[scene];
  const shown = slices[place];
  const stage = byId("stage");
  stage.replaceChildren();
  stage.setAttribute("viewBox", `0 0 ${width} ${height}`);
  if (shown.image) element("image", { href: shown.image, width, height, preserveAspectRatio: "none" }, stage);
  for (const mask of ["reference", "prediction"]) {
    if (!byId(`show-${mask}`).checked) continue;
    const group = element("g", { class: mask }, stage);
    for (const [name, path] of Object.entries(shown[mask])) {
      const line = element("path", { d: path, stroke: colours[name] }, group);
      element("title", {}, line).textContent = `${name}, ${mask}`;
    }
  }
  const listed = (mask) => Object.keys(shown[mask]).join(", ") || "nothing";
  const at = `Slice ${shown.number} of ${count}`;
  const status = `${at}. Reference: ${listed("reference")}. Prediction: ${listed("prediction")}.`;
  byId("status").textContent = status;
  const description = element("desc", { id: "stage-description" }, stage);
  description.textContent = `${status} Arrow keys change the slice.`;
  const title = element("title", { id: "stage-title" }, stage);
  title.textContent = `${scenes[scene].case}, ${at}`;
  stage.prepend(title, description);
  byId("slice").value = place;
  byId("slice").setAttribute("aria-valuetext", at);
  byId("slice-before").disabled = place === 0;
  byId("slice-after").disabled = place === slices.length - 1;
}

function setPlace(wanted) {
  place = Math.min(Math.max(wanted, 0), scenes[scene].slices.length - 1);
  draw();
}

function setScene(wanted) {
  scene = (wanted + scenes.length) % scenes.length;
  byId("case-name").textContent = scenes[scene].case;
  byId("slice").max = scenes[scene].slices.length - 1;
  for (const button of document.querySelectorAll("[data-case]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.case) === scene));
  }
  setPlace(Math.floor(scenes[scene].slices.length / 2));
}

function toggle(mask) {
  byId(`show-${mask}`).checked = !byId(`show-${mask}`).checked;
  draw();
}

if (scenes.length) {
  for (const button of document.querySelectorAll("[data-case]")) {
    button.addEventListener("click", () => setScene(Number(button.dataset.case)));
  }
  for (const link of document.querySelectorAll("[data-show]")) {
    link.addEventListener("click", () => setScene(Number(link.dataset.show)));
  }
  const steps = {
    "slice-before": () => setPlace(place - 1),
    "slice-after": () => setPlace(place + 1),
    "case-before": () => setScene(scene - 1),
    "case-after": () => setScene(scene + 1),
  };
  for (const [id, step] of Object.entries(steps)) byId(id)?.addEventListener("click", step);
  byId("slice").addEventListener("input", (event) => setPlace(Number(event.target.value)));
  for (const mask of ["reference", "prediction"]) byId(`show-${mask}`).addEventListener("change", draw);
  const keys = {
    ArrowUp: () => setPlace(place + 1),
    ArrowRight: () => setPlace(place + 1),
    ArrowDown: () => setPlace(place - 1),
    ArrowLeft: () => setPlace(place - 1),
    r: () => toggle("reference"),
    p: () => toggle("prediction"),
    n: steps["case-after"],
    b: steps["case-before"],
  };
  byId("shown").addEventListener("keydown", (event) => {
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return; // The slider's own.
    event.preventDefault();
    act();
  });
  let swipeFrom = null;
  byId("stage").addEventListener("pointerdown", (event) => { swipeFrom = event.clientX; });
  byId("stage").addEventListener("pointerup", (event) => {
    if (swipeFrom !== null && Math.abs(event.clientX - swipeFrom) > 24) setPlace(place + Math.sign(event.clientX - swipeFrom));
    swipeFrom = null;
  });
  byId("stage").addEventListener("wheel", (event) => {
    const wanted = place - Math.sign(event.deltaY);
    // At the first and last slice the page scrolls on; with Ctrl the browser zooms.
    if (event.ctrlKey || wanted === place || !scenes[scene].slices[wanted]) return;
    event.preventDefault();
    setPlace(wanted);
  }, { passive: false });
  setScene(0);
}

for (const table of document.querySelectorAll(".sortable")) {
  const headings = [...table.querySelectorAll("thead th")];
  const value = (row, column) => {
    const text = row.cells[column].textContent;
    if (text.startsWith("∞")) return Infinity;
    if (column < 2) return text;
    const number = parseFloat(text);
    return Number.isNaN(number) ? null : number; // A word: there is no value.
  };
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of headings) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === null || y === null) return (x === null) - (y === null); // Always last.
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    table.tBodies[0].append(...rows);
  }));
}
