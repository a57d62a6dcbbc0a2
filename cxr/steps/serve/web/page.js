"use strict";
// Sends each file to this machine's own service, one after the other, and shows what comes back.

const $ = id => document.getElementById(id);
const items = []; // {file, state: "waiting" | "busy" | "done" | "failed", answer, error, window: {level, width} or null}
let run = null, chosen = null, threshold = null; // threshold null: those that were fitted, one for each finding

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function begin() {
  run = await (await fetch("run")).json();
  document.title = $("title").textContent = run.task;
  $("run").textContent = "run " + run.run;
  $("notes").replaceChildren(...run.notes.map(note => make("li", note)));
  $("notes").hidden = !run.notes.length;
}

function add(files) {
  for (const file of files) items.push({file, state: "waiting", window: null});
  chosen ??= items[0] ?? null;
  show();
  work();
}

let working = false;
async function work() {
  if (working) return;
  working = true;
  for (let item; (item = items.find(item => item.state === "waiting"));) {
    item.state = "busy";
    show();
    try {
      item.answer = await predict(item.file);
      item.state = "done";
    } catch (error) {
      item.error = error.message;
      item.state = "failed";
    }
    show();
  }
  working = false;
}

async function predict(file) {
  if (file.size > run.most_bytes) throw new Error(`This file has more than ${Math.floor(run.most_bytes / 2 ** 20)} MB, and an X-ray has less.`);
  let reply;
  try {
    reply = await fetch("predict", {method: "POST", body: file, headers: {"Content-Type": "application/octet-stream"}});
  } catch {
    throw new Error("serve.py does not answer: start it again.");
  }
  const answer = await reply.json().catch(() => ({error: `serve.py answers with ${reply.status}.`}));
  if (answer.error) throw new Error(answer.error);
  if (answer.deep) {
    const bytes = Uint8Array.from(atob(answer.deep.stored), letter => letter.charCodeAt(0));
    answer.deep.stored = new Uint16Array(bytes.buffer);
  }
  answer.image = new Image();
  answer.image.src = answer.picture;
  await answer.image.decode();
  return answer;
}

const isShown = box => threshold === null ? box.above_threshold : box.score > threshold;
const single = () => Object.keys(run.thresholds).length === 1;

function summary(item) {
  if (item.state !== "done") return {waiting: "waits", busy: "is predicted …", failed: "not read"}[item.state];
  const count = item.answer.boxes.filter(isShown).length;
  return count ? `${count} box${count > 1 ? "es" : ""}, best ${item.answer.boxes[0].score.toFixed(2)}` : "no box";
}

function show() {
  document.body.classList.toggle("busy", items.length > 0);
  $("desk").hidden = !items.length;
  showList();
  if (chosen) showChosen();
}

function showList() {
  const focused = [...$("list").querySelectorAll("button")].indexOf(document.activeElement);
  $("list").replaceChildren(...items.map(item => {
    const button = make("button", "", {type: "button", "aria-current": item === chosen, class: item.state, title: item.file.name});
    const words = make("span");
    words.append(make("b", item.file.name), make("small", summary(item)));
    button.append(item.answer ? make("img", "", {src: item.answer.picture, alt: ""}) : make("i"), words);
    button.addEventListener("click", () => choose(item));
    const entry = make("li");
    entry.append(button);
    return entry;
  }));
  if (focused >= 0) $("list").querySelectorAll("button")[focused]?.focus();
}

function choose(item) {
  chosen = item;
  show();
}

function showChosen() {
  const {answer} = chosen;
  $("name").textContent = chosen.file.name;
  $("message").textContent = chosen.error ?? (answer ? "" : "This X-ray " + summary(chosen));
  $("message").classList.toggle("waiting", !chosen.error);
  $("result").hidden = !answer;
  if (!answer) return;
  drawPicture();
  drawBoxes();
  showFindings();
  showProbabilities();
  $("facts").textContent = `${answer.width} × ${answer.height} pixels`;
  $("window").hidden = !answer.deep;
  if (answer.deep) showWindow();
}

function drawPicture() {
  const {answer, window: wanted} = chosen, canvas = $("picture"), brush = canvas.getContext("2d");
  const windowed = answer.deep && wanted;
  canvas.width = windowed ? answer.deep.columns : answer.image.naturalWidth;
  canvas.height = windowed ? answer.deep.rows : answer.image.naturalHeight;
  canvas.style.width = canvas.width < 640 && canvas.height < 640 ? "640px" : "";
  canvas.setAttribute("aria-label", `X-ray ${chosen.file.name}, ${summary(chosen)}`);
  if (windowed) brush.putImageData(applyWindow(answer.deep, wanted), 0, 0);
  else brush.drawImage(answer.image, 0, 0);
}

