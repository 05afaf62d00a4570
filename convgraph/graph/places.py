"""Places: where each position of a map lies, in pixels of the map at the entrance of its network.

    position p of an axis covers the pixels [origin + p step, origin + (p + 1) step)

A move (a pad, a crop, a roll, a flip, a convolution of stride 1) names for each new position an old
one, and the mask goes with the pixels. A step in scale (a stride, a pool, a resize) divides what
the map covers into as many cells as it gives positions. Integers and exact fractions only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any

import numpy as np

from convgraph.geometry.padding import folded

ABSENT = -1
"""A position that no pixel belongs to, as zero padding adds them."""

PRESENT = -2
"""A position that is there whatever the mask says, as padding with a constant adds them."""


@dataclass(frozen=True)
class Span:
    """The places along one axis.

    Attributes:
        origin: left edge of cell 0, in pixels of the root.
        step: extent of a cell, in pixels of the root.
        cells: how many there are.
        table: for each position its cell, `ABSENT` or `PRESENT`; None where position p is cell p.
    """

    origin: Fraction
    step: Fraction
    cells: int
    table: tuple[int, ...] | None = None

    @cached_property
    def _hash(self) -> int:
        return hash((self.origin, self.step, self.cells, self.table or ()))

    def __hash__(self) -> int:
        """Of the fields; kept, for a fraction's is dear and every look-up asks."""
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the fields alone: a file has none of what was made of them."""
        return Span, (self.origin, self.step, self.cells, self.table)

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.cells if self.table is None else len(self.table)

    def pads(self) -> tuple[int, int] | None:
        """Positions before and after the cells; None where the cells are not in one piece."""
        if self.table is None:
            return 0, 0
        whole = tuple(range(self.cells))
        for before, cell in enumerate(self.table):
            if cell == 0 and self.table[before : before + self.cells] == whole:
                return before, len(self.table) - before - self.cells
        return None

    @cached_property
    def numbers(self) -> Any:
        """(size,) int64, of each position its cell, `ABSENT` or `PRESENT`."""
        return np.arange(self.cells) if self.table is None else np.array(self.table, np.int64)

    @property
    def has_copies(self) -> bool:
        """Whether a position before or after the cells is one of them once more."""
        before, after = self.pads() or (0, 0)
        table = self.table or ()
        return any(cell >= 0 for cell in (*table[:before], *table[len(table) - after :]))

    def pixels(self, size: int, positions: Any = slice(None)) -> Any:
        """(P, 2) int64, first pixel and end of positions on a root of `size` pixels; 0, 0 for none.

        Args:
            size: of the root.
            positions: which; all of them, unless said.
        """
        cells = self.numbers[positions]
        over = lcm(self.origin.denominator, self.step.denominator)
        first, step = int(self.origin * over), int(self.step * over)
        wide = abs(first) + (self.cells + 1) * step >= 2**62
        low = first + (cells.astype(object) if wide else cells) * step
        if step < over:
            ends = [low // over, low // over + 1]
        else:
            ends = [-(-low // over), -(-(low + step) // over)]
        found = np.clip(np.stack(ends, 1).astype(np.int64), 0, size)
        found[(cells < 0) | (found[:, 0] >= found[:, 1])] = 0
        return found


def whole(size: int) -> Span:
    """Every pixel of the root is a position.

    Example:
        >>> whole(3).pixels(3).tolist()
        [[0, 1], [1, 2], [2, 3]]
    """
    return Span(Fraction(0), Fraction(1), size)


def moved(span: Span, sources: Sequence[int]) -> Span:
    """Return the places of a map whose position p is the old position sources[p].

    Args:
        span: of the old map.
        sources: old positions, or `ABSENT`, or `PRESENT`.

    Example:
        >>> padded = moved(whole(4), [ABSENT, 0, 1, 2, 3, ABSENT])
        >>> moved(padded, [1, 2, 3, 4]) == whole(4)
        True
    """
    old = range(span.cells) if span.table is None else span.table
    table = tuple(old[p] if p >= 0 else p for p in sources)
    first = table[0] if table else 0
    if table and first >= 0 and table == tuple(range(first, first + len(table))):
        return Span(span.origin + span.step * first, span.step, len(table))
    used = [cell for cell in table if cell >= 0]
    if not used:
        return Span(span.origin, span.step, span.cells, table)
    low, high = min(used), max(used)
    table = tuple(cell - low if cell >= 0 else cell for cell in table)
    return Span(span.origin + span.step * low, span.step, high - low + 1, table)


def scaled(span: Span, size: int, before: int = 0, after: int = 0) -> Span | None:
    """Return the places of a map of `size` positions that covers the same pixels.

    Args:
        span: of the old map.
        size: positions of the new map.
        before: how many of them stand for the pads before the cells.
        after: likewise, behind them.

    Returns:
        The places, or None where the old cells are not in one piece, or a pad copies some.

    Example:
        >>> scaled(whole(6), 3).step
        Fraction(2, 1)
    """
    pads = span.pads()
    cells = size - before - after
    if pads is None or cells < 1:
        return None
    step = span.step * span.cells / cells
    if not before and not after:
        return Span(span.origin, step, cells)
    if span.has_copies:
        return None
    table = span.table or ()
    low = _kind(table[: pads[0]], before)
    high = _kind(table[len(table) - pads[1] :], after)
    return Span(span.origin, step, cells, (*low, *range(cells), *high))


def joined(spans: Sequence[Span]) -> Span | None:
    """Return the places of maps put beside each other, or None where they are not of one lattice.

    Example:
        >>> joined([moved(whole(4), [0, 1]), moved(whole(4), [2, 3])]) == whole(4)
        True
        >>> joined([moved(whole(4), [3]), whole(4)]).pixels(4)[:, 0].tolist()
        [3, 0, 1, 2, 3]
    """
    first = min(spans, key=lambda span: span.origin)
    if any(span.step != first.step for span in spans):
        return None
    table: list[int] = []
    for span in spans:
        shift = (span.origin - first.origin) / first.step
        if shift.denominator != 1:
            return None
        own = range(span.cells) if span.table is None else span.table
        table += [cell + int(shift) if cell >= 0 else cell for cell in own]
    low = min((cell for cell in table if cell >= 0), default=0)
    high = max((cell for cell in table if cell >= 0), default=0)
    base = Span(first.origin + first.step * low, first.step, high - low + 1)
    return moved(base, [cell - low if cell >= 0 else cell for cell in table])


def _kind(pads: Sequence[int], count: int) -> tuple[int, ...]:
    there = any(cell != ABSENT for cell in pads)
    return (PRESENT if there else ABSENT,) * count


def through(span: Span, relation: Any, axis: int, size: int) -> Span | None:
    """Return the places of a relation's targets along an axis, or None where they have no rule.

    A kernel of stride 1 moves: position p is where its middle tap listens. One of a larger stride,
    one that hears a whole axis at once, and any other relation are a step in scale; pads beyond
    what keeps a kernel in the middle become positions outside.

    Args:
        span: of the sources.
        relation: a KernelGeometry, or any other separable relation.
        axis: which one.
        size: positions of the targets.
    """
    n = span.size
    if getattr(relation, "kernel_size", None) is None:
        return span if size == n else _resized(span, size)
    stride, reach = relation.stride[axis], relation.dilation[axis] * (
        relation.kernel_size[axis] - 1) + 1  # fmt: skip
    before = relation.padding[axis][0]
    middle = (reach - 1) // 2
    if size == 1 < n <= reach and (stride == 1 or not relation.transposed):
        return scaled(span, 1)
    if stride == 1:
        shift = (reach - 1 - before if relation.transposed else before) - middle
        if not shift and size == n:
            return span
        modes = getattr(relation, "modes", None)
        mode = "zeros" if modes is None else modes[axis]
        return moved(span, folded(np.arange(size) - shift, n, mode).tolist())
    if relation.transposed:
        low, high = span.pads() or (0, 0)
        return scaled(span, size, low * stride, high * stride)
    low, high = span.pads() or (0, 0)
    excess = [max(own + pad - middle, 0) // stride for own, pad in
              zip(relation.padding[axis], (low, high), strict=True)]  # fmt: skip
    found = scaled(span, size, *excess)
    return found if found or span.has_copies else scaled(span, size)


def _resized(span: Span, size: int) -> Span | None:
    """A resize takes the pads with it, where they stay whole positions."""
    low, high = span.pads() or (0, 0)
    if low * size % span.size or high * size % span.size:
        return None
    return scaled(span, size, low * size // span.size, high * size // span.size)
