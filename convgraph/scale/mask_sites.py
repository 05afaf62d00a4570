"""Which pixels of a lattice are there, as boxes whose pixels are alike: a coarse mask, and others.

A site stands for the pixels of a box, and is there if one of them is: sums of all before each
corner say how many there are, whatever the size of the image.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from convgraph.errors import GraphError
from convgraph.geometry.kernel import IntTable
from convgraph.graph.places import PRESENT

EVERYBODY = (PRESENT, PRESENT)
"""What a position stands for that is there whatever the mask says, instead of pixels."""


class MaskSites:
    """Which pixels of a lattice are there.

    Args:
        starts: first pixel of each box along each axis, from 0 on.
        here: bools, one a box.
        size: of the lattice (pixels).

    Example:
        >>> rule = MaskSites.of([[True, False], [False, False]], (4, 4))
        >>> halves = np.array([[0, 2], [2, 4]])
        >>> rule.some([halves, halves]).tolist()
        [[True, False], [False, False]]
    """

    def __init__(self, starts: Sequence[IntTable], here: Any, size: tuple[int, ...]) -> None:
        self.starts, self.here, self.size = tuple(starts), here, size
        total = here.astype(np.int64)
        for axis in range(len(size)):
            total = np.cumsum(total, axis)
        self.total = np.pad(total, [(1, 0)] * len(size))

    @classmethod
    def of(cls, mask: Any, size: tuple[int, ...]) -> "MaskSites":
        """Return the pixels of a mask.

        Args:
            mask: bools; the image's size, or smaller by a whole factor along each axis.
            size: of the image (pixels).

        Raises:
            GraphError: it is no mask of such an image.
        """
        found = np.asarray(mask)
        if found.dtype != bool or found.ndim != len(size):
            raise GraphError(
                f"mask: expected bools of {len(size)} axes, got {found.dtype} of shape "
                f"{found.shape}"
            )
        factors = _factors(size, found.shape)
        starts = [np.arange(m) * f for m, f in zip(found.shape, factors, strict=True)]
        return cls(starts, found, size)

    def some(self, ends: Sequence[IntTable], *, each: bool = False) -> Any:
        """Return bools: which boxes of pixels have one that is there.

        Args:
            ends: for each axis (P, 2) first pixel and end, 0 and 0 for none, or `EVERYBODY`.
            each: whether they are P boxes, not all products of P a side.
        """
        lines = [self.lines(axis, one) for axis, one in enumerate(ends)]
        if each:
            return self._count(lines, lambda *where: where) > 0
        starts = [changes(line) for line in lines]  # a coarse mask says the same of many positions
        few = [line[at] for line, at in zip(lines, starts, strict=True)]
        here = self._count(few, np.ix_) > 0
        for axis, line in enumerate(few):  # axis by axis: what a later one says is the last word
            if (always := line[:, 2] > 0).any():
                said: Any = np.ones((always.sum(), *(1,) * (len(few) - axis - 1)), bool)
                for k, other in enumerate(few[axis + 1 :], axis + 1):
                    some = other[:, 0] < other[:, 1]
                    said = said & some.reshape(-1, *(1,) * (len(few) - k - 1))
                here[(slice(None),) * axis + (always,)] = said
        for axis, (line, at) in enumerate(zip(lines, starts, strict=True)):
            here = np.repeat(here, np.diff(np.append(at, len(line))), axis)
        return here

    def lines(self, axis: int, ends: IntTable) -> IntTable:
        """(P, 3): first box of pixels, end, and whether it is `EVERYBODY`."""
        low = np.searchsorted(self.starts[axis], ends[:, :1], "right") - 1
        high = np.searchsorted(self.starts[axis], ends[:, 1:], "left")
        found = np.where(ends[:, :1] < ends[:, 1:], np.concatenate([low, high], 1), 0)
        return np.concatenate([found, ends[:, :1] == PRESENT], 1)

    def _count(self, ends: Sequence[IntTable], joined: Any) -> Any:
        """Boxes that are there between the ends, from the sums of all before each corner."""
        count: Any = 0
        for corner in np.ndindex((2,) * len(ends)):
            sign = (-1) ** (len(ends) - sum(corner))
            count = count + sign * self.total[joined(*(e[:, c] for e, c in zip(ends, corner)))]  # noqa: B905
        return count

    @property
    def full(self) -> bool:
        """Whether every pixel is there."""
        return bool(self.here.all()) and prod(self.size) > 0


def _factors(size: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return how many pixels of an image one of a mask stands for along each axis.

    Where sizes do not divide, several factors may fit, and the same along all axes is meant.

    Raises:
        GraphError: none fits, or several do.
    """
    fitting = [
        range(-(-n // m), -(-n // (m - 1)) if m > 1 else n + 1) if 0 < m <= n else range(0)
        for n, m in zip(size, shape, strict=True)
    ]
    if not all(map(len, fitting)):
        raise GraphError(
            f"mask: expected the image's size {tuple(size)}, or smaller by a whole factor along "
            f"each axis, got {tuple(shape)}"
        )
    if all(n % m == 0 for n, m in zip(size, shape, strict=True)):
        return tuple(n // m for n, m in zip(size, shape, strict=True))
    common = set(fitting[0]).intersection(*fitting[1:])
    if len(common) == 1:
        return tuple(common) * len(fitting)
    if common or any(len(one) > 1 for one in fitting):
        several = ", ".join(f"{one[0]} to {one[-1]}" for one in fitting)
        raise GraphError(
            f"mask: expected one factor between the image's size {tuple(size)} and "
            f"{tuple(shape)}, got axes that {several} fit; give a mask whose size divides the "
            "image's, or np.repeat it to the image's size"
        )
    return tuple(one[0] for one in fitting)


def changes(lines: IntTable) -> IntTable:
    """Return the first of each run of equal lines, of lines (P, n).

    Example:
        >>> changes(np.array([[1, 2], [1, 2], [1, 3]])).tolist()
        [0, 2]
    """
    new = np.append(True, (lines[1:] != lines[:-1]).any(1))[: len(lines)]
    return np.flatnonzero(new)
