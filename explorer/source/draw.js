// @ts-check
// Drawing on the pages' canvases: colours, images of 28 x 28 pixels, and a plane with dots, ellipses, marks and labels.
// Nothing here knows what a page shows: each function draws what it is given.

import { SIDE, sigmaOf } from "./model.js";

const PRIOR_SHARES = [0.5, 0.9, 0.99];   // of the prior inside the circles
const DEAREST_PIXEL = 2;            // nats of a pixel that has the full colour
export const RADIUS_95 = Math.sqrt(-2 * Math.log(0.05));  // sigmas to the ellipse that holds 95 % of q(z|x)

/** @typedef {import("./model.js").Numbers} Numbers */
/** @typedef {import("./model.js").Code} Code */
/** @typedef {import("./model.js").Posterior} Posterior */
/** @typedef {number[]} Rgb  red, green and blue from 0 to 255 */
/** @typedef {[x: number, y: number, width: number, height: number]} Box  around its middle, in pixels */
/**
 * A square canvas that shows the plane from -reach to reach, `width` pixels wide; `boxes` are what no label may cover.
 * @typedef {{ context: CanvasRenderingContext2D, width: number, reach: number, boxes: Box[] }} Plane
 */

// ------------------------------------------------------------------------------------------------------------- colours

/** @param {string} name */
export const cssColour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** @param {string} hex @returns {Rgb} */
export const rgbOf = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));

const paperAndInk = () => [rgbOf(cssColour("--paper")), rgbOf(cssColour("--ink"))];

/** Relative luminance, from 0 to 1, as WCAG 2 defines it. @param {Rgb} rgb */
function luminance(rgb) {
  const [red, green, blue] = rgb.map(c => c / 255).map(c => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/**
 * A colour, mixed with the ink as far as a dot needs to stand out from the paper 3 to 1 (WCAG 1.4.11).
 * @param {string} hex
 */
export function visibleColour(hex, [paper, ink] = paperAndInk()) {
  for (let share = 0; ; share += 0.05) {
    const mixed = rgbOf(hex).map((c, i) => Math.round(c + (ink[i] - c) * share));
    const [darker, lighter] = [luminance(mixed), luminance(paper)].sort((a, b) => a - b);
    if ((lighter + 0.05) / (darker + 0.05) >= 3 || share >= 1) return `rgb(${mixed.join(" ")})`;
  }
}

// ------------------------------------------------------------------------------------------------ a canvas and pixels

/** @param {HTMLCanvasElement} canvas */
export const contextOf = canvas => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

/**
 * A blank context scaled to CSS pixels on a canvas as sharp as the screen, and its width.
 * @param {HTMLCanvasElement} canvas
 */
export function clearCanvas(canvas) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = contextOf(canvas);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "13px system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  return { context, width };
}

const pixelCanvas = document.createElement("canvas");
[pixelCanvas.width, pixelCanvas.height] = [SIDE, SIDE];

/**
 * Pixels as squares, each with its colour and its opacity from 0 to 1.
 * @param {CanvasRenderingContext2D} context @param {(pixel: number) => [Rgb, number]} colourAndOpacity
 * @param {number} x @param {number} y @param {number} size
 */
function drawSquares(context, colourAndOpacity, x, y, size) {
  const pixels = new ImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i++) {
    const [colour, opacity] = colourAndOpacity(i);
    pixels.data.set([...colour, 255 * opacity], 4 * i);
  }
  contextOf(pixelCanvas).putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(pixelCanvas, x, y, size, size);
}

/**
 * An image of ink from 0 to 1, in the page's ink on the page's paper.
 * @param {CanvasRenderingContext2D} context @param {Numbers} image
 * @param {number} x @param {number} y @param {number} size
 */
export function drawPixels(context, image, x, y, size) {
  const ink = rgbOf(cssColour("--ink"));
  drawSquares(context, i => [ink, image[i]], x, y, size);
}

/**
 * The image alone, as large as the canvas; without one the canvas stays blank.
 * @param {HTMLCanvasElement} canvas @param {Numbers | null} image
 */
export function drawOnCanvas(canvas, image) {
  const { context, width } = clearCanvas(canvas);
  if (image) drawPixels(context, image, 0, 0, width);
}

/**
 * What each pixel of x costs. The hue tells what is wrong: ink that is painted and not there, or there and not painted.
 * @param {HTMLCanvasElement} canvas @param {Numbers} costs @param {Numbers} picture @param {Numbers} x
 */
