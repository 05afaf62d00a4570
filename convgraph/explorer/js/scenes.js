// What the page shows: a state, the config it stands for, and the lessons that set it.
//
// Weights are a function of (output channel, input channel, row, column from the centre), so that a
// kernel that shrinks and grows again has its old numbers: what a person typed, else those of a given
// layer, else a recipe.

import { factor } from "./algebra.js";
import { compute, pools, stages, twice, weightIndex } from "./arithmetic.js";
import { hasTap } from "./geometry.js";
import { photographAt } from "./photograph.js";

// A small whole number from a few others, the same on every machine.
function hash(...numbers) {
  let h = 2166136261;
  for (const n of numbers) h = Math.imul(h ^ (n + 1013), 16777619) ^ (h >>> 13);
  h = Math.imul(h ^ (h >>> 16), 2246822507);
  return (h ^ (h >>> 15)) >>> 0;
}

export const KERNELS = {
  random: {
    name: "random −3 … 3",
    at: (s, o, c, y, x) => (hash(7, o, c, y, x) % 7) - 3,
  },
  product: {
    name: "separable",
    at: (s, o, c, y, x) => ((hash(3, o, c) % 5) - 2 || 3) * ((hash(5, c, y, x) % 5) - 2),
  },
  identity: { name: "identity", at: (s, o, c, y, x) => Number(o === c && !y && !x) },
  mix: {
    name: "sum and difference",
    at: (s, o, c, y, x) => (y || x ? 0 : o % 2 && c % 2 ? -1 : 1),
  },
  blur: { name: "blur (nine times)", at: (s, o, c, y, x) => Number(c === o % s.in_channels && near(y, x)) },
  sharpen: {
    name: "sharpen",
    at: (s, o, c, y, x) => (c === o % s.in_channels ? (y || x ? -Number(Math.abs(y) + Math.abs(x) === 1) : 5) : 0),
  },
  sobel: {
    name: "Sobel, right minus left",
    at: (s, o, c, y, x) => (c === o % s.in_channels && near(y, x) ? x * (2 - Math.abs(y)) : 0),
  },
  luminance: { name: "luminance, in per cent", at: (s, o, c, y, x) => (y || x ? 0 : [30, 59, 11][c] ?? 0) },
  opponent: { name: "red minus green", at: (s, o, c, y, x) => (y || x ? 0 : [1, -1][c] ?? 0) },
  edge: {
    name: "lower minus upper",
    at: (s, o, c, y, x) => (c === o % s.in_channels && !x && Math.abs(y) === 1 ? y : 0),
  },
  box: { name: "all ones", at: () => 1 },
};

const near = (y, x) => Math.abs(y) <= 1 && Math.abs(x) <= 1;

export const PICTURES = {
  digits: { name: "random 0 … 9", at: (s, c, y, x) => hash(11, c, y, x) % 10 },
  ramp: { name: "counting", at: (s, c, y, x) => y * s.size[1] + x + c },
  A: { name: "bars A", at: (s, c, y, x) => Number(c % 2 ? horizontal(s, y) : vertical(s, x)) },
  B: { name: "bars B", at: (s, c, y, x) => Number(c % 2 ? vertical(s, x) : horizontal(s, y)) },
  face: { name: "photograph", at: (s, c, y, x) => photographAt(c, y, x) },
  dot: {
    name: "one bright pixel",
    at: (s, c, y, x) => Number(y === s.size[0] >> 1 && x === s.size[1] >> 1),
  },
};

const vertical = (s, x) => x === (s.size[1] - 1) >> 1;
const horizontal = (s, y) => y === (s.size[0] - 1) >> 1;

const START = {
  space: "plane", footprint: null, aggregate: "sum", relu: false, twice: false, picturing: "grids", brush: null, pixels: {},
  size: [8, 8], in_channels: 2, out_channels: 2, kernel_size: [3, 3], stride: [1, 1],
  padding: [[1, 1], [1, 1]], same: true, apart: false, dilation: [1, 1], output_padding: [0, 0],
  padding_mode: "zeros", transposed: false, groups: 1, kernel: "random", edits: {}, given: null,
  bias: null, picture: "digits", photo: null, mask: null, split: false, parts: null,
  pixel: [3, 3], channel: 0, view: 0, tap: null, lesson: "messages",
};

