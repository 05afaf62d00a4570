// The fixed furniture of the page: what is there before the first number is drawn.

import { MODES, SPACES } from "./geometry.js";
import { h } from "./panels.js";
import { LESSONS } from "./scenes.js";

export function frame(root) {
  const parts = { lessons: {}, ranges: {} };
  const id = `cge${Math.random().toString(36).slice(2, 8)}`;
  // A slider, or two of them where rows and columns go apart.
  const range = (name, label, axes = 1) => {
    const inputs = Array.from({ length: axes }, (_, axis) => h("input", {
      type: "range", step: 1, id: axis ? null : `${id}-${name}`, "data-control": axis ? `${name}-columns` : name,
      "aria-label": axis ? `${label}, columns` : null, hidden: axis === 1,
    }));
    const output = h("span", { class: "cge-amount", "aria-hidden": "true" });
    parts.ranges[name] = { inputs, output };
    return h("div", { class: "cge-control" }, h("label", { for: `${id}-${name}` }, label), output, inputs);
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
  const button = (name, text, extra = {}) => put(name, h("button", { type: "button", class: "cge-quiet", ...extra }, text));
  const modes = select("mode", "padding mode");
  parts.mode.append(...MODES.map((mode) => h("option", { value: mode }, mode)));
  const spaces = select("space", "pixels lie");
  parts.space.append(...Object.entries(SPACES).map(([space, text]) => h("option", { value: space }, text)));
  root.append(
    h("header", { class: "cge-head" },
      h("div", {}, h("h1", {}, "A convolution is a graph"),
        h("p", { class: "cge-equation" }, "y[p] = b + Σ W[:, :, t] x[q]", h("span", {}, "over the edges q → p through tap t"))),
      h("div", { class: "cge-tools" },
        button("link", "Copy link"), button("save", "Save picture"), button("reset", "Start again"),
        put("theme", h("button", { type: "button", class: "cge-quiet", "aria-label": "Switch between light and dark" }, "◐")))),
    h("nav", { class: "cge-lessons", "aria-label": "Lessons" }, Object.values(parts.lessons)),
    put("say", h("p", { class: "cge-say" })),
    h("div", { class: "cge-body" },
      h("section", { class: "cge-main", "aria-label": "Picture" },
        h("div", { class: "cge-quick", role: "group", "aria-label": "Geometry" },
          range("kernel", "kernel size k", 2), range("stride", "stride", 2), range("dilation", "dilation", 2),
          range("padding", "padding", 2)),
        put("problem", h("p", { class: "cge-problem", role: "alert", hidden: true })),
        put("stage", h("div", { class: "cge-canvas" })),
        h("div", { class: "cge-under" },
          button("walk", "▶ Walk", { "aria-pressed": "false" }),
          select("picturing", "picture"), select("view", "input channel"), select("channel", "output channel"),
          select("brush", "a click on the input"),
          put("restore", h("button", { type: "button", class: "cge-quiet", hidden: true }, "Restore erased pixels")),
          h("p", { class: "cge-hint cge-by-mouse" }, "Move over the output to ask; click the input to erase or to draw. With keys: Tab, arrows, space."),
          h("p", { class: "cge-hint cge-by-touch" }, "Tap the output to ask, tap the input to erase or to draw.")),
        put("bars", h("div", { class: "cge-bars", hidden: true },
          put("swap", h("button", { type: "button", class: "cge-strong" })), put("barList", h("ul", {})))),
        h("p", { class: "cge-words-title" }, "In words"),
        put("words", h("p", { class: "cge-words", "aria-live": "polite", role: "status" }))),
      h("section", { class: "cge-sum-panel cge-panel", "aria-label": "The sum" }, put("sum", h("div", {}))),
      h("section", { class: "cge-panel cge-controls", "aria-label": "Operator and padding" },
        h("h2", {}, "Who talks to whom"),
        select("aggregate", "operator"), tick("relu", "ReLU behind it"), tick("twice", "twice in a row"),
        tick("same", "padding follows k"),
        tick("apart", "rows and columns apart"), modes, spaces,
        tick("transposed", "transposed (arrows reversed)"), range("extra", "output padding")),
      h("section", { class: "cge-panel cge-controls", "aria-label": "Channels and numbers" },
        h("h2", {}, "What they say"),
        range("ins", "input channels"), range("outs", "output channels"), select("groups", "groups"),
        tick("split", "split: depthwise + pointwise"),
        select("kernelKind", "weights"), select("picture", "image"), range("size", "image size", 2),
        h("div", { class: "cge-control" }, h("label", { for: `${id}-upload` }, "a picture of yours"),
          put("upload", h("input", { type: "file", accept: "image/*", id: `${id}-upload`, "data-control": "upload" })))),
      put("kernelPanel", h("section", { class: "cge-panel", "aria-label": "Kernel" },
        put("kernelTitle", h("h2", {})), put("tiles", h("div", {})),
        put("typing", h("div", { class: "cge-control cge-typing", hidden: true },
          put("typingLabel", h("label", { for: `${id}-weight` })),
          put("weight", h("input", { type: "number", step: "any", id: `${id}-weight`, "data-control": "weight" })))),
        put("tapHint", h("p", { class: "cge-hint" })),
        h("div", { class: "cge-buttons" },
          put("allTaps", h("button", { type: "button", class: "cge-quiet", hidden: true }, "All taps")),
          put("untype", h("button", { type: "button", class: "cge-quiet", hidden: true }, "Undo what was typed"))))),
      h("section", { class: "cge-panel", "aria-label": "Adjacency matrix" },
        put("adjacencyTitle", h("h2", {})),
        put("adjacency", h("canvas", { class: "cge-matrix", role: "img" })),
        put("adjacencyText", h("p", { class: "cge-hint" }))),
      h("section", { class: "cge-panel", "aria-label": "Cost and rank" }, h("h2", {}, "Cost and rank"), put("facts", h("div", {})))));
  return parts;
}
