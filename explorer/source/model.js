// @ts-check
// The mathematics of the pages, as in vae_utils.py: networks, losses, the loss of one image at every z, the search for
// its best code, and a digit from strokes. Nothing here knows of a page, so it runs in a worker and without a browser.

export const SIDE = 28;                    // pixels along an image
export const PEN_WIDTH = 2.8;              // in pixels of the 28 x 28 image
const DIGIT_SIDE = 20;              // pixels along the box that a digit fits
const MASS_CENTRE = 14.5;           // where MNIST has the centre of mass: in the middle of pixel 14, counted from 0
const PEN_EDGE = 1;                 // width of the pen's soft edge, half of it outside the pen
const SPARE = 0.1;                  // pixels that a line may move when points are left out
const SMALLEST_DRAWING = 0.12;      // a drawing smaller than this share of the pad is not blown up to 20 pixels
const GRID_SIDE = 65;               // places along the side of the map of the loss,
const GRID_STEPS = [8, 4, 2, 1];    // of which every 8th is computed first, then every 4th, ...
const MOST_STEPS = 60;              // of a descent,
const ENOUGH = 0.01;                // which ends when a step promises to save fewer nats
const SEARCH_STEP = 2;              // of the grid, on whose map the search for the best code begins,
const SEARCH_MINIMA = 4;            // at so many of its local minima
const SEARCH_SLICE = 8;              // milliseconds in which the search computes places of the grid before it yields

/** @typedef {ArrayLike<number>} Numbers */
/** @typedef {number[]} Code  a place z of the plane */
/** @typedef {number[][]} Stroke  points from 0 to 1 across the pad; y grows downwards */
/** @typedef {{ weight: Numbers, bias: Numbers }} Layer  weight: (outputs, inputs), by rows */
/** @typedef {{ encoder: Layer[], decoder: Layer[] }} Model */
/** @typedef {{ mu: number[], logvar: number[] }} Posterior  q(z|x), a normal distribution without correlations */
/**
 * In nats: `costs` of the pixels and their sum, the code's own cost, and both together.
 * @typedef {{ costs: Float32Array, reconstruction: number, latent: number, total: number }} Loss
 */
/** @typedef {Posterior & { loss: number, missed: number }} BestCode  with what it saves against the encoder's */

// ------------------------------------------------------------------------------- numbers that explorer.py has packed

/** @param {string} base64 */
export function unpackBytes(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** @param {{ scale: number, int16: string }} packed */
export function unpackNumbers({ scale, int16 }) {
  const whole = new Int16Array(unpackBytes(int16).buffer), numbers = new Float32Array(whole.length);
  for (let i = 0; i < whole.length; i++) numbers[i] = whole[i] * scale;
  return numbers;
}

/** @returns {Layer} */
export const unpackLayer = ({ weight, bias }) => ({ weight: unpackNumbers(weight), bias: unpackNumbers(bias) });

// ------------------------------------------------------------------------------------------------------ the networks

export const silu = v => v / (1 + Math.exp(-v));
export const sigmoid = v => 1 / (1 + Math.exp(-v));
export const siluSlope = v => sigmoid(v) * (1 + v * (1 - sigmoid(v)));
export const softplus = v => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));

/** @param {ArrayLike<number> & Iterable<number>} numbers */
export function sumOf(numbers) {
  let sum = 0;
  for (const v of numbers) sum += v;
  return sum;
}

/** @param {Layer} layer @param {Numbers} x */
function linear({ weight, bias }, x) {
  const y = new Float32Array(bias.length), width = x.length;
  for (let o = 0; o < y.length; o++) {
    let sum = bias[o];
    for (let i = 0, w = o * width; i < width; i++, w++) sum += weight[w] * x[i];
    y[o] = sum;
  }
  return y;
}

/**
 * What each linear layer of a network makes of x, with a SiLU between two of them; the last is what the network makes.
 * @param {Layer[]} layers @param {Numbers} x
 */
function forward(layers, x) {
  /** @type {Float32Array[]} */
  const outputs = [];
  for (const layer of layers) outputs.push(linear(layer, outputs.length ? outputs[outputs.length - 1].map(silu) : x));
  return outputs;
}

/**
 * The gradient in what goes into a network, of a number whose gradient in what comes out is `gradient`.
 * @param {Layer[]} layers @param {Float32Array[]} outputs  those of `forward` @param {Float32Array} gradient
 */
