// @ts-check
// The thread that trains: the page tells it what, and every few steps it tells the page what came of it.
// The page makes this worker of its own text, so that it needs no server.

import { unpackBytes, unpackNumbers } from "./model.js";
import { createTraining, emptyWeights, measure, pixelsOf, trainStep } from "./training.js";
import { settingsAt } from "./settings.js";

const EVERY = 10;                   // steps from one report to the next

/** @typedef {import("./training.js").Settings} Settings */
/** @typedef {import("./settings.js").Turn} Turn */

/** @type {{ images: Uint16Array[], held: Uint16Array[] }} */
let digits;
let packedWeights, training, /** @type {Turn[]} */ turns = [], until = 0, waiting = false;
let stale = false;                  // when the page waits for a report of what has changed without a step
let shown = /** @type {Float32Array[]} */ ([]), withOwn = false, run = 0, changes = 0;
let sums, steps;                    // of the batches since the last report, and how many these were
let batches;                        // their means; nulls before there are any of this loss

/** The inked pixels of black-and-white images, of which each pixel is a bit. @param {string} packed */
function unpackImages(packed) {
  const bytes = unpackBytes(packed), count = bytes.length / 98;
  return Array.from({ length: count }, (_, k) =>
    Uint16Array.from([...Array(784).keys()].filter(p => bytes[98 * k + (p >> 3)] >> (7 - p % 8) & 1)));
}

function trainedWeights() {
  const weights = emptyWeights();
  for (const name of ["encoder", "decoder"]) {
    packedWeights[name].forEach(({ weight, bias }, l) => {
      weights[name][l].weight.set(unpackNumbers(weight));
      weights[name][l].bias.set(unpackNumbers(bias));
    });
  }
  return weights;
}

function report() {
  const settings = settingsAt(turns, training.step);
  if (steps) batches = { trained: sums.trained / steps, pixels: sums.pixels / steps, code: sums.code / steps };
  postMessage({
    run, changes, withOwn, step: training.step, turns, settings, batches,
    ...measure(training.weights, digits, shown, settings),
  });
  [steps, stale] = [0, false];
}

function forgetBatches() {
  [steps, batches] = [0, { trained: null, pixels: null, code: null }];
}

function step() {
  if (turns.some(turn => turn.step === training.step)) forgetBatches();  // they were of another loss
  const terms = trainStep(training, digits.images, settingsAt(turns, training.step));
  if (!steps) sums = { trained: 0, pixels: 0, code: 0 };
  for (const name in sums) sums[name] += terms[name];
  steps++;
  if (training.step % EVERY === 0 || training.step >= until) stale = true;
}

function tick() {
  waiting = false;
  if (stale) report();
  else if (training.step < until) step();
  goOn();
}

// A message to itself, and not a timer: browsers let timers wait, and a message of the page still comes in between.
const channel = new MessageChannel();
channel.port1.onmessage = tick;
function goOn() {
  if (!waiting && (stale || training.step < until)) {
    waiting = true;
    channel.port2.postMessage(null);
  }
}

const tasks = {
  load({ images, held, weights }) {
    digits = { images: unpackImages(images), held: unpackImages(held) };
    packedWeights = weights;
  },
  /** From the beginning: the events that come at their steps, and where to stop. */
  start(task) {
    training = createTraining(task.seed, task.from === "trained" ? trainedWeights() : undefined);
    ({ turns, until, run } = task);
    forgetBatches();
    stale = true;
  },
  run(task) { until = task.until; },
  oneStep() { until = training.step + 1; },
  pause() {
    until = training.step;
    stale = true;
  },
  /** From the next step on. */
  change(task) {
    const { step } = training;
    turns = [...turns.filter(turn => turn.step < step), { step, settings: task.settings }];
    changes = task.changes;
    forgetBatches();
    stale = true;
  },
  /** Which of the held-out digits are shown, and the reader's own. */
  show({ places, own }) {
    withOwn = Boolean(own);
    shown = [...own ? [own] : [], ...places.map(place => pixelsOf(digits.held[place]))];
    stale = true;
  },
};
onmessage = ({ data }) => {
  tasks[data.task](data);
  if (training) goOn();
};
