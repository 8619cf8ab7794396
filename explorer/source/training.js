// @ts-check
// A VAE that is trained in the page: batches, the loss with all that a reader can change in it, its gradient, and Adam.
// Nothing here knows of a page, so it runs in a worker and without a browser. Adam: arXiv 1412.6980.

import { encode, lossAt, lossOver, pictureOf, SIDE, sigmoid, silu, siluSlope, softplus, sumOf } from "./model.js";

const PIXELS = SIDE ** 2;
const WIDTHS = { encoder: [PIXELS, 128, 64, 4], decoder: [2, 64, 128, PIXELS] };
const FIRST_LOGIT = -1.9;           // of every pixel: the log-odds of 0.13, MNIST's mean ink, as in vae_utils.py
const BATCH = 64;
const LEARNING_RATE = 3e-3;
const DECAYS = [0.9, 0.999];        // of Adam's two averages
const EPSILON = 1e-8;
const HALF_LOG_2PI = Math.log(2 * Math.PI) / 2;

/** @typedef {import("./model.js").Numbers} Numbers */
/** @typedef {import("./model.js").Posterior} Posterior */
/** @typedef {{ weight: Float64Array, bias: Float64Array }} Layer  weight: (outputs, inputs), by rows */
/**
 * What the reader can change. `noise`: z is drawn from q(z|x), else it is mu. `price`: of the code, its KL or mu² / 2.
 * `pixels`: their likelihood. `sigmaX`: that of the Gaussian; null when it is learned. `mean`: over the pixels, not
 * their sum. `digits`: so many of the training digits are used.
 * @typedef {{ beta: number, noise: boolean, price: "kl" | "mu", pixels: "bernoulli" | "gaussian",
 *   sigmaX: number | null, mean: boolean, digits: number }} Settings
 */
/**
 * All weights in one row, so that one loop changes them; layers are parts of it, and its last number is log sigma_x.
 * @typedef {{ all: Float64Array, encoder: Layer[], decoder: Layer[] }} Weights
 */
/**
 * Means over images, in nats: what is minimised, and its terms before beta and before a mean over the pixels.
 * @typedef {{ trained: number, pixels: number, code: number }} Terms
 */

// ------------------------------------------------------------------------------------------------------------ chance

/** Numbers from 0 to 1, the same ones for the same seed: Chris Doty-Humphrey's sfc32. @param {number} seed */
export function createRandom(seed) {
  let a = 0, b = 0, c = seed | 0, counter = 1;
  const next = () => {
    const sum = (a + b | 0) + counter | 0;
    counter = counter + 1 | 0;
    a = b ^ b >>> 9;
    b = c + (c << 3) | 0;
    c = (c << 21 | c >>> 11) + sum | 0;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 12; i++) next();  // until the seed has reached all of the state
  return next;
}

/** A draw of the standard normal distribution (Box and Muller). @param {() => number} random */
export const normal = random => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

// ----------------------------------------------------------------------------------------------------------- weights

/** @returns {Weights} */
export function emptyWeights() {
  const layersOf = widths => widths.slice(1).map((outputs, i) => [outputs, widths[i]]);
  const shapes = { encoder: layersOf(WIDTHS.encoder), decoder: layersOf(WIDTHS.decoder) };
  const size = [...shapes.encoder, ...shapes.decoder].reduce((sum, [o, i]) => sum + o * i + o, 1);
  const all = new Float64Array(size);
  let at = 0;
  const part = length => all.subarray(at, at += length);
  const layers = outputsAndInputs => outputsAndInputs.map(([o, i]) => ({ weight: part(o * i), bias: part(o) }));
  return { all, encoder: layers(shapes.encoder), decoder: layers(shapes.decoder) };
}

/** Kaiming's weights, which keep a signal's size through many layers, and biases of 0. @param {() => number} random */
export function newWeights(random) {
  const weights = emptyWeights();
  for (const { weight, bias } of [...weights.encoder, ...weights.decoder]) {
    const scale = Math.sqrt(2 * bias.length / weight.length);
    for (let i = 0; i < weight.length; i++) weight[i] = scale * normal(random);
  }
  weights.decoder[weights.decoder.length - 1].bias.fill(FIRST_LOGIT);
  return weights;
}

// ---------------------------------------------------------------------------------------------------- whole batches
// Rows of a batch lie one after the other. Each loop works on 4 x 2 numbers at once, and so reads each one less often:
// this makes a step half as fast again. The rows of a batch and the outputs of a layer are divisible by 4.

