// @ts-check
// What a reader can change in the loss, as an address holds it, and the questions: which settings each one plays, and
// how what was measured answers it.

/** @typedef {import("./training.js").Settings} Settings */
/** @typedef {{ step: number, settings: Settings }} Turn  of knobs: from this step on these settings hold */

/** @type {Settings} */
export const VAE = { beta: 1, noise: true, price: "kl", pixels: "bernoulli", sigmaX: 1, mean: false, digits: 4000 };
export const DIGITS = [50, 100, 200, 500, 1000, 2000, 4000];
export const LARGEST_BETA = 40;
export const LARGEST_SEED = 9999;
const SMALLEST_SIGMA_X = 0.1;
const RADIUS_99 = Math.sqrt(-2 * Math.log(0.01));  // of the circle that holds 99 % of the prior

/** The settings that hold at a step. @param {Turn[]} turns  by their steps @param {number} step */
export const settingsAt = (turns, step) => turns.filter(turn => turn.step <= step).pop()?.settings ?? VAE;

/**
 * Without sigma the KL has no log sigma to pay for: what is left of it is the pull to the origin. And a cross-entropy has
 * no sigma_x.
 * @param {Settings} settings @returns {Settings}
 */
export const consistent = settings => ({
  ...settings, price: settings.noise ? settings.price : "mu",
  sigmaX: settings.pixels === "gaussian" ? settings.sigmaX : VAE.sigmaX,
});

// -------------------------------------------------------------------------------------------------------- the address

/** What differs from a VAE, as words. @param {Settings} settings */
function asWords(settings) {
  const { beta, noise, price, pixels, sigmaX, mean, digits } = settings;
  return [
    beta !== VAE.beta && `beta${beta}`, !noise && "point", price === "mu" && noise && "mu", mean && "mean",
    pixels === "gaussian" && `squares${sigmaX ?? "learned"}`, digits !== VAE.digits && `digits${digits}`,
  ].filter(Boolean).join(",");
}

/** @param {string} words @returns {Settings} */
function fromWords(words) {
  const settings = { ...VAE };
  for (const word of words.split(",")) {
    const [, name, value] = word.match(/^([a-z]+?)(learned|[\d.]+)?$/) ?? [], number = parseFloat(value);
    if (name === "beta" && number >= 0) settings.beta = Math.min(number, LARGEST_BETA);
    if (name === "point") settings.noise = false;
    if (name === "mu") settings.price = "mu";
    if (name === "mean") settings.mean = true;
    if (name === "squares") settings.pixels = "gaussian";
    if (name === "squares") settings.sigmaX = value === "learned" ? null : Math.min(1, Math.max(SMALLEST_SIGMA_X, number || 0));
    if (name === "digits" && DIGITS.includes(number)) settings.digits = number;
  }
  return consistent(settings);
}

/** @typedef {{ seed: number, from: "new" | "trained", turns: Turn[], steps: number }} Run  trained for so many steps */

/** @param {Run} run */
export function asAddress({ seed, from, turns, steps }) {
  const changes = turns.filter(({ step }) => step <= steps).map(({ step, settings }) => `${step}:${asWords(settings)}`);
  return `seed=${seed}&from=${from}&run=${changes.join(";")}&steps=${steps}`;
}

/**
 * What an address asks for; what it leaves out or garbles is as at first.
 * @param {string} address @returns {Run & { asked: string | null, guess: number | null }}
 */
export function fromAddress(address) {
  const given = new URLSearchParams(address);
  const whole = (name, least) => Math.max(least, Math.floor(Number(given.get(name))) || least);
  const turns = (given.get("run") ?? "").split(";").map(change => change.split(":"))
    .filter(([step, words]) => /^\d+$/.test(step) && words !== undefined)
    .map(([step, words]) => ({ step: Number(step), settings: fromWords(words) })).sort((a, b) => a.step - b.step);
  if (!turns.length || turns[0].step > 0) turns.unshift({ step: 0, settings: VAE });
  const from = given.get("from") === "new" ? "new" : "trained";
  /** @type {Run} */
  const run = { seed: Math.min(whole("seed", 1), LARGEST_SEED), from, turns, steps: Math.min(whole("steps", 0), 20_000) };
  return { ...run, asked: given.get("question"), guess: /^\d$/.test(given.get("guess")) ? Number(given.get("guess")) : null };
}

// ------------------------------------------------------------------------------------------------------ the questions

/**
 * What was measured at one step: costs in nats, of held-out and of training digits; of the codes on the map the median
 * sigma, and the share outside the circle that holds 99 % of the prior. `code` is the KL, or mu² / 2 where z is mu.
 * @typedef {{ pixels: number, kl: number, square: number, code: number }} Cost
 * @typedef {{ step: number, held: Cost, training: Cost, sigma: number, outside: number }} Row
 */
