// What scrolls can be reached with the keyboard: wide tables, formulas and outputs.
const reach = () => {
  for (const part of document.querySelectorAll("article :is(.md-typeset__scrollwrap, math[display=block], pre > code, pre)")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
  }
};
window.addEventListener("load", () => { reach(); setTimeout(reach, 300); });
window.addEventListener("resize", reach);
