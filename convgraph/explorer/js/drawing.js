// One state on the screen: the picture, the sum, the words and the matrix of the pixel looked at.
//
// A view is what explorer.js holds: { root, parts, state, now, stage, pinned, heard, ... }.

import { incoming } from "./arithmetic.js";
import { pools } from "./arithmetic.js";
import { hasTap } from "./geometry.js";
import { drawEdges, drawStage, halo, tapColours, write } from "./lattice.js";
import { drawGraph, drawHeard } from "./nodelink.js";
import { h, kernelTiles, ledger, many, onColour, paintAdjacency, words } from "./panels.js";
import { evaluate } from "./scenes.js";

const LOOP = ["#808080"];
const NARROW = 520;

export const narrow = (view) => view.parts.stage.clientWidth > 0 && view.parts.stage.clientWidth < NARROW;
export const active = (view) => view.root.getRootNode().activeElement;

// The input channel that is shown; a photograph in its colours shows all three and speaks of the first.
export const shownChannel = (state) => (state.view === "colour" ? 0 : state.view);

// Draw the lattices anew.
export function showStage(view) {
  const { state, parts } = view, { config, result, stages } = view.now;
  const focused = active(view)?.dataset?.lattice;
  const show = (stage) => {
    view.stage = stage;
    parts.stage.replaceChildren(stage.root);
    if (focused) stage.root.querySelector(`[data-lattice=${focused}]`)?.focus({ preventScroll: true });
  };
  const between = stages ?? view.now.twice ?? null;
  const places = (size) => size[0] * size[1];
  const none = [[0, 0], [0, 0]];
  const first = between ? between.middle : result;
  const hint = `Output, ${result.size[0]} by ${result.size[1]} pixels. Arrow keys choose the pixel that is explained.`;
  if (state.picturing === "graph" && !between) {
    const n = places(config.size), c = shownChannel(state);
    show(drawGraph({ ...config, image: config.image.slice(c * n, (c + 1) * n) }, result, null, hint));
    return;
  }
  const coloured = state.view === "colour", shown = shownChannel(state);
  const cut = (values, size, c) => values.slice(c * places(size), (c + 1) * places(size));
  const lattices = [{
    key: "input", space: config.space, title: `input x, ${coloured ? "all channels" : `channel ${shown + 1}`}`, size: config.size,
    values: cut(config.image, config.size, shown), colour: coloured ? mixer(config) : null,
    present: config.mask ?? new Array(places(config.size)).fill(true), margin: halo(config, first.tables),
    label: `Input, ${config.size[0]} by ${config.size[1]} pixels. Arrow keys move, space erases or restores a pixel.`,
  }];
  if (between) {
    lattices.push({
      key: "middle", space: config.space, title: `${stages ? "after depthwise" : "after one layer"}, channel ${shown + 1}`, size: first.size,
      values: cut(first.output, first.size, shown), present: first.sites, margin: none,
    });
  }
  lattices.push({
    key: "output", space: config.space, title: `output y, channel ${state.channel + 1}`, size: result.size,
    values: cut(result.output, result.size, state.channel), present: result.sites, margin: none, label: hint,
  });
  show(drawStage(lattices, narrow(view)));
}

// The fill of a pixel whose three channels are red, green and blue, from 0 to 1 or to 255.
function mixer(config) {
  const n = config.size[0] * config.size[1];
  const most = Math.max(...config.image) > 1 ? 255 : 1;
  return (p) => `rgb(${[0, 1, 2].map((c) => Math.round((255 * config.image[c * n + p]) / most))})`;
}

// Show what the chosen pixel hears, everywhere on the page.
export function showPixel(view) {
  const { state, parts, pinned } = view, { config, result, stages, twice } = view.now;
  const p = state.pixel[0] * result.size[1] + state.pixel[1];
  const value = result.output[state.channel * result.size[0] * result.size[1] + p];
  const site = result.sites[p], shown = shownChannel(state);
  const colours = tapColours(config.kernel_size);
  // Where the geometry is: the layer itself, or the depthwise stage of one that is split.
  const from = stages ? stages.first : twice ? twice.second : config, topo = stages ? stages.middle : result;
  const spoken = incoming(from, topo, p, stages ? shown : state.channel);
  const looped = stages ? incoming(stages.second, stages.last, p, state.channel) : null;
  view.stage.clear();
  if (view.stage.source) {
    if (site) drawHeard(view.stage, p, spoken, colours, state.tap, value);
  } else if (site && twice) showTwoHops(view, spoken, colours);
  else if (site) drawEdges(view.stage, "input", stages ? "middle" : "output", state.pixel, spoken, colours, state.tap);
  if (site && stages) drawEdges(view.stage, "middle", "output", state.pixel, looped, LOOP, null);
  for (const group of view.stage.layers.marks.querySelectorAll(".cge-tag")) {
    group.lastChild.setAttribute("fill", onColour(group.firstChild.getAttribute("fill")));
  }
  const name = `y[${state.pixel.join(", ")}]`, full = `${name} in channel ${state.channel + 1}`;
  const whole = pools(config) ? `${config.aggregate === "max" ? "largest" : "mean"} = output` : "sum = output";
  const before = (stages ? stages.last : result).before[state.channel * result.size[0] * result.size[1] + p];
  const rectified = config.relu ? { before, named: whole.replace("output", "before ReLU") } : null;
  const tables = !site
    ? [h("p", { class: "cge-note" }, `${full} is no node: nothing is computed there.`)]
    : !stages
      ? [ledger(config, spoken, colours, {
          caption: `${full}: ${many(spoken.filter((e) => e.hears).length, "edge")}`,
          bias: config.bias?.[state.channel], total: whole, value, rectified,
        })]
      : [ledger(from, spoken, colours, {
          caption: `1. Depthwise: middle pixel, channel ${shown + 1}`, bias: from.bias?.[shown],
          total: "sum = middle", value: topo.output[shown * topo.size[0] * topo.size[1] + p],
        }),
        ledger(stages.second, looped, LOOP, {
          caption: `2. Pointwise: ${full}, one self-loop`, bias: config.bias?.[state.channel],
          total: "sum = output", value, rectified,
        })];
  parts.sum.replaceChildren(
    h("p", { class: "cge-big" }, h("span", {}, name),
      h("b", { "data-y": site ? value : "" }, site ? write(value, 4) : "not a node"),
      h("small", {}, pinned ? "pinned: click again or press Escape to let go" : "click to pin")),
    ...tables);
  view.root.classList.toggle("cge-pinned", pinned);
  showKernel(view, from, topo, colours);
  say(view, words(state, { ...view.now, config: from, reached: twice ? view.reached : null }, spoken, value, stages ? 0 : config.bias?.[state.channel] ?? 0));
  view.heard?.({
    config, split: stages ? view.now.parts : null, pixel: [...state.pixel], channel: state.channel,
    value: site ? value : null,
  });
}