function backward(layers, outputs, gradient) {
  for (let l = layers.length - 1; l >= 0; l--) {
    const { weight } = layers[l], width = weight.length / gradient.length, before = new Float32Array(width);
    for (let o = 0, w = 0; o < gradient.length; o++) {
      for (let i = 0; i < width; i++, w++) before[i] += gradient[o] * weight[w];
    }
    if (l > 0) for (let i = 0; i < width; i++) before[i] *= siluSlope(outputs[l - 1][i]);
    gradient = before;
  }
  return gradient;
}

/** @param {Layer[]} layers @param {Numbers} x */
const outputOf = (layers, x) => forward(layers, x)[layers.length - 1];

/**
 * Mean and log variance of q(z|x) for an image of 784 numbers from 0 to 1.
 * @param {Model} model @param {Numbers} x @returns {Posterior}
 */
export function encode({ encoder }, x) {
  const numbers = Array.from(outputOf(encoder, x));
  return { mu: numbers.slice(0, 2), logvar: numbers.slice(2).map(raw => 8 * Math.tanh(raw / 8) - 4) };
}

/** @param {{ logvar: number[] }} q */
export const sigmaOf = ({ logvar }) => logvar.map(v => Math.exp(v / 2));

/**
 * Logits of p(x|z); their sigmoid is the picture.
 * @param {Model} model @param {Code} z
 */
const decode = ({ decoder }, z) => outputOf(decoder, z);

/** @param {Model} model @param {Code} z */
export const pictureOf = (model, z) => decode(model, z).map(sigmoid);

// -------------------------------------------------------------------------------------------------------- the losses

/** −log p(z), in nats. @param {Code} z */
const costOfCode = z => (z[0] ** 2 + z[1] ** 2) / 2 + Math.log(2 * Math.PI);

/**
 * Add what the pixels of x cost at z: minus the log-probability of each under the Bernoulli that the decoder gives it.
 * @param {Float32Array} costs @param {Model} model @param {Numbers} x @param {Code} z @param {number} share
 */
function addCosts(costs, model, x, z, share) {
  const logits = decode(model, z);
  for (let i = 0; i < x.length; i++) costs[i] += share * (softplus(logits[i]) - x[i] * logits[i]);
}

/** @param {Float32Array} costs @param {number} latent @returns {Loss} */
function lossOf(costs, latent) {
  const reconstruction = sumOf(costs);
  return { costs, reconstruction, latent, total: reconstruction + latent };
}

/**
 * Minus log p(x, z).
 * @param {Model} model @param {Numbers} x @param {Code} z
 */
export function lossAt(model, x, z) {
  const costs = new Float32Array(x.length);
  addCosts(costs, model, x, z, 1);
  return lossOf(costs, costOfCode(z));
}

// The average over q(z|x) is a Gauss-Hermite rule of 3 x 3 points, in sigmas, with their shares: no noise, no flicker.
const RULE = [[-Math.sqrt(3), 1 / 6], [0, 2 / 3], [Math.sqrt(3), 1 / 6]];
const POINTS = RULE.flatMap(([a, share]) => RULE.map(([b, other]) => [a, b, share * other]));

/**
 * Minus the ELBO.
 * @param {Model} model @param {Numbers} x @param {Posterior} q
 */
export function lossOver(model, x, q) {
  const costs = new Float32Array(x.length), { mu, logvar } = q, sigma = sigmaOf(q);
  let latent = 0;
  for (const [a, b, share] of POINTS) addCosts(costs, model, x, [mu[0] + a * sigma[0], mu[1] + b * sigma[1]], share);
  for (const i of [0, 1]) latent += 0.5 * (mu[i] ** 2 + Math.expm1(logvar[i]) - logvar[i]);
  return lossOf(costs, latent);
}

// ----------------------------------------------------------------------------------- the loss of one image at every z

/**
 * −log p(x|z) is sum(softplus(logits)) − x · logits, and the logits do not depend on x. So the decoder runs once for
 * each place of the grid, and a new drawing costs a scalar product for each.
 * @typedef {object} Grid
 * @property {Model} model
 * @property {number} reach  the plane goes from -reach to reach
 * @property {Float32Array} logits  784 for each place, by rows; the first row is the upper one
 * @property {Float32Array} constants  what does not depend on x
 * @property {number} done  places of `order` that are computed
 * @property {number[]} order  the places, those of a coarser grid first
 * @property {number[]} ends  where in `order` the grid of each of GRID_STEPS is complete
 */
/** @typedef {{ step: number, side: number, values: Float32Array, cheapest: number, cheapestZ: Code }} LossMap */

