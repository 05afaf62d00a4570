// What is shown, as the end of an address: `#lesson` and what differs from it.

import { SPACES } from "./geometry.js";
import { lesson, LESSONS, settle } from "./scenes.js";

const KEPT = [
  "aggregate", "relu", "twice", "picturing", "size", "in_channels", "out_channels", "kernel_size", "stride", "padding",
  "same", "apart", "dilation", "output_padding", "padding_mode", "space", "transposed", "groups", "kernel", "edits", "pixels",
  "picture", "mask", "split", "pixel", "channel", "view", "tap",
];

// The end of the address; what Python handed over or a person uploaded is not in it.
export function written(state) {
  const name = state.lesson ?? "messages", start = lesson(name);
  const changed = KEPT.filter((key) => JSON.stringify(state[key]) !== JSON.stringify(start[key]));
  const kept = Object.fromEntries(changed.map((key) => [key, state[key]]));
  const rest = changed.length ? `=${encodeURIComponent(JSON.stringify(kept))}` : "";
  return `#${name}${rest}`;
}

export const linkTo = (state) => `${window.location.href.split("#")[0]}${written(state)}`;

// The state that an address names, or null where it names none. An address is a stranger's text: only known
// names are read, and whoever has a wrong shape is refused as a whole.
export function read(hash) {
  const [name, rest] = decodeURI(hash).replace(/^#/, "").split(/=(.*)/s);
  if (!Object.hasOwn(LESSONS, name)) return null;
  const start = lesson(name);
  if (!rest) return start;
  try {
    const found = JSON.parse(decodeURIComponent(hash.split(/=(.*)/s)[1]));
    for (const key of KEPT) {
      if (!Object.hasOwn(found, key)) continue;
      if (start[key] !== null && found[key] !== null && key !== "view" && typeof found[key] !== typeof start[key]) return null;
      start[key] = found[key];
    }
    const small = [...start.size, start.in_channels, start.out_channels, ...start.kernel_size, ...start.stride, ...start.dilation];
    if (!Object.hasOwn(SPACES, start.space)) return null;
    if (!small.every((n) => Number.isInteger(n) && n >= 1 && n <= 16)) return null;
    return settle(start);
  } catch {
    return null;
  }
}