export function drawCosts(canvas, costs, picture, x) {
  const { context, width } = clearCanvas(canvas);
  const tooMuch = rgbOf(cssColour("--too-much")), tooLittle = rgbOf(cssColour("--too-little"));
  /** @param {number} i @returns {[Rgb, number]} */
  const colourAndOpacity = i => [picture[i] > x[i] ? tooMuch : tooLittle, Math.min(1, costs[i] / DEAREST_PIXEL)];
  drawSquares(context, colourAndOpacity, 0, 0, width);
}

// --------------------------------------------------------------------------------------------------- lines and labels

/**
 * A line on a wider one of paper, so that it is seen on every ground.
 * @param {CanvasRenderingContext2D} context @param {number} width @param {() => void} trace
 */
export function drawLine(context, width, trace, colour = "--ink") {
  for (const [lineWidth, tint] of /** @type {[number, string][]} */ ([[5, "--paper"], [width, colour]])) {
    context.lineWidth = lineWidth;
    context.strokeStyle = cssColour(tint);
    context.beginPath();
    trace();
    context.stroke();
  }
}

/**
 * Two lines that cross, each given as half of its extent: a cross that stands, or one that lies.
 * @param {CanvasRenderingContext2D} context @param {number[]} at @param {number[][]} arms
 */
export function drawCross(context, [x, y], arms) {
  drawLine(context, 2, () => {
    for (const [dx, dy] of arms) {
      context.moveTo(x - dx, y - dy);
      context.lineTo(x + dx, y + dy);
    }
  });
}

/**
 * Text with a rim of paper, which keeps it legible on dots.
 * @param {CanvasRenderingContext2D} context @param {string} text @param {number} x @param {number} y
 */
function drawText(context, text, x, y, fill = cssColour("--ink")) {
  context.lineJoin = "round";
  context.lineWidth = 4;
  context.strokeStyle = cssColour("--paper");
  context.strokeText(text, x, y);
  context.fillStyle = fill;
  context.fillText(text, x, y);
}

/**
 * Text at the first of these places where it covers none of the boxes, to which it is added.
 * @param {Plane} plane @param {string} text @param {number[][]} places @param {string} [fill]
 */
export function drawLabel({ context, width: side, boxes }, text, places, fill) {
  const width = context.measureText(text).width + 6, height = 1.2 * parseInt(context.font.match(/\d+/)[0]);
  /** @param {number[]} place */
  const covers = ([x, y]) =>
    Math.min(x, side - x) < width / 2 || Math.min(y, side - y) < height / 2 || boxes.some(
      ([bx, by, bw, bh]) => Math.abs(x - bx) < (width + bw) / 2 && Math.abs(y - by) < (height + bh) / 2);
  const [x, y] = places.find(place => !covers(place)) ?? places[0];
  boxes.push([x, y, width, height]);
  drawText(context, text, x, y, fill);
}

/**
 * Places for a label around a point: the nearest ones first, and of these that to the upper right.
 * @param {number} x @param {number} y @param {number} distance
 */
const placesAround = (x, y, distance) => [1, 1.6, 2.4, 3.4, 4.6].flatMap(times =>
  [-45, 45, -135, 135, -90, 90, 0, 180].map(degrees => degrees / 180 * Math.PI).map(angle =>
    [x + times * distance * Math.cos(angle), y + times * distance * Math.sin(angle)]));

// ---------------------------------------------------------------------------------------------------------- the plane

/** @param {{ width: number, reach: number }} plane @param {Code} z */
export const toPixels = ({ width, reach }, z) => [(z[0] / reach + 1) * width / 2, (1 - z[1] / reach) * width / 2];
/** @param {{ width: number, reach: number }} plane @param {number[]} place @returns {Code} */
export const fromPixels = ({ width, reach }, [x, y]) => [(2 * x / width - 1) * reach, (1 - 2 * y / width) * reach];

/** Where z is in pixels; what lies outside the plane is drawn at its edge. @param {Plane} plane @param {Code} z */
export const toVisiblePixels = (plane, z) => toPixels(plane, z).map(v => Math.min(plane.width - 8, Math.max(8, v)));

