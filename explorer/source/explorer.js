// @ts-check
// The explorer: what the page shows and how it answers a hand. Its mathematics is in model.js, its drawing in draw.js.

import {
  PEN_WIDTH, SIDE, cheapestZ, createGrid, encode, gridStep, imageOfStrokes, lossAt, lossOver, mapOfLoss, pictureOf,
  refineGrid, searchBestCode, sigmaOf, sumOf, unpackBytes, unpackLayer, unpackNumbers, valueBetween, withoutSparePoints,
} from "./model.js";
import {
  RADIUS_95, clearCanvas, contextOf, cssColour, drawAxes, drawCircles, drawCosts, drawCross, drawDots, drawEllipse,
  drawLine, drawNumerals, drawOnCanvas, drawPixels, drawPoint, drawPosterior, fromPixels, rgbOf, toPixels,
  toVisiblePixels, visibleColour,
} from "./draw.js";

const PEN_INSET = PEN_WIDTH / SIDE / 2;  // as near to the pad's edge as the middle of the pen can come
const STRIP_PICTURES = 11;          // pictures in the strip of a walk
const CURVE_PLACES = 61;            // places of a walk whose loss is computed
const DIGITS_ACROSS = 17;           // decoded digits along the plane's side
const COST_BANDS = [5, 15, 30, 60, 100, 150, 200];  // nats above the cheapest code at which its colour changes
const WALK_TO_BETTER = 1.2;         // seconds
const WORTH_NAMING = 1;             // nats that a better code must save to be called one
const SLICE = 24;                   // milliseconds of each frame for long computations,
const SLICE_WHILE_DRAWING = 6;      // and where they would hold up the pen
const FIRST_KIND = 3;               // of digit, on the pad when the page opens
const SHORTEST_WALK = 0.04;         // between two places of the plane; a double click makes no walk
const SCRIBBLE = 97;                // dearer than so many % of the test digits: hardly a digit
const ODD_DIGIT = 90;               // and dearer than so many: an odd one, or none
const CHEAP_8 = 110;                // nats, in what the page gives the reader to try,
const DEAR_DIGIT = 300;             // nats, there too,
const DEARER_ON_THE_WAY = 10;       // nats above both ends of a walk,
const GUESSES = 3;                  // and right guesses, one after the other
const find = selector => /** @type {any} */ (document.querySelector(selector));
const $ = id => /** @type {any} */ (document.getElementById(id));

/** @typedef {import("./model.js").Numbers} Numbers */
/** @typedef {import("./model.js").Code} Code */
/** @typedef {import("./model.js").Posterior} Posterior */
/** @typedef {import("./model.js").Stroke} Stroke */

// ----------------------------------------------------------------------------------- what explorer.py has written here

/**
 * @typedef {object} Data
 * @property {import("./model.js").Layer[]} encoder
 * @property {import("./model.js").Layer[]} decoder
 * @property {Float32Array} codes  the means of the test digits, two numbers each
 * @property {Uint8Array} labels  of the codes
 * @property {number[][]} numerals  [digit, z1, z2]: where each kind of digit lies
 * @property {string[]} colors  of the digits from 0 to 9, as #rrggbb
 * @property {Uint8Array} images  of some test digits, 784 numbers from 0 to 255 each
 * @property {Uint8Array} imageLabels
 * @property {number} averageLoss  of the test digits, in nats
 * @property {number[]} lossQuantiles  of the test digits: 0 %, 1 %, ... 100 %
 * @property {number} neighbourCount  codes around a code that tell among which digits it lies
 * @property {number} shareAmongOwnKind  of the codes, from 0 to 1
 * @property {{ epoch: number, validElbo: number, codes: Float32Array, numerals: number[][] }[]} snapshots
 */

/** @type {Data} */
let data;  // unpacked after the first paint, and until then undefined
/** @type {import("./model.js").Grid} */
let grid;

/** @returns {Data} */
function readData() {
  const packed = JSON.parse($("data").textContent);
  return {
    ...packed,
    encoder: packed.encoder.map(unpackLayer), decoder: packed.decoder.map(unpackLayer),
    codes: unpackNumbers(packed.codes), labels: unpackBytes(packed.labels),
    images: unpackBytes(packed.images), imageLabels: unpackBytes(packed.imageLabels),
    snapshots: packed.snapshots.map(snapshot => ({ ...snapshot, codes: unpackNumbers(snapshot.codes) })),
  };
}

/** The % of the test digits, from 0 to 100, that have a smaller loss. */
const dearerThan = loss => Math.max(0, data.lossQuantiles.filter(quantile => quantile < loss).length - 1);

/** The commonest digit among the test codes nearest to z, how many of them it has, and whether these are most. */
function commonestNear(z) {
  const { codes, labels, neighbourCount } = data, best = [];  // [squared distance, label], nearest first
  for (let i = 0; i < labels.length; i++) {
    const distance = (codes[2 * i] - z[0]) ** 2 + (codes[2 * i + 1] - z[1]) ** 2;
    if (best.length === neighbourCount && distance >= best[neighbourCount - 1][0]) continue;
    let place = best.length;
    while (place > 0 && best[place - 1][0] > distance) place--;
    best.splice(place, 0, [distance, labels[i]]);
    if (best.length > neighbourCount) best.pop();
  }
  const counts = new Map();
  for (const [, label] of best) counts.set(label, (counts.get(label) ?? 0) + 1);
  const [digit, count] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
  return { digit, count, of: best.length, most: 2 * count > best.length };
}

// --------------------------------------------------------------------------------------------------------------- state

const origin = [0, 0];
const state = {
  z: origin,             // what is decoded: keptZ, or the place under the mouse
  keptZ: origin,         // where a click, a finger, a key or a button has put z
  background: "dots",    // of the plane; or "digits", "loss" or "learning"
  snapshot: 0,           // number of the one that is shown while the background is "learning"
  /** @type {{ A?: Code, B?: Code } | null} */
  walk: null,            // {} while the reader chooses A, { A } while B, then { A, B }
  /** @type {{ name: string } | null} */
  playing: null,         // the slider that moves by itself now, in SLIDERS
  /** @type {Stroke[]} */
  strokes: [],
  /** @type {number | null} */
  testDigit: null,       // number of the test digit that the pad shows instead of strokes
  /** @type {[Stroke[], number | null][]} */
  undoStack: [],         // strokes and testDigit before each change,
  /** @type {[Stroke[], number | null][]} */
  redoStack: [],         // and before each undo
  /** @type {number | null} */
  drawingPointer: null,  // the mouse or the finger that draws; a second finger does not disturb it
  pointerOutside: false, // whether that pointer is outside the pad
  keyPen: [0.5, 0.5], keyPenDown: false, keyPenShown: false,  // the pen that the keyboard moves
  padChanged: false,     // since the next three were computed
  /** @type {Float32Array | null} */
  x: null,               // the pixels of what the pad shows
  /** @type {Posterior | null} */
  posterior: null,       // the encoder's q(z|x)
  /** @type {Posterior | null} */
  q: null,               // the q(z|x) whose loss is shown: the encoder's, or one on the way to a better one
  /** @type {import("./model.js").BestCode | null} */
  better: null,          // the best q(z|x) that a search has found, with its loss and the nats that the encoder missed
  /** @type {number | null} */
  searching: null,       // how much of a search is done, from 0 to 1
  looksAt: "q",          // whether the loss that is shown is that over q, or that at z ("z")
  asking: false,         // whether the page holds the code back until the reader has guessed where it lies
  guesses: { right: 0, all: 0, running: 0 },  // the right ones, all, and the last right ones that no wrong one divides
  /** @type {{ [challenge: string]: string }} */
  done: {},              // what the reader has tried and the page has seen: the text in the list, by its id there
};
let reach = 3.4;         // the plane is drawn from -reach to reach
let leastInk = 0;        // of the page's test digits, in pixels

