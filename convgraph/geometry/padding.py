"""Padding modes: what lies beyond the border of an axis.

In the plane one operator asks for it; a space joins its borders itself, and every operator meets
that.
"""

from typing import Any

import numpy as np

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def folded(
    positions: Any,  # int64, any shape
    size: int,
    mode: str,
) -> Any:
    """Fold positions back onto an axis; -1 where nothing is.

    Args:
        positions: on the axis, before it or behind it.
        size: pixels of the axis.
        mode: "zeros" (nothing there), "reflect", "replicate" or "circular".

    Example:
        >>> folded(np.arange(-2, 5), 3, "circular").tolist()
        [1, 2, 0, 1, 2, 0, 1]
    """
    if mode == "circular":
        return positions % size
    if mode == "replicate":
        return np.clip(positions, 0, size - 1)
    if mode == "reflect":
        positions = np.abs(positions)
        positions = np.where(positions >= size, 2 * (size - 1) - positions, positions)
    return np.where((positions < 0) | (positions >= size), -1, positions)
