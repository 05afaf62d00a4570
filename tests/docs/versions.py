"""Versions of the documentation beside each other, with a switch, wherever they lie.

    FOLDER/0.1.0/      a built site
    FOLDER/versions.json, versions.js, index.html      the list, the switch, the way in

Every link is relative, so that a folder on a disk or any server will do.
"""

import json
import os
import re
import shutil
from pathlib import Path

SWITCH = """// A choice of versions in the head of the page; the list may grow after it was made.
(async () => {
  const script = document.currentScript, home = new URL(".", script.src);
  const found = await (await fetch(new URL("versions.json", home))).json();
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "version");
  choice.className = "versions";
  const mine = script.dataset.version;
  for (const version of found) choice.append(new Option(version, version, false, version === mine));
  choice.addEventListener("change", () => { location.href = new URL(`${choice.value}/`, home); });
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
    """
    place = folder / version
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(site, place)
    for path in place.rglob("*.html"):
        home = os.path.relpath(folder, path.parent).replace(os.sep, "/")
        script = f'<script src="{home}/versions.js" data-version="{version}"></script>'
        text = path.read_text(encoding="utf-8")
        if path.name == "index.html":
            path.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    found = sorted((p.name for p in folder.iterdir() if p.is_dir()), key=_order, reverse=True)
    (folder / "versions.json").write_text(json.dumps(found), encoding="utf-8")
    (folder / "versions.js").write_text(SWITCH, encoding="utf-8")
    (folder / "index.html").write_text(FIRST.format(newest=found[0]), encoding="utf-8")
    return found


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))
