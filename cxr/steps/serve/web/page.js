"use strict";
// Sends each file to this machine's own service, one after the other, and shows what comes back.

/**
 * @typedef {{finding: string, score: number, above_threshold: boolean,
 *            x1: number, y1: number, x2: number, y2: number}} Box
 * @typedef {{finding: string, score: number, area: number, share: number,
 *            outlines: number[][][]}} Mask
 * @typedef {{level: number, width: number}} GrayWindow
 * @typedef {{file: File, state: "waiting" | "busy" | "done" | "failed", answer?: object,
 *            error?: string, window: ?GrayWindow}} Item
 */

const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MIB = 2 ** 20;

/** @type {Item[]} */
const items = [];
let run = null; // what the service says of itself; run.result is boxes, mask or classes
let chosen = null; // the item that is shown
let threshold = null; // null: those that were fitted, one for each finding
let working = false; // whether files are being sent
let studies = {}; // {StudyInstanceUID: {images, probabilities}} of the items that name one
let studyProblem = ""; // why there are none

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function makeShape(tag, attributes) {
  const shape = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
  return shape;
}

async function begin() {
  // The cookie holds the token from now on; the address need not be seen or kept.
  if (location.search) history.replaceState(null, "", location.pathname);
  const reply = await fetch("run");
  run = await reply.json();
  document.body.dataset.result = run.result;
  document.title = run.task;
  $("title").textContent = run.task;
  $("run").textContent = "run " + run.run;
  $("notes").replaceChildren(...run.notes.map(note => make("li", note)));
  $("notes").hidden = !run.notes.length;
}

// ---------------------------------------------------------------- sending

function add(files) {
  for (const file of files) items.push({file, state: "waiting", window: null});
  chosen ??= items[0] ?? null;
  show();
  work();
}

async function work() {
  if (working) return;
  working = true;
  let item = nextWaiting();
  while (item) {
    item.state = "busy";
    show();
    try {
      item.answer = await predict(item.file);
      item.state = "done";
      await averageStudies();
    } catch (error) {
      item.error = error.message;
      item.state = "failed";
    }
    show();
    item = nextWaiting();
  }
  working = false;
}

function nextWaiting() {
  return items.find(item => item.state === "waiting");
}

