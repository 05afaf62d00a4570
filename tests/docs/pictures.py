"""The pictures of the documentation, drawn by the library that it documents.

`python -m tests.docs.pictures docs/images` writes each in a light and in a dark version.
"""

import sys
from pathlib import Path

import torch

import convgraph as cg
from convgraph import draw
from convgraph.demo.photograph import load


def pixel_graph(folder: Path) -> list[Path]:
    """Draw the pixels around an eye with a hole among them; return the files."""
    crop = load(128)[:, 23:31, 48:60]
    mask = torch.ones(8, 12, dtype=torch.bool)
    mask[4:6, 7:10] = False
    graph = cg.PixelGraph.from_image(crop, mask=mask)
    files = []
    for name, dark in (("light", False), ("dark", True)):
        figure = draw.pixel_graph(graph, dark=dark).figure
        figure.set_size_inches(8, 6.4)
        files.append(folder / f"pixel-graph-{name}.png")
        figure.savefig(files[-1], dpi=110, facecolor=figure.get_facecolor())
    return files


if __name__ == "__main__":
    pixel_graph(Path(sys.argv[1]))