export const LESSONS = {
  messages: {
    name: "Messages",
    say: "Move over an output pixel. Each coloured line is one edge: a pixel speaks through one tap " +
      "of the kernel. The messages add up to the number.",
    set: { in_channels: 1, out_channels: 1 },
  },
  graph: {
    name: "As a graph",
    say: "The same layer as nodes and edges. Every pixel is a node; the arrows of one node are drawn in " +
      "full, and the loop is the pixel hearing itself. Shrink the kernel to 1 and only loops are left.",
    set: { in_channels: 1, out_channels: 1, picturing: "graph" },
  },
  pointwise: {
    name: "k = 1",
    say: "Shrink the kernel to one tap and only self-loops remain: every pixel hears itself, mixes " +
      "its channels, and is blind to its neighbours.",
    set: { kernel_size: [1, 1] },
  },
  bars: {
    name: "Bars A and B",
    say: "A has a vertical bar in channel 1 and a horizontal one in channel 2; B has them swapped. " +
      "Output 1 is the sum of the channels, output 2 their difference. Swap the bars: which one notices?",
    set: { kernel_size: [1, 1], kernel: "mix", picture: "A", pixel: [3, 5], channel: 1 },
  },
  photo: {
    name: "A photograph",
    say: "Three channels: red, green, blue. Choose a kernel (blur, sharpen, Sobel), or k = 1 and luminance " +
      "or red minus green. A kernel of one tap cannot blur, sharpen or find a contour.",
    set: { in_channels: 3, out_channels: 3, picture: "face", size: [16, 16], kernel: "sharpen", view: "colour", pixel: [7, 6] },
  },
  pool: {
    name: "Pools and ReLU",
    say: "A pool has the edges of a convolution and no weights: the largest message, or the mean. A ReLU " +
      "receives no message: it keeps what is above 0.",
    set: { in_channels: 1, out_channels: 1, aggregate: "max", kernel_size: [2, 2], stride: [2, 2], padding: [[0, 0], [0, 0]], same: false, pixel: [1, 1] },
  },
  hops: {
    name: "Two layers",
    say: "The same layer twice. An output pixel hears nine pixels of the middle, and through them 25 of the " +
      "input, two hops away. With k = 1 it hears one, however many layers there are.",
    set: { in_channels: 1, out_channels: 1, twice: true, kernel: "blur" },
  },
  split: {
    name: "Split in two",
    say: "Depthwise: messages between pixels, each channel for itself. Pointwise: self-loops that mix " +
      "the channels. Together far fewer multiplications, and fewer kernels that can be had.",
    set: { out_channels: 3, kernel: "product", split: true },
  },
  stride: {
    name: "Stride",
    say: "With stride 2 only every second place listens: the graph has fewer targets than sources.",
    set: { stride: [2, 2], size: [9, 9], pixel: [2, 2] },
  },
  fold: {
    name: "Padding",
    say: "Zero padding is an edge that is not there. Reflect, replicate and circular padding fold the " +
      "source back onto the image: compare the modes at a corner.",
    set: { padding_mode: "circular", pixel: [0, 0] },
  },
  hexagon: {
    name: "Hexagons",
    say: "Hexagonal pixels: a 3 x 3 kernel has six neighbours and itself. In slanted rows a hexagonal grid is a square one " +
      "whose kernels lack two corners; everything else is as it was.",
    set: { in_channels: 1, out_channels: 1, space: "hexagon" },
  },
  torus: {
    name: "Torus",
    say: "On a torus the last row lies above the first one, and right is next to left: no pixel is at a border, and every one hears " +
      "nine. Look at a corner.",
    set: { in_channels: 1, out_channels: 1, space: "torus", pixel: [0, 0] },
  },
  transposed: {
    name: "Transposed",
    say: "A transposed convolution has the same edges with the arrows reversed, so stride makes the " +
      "output larger.",
    set: { transposed: true, stride: [2, 2], output_padding: [1, 1], size: [5, 5], pixel: [4, 4] },
  },
  holes: {
    name: "Holes",
    say: "Click or paint on input pixels to erase them. An erased pixel is no node: its edges vanish, " +
      "and so does its output.",
    set: { hole: true, pixel: [3, 2] },
  },
  walls: {
    name: "Groups",
    say: "Groups are walls between channels: the edges stay, half of the numbers on them are gone.",
    set: { in_channels: 4, out_channels: 4, groups: 2 },
  },
};

