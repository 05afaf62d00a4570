// The controls beside the picture: what they show of a state, and what they change in it.

import { active, shownChannel } from "./drawing.js";
import { linkTo } from "./address.js";
import { h } from "./panels.js";
import { KERNELS, LESSONS, PICTURES, typeWeight } from "./scenes.js";

export function showControls(view) {
  const { state: s, parts, problem } = view;
  for (const [name, button] of Object.entries(parts.lessons)) button.setAttribute("aria-pressed", String(s.lesson === name));
  parts.say.textContent = s.lesson ? LESSONS[s.lesson].say
    : s.given && s.untouched ? "Your layer on your image. Move over an output pixel." : "Your own experiment.";
  options(parts.aggregate, [["sum", "convolution: sum"], ["max", "max pool"], ["mean", "mean pool"]], s.aggregate);
  options(parts.picturing, [["grids", "two grids"], ["graph", "a graph"]], s.twice || s.split ? "grids" : s.picturing);
  parts.picturing.disabled = s.twice || s.split;
  options(parts.brush, [["erase", "erases or restores"], ...[0, 1, 5, 9, -9].map((v) => [v, `draws ${v}`])], s.brush ?? "erase");
  const pool = s.aggregate !== "sum";
  for (const name of ["split", "twice", "kernelKind"]) parts[name].disabled = pool;
  const ranges = {
    kernel: [s.kernel_size, 1, 7], stride: [s.stride, 1, 4], dilation: [s.dilation, 1, 4],
    padding: [s.padding.map(([a]) => a), 0, 6], extra: [s.output_padding, 0, 3], size: [s.size, 2, 16],
    ins: [[s.in_channels], 1, 6], outs: [[s.out_channels], 1, 6],
  };
  for (const [name, [values, low, high]] of Object.entries(ranges)) {
    const { inputs, output } = parts.ranges[name];
    inputs.forEach((input, axis) => {
      input.min = low; input.max = Math.max(high, ...values);
      input.value = values[axis];
      input.hidden = axis === 1 && !s.apart;
    });
    const uneven = name === "padding" && s.padding.some(([a, b]) => a !== b);
    const twice = values.length > 1 && (values[0] !== values[1] || name === "kernel" || name === "size");
    output.textContent = uneven ? s.padding.map((pair) => pair.join("|")).join(" × ")
      : twice ? values.join(" × ") : String(values[0]);
    for (const input of inputs) input.setAttribute("aria-valuetext", output.textContent.replace("×", "by"));
  }
  for (const input of parts.ranges.padding.inputs) input.disabled = s.same;
  parts.ranges.extra.inputs[0].disabled = !s.transposed;
  parts.mode.value = s.padding_mode;
  parts.mode.disabled = s.transposed || pool || s.space !== "plane";
  parts.space.value = s.space;
  parts.transposed.disabled = pool || s.space === "torus";
  parts.ranges.outs.inputs[0].disabled = pool || s.twice;
  parts.ranges.dilation.inputs.forEach((input) => { input.disabled = s.aggregate === "mean"; });
  for (const name of ["same", "apart", "transposed", "split", "relu", "twice"]) parts[name].checked = s[name];
  const divisors = Array.from({ length: s.in_channels }, (_, i) => i + 1)
    .filter((g) => s.in_channels % g === 0 && s.out_channels % g === 0);
  options(parts.groups, divisors.map((g) => [g, g === 1 ? "1 (all mix)" : g === s.in_channels ? `${g} (depthwise)` : String(g)]), s.groups);
  parts.groups.disabled = s.split || pool;
  const names = (record) => Object.entries(record).map(([key, { name }]) => [key, name]);
  options(parts.kernelKind, [...(s.given ? [["given", "your layer"]] : []), ...names(KERNELS)], s.kernel);
  options(parts.picture, [...(s.photo ? [["photo", "your image"]] : []), ...names(PICTURES)], s.picture);
  const count = (n) => Array.from({ length: n }, (_, c) => [c, String(c + 1)]);
  const photo = s.in_channels === 3 && Math.min(...view.now.config.image) >= 0;
  options(parts.view, [...count(s.in_channels), ...(photo ? [["colour", "colour"]] : [])], s.view);
  options(parts.channel, count(s.out_channels), s.channel);
  parts.restore.hidden = (!s.mask || s.mask.every(Boolean)) && !Object.keys(s.pixels).length;
  parts.restore.textContent = Object.keys(s.pixels).length ? "Undo drawing and erasing" : "Restore erased pixels";
  parts.problem.textContent = problem ? `Not possible: ${problem}.` : "";
  parts.problem.hidden = !problem;
}

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)));
  select.value = String(chosen);
}

