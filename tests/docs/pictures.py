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


def first_graph(folder: Path) -> list[Path]:
    """Draw what a 3 x 3 and what a 1 x 1 convolution is, in one picture; return the files."""
    import matplotlib as mpl
    from matplotlib import pyplot

    files = []
    crop = load(128)[:, 23:35, 48:60]
    for name, dark in (("light", False), ("dark", True)):
        ink = (draw.DARK if dark else draw.LIGHT)["ink"]
        with mpl.rc_context({"font.size": 13, "text.color": ink}):
            figure, axes = pyplot.subplots(1, 2, figsize=(8, 4), layout="constrained")
            for ax, size, words in (
                (axes[0], 3, "3 x 3: nine edges"),
                (axes[1], 1, "1 x 1: itself alone"),
            ):
                draw.node(
                    crop, 5 * 12 + 5, cg.KernelGeometry(size, padding=size // 2), ax=ax, dark=dark
                )
                ax.set_title(words, color=ink)
            files.append(folder / f"first-graph-{name}.png")
            figure.savefig(files[-1], dpi=120, transparent=True)
            pyplot.close(figure)
    return files


if __name__ == "__main__":
    pixel_graph(Path(sys.argv[1]))
    first_graph(Path(sys.argv[1]))
