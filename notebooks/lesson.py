"""What the notebooks share: checks that can fail and pictures side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from convgraph.draw import PALETTE

COLOURS = (PALETTE[0], PALETTE[3], PALETTE[2])
MARK = PALETTE[3]


def check(claim: str, holds: Any) -> None:
    """Say that a claim holds, or stop the lesson.

    Args:
        claim: one sentence.
        holds: what decides, a bool or a tensor of one.

    Raises:
        AssertionError: it does not hold.
    """
    if not bool(holds):
        raise AssertionError(f"This is not true here: {claim}")
    print(f"\N{CHECK MARK} {claim}")


def frame(axes: Any, row: int, column: int, size: int) -> None:
    """Frame a square of pixels of a shown image by its upper left corner."""
    place = (column - 0.5, row - 0.5)
    axes.add_patch(plt.Rectangle(place, size, size, fill=False, ec=MARK, lw=2.5))


def panels(count: int, width: float = 3.6, height: float = 3.6) -> Any:
    """Return `count` matplotlib Axes side by side."""
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained")
    return axes if count > 1 else [axes]


def show(
    images: Sequence[Tensor],
    titles: Sequence[str],
    *,
    signed: bool = False,
    grid: bool = False,
    mark: tuple[int, int] | None = None,
) -> None:
    """Show images (C, H, W) or (H, W) side by side; one channel is grey.

    Args:
        images: values in [0, 1] where they have three channels.
        titles: one each.
        signed: of one channel: white is zero, purple is below, orange above, and a bar says how far.
        grid: draw a line between any two pixels.
        mark: frame the pixel in this row and column.
    """
    row = panels(len(images))
    most = max(float(image.abs().max()) for image in images) if signed else 0.0
    for axes, image, title in zip(row, images, titles, strict=True):
        picture = image.detach().cpu()
        picture = (picture.movedim(0, -1) if picture.dim() == 3 else picture).squeeze(-1)
        if signed:
            shown = axes.imshow(picture, cmap="PuOr_r", vmin=-most, vmax=most)
        else:
            axes.imshow(picture, cmap="gray")
        if grid:
            _lines(axes, *picture.shape[:2])
        if mark:
            frame(axes, *mark, size=1)
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
    if signed:  # one scale for all: what is nearly zero beside the others looks like zero
        row[0].figure.colorbar(shown, ax=list(row), shrink=0.75)
    plt.show()


def matrices(named: Mapping[str, Tensor], *, row: str, column: str) -> None:
    """Show matrices side by side, white for 0 and black for the largest, with their axes named."""
    for axes, (title, matrix) in zip(panels(len(named), height=3.9), named.items(), strict=True):
        axes.imshow(matrix.detach().cpu().double(), cmap="gray_r", vmin=0)
        _lines(axes, *matrix.shape)
        axes.set(title=title, xlabel=column, ylabel=row)
    plt.show()


def curves(named: Mapping[str, Any], *, x: str, y: str, log: bool = False, dots: bool = False) -> None:
    """Draw one line for each name, in colours and strokes that stay apart."""
    (axes,) = panels(1, 6, 3.4)
    for (name, values), colour, stroke in zip(named.items(), COLOURS, ("-", "--", ":"), strict=False):
        axes.plot(values, label=name, color=colour, ls=stroke, lw=2, marker="." if dots else "")
    axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    if len(named) > 1:
        axes.legend()
    plt.show()


def photograph(size: int = 128) -> Tensor:
    """Return the astronaut of scikit-image, (3, size, size) in [0, 1]; size divides 512."""
    from skimage import data

    if size < 1 or 512 % size:
        raise ValueError(f"photograph: expected a size that divides 512, got {size}; try 64 or 128")
    pixels = torch.from_numpy(data.astronaut()).movedim(-1, 0) / 255
    step = 512 // size
    return pixels[:, ::step, ::step].contiguous()


def _lines(axes: Any, rows: int, columns: int) -> None:
    axes.set_xticks([c - 0.5 for c in range(1, columns)], minor=True)
    axes.set_yticks([r - 0.5 for r in range(1, rows)], minor=True)
    axes.grid(which="minor", color="#999999", lw=0.5)
    axes.tick_params(which="minor", length=0)
