// Everything beside the picture: the kernel's tiles, the sum as a table and in words, the adjacency
// matrix, cost and rank. Each function fills one element from what was evaluated.

import { pools, weightAt, weightIndex } from "./arithmetic.js";
import { hasTap } from "./geometry.js";
import { cost, layerRank, rank, sliceRanks } from "./algebra.js";
import { place } from "./scenes.js";
import { inkOn, shade, short, tapColours, write } from "./lattice.js";

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return element;
}

const at = (pixel) => `(${pixel[0]}, ${pixel[1]})`;
export const many = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const offset = (y, x) => `${y > 0 ? "+" : ""}${y}, ${x > 0 ? "+" : ""}${x}`.replaceAll("-", "−");

// The kernel from input channel c to output channel o: one tile a tap.
export function kernelTiles(state, config, o, c, colours, focus) {
  const [kh, kw] = config.kernel_size;
  const grid = h("div", {
    class: kw > 5 ? "cge-tiles cge-many" : "cge-tiles", role: "group", style: `grid-template-columns: repeat(${kw}, minmax(0, 72px))`,
    "aria-label": `Taps of the kernel, ${kh} by ${kw}`,
  });
  const values = Array.from({ length: kh * kw }, (_, t) => weightAt(config, o, c, t));
  const wall = weightIndex(config, o, c, 0) < 0;
  values.forEach((v, t) => {
    const [y, x] = place(state, t), there = hasTap(config, t);
    const chosen = state.tap === t;
    const { fill, ink } = shade(v, Math.min(-1e-9, ...values), Math.max(...values));
    grid.append(h("button", {
      type: "button", class: "cge-tile", "data-tap": t, "aria-pressed": String(chosen),
      tabindex: (state.tap ?? 0) === t || focus === t ? 0 : -1,
      style: there ? `--tap:${colours[t]};background:${fill};color:${ink}` : "--tap:transparent;background:none;color:inherit",
      "aria-label": `tap ${t}, row ${Math.floor(t / kw)}, column ${t % kw}: ` +
        (!there ? "no neighbour in this space" : wall ? "no weight, another group" : `weight ${write(v)}`) + ", choose it",
      title: there ? `tap ${t}: listens ${offset(y, x)} from the centre${wall ? "" : `, weight ${v}`}` : "no neighbour in this space",
    }, h("small", {}, String(t)), !there ? "–" : wall ? "▨" : short(v)));
  });
  return { grid, values, wall };
}

