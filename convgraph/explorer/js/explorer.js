// The page: one state, one way to change it, one way to show it.

import { compute } from "./arithmetic.js";
import { listenToControls, showControls } from "./controls.js";
import { narrow, showBars, showPixel, showStage, shownChannel } from "./drawing.js";
import { frame } from "./frame.js";
import { listenToPicture } from "./gestures.js";
import { facts } from "./panels.js";
import { configOf, evaluate, lesson, opened, settle } from "./scenes.js";

// Put an explorer into an element. `found` is what Python hands over, {} for the first lesson.
// `heard` is called with { config, split, pixel, channel, value } after every change.
export function mount(root, found = {}, heard = null) {
  root.classList.add("convgraph-explorer");
  root.replaceChildren();
  const view = {
    root, heard, parts: frame(root), state: null, now: null, stage: null, pinned: false, problem: "", saying: 0,
    change, look, erase, draw, theme, walk, again, walking: 0, start: (name) => reset({ ...lesson(name), given: view.state.given, photo: view.state.photo }),
    showPixel: () => showPixel(view),
  };

  function reset(state) {
    Object.assign(view, { state, now: evaluate(state), pinned: false, problem: "" });
    show();
  }

  function change(edit) {
    const before = structuredClone(view.state);
    edit(view.state);
    view.state.untouched = false;
    settle(view.state);
    try {
      view.now = evaluate(view.state);
      view.problem = "";
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      // The step is not taken; the reason is shown beside the controls.
      view.state = before;
      view.problem = error.message;
    }
    show();
  }

  function look(pixel) {
    view.state.pixel = pixel;
    showPixel(view);
  }

  // The window walks by itself, in reading order, until it is stopped or a person chooses a pixel.
  function walk(on = !view.walking) {
    clearInterval(view.walking);
    view.walking = on ? setInterval(step, 700) : 0;
    view.parts.walk.setAttribute("aria-pressed", String(on));
    view.parts.walk.textContent = on ? "❚❚ Stop" : "▶ Walk";
    if (on) { view.pinned = false; step(); }
  }

  function step() {
    const [rows, columns] = view.now.result.size, [row, column] = view.state.pixel;
    const next = (row * columns + column + 1) % (rows * columns);
    look([Math.floor(next / columns), next % columns]);
  }

  // The lesson anew, or what Python handed over.
  function again() {
    walk(false);
    reset(found.config && !view.state.lesson ? opened(found) : lesson(view.state.lesson ?? "messages"));
  }

  function draw(p) {
    const width = view.state.size[1];
    change((s) => {
      s.pixels[[shownChannel(s), Math.floor(p / width), p % width]] = s.brush;
      if (s.mask) s.mask[p] = true;
    });
  }

  function erase(p, gone) {
    change((s) => {
      s.mask ??= new Array(s.size[0] * s.size[1]).fill(true);
      s.mask[p] = !gone;
    });
  }

  // Light or dark: as told, else the other one than now.
  function theme(wanted = null) {
    const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
    root.dataset.theme = wanted ?? (dark ? "light" : "dark");
    const page = root.ownerDocument;
    if (page.body.classList.contains("convgraph-page")) page.documentElement.dataset.theme = root.dataset.theme;
    showPixel(view);
  }

  function show() {
    const { state, now } = view;
    state.pixel = state.pixel.map((v, axis) => Math.min(v, now.result.size[axis] - 1));
    showControls(view);
    showStage(view);
    showPixel(view);
    view.parts.facts.replaceChildren(facts(state, now));
    showBars(view);
  }

  listenToControls(view);
  const letGo = listenToPicture(view);
  // Side by side or one below the other: decided by the width that there is.
  const watch = new ResizeObserver(() => {
    if (view.stage.tall !== undefined && narrow(view) !== view.stage.tall) { showStage(view); showPixel(view); }
  });
  watch.observe(view.parts.stage);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => showPixel(view);
  scheme.addEventListener("change", recolour);

  reset(opened(found));
  return {
    get state() { return structuredClone(view.state); },
    get config() { return configOf(view.state); },
    open: (next) => reset(opened(next)),
    theme,
    go: (state) => reset(state),
    close() {
      watch.disconnect();
      letGo();
      scheme.removeEventListener("change", recolour);
      clearTimeout(view.saying);
      clearInterval(view.walking);
      root.replaceChildren();
    },
    compute,
  };
}