/** @param {Model} model @param {number} reach @returns {Grid} */
export function createGrid(model, reach) {
  /** @type {number[]} */
  const order = [], ends = [];
  GRID_STEPS.forEach((step, i) => {
    for (let row = 0; row < GRID_SIDE; row += step) {
      for (let column = 0; column < GRID_SIDE; column += step) {
        if (i === 0 || (row | column) % GRID_STEPS[i - 1]) order.push(row * GRID_SIDE + column);
      }
    }
    ends.push(order.length);
  });
  const logits = new Float32Array(GRID_SIDE ** 2 * SIDE ** 2), constants = new Float32Array(GRID_SIDE ** 2);
  return { model, reach, logits, constants, done: 0, order, ends };
}

/** @param {Grid} grid @param {number} place @returns {Code} */
function placeOnGrid({ reach }, place) {
  const [row, column] = [Math.floor(place / GRID_SIDE), place % GRID_SIDE];
  return [(2 * column / (GRID_SIDE - 1) - 1) * reach, (1 - 2 * row / (GRID_SIDE - 1)) * reach];
}

/**
 * The step between the places that are computed throughout; infinite before the first of GRID_STEPS.
 * @param {Grid} grid
 */
export const gridStep = ({ ends, done }) => GRID_STEPS[ends.filter(end => end <= done).length - 1] ?? Infinity;

/**
 * Compute more places for so many milliseconds, or until every `step`-th is there.
 * @param {Grid} grid @param {number} milliseconds
 */
export function refineGrid(grid, milliseconds, step = 1) {
  const start = performance.now();
  while (gridStep(grid) > step && performance.now() - start < milliseconds) {
    const place = grid.order[grid.done], z = placeOnGrid(grid, place), logits = decode(grid.model, z);
    grid.logits.set(logits, place * logits.length);
    grid.constants[place] = sumOf(logits.map(softplus)) + costOfCode(z);
    grid.done++;
  }
}

/**
 * −log p(x, z) at every `step`-th place, by rows, and the cheapest place.
 * @param {Grid} grid @param {Float32Array} x @returns {LossMap}
 */
export function mapOfLoss(grid, x, step = gridStep(grid)) {
  const side = (GRID_SIDE - 1) / step + 1, values = new Float32Array(side * side);
  const inked = [...x.keys()].filter(i => x[i] > 0);
  const placeOf = i => (Math.floor(i / side) * GRID_SIDE + i % side) * step;
  let cheapest = 0;
  for (let i = 0; i < values.length; i++) {
    const place = placeOf(i), start = place * x.length;
    values[i] = grid.constants[place];
    for (const pixel of inked) values[i] -= x[pixel] * grid.logits[start + pixel];
    if (values[i] < values[cheapest]) cheapest = i;
  }
  return { step, side, values, cheapest: values[cheapest], cheapestZ: placeOnGrid(grid, placeOf(cheapest)) };
}

/**
 * The map's value at a place given in shares of its side, between its four neighbours.
 * @param {LossMap} map @param {number} right @param {number} down
 */
export function valueBetween({ side, values }, right, down) {
  const [x, y] = [right * (side - 1), down * (side - 1)], [column, row] = [Math.floor(x), Math.floor(y)];
  const at = (r, c) => values[r * side + c], [tx, ty] = [x - column, y - row];
  return (1 - ty) * ((1 - tx) * at(row, column) + tx * at(row, column + 1)) +
    ty * ((1 - tx) * at(row + 1, column) + tx * at(row + 1, column + 1));
}

// ------------------------------------------------------------------------------------- the search for the best z and q

/**
 * −log p(x|z), and its gradient in z.
 * @param {Model} model @param {Numbers} x @param {Code} z
 */
function pixelsAndSlope({ decoder }, x, z) {
  const outputs = forward(decoder, z), logits = outputs[decoder.length - 1];
  let value = 0;
  for (let i = 0; i < x.length; i++) value += softplus(logits[i]) - x[i] * logits[i];
  return { value, slope: backward(decoder, outputs, logits.map((v, i) => sigmoid(v) - x[i])) };
}

/** −log p(x, z), and its gradient in z. @param {Model} model @param {Numbers} x @param {Code} z */
function slopeAt(model, x, z) {
  const { value, slope } = pixelsAndSlope(model, x, z);
  return { value: value + costOfCode(z), slope: [slope[0] + z[0], slope[1] + z[1]] };
}

/**
 * Minus the ELBO, and its gradient in the numbers of q: both of mu, then both of logvar.
 * @param {Model} model @param {Numbers} x @param {number[]} numbers
 */
