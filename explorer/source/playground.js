// @ts-check
// What the playground does. The worker trains and measures; here is what the reader turns, and what is drawn.

import {
  clearCanvas, cssColour, drawAxes, drawCircles, drawCosts, drawEllipse, drawOnCanvas, drawPixels, toPixels,
  visibleColour,
} from "./draw.js";
import { imageOfStrokes, PEN_WIDTH, SIDE, unpackBytes } from "./model.js";
import {
  asAddress, consistent, DIGITS, fromAddress, LARGEST_BETA, LARGEST_SEED, QUESTIONS, rowOf, settingsAt, turnsOf } from "./settings.js";

const REACH = 8.4;                  // the map goes from -REACH to REACH
const ELLIPSES = 30;
const SHOWN = 4;                    // held-out digits that are shown one by one, besides the reader's own
const TWEEN = 250;                  // milliseconds in which a dot goes to its next place
const SAMPLE_COLUMNS = 4;
const BETA_MARKS = [0, 1, 4, 12, 40];
const SMALLEST_BETA = 0.05;         // on the slider, beside 0
const BETA_RANGE = LARGEST_BETA / SMALLEST_BETA;

/** @typedef {import("./settings.js").Run} Run */
/** @typedef {import("./settings.js").Row} Row */
/** @typedef {import("./training.js").Settings} Settings */

/** @param {string} id */
const byId = id => /** @type {any} */ (document.getElementById(id));
const data = JSON.parse(byId("data").textContent);
const labels = unpackBytes(data.labels), imageCount = unpackBytes(data.images).length / 98;
const counts = [...new Set([...DIGITS.filter(count => count <= imageCount), imageCount])];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// --------------------------------------------------------------------------------------------------------- the worker

const script = new Blob([byId("worker").textContent], { type: "text/javascript" });
const worker = new Worker(URL.createObjectURL(script));
const tell = (task, more = {}) => worker.postMessage({ task, ...more });

// ---------------------------------------------------------------------------------------------------------- the state

let /** @type {Run} */ run;                                             // as the address has it
let runNumber = 0, playing = false, target = Infinity;                  // where the worker will stop
let /** @type {any} */ now = null, /** @type {any} */ before = null;     // the last two reports
let arrived = 0, since = 0, sinceStep = 0;                              // when the last one came, and training began
let /** @type {(Row & { from: string })[]} */ rows = [], ghost = rows;  // of this run, and of the one before
let /** @type {import("./settings.js").Question | null} */ question = null;
let /** @type {number | null} */ guess = null;
let /** @type {number[]} */ places = [];
let /** @type {number[][][]} */ strokes = [], /** @type {Float32Array | null} */ own = null;

let /** @type {Settings | null} */ wanted = null, changes = 0;          // of which the worker has not reported yet

/** The settings that the knobs show. */
const settings = () => wanted ?? (now?.run === runNumber ? now.settings : settingsAt(run.turns, 0));

/** Begin anew, and train until step `steps`. @param {number} steps */
function begin(steps) {
  if (rows.length > 1) ghost = rows;
  [rows, now, before, wanted] = [[], null, null, null];
  runNumber++;
  tell("start", { seed: run.seed, from: run.from, turns: run.turns, run: runNumber, until: steps });
  [playing, target, since, sinceStep] = [steps > 0, steps, performance.now(), 0];
  showControls();
}

/** @param {number} steps */
function trainUntil(steps) {
  [playing, target, since, sinceStep] = [true, steps, performance.now(), now?.step ?? 0];
  tell("run", { until: steps });
  showControls();
}

/** @param {Settings} next */
function change(next) {
  if (question) {
    forgetQuestion();
    if (playing) trainUntil(Infinity);
  }
  wanted = consistent(next);
  tell("change", { settings: wanted, changes: ++changes });
}

function playOrPause() {
  if (!playing) return trainUntil(question && (now?.step ?? 0) < question.steps ? question.steps : Infinity);
  playing = false;
  tell("pause");
  showControls();
}