// ------------------------------------------------------------------------------------------------------------- drawing

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const withinPlane = z => z.map(v => Math.min(reach, Math.max(-reach, v)));
const digitColours = () => data.colors.map(hex => visibleColour(hex));

let dots = null;  // the layer of dots, drawn once for each size, colour scheme and snapshot

function dotsLayer(width) {
  const ratio = devicePixelRatio || 1, learning = state.background === "learning";
  const key = `${width} ${ratio} ${cssColour("--ink")} ${learning && state.snapshot}`;
  if (dots?.key !== key) {
    const layer = document.createElement("canvas"), { codes } = learning ? data.snapshots[state.snapshot] : data;
    layer.width = layer.height = Math.round(width * ratio);
    const context = contextOf(layer), size = Math.max(1.6, width / 230) * (learning ? 1.6 : 1);
    context.scale(ratio, ratio);
    drawDots(context, codes, data.labels, digitColours(), width, z => toPixels({ width, reach }, z), size);
    dots = { key, layer };
  }
  return dots.layer;
}

let digits = null;  // the layer of decoded digits, to which each frame adds a row until all are there

function digitsLayer() {
  const width = DIGITS_ACROSS * SIDE;
  const ink = cssColour("--ink");
  if (digits?.ink !== ink) {
    const layer = document.createElement("canvas");
    layer.width = layer.height = width;
    digits = { ink, layer, rowsDone: 0 };
  }
  const context = contextOf(digits.layer), top = digits.rowsDone * SIDE;
  if (digits.rowsDone < DIGITS_ACROSS) {
    for (let left = 0; left < width; left += SIDE) {
      const z = fromPixels({ width, reach }, [left + SIDE / 2, top + SIDE / 2]);
      drawPixels(context, pictureOf(data, z), left, top, SIDE);
    }
    digits.rowsDone++;
    redraw();
  }
  return digits.layer;
}

/** The share of paper in the colour of a band: some in the first, for marks to stand out, and all in the last. */
const paperInBand = band => 0.25 + 0.75 * band / COST_BANDS.length;

/** The colours of the map of the loss, from the cheapest places to the paper. */
function bandColours() {
  const cheap = rgbOf(cssColour("--cheap")), paper = rgbOf(cssColour("--paper"));
  return [...COST_BANDS, Infinity].map((_, band) =>
    cheap.map((c, j) => Math.round(c + (paper[j] - c) * paperInBand(band))));
}

let lossMap = null;  // the map and its layer, drawn anew for another image, a finer grid or another colour scheme

function lossLayer() {
  const ink = cssColour("--ink");
  if (lossMap?.x !== state.x || lossMap.step !== gridStep(grid) || lossMap.ink !== ink) {
    const map = mapOfLoss(grid, state.x), layer = document.createElement("canvas"), side = 256;
    const cheapest = cheapestZ(data, state.x, [map.cheapestZ, state.posterior.mu]);
    layer.width = layer.height = side;
    const pixels = new ImageData(side, side), colours = bandColours();
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const above = valueBetween(map, (column + 0.5) / side, (row + 0.5) / side) - cheapest.value;
        const band = COST_BANDS.findIndex(limit => above < limit);
        pixels.data.set([...colours.at(band), 255], 4 * (row * side + column));
      }
    }
    contextOf(layer).putImageData(pixels, 0, 0);
    lossMap = { step: map.step, cheapest, x: state.x, ink, layer };
  }
  return lossMap.layer;
}

function drawWalk(plane) {
  const { A, B } = state.walk, { context } = plane;
  if (B) {
    drawLine(context, 2, () => {
      for (const [x, y] of [A, B].map(z => toPixels(plane, z))) context.lineTo(x, y);
    });
    drawPoint(plane, B, "B");
  }
  if (A) drawPoint(plane, A, "A");
}

function drawBackground({ context, width }) {
  if (state.background === "digits") {
    context.globalAlpha = 0.5;
    context.imageSmoothingEnabled = true;
    context.drawImage(digitsLayer(), 0, 0, width, width);
    context.globalAlpha = 1;
  } else if (state.background !== "loss") context.drawImage(dotsLayer(width), 0, 0, width, width);
  else if (codeIsTold()) {
    refineGrid(grid, state.drawingPointer === null ? SLICE : SLICE_WHILE_DRAWING);
    if (gridStep(grid) < Infinity) context.drawImage(lossLayer(), 0, 0, width, width);
    if (gridStep(grid) > 1) redraw();
  }
}

function drawPlane() {
  /** @type {import("./draw.js").Plane} */
  const plane = { ...clearCanvas($("plane")), reach, boxes: [] }, { context } = plane;
  if (data) drawBackground(plane);
  const told = codeIsTold() ? [state.posterior.mu, state.q.mu] : [];
  for (const z of [state.z, ...told, state.walk?.A, state.walk?.B]) {
    const [x, y] = z ? toVisiblePixels(plane, z) : [];
    if (z) plane.boxes.push([x, y, 18, 18]);
  }
  drawAxes(plane);
  if (data && state.background !== "digits") {
    drawNumerals(plane, (state.background === "learning" ? data.snapshots[state.snapshot] : data).numerals);
  }
  drawCircles(plane);
  if (!data) return;
  if (state.walk) drawWalk(plane);
  if (codeIsTold()) drawCodes(plane);
  // The kept z, while the mouse looks elsewhere.
  if (state.z !== state.keptZ) drawCross(context, toVisiblePixels(plane, state.keptZ), [[6, 0], [0, 6]]);
  drawPoint(plane, state.z, "z");
}

/** The encoder's code of the pad's digit, a better one, and where z is cheapest. */
function drawCodes(plane) {
  if (state.background === "loss" && gridStep(grid) < Infinity) {
    drawCross(plane.context, toVisiblePixels(plane, lossMap.cheapest.z), [[5, 5], [5, -5]]);
  }
  drawPosterior(plane, state.posterior, "its code");
  if (state.q !== state.posterior) {
    const apart = distance(state.q.mu, state.posterior.mu) * plane.width / (2 * reach);
    drawPosterior(plane, state.q, apart > 20 && "better");  // else one name does for both
  }
}

