"""Where hexagonal pixels stand in other people's arrays, and in a camera.

    odd-q, even-q   flat-topped hexagons, odd (even) columns shifted down by half a pixel
    odd-r, even-r   pointed ones, odd (even) rows shifted right

and axial, with q along a row and r along a column. Integers, and points of the plane; knows no
torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convgraph.errors import GraphError
from convgraph.geometry.kernel import IntTable

LAYOUTS = ("axial", "odd-q", "even-q", "odd-r", "even-r")

FloatTable = npt.NDArray[np.float64]


def axial(layout: str, size: Sequence[int], align: int = 1) -> tuple[tuple[int, int], IntTable]:
    """Size of the axial array that holds an array of that layout, and the cell of each pixel in it.

    Args:
        layout: one of `LAYOUTS`.
        size: (H, W) of the array.
        align: the array's first pixel gets a row and a column that are multiples of it.

    Returns:
        The axial size, and (H W,) int64 cells of it, row by row.

    Raises:
        GraphError: an array without pixels, or align below 1.

    Example:
        >>> axial("odd-r", (3, 2))
        ((3, 3), array([1, 2, 4, 5, 6, 7]))
    """
    if len(size) != 2 or min(*size, align) < 1:
        raise GraphError(
            f"Hexagonal: expected an array (H, W) of at least one pixel and align >= 1, got size "
            f"{tuple(size)} and align={align}"
        )
    row, column = np.divmod(np.arange(size[0] * size[1]), size[1])
    r, q = row, column
    if layout.endswith("-q"):
        odd = column & 1
        r = row - (column - odd if layout == "odd-q" else column + odd) // 2
    elif layout.endswith("-r"):
        odd = row & 1
        q = column - (row - odd if layout == "odd-r" else row + odd) // 2
    r, q = (at - at.min() // align * align for at in (r, q))
    tall, wide = int(r.max()) + 1, int(q.max()) + 1
    return (tall, wide), r * wide + q


def positions(layout: str, size: Sequence[int]) -> FloatTable:
    """(P, 2) points right and up of the cells of an axial array, neighbours at distance 1."""
    r, q = np.divmod(np.arange(size[0] * size[1]), size[1])
    side = np.sqrt(3) / 2
    if layout.endswith("-q"):
        return np.stack([side * q, -(r + q / 2)], axis=1)
    return np.stack([q + r / 2, -side * r], axis=1)


def camera(x: Any, y: Any, rotation: float = 0.0) -> tuple[tuple[int, int], IntTable]:
    """Size of the axial array that holds the pixels of a camera, and the cell of each pixel in it.

    Args:
        x: (P,) centres of the pixels, any unit.
        y: (P,) the same, upwards.
        rotation: degrees by which the camera is turned; pixels are turned back by it first.

    Raises:
        GraphError: the centres are no hexagonal grid.

    Example:
        >>> size, cells = camera([0.0, 1.0, 0.5], [0.0, 0.0, -0.866])
        >>> size, cells.tolist()
        ((2, 2), [0, 1, 2])
    """
    right, up = (np.asarray(one, dtype=np.float64) for one in (x, y))
    if right.ndim != 1 or right.shape != up.shape or len(right) < 2:
        raise GraphError(
            f"Hexagonal: expected centres x and y of at least two pixels, of shape (P,), got "
            f"{right.shape} and {up.shape}"
        )
    finite = np.isfinite(right + up + rotation)
    if not finite.all():
        at = int(np.argmin(finite))
        raise GraphError(
            f"Hexagonal: expected finite centres and rotation, got pixel {at} at x = {right[at]}, "
            f"y = {up[at]}, turned by {rotation}"
        )
    points = (right + 1j * up) * np.exp(-1j * np.deg2rad(rotation))
    if len(np.unique(points)) != len(points):
        raise GraphError("Hexagonal: expected every pixel at a place of its own, two share one")
    points = points - points[np.argmin(np.abs(points - points.mean()))]
    steps = _steps(points)
    apart = float(np.median(np.abs(steps)))
    # Six directions are one when multiplied by six.
    turn = float(np.angle(np.mean((steps / np.abs(steps)) ** 6))) / 6
    along = np.exp(1j * turn)
    down = along * np.exp(-1j * np.pi / 3)
    # p = q along + r down, solved through the imaginary parts.
    area = (along.conjugate() * down).imag
    r = (along.conjugate() * points / apart).imag / area
    q = -(down.conjugate() * points / apart).imag / area
    rows, columns = np.rint(r).astype(np.int64), np.rint(q).astype(np.int64)
    off = float(np.maximum(np.abs(r - rows), np.abs(q - columns)).max())
    if off > 1 / 3:
        raise GraphError(
            f"Hexagonal: expected centres on a hexagonal grid, one of them lies {off:.2f} of a "
            f"pixel off the grid of pitch {apart:.4g}; was the camera's square, or are x and y not "
            "in one unit?"
        )
    rows, columns = rows - rows.min(), columns - columns.min()
    wide = int(columns.max()) + 1
    cells = rows * wide + columns
    if len(np.unique(cells)) != len(cells):
        raise GraphError("Hexagonal: expected every pixel at a place of its own, two share one")
    return (int(rows.max()) + 1, wide), cells


def _steps(points: Any) -> Any:
    """From each point to its nearest neighbours, those not much farther than the nearest of all."""
    found = []
    for start in range(0, len(points), 256):
        apart = np.abs(points[start : start + 256, None] - points)
        apart[np.arange(len(apart)), np.arange(start, start + len(apart))] = np.inf
        near = apart < 1.2 * apart.min(axis=1, keepdims=True)
        one, two = np.nonzero(near)
        found.append(points[two] - points[start + one])
    return np.concatenate(found)