// DICOM PS3.3 C.11.2.1.3.2 (LINEAR_EXACT) through a table of all 65,536 stored values.
function applyWindow(deep, {level, width}) {
  const table = new Uint8ClampedArray(2 ** 16);
  for (let stored = 0; stored < table.length; stored++) {
    const gray = 255 * ((deep.low + deep.step * stored - level) / width + 0.5);
    table[stored] = deep.inverse ? 255 - Math.min(255, Math.max(0, gray)) : gray;
  }
  const image = new ImageData(deep.columns, deep.rows), pixels = new Uint32Array(image.data.buffer);
  deep.stored.forEach((stored, i) => { pixels[i] = 0xff000000 | table[stored] * 0x010101; });
  return image;
}

function drawBoxes() {
  const {answer} = chosen, svg = $("boxes");
  svg.setAttribute("viewBox", `0 0 ${answer.width} ${answer.height}`);
  svg.replaceChildren();
  for (const tag of document.querySelectorAll(".tag")) tag.remove();
  answer.boxes.forEach((box, i) => {
    if (!isShown(box)) return;
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect"), colour = run.colours[box.finding];
    const shape = {x: box.x1, y: box.y1, width: box.x2 - box.x1, height: box.y2 - box.y1, stroke: colour, "data-box": i};
    for (const [name, value] of Object.entries(shape)) rect.setAttribute(name, value);
    svg.prepend(rect); // the best box is above the others
    const tag = make("span", (single() ? "" : box.finding + " ") + box.score.toFixed(2), {class: "tag"});
    const top = box.y1 / answer.height;
    Object.assign(tag.style, {left: `${100 * box.x1 / answer.width}%`, top: `${100 * top}%`, color: colour});
    tag.classList.toggle("inside", top < 0.04);
    $("stage").append(tag);
  });
}

function showFindings() {
  const {boxes} = chosen.answer, shown = boxes.filter(isShown);
  $("threshold").value = threshold ?? Math.min(...Object.values(run.thresholds));
  $("threshold-said").textContent = threshold === null && !single() ? "as fitted for each" : (+$("threshold").value).toFixed(3);
  $("fitted").disabled = threshold === null;
  $("findings").replaceChildren(...shown.map(box => {
    const entry = make("li"), mark = make("i"), rect = () => $("boxes").querySelector(`[data-box="${boxes.indexOf(box)}"]`);
    mark.style.background = run.colours[box.finding];
    const corners = [box.x1, box.y1, box.x2, box.y2].map(Math.round);
    entry.append(mark, make("span", box.finding), make("b", box.score.toFixed(3)), make("small", `${corners[0]}, ${corners[1]} to ${corners[2]}, ${corners[3]}`));
    entry.addEventListener("pointerenter", () => rect()?.classList.add("bright"));
    entry.addEventListener("pointerleave", () => rect()?.classList.remove("bright"));
    return entry;
  }));
  const hidden = boxes.length - shown.length;
  $("more").textContent = (shown.length ? "" : "No box is above the threshold. ") + (hidden ? `${hidden} with lower scores are not shown.` : "");
}

function showProbabilities() {
  const entries = Object.entries(chosen.answer.probabilities), best = Math.max(...entries.map(([, value]) => value));
  $("chances").hidden = !entries.length;
  $("probabilities").replaceChildren(...entries.map(([name, value]) => {
    const entry = make("li", "", value === best ? {class: "best"} : {}), track = make("i"), bar = make("i");
    bar.style.width = `${100 * value}%`;
    track.append(bar);
    entry.append(make("span", name), make("span", value.toFixed(3)), track);
    return entry;
  }));
}

function showWindow() {
  const {deep} = chosen.answer, {low, step} = deep, range = step * 65535;
  const {level, width} = chosen.window ?? {level: deep.centre, width: deep.width};
  Object.assign($("level"), {min: Math.min(low, deep.centre), max: Math.max(low + range, deep.centre), value: level});
  Object.assign($("width"), {min: range / 1000, max: Math.max(range * 1.5, deep.width), value: width});
  for (const [name, value] of [["level", level], ["width", width]]) $(name + "-said").textContent = value.toPrecision(4) * 1;
  $("as-read").disabled = !chosen.window;
}

function setWindow() {
  chosen.window = {level: +$("level").value, width: +$("width").value};
  drawPicture();
  showWindow();
}

$("files").addEventListener("change", event => {
  add(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragover", "drop", "dragleave"]) {
  addEventListener(name, event => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") add(event.dataTransfer.files);
  });
}
$("threshold").addEventListener("input", event => { threshold = +event.target.value; show(); });
$("fitted").addEventListener("click", () => { threshold = null; show(); });
$("level").addEventListener("input", setWindow);
$("width").addEventListener("input", setWindow);
$("as-read").addEventListener("click", () => { chosen.window = null; show(); });
$("clear").addEventListener("click", () => {
  items.splice(0);
  chosen = null;
  show();
  $("files").focus();
});
$("list").addEventListener("keydown", event => {
  const move = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[event.key], next = items[items.indexOf(chosen) + move];
  if (!next) return;
  event.preventDefault();
  choose(next);
  $("list").querySelector("[aria-current=true]").focus();
});
begin();
