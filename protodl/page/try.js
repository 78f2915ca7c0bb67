"use strict";
const at = (id) => document.getElementById(id);
const canvas = at("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
const PEN = 18, STEP = 8;
let file = null;      // an image that was brought; null: the drawing
let shown = null;     // the last answer
const off = new Set();
const cursor = { x: 140, y: 60, down: false };

function clear() {
  file = null;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  at("problem").textContent = "";
}

function line(x, y, toX, toY) {
  pen.strokeStyle = "#000";
  pen.lineWidth = PEN;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(toX, toY);
  pen.stroke();
}

// --- drawing with a pointer, and with keys -----------------------------------------------------

function place(event) {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

let last = null;
canvas.addEventListener("pointerdown", (event) => {
  if (file) clear();
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  line(...last, ...last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const here = place(event);
  line(...last, ...here);
  last = here;
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, () => {
    if (last) explain();
    last = null;
  });
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (event.key === " ") {
    if (file) clear();
    cursor.down = !cursor.down;
    if (cursor.down) line(cursor.x, cursor.y, cursor.x, cursor.y);
    else explain();
  } else if (event.key === "Enter") {
    explain();
  } else if (event.key in MOVES) {
    const [dx, dy] = MOVES[event.key];
    const x = Math.min(canvas.width, Math.max(0, cursor.x + dx * STEP));
    const y = Math.min(canvas.height, Math.max(0, cursor.y + dy * STEP));
    if (cursor.down) line(cursor.x, cursor.y, x, y);
    Object.assign(cursor, { x, y });
  } else {
    return;
  }
  event.preventDefault();
});

// --- images that are brought -------------------------------------------------------------------

async function bring(image) {
  if (!image) return;
  clear();
  file = image;
  try {
    const picture = await createImageBitmap(image);
    const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
    const width = picture.width * scale, height = picture.height * scale;
    pen.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  } catch {
    // The browser cannot show it (TIFF, HEIC); the server may still read it.
  }
  explain();
}

at("file").addEventListener("change", (event) => {
  bring(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => bring(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  canvas.classList.add("over");
});
document.addEventListener("dragleave", () => canvas.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  canvas.classList.remove("over");
  bring(event.dataTransfer.files[0]);
});

// --- asking and showing ------------------------------------------------------------------------

let asked = 0, answered = 0;  // numbers of questions
async function explain() {
  const number = ++asked;
  const image = file || await new Promise((done) => canvas.toBlob(done));
  const asIs = at("as-is").checked;
  at("problem").textContent = "";
  try {
    const url = `explain/${encodeURIComponent(at("row").value)}?as_is=${asIs}`;
    const response = await fetch(url, { method: "POST", body: image });
    const answer = await response.json();
    if (number !== asked) return;  // a later question is on its way
    answered = number;
    if (!response.ok) throw new Error(answer.detail);
    shown = answer;
    off.clear();
    show();
  } catch (error) {
    if (number !== asked) return;
    at("problem").textContent = error.message;
    at("result").hidden = true;
  }
}

function logits() {
  return shown.baseline.map((start, k) =>
    shown.contributions[k].reduce((sum, part, p) => (off.has(p) ? sum : sum + part), start));
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function signed(value) {
  const digits = Math.abs(value).toFixed(2);
  return digits === "0.00" ? digits : (value < 0 ? "−" : "+") + digits;
}

function percent(share) {
  if (share > 0.9995) return "over 99.9 %";
  return share < 0.0005 ? "under 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function show() {
  at("result").hidden = false;
  at("warning").textContent = shown.warnings.join(" ");
  at("notes").replaceChildren(...shown.notes.map((note) => make("li", { textContent: note })));
  at("seen").src = shown.image;
  at("again").src = shown.reconstruction;
  at("cases").replaceChildren(...shown.cases.slice(0, 3).map((each) => make("figure", {},
    make("img", { src: each.picture, alt: `a training image: ${each.label}` }),
    make("figcaption", { textContent: `near it: ${each.label}` }))));
  at("change").textContent = shown.change;
  at("limits").textContent = [shown.limits, ...shown.remarks].join(" ");
  decide();
}

function decide() {
  const values = logits(), highest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - highest));
  const total = powers.reduce((sum, power) => sum + power);
  const order = values.map((_, k) => k).sort((a, b) => values[b] - values[a]);
  const [first, second] = order, name = (k) => shown.classes[k];
  const without = off.size ? ` (without ${off.size} of ${shown.prototypes.length} prototypes)` : "";
  at("verdict").replaceChildren(
    make("strong", { textContent: name(first) }),
    ` (${percent(powers[first] / total)}), then ${name(second)} (${percent(powers[second] / total)})${without}`);
  at("bars").textContent = `contribution to ${name(first)}`;
  const parts = shown.contributions[first], largest = Math.max(...parts.map(Math.abs), 1e-9);
  const rows = parts.map((_, p) => p).sort((a, b) => parts[b] - parts[a]);
  const focused = document.activeElement?.dataset?.prototype;
  at("reasons").replaceChildren(...rows.map((p) => reason(p, parts[p], largest, name(first))));
  if (focused) document.querySelector(`[data-prototype="${focused}"]`)?.focus();
  const sum = `starts at ${signed(shown.baseline[first])}; with all that is ticked, the logit is ${signed(values[first])}`;
  at("sum").replaceChildren(make("tr", {}, make("td", { colSpan: 6, textContent: sum })));
}

function reason(p, part, largest, predicted) {
  const prototype = shown.prototypes[p], half = 50 * Math.abs(part) / largest;
  const box = make("input", { type: "checkbox", checked: !off.has(p) });
  box.dataset.prototype = p;
  box.setAttribute("aria-label", `prototype ${p}, stands for ${prototype.class}`);
  box.addEventListener("change", () => {
    if (box.checked) off.delete(p); else off.add(p);
    decide();
  });
  const fill = make("i", { className: part < 0 ? "against" : "" });
  fill.style.width = `${half}%`;
  fill.style.left = part < 0 ? `${50 - half}%` : "50%";
  const row = make("tr", {},
    make("td", {}, box),
    make("td", {}, make("img", { src: prototype.picture, alt: `prototype ${p}, decoded` })),
    make("td", {}, make("img", { src: prototype.case, alt: `training image nearest to prototype ${p}` })),
    make("td", { textContent: prototype.class }),
    make("td", { textContent: `${prototype.distance.toFixed(2)} (${prototype.usual.toFixed(2)})` }),
    make("td", {}, make("span", { className: "bar" }, fill), signed(part)));
  row.classList.toggle("off", off.has(p));
  row.classList.toggle("own", prototype.class === predicted);
  return row;
}

at("explain").addEventListener("click", explain);
at("clear").addEventListener("click", () => { clear(); at("result").hidden = true; });
at("row").addEventListener("change", () => { if (shown) explain(); });
at("as-is").addEventListener("change", () => { if (shown) explain(); });

async function start() {
  clear();
  const rows = await (await fetch("rows")).json();
  at("row").replaceChildren(...Object.entries(rows).map(([row, words]) =>
    make("option", { value: row, textContent: words ? `${row}: ${words}` : row })));
}
start();