/** From the same weights: a question by its plan, else with the settings of now. */
function again() {
  if (question) {
    byId("verdict").textContent = "";
    for (const each of byId("answers").children) delete each.dataset.mark;
    run = { ...run, turns: turnsOf(question) };
    return begin(guess === null ? 0 : question.steps);
  }
  run = { ...run, turns: [{ step: 0, settings: settings() }] };
  begin(playing ? Infinity : 0);
}

worker.onmessage = ({ data: report }) => {
  if (report.run !== runNumber) return;  // of a run that has been given up
  [before, now, arrived] = [now?.run === report.run ? now : null, report, performance.now()];
  run = { ...run, turns: report.turns, steps: report.step };
  if (report.changes === changes) wanted = null;
  rows = [...rows.filter(({ step }) => step < report.step), { ...rowOf(report), from: run.from }];
  if (report.step >= target) playing = false;
  if (question && guess !== null && report.step === question.steps && !byId("verdict").textContent) markGuess();
  rememberSoon();
  show();
};

let timer = 0;

/** The address holds what brings the page back to where it is. Browsers let it be written only so often. */
function rememberSoon() {
  timer ||= setTimeout(() => {
    const asked = question && `question=${question.id}&seed=${run.seed}${guess === null ? "" : `&guess=${guess}`}`;
    timer = 0;
    try {
      history.replaceState(null, "", `#${asked ?? asAddress(run)}`);
    } catch {}  // the frame of a notebook has no address of its own
  }, 400);
}

/** What the address asks for: a question, with its answer if it has one, or a run. */
function openAddress() {
  const { asked, guess: answer, ...given } = fromAddress(location.hash.slice(1));
  const found = QUESTIONS.find(({ id }) => id === asked);
  run = given;
  if (found) {
    ask(found);
    if (answer !== null && answer < found.answers.length) guessIt(answer);
    return;
  }
  forgetQuestion();
  begin(run.steps);
}

// ------------------------------------------------------------------------------------------------------ the questions

/** @param {string} text */
const say = text => { byId("live").textContent = text; };

/** @param {import("./settings.js").Question} asked */
function ask(asked) {
  [question, guess] = [asked, null];
  run = { seed: run.seed, from: asked.from, turns: turnsOf(asked), steps: 0 };
  byId("question-text").textContent = asked.asks;
  byId("verdict").textContent = "";
  byId("answers").replaceChildren(...asked.answers.map((answer, i) => button(answer, () => guessIt(i))));
  markPressed();
  begin(0);
}

/** @param {number} i */
function guessIt(i) {
  if (guess !== null) return;
  guess = i;
  for (const [k, each] of [...byId("answers").children].entries()) {
    each.setAttribute("aria-pressed", String(k === i));
    each.disabled = k !== i;
  }
  trainUntil(question.steps);
  say(`Your guess: ${question.answers[i]}. Training for ${question.steps} steps.`);
}

function markGuess() {
  const { right, says } = question.judge(rows, data.averageDigit), answers = byId("answers").children;
  answers[guess].dataset.mark = "wrong";
  answers[right].dataset.mark = "right";
  const text = `${right === guess ? "You were right." : `It was: ${question.answers[right]}.`} ${says}`;
  byId("verdict").textContent = text;
  say(text);
}

function forgetQuestion() {
  if (!question) return;
  [question, guess] = [null, null];
  byId("question-text").textContent = "Your own settings. A button asks the next question.";
  byId("verdict").textContent = "";
  byId("answers").replaceChildren();
  markPressed();
}

function markPressed() {
  [...byId("question-buttons").children].forEach((each, i) =>
    each.setAttribute("aria-pressed", String(QUESTIONS[i] === question)));
}

/** @param {string} text @param {() => void} onclick */
function button(text, onclick) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: text, onclick });
  return made;
}

// ---------------------------------------------------------------------------------------------------------- the knobs

