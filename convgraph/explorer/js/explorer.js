// The page: one state, one render, and the events that change the state.

import { compute, incoming } from "./arithmetic.js";
import { MODES } from "./geometry.js";
import { drawEdges, drawStage, halo, tapColours, write } from "./lattice.js";
import { facts, h, kernelTiles, ledger, many, onColour, paintAdjacency, words } from "./panels.js";
import { configOf, evaluate, KERNELS, lesson, LESSONS, opened, PICTURES, settle } from "./scenes.js";

// Put an explorer into an element. `found` is what Python hands over, {} for the first lesson.
// `heard` is called with { config, split, pixel, channel, value } after every change.
export function mount(root, found = {}, heard = null) {
  let state = opened(found), now = null, stage = null, painting = null, pinned = false, problem = "";
  let spoken = 0;
  root.classList.add("convgraph-explorer");
  root.replaceChildren();
  const parts = frame(root);

  // -- changing -------------------------------------------------------------------------------

  function change(edit, touched = true) {
    const before = structuredClone(state);
    edit(state);
    if (touched) state.untouched = false;
    settle(state);
    try {
      now = evaluate(state);
      problem = "";
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      // The step is not taken; the reason is shown beside the controls.
      state = before;
      problem = error.message;
    }
    render();
  }

  function look(pixel) {
    state.pixel = pixel;
    renderPixel();
  }

  function erase(p, gone) {
    change((s) => {
      s.mask ??= new Array(s.size[0] * s.size[1]).fill(true);
      s.mask[p] = !gone;
    });
  }

  // -- drawing --------------------------------------------------------------------------------

  function render() {
    if (now === null) now = evaluate(state);
    state.pixel = state.pixel.map((v, axis) => Math.min(v, now.result.size[axis] - 1));
    renderControls();
    renderStage();
    renderPixel();
    parts.facts.replaceChildren(facts(state, now));
    renderBars();
  }

  function renderStage() {
    const { config, result, stages } = now;
    const places = (size) => size[0] * size[1];
    const none = [[0, 0], [0, 0]];
    const first = stages ? stages.middle : result;
    const colour = state.view === "colour" ? paint(config) : null;
    const view = state.view === "colour" ? 0 : state.view;
    const cut = (values, size, c) => values.slice(c * places(size), (c + 1) * places(size));
    const lattices = [{
      key: "input", title: `input x, channel ${state.view === "colour" ? "all" : view}`, size: config.size,
      values: cut(config.image, config.size, view), colour,
      present: config.mask ?? new Array(places(config.size)).fill(true), margin: halo(config, first.tables),
      label: `Input, ${config.size[0]} by ${config.size[1]} pixels. Arrow keys move, space erases or restores a pixel.`,
    }];
    if (stages) {
      lattices.push({
        key: "middle", title: `after depthwise, channel ${view}`, size: first.size,
        values: cut(first.output, first.size, view), present: first.sites, margin: none,
      });
    }
    lattices.push({
      key: "output", title: `output y, channel ${state.channel}`, size: result.size,
      values: cut(result.output, result.size, state.channel), present: result.sites, margin: none,
      label: `Output, ${result.size[0]} by ${result.size[1]} pixels. Arrow keys choose the pixel that is explained.`,
    });
    const focused = active()?.dataset?.lattice;
    stage = drawStage(lattices, parts.stage.clientWidth > 0 && parts.stage.clientWidth < 620);
    parts.stage.replaceChildren(stage.root);
    if (focused) stage.root.querySelector(`[data-lattice=${focused}]`)?.focus({ preventScroll: true });
  }

  function active() {
    return root.getRootNode().activeElement;
  }

  function renderPixel() {
    const { config, result, stages } = now;
    const p = state.pixel[0] * result.size[1] + state.pixel[1];
    const colours = tapColours(config.kernel_size);
    const view = state.view === "colour" ? 0 : state.view;
    const places = result.size[0] * result.size[1];
    const value = result.output[state.channel * places + p];
    const site = result.sites[p];
    stage.layers.links.replaceChildren();
    stage.layers.marks.replaceChildren();
    const from = stages ? stages.first : config, topo = stages ? stages.middle : result;
    const heardHere = incoming(from, topo, p, stages ? view : state.channel);
    if (site) drawEdges(stage, "input", stages ? "middle" : "output", state.pixel, heardHere, colours, state.tap);
    if (site && stages) {
      drawEdges(stage, "middle", "output", state.pixel, incoming(stages.second, stages.last, p, state.channel), ["#808080"], null);
    }
    for (const group of stage.layers.marks.querySelectorAll(".cge-tag")) {
      group.lastChild.setAttribute("fill", onColour(group.firstChild.getAttribute("fill")));
    }
    const name = (c) => `y[${state.pixel.join(", ")}] in channel ${c}`;
    const tables = [];
    if (!site) tables.push(h("p", { class: "cge-note" }, `${name(state.channel)} is no node: nothing is computed there.`));
    else if (!stages) {
      tables.push(ledger(state, { ...now, config }, heardHere, colours, {
        caption: `${name(state.channel)}: ${many(heardHere.filter((e) => e.hears).length, "edge")}`,
        bias: config.bias, channel: state.channel, total: "sum = output", value,
      }));
    } else {
      tables.push(ledger(state, { ...now, config: from }, heardHere, colours, {
        caption: `1. Depthwise: middle pixel, channel ${view}`, bias: from.bias, channel: view,
        total: `sum = middle, channel ${view}`, value: topo.output[view * places + p],
      }));
      tables.push(ledger(state, { ...now, config: stages.second }, incoming(stages.second, stages.last, p, state.channel), ["#808080"], {
        caption: `2. Pointwise: ${name(state.channel)}, one self-loop`, bias: config.bias,
        channel: state.channel, total: "sum = output", value,
      }));
    }
    parts.sum.replaceChildren(
      h("p", { class: "cge-big" }, h("span", {}, `y[${state.pixel.join(", ")}]`), h("output", { "data-y": site ? value : "" }, site ? write(value, 4) : "not a node"),
        h("small", {}, pinned ? "pinned: click again or press Escape to let go" : "click to pin")),
      ...tables);
    const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
    parts.adjacencyText.textContent = paintAdjacency(parts.adjacency, topo, from, state.tap, state.pixel, dark);
    parts.adjacencyTitle.textContent = state.tap === null ? "Adjacency, all taps" : `Adjacency of tap ${state.tap}`;
    const tile = active()?.closest?.(".cge-tile")?.dataset.tap;
    parts.tiles.replaceChildren(kernelTiles({ ...state, view: stages ? view : view, channel: stages ? view : state.channel }, from, colours, tile === undefined ? null : Number(tile)));
    parts.kernelTitle.textContent = stages ? `Depthwise kernel of channel ${view}` : `Kernel: input ${view} → output ${state.channel}`;
    if (tile !== undefined) parts.tiles.querySelector(`[data-tap="${tile}"]`)?.focus({ preventScroll: true });
    root.classList.toggle("cge-pinned", pinned);
    // A screen reader hears where the eye rests, not every pixel that a pointer passes.
    clearTimeout(spoken);
    const text = words(state, { ...now, config: from, result }, heardHere, value, stages ? 0 : config.bias?.[state.channel] ?? 0);
    spoken = setTimeout(() => { parts.words.textContent = text; }, 150);
    heard?.({
      config, split: stages ? now.parts : null, pixel: [...state.pixel], channel: state.channel,
      value: site ? value : null,
    });
  }

  function paint(config) {
    const n = config.size[0] * config.size[1];
    const most = Math.max(...config.image) > 1 ? 255 : 1;
    return (p) => `rgb(${[0, 1, 2].map((c) => Math.round((255 * config.image[c * n + p]) / most))})`;
  }

  // The bars again, both of them, so that what the layer can tell apart is seen at once.
  function renderBars() {
    const bars = state.picture === "A" || state.picture === "B";
    parts.bars.hidden = !bars;
    if (!bars) return;
    const maps = ["A", "B"].map((picture) => evaluate({ ...state, picture }).result);
    const n = maps[0].size[0] * maps[0].size[1];
    const lines = Array.from({ length: state.out_channels }, (_, o) => {
      const [a, b] = maps.map((m) => m.output.slice(o * n, (o + 1) * n));
      const apart = a.filter((v, i) => v !== b[i]).length;
      return h("li", { "data-apart": apart }, h("b", {}, `output ${o}: `), apart
        ? `A and B differ at ${apart} of ${n} pixels. This channel tells them apart.`
        : "A and B give the same map. This channel cannot tell them apart.");
    });
    parts.barList.replaceChildren(...lines);
    parts.swap.textContent = `Swap the bars: now ${state.picture}, show ${state.picture === "A" ? "B" : "A"}`;
  }

  // -- controls -------------------------------------------------------------------------------

  function renderControls() {
    const s = state;
    for (const [name, button] of Object.entries(parts.lessons)) button.setAttribute("aria-pressed", String(s.lesson === name));
    parts.say.textContent = s.lesson ? LESSONS[s.lesson].say
      : s.given && s.untouched ? "Your layer on your image. Move over an output pixel." : "Your own experiment.";
    const ranges = {
      kernel: [s.kernel_size, 1, 7], stride: [s.stride, 1, 4], dilation: [s.dilation, 1, 4],
      padding: [s.padding.map(([a]) => a), 0, 6], extra: [s.output_padding, 0, 3], size: [s.size, 2, 16],
      ins: [[s.in_channels], 1, Math.max(6, s.in_channels)], outs: [[s.out_channels], 1, Math.max(6, s.out_channels)],
    };
    for (const [name, [values, low, high]] of Object.entries(ranges)) {
      const { input, output } = parts.ranges[name];
      input.min = low; input.max = high; input.value = Math.max(...values);
      const text = name === "padding" && s.padding.some(([a, b]) => a !== b)
        ? s.padding.map(([a, b]) => `${a}|${b}`).join(" × ")
        : new Set(values).size > 1 || ["kernel", "size"].includes(name)
          ? (values.length > 1 ? values.join(" × ") : String(values[0])) : String(values[0]);
      output.textContent = text;
      input.setAttribute("aria-valuetext", text.replace("×", "by"));
    }
    parts.ranges.padding.input.disabled = s.same;
    parts.ranges.extra.input.disabled = !s.transposed;
    parts.mode.value = s.padding_mode;
    parts.mode.disabled = s.transposed;
    parts.same.checked = s.same;
    parts.transposed.checked = s.transposed;
    parts.split.checked = s.split;
    const divisors = [];
    for (let g = 1; g <= s.in_channels; g++) if (s.in_channels % g === 0 && s.out_channels % g === 0) divisors.push(g);
    options(parts.groups, divisors.map((g) => [g, g === 1 ? "1 (all mix)" : g === s.in_channels ? `${g} (depthwise)` : String(g)]), s.groups);
    parts.groups.disabled = s.split;
    options(parts.kernelKind, [...(s.given ? [["given", "your layer"]] : []), ...Object.entries(KERNELS).map(([k, v]) => [k, v.name])], s.kernel);
    options(parts.picture, [...(s.photo ? [["photo", "your image"]] : []), ...Object.entries(PICTURES).map(([k, v]) => [k, v.name])], s.picture);
    channels(parts.view, s.in_channels, s.view, s.in_channels === 3 && Math.min(...now.config.image) >= 0);
    channels(parts.channel, s.out_channels, s.channel, false);
    parts.restore.disabled = !s.mask || s.mask.every(Boolean);
    parts.problem.textContent = problem ? `Not possible: ${problem}.` : "";
    parts.problem.hidden = !problem;
  }

  function options(select, pairs, chosen) {
    select.replaceChildren(...pairs.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)));
    select.value = String(chosen);
  }

  function channels(select, count, chosen, colour) {
    options(select, [...Array.from({ length: count }, (_, c) => [c, String(c)]), ...(colour ? [["colour", "colour"]] : [])], chosen);
  }

  const setters = {
    kernel: (s, n) => { s.kernel_size = [n, n]; }, stride: (s, n) => { s.stride = [n, n]; },
    dilation: (s, n) => { s.dilation = [n, n]; }, padding: (s, n) => { s.padding = [[n, n], [n, n]]; },
    extra: (s, n) => { s.output_padding = [n, n]; }, size: (s, n) => { s.size = [n, n]; },
    ins: (s, n) => { s.in_channels = n; s.parts = null; }, outs: (s, n) => { s.out_channels = n; s.parts = null; },
  };
  for (const [name, { input }] of Object.entries(parts.ranges)) {
    input.addEventListener("input", () => change((s) => setters[name](s, Number(input.value))));
  }
  const on = (element, edit) => element.addEventListener("change", () => change(edit));
  on(parts.mode, (s) => { s.padding_mode = parts.mode.value; });
  on(parts.same, (s) => { s.same = parts.same.checked; });
  on(parts.transposed, (s) => { s.transposed = parts.transposed.checked; });
  on(parts.split, (s) => { s.split = parts.split.checked; });
  on(parts.groups, (s) => { s.groups = Number(parts.groups.value); });
  on(parts.kernelKind, (s) => { s.kernel = parts.kernelKind.value; s.parts = null; });
  on(parts.picture, (s) => { s.picture = parts.picture.value; });
  on(parts.view, (s) => { s.view = parts.view.value === "colour" ? "colour" : Number(parts.view.value); });
  on(parts.channel, (s) => { s.channel = Number(parts.channel.value); });
  parts.restore.addEventListener("click", () => change((s) => { s.mask = null; }));
  parts.swap.addEventListener("click", () => change((s) => { s.picture = s.picture === "A" ? "B" : "A"; }));
  parts.theme.addEventListener("click", () => {
    const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
    root.dataset.theme = dark ? "light" : "dark";
    if (root.ownerDocument.body.classList.contains("convgraph-page")) root.ownerDocument.documentElement.dataset.theme = root.dataset.theme;
    render();
  });
  for (const [name, button] of Object.entries(parts.lessons)) {
    button.addEventListener("click", () => {
      const { given, photo } = state;
      pinned = false; problem = "";
      state = { ...lesson(name), given, photo };
      now = evaluate(state);
      render();
    });
  }

  parts.tiles.addEventListener("click", (event) => {
    const tile = event.target.closest(".cge-tile");
    if (tile) choose(Number(tile.dataset.tap));
  });
  parts.tiles.addEventListener("keydown", (event) => {
    const t = Number(event.target.dataset.tap), [kh, kw] = state.kernel_size;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -kw, ArrowDown: kw }[event.key];
    if (step && t + step >= 0 && t + step < kh * kw) {
      event.preventDefault();
      parts.tiles.querySelector(`[data-tap="${t + step}"]`).focus();
    }
    if (event.key === "Escape" && state.tap !== null) choose(state.tap);
  });
  parts.allTaps.addEventListener("click", () => { state.tap = null; renderPixel(); });

  function choose(t) {
    state.tap = state.tap === t ? null : t;
    renderPixel();
  }

  // -- pointer and keys on the picture ----------------------------------------------------------

  function under(event) {
    const found_ = root.getRootNode().elementFromPoint(event.clientX, event.clientY);
    const cell = found_?.closest?.("[data-p]");
    return cell && parts.stage.contains(cell) ? { key: cell.closest("[data-lattice]").dataset.lattice, p: Number(cell.dataset.p) } : null;
  }

  parts.stage.addEventListener("pointermove", (event) => {
    const cell = under(event);
    if (!cell) return;
    if (painting !== null) {
      const there = state.mask?.[cell.p] ?? true;
      if (cell.key === "input" && there === painting) erase(cell.p, painting);
    } else if (cell.key !== "input" && !pinned) {
      const width = now.result.size[1];
      const pixel = [Math.floor(cell.p / width), cell.p % width];
      if (pixel.join() !== state.pixel.join()) look(pixel);
    }
  });
  parts.stage.addEventListener("pointerdown", (event) => {
    const cell = under(event);
    if (!cell) return;
    if (cell.key === "input") {
      painting = state.mask?.[cell.p] ?? true;
      erase(cell.p, painting);
    } else {
      const width = now.result.size[1];
      const pixel = [Math.floor(cell.p / width), cell.p % width];
      pinned = !(pinned && pixel.join() === state.pixel.join()) && event.pointerType !== "touch";
      look(pixel);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, () => { painting = null; });

  let cursor = [0, 0];
  parts.stage.addEventListener("keydown", (event) => {
    const key = event.target.dataset?.lattice;
    if (event.key === "Escape") { pinned = false; renderPixel(); }
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const size = key === "input" ? state.size : now.result.size;
    const move = (pixel) => pixel.map((v, axis) => Math.min(Math.max(v + step[axis], 0), size[axis] - 1));
    if (key === "output" && step) {
      event.preventDefault();
      look(move(state.pixel));
    } else if (key === "input" && step) {
      event.preventDefault();
      cursor = move(cursor);
      point();
    } else if (key === "input" && [" ", "Enter", "Delete", "Backspace"].includes(event.key)) {
      event.preventDefault();
      const p = cursor[0] * state.size[1] + cursor[1];
      erase(p, state.mask?.[p] ?? true);
      point();
    }
  });
  parts.stage.addEventListener("focusin", (event) => { if (event.target.dataset?.lattice === "input") point(); });

  function point() {
    cursor = cursor.map((v, axis) => Math.min(v, state.size[axis] - 1));
    const p = cursor[0] * state.size[1] + cursor[1];
    for (const old of stage.root.querySelectorAll(".cge-cursor")) old.classList.remove("cge-cursor");
    stage.root.querySelector(`[data-lattice=input] [data-p="${p}"]`).classList.add("cge-cursor");
    const there = state.mask?.[p] ?? true;
    clearTimeout(spoken);
    spoken = setTimeout(() => {
      parts.words.textContent = `Input row ${cursor[0]}, column ${cursor[1]}: ${there ? "present" : "erased"}.`;
    }, 150);
  }

  // Side by side or one below the other: decided by the width that there is.
  const watch = new ResizeObserver(() => {
    const tall = parts.stage.clientWidth < 620;
    if (stage && tall !== stage.tall) { renderStage(); renderPixel(); }
  });
  watch.observe(parts.stage);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => renderPixel();
  scheme.addEventListener("change", recolour);

  render();
  return {
    get state() { return structuredClone(state); },
    get config() { return configOf(state); },
    open(next) { state = opened(next); now = evaluate(state); pinned = false; problem = ""; render(); },
    close() { watch.disconnect(); scheme.removeEventListener("change", recolour); clearTimeout(spoken); root.replaceChildren(); },
    compute,
  };
}

// The fixed furniture of the page.
function frame(root) {
  const parts = { lessons: {}, ranges: {} };
  const id = `cge${Math.random().toString(36).slice(2, 8)}`;
  const range = (name, label) => {
    const input = h("input", { type: "range", step: 1, id: `${id}-${name}`, "data-control": name });
    const output = h("output", { for: `${id}-${name}` });
    parts.ranges[name] = { input, output };
    return h("div", { class: "cge-control" }, h("label", { for: `${id}-${name}` }, label), output, input);
  };
  const select = (name, label, part = name) => {
    parts[part] = h("select", { id: `${id}-${name}`, "data-control": name });
    return h("div", { class: "cge-control" }, h("label", { for: `${id}-${name}` }, label), parts[part]);
  };
  const tick = (name, label) => {
    parts[name] = h("input", { type: "checkbox", "data-control": name });
    return h("label", { class: "cge-tick" }, parts[name], label);
  };
  const put = (name, element) => (parts[name] = element);
  for (const [name, { name: text }] of Object.entries(LESSONS)) {
    parts.lessons[name] = h("button", { type: "button", "data-lesson": name, "aria-pressed": "false" }, text);
  }
  const modes = select("mode", "padding mode");
  parts.mode.append(...MODES.map((mode) => h("option", { value: mode }, mode)));
  root.append(
    h("header", { class: "cge-head" },
      h("div", {}, h("h1", {}, "A convolution is a graph"),
        h("p", { class: "cge-equation" }, "y[p] = b + Σ W[:, :, t] x[q]", h("span", {}, "over the edges q → p through tap t"))),
      put("theme", h("button", { type: "button", class: "cge-quiet", "aria-label": "Switch between light and dark" }, "◐"))),
    h("nav", { class: "cge-lessons", "aria-label": "Lessons" }, Object.values(parts.lessons)),
    put("say", h("p", { class: "cge-say" })),
    h("div", { class: "cge-body" },
      h("section", { class: "cge-main", "aria-label": "Picture" },
        put("stage", h("div", { class: "cge-canvas" })),
        h("div", { class: "cge-under" },
          select("view", "input channel"), select("channel", "output channel"),
          put("restore", h("button", { type: "button", class: "cge-quiet" }, "Restore erased pixels")),
          h("p", { class: "cge-hint" }, "Move over the output to ask; click the input to erase. With keys: Tab, arrows, space.")),
        put("bars", h("div", { class: "cge-bars", hidden: true },
          put("swap", h("button", { type: "button", class: "cge-strong" })), put("barList", h("ul", {})))),
        h("p", { class: "cge-words-title" }, "In words"),
        put("words", h("p", { class: "cge-words", "aria-live": "polite", role: "status" }))),
      h("section", { class: "cge-sum-panel cge-panel", "aria-label": "The sum" }, put("sum", h("div", {}))),
      h("section", { class: "cge-panel cge-controls", "aria-label": "Geometry" },
        h("h2", {}, "Who talks to whom"),
        range("kernel", "kernel size k"), range("stride", "stride"), range("dilation", "dilation"),
        range("padding", "padding"), tick("same", "padding follows k"), modes,
        tick("transposed", "transposed (arrows reversed)"), range("extra", "output padding"),
        put("problem", h("p", { class: "cge-problem", role: "alert", hidden: true }))),
      h("section", { class: "cge-panel cge-controls", "aria-label": "Channels and numbers" },
        h("h2", {}, "What they say"),
        range("ins", "input channels"), range("outs", "output channels"), select("groups", "groups"),
        tick("split", "split: depthwise + pointwise"),
        select("kernelKind", "weights"), select("picture", "image"), range("size", "image size")),
      h("section", { class: "cge-panel", "aria-label": "Kernel" },
        put("kernelTitle", h("h2", {})), put("tiles", h("div", {})),
        h("p", { class: "cge-hint" }, "Click a tap to see it alone, in the picture and in the matrix."),
        put("allTaps", h("button", { type: "button", class: "cge-quiet" }, "All taps"))),
      h("section", { class: "cge-panel", "aria-label": "Adjacency matrix" },
        put("adjacencyTitle", h("h2", {})),
        put("adjacency", h("canvas", { class: "cge-matrix", role: "img" })),
        put("adjacencyText", h("p", { class: "cge-hint" }))),
      h("section", { class: "cge-panel", "aria-label": "Cost and rank" }, h("h2", {}, "Cost and rank"), put("facts", h("div", {})))));
  return parts;
}

// What a notebook asks for: anywidget calls render with the model of the kernel.
export function render({ model, el }) {
  let ours = false;
  const view = mount(el, model.get("state"), (seen) => {
    ours = true;
    model.set("seen", seen);
    model.save_changes();
    ours = false;
  });
  const opens = () => { if (!ours) view.open(model.get("state")); };
  model.on("change:state", opens);
  return () => { model.off("change:state", opens); view.close(); };
}

export default { render };
