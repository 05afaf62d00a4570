// Where the explorer lives: in a notebook beside a kernel, or as a page, perhaps in a frame of another.

import { mount } from "./explorer.js";

// What a notebook asks for: anywidget calls render with the model of the kernel.
export function render({ model, el }) {
  // The page that is kept for whoever has no kernel steps back while this view lives.
  const still = document.createElement("style");
  still.textContent = `[data-convgraph-still="${CSS.escape(model.get("still") ?? "")}"] { display: none; }`;
  const place = document.createElement("div");
  el.append(still, place);
  let ours = false;
  const view = mount(place, model.get("state"), (seen) => {
    ours = true;
    model.set("seen", seen);
    model.save_changes();
    ours = false;
  });
  const opens = () => { if (!ours) view.open(model.get("state")); };
  model.on("change:state", opens);
  return () => {
    model.off("change:state", opens);
    view.close();
    still.remove();
    place.remove();
  };
}

// What the page runs. In a frame it tells its height and follows the light of the page around it:
// messages { convgraph: "height", height } out, { convgraph: "theme", theme } in.
export function openPage(root, found) {
  const view = mount(root, found);
  if (window.parent === window) return view;
  window.addEventListener("message", ({ source, data }) => {
    if (source === window.parent && data?.convgraph === "theme") view.theme(data.theme === "dark" ? "dark" : "light");
  });
  new ResizeObserver(() => {
    const height = Math.ceil(document.body.getBoundingClientRect().height);
    window.parent.postMessage({ convgraph: "height", height }, "*");
  }).observe(document.body);
  return view;
}

export default { render };