function drawPad() {
  const { context, width } = clearCanvas($("pad"));
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = cssColour("--ink");
  context.lineWidth = width * PEN_WIDTH / SIDE;
  if (state.testDigit !== null) drawPixels(context, state.x, 0, 0, width);
  else for (const stroke of state.strokes) {
    context.beginPath();
    stroke.forEach(([x, y]) => context.lineTo(x * width, y * width));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * width + 0.01, stroke[0][1] * width);
    context.stroke();
  }
  if (!state.x && !state.keyPenShown) {
    context.fillStyle = cssColour("--quiet");
    context.font = "17px system-ui, sans-serif";
    context.fillText("draw a digit here", width / 2, width / 2);
  }
  if (state.keyPenShown) drawPen(context, width);
}

function drawPen(context, width) {
  context.lineWidth = 2;
  context.strokeStyle = context.fillStyle = cssColour("--q");
  context.beginPath();
  context.arc(state.keyPen[0] * width, state.keyPen[1] * width, 8, 0, 2 * Math.PI);
  context.stroke();
  if (state.keyPenDown) context.fill();
}

function drawMagnified() {
  const { context, width } = clearCanvas($("magnified"));
  $("magnified-caption").textContent = "its code, magnified";
  if (!codeIsTold()) return;
  const { mu } = state.q, scale = 0.36 * width / (RADIUS_95 * Math.max(...sigmaOf(state.q)));  // pixels a unit of z
  const place = z => [width / 2 + (z[0] - mu[0]) * scale, width / 2 - (z[1] - mu[1]) * scale];
  drawDots(context, data.codes, data.labels, digitColours(), width, place, 5);
  drawEllipse(context, state.q, width / 2, width / 2, scale);
  const [x, y] = place(state.z);
  context.fillStyle = cssColour("--ink");
  context.beginPath();
  context.arc(x, y, 4, 0, 2 * Math.PI);
  context.fill();
  const factor = scale / ($("plane").clientWidth / (2 * reach));
  const times = factor < 2 ? factor.toFixed(1) : Math.round(factor);
  $("magnified-caption").textContent = `its code, ${times} × larger`;
}

let strip = null;  // the pictures along the last walk

function drawStrip() {
  const { context, width } = clearCanvas($("strip")), size = width / STRIP_PICTURES, { walk } = state;
  if (strip?.walk !== walk) {
    const places = Array.from({ length: STRIP_PICTURES }, (_, i) => pointOnWalk(i / (STRIP_PICTURES - 1)));
    strip = { walk, pictures: places.map(z => pictureOf(data, z)) };
  }
  strip.pictures.forEach((picture, i) => drawPixels(context, picture, i * size, 0, size));
}

let curve = null;  // the losses along the last walk, of the last digit

function lossesOnWalk() {
  const { walk, x } = state;
  if (curve?.walk !== walk || curve.x !== x) {
    const losses = Array.from({ length: CURVE_PLACES }, (_, i) => lossAt(data, x, pointOnWalk(i / (CURVE_PLACES - 1))));
    curve = { walk, x, losses };
  }
  return curve.losses;
}

/** What the pad's digit costs along the walk: the pixels, and on them the code; a rule where z is. */
function drawCurve() {
  const { context, width } = clearCanvas($("curve")), height = $("curve").clientHeight;
  if (!state.x) return context.fillText("what a digit on the pad costs along the walk", width / 2, height / 2);
  const losses = lossesOnWalk(), dearest = Math.max(...losses.map(loss => loss.total));
  const right = i => i / (CURVE_PLACES - 1) * width, up = nats => height - (height - 22) * nats / dearest;
  for (const [name, colour] of [["total", "--code"], ["reconstruction", "--pixels"]]) {
    context.fillStyle = cssColour(colour);
    context.beginPath();
    context.moveTo(0, height);
    losses.forEach((loss, i) => context.lineTo(right(i), up(loss[name])));
    context.lineTo(width, height);
    context.fill();
  }
  const now = right(walkPositionNearest(state.keptZ) * (CURVE_PLACES - 1));
  drawLine(context, 2, () => { context.moveTo(now, 0); context.lineTo(now, height); });
  context.fillStyle = cssColour("--ink");
  for (const [i, align] of /** @type {[number, CanvasTextAlign][]} */ ([[0, "left"], [CURVE_PLACES - 1, "right"]])) {
    context.textAlign = align;
    context.fillText(`${"AB"[Math.sign(i)]} ${numberText(losses[i].total, 0)}`, i ? width - 4 : 4, 11);
  }
  context.textAlign = "center";
  context.fillText(`up to ${numberText(dearest, 0)} nats`, width / 2, 11);
}

/** Whether the pictures on the right are of the one code z; while the mouse looks at the plane they are. */
const showsZ = () => state.looksAt === "z" || state.z !== state.keptZ;

/** Whether the page shows where the pad's digit lies, and what comes back. */
const codeIsTold = () => state.x !== null && !state.asking;

let encoders = null;  // the last one, with the image

/** The loss of the pad's digit over the encoder's q(z|x). */
function lossOfEncoder() {
  if (encoders?.x !== state.x) encoders = { x: state.x, ...lossOver(data, state.x, state.posterior) };
  return encoders;
}

let shownLoss = null;  // the last one, with what it was computed of

/** The loss of the pad's digit that the page shows now, or null. */
function lossShown() {
  const { x, q, z } = state, code = showsZ() ? z : q;
  if (shownLoss?.x !== x || shownLoss.code !== code) {
    const loss = x && (showsZ() ? lossAt(data, x, z) : q === state.posterior ? lossOfEncoder() : lossOver(data, x, q));
    shownLoss = { ...loss, x, code };
  }
  return x && shownLoss;
}

/** Draw everything as the state has it. */
function draw() {
  if (state.padChanged) encodePad();
  const loss = lossShown(), decoded = pictureOf(data, state.z);
  const picture = loss && (showsZ() ? decoded : codeIsTold() ? pictureOf(data, state.q.mu) : null);
  if ($("plane").clientWidth) drawPlane();  // it has none where #part=digit hides it
  if (state.walk?.B) {
    drawStrip();
    drawCurve();
  }
  drawOnCanvas($("decoded"), decoded);
  drawPad();
  drawOnCanvas($("seen"), state.x);
  drawOnCanvas($("reconstruction"), picture);
  if (picture) drawCosts($("costs"), loss.costs, picture, state.x);
  else clearCanvas($("costs"));
  drawMagnified();
  showTextsAndButtons(loss);
}

let redrawPending = false;

