"""Where the positions of a map lie, and who of them is there; written without the package.

Along an axis each position has two edges, in pixels of a root whose mask is known. A move takes the
edges along: padding with 0 brings positions of nobody, padding with a number positions that are
always there, every other padding copies. A kernel of stride 1 moves too, by its middle tap. A step
in scale shares out what the map covers among its new positions. A position is there when a pixel of
the root, by its left edge, lies between its edges; between edges closer than a pixel it is there
with the pixel that they lie in. Positions that were shuffled are a root of their own.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

NOBODY, EVERYBODY = "nobody", "everybody"

Edges = tuple[Any, ...]
"""Of each position: (low, high), or one of the two words."""


def start(count: int) -> Edges:
    """Every pixel is a position."""
    return tuple((Fraction(p), Fraction(p + 1)) for p in range(count))


def share(low: Fraction, high: Fraction, count: int) -> Edges:
    """So many positions between two edges."""
    step = (high - low) / count
    return tuple((low + p * step, low + (p + 1) * step) for p in range(count))


def middle_piece(edges: Edges) -> tuple[int, int] | None:
    """First position and end of the map itself, pads left out; None where it was shuffled."""
    real = [e for e in edges if e not in (NOBODY, EVERYBODY)]
    if not real:
        return None
    low, high = min(e[0] for e in real), max(e[1] for e in real)
    for first, edge in enumerate(edges):
        if edge in (NOBODY, EVERYBODY) or edge[0] != low:
            continue
        end = first + 1
        while end < len(edges) and edges[end - 1][1] != high:
            following = edges[end]
            if following in (NOBODY, EVERYBODY) or following[0] != edges[end - 1][1]:
                break
            end += 1
        if edges[end - 1][1] == high:
            return first, end
    return None


def resized(edges: Edges, count: int) -> Edges | None:
    """Another number of positions for the same stretch; pads stay pads if they stay whole."""
    if count == len(edges):
        return edges
    piece = middle_piece(edges)
    if piece is None:
        return None
    before, after = (Fraction(n * count, len(edges)) for n in (piece[0], len(edges) - piece[1]))
    if before.denominator != 1 or after.denominator != 1:
        return None
    return around(edges, piece, count, int(before), int(after))


def around(
    edges: Edges, piece: tuple[int, int], count: int, before: int, after: int
) -> Edges | None:
    """`count` positions of which some before and after are pads; None where pads are copies."""
    outside = (edges[: piece[0]], edges[piece[1] :])
    if count - before - after < 1 or (before + after and are_copies(outside)):
        return None
    words = [NOBODY if all(e == NOBODY for e in part) else EVERYBODY for part in outside]
    inner = share(edges[piece[0]][0], edges[piece[1] - 1][1], count - before - after)
    return (words[0],) * before + inner + (words[1],) * after


def are_copies(outside: tuple[Edges, Edges]) -> bool:
    """Whether a pad, before or after a map, repeats positions of it."""
    return any(e not in (NOBODY, EVERYBODY) for part in outside for e in part)


def kernel(
    edges: Edges, count: int, size: int, stride: int, pads: tuple[int, int], dilation: int
) -> Edges | None:
    """The positions of a convolution's or a pool's outputs."""
    reach = dilation * (size - 1) + 1
    middle = (reach - 1) // 2
    piece = middle_piece(edges)
    if count == 1 < len(edges) <= reach:  # a single place, to which every pixel speaks
        return None if piece is None else around(edges, piece, 1, 0, 0)
    if stride == 1:
        heard = [p - pads[0] + middle for p in range(count)]
        return tuple(edges[q] if 0 <= q < len(edges) else NOBODY for q in heard)
    if piece is None:
        return None
    over = [
        max(pad + own - middle, 0) // stride
        for pad, own in zip(pads, (piece[0], len(edges) - piece[1]), strict=True)
    ]
    found = around(edges, piece, count, *over)
    if found is None and not are_copies((edges[: piece[0]], edges[piece[1] :])):
        found = around(edges, piece, count, 0, 0)
    return found


def reversed_kernel(
    edges: Edges, count: int, size: int, stride: int, pad: int, dilation: int
) -> Edges | None:
    """The positions of a transposed convolution's outputs."""
    reach = dilation * (size - 1) + 1
    if stride == 1:
        return kernel(edges, count, size, 1, (reach - 1 - pad,) * 2, dilation)
    piece = middle_piece(edges)
    if piece is None:
        return None
    return around(edges, piece, count, piece[0] * stride, (len(edges) - piece[1]) * stride)