/** @param {Layer} layer @param {Float64Array} x @param {number} rows */
function linearOfRows({ weight, bias }, x, rows) {
  const outputs = bias.length, inputs = weight.length / outputs, y = new Float64Array(rows * outputs);
  for (let r = 0; r < rows; r += 4) {
    const x0 = r * inputs, x1 = x0 + inputs, x2 = x1 + inputs, x3 = x2 + inputs;
    for (let o = 0; o < outputs; o += 2) {
      const w0 = o * inputs, w1 = w0 + inputs;
      let a0 = bias[o], a1 = a0, a2 = a0, a3 = a0, b0 = bias[o + 1], b1 = b0, b2 = b0, b3 = b0;
      for (let i = 0; i < inputs; i++) {
        const a = weight[w0 + i], b = weight[w1 + i], v0 = x[x0 + i], v1 = x[x1 + i], v2 = x[x2 + i], v3 = x[x3 + i];
        a0 += a * v0; a1 += a * v1; a2 += a * v2; a3 += a * v3;
        b0 += b * v0; b1 += b * v1; b2 += b * v2; b3 += b * v3;
      }
      const at = r * outputs + o;
      y[at] = a0; y[at + outputs] = a1; y[at + 2 * outputs] = a2; y[at + 3 * outputs] = a3;
      y[at + 1] = b0; y[at + outputs + 1] = b1; y[at + 2 * outputs + 1] = b2; y[at + 3 * outputs + 1] = b3;
    }
  }
  return y;
}

/**
 * The gradients of a layer, added to `into`, and of what went into it.
 * @param {Layer} layer @param {Float64Array} x @param {Float64Array} g  the gradient of what came out
 * @param {Layer} into @param {number} rows
 */
function linearGradient({ weight, bias }, x, g, into, rows) {
  const outputs = bias.length, inputs = weight.length / outputs, before = new Float64Array(rows * inputs), of = into.weight;
  for (let o = 0; o < outputs; o += 2) {
    const w0 = o * inputs, w1 = w0 + inputs;
    for (let r = 0; r < rows; r += 4) {
      const x0 = r * inputs, x1 = x0 + inputs, x2 = x1 + inputs, x3 = x2 + inputs, at = r * outputs + o;
      const a0 = g[at], a1 = g[at + outputs], a2 = g[at + 2 * outputs], a3 = g[at + 3 * outputs];
      const b0 = g[at + 1], b1 = g[at + outputs + 1], b2 = g[at + 2 * outputs + 1], b3 = g[at + 3 * outputs + 1];
      into.bias[o] += a0 + a1 + a2 + a3;
      into.bias[o + 1] += b0 + b1 + b2 + b3;
      for (let i = 0; i < inputs; i++) {
        const v0 = x[x0 + i], v1 = x[x1 + i], v2 = x[x2 + i], v3 = x[x3 + i];
        of[w0 + i] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3;
        of[w1 + i] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3;
      }
    }
  }
  for (let r = 0; r < rows; r += 2) {
    const left = r * inputs, right = left + inputs;
    for (let o = 0; o < outputs; o += 4) {
      const w0 = o * inputs, w1 = w0 + inputs, w2 = w1 + inputs, w3 = w2 + inputs, at = r * outputs + o, next = at + outputs;
      const a0 = g[at], a1 = g[at + 1], a2 = g[at + 2], a3 = g[at + 3];
      const b0 = g[next], b1 = g[next + 1], b2 = g[next + 2], b3 = g[next + 3];
      for (let i = 0; i < inputs; i++) {
        const v0 = weight[w0 + i], v1 = weight[w1 + i], v2 = weight[w2 + i], v3 = weight[w3 + i];
        before[left + i] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3;
        before[right + i] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3;
      }
    }
  }
  return before;
}

// The first layer sees black-and-white images: its sums go over the inked pixels, an eighth of them.

/** @param {Layer} layer @param {Uint16Array[]} images  the inked pixels of each */
function linearOfInk({ weight, bias }, images) {
  const outputs = bias.length, y = new Float64Array(images.length * outputs);
  for (let o = 0; o < outputs; o += 4) {
    const w0 = o * PIXELS, w1 = w0 + PIXELS, w2 = w1 + PIXELS, w3 = w2 + PIXELS;
    for (let r = 0, at = o; r < images.length; r++, at += outputs) {
      const inked = images[r];
      let y0 = bias[o], y1 = bias[o + 1], y2 = bias[o + 2], y3 = bias[o + 3];
      for (let i = 0; i < inked.length; i++) {
        const p = inked[i];
        y0 += weight[w0 + p]; y1 += weight[w1 + p]; y2 += weight[w2 + p]; y3 += weight[w3 + p];
      }
      y[at] = y0; y[at + 1] = y1; y[at + 2] = y2; y[at + 3] = y3;
    }
  }
  return y;
}