function slopeOver(model, x, numbers) {
  const mu = numbers.slice(0, 2), logvar = numbers.slice(2), sigma = sigmaOf({ logvar }), total = [0, 0, 0, 0];
  let value = 0;
  for (const [a, b, share] of POINTS) {
    const at = pixelsAndSlope(model, x, [mu[0] + a * sigma[0], mu[1] + b * sigma[1]]);
    value += share * at.value;
    [a, b].forEach((far, i) => {
      total[i] += share * at.slope[i];
      total[2 + i] += share * at.slope[i] * far * sigma[i] / 2;
    });
  }
  for (const i of [0, 1]) {
    value += 0.5 * (mu[i] ** 2 + Math.expm1(logvar[i]) - logvar[i]);
    total[i] += mu[i];
    total[2 + i] += 0.5 * Math.expm1(logvar[i]);
  }
  return { value, slope: total };
}

/**
 * Descend from a place by the method of Broyden, Fletcher, Goldfarb and Shanno; yields after each evaluation.
 * @param {(place: number[]) => { value: number, slope: number[] }} evaluate
 * @param {number[]} place @param {number[]} scales  the first guess of the inverse second derivatives
 * @returns {Generator<void, { place: number[], value: number }>}
 */
function* descend(evaluate, place, scales) {
  const dot = (a, b) => sumOf(a.map((v, i) => v * b[i]));
  let here = evaluate(place), inverse = scales.map((scale, i) => scales.map((_, j) => (i === j ? scale : 0)));
  yield;
  for (let step = 0; step < MOST_STEPS; step++) {
    const direction = inverse.map(row => -dot(row, here.slope)), fall = -dot(direction, here.slope);
    if (fall < ENOUGH) break;  // about twice what is left to save
    let next, there;
    for (let share = 1; share > 1e-3; share /= 3) {
      next = place.map((v, i) => v + share * direction[i]);
      there = evaluate(next);
      yield;
      if (there.value < here.value - 1e-4 * share * fall) break;
    }
    if (there.value >= here.value) break;
    const moved = next.map((v, i) => v - place[i]), turned = there.slope.map((v, i) => v - here.slope[i]);
    [place, here] = [next, there];
    const curvature = dot(moved, turned);
    if (curvature < 1e-9) continue;
    const bent = inverse.map(row => dot(row, turned)), factor = (1 + dot(turned, bent) / curvature) / curvature;
    inverse = inverse.map((row, i) => row.map((v, j) =>
      v + factor * moved[i] * moved[j] - (bent[i] * moved[j] + moved[i] * bent[j]) / curvature));
  }
  return { place, value: here.value };
}

/**
 * The places of a map that none beside them is cheaper than, the cheapest first.
 * @param {Grid} grid @param {LossMap} map
 */
function localMinima(grid, { step, side, values }) {
  const places = [];
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const value = values[row * side + column], around = [];
      for (let r = Math.max(0, row - 1); r <= Math.min(side - 1, row + 1); r++) {
        around.push(...values.subarray(r * side + Math.max(0, column - 1), r * side + Math.min(side, column + 2)));
      }
      if (around.every(other => other >= value)) places.push({ value, place: (row * GRID_SIDE + column) * step });
    }
  }
  return places.sort((a, b) => a.value - b.value).map(({ place }) => placeOnGrid(grid, place));
}

/**
 * The z where −log p(x, z) is least: the cheapest of the map and mu, both after a descent, for the places of the map
 * lie several sigmas apart.
 * @param {Model} model @param {Numbers} x @param {Code[]} starts
 */
export function cheapestZ(model, x, starts) {
  const found = starts.map(z => finish(descend(place => slopeAt(model, x, place), [...z], [0.001, 0.001])));
  const { place, value } = found.reduce((a, b) => (b.value < a.value ? b : a));
  return { z: place, value };
}

/** What a generator returns at its end. @template T @param {Generator<unknown, T>} search @returns {T} */
function finish(search) {
  let step = search.next();
  while (!step.done) step = search.next();
  return /** @type {T} */ (step.value);
}

/**
 * The best q(z|x) that descents from the encoder's and from the cheapest places of a coarse map find, what it saves.
 * Yields how many of the descents are done, from 0 to 1.
 * @param {Grid} grid @param {Float32Array} x @param {Posterior} posterior @returns {Generator<number, BestCode>}
 */
export function* searchBestCode(grid, x, posterior) {
  while (gridStep(grid) > SEARCH_STEP) {
    refineGrid(grid, SEARCH_SLICE, SEARCH_STEP);
    yield 0;
  }
  const { model } = grid, { mu, logvar } = posterior;
  const starts = [mu, ...localMinima(grid, mapOfLoss(grid, x, SEARCH_STEP)).slice(0, SEARCH_MINIMA)];
  let best = { place: mu, value: Infinity };
  for (const [i, start] of starts.entries()) {
    const scales = [...logvar.map(Math.exp), 1, 1];
    const search = descend(numbers => slopeOver(model, x, numbers), [...start, ...logvar], scales);
    let step = search.next();
    for (; !step.done; step = search.next()) yield i / starts.length;
    if (step.value.value < best.value) best = step.value;
  }
  const { place, value } = best, missed = lossOver(model, x, posterior).total - value;
  return { mu: place.slice(0, 2), logvar: place.slice(2), loss: value, missed };
}