// One row per tap: where it looks, what is there, what is said; `stage` holds the caption, the bias, the
// total's name and its value.
export function ledger(config, heard, colours, stage) {
  const chip = (t) => h("span", { class: "cge-chip", style: `--tap:${colours[t]};color:${onColour(colours[t])}` }, String(t));
  const between = heard.filter((e) => e.kind === "between");
  const rows = heard.filter((e) => e.kind !== "between" && e.kind !== "corner").map((e) => {
    const width = config.size[1];
    const own = e.source === null ? null : [Math.floor(e.source / width), e.source % width];
    const why = {
      outside: "no edge: outside of the image", erased: "no edge: this pixel is erased",
    }[e.kind];
    const sums = e.terms.map((term, i) => [
      i ? h("i", {}, " + ") : null,
      h("span", { class: "cge-term", title: `channel ${term.channel + 1}: ${term.weight ?? 1} · ${term.x}` },
        term.weight === null ? short(term.x) : `${short(term.weight)}·${short(term.x)}`)]);
    return h("tr", { class: e.hears ? "" : "cge-silent", "data-tap": e.tap },
      h("th", { scope: "row" }, chip(e.tap)),
      h("td", {}, own ? at(own) : "–", e.kind === "folded" ? h("small", {}, ` for ${at(e.raw)}`.replaceAll("-", "−")) : null),
      e.hears ? h("td", {}, sums) : h("td", {}, h("em", {}, why)),
      h("td", { class: "cge-number" }, e.hears ? write(e.message) : "–"));
  });
  if (between.length) {
    // A transposed kernel of stride s asks between the pixels most of the time: one row says it for all.
    rows.push(h("tr", { class: "cge-silent" }, h("th", { scope: "row", colspan: 3 },
      h("span", { class: "cge-chips" }, between.map((e) => chip(e.tap))), h("em", {}, "no edge: between two pixels")),
      h("td", { class: "cge-number" }, "–")));
  }
  const product = heard.some((e) => e.hears && e.terms.length > 1) ? "weight · value, by channel" : "weight · value";
  return h("table", { class: "cge-ledger" },
    h("caption", {}, stage.caption),
    h("thead", {}, h("tr", {}, ["tap", "pixel", product, "message"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows),
    h("tfoot", {},
      stage.bias === undefined ? null
        : h("tr", {}, h("th", { colspan: 3, scope: "row" }, "bias"), h("td", { class: "cge-number" }, write(stage.bias))),
      h("tr", { class: "cge-total" }, h("th", { colspan: 3, scope: "row" }, stage.rectified?.named ?? stage.total),
        h("td", { class: "cge-number", "data-value": stage.rectified?.before ?? stage.value }, write(stage.rectified?.before ?? stage.value, 4))),
      stage.rectified ? h("tr", { class: "cge-total" }, h("th", { colspan: 3, scope: "row" }, "ReLU: what is above 0"),
        h("td", { class: "cge-number", "data-value": stage.value }, write(stage.value, 4))) : null));
}

export const onColour = (hex) => inkOn([1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));

// The same in words, for the live region.
export function words(state, now, heard, value, bias) {
  const width = now.config.size[1];
  const edges = heard.filter((e) => e.hears);
  const place_ = `row ${state.pixel[0]}, column ${state.pixel[1]}, channel ${state.channel + 1}`;
  if (!now.result.sites[state.pixel[0] * now.result.size[1] + state.pixel[1]]) {
    return `Output ${place_} is no node: it is not computed.`;
  }
  const list = edges.slice(0, 9).map((e) =>
    `tap ${e.tap} from ${at([Math.floor(e.source / width), e.source % width])} says ${write(e.message)}`);
  if (edges.length > 9) list.push(`and ${edges.length - 9} more in the table`);
  const hears = edges.length ? `hears ${many(edges.length, "edge")}: ${list.join("; ")}.` : "hears no edge.";
  if (now.stages) {
    return `Output ${place_} hears itself once, through all ${now.config.in_channels} channels of the middle. ` +
      `There, channel ${(state.view === "colour" ? 0 : state.view) + 1} ${hears} The value is ${write(value, 4)}.`;
  }
  if (now.reached) {
    return `Output ${place_} ${hears} Through them it hears ${many(now.reached, "pixel")} of the input, two hops away. ` +
      `The value is ${write(value, 4)}.`;
  }
  if (pools(now.config)) return `Output ${place_} ${hears} The ${now.config.aggregate === "max" ? "largest" : "mean"} is ${write(value, 4)}.`;
  if (now.config.relu) return `Output ${place_} ${hears} After the ReLU the value is ${write(value, 4)}.`;
  return `Output ${place_} ${hears} ${bias ? `With the bias ${write(bias)} the` : "The"} sum is ${write(value, 4)}.`;
}

// Paint who talks to whom: row p hears column q. All taps, or the one chosen.
export function paintAdjacency(canvas, topo, config, tap, pixel, dark) {
  const rows = topo.size[0] * topo.size[1], columns = config.size[0] * config.size[1];
  const scale = Math.max(2, Math.min(6, Math.floor(520 / Math.max(rows, columns))));
  canvas.width = columns * scale;
  canvas.height = rows * scale;
  const pen = canvas.getContext("2d");
  pen.fillStyle = dark ? "#14181f" : "#ffffff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = dark ? "#232a35" : "#edf0f4";
  for (let i = 0; i < rows; i += topo.size[1]) pen.fillRect(0, i * scale, canvas.width, 1);
  for (let i = 0; i < columns; i += config.size[1]) pen.fillRect(i * scale, 0, 1, canvas.height);
  const p = pixel[0] * topo.size[1] + pixel[1];
  pen.fillStyle = dark ? "#3a4556" : "#d6e4f2";
  pen.fillRect(0, p * scale, canvas.width, scale);
  const colours = tapColours(config.kernel_size);
  let count = 0;
  for (const [source, target, t] of topo.edges) {
    if (tap !== null && t !== tap) continue;
    pen.fillStyle = colours[t];
    pen.fillRect(source * scale, target * scale, scale, scale);
    count++;
  }
  const taps = Array.from({ length: config.kernel_size[0] * config.kernel_size[1] }, (_, t) => hasTap(config, t)).filter(Boolean).length;
  const what = tap === null ? `all ${taps} taps` : `tap ${tap}`;
  const label = `Adjacency matrix of ${what}: ${many(count, "edge")}, ${rows} rows (outputs), ${columns} columns (inputs)`;
  canvas.setAttribute("aria-label", label);
  canvas.dataset.edges = count;
  const pure = config.kernel_size[0] * config.kernel_size[1] === 1 && rows === columns && count === rows;
  const loops = pure && topo.edges.every(([source, target]) => source === target);
  return loops
    ? `${many(count, "edge")}, all on the diagonal: self-loops only.`
    : `${many(count, "edge")}. Row p hears column q; the shaded row is the output you look at.`;
}

// Cost and rank of the layer as it is, beside its split in two.
export function facts(state, now) {
  const { config } = now;
  if (pools(config)) {
    return h("div", { class: "cge-facts" }, h("p", {}, `${many(now.result.edges.length, "edge")} and no weights: a pool multiplies nothing.`));
  }
  const [ins, outs] = [config.in_channels, config.out_channels];
  const taps = config.kernel_size[0] * config.kernel_size[1];
  const topo = now.stages ? now.stages.middle : now.result;
  const edges = topo.edges.length, nodes = topo.sites.filter(Boolean).length;
  const full = (o, c, t) => (hasTap(config, t) ? weightAt(config, o, c, t) : 0);
  const present = Array.from({ length: taps }, (_, t) => hasTap(config, t)).filter(Boolean).length;
  const dense = cost(edges, ins, outs, config.groups);
  const split = cost(edges, ins, ins, ins) + cost(nodes, ins, outs, 1);
  const most = Math.min(outs, ins * present);
  const found = layerRank(full, outs, ins, taps);
  const slices = sliceRanks(full, outs, ins, taps);
  const reachable = slices.every((r) => r <= 1);
  const lines = [
    ["edges", edges.toLocaleString("en"), ""],
    ["multiplications, whole", dense.toLocaleString("en"), "dense", dense],
    ["multiplications, split", split.toLocaleString("en"), "split", split],
  ];
  const widest = Math.max(dense, split, 1);
  const ratio = (1 / outs + 1 / present).toPrecision(3), true_ = dense ? (split / dense).toPrecision(3) : "–";
  const box = h("div", { class: "cge-facts" });
  for (const [name, value, kind, amount] of lines) {
    box.append(h("div", { class: "cge-fact" }, h("span", {}, name), h("b", { "data-fact": kind || "edges" }, value),
      kind ? h("span", { class: `cge-bar cge-bar-${kind}`, style: `--share:${(100 * amount) / widest}%` }) : null));
  }
  box.append(h("p", {}, `Split costs ${true_} of the whole here` +
    (config.groups === 1 ? `; the rule 1/C_out + 1/${present === taps ? "k²" : present} says ${ratio}.` : "; groups make the whole cheaper already.")));
  box.append(h("div", { class: "cge-fact" }, h("span", {}, "rank of W, C_out × C_in k²"),
    h("b", { "data-fact": "rank" }, `${found} of at most ${most}`)));
  box.append(h("div", { class: "cge-fact" }, h("span", {}, "rank of W[:, c, :] by input channel"),
    h("b", { "data-fact": "slices" }, slices.join(", "))));
  box.append(h("p", {}, reachable
    ? "Every input channel speaks with one shape: a split layer can be this kernel exactly."
    : "Some input channel speaks with more than one shape: no split layer is this kernel."));
  if (now.stages) {
    const { depthwise, pointwise } = now.parts;
    const effective = rank(Array.from({ length: outs }, (_, o) =>
      Array.from({ length: ins * taps }, (_, i) => pointwise[o * ins + Math.floor(i / taps)] * depthwise[i])));
    box.append(h("div", { class: "cge-fact" }, h("span", {}, "rank of the split layer"),
      h("b", { "data-fact": "split-rank" }, `${effective} of at most ${Math.min(outs, ins)}`)));
    box.append(h("p", {}, now.exact
      ? now.parts.depthwise_bias
        ? "The split shown is this kernel, taken apart; the depthwise stage adds a bias of its own."
        : "The split shown is this kernel, taken apart."
      : "The split shown keeps output 0's shapes and mixes them with numbers of its own."));
  }
  return box;
}