const betaOf = position => (position === 0 ? 0 : SMALLEST_BETA * BETA_RANGE ** ((position - 1) / 99));
const positionOf = beta => (beta === 0 ? 0 : Math.max(1, 1 + 99 * Math.log(beta / SMALLEST_BETA) / Math.log(BETA_RANGE)));
const check = (name, value) => { document.querySelector(`input[name="${name}"][value="${value}"]`)["checked"] = true; };
const chosen = name => document.querySelector(`input[name="${name}"]:checked`)?.getAttribute("value");

/** What each knob, by its id or name, changes in the settings. */
const KNOBS = {
  beta() {
    const position = Number(byId("beta").value), mark = BETA_MARKS.find(mark => Math.round(positionOf(mark)) === position);
    return { beta: mark ?? Number(betaOf(position).toPrecision(3)) };
  },
  // With sigma the whole KL has a meaning again.
  noise: () => ({ noise: byId("noise").checked, price: byId("noise").checked ? "kl" : "mu" }),
  price: () => ({ price: chosen("price") }),
  over: () => ({ mean: chosen("over") === "mean" }),
  pixels: () => ({ pixels: chosen("pixels") }),
  "sigma-x": () => ({ sigmaX: Number(byId("sigma-x").value) }),
  learned: () => ({ sigmaX: byId("learned").checked ? null : Number(byId("sigma-x").value) }),
  "digit-count": () => ({ digits: counts[Number(byId("digit-count").value)] }),
};

function showKnobs() {
  const { beta, noise, price, pixels, sigmaX, mean, digits } = settings();
  if (document.activeElement !== byId("beta")) byId("beta").value = String(Math.round(positionOf(beta)));
  byId("beta-value").textContent = String(beta);
  byId("beta").setAttribute("aria-valuetext", String(beta));
  byId("noise").checked = noise;
  check("price", price);
  document.querySelector('input[name="price"][value="kl"]')["disabled"] = !noise;
  check("over", mean ? "mean" : "sum");
  check("pixels", pixels);
  byId("sigma-x-knob").hidden = pixels !== "gaussian";
  byId("learned").checked = sigmaX === null;
  byId("sigma-x").disabled = sigmaX === null;
  if (document.activeElement !== byId("sigma-x")) byId("sigma-x").value = String(sigmaX ?? now?.sigmaX ?? 1);
  byId("sigma-x-value").textContent = (sigmaX ?? now?.sigmaX ?? 1).toFixed(2);
  const used = Math.min(digits, imageCount), place = counts.indexOf(used);
  byId("digit-count").value = String(place < 0 ? counts.length - 1 : place);
  byId("digit-count-value").textContent = used.toLocaleString("en");
  byId("digit-count").setAttribute("aria-valuetext", String(used));
}

const number = (value, places) => (value ?? NaN).toFixed(places).replace("-", "−").replace("NaN", "–");

/** The formula: what is off is struck through, and the numbers of the last batches stand below. */
function showFormula() {
  const { beta, noise, price, pixels, sigmaX, mean } = settings(), { trained, pixels: cost, code } = now.batches;
  const off = (text, on) => (on ? text : `<s>${text}</s>`), part = (text, value, name = "") =>
    `<span class="${name}"><i>${text}</i><small>${value}</small></span>`;
  const pixel = pixels === "gaussian"
    ? "(x − x̂)² / 2σₓ² + log σₓ + ½ log 2π" : "−log p(x|z)";
  const of = noise ? "μ + σ·ε" : "μ + <s>σ·ε</s>";
  byId("formula").innerHTML = [
    part("loss", number(trained, mean ? 3 : 1)), part("=", ""),
    part(`${mean ? "mean" : "Σ"} ${pixel}`, number(mean && cost !== null ? cost / SIDE ** 2 : cost, mean ? 3 : 1), "pixels"),
    part("+", ""), part(off("β ·", beta > 0), String(beta)),
    part(off(`½ Σ (μ² ${off("+ σ² − 1 − log σ²", price === "kl")})`, beta > 0), number(code, 2), "code"),
    part(`with z = ${of}`, pixels === "gaussian" ? `σₓ = ${number(sigmaX ?? now.sigmaX, 2)}` : ""),
  ].join("");
  const { pixels: held, code: second } = rows[rows.length - 1].held, tenths = value => Math.round(10 * value) / 10;
  byId("cost").innerHTML = `Whatever is trained, a digit costs <b class="pixels">pixels ${number(held, 1)}</b> + ` +
    `<b class="code">${noise ? "KL" : "μ²/2"} ${number(second, 1)}</b> = ${number(tenths(held) + tenths(second), 1)} nats; ` +
    `the average digit, painted for all, ${number(data.averageDigit, 0)}.`;
}

