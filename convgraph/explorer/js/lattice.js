// The picture: lattices of pixels in one SVG, and the edges into one output pixel drawn across them.

// The colours of convgraph.draw: Okabe and Ito's hues, 3 : 1 from a light and from a dark page.
const PALETTE = ["#0072B2", "#C77700", "#009E73", "#D55E00", "#3D97CF", "#C2699A", "#938600", "#AC5088"];
const CENTRE = "#808080";
const CELL = 32;
// Of hexagons as wide as a pixel: from row to row, and from tip to tip.
const PITCH = Math.sqrt(3) / 2, TALL = 2 / Math.sqrt(3);
const NS = "http://www.w3.org/2000/svg";

// A colour a tap; the tap in the middle, if there is one, is grey.
export function tapColours([kh, kw]) {
  const middle = kh % 2 && kw % 2 ? (kh * kw - 1) / 2 : -1;
  let used = 0;
  return Array.from({ length: kh * kw }, (_, t) =>
    (t === middle ? CENTRE : PALETTE[used++ % PALETTE.length]));
}

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// A number as it is written: whole numbers in full, others with three significant digits.
export function write(v, digits = 3) {
  if (v === null || v === undefined) return "–";
  const text = Number.isInteger(v) ? String(v) : String(Number(v.toPrecision(digits)));
  return text.replace("-", "−");
}

// Two digits below 1, three above: what fits beside others; the full number is in the title.
export const short = (v) => write(v, Math.abs(v) < 1 ? 2 : 3);

// A number that fits into a pixel: two decimals and no zero before the point.
function brief(v) {
  if (Number.isInteger(v)) return write(v);
  const size = Math.abs(v);
  return v.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2).replace(/^(-?)0\./, "$1.").replace("-", "−");
}

