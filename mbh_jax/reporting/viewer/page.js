// Shows the scan and mask of this page in NiiVue. `scene` is what the page says about them.
//
// The address may end in what to show first, such as
//   #slice=14&window=bone&hide=IPH,SDH&opacity=20&view=multiplanar

"use strict";

const byId = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const statusLine = byId("status");
const canvas = byId("canvas");
const names = all("[data-class]").map((box) => box.dataset.class);
const state = { slice: 1, window: "brain", hidden: new Set(), opacity: 45, view: "axial", zoom: 1, pixel: "" };
let viewer;

// What replaces the picture where there can be none.
function fail(message) {
  statusLine.dataset.state = "failed";
  statusLine.textContent = message;
}

function press(attribute, value) {
  for (const button of all(`[data-${attribute}]`)) {
    button.setAttribute("aria-pressed", String(button.dataset[attribute] === value));
  }
}

function say() {
  const [image] = viewer.volumes;
  const level = Math.round((image.cal_min + image.cal_max) / 2);
  const width = Math.round(image.cal_max - image.cal_min);
  const parts = [
    `Slice ${state.slice} of ${scene.num_slices}`,
    `${state.window} window (level ${level}, width ${width})`,
  ];
  if (state.hidden.size) parts.push(`hidden: ${names.filter((name) => state.hidden.has(name)).join(", ")}`);
  if (state.pixel) parts.push(state.pixel);
  statusLine.textContent = parts.join(" · ");
}

function setSlice(slice) {
  const position = viewer.scene.crosshairPos;
  const wanted = Math.min(Math.max(slice, 1), scene.num_slices);
  position[2] = (wanted - 0.5) / scene.num_slices;
  viewer.drawScene();
  viewer.createOnLocationChange();
}

function setWindow(name) {
  const button = all("[data-window]").find((one) => one.dataset.window === name);
  if (!button) return;
  const [image] = viewer.volumes;
  const level = Number(button.dataset.level);
  const width = Number(button.dataset.width);
  image.cal_min = level - width / 2;
  image.cal_max = level + width / 2;
  viewer.updateGLVolume();
  state.window = name;
  press("window", name);
  say();
}

function showClasses() {
  const pick = (channel) => [0, ...scene.colours.map((rgb) => rgb[channel])];
  viewer.volumes[1].setColormapLabel({
    R: pick(0),
    G: pick(1),
    B: pick(2),
    A: [0, ...names.map((name) => (state.hidden.has(name) ? 0 : 255))],
    I: [0, ...names.map((_, index) => index + 1)],
    labels: ["", ...names],
  });
  viewer.updateGLVolume();
  for (const box of all("[data-class]")) box.checked = !state.hidden.has(box.dataset.class);
  drawBlood();
  say();
}

function setClass(name, isShown) {
  if (isShown) state.hidden.delete(name);
  else state.hidden.add(name);
  showClasses();
}

function setOpacity(percent) {
  state.opacity = Math.min(Math.max(percent, 0), 100);
  viewer.setOpacity(1, state.opacity / 100);
  byId("opacity").value = state.opacity;
  byId("opacity-shown").textContent = `${state.opacity} %`;
}

function setView(name) {
  if (name !== "axial" && name !== "multiplanar") return;
  state.view = name;
  document.querySelector(".stage").dataset.shows = name;
  // The page has its own marks beside a single plane.
  viewer.setIsOrientationTextVisible(name !== "axial");
  // A crosshair is of use where it links several planes.
  viewer.setCrosshairWidth(name === "axial" ? 0 : 1);
  viewer.setSliceType(name === "axial" ? viewer.sliceTypeAxial : viewer.sliceTypeMultiplanar);
  press("view", name);
}

function setZoom(zoom) {
  state.zoom = Math.min(Math.max(zoom, 1), 8);
  const [x, y, z] = viewer.frac2mm(viewer.scene.crosshairPos);
  viewer.setPan2Dxyzmm(state.zoom === 1 ? [0, 0, 0, 1] : [-x, -y, -z, state.zoom]);
}

// Bars over the slider: how much blood each slice has, by kind.
function drawBlood() {
  const svg = byId("blood");
  const height = 26;
  const last = Math.max(scene.num_slices - 1, 1);
  const totals = scene.blood.map((counts) => counts.reduce((sum, count) => sum + count, 0));
  const most = Math.max(...totals, 1);
  const bar = scene.num_slices > 100 ? 1 : Math.min(0.7, last / 40);
  const parts = [`<rect x="0" y="${height - 1}" width="${last}" height="1" fill="#2b2e36"/>`];
  scene.blood.forEach((counts, slice) => {
    let top = height - 1;
    counts.forEach((count, index) => {
      if (!count || state.hidden.has(names[index])) return;
      // Square roots, so that little blood can be seen beside much.
      const tall = (count / totals[slice]) * Math.sqrt(totals[slice] / most) * (height - 2);
      top -= tall;
      parts.push(`<rect x="${slice - bar / 2}" y="${top}" width="${bar}" height="${tall}" fill="rgb(${scene.colours[index]})"/>`);
    });
  });
  svg.setAttribute("viewBox", `0 0 ${last} ${height}`);
  svg.innerHTML = parts.join("");
}