/** Draw once, in the next frame, however often it is asked for. */
function redraw() {
  if (redrawPending) return;
  redrawPending = true;
  requestAnimationFrame(() => {
    redrawPending = false;
    draw();
    writeAddressSoon();
  });
}

// ---------------------------------------------------------------------------------------------------- numbers in words

const numberText = (value, digits) => value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
const pointText = z => `(${numberText(z[0], 2)}, ${numberText(z[1], 2)})`;

/** Which test digits lie around z. */
function describeNeighbours(z) {
  const { digit, count, of, most } = commonestNear(z), share = `${count} of the ${of} nearest`;
  return most ? `among ${digit}s (${share})` : `among several kinds, most often ${digit}s (${share})`;
}

function searchButtonText() {
  if (state.searching !== null) return `Searching: ${Math.round(100 * state.searching)} %`;
  return state.q === state.posterior ? "Find a better code" : "Back to the encoder's";
}

function showTextsAndButtons(loss) {
  const focused = /** @type {any} */ (document.activeElement), { better } = state;
  const near = state.background === "learning" ? "" : `: ${describeNeighbours(state.z)}`;  // the codes are others there
  $("z-text").textContent = `z = ${pointText(state.z)}${near}.`;
  $("undo").disabled = !state.undoStack.length;
  $("redo").disabled = !state.redoStack.length;
  $("clear").disabled = !state.x;
  for (const name of ["better-code", "to-plane", "sample-posterior", "walk-from"]) $(name).disabled = !codeIsTold();
  $("guess").disabled = !state.asking || !state.x;
  if (focused.matches(":disabled")) $("pad").focus();  // and not nowhere
  $("better-code").textContent = searchButtonText();
  document.body.toggleAttribute("data-empty", !state.x);
  $("bands").hidden = !state.x;
  $("legend-text").textContent = state.x
    ? `nats above the cheapest z (✕${lossMap ? outsidePlane(lossMap.cheapest.z) : ""})`
    : "Draw a digit, or take a test digit.";
  showLoss(loss);
  $("reconstruction-caption").textContent = showsZ() ? "decoded at z" : "reconstruction, from its code";
  $("x-text").textContent = state.x ? describeX() : "No digit yet: draw one, or take a test digit.";
  $("search-text").textContent = better ? describeSearch() : "";
  $("search-text").hidden = !better;
}

/** The loss as numbers, as bars, and beside that of the test digits. */
function showLoss(loss) {
  $("loss").dataset.looksAt = showsZ() ? "z" : "q";
  find(`[name=looks-at][value=${showsZ() ? "z" : "q"}]`).checked = true;
  const nats = Math.max(2 * data.averageLoss, loss?.total ?? 0);  // along the whole bar
  // The code's number is what is left, so that the numbers add up to the last digit.
  const [total, pixels] = loss ? [loss.total, loss.reconstruction].map(v => Math.round(10 * v)) : [];
  for (const [name, tenths] of Object.entries({ reconstruction: pixels, latent: total - pixels, total })) {
    $(`value-${name}`).textContent = loss ? numberText(tenths / 10, 1) : "–";
  }
  for (const name of ["reconstruction", "latent"]) {
    $(`${name}-bar`).style.width = `${100 * (loss?.[name] ?? 0) / nats}%`;
  }
  $("bar-average").style.left = `${100 * data.averageLoss / nats}%`;
  $("bar-average").hidden = showsZ();
  $("bar-text").textContent = !loss ? "The mark: what test digits cost on average."
    : showsZ() ? "A density in z: compare it with that of another z, not with the loss."
    : searchInShort() + describeTotal();
  $("costs-caption").textContent = "cost of each pixel";
  if (loss) {
    const dearest = [...loss.costs].sort((a, b) => b - a).slice(0, Math.round(SIDE * SIDE / 10));
    const share = Math.round(100 * sumOf(dearest) / loss.reconstruction);
    $("costs-caption").textContent += `: a tenth of them make up ${share} %`;
  }
}

/** Beside the loss, where the hand is; what the search has found stands below. */
function searchInShort() {
  const { better } = state;
  return !better ? "" : better.missed < WORTH_NAMING ? "No cheaper code found. " :
    `Saved by the search: ${numberText(better.missed, 1)} nats. `;
}

/** Beside the test digits, whose codes are the encoder's too: what a search saves makes no digit of a scribble. */
function describeTotal() {
  const percent = dearerThan(lossOfEncoder().total), searched = state.q === state.posterior ? "" : ", before the search";
  if (sumOf(state.x) < leastInk) return "Less ink than any test digit here has: draw larger, or more.";
  if (percent < 1) return `Cheaper than nearly all test digits${searched}; the mark is their average.`;
  const compared = percent < 50 ? `Cheaper than ${100 - percent}` : `Dearer than ${percent}`;
  const judged = percent >= SCRIBBLE ? ": to this model it is hardly a digit."
    : percent >= ODD_DIGIT ? ": to this model it is an odd digit, or none." : "; the mark is their average.";
  return `${compared} % of the test digits${searched}${judged}`;
}

function describeX() {
  const { mu } = state.posterior, sigma = sigmaOf(state.posterior);
  const source = state.testDigit === null ? "" : `This test digit is a ${data.imageLabels[state.testDigit]}. `;
  if (state.asking) return "Among which digits does its code lie? Guess below the pad, and the page shows it.";
  const spread = sigma.map(v => numberText(v, 3)).join(", ");
  const long = inkText(state.strokes).length > LONGEST_INK ? " The drawing is too long for the address: a reload or a " +
    "shared link starts without it." : "";
  return `${source}Its code: μ = ${pointText(mu)}${outsidePlane(mu)}, σ = (${spread}): ${describeNeighbours(mu)}.${long}`;
}

const outsidePlane = z => (Math.max(...z.map(Math.abs)) > reach ? ", outside the plane shown" : "");

/** What the search has found: whether the encoder missed a cheaper code, or two numbers can say no more. */
function describeSearch() {
  const { mu, loss, missed } = state.better, found = missed >= WORTH_NAMING;
  const sentence = found
    ? `The search found μ = ${pointText(mu)}${outsidePlane(mu)}: ${describeNeighbours(mu)}. It costs ` +
      `${numberText(loss, 1)} nats, at least ${numberText(missed, 1)} less. That is the encoder's miss, the ` +
      "amortisation gap of this digit."
    : "The search found no code that costs a nat less.";
  const { digit } = commonestNear(mu), meant = state.testDigit === null ? null : data.imageLabels[state.testDigit];
  if (meant === digit) return sentence;
  const picture = pictureOf(data, mu), covered = sumOf(picture.map((v, i) => v * state.x[i])) / sumOf(state.x);
  const percent = `${Math.round(100 * covered)} %`;
  return meant === null
    ? `${sentence} If you meant another digit than ${digit}: this picture lies on ${percent} of your ink, and the loss ` +
      "knows pixels alone."
    : sentence + ` This ${meant} comes back as a ${digit}, which lies on ${percent} of its ink: the loss knows pixels alone.`;
}