/** @param {Uint16Array[]} images @param {Float64Array} g @param {Layer} into */
function linearGradientOfInk(images, g, into) {
  const outputs = into.bias.length;
  for (let o = 0; o < outputs; o++) {
    for (let r = 0, w = o * PIXELS; r < images.length; r++) {
      const inked = images[r], slope = g[r * outputs + o];
      into.bias[o] += slope;
      for (let i = 0; i < inked.length; i++) into.weight[w + inked[i]] += slope;
    }
  }
}

/** What each layer makes of a batch, with a SiLU between two of them. `first` is what the first one makes. */
function forwardRows(layers, first, rows) {
  const outputs = [first];
  for (const layer of layers.slice(1)) outputs.push(linearOfRows(layer, outputs[outputs.length - 1].map(silu), rows));
  return outputs;
}

/** Gradients of all layers but the first, and of what the first one made. */
function backwardRows(layers, outputs, gradient, into, rows) {
  for (let l = layers.length - 1; l > 0; l--) {
    gradient = linearGradient(layers[l], outputs[l - 1].map(silu), gradient, into[l], rows);
    for (let i = 0; i < gradient.length; i++) gradient[i] *= siluSlope(outputs[l - 1][i]);
  }
  return gradient;
}

/**
 * Means and log variances of q(z|x), two each for an image, with the bound of vae_utils.py.
 * @param {Float64Array} raw  what the encoder made, 4 numbers for each image
 */
function posteriorOf(raw) {
  const rows = raw.length / 4, mu = new Float64Array(2 * rows), logvar = new Float64Array(2 * rows);
  for (let i = 0; i < 2 * rows; i++) {
    const at = 4 * (i >> 1) + i % 2;
    mu[i] = raw[at];
    logvar[i] = 8 * Math.tanh(raw[at + 2] / 8) - 4;
  }
  return { mu, logvar };
}

/** q(z|x) of images. @param {Weights} weights @param {Uint16Array[]} images  a number of them divisible by 4 */
function encodeAll({ encoder }, images) {
  const outputs = forwardRows(encoder, linearOfInk(encoder[0], images), images.length);
  return posteriorOf(outputs[encoder.length - 1]);
}

/** Logits at codes, 784 for each. @param {Weights} weights @param {Float64Array} z  two numbers for each of 4 n codes */
function decodeAll({ decoder }, z) {
  return forwardRows(decoder, linearOfRows(decoder[0], z, z.length / 2), z.length / 2)[decoder.length - 1];
}

// ---------------------------------------------------------------------------------------- the loss, and its gradient

/** KL(q(z|x) || p(z)) of one coordinate, or mu² / 2 alone. */
const priceOf = (mu, logvar, price) => (price === "kl" ? mu ** 2 + Math.expm1(logvar) - logvar : mu ** 2) / 2;

/**
 * The loss of a batch and its gradient in all weights.
 * @param {Weights} weights @param {Uint16Array[]} images @param {Numbers} noise  two numbers for each image
 * @param {Settings} settings @returns {Terms & { gradient: Float64Array }}
 */