// What a slider sets: one axis of a field, or both where rows and columns are the same.
const along = (name) => (s, n, axis) => { s[name] = s[name].map((old, a) => (s.apart && a !== axis ? old : n)); };
const SETTERS = {
  kernel: along("kernel_size"), stride: along("stride"), dilation: along("dilation"), size: along("size"),
  padding: (s, n, axis) => { s.padding = s.padding.map((old, a) => (s.apart && a !== axis ? old : [n, n])); },
  extra: (s, n) => { s.output_padding = [n, n]; },
  ins: (s, n) => { s.in_channels = n; }, outs: (s, n) => { s.out_channels = n; },
};

// The stages of a split layer that Python handed over, while its weights are the ones shown.
const handed = (s) => (s.kernel === "given" ? s.given.split : null);

// Let every control change the state. view.change(edit) redraws, or says why the step is not possible.
export function listenToControls(view) {
  const { parts, change } = view;
  for (const [name, { inputs }] of Object.entries(parts.ranges)) {
    inputs.forEach((input, axis) => input.addEventListener("input", () =>
      change((s) => SETTERS[name](s, Number(input.value), axis))));
  }
  const on = (name, edit) => parts[name].addEventListener("change", () => change((s) => edit(s, parts[name])));
  on("mode", (s, { value }) => { s.padding_mode = value; });
  on("space", (s, { value }) => { s.space = value; s.same ||= value === "torus"; });
  for (const name of ["same", "transposed", "split", "relu", "twice"]) on(name, (s, { checked }) => { s[name] = checked; });
  on("apart", (s, { checked }) => {
    s.apart = checked;
    // Together again: columns become what rows are.
    if (!checked) for (const name of ["kernel_size", "stride", "dilation", "padding", "size"]) s[name] = [s[name][0], s[name][0]];
  });
  on("groups", (s, { value }) => { s.groups = Number(value); });
  on("kernelKind", (s, { value }) => { s.kernel = value; s.edits = {}; s.parts = handed(s); });
  on("picture", (s, { value }) => { s.picture = value; s.pixels = {}; });
  on("aggregate", (s, { value }) => { s.aggregate = value; });
  on("picturing", (s, { value }) => { s.picturing = value; });
  on("brush", (s, { value }) => { s.brush = value === "erase" ? null : Number(value); });
  parts.upload.addEventListener("change", () => upload(view, parts.upload.files[0]));
  parts.walk.addEventListener("click", () => view.walk());
  parts.reset.addEventListener("click", () => view.again());
  parts.save.addEventListener("click", () => savePicture(view));
  parts.link.addEventListener("click", () => copyLink(view));
  on("view", (s, { value }) => { s.view = value === "colour" ? value : Number(value); });
  on("channel", (s, { value }) => { s.channel = Number(value); });
  parts.restore.addEventListener("click", () => change((s) => { s.mask = null; s.pixels = {}; }));
  parts.swap.addEventListener("click", () => change((s) => { s.picture = s.picture === "A" ? "B" : "A"; }));
  parts.theme.addEventListener("click", () => view.theme());
  for (const [name, button] of Object.entries(parts.lessons)) button.addEventListener("click", () => view.start(name));
  listenToKernel(view);
}

