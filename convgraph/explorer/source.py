"""The page's source: parts in js/ and one style sheet, joined to one ES module and one HTML page.

Each part is an ES module of its own, so that an editor and a browser understand it. To join them,
the lines `import ... from "./part.js";` go and the parts follow each other, foundation first: what
is left has no dependencies and is one module for a notebook as well as for a page.
"""

import html
import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

PARTS = (
    "geometry",
    "arithmetic",
    "algebra",
    "photograph",
    "scenes",
    "address",
    "lattice",
    "nodelink",
    "panels",
    "frame",
    "drawing",
    "controls",
    "gestures",
    "explorer",
    "chinese",
    "hosts",
)
"""Files of js/, foundation first: a part may import what stands before it."""

_IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./[\w.]+";\n', re.MULTILINE)


@lru_cache(maxsize=1)
def module() -> str:
    """Return the explorer as one ES module without dependencies.

    Example:
        >>> "import " in [line[:7] for line in module().splitlines()]
        False
    """
    folder = files("convgraph.explorer") / "js"
    texts = ((folder / f"{part}.js").read_text(encoding="utf-8") for part in PARTS)
    return "\n".join(_IMPORT.sub("", text) for text in texts)


@lru_cache(maxsize=1)
def style() -> str:
    """Return the style sheet; every rule is scoped to the class `convgraph-explorer`."""
    return (files("convgraph.explorer") / "explorer.css").read_text(encoding="utf-8")


def page(
    state: dict[str, Any],
    title: str = "convgraph explorer",
    *,
    still: str = "",
    language: str = "en",
) -> str:
    """Return one HTML page that needs nothing else, not even a network.

    Args:
        state: what the page opens with, as `config.state_of` makes it; {} opens the first lesson.
        title: of the browser's window.
        still: HTML for a reader without scripts.
        language: of everything that is said: "en" or "zh".
    """
    # "</script>" in a string of the state would end the script; "<" has another name in JSON.
    data = json.dumps(state, separators=(",", ":")).replace("<", "\\u003c")
    return _PAGE.format(
        title=html.escape(title),
        style=style(),
        data=data,
        module=module().replace("</script", "<\\/script"),
        still=still,
        language=html.escape(language),
        policy=POLICY,
    )


POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""What the page may load: its own script and style, and nothing from anywhere."""

_PAGE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body class="convgraph-page">
<main id="convgraph-explorer"></main>
<noscript>{still}</noscript>
<script type="application/json" id="convgraph-state">{data}</script>
<script type="module">
{module}
window.convgraphExplorer = {{ compute, evaluate, stages, incoming, topology, rank, mount, render }};
const found = JSON.parse(document.getElementById("convgraph-state").textContent);
window.convgraphExplorer.view = openPage(document.getElementById("convgraph-explorer"), found);
</script>
</body>
</html>
"""
