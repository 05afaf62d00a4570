"""Which sites of a map are there: the whole image's rule, on a part of it, from a coarse mask.

Along each axis, cell p of S' holds the pixels ceil(p S / S') up to ceil((p + 1) S / S'); a site is
there if a pixel of its cell is. A crop's own rule gives other sites, so the whole's size counts.
"""

from math import prod
from typing import Any

import numpy as np

from convgraph.errors import GraphError
from convgraph.scale.positions import Positions


class MaskSites:
    """Sites of every map of a network on a masked image.

    Args:
        mask: bools; the image's size, or smaller by a whole factor along each axis.
        size: of the image (pixels).
        flat: whether a part names cells, in row-major order, and (P, 1) bools are returned.

    Raises:
        GraphError: it is no mask of such an image.

    Example:
        >>> rule = MaskSites(np.array([[True, False], [False, False]]), (4, 4))
        >>> rule((2, 2), (np.arange(2), np.arange(2))).tolist()
        [[True, False], [False, False]]
    """

    def __init__(self, mask: Any, size: tuple[int, ...], *, flat: bool = False) -> None:
        found = np.asarray(mask)
        if found.dtype != bool or found.ndim != len(size):
            raise GraphError(
                f"mask: expected bools of {len(size)} axes, got {found.dtype} of shape "
                f"{found.shape}"
            )
        self.size, self.flat = size, flat
        self.factor = tuple(-(-n // m) if m else 0 for n, m in zip(size, found.shape, strict=True))
        if any(
            -(-n // f) != m if f else True
            for n, m, f in zip(size, found.shape, self.factor, strict=True)
        ):
            raise GraphError(
                f"mask: expected the image's size {size}, or smaller by a whole factor along each "
                f"axis, got {found.shape}"
            )
        total = found.astype(np.int64)
        for axis in range(len(size)):
            total = np.cumsum(total, axis)
        self.total = np.pad(total, [(1, 0)] * len(size))

    def __call__(self, size: tuple[int, ...], part: tuple[Positions, ...]) -> Any:
        """Return bools, one for each position of the part of a map of this size."""
        if prod(size) == 1:
            return np.ones([len(p) for p in part], bool)
        if self.flat:
            ends = [self._ends(k, n, p) for k, (n, p) in enumerate(
                zip(size, np.unravel_index(part[0], size), strict=True)
            )]  # fmt: skip
            return (self._count(ends, lambda *where: where) > 0)[:, None]
        ends, repeats = [], []
        for axis, (s, p) in enumerate(zip(size, part, strict=True)):
            low, high = self._ends(axis, s, p)
            new = np.append(True, (np.diff(low) != 0) | (np.diff(high) != 0))[: len(low)]
            starts = np.flatnonzero(new)  # a coarse mask says the same of many positions
            ends.append((low[starts], high[starts]))
            repeats.append(np.diff(np.append(starts, len(low))))
        here = self._count(ends, np.ix_) > 0
        for axis, often in enumerate(repeats):
            here = np.repeat(here, often, axis)
        return here

    def _ends(self, axis: int, s: int, p: Positions) -> tuple[Any, Any]:
        """Cells of the mask that positions of a map of s pixels stand for, from and up to."""
        n, f = self.size[axis], self.factor[axis]
        first = p * n // s if s > n else -(-p * n // s)
        last = first if s > n else -(-(p + 1) * n // s) - 1
        return first // f, last // f + 1

    def _count(self, ends: Any, joined: Any) -> Any:
        """Pixels that are there between the ends, from the sums of all before each corner."""
        count: Any = 0
        for corner in np.ndindex((2,) * len(ends)):
            sign = (-1) ** (len(ends) - sum(corner))
            where = joined(*(e[c] for e, c in zip(ends, corner, strict=True)))
            count = count + sign * self.total[where]
        return count
