"""The demo's one picture: the photograph, its pixel graph, and six operators in both forms.

Uses matplotlib through `convgraph.draw`'s style.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from convgraph import draw
from convgraph.demo.digits import Learned
from convgraph.demo.photograph import CORNER, Filtered, load, operators

CROP = 12


def save(path: Path, filtered: list[Filtered], learned: Learned) -> None:
    """Draw everything on one page and write it as PNG.

    Args:
        path: where to write.
        filtered: the operators, in the order in which they are shown.
        learned: the training, whose loss curve fills the last panel.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    photo = load(512)
    figure = Figure(figsize=(17, 11.2), facecolor="#ffffff", layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(h_pad=0.09)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.72], wspace=0.02)
    left, right = halves
    top, bottom = left.subplots(2, 1, height_ratios=[0.86, 1.0])
    top.imshow(photo.movedim(0, -1).numpy())
    row, column = CORNER
    top.add_patch(
        Rectangle((column - 1, row - 1), CROP + 2, CROP + 2, fill=False, ec="#D55E00", lw=2.5)
    )
    _bare(top, f"an image: {photo.shape[1]} x {photo.shape[2]} nodes")
    draw.pixel_graph(photo[:, row : row + CROP, column : column + CROP], ax=bottom)
    bottom.set_title("its 12 x 12 crop as a graph: each spoke is an edge, its colour the tap",
                     fontsize=11)  # fmt: skip
    panels = right.subplots(4, 4, height_ratios=[1, 1, 1, 0.62])
    for place, one in enumerate(filtered):
        line, pair = divmod(place, 2)
        dense, graph = panels[line, 2 * pair], panels[line, 2 * pair + 1]
        _show(dense, one.dense)
        _show(graph, one.graph)
        _bare(dense, f"{one.name}\ndense")
        _bare(graph, f"{one.note}\ngraph, {one.edges:,} edges")
        dense.set_xlabel(f"largest difference {one.gap:.1e}", fontsize=9, color="#333333")
        graph.set_xlabel(f"derived bound {one.bound:.1e}", fontsize=9, color="#333333")
    grid = panels[3, 0].get_gridspec()
    for axis in panels[3]:
        axis.remove()
    curve = right.add_subplot(grid[3, :])
    curve.plot(learned.losses, color="#0072B2", lw=4, alpha=0.35, label="dense")
    curve.plot(learned.losses, color="#D55E00", lw=1.1, ls=(0, (4, 2)), label="graph")
    curve.set_yscale("log")
    curve.set_xlabel("training step")
    curve.set_title(
        f"handwritten digits: one seed, two forms, loss curves {learned.loss_gap:g} apart, "
        f"{learned.accuracy:.1%} of {learned.images} test images right in both",
        fontsize=11,
    )
    curve.legend(frameon=False, loc="upper right")
    for side in ("top", "right"):
        curve.spines[side].set_visible(False)
    figure.savefig(path, dpi=100, metadata={"Description": description()})


def description() -> str:
    """Return what the picture shows and in which colours; it keeps that, so an old one is found."""
    return "; ".join([*(name for name, *_ in operators()), *draw.PALETTE])


def _show(axis: Any, image: Tensor) -> None:
    axis.imshow(image[0].numpy(), cmap="gray", interpolation="nearest")


def _bare(axis: Any, title: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=10)
    for spine in axis.spines.values():
        spine.set_visible(False)