// A fresh state for a lesson; `kept` are fields that stay, such as what a notebook handed over.
export function lesson(name) {
  const { hole, ...set } = LESSONS[name].set;
  const state = structuredClone({ ...START, ...set, lesson: name });
  if (hole) {
    state.mask = Array.from({ length: 64 }, (_, q) => {
      const y = q >> 3, x = q % 8;
      return (y - 3.5) ** 2 + (x - 4.5) ** 2 > 4;
    });
  }
  return settle(state);
}

// The state of what Python hands over: { config, split, pixel, channel }; {} opens the first lesson.
export function opened(found) {
  if (!found || !found.config) return lesson("messages");
  const config = found.config, [kh, kw] = config.kernel_size;
  const uneven = (pair) => pair[0] !== pair[1];
  const apart = uneven(config.padding.map(String)) ||
    ["size", "kernel_size", "stride", "dilation"].some((name) => uneven(config[name]));
  const parts = found.split ? { ...found.split, kernel_size: [kh, kw] } : null;
  const given = {
    in_channels: config.in_channels, out_channels: config.out_channels, groups: config.groups,
    kernel_size: [kh, kw], transposed: config.transposed, weight: config.weight, split: parts,
  };
  const pixel = found.pixel ?? [config.size[0] >> 1, config.size[1] >> 1];
  return settle(structuredClone({
    ...START, ...config, weight: undefined, image: undefined, kernel: "given", given, bias: config.bias,
    picture: "photo", photo: { size: config.size, in_channels: config.in_channels, image: config.image },
    same: false, apart, split: Boolean(parts), parts, pixel,
    channel: found.channel ?? 0, lesson: null, untouched: true,
  }));
}

// Make the parts of a state agree after one of them changed.
export function settle(state) {
  const s = state;
  if (s.same) {
    s.padding = s.kernel_size.map((k, axis) => {
      const total = s.dilation[axis] * (k - 1);
      return [total >> 1, total - (total >> 1)];
    });
  }
  if (pools(s)) {
    Object.assign(s, { out_channels: s.in_channels, groups: 1, transposed: false, split: false, twice: false, padding_mode: "zeros", bias: null });
    if (s.aggregate === "mean") s.dilation = [1, 1];
  }
  if (s.space !== "plane") s.padding_mode = "zeros";
  if (s.space === "torus") s.transposed = false;
  if (s.footprint && s.footprint.length !== s.kernel_size[0] * s.kernel_size[1]) s.footprint = null;
  if (s.split) s.twice = false;
  if (s.twice) s.out_channels = s.in_channels;
  if (s.transposed) s.padding_mode = "zeros";
  s.output_padding = s.output_padding.map((n, axis) =>
    (s.transposed ? Math.min(n, Math.max(s.stride[axis], s.dilation[axis]) - 1) : 0));
  if (s.in_channels % s.groups || s.out_channels % s.groups) s.groups = 1;
  if (s.mask && s.mask.length !== s.size[0] * s.size[1]) s.mask = null;
  if (s.bias && s.bias.length !== s.out_channels) s.bias = null;
  if (s.picture === "photo" && !s.photo) s.picture = "digits";
  if (s.tap !== null && s.tap >= s.kernel_size[0] * s.kernel_size[1]) s.tap = null;
  s.channel = Math.min(s.channel, s.out_channels - 1);
  if (s.view === "colour" && s.in_channels !== 3) s.view = 0;
  if (s.view !== "colour") s.view = Math.min(s.view, s.in_channels - 1);
  return s;
}

// Key of a weight: its channels and its place from the centre of the kernel.
export function place(state, t) {
  const [kh, kw] = state.kernel_size;
  return [Math.floor(t / kw) - ((kh - 1) >> 1), (t % kw) - ((kw - 1) >> 1)];
}

export function weightOf(state, o, c, t) {
  const [y, x] = place(state, t);
  const typed = state.edits[[o, c, y, x]];
  if (typed !== undefined) return typed;
  if (state.kernel !== "given") return KERNELS[state.kernel].at(state, o, c, y, x);
  const [kh, kw] = state.given.kernel_size;
  const i = y + ((kh - 1) >> 1), j = x + ((kw - 1) >> 1);
  if (i < 0 || i >= kh || j < 0 || j >= kw) return 0;
  if (o >= state.given.out_channels || c >= state.given.in_channels) return 0;
  const index = weightIndex(state.given, o, c, i * kw + j);
  return index < 0 ? 0 : state.given.weight[index];
}

