"""Footprints: the taps of a kernel that are there.

    y[p] = b + sum over taps t of the footprint of  W[:, :, t] x[q(p, t)]

A tap that is not there sends no message, whatever its weight: hexagons within squares, crosses, and
causal kernels that look at what came before them are one idea. The weight keeps the kernel's shape.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from convgraph.errors import GeometryError

Footprint = tuple[bool, ...]
"""One bool a tap, row-major over the kernel."""


def hexagon(kernel_size: Sequence[int]) -> Footprint:
    """The hexagon within a square kernel of odd side, in axial coordinates.

    Tap (i, j) from the middle is there where |i + j| is at most the radius.

    Example:
        >>> np.array(hexagon((3, 3))).reshape(3, 3).astype(int).tolist()
        [[0, 1, 1], [1, 1, 1], [1, 1, 0]]
    """
    if len(kernel_size) != 2 or len(set(kernel_size)) != 1 or not kernel_size[0] % 2:
        raise GeometryError(
            f"footprint 'hexagon': expected a square kernel of odd side, got {tuple(kernel_size)}"
        )
    from_middle = np.arange(kernel_size[0]) - kernel_size[0] // 2
    there = np.abs(from_middle[:, None] + from_middle) <= kernel_size[0] // 2
    return tuple(bool(one) for one in there.ravel())


def cross(kernel_size: Sequence[int]) -> Footprint:
    """The taps that leave the middle along one axis only; every side is odd.

    Example:
        >>> np.array(cross((3, 3))).reshape(3, 3).astype(int).tolist()
        [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    if not all(k % 2 for k in kernel_size):
        raise GeometryError(
            f"footprint 'cross': expected a kernel of odd sides, got {tuple(kernel_size)}"
        )
    middle = [k // 2 for k in kernel_size]
    return tuple(
        sum(i != m for i, m in zip(tap, middle, strict=True)) <= 1
        for tap in np.ndindex(*kernel_size)
    )


def causal(kernel_size: Sequence[int]) -> Footprint:
    """The taps up to the middle one, in raster order: what came before, and the pixel itself.

    Example:
        >>> np.array(causal((3, 3))).reshape(3, 3).astype(int).tolist()
        [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    """
    if not all(k % 2 for k in kernel_size):
        raise GeometryError(
            f"footprint 'causal': expected a kernel of odd sides, got {tuple(kernel_size)}"
        )
    middle = prod(kernel_size) // 2
    return tuple(tap <= middle for tap in range(prod(kernel_size)))


NAMED: dict[str, Callable[[Sequence[int]], Footprint]] = {
    "hexagon": hexagon,
    "cross": cross,
    "causal": causal,
}


def taps_there(relation: object) -> Footprint | None:
    """Return the footprint of a relation; None where every tap is there, or no kernel.

    Example:
        >>> from convgraph.geometry import KernelGeometry
        >>> taps_there(KernelGeometry((1, 3), footprint="causal"))
        (True, True, False)
    """
    found: Footprint | None = getattr(relation, "footprint", None)
    return found


def checked(footprint: Any, kernel_size: Sequence[int]) -> Footprint | None:
    """Return one bool a tap, or None where all are there.

    Args:
        footprint: None, one of `NAMED`, or bools: one a tap, or an array of the kernel's shape.
        kernel_size: of the kernel.

    Raises:
        GeometryError: another name, another shape, no bools, or no tap at all.
    """
    if footprint is None:
        return None
    if isinstance(footprint, str):
        if footprint not in NAMED:
            raise GeometryError(
                f"KernelGeometry: expected footprint in {tuple(NAMED)} or bools, got {footprint!r}"
            )
        footprint = NAMED[footprint](kernel_size)
    try:
        given = np.asarray(footprint)
    except (TypeError, ValueError, RuntimeError):  # a tensor that is no array, rows of many lengths
        given = np.empty(0, dtype=object)
    if given.dtype != np.bool_ or given.shape not in (tuple(kernel_size), (prod(kernel_size),)):
        raise GeometryError(
            f"KernelGeometry: expected footprint as bools of the kernel's shape "
            f"{tuple(kernel_size)}, got {given.dtype} of shape {given.shape}"
        )
    if not given.any():
        raise GeometryError("KernelGeometry: expected a footprint with at least one tap")
    return None if given.all() else tuple(bool(one) for one in given.ravel())