// ------------------------------------------------------------------------- from strokes to an image as MNIST has them

/**
 * From a point (x, y) to the line that goes from the origin to (dx, dy).
 * @param {number} x @param {number} y @param {number} dx @param {number} dy
 */
function distanceToLine(x, y, dx, dy) {
  const length = dx * dx + dy * dy, t = length > 0 ? Math.min(1, Math.max(0, (x * dx + y * dy) / length)) : 0;
  return Math.hypot(x - t * dx, y - t * dy);
}

/**
 * Ink of strokes whose points are in pixels: 1 inside the pen, 0 outside, and a soft edge one pixel wide.
 * @param {Stroke[]} strokes
 */
function rasterise(strokes) {
  const image = new Float32Array(SIDE * SIDE), radius = (PEN_WIDTH + PEN_EDGE) / 2;
  const range = (a, b) =>
    [Math.max(0, Math.floor(Math.min(a, b) - radius)), Math.min(SIDE - 1, Math.ceil(Math.max(a, b) + radius))];
  for (const stroke of strokes) {
    for (let s = 0; s < stroke.length; s++) {
      const [ax, ay] = stroke[Math.max(0, s - 1)], [bx, by] = stroke[s];
      const [left, right] = range(ax, bx), [top, bottom] = range(ay, by);
      for (let row = top; row <= bottom; row++) {
        for (let column = left; column <= right; column++) {
          const distance = distanceToLine(column + 0.5 - ax, row + 0.5 - ay, bx - ax, by - ay);
          const ink = Math.min(1, (radius - distance) / PEN_EDGE);
          if (ink > image[row * SIDE + column]) image[row * SIDE + column] = ink;
        }
      }
    }
  }
  return image;
}

/** @param {Float32Array} image */
function centreOfMass(image) {
  let mass = 0, x = 0, y = 0;
  image.forEach((ink, i) => { mass += ink; x += ink * (i % SIDE + 0.5); y += ink * (Math.floor(i / SIDE) + 0.5); });
  return [x / mass, y / mass];
}

/**
 * How many pixels of the image a pad's side has, and the middle of the strokes on the pad.
 * @param {Stroke[]} strokes
 */
function frameOf(strokes) {
  const points = strokes.flat(), xs = points.map(p => p[0]), ys = points.map(p => p[1]);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = (DIGIT_SIDE - PEN_WIDTH - PEN_EDGE) / Math.max(right - left, bottom - top, SMALLEST_DRAWING);
  return { scale, middle: [(left + right) / 2, (top + bottom) / 2] };
}

/**
 * The same strokes with few points: none that is left out was farther from its line than SPARE pixels of the image.
 * By the method of Douglas and Peucker.
 * @param {Stroke[]} strokes @returns {Stroke[]}
 */
export function withoutSparePoints(strokes) {
  const { scale } = frameOf(strokes);
  /** @param {Stroke} stroke @returns {Stroke} */
  const fewer = stroke => {
    const [a, b] = [stroke[0], stroke[stroke.length - 1]], [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    const distances = stroke.map(([x, y]) => distanceToLine(x - a[0], y - a[1], dx, dy));
    const furthest = distances.indexOf(Math.max(...distances));
    if (distances[furthest] * scale <= SPARE) return stroke.length > 1 ? [a, b] : [a];
    return [...fewer(stroke.slice(0, furthest + 1)), ...fewer(stroke.slice(furthest)).slice(1)];
  };
  return strokes.map(fewer);
}

/**
 * Strokes to 784 pixels: scaled to 20 pixels, centred by mass, antialiased.
 * @param {Stroke[]} strokes
 */
export function imageOfStrokes(strokes) {
  const { scale, middle } = frameOf(strokes);
  const placeAt = (cx, cy) => strokes.map(stroke => stroke.map(([x, y]) =>
    [(x - middle[0]) * scale + cx, (y - middle[1]) * scale + cy]));
  const [x, y] = centreOfMass(rasterise(placeAt(MASS_CENTRE, MASS_CENTRE)));
  return rasterise(placeAt(2 * MASS_CENTRE - x, 2 * MASS_CENTRE - y));
}
