"""Versions of the documentation beside each other, with a switch, wherever they are served.

    FOLDER/0.1.0/      a built site
    FOLDER/versions.js, index.html      the switch with all versions in it, the way in

Every link is relative, so that any server, and any folder on it, will do.
"""

import json
import os
import shutil
from pathlib import Path

from packaging.version import InvalidVersion, Version

# `PAGES` is written above it: the pages that each version has, newest version first.
SWITCH = """// A choice of versions in the head of the page; leads to the same page of another.
(() => {
  const script = document.currentScript, home = new URL(".", script.src);
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "version");
  choice.className = "versions";
  for (const version of Object.keys(PAGES)) {
    choice.append(new Option(version, version, false, version === script.dataset.version));
  }
  choice.addEventListener("change", () => {
    const page = script.dataset.page, has = PAGES[choice.value].includes(page);
    location.href = new URL(`${choice.value}/` + (has ? page + location.hash : ""), home);
  });
  // Whoever comes back finds the choice as the page is, not as it was left.
  addEventListener("pageshow", () => { choice.value = script.dataset.version; });
  const title = document.querySelector(".md-header__title");
  if (title) title.after(choice);
  else document.body.append(choice);
})();
"""
FIRST = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>convgraph</title>
<meta http-equiv="refresh" content="0; url={newest}/"></head>
<body><a href="{newest}/">convgraph {newest}</a></body></html>
"""


def publish(site: Path, folder: Path, version: str) -> list[str]:
    """Put a built site beside the versions that a folder holds; return them, newest first.

    Args:
        site: the built site; it is copied.
        folder: holds a folder for each version; made if it is not there.
        version: of the site; one that is there already is replaced.

    Raises:
        packaging.version.InvalidVersion: `version` is none.
    """
    place = folder / str(Version(version))
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(site, place)
    for path in place.rglob("index.html"):
        home = os.path.relpath(folder, path.parent).replace(os.sep, "/")
        here = f'data-version="{place.name}" data-page="{_page(path, place)}"'
        script = f'<script src="{home}/versions.js" {here}></script>'
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    found = sorted((p.name for p in folder.iterdir() if _is_one(p)), key=Version, reverse=True)
    pages = {name: _pages(folder / name) for name in found}
    (folder / "versions.js").write_text(
        f"const PAGES = {json.dumps(pages)};\n{SWITCH}", encoding="utf-8"
    )
    (folder / "index.html").write_text(FIRST.format(newest=found[0]), encoding="utf-8")
    return found


def _pages(place: Path) -> list[str]:
    return sorted(_page(path, place) for path in place.rglob("index.html"))


def _page(path: Path, place: Path) -> str:
    """The address of a page in its version: empty for the first, else with a slash at its end."""
    here = path.parent.relative_to(place).as_posix()
    return "" if here == "." else f"{here}/"


def _is_one(path: Path) -> bool:
    """Whether a folder holds a version; others, a repository's own say, may lie beside it."""
    try:
        Version(path.name)
    except InvalidVersion:
        return False
    return (path / "index.html").exists()