// Tiles choose a tap; a number typed, into the field or on a tile, is the weight of that tap.
function listenToKernel(view) {
  const { parts } = view;
  const choose = (t) => {
    view.state.tap = view.state.tap === t ? null : t;
    view.showPixel();
  };
  parts.tiles.addEventListener("click", (event) => {
    const tile = event.target.closest(".cge-tile");
    if (tile) choose(Number(tile.dataset.tap));
  });
  parts.tiles.addEventListener("keydown", (event) => {
    const t = Number(event.target.dataset.tap), [kh, kw] = view.state.kernel_size;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -kw, ArrowDown: kw }[event.key];
    if (step && t + step >= 0 && t + step < kh * kw) {
      event.preventDefault();
      parts.tiles.querySelector(`[data-tap="${t + step}"]`).focus();
    } else if (event.key === "Escape" && view.state.tap !== null) {
      choose(view.state.tap);
    } else if (/^[-.\d]$/.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      if (view.state.tap !== t) choose(t);
      // The key itself lands in the field, which is where the focus is by then.
      if (!parts.typing.hidden) { parts.weight.focus(); parts.weight.select(); }
    }
  });
  parts.weight.addEventListener("input", () => {
    const value = parts.weight.valueAsNumber;
    if (!Number.isFinite(value)) return;
    view.change((s) => typeWeight(s, s.channel, shownChannel(s), s.tap, value));
  });
  parts.weight.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    parts.tiles.querySelector(`[data-tap="${view.state.tap}"]`).focus();
    view.showPixel();
  });
  parts.weight.addEventListener("blur", () => { if (active(view) !== parts.weight && view.state.tap !== null) view.showPixel(); });
  parts.allTaps.addEventListener("click", () => { view.state.tap = null; view.showPixel(); });
  parts.untype.addEventListener("click", () => view.change((s) => { s.edits = {}; s.parts = handed(s); }));
}

// A picture of one's own, averaged by the browser down to the size that is shown.
async function upload(view, file) {
  if (!file) return;
  const [height, width] = view.state.size, canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  } catch {
    view.problem = "the file is no picture that this browser reads";
    showControls(view);
    return;
  }
  pen.drawImage(bitmap, 0, 0);
  const data = pen.getImageData(0, 0, width, height).data, image = [];
  for (let c = 0; c < 3; c++) for (let p = 0; p < width * height; p++) image.push(data[4 * p + c]);
  view.change((s) => {
    Object.assign(s, { photo: { size: [height, width], in_channels: 3, image }, picture: "photo", in_channels: 3, pixels: {}, view: "colour" });
  });
}

async function copyLink(view) {
  const text = linkTo(view.state);
  try {
    await navigator.clipboard.writeText(text);
    view.parts.link.textContent = "Copied";
  } catch {
    window.prompt("This link opens what you see:", text);
  }
  setTimeout(() => { view.parts.link.textContent = "Copy link"; }, 1500);
}

// The picture as a file: the SVG with the page's own style sheet in it.
function savePicture(view) {
  const svg = view.stage.root.cloneNode(true);
  const style = document.createElementNS("http://www.w3.org/2000/svg", "style");
  const seen = getComputedStyle(view.root), names = ["page", "panel", "ink", "soft", "line", "accent", "wash", "absent"];
  style.textContent = `svg { ${names.map((name) => `--${name}: ${seen.getPropertyValue(`--${name}`)}`).join(";")}; background: ${seen.getPropertyValue("--panel")} }` +
    [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).map((rule) => rule.cssText).filter((rule) => rule.startsWith(".cge-")).join("\n");
  svg.prepend(style);
  svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(svg)], { type: "image/svg+xml" }));
  link.download = "convolution.svg";
  link.click();
  URL.revokeObjectURL(link.href);
}
