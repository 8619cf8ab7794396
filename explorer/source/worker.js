// @ts-check
// The thread that trains: the page tells it what, and every few steps it tells the page what came of it.
// The page makes this worker of its own text, so that it needs no server.

import { unpackBytes, unpackNumbers } from "./model.js";
import { createTraining, emptyWeights, measure, pixelsOf, trainStep } from "./training.js";
import { settingsAt } from "./settings.js";

const EVERY = 10;                   // steps from one report to the next

/** @typedef {import("./training.js").Settings} Settings */
/** @typedef {{ step: number, settings: Settings }} Event  from this step on these settings hold */

/** @type {{ images: Uint16Array[], held: Uint16Array[] }} */
let digits;
let packedWeights, training, /** @type {Event[]} */ events = [], until = 0, waiting = false;
let shown = /** @type {Float32Array[]} */ ([]), run = 0;
let sums, steps;                    // of the batches since the last report, and how many these were
let batches;                        // their means; null before there are any

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
  const settings = settingsAt(events, training.step);
  if (steps) batches = { trained: sums.trained / steps, pixels: sums.pixels / steps, code: sums.code / steps };
  postMessage({
    run, step: training.step, sent: performance.now(), events, settings, batches,
    ...measure(training.weights, digits, shown, settings),
  });
  [sums, steps] = [{ trained: 0, pixels: 0, code: 0 }, 0];
}

function forgetBatches() {
  [sums, steps, batches] = [{ trained: 0, pixels: 0, code: 0 }, 0, { trained: null, pixels: null, code: null }];
}

function tick() {
  waiting = false;
  if (training.step >= until) return;
  const terms = trainStep(training, digits.images, settingsAt(events, training.step));
  for (const name in sums) sums[name] += terms[name];
  steps++;
  if (training.step % EVERY === 0 || training.step >= until) report();
  goOn();
}

// A message to itself, and not a timer: browsers let timers wait, and a message of the page still comes in between.
const channel = new MessageChannel();
channel.port1.onmessage = tick;
function goOn() {
  if (!waiting && training.step < until) {
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
    ({ events, until, run } = task);
    forgetBatches();
    report();
  },
  run(task) { until = task.until; },
  pause() {
    until = training.step;
    report();
  },
  /** From the next step on. */
  change({ settings }) {
    const { step } = training;
    events = [...events.filter(event => event.step < step), { step, settings }];
    forgetBatches();  // they were of another loss
    report();
  },
  /** Which of the held-out digits are shown, and the reader's own. */
  show({ places, own }) {
    shown = [...own ? [own] : [], ...places.map(place => pixelsOf(digits.held[place]))];
    if (training) report();
  },
};
onmessage = ({ data }) => {
  tasks[data.task](data);
  if (training) goOn();
};