async function predict(file) {
  if (file.size > run.most_bytes) {
    const most = Math.floor(run.most_bytes / MIB);
    throw new Error(`This file has more than ${most} MB, and an X-ray has less.`);
  }
  const answer = await send("predict", file, "application/octet-stream");
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

/** Asks for the classes of the studies whose images are here, where the run knows studies. */
async function averageStudies() {
  const images = [];
  for (const {answer} of items) {
    if (answer?.study) images.push({study: answer.study, probabilities: answer.probabilities});
  }
  studies = {};
  if (!images.length) return;
  const reply = await send("studies", JSON.stringify(images), "application/json");
  studyProblem = reply.error ?? "";
  for (const study of reply.studies ?? []) studies[study.study] = study;
}

async function send(path, body, type) {
  let reply;
  try {
    reply = await fetch(path, {method: "POST", body, headers: {"Content-Type": type}});
  } catch {
    throw new Error("serve.py does not answer: start it again.");
  }
  try {
    return await reply.json();
  } catch {
    return {error: `serve.py answers with ${reply.status}.`};
  }
}

// ---------------------------------------------------------------- words

function isShown(box) {
  return threshold === null ? box.above_threshold : box.score > threshold;
}

function hasOneThreshold() {
  return Object.keys(run.thresholds).length === 1;
}

function summary(item) {
  if (item.state === "waiting") return "waits";
  if (item.state === "busy") return "is predicted …";
  if (item.state === "failed") return "not read";
  if (run.result === "mask") return maskSummary(item.answer.mask);
  if (run.result === "classes") return classSummary(item.answer.probabilities);
  return boxSummary(item.answer.boxes);
}

function boxSummary(boxes) {
  const count = boxes.filter(isShown).length;
  if (!count) return "no box";
  return `${count} box${count > 1 ? "es" : ""}, best ${boxes[0].score.toFixed(2)}`;
}

function maskSummary(mask) {
  const score = mask.score.toFixed(2);
  return mask.area ? `${mask.finding}, score ${score}` : `no mask, score ${score}`;
}

function classSummary(probabilities) {
  const [[name, value]] = byProbability(probabilities);
  return `${name} ${value.toFixed(2)}`;
}

/** [class, probability] pairs, the most probable first. */
function byProbability(probabilities) {
  return Object.entries(probabilities).sort(([, one], [, other]) => other - one);
}

// ---------------------------------------------------------------- showing

function show() {
  document.body.classList.toggle("busy", items.length > 0);
  $("desk").hidden = !items.length;
  showList();
  if (chosen) showChosen();
}

function showList() {
  const buttons = [...$("list").querySelectorAll("button")];
  const focused = buttons.indexOf(document.activeElement);
  $("list").replaceChildren(...items.map(listEntry));
  if (focused >= 0) $("list").querySelectorAll("button")[focused]?.focus();
}

function listEntry(item) {
  const attributes = {
    type: "button",
    "aria-current": item === chosen,
    class: item.state,
    title: item.file.name,
  };
  const button = make("button", "", attributes);
  const words = make("span");
  words.append(make("b", item.file.name), make("small", summary(item)));
  const picture = item.answer ? make("img", "", {src: item.answer.picture, alt: ""}) : make("i");
  button.append(picture, words);
  button.addEventListener("click", () => choose(item));
  const entry = make("li");
  entry.append(button);
  return entry;
}

function choose(item) {
  chosen = item;
  show();
}

function showChosen() {
  const {answer} = chosen;
  const state = answer ? "" : "This X-ray " + summary(chosen);
  $("name").textContent = chosen.file.name;
  $("message").textContent = chosen.error ?? state;
  $("message").classList.toggle("waiting", !chosen.error);
  $("result").hidden = !answer;
  $("other").hidden = !answer?.not_frontal_chest;
  if (!answer) return;
  $("other").textContent = `No frontal chest X-ray by its header: ${answer.not_frontal_chest}. `
    + "The networks have learned nothing else.";
  drawPicture();
  drawMarks();
  showMarks();
  showProbabilities("probabilities", answer.probabilities);
  $("chances").hidden = !Object.keys(answer.probabilities).length;
  showStudy();
  $("facts").textContent = `${answer.width} × ${answer.height} pixels`;
  $("window").hidden = !answer.deep;
  if (answer.deep) showWindow();
}

function drawPicture() {
  const {answer} = chosen;
  const canvas = $("picture");
  const brush = canvas.getContext("2d");
  const isWindowed = answer.deep && chosen.window;
  canvas.width = isWindowed ? answer.deep.columns : answer.image.naturalWidth;
  canvas.height = isWindowed ? answer.deep.rows : answer.image.naturalHeight;
  const isSmall = canvas.width < 640 && canvas.height < 640;
  canvas.style.width = isSmall ? "640px" : "";
  canvas.setAttribute("aria-label", `X-ray ${chosen.file.name}, ${summary(chosen)}`);
  if (isWindowed) brush.putImageData(applyWindow(answer.deep, chosen.window), 0, 0);
  else brush.drawImage(answer.image, 0, 0);
}

// DICOM PS3.3 C.11.2.1.3.2 (LINEAR_EXACT) through a table of all 65,536 stored values.
function applyWindow(deep, {level, width}) {
  const table = new Uint8ClampedArray(2 ** 16);
  for (let stored = 0; stored < table.length; stored++) {
    const gray = 255 * ((deep.low + deep.step * stored - level) / width + 0.5);
    table[stored] = deep.inverse ? 255 - Math.min(255, Math.max(0, gray)) : gray;
  }
  const image = new ImageData(deep.columns, deep.rows);
  const pixels = new Uint32Array(image.data.buffer);
  deep.stored.forEach((stored, i) => {
    pixels[i] = 0xff000000 | table[stored] * 0x010101;
  });
  return image;
}

function drawMarks() {
  const {answer} = chosen;
  $("boxes").setAttribute("viewBox", `0 0 ${answer.width} ${answer.height}`);
  $("boxes").replaceChildren();
  for (const tag of document.querySelectorAll(".tag")) tag.remove();
  answer.boxes.forEach((box, number) => {
    if (isShown(box)) drawBox(box, number);
  });
  if (answer.mask) $("boxes").append(maskShape(answer.mask));
}

function drawBox(box, number) {
  const {answer} = chosen;
  const colour = run.colours[box.finding];
  const rect = makeShape("rect", {
    x: box.x1,
    y: box.y1,
    width: box.x2 - box.x1,
    height: box.y2 - box.y1,
    stroke: colour,
    "data-box": number,
  });
  $("boxes").prepend(rect); // the best box is above the others
  const finding = hasOneThreshold() ? "" : box.finding + " ";
  const tag = make("span", finding + box.score.toFixed(2), {class: "tag"});
  const left = box.x1 / answer.width;
  const top = box.y1 / answer.height;
  tag.style.left = `${100 * left}%`;
  tag.style.top = `${100 * top}%`;
  tag.style.color = colour;
  tag.classList.toggle("inside", top < 0.04);
  $("stage").append(tag);
}

function maskShape(mask) {
  const loops = mask.outlines.map(outlineLoop);
  const colour = run.colours[mask.finding];
  return makeShape("path", {d: loops.join(""), stroke: colour, fill: colour});
}

/** A closed line through points [x, y], as an SVG path has it. */
function outlineLoop(points) {
  return "M" + points.map(point => point.join(" ")).join("L") + "Z";
}

function showMarks() {
  if (run.result === "mask") showMask();
  if (run.result === "boxes") showBoxes();
}

function showMask() {
  const {mask} = chosen.answer;
  const words = mask.area ? `${(100 * mask.share).toFixed(1)} % of the picture` : "";
  const entry = markEntry(mask.finding, mask.score, words);
  $("findings").replaceChildren(entry);
  $("more").textContent = mask.area ? "" : "No mask: the score or the area is too small.";
}

function showBoxes() {
  const {boxes} = chosen.answer;
  const shown = boxes.filter(isShown);
  const lowest = Math.min(...Object.values(run.thresholds));
  $("threshold").value = threshold ?? lowest;
  const isFitted = threshold === null;
  const value = (+$("threshold").value).toFixed(3);
  $("threshold-said").textContent = isFitted && !hasOneThreshold() ? "as fitted for each" : value;
  $("fitted").disabled = isFitted;
  $("findings").replaceChildren(...shown.map(box => boxEntry(box, boxes.indexOf(box))));

  const hidden = boxes.length - shown.length;
  const none = shown.length ? "" : "No box is above the threshold. ";
  const rest = hidden ? `${hidden} with lower scores are not shown.` : "";
  $("more").textContent = none + rest;
}

function boxEntry(box, number) {
  const [x1, y1, x2, y2] = [box.x1, box.y1, box.x2, box.y2].map(Math.round);
  const entry = markEntry(box.finding, box.score, `${x1}, ${y1} to ${x2}, ${y2}`);
  const rect = () => $("boxes").querySelector(`[data-box="${number}"]`);
  entry.addEventListener("pointerenter", () => rect()?.classList.add("bright"));
  entry.addEventListener("pointerleave", () => rect()?.classList.remove("bright"));
  return entry;
}

function markEntry(finding, score, words) {
  const entry = make("li");
  const mark = make("i");
  mark.style.background = run.colours[finding];
  entry.append(mark, make("span", finding), make("b", score.toFixed(3)), make("small", words));
  return entry;
}

/** The mean over the images of the study that are here, as step 05 judges it. */
function showStudy() {
  const {study: uid} = chosen.answer;
  const study = studies[uid];
  $("study").hidden = !uid;
  const words = study ? `Study of ${study.images} image${study.images > 1 ? "s" : ""}` : studyProblem;
  $("study-said").textContent = words;
  showProbabilities("study-probabilities", study?.probabilities ?? {});
}

function showProbabilities(list, probabilities) {
  const entries = Object.entries(probabilities);
  const best = Math.max(...entries.map(([, value]) => value));
  $(list).replaceChildren(...entries.map(([name, value]) => {
    const entry = make("li", "", value === best ? {class: "best"} : {});
    const track = make("i");
    const bar = make("i");
    bar.style.width = `${100 * value}%`;
    track.append(bar);
    entry.append(make("span", name), make("span", value.toFixed(3)), track);
    return entry;
  }));
}

// ---------------------------------------------------------------- window of deep pictures

function showWindow() {
  const {deep} = chosen.answer;
  const range = deep.step * 65535;
  const {level, width} = chosen.window ?? {level: deep.centre, width: deep.width};
  const high = deep.low + range;
  setSlider("level", Math.min(deep.low, deep.centre), Math.max(high, deep.centre), level);
  setSlider("width", range / 1000, Math.max(range * 1.5, deep.width), width);
  $("as-read").disabled = !chosen.window;
}

function setSlider(name, min, max, value) {
  Object.assign($(name), {min, max, value});
  $(name + "-said").textContent = Number(value.toPrecision(4));
}

function setWindow() {
  chosen.window = {level: +$("level").value, width: +$("width").value};
  drawPicture();
  showWindow();
}

// ---------------------------------------------------------------- what a person does

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
$("threshold").addEventListener("input", event => {
  threshold = +event.target.value;
  show();
});
$("fitted").addEventListener("click", () => {
  threshold = null;
  show();
  $("threshold").focus(); // the button is disabled now, and would take the focus with it
});
$("level").addEventListener("input", setWindow);
$("width").addEventListener("input", setWindow);
$("as-read").addEventListener("click", () => {
  chosen.window = null;
  show();
  $("level").focus();
});
$("clear").addEventListener("click", () => {
  items.splice(0);
  studies = {};
  chosen = null;
  show();
  $("files").focus();
});
$("list").addEventListener("keydown", event => {
  const steps = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1};
  const next = items[items.indexOf(chosen) + steps[event.key]];
  if (!next) return;
  event.preventDefault();
  choose(next);
  $("list").querySelector("[aria-current=true]").focus();
});
begin();