// Two layers in a row: what the output hears of the middle, and what these hear of the input, quietly.
function showTwoHops(view, spoken, colours) {
  const { state } = view, { first, middle } = view.now.twice;
  const width = middle.size[1], reached = new Set();
  for (const { hears, source } of spoken) {
    if (!hears) continue;
    const heard = incoming(first, middle, source, shownChannel(state));
    for (const edge of heard) if (edge.hears) reached.add(edge.source);
    drawEdges(view.stage, "input", "middle", [Math.floor(source / width), source % width], heard.map((e) => (e.hears ? e : { ...e, raw: null })), colours, null, true);
  }
  drawEdges(view.stage, "middle", "output", state.pixel, spoken, colours, state.tap);
  view.reached = reached.size;
}

// The kernel as tiles, the weight that can be typed, and the adjacency matrix.
function showKernel(view, from, topo, colours) {
  const { state, parts } = view, shown = shownChannel(state);
  const split = Boolean(view.now.stages), out = split ? shown : state.channel;
  const dark = getComputedStyle(view.root).getPropertyValue("--dark").trim() === "1";
  parts.adjacencyText.textContent = paintAdjacency(parts.adjacency, topo, from, state.tap, state.pixel, dark);
  parts.adjacencyTitle.textContent = state.tap === null ? "Adjacency, all taps" : `Adjacency of tap ${state.tap}`;
  const focus = active(view)?.closest?.(".cge-tile")?.dataset.tap;
  const { grid, values, wall } = kernelTiles(state, from, out, shown, colours, focus === undefined ? null : Number(focus));
  parts.kernelPanel.hidden = pools(from);
  parts.tiles.replaceChildren(grid);
  parts.kernelTitle.textContent = split ? `Depthwise kernel of channel ${shown + 1}` : `Kernel: input ${shown + 1} → output ${state.channel + 1}`;
  if (focus !== undefined) grid.querySelector(`[data-tap="${focus}"]`)?.focus({ preventScroll: true });
  const there = state.tap === null || hasTap(from, state.tap);
  parts.typing.hidden = state.tap === null || wall || !there;
  parts.allTaps.hidden = state.tap === null;
  parts.untype.hidden = Object.keys(state.edits).length === 0;
  parts.typingLabel.textContent = `weight of tap ${state.tap}`;
  // What a person is typing is theirs; a half-typed number is not rewritten.
  if (active(view) !== parts.weight) parts.weight.value = state.tap === null ? "" : values[state.tap];
  parts.tapHint.textContent = state.tap === null
    ? "Click a tap to see it alone, and to type a weight of your own."
    : !there ? "In this space the kernel has no such neighbour."
    : wall ? "Groups keep this input from this output: there is no weight." : "Type a number: the output follows.";
}

// A screen reader hears where the eye rests, not every pixel that a pointer passes.
export function say(view, text) {
  clearTimeout(view.saying);
  view.saying = setTimeout(() => { view.parts.words.textContent = text; }, 150);
}

// The bars again, both of them, so that what the layer can tell apart is seen at once.
export function showBars(view) {
  const { state, parts } = view;
  parts.bars.hidden = state.picture !== "A" && state.picture !== "B";
  if (parts.bars.hidden) return;
  const maps = ["A", "B"].map((picture) => evaluate({ ...state, picture }).result);
  const n = maps[0].size[0] * maps[0].size[1];
  parts.barList.replaceChildren(...Array.from({ length: state.out_channels }, (_, o) => {
    const [a, b] = maps.map((m) => m.output.slice(o * n, (o + 1) * n));
    const apart = a.filter((v, i) => v !== b[i]).length;
    return h("li", { "data-apart": apart }, h("b", {}, `output ${o + 1}: `), apart
      ? `A and B differ at ${apart} of ${n} pixels. This channel tells them apart.`
      : "A and B give the same map. This channel cannot tell them apart.");
  }));
  parts.swap.textContent = `Swap the bars: now ${state.picture}, show ${state.picture === "A" ? "B" : "A"}`;
}