// --------------------------------------------------------------------------------------------------------- the pictures

const dotColours = () => data.colors.map(colour => visibleColour(colour));

/** Codes between the last two reports. @param {string} name @param {number} share */
const between = (name, share) =>
  (before ? now[name].map((v, i) => before[name][i] + share * (v - before[name][i])) : now[name]);

/** @param {number} share  of the way from the report before to the last one */
function drawMap(share) {
  const { context, width } = clearCanvas(byId("map")), plane = { context, width, reach: REACH, boxes: [] };
  const mu = between("mu", share), logvar = between("logvar", share), colours = dotColours(), scale = width / (2 * REACH);
  drawAxes(plane);
  if (settings().noise) {
    for (let i = 0; i < ELLIPSES; i++) {
      const q = { mu: [mu[2 * i], mu[2 * i + 1]], logvar: [logvar[2 * i], logvar[2 * i + 1]] };
      const [x, y] = toPixels(plane, q.mu);
      drawEllipse(context, q, x, y, scale, "20");  // collapsed ones all lie on each other
    }
  }
  for (let i = 0; i < mu.length / 2; i++) {
    const [x, y] = toPixels(plane, [mu[2 * i], mu[2 * i + 1]]), inside = Math.min(x, y, width - x, width - y) >= 0;
    context.fillStyle = colours[labels[i]];
    if (inside) context.fillRect(x - 2, y - 2, 4, 4);
    else drawArrow(context, width, x, y);
  }
  drawCircles(plane);
}

/** At the edge, towards a code that lies outside. */
function drawArrow(context, width, x, y) {
  const angle = Math.atan2(y - width / 2, x - width / 2), edge = v => Math.min(width - 6, Math.max(6, v));
  context.save();
  context.translate(edge(x), edge(y));
  context.rotate(angle);
  context.beginPath();
  context.moveTo(6, 0);
  context.lineTo(-5, 4);
  context.lineTo(-5, -4);
  context.fill();
  context.restore();
}

function showMap() {
  const { sigma, outside } = rows[rows.length - 1];
  byId("map-text").textContent = (settings().noise ? `Purple: q(z|x) of ${ELLIPSES}. Median σ ${number(sigma, 3)}, `
    : "No σ: a code is a point, ") + `${Math.round(100 * outside)} % outside the circles.`;
}

/** Rows of a digit: as it is, as it comes back, what each pixel costs. The first is the reader's. */
function makeDigits() {
  byId("digits").replaceChildren(...Array.from({ length: SHOWN + 1 }, (_, i) => {
    const row = document.createElement("div");
    row.className = "digit";
    for (const name of [i ? "A held-out digit" : "Draw a digit here", "How it comes back", "What each pixel costs"]) {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", name);
      row.append(canvas);
    }
    row.append(document.createElement("p"));
    if (i) return row;
    row.children[0].className = "pad";
    return row;
  }));
}

function showDigits() {
  const code = settings().noise ? "code" : "μ²/2";
  [...byId("digits").children].forEach((row, i) => {
    const [x, picture, costs, text] = row.children, each = now.each[now.withOwn ? i : i - 1];
    if (i) drawOnCanvas(x, each.x);
    else drawStrokes(x);  // as they are, for the next stroke
    drawOnCanvas(picture, each?.picture ?? null);
    if (each) drawCosts(costs, each.costs, each.picture, each.x);
    else drawOnCanvas(costs, null);
    text.innerHTML = each ? `<b class="pixels">pixels ${number(each.pixels, 1)}</b><br><b class="code">${code} ` +
      `${number(each.code, 1)}</b>` : "← draw one here";
  });
  byId("clear").style.visibility = strokes.length ? "visible" : "hidden";  // it keeps its room, so that the pad does not move
}

