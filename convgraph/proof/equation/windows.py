"""The windows of a maximum: which entries of an image each output looks at, as integers.

    kernel      p looks at the pixels p * stride - padding + t * dilation, for every tap t
    adaptive    p looks at the pixels from floor(p n / m) to ceil((p + 1) n / m) - 1

along every axis, and at no pixel beyond the border. Written from torch's definitions, and shared
with nobody.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, final

import numpy as np

from convgraph.errors import ProofError

Axis = list[list[int]]
"""Along one axis, the pixels of each output, in order."""


@final
@dataclass(frozen=True)
class Windows:
    """Who looks at whom.

    Attributes:
        size: pixels of an image along each axis.
        out_size: outputs along each axis.
        entries: (P, K) int64, the flat pixels of each output in row-major order, then -1.
        colours: flat outputs in groups whose windows do not meet.
        nothing: what an output that looks at nothing is.
    """

    size: tuple[int, ...]
    out_size: tuple[int, ...]
    entries: Any = field(compare=False)
    colours: tuple[Any, ...] = field(compare=False)
    nothing: float = -np.inf

    @cached_property
    def counts(self) -> Any:
        """(P,) how many pixels each output looks at."""
        return (self.entries >= 0).sum(1)

    def heard(self) -> int:
        """The most outputs that look at one pixel."""
        seen = self.entries[self.entries >= 0]
        return int(np.bincount(seen).max()) if seen.size else 0


def kernel_axis(
    n: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> Axis:
    """Return the windows of a kernel along an axis of n pixels.

    Example:
        >>> kernel_axis(4, 3, 2, 1, 1, False)
        [[0, 1], [1, 2, 3]]
    """
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= n + padding:  # a last window beyond the image
        count -= 1
    if count < 1 or stride < 1:
        raise ProofError(f"expected windows that fit an axis of {n} pixels, got {count} of them")
    starts = [p * stride - padding for p in range(count)]
    return [[j for t in range(kernel) if 0 <= (j := s + t * dilation) < n] for s in starts]


def adaptive_axis(n: int, m: int) -> Axis:
    """Return the windows of m outputs on an axis of n pixels.

    Example:
        >>> adaptive_axis(5, 2)
        [[0, 1, 2], [2, 3, 4]]
    """
    return [list(range(p * n // m, -(-(p + 1) * n // m))) for p in range(m)]


def windows(size: tuple[int, ...], axes: list[Axis], nothing: float = -np.inf) -> Windows:
    """Return the windows of all axes together.

    Example:
        >>> windows((2, 2), [[[0, 1]], [[0], [1]]]).entries.tolist()
        [[0, 2], [1, 3]]
    """
    out = tuple(len(axis) for axis in axes)
    rows = []
    for places in product(*axes):
        flat = np.zeros(1, np.int64)
        for n, here in zip(size, places, strict=True):
            flat = (flat[:, None] * n + np.asarray(here, np.int64)).reshape(-1)
        rows.append(flat)
    width = max((row.size for row in rows), default=0)
    entries = np.full((len(rows), max(1, width)), -1, np.int64)
    for place, row in enumerate(rows):
        entries[place, : row.size] = row
    shades = np.zeros(1, np.int64)
    for axis in axes:
        apart = _apart(axis)
        shades = (shades[:, None] * apart + np.arange(len(axis)) % apart).reshape(-1)
    colours = tuple(np.flatnonzero(shades == shade) for shade in np.unique(shades))
    return Windows(size, out, entries, colours, nothing)


def _apart(axis: Axis) -> int:
    """The least m such that windows whose numbers differ by a multiple of m do not meet."""
    for m in range(1, len(axis)):
        pairs = ((i, j) for i in range(len(axis)) for j in range(i + m, len(axis), m))
        if all(not {*axis[i]} & {*axis[j]} for i, j in pairs):
            return m
    return max(1, len(axis))
