// Pointer, touch and keys on the picture: ask an output pixel, pin it, erase input pixels.

import { say } from "./drawing.js";

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Returns a function that lets go of everything outside of the picture.
export function listenToPicture(view) {
  const stage = view.parts.stage;
  let painting = null, touched = null, cursor = [0, 0];
  const present = (p) => view.state.mask?.[p] ?? true;
  const outputPixel = (p) => [Math.floor(p / view.now.result.size[1]), p % view.now.result.size[1]];
  const here = (pixel) => pixel.join() === view.state.pixel.join();

  function under(event) {
    const cell = view.root.getRootNode().elementFromPoint(event.clientX, event.clientY)?.closest?.("[data-p]");
    if (!cell || !stage.contains(cell)) return null;
    return { key: cell.closest("[data-lattice]").dataset.lattice, p: Number(cell.dataset.p) };
  }

  stage.addEventListener("pointermove", (event) => {
    const cell = under(event);
    if (!cell) return;
    if (painting !== null) {
      if (cell.key !== "input") return;
      if (view.state.brush !== null) view.draw(cell.p);
      else if (present(cell.p) === painting) view.erase(cell.p, painting);
    } else if (cell.key !== "input" && !view.pinned && !here(outputPixel(cell.p))) {
      view.look(outputPixel(cell.p));
    }
  });
  stage.addEventListener("pointerdown", (event) => {
    const cell = under(event);
    if (!cell) return;
    if (cell.key === "input") {
      // A finger may be on its way to scroll: only one that is lifted where it came down has meant it.
      if (event.pointerType === "touch") { touched = cell.p; return; }
      painting = present(cell.p);
      mark(cell.p);
    } else {
      const pixel = outputPixel(cell.p);
      view.pinned = !(view.pinned && here(pixel)) && event.pointerType !== "touch";
      view.look(pixel);
    }
  });
  const mark = (p) => (view.state.brush === null ? view.erase(p, present(p)) : view.draw(p));
  const lift = (event) => {
    if (touched !== null && event.type === "pointerup") {
      const cell = under(event);
      if (cell?.key === "input" && cell.p === touched) mark(touched);
    }
    painting = touched = null;
  };
  for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, lift);

  stage.addEventListener("keydown", (event) => {
    const key = event.target.dataset?.lattice, step = STEPS[event.key];
    const move = (pixel, size) => pixel.map((v, axis) => Math.min(Math.max(v + step[axis], 0), size[axis] - 1));
    if (event.key === "Escape") {
      view.pinned = false;
      view.walk(false);
      view.showPixel();
    } else if (key === "output" && step) {
      event.preventDefault();
      view.look(move(view.state.pixel, view.now.result.size));
    } else if (key === "input" && step) {
      event.preventDefault();
      cursor = move(cursor, view.state.size);
      point();
    } else if (key === "input" && [" ", "Enter", "Delete", "Backspace"].includes(event.key)) {
      event.preventDefault();
      const p = cursor[0] * view.state.size[1] + cursor[1];
      mark(p);
      point();
    }
  });
  stage.addEventListener("focusin", (event) => { if (event.target.dataset?.lattice === "input") point(); });

  function point() {
    cursor = cursor.map((v, axis) => Math.min(v, view.state.size[axis] - 1));
    const p = cursor[0] * view.state.size[1] + cursor[1];
    for (const old of stage.querySelectorAll(".cge-cursor")) old.classList.remove("cge-cursor");
    stage.querySelector(`[data-lattice=input] [data-p="${p}"]`).classList.add("cge-cursor");
    say(view, `Input row ${cursor[0]}, column ${cursor[1]}: ${present(p) ? "present" : "erased"}.`);
  }

  return () => { for (const name of ["pointerup", "pointercancel"]) window.removeEventListener(name, lift); };
}