let announcement = 0;

/** Once things have come to rest, tell a screen reader; and look whether something to try is done. */
function announce(text) {
  clearTimeout(announcement);
  announcement = setTimeout(() => { $("live").textContent = [text(), ...showWhatIsDone()].join(" "); }, 600);
}

/** What the pad shows and what it costs. */
function xInWords() {
  const loss = lossShown();
  if (!loss) return "The pad is empty.";
  const [total, pixels, code] = ["total", "reconstruction", "latent"].map(name => $(`value-${name}`).textContent);
  return `${$("x-text").textContent} Loss ${total} nats: pixels ${pixels}, code ${code}. ${$("bar-text").textContent}`;
}

function showHint(text) {
  $("hint").textContent = text;
  $("hint").hidden = !text;
  if (text) announce(() => text);
}

// --------------------------------------------------------------------------------------------------------- what to try

/** The digit among whose kind a code lies and the picture that comes back of it does too, or null. */
function kindOf(mu) {
  const own = commonestNear(mu), back = commonestNear(encode(data, pictureOf(data, mu)).mu);
  return own.most && back.most && own.digit === back.digit ? own.digit : null;
}

/** What the pad and the walk show of what the reader may try, each with its number. */
function whatIsSeen() {
  const { x, strokes, walk, better, guesses } = state, nats = better?.loss ?? lossOfEncoder().total, seen = {};
  const { mu } = better ?? state.posterior, kind = kindOf(mu);
  if (strokes.length && kind === 4) seen["try-4"] = `${commonestNear(mu).count} of its ${data.neighbourCount} nearest are 4s`;
  if (strokes.length && kind === 8 && nats < CHEAP_8) seen["try-8"] = numberText(nats, 1);
  if (strokes.length && kind !== null && nats > DEAR_DIGIT) seen["try-dear"] = `${numberText(nats, 1)}, as a ${kind}`;
  if (guesses.running >= GUESSES) seen["try-guess"] = `${guesses.running} in a row`;
  if (walk?.B) {
    const losses = lossesOnWalk().map(loss => loss.total), [A, B] = [losses[0], losses[CURVE_PLACES - 1]];
    const kinds = [mu, walk.A, walk.B].map(commonestNear), top = Math.max(...losses);
    const alike = kinds.every(({ digit, most }) => most && digit === kinds[0].digit);
    if (alike && top > Math.max(A, B) + DEARER_ON_THE_WAY) {
      seen["try-walk"] = `${[A, top, B].map(v => numberText(v, 0)).join(", ")} among ${kinds[0].digit}s`;
    }
  }
  return seen;
}

/** Keep what is seen, and say what was not before. Not while the reader guesses, nor in the middle of a stroke. */
function showWhatIsDone() {
  const { done, drawingPointer, keyPenDown } = state, atRest = drawingPointer === null && !keyPenDown, news = [];
  for (const [id, number] of Object.entries(atRest && codeIsTold() ? whatIsSeen() : {})) {
    const text = `Done: ${number}.`;
    if (!done[id]) news.push(`${$(id).firstElementChild.textContent} ${text}`);
    done[id] = find(`#${id} .done`).textContent = text;
  }
  const all = document.querySelectorAll("#tasks li").length;
  $("tasks-done").textContent = `${Object.keys(done).length} of ${all} done`;
  return news;
}

/** Ask from the next digit on, or no longer; what is told already stays so. */
function switchGuessing() {
  $("guess").hidden = !$("guess-first").checked;
  $("guess-text").textContent = "From your next digit on.";
  state.asking = false;
  redraw();
}

function guess(digit) {
  const { guesses } = state, { mu } = state.posterior, right = commonestNear(mu).digit === digit;
  guesses.all++;
  guesses.right += Number(right);
  guesses.running = right ? guesses.running + 1 : 0;
  state.asking = false;
  $("guess-text").textContent = `You said ${digit}: it lies ${describeNeighbours(mu)}. Right: ${guesses.right} of ${guesses.all}.`;
  announce(() => `${$("guess-text").textContent} ${xInWords()}`);
  redraw();
}

function connectTasks() {
  for (let digit = 0; digit < 10; digit++) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: digit });
    button.addEventListener("click", () => guess(digit));
    $("guess-buttons").append(button);
  }
  $("guess-first").addEventListener("change", switchGuessing);
  showWhatIsDone();
}

// ---------------------------------------------------------------------------------------------------------- the plane

/** Decode z, for as long as the mouse is there. */
function previewZ(z) {
  state.z = z;
  announce(() => $("z-text").textContent);
  redraw();
}

/** Decode z, keep it, and show the loss there. */
function keepZ(z) {
  [state.keptZ, state.looksAt] = [z, "z"];
  previewZ(z);
}

const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const isChoosing = () => state.walk !== null && !state.walk.B;
const pointOnWalk = t => [0, 1].map(i => (1 - t) * state.walk.A[i] + t * state.walk.B[i]);

function moveAlongWalk(t) {
  const position = Math.min(1, Math.max(0, t));
  $("walk-position").value = position;
  keepZ(pointOnWalk(position));
}

/** How far along the walk the point nearest to z lies. */
function walkPositionNearest(z) {
  const { A, B } = state.walk, along = [B[0] - A[0], B[1] - A[1]];
  return ((z[0] - A[0]) * along[0] + (z[1] - A[1]) * along[1]) / (along[0] ** 2 + along[1] ** 2);
}

function showWalkControls() {
  const { walk } = state, hints = { A: "where the walk starts (A)", B: "where it ends (B)" };
  $("walk").hidden = $("strip").hidden = $("curve").hidden = !walk?.B;
  $("start-or-end-walk").textContent = walk ? "End the walk" : "Walk A to B";
  showHint(isChoosing() ? `Choose ${hints[walk.A ? "B" : "A"]}: click or tap the plane, or move z with the arrow keys ` +
    "and press Enter." : "");
}

function endWalk() {
  if (state.playing?.name === "walk") stopPlaying();
  state.walk = null;
  showWalkControls();
  redraw();
}

/** Let the reader choose both ends of a walk, or only the other one. */
function startWalk(A = null) {
  endWalk();
  state.walk = A ? { A } : {};
  showWalkControls();
  $("plane").focus({ preventScroll: true });  // where the arrow keys and Enter choose
  $("shown").scrollIntoView({ block: "nearest" });
}

/** Take the kept z as the end that is being chosen. Both at one place make no walk, so a double click is one click. */
function chooseEnd() {
  const { walk, keptZ } = state;
  if (!walk.A) {
    walk.A = keptZ;
    showWalkControls();
  } else if (distance(walk.A, keptZ) > SHORTEST_WALK) completeWalk(keptZ);
  redraw();
}

/** Show the walk from A to B, and z at its start. */
function showWalk(A, B) {
  state.walk = { A, B };
  showWalkControls();
  moveAlongWalk(0);
}

