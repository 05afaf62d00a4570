// The graph as a graph: pixels as nodes, every edge a line, the edges of one output as arrows, loops as
// loops. Output p of a strided layer is drawn where the middle of its kernel lies.

import { shade, svg, tag, write } from "./lattice.js";

const STEP = 54;
const MOST = 1600; // lines that a browser draws while a pointer moves

// The place of an output along an axis, in pixels of the input: the mean of what its taps ask for.
function placeAlong(config, axis, p) {
  const s = config.stride[axis], before = config.padding[axis][0];
  const half = (config.dilation[axis] * (config.kernel_size[axis] - 1)) / 2;
  return config.transposed ? (p + before - half) / s : p * s - before + half;
}

// Draw all nodes and lines; `drawHeard` then shows one output. Returns what drawStage returns.
export function drawGraph(config, topo, values, label) {
  const [height, width] = config.size, [rows, columns] = topo.size;
  const six = config.space === "hexagon", round = config.space === "torus";
  const point = ([row, column]) => [(column + (six ? row / 2 : 0)) * STEP, row * (six ? Math.sqrt(3) / 2 : 1) * STEP];
  const source = (q) => point([Math.floor(q / width), q % width]);
  const target = (p) => point([placeAlong(config, 0, Math.floor(p / columns)), placeAlong(config, 1, p % columns)]);
  // On a torus an arrow comes from where its tap looks, beyond the border; the pixel that answers is on the other side.
  const asked = (p, t) => [Math.floor(p / columns), p % columns].map((at, axis) =>
    topo.tables[axis][at][axis ? t % config.kernel_size[1] : Math.floor(t / config.kernel_size[1])].raw);
  const all = [...Array(height * width).keys()].map(source).concat([...Array(rows * columns).keys()].map(target));
  if (round) for (const [, p, t] of topo.edges) all.push(point(asked(p, t)));
  const low = [0, 1].map((i) => Math.min(...all.map((at) => at[i])) - 44);
  const high = [0, 1].map((i) => Math.max(...all.map((at) => at[i])) + 44);
  const root = svg("svg", { class: "cge-stage cge-graph", focusable: "false" });
  root.setAttribute("viewBox", `${low[0]} ${low[1] - 20} ${high[0] - low[0]} ${high[1] - low[1] + 20}`);
  root.style.setProperty("--stage-width", `${Math.round((high[0] - low[0]) * 1.15)}px`);
  const lines = svg("g", { class: "cge-web" }), values_ = svg("g"), links = svg("g", { class: "cge-links" });
  const marks = svg("g", { class: "cge-marks" });
  if (topo.edges.length <= MOST) {
    for (const [q, p, t] of topo.edges) {
      const [a, b] = [source(q), target(p)];
      const from = round ? point(asked(p, t)) : a;
      if (from.join() !== a.join()) {
        const half = from.map((v, i) => (v - b[i]) / 2);
        lines.append(svg("path", { d: `M${b}L${b.map((v, i) => v + half[i])}M${a}L${a.map((v, i) => v - half[i])}` }));
      } else if (a.join() !== b.join()) lines.append(svg("path", { d: `M${a}L${b}` }));
      else lines.append(svg("path", { d: loop(a, 0.6) }));
    }
  }
  const group = svg("g", { class: "cge-lattice", "data-lattice": "output", tabindex: 0, role: "application", "aria-label": label });
  const dots = svg("g");
  const [least, most] = [Math.min(0, ...config.image), Math.max(...config.image)];
  for (let q = 0; q < height * width; q++) {
    if (config.mask && !config.mask[q]) continue;
    const [cx, cy] = source(q);
    dots.append(svg("circle", { cx, cy, r: 9, fill: shade(config.image[q], least, most).fill, class: "cge-cell" }));
  }
  for (let p = 0; p < rows * columns; p++) {
    if (!topo.sites[p]) continue;
    const [cx, cy] = target(p);
    group.append(svg("circle", { cx, cy, r: 17, class: "cge-node", "data-p": p }));
  }
  values_.append(svg("text", { x: low[0] + 12, y: low[1] - 4, class: "cge-title" }, "small: a pixel that speaks; ring: an output that hears"));
  root.append(lines, dots, group, links, values_, marks);
  const clear = () => { links.replaceChildren(); marks.replaceChildren(); };
  return { root, layers: { links, marks }, clear, source, target, values, point: round ? point : null };
}

// The arrows into one output, each with its tap; the value stands above the ring.
export function drawHeard(stage, p, heard, colours, only, value) {
  const end = stage.target(p);
  for (const edge of heard) {
    if (!edge.hears) continue;
    const style = only !== null && only !== edge.tap ? "cge-faded" : "";
    const beyond = stage.point && edge.kind === "folded";
    const start = beyond ? stage.point(edge.raw) : stage.source(edge.source), colour = colours[edge.tap];
    if (beyond) {
      for (const [[cx, cy], name] of [[start, "cge-ghost"], [stage.source(edge.source), "cge-ring"]]) {
        stage.layers.marks.append(svg("circle", { cx, cy, r: 9, class: `${name} ${style}`, stroke: colour }));
      }
    }
    const self = start.join() === end.join();
    const [d, from, to, at] = self ? [loop(end, 1), ...loopEnd(end), [end[0] - 34, end[1] + 15]] : straight(start, end);
    stage.layers.links.append(svg("path", { d, stroke: colour, class: `cge-arrow ${style}`, "data-tap": edge.tap }));
    stage.layers.marks.append(arrowHead(from, to, colour, style), tag([at[0] + 9, at[1] + 10], edge.tap, colour, style));
  }
  stage.layers.marks.append(
    svg("circle", { cx: end[0], cy: end[1], r: 19, class: "cge-here" }),
    svg("text", { x: end[0], y: end[1], class: "cge-value cge-heard-value" }, write(value)));
}

function straight(start, end) {
  const gap = [end[0] - start[0], end[1] - start[1]], length = Math.hypot(...gap) || 1;
  const unit = gap.map((v) => v / length);
  const from = start.map((v, i) => v + unit[i] * 10), to = end.map((v, i) => v - unit[i] * 21);
  const at = start.map((v, i) => v + unit[i] * Math.min(length * 0.45, 26));
  return [`M${from}L${to.map((v, i) => v - unit[i] * 5)}`, from, to, at];
}

// A loop leaves a node towards the lower left and comes back from the left.
function loop([x, y], size) {
  return `M${x - 8 * size} ${y + 17 * size}C${x - 22 * size} ${y + 46 * size} ${x - 58 * size} ${y + 16 * size} ${x - 23 * size} ${y + 3 * size}`;
}

const loopEnd = ([x, y]) => [[x - 34, y + 8], [x - 20, y + 3]];

function arrowHead(from, to, colour, style) {
  const gap = [to[0] - from[0], to[1] - from[1]], length = Math.hypot(...gap) || 1;
  const [ux, uy] = gap.map((v) => v / length), base = [to[0] - 9 * ux, to[1] - 9 * uy];
  const d = `M${to}L${[base[0] - 5 * uy, base[1] + 5 * ux]}L${[base[0] + 5 * uy, base[1] - 5 * ux]}Z`;
  return svg("path", { d, fill: colour, class: `cge-head-of-arrow ${style}` });
}
