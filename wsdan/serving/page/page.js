"use strict";

const COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#CC79A7"];
const DASHES = ["", "10 4", "3 3", "10 4 3 4"];
const BOX = "#D55E00";
const SVG = "http://www.w3.org/2000/svg";
const TOP = 5;
const at = (id) => document.getElementById(id);
let limits = null;
let running = null; // the AbortController of the request in flight

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const percent = (share) => (share === null || share === undefined ? "not finite" : `${(100 * share).toFixed(1)}\u00a0%`);

function tell(text, busy = false) {
  at("status").textContent = text;
  at("status").classList.toggle("busy", busy);
}

function fail(text) {
  tell("");
  at("error").textContent = text;
  at("error").hidden = false;
}

async function describeServer() {
  const answer = await fetch("healthz");
  const state = await answer.json();
  limits = state.limits;
  const { backbone, classes, input, attention } = state.model;
  const plain = attention ? "" : ", without attention";
  at("model").textContent = `${backbone}, ${classes} classes, ${input.join(" × ")} px${plain}, on ${state.device}`;
}

async function classify(file) {
  if (running) running.abort();
  const mine = (running = new AbortController());
  at("error").hidden = true;
  at("result").hidden = true;
  const name = file.name || "the photograph";
  if (limits && file.size > limits.bytes - 2048) {
    fail(`${name} is too large: at most ${Math.floor(limits.bytes / 2 ** 20)} MB.`);
    return;
  }
  tell(`Classifying ${name} …`, true);
  const form = new FormData();
  form.append("file", file, name);
  try {
    const answer = await fetch(`predict?attention=true&top=${TOP}`, { method: "POST", body: form, signal: mine.signal });
    const content = await answer.json();
    if (mine !== running) return;
    if (!answer.ok) fail(content.error);
    else await show(content.results[0], name);
  } catch (error) {
    if (error.name === "AbortError") return;
    fail("The server does not answer. Is it still running?");
  }
}

async function show(result, name) {
  const attention = result.attention;
  const known = result.label === result.top[0].class;
  const answer = known ? result.label : `Unknown (nearest: ${result.top[0].class})`;
  at("answer").textContent = `${answer}, ${percent(result.score)}`;
  showScores(result.top);
  at("layers").hidden = at("zoomed").hidden = !attention;
  at("photograph").alt = `Photograph ${name}`;
  at("photograph").src = attention ? attention.photograph : URL.createObjectURL(current);
  at("stage").style.setProperty("--aspect", result.size[0] / result.size[1]);
  at("lines").replaceChildren();
  at("parts").replaceChildren();
  if (attention) {
    at("overlay").src = attention.overlay;
    at("zoom").src = attention.zoom;
    at("zoom").alt = `The part of the photograph from ${result.box.slice(0, 2).join(", ")} to ${result.box.slice(2).join(", ")} pixels`;
    const [x1, y1, x2, y2] = result.box;
    at("zoom").style.setProperty("--aspect", (x2 - x1) / (y2 - y1));
    showLines(result);
  }
  showLayers();
  at("result").hidden = false;
  at("choose").classList.add("small");
  document.querySelector(".button").textContent = "Choose another";
  tell(`${name}: ${answer}, ${percent(result.score)}`);
  at("result").scrollIntoView({ block: "nearest" });
}

function showScores(top) {
  const views = ["raw", "refined"].filter((view) => view in top[0]);
  const names = { raw: "whole view", refined: "zoomed view" };
  at("legend").hidden = views.length < 2;
  at("views-head").textContent = views.length < 2 ? "" : "Whole and zoomed view";
  at("scores").tBodies[0].replaceChildren(
    ...top.map((entry) => {
      const bars = views.map((view) => {
        const fill = element("i", { className: view });
        fill.style.width = `${100 * (entry[view] || 0)}%`;
        const bar = element("span", { className: "bar", title: `${names[view]}: ${percent(entry[view])}` }, fill);
        bar.setAttribute("role", "img");
        bar.setAttribute("aria-label", `${names[view]} ${percent(entry[view])}`);
        return bar;
      });
      const score = "mean" in entry ? entry.mean : entry.raw;
      return element(
        "tr", {},
        Object.assign(element("th", { textContent: entry.class }), { scope: "row" }),
        element("td", {}, ...bars),
        element("td", { className: "number", textContent: percent(score) }),
      );
    }),
  );
}