/** @param {Plane} plane */
export function drawAxes(plane) {
  const { context, width, reach } = plane, quiet = cssColour("--quiet");
  context.strokeStyle = cssColour("--line");
  context.lineWidth = 1;
  const step = width / reach < 52 ? 2 : 1, most = step * Math.floor(reach / step);  // so that labels do not touch
  for (let tick = -most; tick <= most; tick += step) {
    const [x, y] = toPixels(plane, [tick, tick]), text = String(tick).replace("-", "−");
    context.beginPath();
    context.moveTo(x, width); context.lineTo(x, width - 5);
    context.moveTo(0, y); context.lineTo(5, y);
    context.stroke();
    if (x > 12 && x < width - 32) drawLabel(plane, text, [[x, width - 14]], quiet);
    if (y > 30 && y < width - 30) drawText(context, text, 15, y, quiet);
  }
  drawText(context, "z₁", width - 14, width - 14, quiet);
  drawText(context, "z₂", 15, 14, quiet);
}

/** Around the origin, each with the share of the prior that it holds. @param {Plane} plane */
export function drawCircles(plane) {
  const { context, width, reach } = plane, [x, y] = toPixels(plane, [0, 0]);
  for (const mass of PRIOR_SHARES) {
    const radius = Math.sqrt(-2 * Math.log(1 - mass)) * width / (2 * reach);
    context.setLineDash([5, 4]);
    context.strokeStyle = cssColour("--ink");
    context.lineWidth = 1;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
    context.setLineDash([]);
    const around = [90, 75, 105, 60, 120, 45, 135, -90, -75, -105].map(degrees => degrees / 180 * Math.PI);
    const places = around.map(angle => [x + radius * Math.cos(angle), y + radius * Math.sin(angle)]);
    drawLabel(plane, `${100 * mass}%`, places);
  }
}

/**
 * Codes as dots in the colours of their labels, in an order that has no digit always on top.
 * @param {CanvasRenderingContext2D} context @param {Numbers} codes @param {Numbers} labels @param {string[]} colours
 * @param {number} width @param {(z: Code) => number[]} place @param {number} size
 */
export function drawDots(context, codes, labels, colours, width, place, size) {
  for (let i = 0; i < codes.length / 2; i++) {
    const [x, y] = place([codes[2 * i], codes[2 * i + 1]]);
    if (x < 0 || y < 0 || x > width || y > width) continue;
    context.fillStyle = colours[labels[i]];
    context.fillRect(x - size / 2, y - size / 2, size, size);
  }
}

/**
 * The kinds of digits [digit, z1, z2] where their codes lie, or beside a mark that lies there.
 * @param {Plane} plane @param {number[][]} numerals
 */
export function drawNumerals(plane, numerals) {
  const { context, width } = plane, size = Math.round(width / 28 + 4);
  context.save();
  context.font = `bold ${size}px system-ui, sans-serif`;
  for (const [digit, ...z] of numerals) {
    const [x, y] = toPixels(plane, z);
    drawLabel(plane, String(digit), [[x, y], ...placesAround(x, y, 12)]);
  }
  context.restore();
}

/** @param {Plane} plane @param {Code} z @param {string} label */
export function drawPoint(plane, z, label) {
  const [x, y] = toVisiblePixels(plane, z);
  drawLine(plane.context, 2.5, () => plane.context.arc(x, y, 7, 0, 2 * Math.PI));
  drawLabel(plane, label, placesAround(x, y, 19));
}

/**
 * The ellipse that holds 95 % of a q(z|x), on a plane of `scale` pixels a unit.
 * @param {CanvasRenderingContext2D} context @param {Posterior} q
 * @param {number} x @param {number} y @param {number} scale @param {string} opacity  of its inside, two hex digits
 */
export function drawEllipse(context, q, x, y, scale, opacity = "59") {
  const [a, b] = sigmaOf(q).map(sigma => RADIUS_95 * sigma * scale);
  context.beginPath();
  context.ellipse(x, y, a, b, 0, 0, 2 * Math.PI);
  context.fillStyle = cssColour("--q") + opacity;
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = cssColour("--q");
  context.stroke();
}

/**
 * The ellipse itself can be a few pixels wide: a thin ring around it shows where to look.
 * @param {Plane} plane @param {Posterior} q @param {string | false} name
 */
export function drawPosterior(plane, q, name) {
  const [x, y] = toVisiblePixels(plane, q.mu), { context, width, reach } = plane;
  drawEllipse(context, q, x, y, width / (2 * reach));
  drawLine(context, 2, () => context.arc(x, y, 13, 0, 2 * Math.PI), "--q");
  if (name) drawLabel(plane, name, [[x, y - 24], [x, y + 24], ...placesAround(x, y, 30)], cssColour("--q"));
}