export function lossAndGradient(weights, images, noise, settings) {
  const { encoder, decoder, all } = weights, rows = images.length, into = emptyWeights();
  const encoded = forwardRows(encoder, linearOfInk(encoder[0], images), rows);
  const { mu, logvar } = posteriorOf(encoded[encoder.length - 1]);
  const drawn = settings.noise ? 1 : 0, z = mu.map((v, i) => v + drawn * Math.exp(logvar[i] / 2) * noise[i]);
  const decoded = forwardRows(decoder, linearOfRows(decoder[0], z, rows), rows), logits = decoded[decoder.length - 1];

  const gaussian = settings.pixels === "gaussian", logSigma = all[all.length - 1], precision = Math.exp(-2 * logSigma);
  const share = 1 / (rows * (settings.mean ? PIXELS : 1)), slopes = logits;  // in place: logits are read once
  let pixels = 0, squares = 0;
  for (let r = 0, at = 0; r < rows; r++) {
    const inked = images[r];
    for (let p = 0, next = 0; p < PIXELS; p++, at++) {
      const x = inked[next] === p ? 1 : 0, picture = sigmoid(logits[at]);
      next += x;
      if (gaussian) {
        squares += (picture - x) ** 2;
        slopes[at] = share * precision * (picture - x) * picture * (1 - picture);
      } else {
        pixels += softplus(logits[at]) - x * logits[at];
        slopes[at] = share * (picture - x);
      }
    }
  }
  if (gaussian) {
    pixels = precision * squares / 2 + rows * PIXELS * (logSigma + HALF_LOG_2PI);
    if (settings.sigmaX === null) into.all[all.length - 1] = share * (rows * PIXELS - precision * squares);
  }

  const afterFirst = backwardRows(decoder, decoded, slopes, into.decoder, rows);
  const ofZ = linearGradient(decoder[0], z, afterFirst, into.decoder[0], rows);
  const raw = encoded[encoder.length - 1], ofRaw = new Float64Array(raw.length), pull = settings.beta / rows;
  let code = 0;
  for (let i = 0; i < mu.length; i++) {
    const at = 4 * (i >> 1) + i % 2, half = drawn * Math.exp(logvar[i] / 2) * noise[i] / 2;
    const ofLogvar = ofZ[i] * half + (settings.price === "kl" ? pull * Math.expm1(logvar[i]) / 2 : 0);
    code += priceOf(mu[i], logvar[i], settings.price);
    ofRaw[at] = ofZ[i] + pull * mu[i];
    ofRaw[at + 2] = ofLogvar * (1 - Math.tanh(raw[at + 2] / 8) ** 2);
  }
  linearGradientOfInk(images, backwardRows(encoder, encoded, ofRaw, into.encoder, rows), into.encoder[0]);
  const terms = { pixels: pixels / rows, code: code / rows };
  return { ...terms, trained: terms.pixels / (settings.mean ? PIXELS : 1) + settings.beta * terms.code, gradient: into.all };
}

// ---------------------------------------------------------------------------------------------------------- training

/**
 * @typedef {object} Training
 * @property {Weights} weights
 * @property {Float64Array[]} averages  Adam's, of the gradient and of its square
 * @property {() => number} random
 * @property {number[]} order  of the digits in this epoch
 * @property {number} step
 */

/** From new weights, or from given ones. @param {number} seed @param {Weights} [weights] @returns {Training} */
export function createTraining(seed, weights) {
  const random = createRandom(seed);
  weights ??= newWeights(random);
  const averages = DECAYS.map(() => new Float64Array(weights.all.length));
  return { weights, averages, random, order: [], step: 0 };
}

/** @param {number} count @param {() => number} random */
function shuffled(count, random) {
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor((i + 1) * random());
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/**
 * One step on the next batch. What is left of an epoch that is too small for a batch is filled from the next epoch.
 * @param {Training} training @param {Uint16Array[]} images @param {Settings} settings @returns {Terms}
 */
export function trainStep(training, images, settings) {
  const { weights: { all }, random } = training, count = Math.min(settings.digits, images.length), batch = [];
  while (batch.length < BATCH) {
    const next = training.order.pop();
    if (next === undefined) training.order = shuffled(count, random);
    else if (next < count) batch.push(images[next]);
  }
  if (settings.sigmaX !== null) all[all.length - 1] = Math.log(settings.sigmaX);
  const noise = Float64Array.from({ length: 2 * BATCH }, () => normal(random));
  const { gradient, ...terms } = lossAndGradient(training.weights, batch, noise, settings);
  training.step++;
  const [first, second] = training.averages, [a, b] = DECAYS;
  const rate = LEARNING_RATE / (1 - a ** training.step), scale = 1 / Math.sqrt(1 - b ** training.step);
  for (let i = 0; i < all.length; i++) {
    first[i] += (1 - a) * (gradient[i] - first[i]);
    second[i] += (1 - b) * (gradient[i] ** 2 - second[i]);
    all[i] -= rate * first[i] / (scale * Math.sqrt(second[i]) + EPSILON);
  }
  return terms;
}

// ---------------------------------------------------------------------------------------------------------- measuring

const NOISE_SEED = 7;               // of the draws of z with which a cost is measured: the same ones every time
const SAMPLES = 16;
const TUG = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1 / Math.SQRT2, 1, Math.SQRT2, 2, 4, 8, 16];  // times the encoder's sigma

/** The 784 pixels of an image that is given by its inked ones. @param {Uint16Array} inked */
export function pixelsOf(inked) {
  const x = new Float32Array(PIXELS);
  for (const p of inked) x[p] = 1;
  return x;
}

/**
 * What images cost, in nats, means over them: pixels, KL, and mu² / 2. The pixels by their cross-entropy, whatever is
 * trained, so that the costs of all runs can be compared.
 * @param {Weights} weights @param {Uint16Array[]} images  a number of them divisible by 4 @param {boolean} noise
 */