/**
 * `judge` says which of the answers the rows have shown to be right, and in a sentence what they show.
 * @typedef {object} Question
 * @property {string} id  in the address
 * @property {string} name
 * @property {"new" | "trained"} from
 * @property {{ step: number, change: Partial<Settings> }[]} plan  what holds from which step on
 * @property {number} steps
 * @property {string} asks
 * @property {string[]} answers
 * @property {(rows: Row[], averageDigit: number) => { right: number, says: string }} judge
 */

const first = rows => rows[0], last = rows => rows[rows.length - 1];
const nats = (value, digits = 1) => value.toFixed(digits).replace("-", "−");
const percent = share => `${Math.round(100 * share)} %`;
/** The answer in whose range a value lies: below the first bound, below the second, above. */
const rangeOf = (value, ...bounds) => bounds.filter(bound => value >= bound).length;

/** @type {Question[]} */
export const QUESTIONS = [
  {
    id: "vae", name: "VAE", from: "new", plan: [{ step: 0, change: {} }], steps: 300,
    asks: "New weights, and a VAE's loss. A code has two numbers: how many nats will it cost after 300 steps?",
    answers: ["less than 2", "2 to 8", "more than 8"],
    judge: (rows, averageDigit) => ({
      right: rangeOf(last(rows).held.kl, 2, 8),
      says: `The code costs ${nats(last(rows).held.kl)} nats. The pixels cost ${nats(last(rows).held.pixels, 0)} with it; ` +
        `the average digit, painted for all without a code, costs ${nats(averageDigit, 0)}.`,
    }),
  }, {
    id: "autoencoder", name: "Autoencoder", from: "new", plan: [{ step: 0, change: { noise: false, beta: 0 } }], steps: 300,
    asks: "No σ, no price of the code. How many codes will lie outside the outermost circle, as 1 % of the prior's draws do?",
    answers: ["less than 5 %", "5 to 30 %", "more than 30 %"],
    judge: rows => ({
      right: rangeOf(last(rows).outside, 0.05, 0.3),
      says: `${percent(last(rows).outside)} lie outside: nothing pulls the codes to where the samples will be drawn.`,
    }),
  }, {
    id: "sigma", name: "σ alone", from: "new", plan: [{ step: 0, change: { beta: 0 } }], steps: 300,
    asks: "z is drawn with the encoder's σ, and nothing is paid for a small one. What will σ be after 300 steps?",
    answers: ["near 0", "0.05 to 0.5", "near 1"],
    judge: rows => ({
      right: rangeOf(last(rows).sigma, 0.05, 0.5),
      says: `The median σ went from ${nats(first(rows).sigma, 2)} to ${nats(last(rows).sigma, 3)}` + (last(rows).sigma < 0.05
        ? ": noise costs pixels, so the encoder takes it out. What is left is an autoencoder." : "."),
    }),
  }, {
    id: "mu", name: "Price on μ alone", from: "trained", plan: [{ step: 0, change: { price: "mu" } }], steps: 200,
    asks: "The trained model, but only μ² is paid for. The codes stay in the circles: what becomes of the ellipses?",
    answers: ["they shrink", "they stay", "they grow"],
    judge: rows => ({
      right: rangeOf(last(rows).sigma / first(rows).sigma, 2 / 3, 3 / 2),
      says: `The median σ went from ${nats(first(rows).sigma, 3)} to ${nats(last(rows).sigma, 3)}. The whole KL, which nobody ` +
        `paid here, went from ${nats(first(rows).held.kl)} to ${nats(last(rows).held.kl)} nats.`,
    }),
  }, {
    id: "beta4", name: "β = 4", from: "trained", plan: [{ step: 0, change: { beta: 4 } }], steps: 200,
    asks: "The code becomes four times as dear. How much of its KL will the trained model keep?",
    answers: ["less than a quarter", "a quarter to a half", "more than half"],
    judge: rows => {
      const kept = last(rows).held.kl / first(rows).held.kl;
      return {
        right: rangeOf(kept, 0.25, 0.5),
        says: `It keeps ${percent(kept)}: ${nats(last(rows).held.kl)} of ${nats(first(rows).held.kl)} nats. ` +
          `The pixels went from ${nats(first(rows).held.pixels)} to ${nats(last(rows).held.pixels)}.`,
      };
    },
  }, {
    id: "beta40", name: "β = 40", from: "trained", plan: [{ step: 0, change: { beta: 40 } }], steps: 200,
    asks: "And forty times as dear? Think of the 16 samples.",
    answers: ["they stay digits", "they become blurred digits", "they become all the same"],
    judge: rows => {
      const { kl, pixels } = last(rows).held;
      return {
        right: 2 - rangeOf(kl, 0.5, 3),
        says: `The KL went from ${nats(first(rows).held.kl)} to ${nats(kl, 2)} nats${kl < 0.5
          ? ": posterior collapse. The decoder paints nearly one picture for all" : ""}. The pixels cost ${nats(pixels, 0)}.`,
      };
    },
  }, {
    id: "mean", name: "Mean over pixels", from: "trained", plan: [{ step: 0, change: { mean: true } }], steps: 150,
    asks: "The usual slip: a mean over 784 pixels beside a KL that stays a sum. An average digit costs the dashed line: where " +
      "will the pixels go?",
    answers: ["stay below it", "rise to it", "shoot above it, then come down"],
    judge: (rows, averageDigit) => {
      const pixels = rows.map(row => row.held.pixels), highest = Math.max(...pixels), end = last(rows);
      return {
        right: end.held.pixels < averageDigit - 10 ? 0 : highest < end.held.pixels + 5 ? 1 : 2,
        says: `From ${nats(pixels[0], 0)} nats, at most ${nats(highest, 0)}, at the end ${nats(end.held.pixels, 0)}; the average ` +
          `digit has ${nats(averageDigit, 0)}. The KL, paid 784 times too dearly, is ${nats(end.held.kl, 2)}.`,
      };
    },
  }, {
    id: "squares", name: "Squared error", from: "trained", plan: [{ step: 0, change: { pixels: "gaussian", sigmaX: 1 } }], steps: 200,
    asks: "Squared error: a Gaussian around each pixel of the picture, its width σₓ fixed at 1. What will the KL do?",
    answers: ["fall by more than 10 %", "stay", "grow by more than 10 %"],
    judge: rows => {
      const [start, end] = [first(rows), last(rows)];
      return {
        right: rangeOf(end.held.kl / start.held.kl, 0.9, 1.1),
        says: `The KL went from ${nats(start.held.kl)} to ${nats(end.held.kl)} nats, the median σ from ${nats(start.sigma, 2)} to ` +
          `${nats(end.sigma, 2)}. With σₓ = 1 a wrong pixel costs half a nat at most.`,
      };
    },
  }, {
    id: "fifty", name: "Fifty digits", from: "new", plan: [{ step: 0, change: { digits: 50 } }], steps: 400,
    asks: "Only fifty digits to learn from. The dotted line is theirs, the solid one that of held-out digits: where will it end?",
    answers: ["beside the dotted one", "above it, still falling", "above it, and rising again"],
    judge: rows => {
      const pixels = rows.map(row => row.held.pixels), least = Math.min(...pixels), end = last(rows);
      const gap = end.held.pixels - end.training.pixels;
      return {
        right: gap < 10 ? 0 : end.held.pixels > least + 10 ? 2 : 1,
        says: `The fifty cost ${nats(end.training.pixels, 0)} nats, held-out digits ${nats(end.held.pixels, 0)}, and that was ` +
          `${nats(least, 0)} at step ${rows[pixels.indexOf(least)].step}.${gap < 10 ? "" : " It learns the fifty by heart."}`,
      };
    },
  }, {
    id: "rescue", name: "Rescue it", from: "trained", plan: [{ step: 0, change: { beta: 40 } }, { step: 150, change: {} }], steps: 450,
    asks: "β is 40 until nothing is left of the code, and 1 again from step 150. When will the KL be above 1 nat again?",
    answers: ["within 20 steps", "after 20 to 150 steps", "later, or not at all"],
    judge: rows => {
      const back = rows.filter(({ step }) => step > 150), found = back.find(row => row.held.kl > 1);
      return {
        right: found ? rangeOf(found.step - 150, 21, 151) : 2,
        says: `${found ? `It was above 1 nat ${found.step - 150} steps later` : "It stayed below 1 nat"}: encoder and decoder have ` +
          `to find z again together. The end: pixels ${nats(last(rows).held.pixels, 0)}, KL ${nats(last(rows).held.kl)}.`,
      };
    },
  },
];

/** @param {Question} question @returns {Turn[]} */
export const turnsOf = ({ plan }) =>
  plan.map(({ step, change }) => ({ step, settings: consistent({ ...VAE, ...change }) }));

/** @param {any} report  of the worker @returns {Row} */
export function rowOf({ step, heldCost, trainingCost, mu, logvar, settings }) {
  const sigmas = Float64Array.from(logvar, v => Math.exp(v / 2)).sort();
  let outside = 0;
  for (let i = 0; i < mu.length; i += 2) outside += Number(Math.hypot(mu[i], mu[i + 1]) > RADIUS_99) / (mu.length / 2);
  const withCode = cost => ({ ...cost, code: settings.noise ? cost.kl : cost.square });
  return { step, held: withCode(heldCost), training: withCode(trainingCost), sigma: sigmas[sigmas.length >> 1], outside };
}
