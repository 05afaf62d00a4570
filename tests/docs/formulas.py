"""Formulas of the built documentation as MathML, which browsers set without a script."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>',
    re.DOTALL,
)


def typeset(text: str) -> str:
    """Return a page with every formula in TeX turned into MathML."""

    def made(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        made = str(convert(html.unescape(found[2]).strip(), display=display))
        # A wide formula scrolls on a phone: it can be reached with the keyboard.
        return made.replace("<math ", '<math tabindex="0" ', 1) if display == "block" else made

    return FORMULA.sub(made, text)


def typeset_site(site: Path) -> None:
    """Set the formulas of every page of a built site."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if "arithmatex" in text:
            path.write_text(typeset(text), encoding="utf-8")
