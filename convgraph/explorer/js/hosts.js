// Where the explorer lives: in a notebook beside a kernel, or as a page, perhaps in a frame of another.

import { read, written } from "./address.js";
import { speakChinese } from "./chinese.js";
import { mount } from "./explorer.js";
import { LESSONS } from "./scenes.js";

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
  // The address follows what is shown, a moment later, and opens it again.
  let waiting = 0;
  const view = mount(root, found, () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (view.state.given) return;
      window.history.replaceState(null, "", written(view.state));
      window.parent.postMessage({ convgraph: "address", hash: written(view.state) }, "*");
    }, 400);
  });
  if (document.documentElement.lang.startsWith("zh")) speakChinese(root, LESSONS);
  const open = (hash) => { const state = found.config ? null : read(hash); if (state) view.go(state); };
  open(window.location.hash);
  window.addEventListener("hashchange", () => { if (window.location.hash !== written(view.state)) open(window.location.hash); });
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