function onLocation(location) {
  const slice = Math.round(location.vox[2]) + 1;
  const hu = location.values[0].value;
  const label = location.values.length > 1 ? Math.round(location.values[1].value) : 0;
  state.slice = Math.min(Math.max(slice, 1), scene.num_slices);
  state.pixel = `${Math.round(hu)} HU${label ? ` ${names[label - 1]}` : ""} at the point clicked`;
  byId("slice").value = state.slice;
  say();
}

const keys = {
  ArrowUp: () => setSlice(state.slice + 1),
  ArrowDown: () => setSlice(state.slice - 1),
  PageUp: () => setSlice(state.slice + 5),
  PageDown: () => setSlice(state.slice - 5),
  Home: () => setSlice(1),
  End: () => setSlice(scene.num_slices),
  m: () => setOpacity(state.opacity ? 0 : 45),
  v: () => setView(state.view === "axial" ? "multiplanar" : "axial"),
  "+": () => setZoom(state.zoom * 1.25),
  "=": () => setZoom(state.zoom * 1.25),
  "-": () => setZoom(state.zoom / 1.25),
  0: () => setZoom(1),
};
all("[data-window]").forEach((button, index) => {
  keys[index + 1] = () => setWindow(button.dataset.window);
});

function onKey(event) {
  if (event.target === canvas) event.stopPropagation(); // NiiVue has other keys.
  if (event.ctrlKey || event.metaKey || event.altKey || event.type !== "keydown") return;
  const isSlider = event.target.type === "range";
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || (isSlider && event.key.length > 1)) return;
  event.preventDefault();
  action();
}

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (wanted.has("window")) setWindow(wanted.get("window"));
  if (wanted.has("hide")) {
    state.hidden = new Set(wanted.get("hide").split(",").filter((name) => names.includes(name)));
    showClasses();
  }
  if (wanted.has("opacity")) setOpacity(Number(wanted.get("opacity")) || 0);
  if (wanted.has("view")) setView(wanted.get("view"));
  if (wanted.has("slice")) setSlice(Number(wanted.get("slice")) || 1);
}

function listen() {
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("keyup", onKey, true);
  window.addEventListener("hashchange", readAddress);
  byId("slice").addEventListener("input", (event) => setSlice(Number(event.target.value)));
  byId("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
  for (const button of all("[data-window]")) {
    button.addEventListener("click", () => setWindow(button.dataset.window));
  }
  for (const button of all("[data-view]")) {
    button.addEventListener("click", () => setView(button.dataset.view));
  }
  for (const box of all("[data-class]")) {
    box.addEventListener("change", () => setClass(box.dataset.class, box.checked));
  }
  canvas.addEventListener("dblclick", (event) => event.stopImmediatePropagation(), true);
}

async function start() {
  const { Niivue, NVImage, DRAG_MODE } = globalThis.niivue;
  viewer = new Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [1, 1, 1, 0.5],
    fontColor: [0.91, 0.91, 0.93, 1],
    isRadiologicalConvention: true,
    isForceMouseClickToVoxelCenters: true,
    multiplanarPadPixels: 8,
    showLegend: false,
    multiplanarShowRender: 0,
    dragAndDropEnabled: false,
    dragMode: DRAG_MODE.windowing,
    logLevel: "error",
    loadingText: "",
  });
  listen();
  await viewer.attachToCanvas(canvas);
  const load = (id, options) => NVImage.loadFromBase64({ base64: byId(id).textContent, name: `${id}.nii.gz`, ...options });
  viewer.addVolume(await load("image", { colormap: "gray", cal_min: 0, cal_max: 80 }));
  viewer.addVolume(await load("mask", { opacity: state.opacity / 100 }));
  viewer.onLocationChange = onLocation;
  viewer.onIntensityChange = () => {
    state.window = "chosen";
    press("window", "");
    say();
  };
  showClasses();
  setView("axial");
  setWindow("brain");
  const totals = scene.blood.map((counts) => counts.reduce((sum, count) => sum + count, 0));
  const most = Math.max(...totals);
  setSlice(most ? totals.indexOf(most) + 1 : Math.ceil(scene.num_slices / 2));
  state.pixel = "";
  readAddress();
  say();
  statusLine.dataset.state = "ready";
}

if (canvas.getContext && document.createElement("canvas").getContext("webgl2")) {
  start().catch((error) => fail(`This page cannot be shown: ${error.message}`));
} else {
  fail("This browser has no WebGL2, which the page needs: allow it in the settings, or open the picture (.png) beside this file.");
}