// Black or white, whichever stands out more from a colour given as [r, g, b]: at least 4.58 : 1.
export function inkOn(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

// Fill and ink of a value: white at 0, blue below, orange above, so that sign is not told by red
// and green; images without negative numbers are grey.
export function shade(v, low, high) {
  if (low >= 0) {
    const level = high > 0 ? v / high : 0;
    const grey = Math.round(38 + 214 * Math.min(Math.max(level, 0), 1));
    return { fill: `rgb(${grey},${grey},${grey})`, ink: inkOn([grey, grey, grey]) };
  }
  const most = Math.max(-low, high) || 1, level = Math.min(Math.abs(v) / most, 1) ** 0.8;
  const goal = v < 0 ? [0, 96, 160] : [222, 120, 0];
  const mix = goal.map((g) => Math.round(250 + (g - 250) * level));
  return { fill: `rgb(${mix})`, ink: inkOn(mix) };
}

// How far beyond the image the taps look: [[before, after] of rows, of columns].
export function halo(config, tables) {
  return tables.map((table, axis) => {
    const raws = table.flat().map((e) => e.raw).filter((r) => r !== null);
    const n = config.size[axis];
    return [Math.max(0, -Math.min(...raws)), Math.max(0, Math.max(...raws) - n + 1)];
  });
}

// Draw the stage: lattices from source to target, side by side, or one below the other if `tall`.
// Each lattice: { key, title, size, values, present, margin, label }.
export function drawStage(lattices, tall) {
  const gap = tall ? 40 : 88, head = 26;
  const extent = lattices.map(({ size, margin, space }) => {
    const [rows, columns] = size.map((n, axis) => n + margin[axis][0] + margin[axis][1]);
    return space === "hexagon"
      ? [((rows - 1) * PITCH + TALL) * CELL, (columns + (rows - 1) / 2) * CELL] : [rows * CELL, columns * CELL];
  });
  const widest = Math.max(...extent.map((e) => e[1])), highest = Math.max(...extent.map((e) => e[0]));
  const place = {};
  const root = svg("svg", { class: "cge-stage", focusable: "false" });
  const layers = { cells: svg("g"), links: svg("g", { class: "cge-links" }), traces: svg("g", { class: "cge-links cge-traces" }), values: svg("g"), marks: svg("g", { class: "cge-marks" }) };
  let along = 0;
  lattices.forEach((lattice, i) => {
    const x = tall ? (widest - extent[i][1]) / 2 : along;
    const y = head + (tall ? along : (highest - extent[i][0]) / 2);
    const [above, left] = lattice.margin.map(([before]) => before), six = lattice.space === "hexagon";
    place[lattice.key] = {
      ...lattice, six, x: x + (left + (six ? above / 2 : 0)) * CELL,
      y: y + (six ? above * PITCH + (TALL - 1) / 2 : above) * CELL,
    };
    layers.cells.append(drawLattice(place[lattice.key], x, y, extent[i], tall ? y : head, layers.values));
    along += (tall ? extent[i][0] + head : extent[i][1]) + gap;
  });
  const width = tall ? widest : along - gap, height = tall ? along - gap : highest + head;
  root.setAttribute("viewBox", `-6 -2 ${width + 12} ${height + 10}`);
  root.style.setProperty("--stage-width", `${Math.round((width + 12) * 1.25)}px`);
  // Edges run beneath the pixels they pass, with a faint trace above them: no value is struck out.
  root.append(layers.links, layers.cells, layers.traces, layers.values, layers.marks);
  const clear = () => { for (const name of ["links", "traces", "marks"]) layers[name].replaceChildren(); };
  return { root, layers, place, tall, clear };
}

function drawLattice(lattice, left, top, [height, width], titled, numbers) {
  const { key, size, values, present, margin } = lattice;
  const group = svg("g", {
    class: `cge-lattice cge-${key}`, "data-lattice": key, tabindex: lattice.label ? 0 : null,
    role: lattice.label ? "application" : "img", "aria-label": lattice.label ?? lattice.title,
  });
  numbers.append(svg("text", { x: lattice.x, y: titled - 9, class: "cge-title" }, lattice.title));
  if (margin.flat().some(Boolean)) {
    group.append(lattice.six ? outline(lattice, margin, 0, "cge-halo")
      : svg("rect", { x: left, y: top, width, height, rx: 5, class: "cge-halo" }));
  }
  const low = Math.min(0, ...values), high = Math.max(...values);
  const small = Math.max(...values.map((v) => brief(v).length)) > 4;
  for (let p = 0; p < size[0] * size[1]; p++) {
    const at = centre(lattice, [Math.floor(p / size[1]), p % size[1]]), [x, y] = at.map((v) => v - CELL / 2);
    const { fill, ink } = shade(values[p], low, high);
    const there = present[p];
    const painted = there && lattice.colour ? lattice.colour(p) : fill;
    const drawn = { fill: there ? painted : "none", class: there ? "cge-cell" : "cge-cell cge-absent", "data-p": p };
    group.append(lattice.six ? hexagon(at, CELL / 2 - 0.75, drawn)
      : svg("rect", { x: x + 0.75, y: y + 0.75, width: CELL - 1.5, height: CELL - 1.5, rx: 4, ...drawn }));
    if (there && !lattice.colour) {
      numbers.append(svg("text", {
        x: x + CELL / 2, y: y + CELL / 2, fill: ink, class: small ? "cge-value cge-small" : "cge-value",
      }, brief(values[p])));
    }
  }
  group.append(lattice.six ? outline(lattice, [[0, 0], [0, 0]], 3, "cge-focus") : svg("rect", {
    x: lattice.x - 3, y: lattice.y - 3, width: size[1] * CELL + 6, height: size[0] * CELL + 6, rx: 7,
    class: "cge-focus",
  }));
  return group;
}

export function centre(lattice, [row, column]) {
  if (lattice.six) return [lattice.x + (column + row / 2 + 0.5) * CELL, lattice.y + (row * PITCH + 0.5) * CELL];
  return [lattice.x + (column + 0.5) * CELL, lattice.y + (row + 0.5) * CELL];
}

// A hexagon on its tip, `half` as wide to each side.
function hexagon([x, y], half, attributes) {
  const points = Array.from({ length: 6 }, (_, i) => {
    const angle = (Math.PI / 3) * i + Math.PI / 6;
    return [x + half * TALL * Math.cos(angle), y + half * TALL * Math.sin(angle)].join();
  });
  return svg("polygon", { points: points.join(" "), ...attributes });
}

// Around slanted rows: a parallelogram, `more` beyond the pixels.
function outline(lattice, margin, more, name) {
  const [rows, columns] = lattice.size, [[above, below], [before, after]] = margin;
  const [first, last] = [-above, rows - 1 + below], half = CELL / 2 + more;
  const corner = (row, column, dx, dy) => centre(lattice, [row, column]).map((v, i) => v + [dx, dy * TALL][i]).join();
  const points = [
    corner(first, -before, -half, -half), corner(first, columns - 1 + after, half, -half),
    corner(last, columns - 1 + after, half, half), corner(last, -before, -half, half),
  ];
  return svg("polygon", { points: points.join(" "), class: name });
}

// Mark what one output hears. `heard` comes from arithmetic's incoming; `only` shows a single tap;
// `quiet` leaves out what belongs to the pixel that is explained.
export function drawEdges(stage, from, to, pixel, heard, colours, only, quiet = false) {
  const source = stage.place[from], target = stage.place[to];
  const end = centre(target, pixel);
  // No two lines lie on each other: each arrives at a place of its own, in the order in which they
  // come, and those of one row of taps bow apart.
  const arriving = heard.filter((edge) => edge.hears);
  const rank = new Map(arriving.map((edge, i) => [edge.tap, arriving.length > 1 ? i / (arriving.length - 1) - 0.5 : 0]));
  for (const edge of heard) {
    if (edge.raw === null) continue;
    const faded = only !== null && only !== edge.tap;
    const colour = colours[edge.tap];
    const own = edge.source === null ? null : [Math.floor(edge.source / source.size[1]), edge.source % source.size[1]];
    const asked = centre(source, edge.raw);
    const style = faded ? "cge-faded" : "";
    if (edge.hears) {
      const start = centre(source, own);
      const goal = arrival(end, rank.get(edge.tap), stage.tall);
      const line = { d: curve(start, goal, rank.get(edge.tap), stage.tall), stroke: colour, "data-tap": edge.tap };
      stage.layers.links.append(svg("path", { ...line, class: `cge-link ${style} ${quiet ? "cge-quietly" : ""}` }));
      if (quiet) { stage.layers.marks.append(box(start, colour, "cge-ghost", source.six)); continue; }
      stage.layers.traces.append(svg("path", { ...line, class: `cge-trace ${style}` }));
      stage.layers.marks.append(head(goal, colour, style, stage.tall));
      if (edge.kind === "folded") {
        // The place asked and the pixel that answers carry one colour and one number.
        stage.layers.marks.append(box(asked, colour, `cge-ghost ${style}`, source.six), tag(asked, edge.tap, colour, style));
      }
      stage.layers.marks.append(box(start, colour, `cge-ring ${style}`, source.six), tag(start, edge.tap, colour, style));
    } else {
      stage.layers.marks.append(box(asked, colour, `cge-ghost ${style}`, source.six), cross(asked, colour, style));
    }
  }
  stage.layers.marks.append(box(end, null, quiet ? "cge-ghost" : "cge-here", target.six));
}

// Where a line ends: on the border of the pixel, before its number, where its arrow head is.
function arrival([x, y], share, tall) {
  const aside = share * CELL * 0.86;
  return tall ? [x + aside, y - CELL / 2 - 5] : [x - CELL / 2 - 5, y + aside];
}

function curve([x0, y0], [x1, y1], share, tall) {
  const bow = share * CELL * 2.2;
  if (tall) {
    const bend = (y1 - y0) * 0.45;
    return `M${x0} ${y0}C${x0 + bow} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}`;
  }
  const bend = (x1 - x0) * 0.45;
  return `M${x0} ${y0}C${x0 + bend} ${y0 + bow} ${x1 - bend} ${y1} ${x1} ${y1}`;
}

function head([x, y], colour, style, tall) {
  const d = tall ? `M${x - 4.5} ${y - 4}L${x + 4.5} ${y - 4}L${x} ${y + 5}Z` : `M${x - 4} ${y - 4.5}L${x - 4} ${y + 4.5}L${x + 5} ${y}Z`;
  return svg("path", { d, fill: colour, class: `cge-head-of-arrow ${style}` });
}

export function box([x, y], colour, name, six = false) {
  const half = CELL / 2 - 1.5;
  if (six) return hexagon([x, y], half, { class: name, stroke: colour });
  return svg("rect", {
    x: x - half, y: y - half, width: 2 * half, height: 2 * half, rx: 4, class: name, stroke: colour,
  });
}

export function tag([x, y], tap, colour, style) {
  const at = [x - CELL / 2 + 7, y - CELL / 2 + 6];
  return svg("g", { class: `cge-tag ${style}` },
    svg("rect", { x: at[0] - 7, y: at[1] - 6, width: tap > 9 ? 16 : 12, height: 11, rx: 3, fill: colour }),
    svg("text", { x: at[0] - 7 + (tap > 9 ? 8 : 6), y: at[1] }, String(tap)));
}

function cross([x, y], colour, style) {
  return svg("path", {
    d: `M${x - 5} ${y - 5}L${x + 5} ${y + 5}M${x + 5} ${y - 5}L${x - 5} ${y + 5}`,
    stroke: colour, class: `cge-cross ${style}`,
  });
}