// Type a weight. In a split layer it is one of the depthwise stage, and the whole kernel follows: it
// becomes the product of both stages.
export function typeWeight(state, o, c, t, value) {
  if (!state.split) {
    state.edits[[o, c, ...place(state, t)]] = value;
    state.parts = null;
    return;
  }
  const { parts } = partsOf(state);
  const taps = state.kernel_size[0] * state.kernel_size[1];
  const depthwise = [...parts.depthwise];
  depthwise[c * taps + t] = value;
  state.parts = { ...parts, depthwise, kernel_size: [...state.kernel_size] };
  state.groups = 1;
  for (let out = 0; out < state.out_channels; out++) {
    depthwise.forEach((w, i) => {
      const from = Math.floor(i / taps);
      state.edits[[out, from, ...place(state, i % taps)]] = parts.pointwise[out * state.in_channels + from] * w;
    });
  }
}

function pixelOf(state, c, y, x) {
  const drawn = state.pixels[[c, y, x]];
  if (drawn !== undefined) return drawn;
  if (state.picture !== "photo") return PICTURES[state.picture].at(state, c, y, x);
  const [height, width] = state.photo.size;
  if (c >= state.photo.in_channels || y >= height || x >= width) return 0;
  return state.photo.image[(c * height + y) * width + x];
}

// The config that a state stands for.
export function configOf(state) {
  const { in_channels, out_channels, groups, transposed, size } = state;
  const taps = state.kernel_size[0] * state.kernel_size[1];
  const config = {
    size: [...size], in_channels, out_channels, kernel_size: [...state.kernel_size],
    stride: [...state.stride], padding: state.padding.map((pair) => [...pair]),
    dilation: [...state.dilation], output_padding: [...state.output_padding],
    padding_mode: state.padding_mode, space: state.space, footprint: state.footprint, transposed, groups, aggregate: state.aggregate, relu: state.relu,
    weight: new Array((in_channels * out_channels * taps) / groups),
    bias: state.bias ? [...state.bias] : null,
    image: [],
    mask: state.mask && !state.mask.every(Boolean) ? [...state.mask] : null,
  };
  for (let o = 0; o < out_channels; o++) {
    for (let c = 0; c < in_channels; c++) {
      for (let t = 0; t < taps; t++) {
        const index = weightIndex(config, o, c, t);
        if (index >= 0) config.weight[index] = weightOf(state, o, c, t);
      }
    }
  }
  for (let c = 0; c < in_channels; c++) {
    for (let y = 0; y < size[0]; y++) {
      for (let x = 0; x < size[1]; x++) config.image.push(pixelOf(state, c, y, x));
    }
  }
  return config;
}

// Config, result and, where the layer is split, its stages: all that is drawn comes from here.
export function evaluate(state) {
  const config = configOf(state);
  if (state.twice) {
    const both = twice(config);
    return { config, result: both.last, stages: null, exact: null, twice: both };
  }
  if (!state.split) return { config, result: compute(config), stages: null, exact: null };
  const { parts, exact } = partsOf(state);
  const both = stages(config, parts);
  return { config, result: both.last, stages: both, parts, exact };
}

// Factors of the kernel shown where it has any; else the shape that output 0 gives each channel and a
// mix that is whole numbers, which is another layer.
function partsOf(state) {
  const { in_channels: ins, out_channels: outs } = state;
  const taps = state.kernel_size[0] * state.kernel_size[1];
  const given = state.parts;
  if (given && String(given.kernel_size) === String(state.kernel_size) &&
    given.depthwise.length === ins * taps && given.pointwise.length === outs * ins) {
    return { parts: given, exact: true };
  }
  const full = (o, c, t) => (weightIndex(state, o, c, t) < 0 || !hasTap(state, t) ? 0 : weightOf(state, o, c, t));
  const found = factor(full, outs, ins, taps);
  if (found) return { parts: found, exact: true };
  const depthwise = [], pointwise = [];
  for (let c = 0; c < ins; c++) for (let t = 0; t < taps; t++) depthwise.push(weightOf(state, 0, c, t));
  for (let o = 0; o < outs; o++) {
    for (let c = 0; c < ins; c++) pointwise.push(o ? (hash(17, o, c) % 5) - 2 || 1 : 1);
  }
  return { parts: { depthwise, pointwise }, exact: false };
}