function completeWalk(B) {
  showWalk(state.walk.A, B);
  announce(() => "A straight walk from A to B: play it, move its slider, or drag z along it.");
  if (!reducedMotion.matches) play("walk");
}

/** Keep a z that need not lie on the walk, which ends there. */
function jumpTo(z) {
  if (state.walk?.B) endWalk();
  keepZ(z);
}

function planeKeys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const step = event.shiftKey ? 0.25 : 0.05;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  const move = moves[event.key];
  if (move && state.walk?.B) {
    stopPlaying();
    moveAlongWalk(walkPositionNearest([state.keptZ[0] + move[0], state.keptZ[1] + move[1]]));
  } else if (move) keepZ(withinPlane([state.keptZ[0] + move[0], state.keptZ[1] + move[1]]));
  else if (isChoosing() && (event.key === "Enter" || event.key === " ")) {
    keepZ(state.keptZ);  // and not where the mouse happens to lie
    chooseEnd();
  } else return;
  event.preventDefault();
}

/** Where on a canvas an event is, in shares of its side. */
function positionOf(event, canvas) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.width];
}

function connectPlane() {
  const plane = $("plane");
  let pressedPointer = null;  // the pointer that is down; other fingers and other buttons are not followed
  const follow = event => {
    const z = withinPlane(fromPixels({ width: 1, reach }, positionOf(event, plane)));
    if (!state.walk?.B) previewZ(z);
    else if (pressedPointer !== null) moveAlongWalk(walkPositionNearest(z));
  };
  plane.addEventListener("pointerdown", event => {
    if (pressedPointer !== null || event.button !== 0) return;
    pressedPointer = event.pointerId;
    plane.setPointerCapture(pressedPointer);
    if (state.playing?.name === "walk") stopPlaying();
    follow(event);
  });
  plane.addEventListener("pointermove", event => {
    const hovers = pressedPointer === null && event.pointerType !== "touch" && event.buttons === 0;
    if (hovers || event.pointerId === pressedPointer) follow(event);
  });
  plane.addEventListener("pointerup", event => {
    if (event.pointerId !== pressedPointer) return;
    pressedPointer = null;
    if (state.walk?.B) return;
    keepZ(state.z);
    if (isChoosing()) chooseEnd();
  });
  const stopFollowing = () => { pressedPointer = null; previewZ(state.keptZ); };
  for (const kind of ["pointercancel", "lostpointercapture"]) {
    plane.addEventListener(kind, event => { if (event.pointerId === pressedPointer) stopFollowing(); });
  }
  plane.addEventListener("pointerleave", event => { if (event.pointerType !== "touch") stopFollowing(); });
  plane.addEventListener("keydown", planeKeys);
  $("sample-prior").addEventListener("click", () => jumpTo([randomNormal(), randomNormal()]));
  $("start-or-end-walk").addEventListener("click", () => (state.walk ? endWalk() : startWalk()));
}

/** A draw from N(0, 1), by the method of Box and Muller. */
const randomNormal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

// ------------------------------------------------------------------------------------------- what changes by itself

const SLIDERS = {
  walk: { slider: $("walk-position"), button: $("play-walk"), seconds: 5, move: moveAlongWalk },
  learning: { slider: $("snapshot"), button: $("play-learning"), seconds: 8, move: v => showSnapshot(Math.floor(v)) },
};

function stopPlaying() {
  if (state.playing) SLIDERS[state.playing.name].button.textContent = "Play";
  state.playing = null;
}

/** Move the slider on from where it is; from its end, once more from the start. */
function play(name) {
  stopPlaying();
  const { slider, button, seconds, move } = SLIDERS[name], thisPlay = { name };
  const [low, high] = [Number(slider.min), Number(slider.max)];
  const from = Number(slider.value) < high ? Number(slider.value) : low, begin = performance.now();
  state.playing = thisPlay;
  button.textContent = "Stop";
  const frame = now => {
    if (state.playing !== thisPlay) return;  // stopped, and perhaps begun anew
    const value = Math.min(high, from + Math.max(0, now - begin) / 1000 / seconds * (high - low));
    move(value);
    if (value < high) requestAnimationFrame(frame);
    else stopPlaying();
  };
  requestAnimationFrame(frame);
}

function connectSliders() {
  for (const [name, { slider, button, move }] of Object.entries(SLIDERS)) {
    slider.addEventListener("input", () => { stopPlaying(); move(Number(slider.value)); });
    button.addEventListener("click", () => (state.playing?.name === name ? stopPlaying() : play(name)));
  }
}

function showSnapshot(number) {
  state.snapshot = number;
  $("snapshot").value = number;
  const { epoch, validElbo } = data.snapshots[number];
  const text = `Epoch ${epoch} of ${data.snapshots.at(-1).epoch}: test digits cost ${numberText(-validElbo, 1)} nats.`;
  $("snapshot-text").textContent = `${text} Pictures and q(z|x) are the trained model's.`;
  $("snapshot").setAttribute("aria-valuetext", text);
  redraw();
}

function setBackground(name) {
  if (state.playing?.name === "learning") stopPlaying();
  state.background = name;
  find(`[name=background][value=${name}]`).checked = true;
  $("learning").hidden = name !== "learning";
  $("loss-legend").hidden = name !== "loss";
  if (name === "loss" && !padImage()) takeTestDigit();  // of nothing there is no loss
  redraw();
}

function connectBackground() {
  $("background").addEventListener("change", event => {
    setBackground(event.target.value);
    if (state.background !== "learning") return;
    showSnapshot(0);
    if (!reducedMotion.matches) play("learning");
  });
  for (const [i, limit] of [...COST_BANDS, null].entries()) {
    const band = document.createElement("li");
    if (limit) band.append(Object.assign(document.createElement("span"), { textContent: limit }));
    band.style.setProperty("--band", `color-mix(in srgb, var(--paper) ${100 * paperInBand(i)}%, var(--cheap))`);
    $("bands").append(band);
  }
  $("snapshot").max = Math.max(0, data.snapshots.length - 1);
  find("[value=learning]").parentElement.hidden = !data.snapshots.length;
}

// ------------------------------------------------------------------------------------------------------------ the pad

function padImage() {
  if (state.testDigit !== null) {
    const pixels = data.images.subarray(state.testDigit * SIDE * SIDE, (state.testDigit + 1) * SIDE * SIDE);
    return Float32Array.from(pixels, byte => byte / 255);
  }
  return state.strokes.length ? imageOfStrokes(state.strokes) : null;
}

/** Run the networks on what the pad shows now. */
function encodePad() {
  const x = padImage(), posterior = x && encode(data, x);
  Object.assign(state, { x, posterior, q: posterior, better: null, searching: null, padChanged: false });
}

