// What the edges say: messages, their sums, and a layer that is split in two.
//
//     y[p, o] = b[o] + sum over edges (q, p, t) and c of  W[o, c, t] x[q, c]
//
// Numbers are JavaScript's, which are float64: integers below 2^53 add up exactly in any order, and
// every float32 weight or pixel is one of them.

import { look, topology } from "./geometry.js";

// W[o, c, t], 0 where groups keep c from o. Forward weights lie as (C_out, C_in / G, K), transposed
// ones as (C_in, C_out / G, K), as in torch.
export function weightAt(config, o, c, t) {
  const index = weightIndex(config, o, c, t);
  return index < 0 ? 0 : config.weight[index];
}

export function weightIndex(config, o, c, t) {
  const taps = config.kernel_size[0] * config.kernel_size[1];
  const inside = config.in_channels / config.groups, outside = config.out_channels / config.groups;
  if (Math.floor(o / outside) !== Math.floor(c / inside)) return -1;
  return config.transposed
    ? (c * outside + (o % outside)) * taps + t
    : (o * inside + (c % inside)) * taps + t;
}

// Run a config: { size, sites, edges, output } with output flat (C_out, H', W'), what torch gives on
// the image whose erased pixels are 0. `sites` says which of the outputs are nodes of the graph.
export function compute(config) {
  check(config);
  const topo = topology(config);
  if (pools(config)) return rectified(config, { ...topo, output: pooled(config, topo) });
  const pixels = config.size[0] * config.size[1], places = topo.size[0] * topo.size[1];
  const output = new Array(config.out_channels * places);
  for (let o = 0; o < config.out_channels; o++) {
    output.fill(config.bias ? config.bias[o] : 0, o * places, (o + 1) * places);
  }
  const taps = config.kernel_size[0] * config.kernel_size[1];
  for (let p = 0; p < places; p++) {
    for (let t = 0; t < taps; t++) {
      const seen = look(config, topo, p, t);
      if (seen.kind !== "edge" && seen.kind !== "folded") continue;
      for (let o = 0; o < config.out_channels; o++) {
        output[o * places + p] += said(config, seen.source, t, o, pixels);
      }
    }
  }
  return rectified(config, { ...topo, output });
}

// A pool has the edges of a convolution and no weights: the largest message, or the mean of those
// that are there.
export const pools = (config) => config.aggregate === "max" || config.aggregate === "mean";

function pooled(config, topo) {
  const pixels = config.size[0] * config.size[1], places = topo.size[0] * topo.size[1];
  const output = new Array(config.in_channels * places).fill(0);
  for (let c = 0; c < config.in_channels; c++) {
    for (let p = 0; p < places; p++) {
      output[c * places + p] = gathered(config, heardBy(config, topo, p).map((q) => config.image[c * pixels + q]));
    }
  }
  return output;
}

function gathered(config, values) {
  if (!values.length) return 0;
  return config.aggregate === "max" ? Math.max(...values) : values.reduce((a, b) => a + b, 0) / values.length;
}

function heardBy(config, topo, p) {
  const taps = config.kernel_size[0] * config.kernel_size[1];
  return Array.from({ length: taps }, (_, t) => look(config, topo, p, t))
    .filter((seen) => seen.kind === "edge" || seen.kind === "folded").map((seen) => seen.source);
}

// Behind the sum: a rectifier keeps what is above 0. `before` is what it was given.
function rectified(config, found) {
  if (!config.relu) return { ...found, before: found.output };
  return { ...found, before: found.output, output: found.output.map((v) => Math.max(v, 0)) };
}

function said(config, source, t, o, pixels) {
  let sum = 0;
  const inside = config.in_channels / config.groups;
  const first = Math.floor(o / (config.out_channels / config.groups)) * inside;
  for (let c = first; c < first + inside; c++) {
    sum += weightAt(config, o, c, t) * config.image[c * pixels + source];
  }
  return sum;
}

function check(config) {
  const { in_channels, out_channels, groups, kernel_size, size } = config;
  if (in_channels % groups || out_channels % groups) {
    throw new RangeError(`${groups} groups must divide ${in_channels} and ${out_channels} channels`);
  }
  if (pools(config) && config.padding.some((pair, axis) => Math.max(...pair) > kernel_size[axis] / 2)) {
    throw new RangeError("a pool is padded by at most half of its kernel");
  }
  const weights = in_channels * out_channels / groups * kernel_size[0] * kernel_size[1];
  const counts = [
    ["weight", config.weight, weights],
    ["image", config.image, in_channels * size[0] * size[1]],
    ["bias", config.bias, out_channels],
    ["mask", config.mask, size[0] * size[1]],
  ];
  for (const [name, values, count] of counts) {
    if (values && values.length !== count) {
      throw new RangeError(`expected ${count} numbers of ${name}, got ${values.length}`);
    }
  }
}

// Everything that output p hears in channel o, one entry per tap, edges or not.
export function incoming(config, topo, p, o) {
  const taps = config.kernel_size[0] * config.kernel_size[1];
  const pixels = config.size[0] * config.size[1];
  return Array.from({ length: taps }, (_, t) => {
    const seen = look(config, topo, p, t);
    const hears = seen.kind === "edge" || seen.kind === "folded";
    if (pools(config)) {
      const x = seen.source === null ? null : config.image[o * pixels + seen.source];
      return { ...seen, hears, terms: [{ channel: o, weight: null, x }], message: hears ? x : null };
    }
    const terms = [];
    for (let c = 0; c < config.in_channels; c++) {
      if (weightIndex(config, o, c, t) < 0) continue;
      const x = seen.source === null ? null : config.image[c * pixels + seen.source];
      terms.push({ channel: c, weight: weightAt(config, o, c, t), x });
    }
    const message = hears ? said(config, seen.source, t, o, pixels) : null;
    return { ...seen, hears, terms, message };
  });
}

// The same layer twice in a row: the second one hears what the first one said. Its channels are as
// many as they were.
export function twice(config) {
  const middle = compute(config);
  const places = middle.size[0] * middle.size[1];
  const whole = middle.sites.every(Boolean);
  const second = {
    ...config, size: middle.size,
    image: middle.output.map((v, i) => (middle.sites[i % places] ? v : 0)),
    mask: whole ? null : middle.sites,
  };
  return { first: config, middle, second, last: compute(second) };
}

// The two configs of a split layer: depthwise with the geometry, then pointwise with self-loops.
// `split` holds depthwise (C_in, K), pointwise (C_out, C_in) and perhaps a bias for each.
export function stages(config, split) {
  const first = {
    ...config,
    relu: false,
    out_channels: config.in_channels,
    groups: config.in_channels,
    weight: split.depthwise,
    bias: split.depthwise_bias ?? null,
  };
  const middle = compute(first);
  const places = middle.size[0] * middle.size[1];
  const whole = middle.sites.every(Boolean);
  const second = {
    size: middle.size,
    in_channels: config.in_channels,
    out_channels: config.out_channels,
    kernel_size: [1, 1],
    stride: [1, 1],
    padding: [[0, 0], [0, 0]],
    dilation: [1, 1],
    output_padding: [0, 0],
    padding_mode: "zeros",
    transposed: false,
    groups: 1,
    relu: config.relu,
    weight: split.pointwise,
    bias: config.bias,
    image: middle.output.map((v, i) => (middle.sites[i % places] ? v : 0)),
    mask: whole ? null : middle.sites,
  };
  return { first, middle, second, last: compute(second) };
}