function drawSamples() {
  const { context, width } = clearCanvas(byId("samples")), size = width / SAMPLE_COLUMNS;
  for (let i = 0; i < SAMPLE_COLUMNS ** 2; i++) {
    const picture = now.samples.subarray(i * SIDE ** 2, (i + 1) * SIDE ** 2);
    drawPixels(context, picture, (i % SAMPLE_COLUMNS) * size, Math.floor(i / SAMPLE_COLUMNS) * size, size);
  }
}

// ----------------------------------------------------------------------------------------------------------- the charts

/** Round numbers from low to high, about so many. */
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(times => times * power >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

/**
 * Axes in a part of a canvas, and what takes numbers to pixels.
 * @param {CanvasRenderingContext2D} context @param {{ left: number, top: number, right: number, bottom: number }} box
 * @param {[number, number]} xs @param {[number, number]} ys @param {{ x?: string | null, labels?: [number, string][] | null }} names
 */
function axes(context, { left, top, right, bottom }, xs, ys, { x: xName = "", labels = null }) {
  const toX = x => left + (x - xs[0]) / (xs[1] - xs[0]) * (right - left);
  const toY = y => bottom - (y - ys[0]) / (ys[1] - ys[0]) * (bottom - top);
  context.save();
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = cssColour("--quiet");
  context.strokeStyle = cssColour("--line");
  context.lineWidth = 1;
  context.strokeRect(left, top, right - left, bottom - top);
  context.textAlign = "right";
  for (const y of ticks(...ys, 3)) context.fillText(String(y), left - 4, Math.max(top + 5, toY(y)));
  context.textAlign = "center";
  if (xName !== null) {
    for (const [x, text] of labels ?? ticks(...xs, 4).map(x => /** @type {[number, string]} */ ([x, x.toLocaleString("en")]))) {
      if (toX(x) < right - 30 || !xName) context.fillText(text, toX(x), bottom + 9);
    }
    context.textAlign = "right";
    context.fillText(xName, right, bottom + 9);
  }
  context.beginPath();
  context.rect(left, top, right - left, bottom - top);
  context.clip();
  const line = (points, colour, width = 2, dash = []) => {
    context.setLineDash(dash);
    context.strokeStyle = cssColour(colour);
    context.lineWidth = width;
    context.beginPath();
    points.forEach(([x, y], i) => (i ? context.lineTo(toX(x), toY(y)) : context.moveTo(toX(x), toY(y))));
    context.stroke();
    context.setLineDash([]);
  };
  const point = ([x, y], colour) => {
    context.fillStyle = cssColour(colour);
    context.beginPath();
    context.arc(toX(x), toY(y), 4, 0, 2 * Math.PI);
    context.fill();
  };
  return { line, point, done: () => context.restore() };
}

/** From the least to the largest of some numbers, at least so far apart, and a little room. */
function span(values, least, from = -Infinity) {
  const low = Math.min(...values), high = Math.max(...values), room = Math.max(least - (high - low), 0.1 * (high - low)) / 2;
  return /** @type {[number, number]} */ ([Math.max(from, low - room), high + room]);
}

/** New weights begin far above everything that follows. @param {{ step: number, from: string }} row */
const settled = ({ step, from }) => from === "trained" || step >= 20;

function drawCourse() {
  const { context, width } = clearCanvas(byId("course")), height = byId("course").clientHeight;
  const end = Math.max(100, rows[rows.length - 1].step), shown = [...rows, ...ghost.filter(({ step }) => step <= end)];
  const xs = /** @type {[number, number]} */ ([0, end]), middle = Math.round(0.58 * height);
  const later = shown.filter(settled).concat(rows.slice(-1));
  const panels = [
    { top: 2, bottom: middle - 8, name: "pixels", xName: null, least: 30 },
    { top: middle + 1, bottom: height - 18, name: "code", xName: "steps", least: 1 },
  ];
  for (const { top, bottom, name, xName, least } of panels) {
    const colour = `--${name}`, values = later.flatMap(row => [row.held[name], row.training[name]]);
    const ys = span(name === "pixels" ? [...values, data.averageDigit] : [0, ...values], least, 0);
    const chart = axes(context, { left: 40, top, right: width - 4, bottom }, xs, ys, { x: xName });
    if (name === "pixels") chart.line([[0, data.averageDigit], [end, data.averageDigit]], "--ink", 1, [6, 4]);
    for (const { step } of run.turns) if (step > 0) chart.line([[step, ys[0]], [step, ys[1]]], "--quiet", 1);
    chart.line(ghost.map(row => [row.step, row.held[name]]), "--line", 3);
    chart.line(rows.map(row => [row.step, row.training[name]]), colour, 1.5, [2, 3]);
    chart.line(rows.map(row => [row.step, row.held[name]]), colour, 2.5);
    chart.done();
  }
}

function drawRate() {
  const { context, width } = clearCanvas(byId("rate")), height = byId("rate").clientHeight;
  const point = row => [row.held.code, row.held.pixels], points = list => list.filter(settled).map(point);
  const all = [...points(rows), ...points(ghost), point(rows[rows.length - 1])];
  const xs = span([0, ...all.map(([x]) => x), 8], 1, 0), ys = span([...all.map(([, y]) => y), data.averageDigit], 40);
  const chart = axes(context, { left: 40, top: 2, right: width - 4, bottom: height - 18 }, xs, ys, { x: "code" });
  for (const sum of ticks(ys[0], ys[1] + xs[1], 6)) chart.line([[0, sum], [sum - ys[0], ys[0]]], "--line", 1);
  chart.line(points(ghost), "--line", 3);
  chart.line(points(rows), "--quiet", 1.5);
  chart.point(all[all.length - 1], "--ink");
  chart.done();
}

function drawTug() {
  const { context, width } = clearCanvas(byId("tug")), height = byId("tug").clientHeight, { beta } = settings();
  const weight = beta * (settings().mean ? SIDE ** 2 : 1);  // against a sum over the pixels
  const curves = { "--pixels": now.tug.map(each => each.pixels), "--code": now.tug.map(each => weight * each.code) };
  const all = { ...curves, "--ink": now.tug.map((_, i) => curves["--pixels"][i] + curves["--code"][i]) };
  const scales = now.tug.map(each => Math.log2(each.times)), ends = /** @type {[number, number]} */ ([scales[0], scales[scales.length - 1]]);
  const labels = /** @type {[number, string][]} */ ([[-4, "σ/16"], [-2, "σ/4"], [0, "σ"], [2, "4σ"], [4, "16σ"]]);
  const top = 20 * Math.max(1, Math.min(20, weight));
  const chart = axes(context, { left: 40, top: 2, right: width - 14, bottom: height - 18 }, ends, [0, top], { labels });
  chart.line([[0, 0], [0, top]], "--quiet", 1);
  for (const [colour, values] of Object.entries(all)) {
    const least = Math.min(...values);
    chart.line(values.map((value, i) => [scales[i], value - least]), colour, colour === "--ink" ? 3 : 2);
  }
  chart.done();
}

// ------------------------------------------------------------------------------------------------------------ the page

function showControls() {
  byId("play").textContent = playing ? "Pause" : "Train";
  const waits = question && guess === null;
  byId("play").disabled = waits;
  byId("one-step").disabled = waits || playing;
  document.querySelector(`input[name="from"][value="${run.from}"]`)["checked"] = true;
  if (document.activeElement !== byId("seed")) byId("seed").value = String(run.seed);
}

function showSpeed() {
  const rate = 1000 * (now.step - sinceStep) / (performance.now() - since);
  const speed = playing && now.step > sinceStep ? `, ${Math.round(rate)} a second` : "";
  byId("step-text").textContent = `step ${now.step.toLocaleString("en")}${speed}`;
}

let frame = 0;
function show() {
  showControls();
  showKnobs();
  showFormula();
  showMap();
  showDigits();
  showSpeed();
  drawSamples();
  drawCourse();
  drawRate();
  drawTug();
  cancelAnimationFrame(frame);
  const moves = before && before.step !== now.step && !calm.matches;
  const step = () => {
    const share = moves ? Math.min(1, (performance.now() - arrived) / TWEEN) : 1;
    drawMap(share);
    if (share < 1) frame = requestAnimationFrame(step);
  };
  step();
}

function showOthers() {
  places = Array.from({ length: SHOWN }, (_, i) => Math.floor((i + Math.random()) * labels.length / SHOWN));
  tell("show", { places, own });
}

/** Which colour is which digit's. */
function showKinds() {
  byId("kinds").replaceChildren(...dotColours().map((colour, digit) => {
    const item = document.createElement("span"), key = document.createElement("i");
    key.style.background = colour;
    item.append(key, String(digit));
    return item;
  }));
}

function makeKnobs() {
  byId("question-buttons").replaceChildren(...QUESTIONS.map(each => button(each.name, () => ask(each))));
  markPressed();
  for (const mark of BETA_MARKS) {
    const made = button(String(mark), () => change({ ...settings(), beta: mark }));
    made.style.left = `${positionOf(mark)}%`;
    made.setAttribute("aria-label", `β = ${mark}`);
    byId("beta-marks").append(made);
  }
  byId("held-count").textContent = String(labels.length);
  showKinds();
  byId("digit-count").max = String(counts.length - 1);
  for (const input of document.querySelectorAll("#knobs input")) {
    input.addEventListener("input", () => change({ ...settings(), ...KNOBS[input.id || input.getAttribute("name")]() }));
  }
  byId("play").onclick = playOrPause;
  byId("one-step").onclick = () => tell("oneStep");
  byId("again").onclick = again;
  byId("other-digits").onclick = showOthers;
  byId("clear").onclick = () => { strokes = []; seeStrokes(); };
  for (const input of document.querySelectorAll('input[name="from"]')) {
    input.addEventListener("input", () => {
      run = { ...run, from: chosen("from") === "new" ? "new" : "trained" };
      forgetQuestion();
      again();
    });
  }
  byId("seed").onchange = () => {
    run = { ...run, seed: Math.min(LARGEST_SEED, Math.max(1, Math.floor(byId("seed").valueAsNumber) || 1)) };
    byId("seed").value = String(run.seed);
    again();
  };
}

function seeStrokes() {
  own = strokes.length ? imageOfStrokes(strokes) : null;
  tell("show", { places, own });
}

/** Strokes on the first canvas of the digits are the reader's own one. */
function makePad() {
  const pad = byId("digits").querySelector(".pad");
  const at = event => [event.offsetX / pad.clientWidth, event.offsetY / pad.clientHeight];
  pad.onpointerdown = event => {
    if (event.button !== 0 || !event.isPrimary) return;
    pad.setPointerCapture(event.pointerId);
    strokes.push([at(event)]);
    seeStrokes();
  };
  pad.onpointermove = event => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    strokes[strokes.length - 1].push(at(event));
    drawStrokes(pad);
  };
  pad.onpointerup = pad.onpointercancel = event => { if (event.isPrimary) seeStrokes(); };
}

function drawStrokes(pad) {
  const { context, width } = clearCanvas(pad);
  context.strokeStyle = cssColour("--ink");
  context.lineWidth = width * PEN_WIDTH / SIDE;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y], i) => (i ? context.lineTo(x * width, y * width) : context.moveTo(x * width, y * width)));
    context.stroke();
  }
}

makeDigits();
makeKnobs();
makePad();
places = [...Array(labels.length).keys()].filter((_, i) => i === labels.indexOf(labels[i])).slice(0, SHOWN);
document.documentElement.toggleAttribute("data-framed", window !== window.parent);
tell("load", { images: data.images, held: data.held, weights: data.weights });
tell("show", { places, own });
openAddress();
addEventListener("hashchange", openAddress);
addEventListener("resize", () => { if (now) show(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showKinds(); if (now) show(); });
