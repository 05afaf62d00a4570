"""The windows of a maximum: which entries of an image each output looks at, as integers.

    kernel      p looks at the pixels p * stride - padding + t * dilation, for every tap t
    adaptive    p looks at the pixels from floor(p n / m) to ceil((p + 1) n / m) - 1

along every axis, and at no pixel beyond the border. Written from torch's definitions, and shared
with nobody. In a space p looks at what its taps read there, which may lie between pixels: a value
is then a sum of pixels with shares. A pixel that is absent is looked at by nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, final

import numpy as np

from convgraph.errors import ProofError
from convgraph.proof.equation import spaces
from convgraph.proof.equation.oracle import OracleEdges

Axis = list[list[int]]
"""Along one axis, the pixels of each output, in order."""


@final
@dataclass(frozen=True)
class Windows:
    """Who looks at whom.

    Attributes:
        size: pixels of an image along each axis.
        out_size: outputs along each axis.
        entries: (P, K) int64, the flat pixels of each output in row-major order, then -1; or the
            values, by number, where they are no pixels.
        colours: flat outputs in groups whose windows do not meet.
        nothing: what an output that looks at nothing is.
        values: (V, S) flat pixels of each value, -1 for none, and (V, S) their shares; None where
            the values are the pixels.
    """

    size: tuple[int, ...]
    out_size: tuple[int, ...]
    entries: Any = field(compare=False)
    colours: tuple[Any, ...] = field(compare=False)
    nothing: float = -np.inf
    values: tuple[Any, Any] | None = field(default=None, compare=False)

    @cached_property
    def counts(self) -> Any:
        """(P,) how many values each output looks at."""
        return (self.entries >= 0).sum(1)

    @property
    def width(self) -> int:
        """The most pixels that one value is made of."""
        return 1 if self.values is None else int(self.values[0].shape[1])

    def heard(self) -> int:
        """The most outputs that look at one pixel, counted once for each of their values."""
        seen = self.entries[self.entries >= 0]
        if self.values is not None:
            seen = self.values[0][seen]
            seen = seen[seen >= 0]
        return int(np.bincount(seen).max()) if seen.size else 0

    def of(self, flat: Any) -> Any:
        """Return (..., V) values of images (..., pixels)."""
        if self.values is None:
            return flat
        return sum(flat[..., q] * share for q, share in zip(*self.parts(), strict=True))

    def back(self, sent: Any, pixels: int) -> Any:
        """Return (..., pixels): what is sent to values, by their shares; the way back of `of`."""
        if self.values is None:
            return sent
        found = np.zeros((pixels, *sent.shape[:-1]))
        for q, share in zip(*self.parts(), strict=True):
            np.add.at(found, q, np.moveaxis(sent * share, -1, 0))
        return np.moveaxis(found, 0, -1)

    def parts(self) -> tuple[Any, Any]:
        """Pixels and shares of all values, (S, V) each; pixel 0 with share 0 for none."""
        assert self.values is not None  # the values are no pixels
        pixels, shares = self.values
        return np.maximum(pixels, 0).T, np.where(pixels >= 0, shares, 0.0).T


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


def in_space(size: tuple[int, ...], edges: OracleEdges) -> Windows:
    """Return the windows of one image whose taps read along edges.

    Args:
        size: of the image.
        edges: of a batch of one; several of one output and tap are one value, by their weights.

    Example:
        >>> q, p, t = np.array([1, 0, 0, 1]), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
        >>> in_space((2,), OracleEdges(q, p, t, (0, 2, 4), (2,))).entries.tolist()
        [[1, 0], [0, 1]]
    """
    outs = int(np.prod(edges.out_size))
    share = np.full(len(edges.source), spaces.ONE) if edges.weight is None else edges.weight
    read: dict[tuple[int, int], dict[int, int]] = {}
    ends = (edges.target, edges.tap, edges.source, share)
    for p, t, q, w in zip(*(e.tolist() for e in ends), strict=True):
        if w:
            one = read.setdefault((p, t), {})
            one[q] = one.get(q, 0) + w
    rows: list[dict[Any, None]] = [{} for _ in range(outs)]  # in the order of taps, each once
    for p, t in sorted(read):
        rows[p][tuple(sorted(read[p, t].items()))] = None
    found = {value: n for n, value in enumerate(dict.fromkeys(v for row in rows for v in row))}
    plain = all(len(value) == 1 and value[0][1] == spaces.ONE for value in found)
    values = None
    if not plain:
        width = max(map(len, found))
        pixels, shares = np.full((len(found), width), -1), np.zeros((len(found), width))
        for value, n in found.items():
            pixels[n, : len(value)] = [q for q, _ in value]
            shares[n, : len(value)] = [w / spaces.ONE for _, w in value]
        values = (pixels, shares)
    entries = np.full((outs, max(1, *map(len, rows))), -1, np.int64)
    for p, row in enumerate(rows):
        entries[p, : len(row)] = [value[0][0] if plain else found[value] for value in row]
    touched = [{q for value in row for q, _ in value} for row in rows]
    return Windows(size, edges.out_size, entries, _colours(touched), values=values)


def _colours(touched: list[set[int]]) -> tuple[Any, ...]:
    """Groups of windows that have no pixel in common, each in the first that takes it."""
    groups: list[tuple[list[int], set[int]]] = []
    for p, pixels in enumerate(touched):
        for members, taken in groups:
            if not pixels & taken:
                members.append(p)
                taken |= pixels
                break
        else:
            groups.append(([p], set(pixels)))
    return tuple(np.array(members) for members, _ in groups)


def on_mask(found: Windows, mask: Any, sites: Any = None) -> tuple[Windows, ...]:
    """Return the windows of each image of a batch whose absent pixels nobody looks at.

    Args:
        found: of a full image.
        mask: (B, *size) bool, which pixels are there.
        sites: (B, *out_size) bool, which outputs are there; None for all. An absent one is 0, as
            one that looks at nothing is.

    Example:
        >>> full = windows((3,), [[[0, 1], [1, 2]]])
        >>> on_mask(full, np.array([[False, True, True]]))[0].entries.tolist()
        [[1, -1], [1, 2]]
    """
    made = []
    for image, there in enumerate(mask.reshape(len(mask), -1)):
        values = found.values
        alive = there
        if values is not None:
            pixels, shares = values
            keep = (pixels >= 0) & there[np.maximum(pixels, 0)]
            alive = keep.any(1)
            values = (np.where(keep, pixels, -1), np.where(keep, shares, 0.0))
        keep = (found.entries >= 0) & alive[np.maximum(found.entries, 0)]
        if sites is not None:
            keep &= sites[image].reshape(-1)[:, None]
        order = np.argsort(~keep, axis=1, kind="stable")
        entries = np.take_along_axis(np.where(keep, found.entries, -1), order, 1)
        made.append(replace(found, entries=entries, nothing=0.0, values=values))
    return tuple(made)


def reached(found: Sequence[Windows]) -> Any:
    """Return (B, P) bool: which outputs look at anything."""
    return np.stack([one.counts > 0 for one in found])


def finest(shares: Any) -> int:
    """Return the power of two of which all shares are whole parts.

    Example:
        >>> finest(np.array([[0.5, 0.5], [0.75, 0.25]]))
        4
    """
    return int(spaces.ONE // np.gcd.reduce((shares * spaces.ONE).astype(np.int64), axis=None))