export function costOf(weights, images, noise) {
  const { mu, logvar } = encodeAll(weights, images), random = createRandom(NOISE_SEED);
  const z = mu.map((v, i) => v + (noise ? Math.exp(logvar[i] / 2) * normal(random) : 0)), logits = decodeAll(weights, z);
  let pixels = sumOf(logits.map(softplus));
  images.forEach((inked, r) => inked.forEach(p => { pixels -= logits[r * PIXELS + p]; }));
  const mean = price => sumOf(mu.map((v, i) => priceOf(v, logvar[i], price))) / images.length;
  return { pixels: pixels / images.length, kl: mean("kl"), square: mean("mu") };
}

/**
 * One digit: its picture, what each pixel costs, and both terms; over q(z|x), or at mu where z is mu.
 * @param {Weights} weights @param {Float32Array} x @param {Posterior} q @param {boolean} noise
 */
function lookAt(weights, x, q, noise) {
  const { costs, reconstruction, latent } = noise ? lossOver(weights, x, q) : lossAt(weights, x, q.mu);
  const square = (q.mu[0] ** 2 + q.mu[1] ** 2) / 2;
  return { ...q, x, picture: pictureOf(weights, q.mu), costs, pixels: reconstruction, code: noise ? latent : square };
}

// The average over q(z|x) is a Gauss-Hermite rule of 4 x 4 points, in sigmas, with their shares.
const FAR = Math.sqrt(3 + Math.sqrt(6)), NEAR = Math.sqrt(3 - Math.sqrt(6)), RARE = (3 - Math.sqrt(6)) / 12;
const RULE_OF_4 = [[-FAR, RARE], [-NEAR, 0.5 - RARE], [NEAR, 0.5 - RARE], [FAR, RARE]];
const POINTS_OF_16 = RULE_OF_4.flatMap(([a, share]) => RULE_OF_4.map(([b, other]) => [a, b, share * other]));

/**
 * What the two terms of the loss would be for one digit if its sigma were TUG times as large.
 * @param {Weights} weights @param {Float32Array} x @param {Posterior} q @param {Settings} settings
 */
function tugOfWar(weights, x, { mu, logvar }, { pixels: likelihood, price, sigmaX }) {
  const logSigma = sigmaX === null ? weights.all[weights.all.length - 1] : Math.log(sigmaX);
  /** @param {number} logit @param {number} x */
  const costOfPixel = likelihood === "gaussian"
    ? (logit, x) => Math.exp(-2 * logSigma) * (sigmoid(logit) - x) ** 2 / 2 + logSigma + HALF_LOG_2PI
    : (logit, x) => softplus(logit) - x * logit;
  return TUG.map(times => {
    const sigma = logvar.map(v => times * Math.exp(v / 2));
    const z = POINTS_OF_16.flatMap(([a, b]) => [mu[0] + a * sigma[0], mu[1] + b * sigma[1]]);
    const logits = decodeAll(weights, Float64Array.from(z));
    let pixels = 0;
    for (let i = 0; i < logits.length; i++) {
      pixels += POINTS_OF_16[Math.floor(i / PIXELS)][2] * costOfPixel(logits[i], x[i % PIXELS]);
    }
    const code = sumOf(mu.map((v, i) => priceOf(v, 2 * Math.log(sigma[i]), price)));
    return { times, pixels, code };
  });
}

/** Pictures of the same 16 draws of the prior. @param {Weights} weights */
function samplesOf(weights) {
  const random = createRandom(NOISE_SEED);
  return decodeAll(weights, Float64Array.from({ length: 2 * SAMPLES }, () => normal(random))).map(sigmoid);
}

/**
 * All that the page shows of a state.
 * @param {Weights} weights @param {{ images: Uint16Array[], held: Uint16Array[] }} digits
 * @param {Float32Array[]} shown  the digits that are shown one by one; the first one's tug of war is computed
 * @param {Settings} settings
 */
export function measure(weights, { images, held }, shown, settings) {
  const { mu, logvar } = encodeAll(weights, held), used = Math.min(64, settings.digits, images.length);
  const each = shown.map(x => lookAt(weights, x, encode(weights, x), settings.noise));
  return {
    mu, logvar, each,
    heldCost: costOf(weights, held.slice(0, 200), settings.noise),
    trainingCost: costOf(weights, images.slice(0, used - used % 4), settings.noise),
    samples: samplesOf(weights), tug: tugOfWar(weights, shown[0], each[0], settings),
    sigmaX: Math.exp(weights.all[weights.all.length - 1]),
  };
}