/** A fast pen moves several times a frame: the networks wait for the next frame. */
function padHasChanged() {
  Object.assign(state, { padChanged: true, looksAt: "q", asking: $("guess-first").checked });
  $("guess-text").textContent = "";
  announce(xInWords);
  redraw();
}

/** Show these strokes or this test digit. Whatever is being drawn ends here. */
function showOnPad(strokes, testDigit = null) {
  Object.assign(state, { strokes, testDigit, drawingPointer: null, keyPenDown: false });
  padHasChanged();
}

function changePad(strokes, testDigit) {
  state.undoStack.push([state.strokes, state.testDigit]);
  state.redoStack = [];
  showOnPad(strokes, testDigit);
}

function beginStroke(place) {
  changePad(state.testDigit === null ? [...state.strokes, [place]] : [[place]]);
}

/** Undo: back to the last of one stack, and what is shown now onto the other. Redo: the same the other way round. */
function stepBack(from, to) {
  if (!from.length) return;
  to.push([state.strokes, state.testDigit]);
  showOnPad(...from.pop());
}

const undo = () => stepBack(state.undoStack, state.redoStack);
const redo = () => stepBack(state.redoStack, state.undoStack);
const takeTestDigit = () => changePad([], Math.floor(Math.random() * data.imageLabels.length));

/** A place on the pad where the whole pen is, as exact as the address can hold it. @param {number[]} place */
const withinPad = ([x, y]) =>
  [x, y].map(v => Math.round(Math.min(1 - PEN_INSET, Math.max(PEN_INSET, v)) * INK_LEVELS) / INK_LEVELS);

function padKeys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const step = event.shiftKey ? 0.1 : 0.025;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const move = moves[event.key];
  if (move) {
    state.keyPen = withinPad([state.keyPen[0] + move[0], state.keyPen[1] + move[1]]);
    if (state.keyPenDown) state.strokes.at(-1).push(state.keyPen);
    if (state.keyPenDown) padHasChanged();
  } else if (event.key === " ") {
    const down = event.repeat ? state.keyPenDown : !state.keyPenDown;  // a key that is held repeats
    if (down && !state.keyPenDown) beginStroke(state.keyPen);
    state.keyPenDown = down;
    announce(() => (state.keyPenDown ? "Pen down." : `Pen lifted. ${xInWords()}`));
  } else return;
  state.keyPenShown = true;
  event.preventDefault();
  redraw();
}

function connectPad() {
  const pad = $("pad");
  const follow = event => {
    const at = positionOf(event, pad), away = at.some(v => v < 0 || v > 1);
    if (state.pointerOutside && !away) state.strokes.push([withinPad(at)]);
    else if (!state.pointerOutside) state.strokes.at(-1).push(withinPad(at));
    state.pointerOutside = away;
  };
  pad.addEventListener("pointerdown", event => {
    if (state.drawingPointer !== null || event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    beginStroke(withinPad(positionOf(event, pad)));
    [state.drawingPointer, state.pointerOutside, state.keyPenShown] = [event.pointerId, false, false];
  });
  // The pen leaves the pad as it leaves paper: nothing is drawn outside, and a new line begins where it comes back.
  pad.addEventListener("pointermove", event => {
    if (event.pointerId !== state.drawingPointer) return;
    const between = event.getCoalescedEvents?.() ?? [];  // where the pen was since the last frame
    for (const each of between.length ? between : [event]) follow(each);
    padHasChanged();
  });
  const endStroke = event => {
    if (event.pointerId !== state.drawingPointer) return;
    state.drawingPointer = null;
    state.strokes = withoutSparePoints(state.strokes);
    padHasChanged();
  };
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) pad.addEventListener(kind, endStroke);
  pad.addEventListener("keydown", padKeys);
  pad.addEventListener("focus", () => { state.keyPenShown = pad.matches(":focus-visible"); redraw(); });
  pad.addEventListener("blur", () => { [state.keyPenShown, state.keyPenDown] = [false, false]; redraw(); });
  $("undo").addEventListener("click", undo);
  $("redo").addEventListener("click", redo);
  $("clear").addEventListener("click", () => changePad([]));
  $("random").addEventListener("click", takeTestDigit);
}

// ---------------------------------------------------------------------------------------- from the pad to the plane

function connectPadToPlane() {
  $("looks-at").addEventListener("change", event => { state.looksAt = event.target.value; redraw(); });
  $("better-code").addEventListener("click", () => {
    if (state.q !== state.posterior) returnToEncoder();
    else if (state.searching === null) findBetterCode();
  });
  $("to-plane").addEventListener("click", () => {
    jumpTo([...state.q.mu]);
    $("shown").scrollIntoView({ block: "nearest" });  // on a phone it is another screen
  });
  $("sample-posterior").addEventListener("click", () => {
    const { mu } = state.q, sigma = sigmaOf(state.q);
    jumpTo([0, 1].map(i => mu[i] + sigma[i] * randomNormal()));
    $("results").scrollIntoView({ block: "nearest" });
  });
  $("walk-from").addEventListener("click", () => startWalk([...state.q.mu]));
  $("jump-to-pad").addEventListener("click", () => $("digit-section").scrollIntoView());
  $("jump-to-plane").addEventListener("click", () => $("plane-section").scrollIntoView());
}

/** As a search would have left it. */
function showFoundCode(q) {
  encodePad();
  const loss = lossOver(data, state.x, q).total, missed = lossOver(data, state.x, state.posterior).total - loss;
  state.better = { ...q, loss, missed };
  if (missed >= WORTH_NAMING) state.q = state.better;
}

function returnToEncoder() {
  Object.assign(state, { q: state.posterior, better: null, looksAt: "q" });
  redraw();
}

const nextFrame = () => new Promise(done => requestAnimationFrame(done));

/** Search in slices of a frame, then walk from the encoder's q(z|x) to the best one; a change of the pad ends both. */
async function findBetterCode() {
  const { x, posterior } = state, search = searchBestCode(grid, x, posterior);
  Object.assign(state, { searching: 0, looksAt: "q" });
  redraw();
  let step = search.next();
  while (!step.done) {
    const start = await nextFrame();
    while (!step.done && performance.now() - start < SLICE) step = search.next();
    if (state.x !== x || state.padChanged) return;
    state.searching = step.done ? null : /** @type {number} */ (step.value);
    $("better-code").textContent = searchButtonText();  // and nothing else, for drawing takes longer than the search
  }
  state.better = step.value;
  redraw();
  const { better } = state, start = await nextFrame();
  announce(() => $("search-text").textContent);
  for (let t = better.missed < WORTH_NAMING ? 1 : 0; t < 1;) {
    t = reducedMotion.matches ? 1 : Math.min(1, (await nextFrame() - start) / 1000 / WALK_TO_BETTER);
    if (state.better !== better) return;
    const between = name => [0, 1].map(i => (1 - t) * posterior[name][i] + t * better[name][i]);
    state.q = { mu: between("mu"), logvar: between("logvar") };
    redraw();
  }
}

