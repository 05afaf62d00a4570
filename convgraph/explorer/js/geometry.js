// Who talks to whom, in integers: the relation of convgraph/geometry/kernel.py a second time, in JavaScript.
//
//     q(p, t) = p * stride - padding + t * dilation        (componentwise)
//
// A config holds one entry an axis, height before width: kernel_size, stride, dilation,
// output_padding [k_h, k_w] and padding [[before, after], [before, after]].

export const MODES = ["zeros", "reflect", "replicate", "circular"];

// Where the pixels lie: in the plane, on hexagons (axial coordinates, row r is shifted by r / 2), or on a torus, whose
// opposite borders are one. As convgraph.Hexagonal and convgraph.Torus.
export const SPACES = { plane: "in the plane", hexagon: "on hexagons", torus: "on a torus" };

// Whether a kernel has tap t: on hexagons two corners of a square kernel are no neighbours.
export function hasTap(config, t) {
  if (config.footprint) return config.footprint[t];
  const [kh, kw] = config.kernel_size;
  if (config.space !== "hexagon" || kh !== kw || kh % 2 === 0) return true;
  const radius = (kh - 1) / 2;
  return Math.abs(Math.floor(t / kw) - radius + (t % kw) - radius) <= radius;
}

// Number of output positions along an axis; throws a RangeError that says the way out.
export function outputLength(config, axis) {
  const n = config.size[axis], k = config.kernel_size[axis], s = config.stride[axis];
  const d = config.dilation[axis], [before, after] = config.padding[axis];
  const reach = d * (k - 1) + 1;
  if (config.transposed) {
    if (config.space === "torus") throw new RangeError("a transposed convolution is not drawn on a torus");
    if (config.padding_mode !== "zeros") {
      throw new RangeError("a transposed convolution knows zero padding only");
    }
    const extra = config.output_padding[axis];
    if (extra && extra >= s && extra >= d) {
      throw new RangeError("output padding must be smaller than stride or dilation");
    }
    const out = (n - 1) * s - before - after + reach + extra;
    if (out < 1) throw new RangeError(`so much padding leaves ${out} output pixels; pad less`);
    return out;
  }
  if (config.padding_mode === "reflect" && Math.max(before, after) >= n) {
    throw new RangeError(`reflect padding must be smaller than the ${n} pixels of the image`);
  }
  if (config.padding_mode === "circular" && Math.max(before, after) > n) {
    throw new RangeError(`circular padding must not exceed the ${n} pixels of the image`);
  }
  if (config.space === "hexagon" && config.padding_mode !== "zeros") {
    throw new RangeError("folded rows are no mirror images of hexagons; pad with zeros");
  }
  const span = n + before + after - reach;
  if (span < 0) {
    throw new RangeError(
      `the kernel reaches over ${reach} pixels and the padded image has ${n + before + after}: ` +
      "use a smaller kernel, less dilation, more padding or a larger image");
  }
  const out = Math.floor(span / s) + 1;
  if (config.space === "torus" && out * s !== n) {
    throw new RangeError(
      `on a torus the ${n} pixels of an axis would become ${out}: let padding follow k, and take a stride that divides ${n}`);
  }
  return out;
}

// Fold a position outside of the image back onto it; -1 where there is no edge.
export function fold(raw, n, mode) {
  if (raw >= 0 && raw < n) return raw;
  if (mode === "reflect") return raw < 0 ? -raw : 2 * (n - 1) - raw;
  if (mode === "replicate") return Math.min(Math.max(raw, 0), n - 1);
  if (mode === "circular") return ((raw % n) + n) % n;
  return -1;
}

// Along one axis: for each output position and tap the raw position asked for and the source that
// answers. `raw` is null where a transposed kernel falls between two sources.
export function axisTable(config, axis) {
  const n = config.size[axis], k = config.kernel_size[axis], s = config.stride[axis];
  const d = config.dilation[axis], before = config.padding[axis][0];
  const table = [];
  for (let p = 0; p < outputLength(config, axis); p++) {
    const row = [];
    for (let t = 0; t < k; t++) {
      if (config.transposed) {
        const scaled = p + before - t * d;
        const raw = scaled % s === 0 ? scaled / s : null;
        row.push({ raw, source: raw === null || raw < 0 || raw >= n ? -1 : raw });
      } else {
        const raw = p * s - before + t * d;
        row.push({ raw, source: fold(raw, n, config.space === "torus" ? "circular" : config.padding_mode) });
      }
    }
    table.push(row);
  }
  return table;
}

// The topology of a config: output size, one axis table an axis, which outputs are sites, edges.
// A mask is H * W booleans, or null when no pixel is missing.
export function topology(config) {
  const tables = [axisTable(config, 0), axisTable(config, 1)];
  const size = [tables[0].length, tables[1].length];
  const [kh, kw] = config.kernel_size, width = config.size[1];
  const edges = [];
  const reached = new Array(size[0] * size[1]).fill(false);
  const here = (q) => !config.mask || config.mask[q];
  // Ordered by tap, then by target: the order in which convgraph lists its edges.
  for (let t = 0; t < kh * kw; t++) {
    if (!hasTap(config, t)) continue;
    const i = Math.floor(t / kw), j = t % kw;
    for (let p = 0; p < size[0] * size[1]; p++) {
      const row = tables[0][Math.floor(p / size[1])][i].source;
      const column = tables[1][p % size[1]][j].source;
      if (row < 0 || column < 0 || !here(row * width + column)) continue;
      edges.push([row * width + column, p, t]);
      reached[p] = true;
    }
  }
  const sites = siteRule(config, size, reached);
  return { size, tables, sites, edges: edges.filter(([, p]) => sites[p]) };
}

// Without a mask every output is a site. On a mask, stride 1 and an unchanged size keep the sites of
// the input; otherwise every output that some pixel reaches is one.
function siteRule(config, size, reached) {
  if (!config.mask || config.mask.every(Boolean)) return reached.map(() => true);
  const unchanged = size[0] === config.size[0] && size[1] === config.size[1];
  if (unchanged && config.stride.every((s) => s === 1)) return config.mask.slice();
  return reached;
}

// Where tap t looks from output p, and what it finds:
// kind "edge", "folded" (an edge from the other side of the border), "outside", "between", "erased", or "corner" (a
// tap that the kernel has not).
export function look(config, topo, p, t) {
  if (!hasTap(config, t)) return { tap: t, raw: null, source: null, kind: "corner" };
  const kw = config.kernel_size[1], [height, width] = config.size;
  const row = topo.tables[0][Math.floor(p / topo.size[1])][Math.floor(t / kw)];
  const column = topo.tables[1][p % topo.size[1]][t % kw];
  const raw = row.raw === null || column.raw === null ? null : [row.raw, column.raw];
  if (raw === null) return { tap: t, raw, source: null, kind: "between" };
  if (row.source < 0 || column.source < 0) return { tap: t, raw, source: null, kind: "outside" };
  const source = row.source * width + column.source;
  if (config.mask && !config.mask[source]) return { tap: t, raw, source, kind: "erased" };
  const inside = raw[0] >= 0 && raw[0] < height && raw[1] >= 0 && raw[1] < width;
  return { tap: t, raw, source, kind: inside ? "edge" : "folded" };
}