@dataclass(frozen=True, eq=False)
class MapPositions:
    """The positions of a map of one size.

    Attributes:
        root: (B, *size) bool.
        axes: the edges along each axis.
        full: whether it is of images without holes: a full grid stays one, pads too.
    """

    root: Tensor
    axes: tuple[Edges, ...]
    full: bool = False

    @classmethod
    def of(cls, root: Tensor, full: bool = False) -> "MapPositions":
        """The root itself."""
        return cls(root, tuple(start(n) for n in root.shape[1:]), full)

    @property
    def size(self) -> tuple[int, ...]:
        """Positions along each axis."""
        return tuple(map(len, self.axes))

    @property
    def there(self) -> Tensor:
        """(B, *size) bool; one position alone is a readout, and there."""
        if self.full:
            return torch.ones(len(self.root), *self.size, dtype=torch.bool)
        return _there(tuple(self.root.shape), self.root.numpy().tobytes(), self.axes)

    def moved(self, sources: dict[int, list[Any]]) -> "MapPositions":
        """Each new position of an axis is an old one, or a word."""
        return MapPositions(self.root, tuple(
            tuple(edges[s] if isinstance(s, int) else s for s in sources[axis])
            if axis in sources else edges
            for axis, edges in enumerate(self.axes)
        ), self.full)  # fmt: skip

    def step(self, call: Any) -> "MapPositions":
        """Each axis becomes call(axis, edges), or all of it a root of its own."""
        found = [call(axis, edges) for axis, edges in enumerate(self.axes)]
        if any(one is None for one in found):
            own = MapPositions.of(self.there, self.full)
            found = [call(axis, edges) for axis, edges in enumerate(own.axes)]
            return MapPositions(own.root, tuple(found), self.full)
        return MapPositions(self.root, tuple(found), self.full)

    def scaled(self, size: Any) -> "MapPositions":
        """The same stretch in so many positions."""
        return self.step(lambda axis, edges: resized(edges, size[axis]))

    def same(self, other: "MapPositions") -> bool:
        """Whether two maps lie in the same places."""
        return self.root is other.root and self.axes == other.axes

    def meet(self, other: "MapPositions") -> "MapPositions":
        """The union; one of the two where it has all."""
        if self.same(other):
            return self
        both = self.there | other.there
        for one in (self, other):
            if torch.equal(both, one.there):
                return one
        return MapPositions.of(both)


@lru_cache(maxsize=256)
def _there(shape: tuple[int, ...], root: bytes, axes: tuple[Edges, ...]) -> Tensor:
    """Who is there, by the numbers of a root; maps of one place are asked for again and again."""
    if prod(map(len, axes)) == 1:
        return torch.ones(shape[0], *map(len, axes), dtype=torch.bool)
    now = torch.frombuffer(bytearray(root), dtype=torch.bool).view(shape)
    for axis, (edges, n) in enumerate(zip(axes, shape[1:], strict=True)):
        lines = []
        for one in edges:
            line = torch.zeros_like(now.select(axis + 1, 0))
            if one == EVERYBODY:
                line = torch.ones_like(line)
            elif one != NOBODY:
                for q in pixels(*one):
                    if 0 <= q < n:
                        line = line | now.select(axis + 1, q)
            lines.append(line)
        now = torch.stack(lines, axis + 1)
    return now


def pixels(low: Fraction, high: Fraction) -> list[int]:
    """The pixels of the root that speak for a position."""
    if high - low < 1:
        return [int(low // 1)]
    return [q for q in range(int(low // 1), int(high // 1) + 2) if low <= q < high]


def pad_sources(n: int, before: int, after: int, mode: str, value: float) -> list[Any]:
    """What each position of a padded axis is."""
    found: list[Any] = []
    for p in range(-before, n + after):
        if 0 <= p < n:
            found.append(p)
        elif mode == "constant":
            found.append(EVERYBODY if value else NOBODY)
        elif mode == "circular":
            found.append(p % n)
        elif mode == "replicate":
            found.append(0 if p < 0 else n - 1)
        else:
            found.append(-p if p < 0 else 2 * n - 2 - p)
    return found
