"""The switch between languages leads to the same page in the other one, wherever the site lies.

The theme writes the addresses that mkdocs.yml names, `/` and `/zh/`; a site that is served from a
folder has neither.
"""

import os
import re
from pathlib import Path


def link_languages(site: Path) -> None:
    """Rewrite the switch on every page, and say which language a Chinese page is in."""
    for path in site.rglob("index.html"):
        here = path.parent.relative_to(site)
        chinese = here.parts[:1] == ("zh",)
        plain = Path(*here.parts[1:]) if chinese else here
        text = path.read_text(encoding="utf-8")
        for wanted, folder in (("/", site), ("/zh/", site / "zh")):
            goal = folder / plain if (folder / plain / "index.html").exists() else folder
            text = text.replace(f'href="{wanted}"', f'href="{_relative(goal, path.parent)}"')
        if chinese:
            text = re.sub(r'<html lang="\w+"', '<html lang="zh"', text, count=1)
        path.write_text(text, encoding="utf-8")


def _relative(goal: Path, start: Path) -> str:
    found = os.path.relpath(goal, start).replace(os.sep, "/")
    return "./" if found == "." else f"{found}/"
