"""What a page's code prints and draws, put beneath the code when the documentation is built.

A page of `PAGES` runs from top to bottom. What a block prints follows it; a block that leaves a
matplotlib `figure` is followed by the picture, whose words are the block's last comment,
`# shows: ...`. Nothing that is shown was typed by hand.
"""

import contextlib
import io
import re
import sys
import types
from pathlib import Path
from typing import Any

PAGES = (
    "index.md",
    "tutorial.md",
    "zh/tutorial.md",
    "gallery.md",
    "certificates.md",
    "guide/prove.md",
    "guide/own-layer.md",
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORDS = re.compile(r"# shows: (.*)$", re.MULTILINE)
INK = "#757575"
STYLE = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "none"),
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
    "font.size": 12,
}
"""No page of its own, and ink that can be read on a light and on a dark one."""


def with_outputs(text: str, folder: Path, stem: str) -> str:
    """Return a page's text with its outputs; pictures are written into `folder`/images.

    Args:
        text: the page, Markdown.
        folder: where the page lies.
        stem: begins the names of its pictures.
    """
    import matplotlib as mpl

    # PyG asks for the module that a class was written in.
    module = types.ModuleType(f"page_{stem}")
    sys.modules[module.__name__] = module
    space = module.__dict__
    pieces, end = [], 0
    mpl.use("Agg")
    with mpl.rc_context(STYLE):
        for number, block in enumerate(BLOCK.finditer(text)):
            space.pop("figure", None)
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(compile(block[1], f"{stem}, block {number}", "exec"), space)
            pieces.append(text[end : block.end()])
            end = block.end()
            printed = said.getvalue().rstrip()
            if printed:
                # No language: nothing in it is to be coloured as code.
                pieces.append(f"\n\n```{{ .text .shown }}\n{printed}\n```")
            if "figure" in space:
                pieces.append(_picture(space["figure"], block[1], folder, f"{stem}-{number}.png"))
    return "".join([*pieces, text[end:]])


def _picture(figure: Any, source: str, folder: Path, name: str) -> str:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "images" / name, dpi=110, bbox_inches="tight", transparent=True)
    (words,) = WORDS.findall(source)
    return f"\n\n![{words}](images/{name})"


def show(stage: Path) -> None:
    """Write the outputs into the pages of a folder that is being built."""
    for page in PAGES:
        path = stage / page
        text = path.read_text(encoding="utf-8")
        path.write_text(with_outputs(text, path.parent, path.stem), encoding="utf-8")