function showLines(result) {
  const [width, height] = result.size;
  const lines = at("lines");
  const unit = Math.max(width, height) / 100;
  lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
  lines.setAttribute("preserveAspectRatio", "none");
  const [x1, y1, x2, y2] = result.box;
  const box = { class: "box", x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: "none", "vector-effect": "non-scaling-stroke" };
  const badges = [];
  const places = [];
  for (const part of result.attention.parts) {
    const index = (part.number - 1) % COLOURS.length;
    const path = part.outline.map((line) => `M${line.map((point) => point.join(" ")).join("L")}Z`).join("");
    const shape = { class: "part", d: path, fill: "none", "vector-effect": "non-scaling-stroke", "stroke-linejoin": "round" };
    lines.append(
      drawn("path", { ...shape, stroke: "#fff", "stroke-width": 5 }),
      drawn("path", { ...shape, stroke: COLOURS[index], "stroke-width": 2.5, "stroke-dasharray": DASHES[index] }),
    );
    const [x, y] = part.peak;
    const r = 2.8 * unit;
    const place = { cx: Math.min(Math.max(x, r), width - r), cy: Math.min(Math.max(y, r), height - r) };
    const aside = (x > width / 2 ? -2.2 : 2.2) * r; // several maps may have one peak
    while (places.some((other) => Math.hypot(other.cx - place.cx, other.cy - place.cy) < 2 * r)) place.cx += aside;
    places.push(place);
    badges.push(
      drawn("circle", { class: "part", ...place, r, fill: "#000", stroke: COLOURS[index], "stroke-width": 0.5 * unit }),
      drawn("text", { class: "part", x: place.cx, y: place.cy, fill: "#fff", "font-size": 3.7 * unit, "font-weight": 700, "text-anchor": "middle", "dominant-baseline": "central" }, String(part.number)),
    );
    const badge = element("span", { className: "badge", textContent: part.number });
    badge.style.borderColor = COLOURS[index];
    at("parts").append(element("li", {}, badge, ` ${percent(part.share)} of the attention`));
  }
  lines.append(
    drawn("rect", { ...box, stroke: "#fff", "stroke-width": 6 }),
    drawn("rect", { ...box, stroke: BOX, "stroke-width": 3.5 }),
    ...badges,
  );
}

function showLayers() {
  const attention = !at("layers").hidden;
  const overlay = attention && at("show-overlay").checked;
  at("overlay").hidden = at("scale").hidden = !overlay;
  if (!overlay) at("scale").hidden = true;
  at("parts").hidden = !attention || !at("show-parts").checked;
  for (const [name, box] of [["part", "show-parts"], ["box", "show-box"]]) {
    for (const line of at("lines").getElementsByClassName(name)) {
      line.setAttribute("visibility", at(box).checked ? "visible" : "hidden");
    }
  }
}

let current = null;
function take(files) {
  const image = [...files].find((file) => file.type.startsWith("image/")) || files[0];
  if (!image) return;
  current = image;
  classify(image);
}

at("file").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
at("choose").addEventListener("submit", (event) => event.preventDefault());
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("choose").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("choose").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("choose").classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else fail("That was no file: save the photograph first, then drop it here.");
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
  else fail("There is no image in the clipboard.");
});
for (const id of ["show-overlay", "show-parts", "show-box"]) at(id).addEventListener("change", showLayers);
describeServer().catch(() => fail("The server does not answer. Is it still running?"));