function connectKeys() {
  document.addEventListener("keydown", event => {
    const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    if (command && !event.shiftKey && key === "z") undo();
    else if (command && (key === "y" || key === "z")) redo();
    else if (event.key === "Escape" && state.walk) endWalk();
    else return;
    event.preventDefault();
  });
}

// ------------------------------------------------------------------------------------------- the state in the address

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const INK_LEVELS = ALPHABET.length ** 2 - 1;  // a coordinate from 0 to 1 is two letters
const LONGEST_INK = 4000;                     // letters; a drawing that needs more is not put into the address

/** Every point, as withinPad has rounded it: what comes back is the same drawing. */
function inkText(strokes) {
  const letters = v => { const n = Math.round(v * INK_LEVELS); return ALPHABET[n >> 6] + ALPHABET[n & 63]; };
  return strokes.map(stroke => stroke.flat().map(letters).join("")).join(".");
}

function strokesOf(text) {
  const number = letters => (64 * ALPHABET.indexOf(letters[0]) + ALPHABET.indexOf(letters[1])) / INK_LEVELS;
  return text.split(".").map(stroke => (stroke.match(/..../g) ?? []).map(point =>
    withinPad([number(point.slice(0, 2)), number(point.slice(2))]))).filter(stroke => stroke.length);
}

function addressOfState() {
  const { background, snapshot, keptZ, walk, strokes, testDigit, better, looksAt } = state, ink = inkText(strokes);
  const part = document.body.dataset.part, point = z => z.map(v => Number(v.toFixed(3))).join(",");
  return Object.entries({
    part, view: background !== "dots" && background, snapshot: background === "learning" && String(snapshot),
    digit: testDigit !== null ? String(testDigit) : !strokes.length && "none", ink: ink.length <= LONGEST_INK && ink,
    found: better && [...better.mu, ...better.logvar].join(","),  // exactly, for the picture to stay the same
    walk: walk?.B && `${point(walk.A)},${point(walk.B)}`, z: keptZ !== origin && point(keptZ),
    at: state.x && (keptZ !== origin || looksAt === "z") && looksAt,
  }).filter(([, value]) => value).map(pair => pair.join("=")).join("&");
}

/** Something to see: a test digit that has more to it than a 1, and z where its code is. */
function showFirstDigit() {
  showOnPad([], Math.max(0, data.imageLabels.indexOf(FIRST_KIND)));
  encodePad();
  state.z = state.keptZ = [...state.posterior.mu];
}

let addressTimer = 0;

/** Once things have come to rest, so that reload, back and a shared link show them again. */
function writeAddressSoon() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    if (state.playing) return;
    try {
      history.replaceState(null, "", `#${addressOfState()}`);
    } catch {}  // the frame of a notebook has no address of its own
  }, 400);
}

/** Show what the address asks for; what it does not name is as at the start, and what makes no sense is left out. */
function readAddress(hash) {
  const address = new URLSearchParams(hash.slice(1)), text = name => address.get(name) ?? "";
  const numbers = (name, count) => {
    const found = text(name).split(",").map(Number);
    return found.length === count && found.every(Number.isFinite) && text(name) ? found : null;
  };
  const [digit] = numbers("digit", 1) ?? [], strokes = strokesOf(text("ink")), view = text("view");
  document.body.toggleAttribute("data-framed", window !== window.parent);
  if (["plane", "digit"].includes(text("part"))) document.body.dataset.part = text("part");
  else delete document.body.dataset.part;
  endWalk();
  [state.keptZ, state.z] = [origin, origin];
  if (data.imageLabels[digit] !== undefined) showOnPad([], digit);
  else if (text("digit") || text("ink")) showOnPad(strokes);
  else showFirstDigit();
  setBackground(["digits", "loss", "learning"].includes(view) ? view : "dots");
  if (view === "learning" && data.snapshots.length) {
    const last = data.snapshots.length - 1, [snapshot = 0] = numbers("snapshot", 1) ?? [];
    showSnapshot(Math.min(last, Math.max(0, Math.round(snapshot))));
    if (!numbers("snapshot", 1) && !reducedMotion.matches) play("learning");
  }
  const walk = numbers("walk", 4), z = numbers("z", 2), found = numbers("found", 4);
  if (found && padImage()) showFoundCode({ mu: found.slice(0, 2), logvar: found.slice(2) });
  const [A, B] = walk ? [walk.slice(0, 2), walk.slice(2)].map(withinPlane) : [];
  if (walk && distance(A, B) > SHORTEST_WALK) showWalk(A, B);
  if (z) keepZ(withinPlane(z));
  if (z && state.walk) $("walk-position").value = walkPositionNearest(z);
  if (["q", "z"].includes(text("at"))) state.looksAt = text("at");
}

// --------------------------------------------------------------------------------------------------------------- start

/** The plane holds the 99 % circle, and 99 of 100 codes: the outermost few would leave most of it empty. */
function setReach() {
  const { codes } = data;
  const furthest = Array.from(data.labels, (_, i) => Math.max(Math.abs(codes[2 * i]), Math.abs(codes[2 * i + 1])));
  reach = Math.max(3.4, furthest.sort((a, b) => a - b)[Math.floor(0.99 * furthest.length)]);
}

function start() {
  data = readData();
  setReach();
  grid = createGrid(data, reach);
  const { images, imageLabels } = data, area = SIDE * SIDE;
  leastInk = Math.min(...Array.from(imageLabels, (_, i) => sumOf(images.subarray(i * area, (i + 1) * area)) / 255));
  $("pen-width").textContent = PEN_WIDTH;
  $("average").textContent = `The ${data.labels.length.toLocaleString("en")} test digits cost ` +
    `${numberText(data.averageLoss, 1)} nats on average, and ${Math.round(100 * data.shareAmongOwnKind)} % of them lie ` +
    "among their own kind. A drawing that lies among other digits need not be drawn badly: the search tells whether the " +
    "encoder missed a better place, or two numbers are too few.";
  connectPlane();
  connectSliders();
  connectBackground();
  connectPad();
  connectPadToPlane();
  connectTasks();
  connectKeys();
  const sizes = new ResizeObserver(redraw);
  for (const canvas of document.querySelectorAll("canvas")) sizes.observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  for (const [event, printed] of /** @type {[string, boolean][]} */ ([["beforeprint", true], ["afterprint", false]])) {
    addEventListener(event, () => {
      document.documentElement.toggleAttribute("data-printed", printed);
      draw();
    });
  }
  // And not location.hash, for writeAddressSoon may be ahead of it.
  addEventListener("hashchange", event => readAddress(new URL(event.newURL).hash));
  readAddress(location.hash);
  redraw();
  window["explorer"] = { state, data, grid, lossShown, digitColours };  // for tests, and the browser's console
}

drawPlane();                                            // something to see at once,
requestAnimationFrame(() => setTimeout(start));         // then the two megabytes of weights
