"""Glue: what lies beyond the border of an axis.

A padding mode is the glue of the plane, used by one operator; a space has a glue of its own that
every operator meets.
"""

from typing import Any

import numpy as np


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
