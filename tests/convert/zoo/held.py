"""Values of the dense interpreter: a tensor, and to which site each of its elements belongs.

A site is a position of a lattice in an image: whole numbers (image, row, column; in a volume depth
before row), kept as tensors that broadcast to the value and are moved by the same views. An element
of no site, as a class token is beside patches, has -1 for all but the image. Nothing here reads the
package.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.proof.equation.map_positions import MapPositions

Coordinate = Tensor | None
"""(...) int64 of a value's rank, of size 1 where it is constant; None where there is only one."""


class UnknownMeaningError(NotImplementedError):
    """The interpreter does not say what an operator means on a mask; nothing was compared."""


@dataclass(frozen=True, eq=False)
class Track:
    """The site of each element on one lattice; attention has two, who asks and who is heard.

    Attributes:
        at: image, then a coordinate for each axis of the lattice.
        place: where the lattice lies, and who of it is there.
    """

    at: tuple[Coordinate, ...]
    place: MapPositions

    @property
    def size(self) -> tuple[int, ...]:
        """Of the lattice."""
        return self.place.size

    def each(self, call: Callable[[Tensor], Tensor]) -> "Track":
        """The same sites under a view."""
        return Track(tuple(None if c is None else compact(call(c)) for c in self.at), self.place)

    def varies(self, dim: int) -> bool:
        """Whether sites differ along a dimension."""
        return any(c is not None and c.shape[dim] > 1 for c in self.at)

    @property
    def is_mixed(self) -> bool:
        """Whether elements of no site stand beside others."""
        return any(c is not None and bool((c < 0).any()) for c in self.at[1:])

    @property
    def is_nobodys(self) -> bool:
        """Whether no element has a site."""
        return all(c is None or bool((c < 0).all()) for c in self.at[1:])

    def ranked(self, rank: int) -> "Track":
        """Dimensions added on the left."""
        return self.each(lambda c: c.reshape(*(1,) * (rank - c.dim()), *c.shape))


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor with holes: what it says where no node is has no meaning.

    Attributes:
        x: of any shape.
        tracks: the lattices whose sites its elements belong to.
    """

    x: Tensor
    tracks: tuple[Track, ...]

    def varies(self, dim: int) -> bool:
        """Whether a dimension holds sites."""
        return any(track.varies(dim) for track in self.tracks)


def compact(c: Tensor) -> Tensor:
    """Cut every dimension along which nothing changes to size 1."""
    for dim, n in enumerate(c.shape):
        first = c.narrow(dim, 0, 1)
        if n > 1 and (c.stride(dim) == 0 or torch.equal(c, first.expand_as(c))):
            c = first
    return c.contiguous()


def held(x: Tensor, tracks: Iterable[Track]) -> Any:
    """A value with its lattices; an ordinary tensor where none is left: a readout."""
    left = tuple(t for t in tracks if not t.is_nobodys)
    return Held(x, left) if left else x


def fresh(x: Tensor, place: MapPositions, like: Any = None) -> Any:
    """An image (B, C, *size) on the lattice that lies there; of the images of another, `like`."""
    at: list[Coordinate] = []
    for dim, n in enumerate(x.shape):
        shape = [1] * x.dim()
        shape[dim] = n
        if dim != 1:
            at.append(torch.arange(n).view(shape) if n > 1 or not dim else None)
    line = like.tracks[0].at[0] if isinstance(like, Held) else None
    if line is not None and line.numel() == line.shape[0] == len(x):
        at[0] = line.view([-1, *[1] * (x.dim() - 1)])
    return held(x, [Track(tuple(at), place)])


def is_image(value: Any) -> bool:
    """Whether a value is (B, C, *size) on its own lattice; frames are images, too."""
    if not isinstance(value, Held) or len(value.tracks) != 1:
        return False
    (track,) = value.tracks
    if value.x.dim() != 2 + len(track.size):
        return False
    if track.size != tuple(value.x.shape[2:]):
        return False
    own = fresh(value.x, track.place, value)
    return combined(track, own.tracks[0]) is not None


def is_inner(value: Any) -> bool:
    """Whether the first dimension alone holds sites: every site has elements of its own."""
    return (
        isinstance(value, Held)
        and value.x.dim() > 2
        and not is_image(value)
        and any(c is not None for track in value.tracks for c in track.at[1:])
        and not any(map(value.varies, range(1, value.x.dim())))
    )


def combined(one: Track, other: Track) -> Track | None:
    """One track for two that never contradict each other, or None."""
    at: list[Coordinate] = []
    if len(one.size) != len(other.size):
        return None
    for fine, coarse in ((one, other), (other, one)):
        if _within(fine, coarse):
            return fine
    for a, b in zip(one.at, other.at, strict=True):
        if a is not None and b is not None and not (a.shape == b.shape and torch.equal(a, b)):
            return None
        at.append(b if a is None else a)
    axes = []
    for axis in range(len(one.size)):
        n, m = one.size[axis], other.size[axis]
        if at[1 + axis] is not None and n != m and 1 not in (n, m):
            return None
        wider = one if n >= m else other
        axes.append(wider.place.axes[axis])
    if one.size == other.size:
        return Track(tuple(at), one.place.meet(other.place))
    for place, wide in ((one.place, other.place), (other.place, one.place)):
        if prod(place.size) == 1:  # a readout says nothing of who is there
            return Track(tuple(at), wide)
    if one.place.root is not other.place.root:
        raise UnknownMeaningError("lattices of two roots are crossed")
    return Track(tuple(at), MapPositions(one.place.root, tuple(axes)))


def _within(fine: Track, coarse: Track) -> bool:
    """Whether an element's cell of a coarse lattice follows from its site, as a window does."""
    if fine.size == coarse.size or any(n % m for n, m in zip(fine.size, coarse.size, strict=True)):
        return False
    steps = [n // m for n, m in zip(fine.size, coarse.size, strict=True)]
    for a, b, step in zip(fine.at, coarse.at, [1, *steps], strict=True):
        if b is not None and (a is None or not torch.equal(compact(a // step), b)):
            return False
    there = coarse.place.there
    for axis, step in enumerate(steps):
        there = there.repeat_interleave(step, 1 + axis)
    return not bool((fine.place.there & ~there).any())


def meeting(values: Iterable[Any], fill: Callable[[Any, float], Tensor]) -> list[Any]:
    """Values as they are, or with 0 for whom they lack where sites of different places meet."""
    out = list(values)
    places = {id(t.place) for v in out if isinstance(v, Held) for t in v.tracks}
    if len(places) < 2:
        return out
    return [Held(fill(v, 0), v.tracks) if isinstance(v, Held) else v for v in out]


def union(values: Iterable[Any], rank: int) -> list[Track]:
    """The lattices of a result to which several values are broadcast."""
    out: list[Track] = []
    for value in values:
        for track in value.tracks if isinstance(value, Held) else ():
            ranked = track.ranked(rank)
            for number, known in enumerate(out):
                both = combined(known, ranked)
                if both is not None:
                    out[number] = both
                    break
            else:
                out.append(ranked)
    return out


def reduced(value: Held, dims: list[int], keepdim: bool, *, parts: bool = False) -> list[Track]:
    """The lattices that are left when dimensions are gone: a lattice axis goes as a whole.

    With `parts`, neighbours that go leave their cell; where others than neighbours go, a lattice is
    left by no one: readouts, one for each of the digits that stay.
    """
    out: list[Track] = []
    if len(dims) == value.x.dim():
        return out  # over everything that is there
    for whole in value.tracks:
        track = whole
        if parts and _goes_in_part(track, dims):
            cells = _cells(track, dims)
            if cells is None:
                continue
            track = cells
        at: list[Coordinate] = []
        size = list(track.size)
        for number, c in enumerate(track.at):
            if c is None or all(c.shape[dim] == 1 for dim in dims):
                at.append(c)
                continue
            if number == 0 or any(n > 1 and d not in dims for d, n in enumerate(c.shape)):
                raise UnknownMeaningError("it reduces the batch or a part of a lattice axis")
            at.append(None)
            size[number - 1] = 1
        gone = Track(tuple(at), track.place.scaled(size))
        if not keepdim:
            gone = gone.each(lambda c: squeezed(c, dims))
        out.append(gone)
    return out


def _goes_in_part(track: Track, dims: list[int]) -> bool:
    return any(
        any(c.shape[d] > 1 for d in dims)
        and any(n > 1 for d, n in enumerate(c.shape) if d not in dims)
        for c in track.at[1:]
        if c is not None
    )


def _cells(track: Track, dims: list[int]) -> Track | None:
    """The lattice whose pixels are the neighbours that go; None where others go."""
    at, size = list(track.at), list(track.size)
    for k in range(1, len(at)):
        c = at[k]
        gone = c is not None and any(c.shape[d] > 1 for d in dims)
        if c is None or not gone or all(n == 1 for d, n in enumerate(c.shape) if d not in dims):
            continue
        first, last = c.amin(dims, keepdim=True), c.amax(dims, keepdim=True)
        starts = first.unique()
        low, rest = divmod(size[k - 1], len(starts))
        if rest or not torch.equal(starts, torch.arange(len(starts)) * low):
            return None
        if not torch.equal(first // low, last // low):
            return None
        at[k] = compact(first // low)
        size[k - 1] = len(starts)
    return Track(tuple(at), track.place.scaled(tuple(size)))


def squeezed(c: Tensor, dims: list[int]) -> Tensor:
    return c.reshape([n for dim, n in enumerate(c.shape) if dim not in dims])


def coarser(value: Held, dim: int, fill: Callable[[Any, float], Tensor]) -> Any:
    """Sites of a cell side by side along `dim`, an absent one 0: the lattice has the cells' size.

    Where the dimension holds no low digits of sites, the value is left as it is.
    """
    if len(value.tracks) != 1:
        return value
    (track,) = value.tracks
    at, size = list(track.at), list(track.size)
    for k in range(1, len(at)):
        c = at[k]
        if c is None or c.shape[dim] == 1:
            continue
        high = compact(c.narrow(dim, 0, 1))
        cells = high.numel()
        low = size[k - 1] // cells
        if not torch.equal(high.flatten().sort().values, torch.arange(cells) * low):
            return value
        if any(int(part.min()) // low != int(part.max()) // low for part in _lines(c, dim, high)):
            return value
        at[k] = high // low if cells > 1 else None
        size[k - 1] = cells
    return held(fill(value, 0), [Track(tuple(at), track.place.scaled(size))])


def _lines(c: Tensor, dim: int, high: Tensor) -> Iterable[Tensor]:
    """The sites that one cell collects."""
    return c.movedim(dim, 0).flatten(1).T


def lengthened(value: Any, fill: Callable[[Any, float], Tensor]) -> Any:
    """An image whose rows or columns stand there several times, as a lattice of its own size."""
    if not isinstance(value, Held) or len(value.tracks) != 1:
        return value
    (track,) = value.tracks
    for number, c in enumerate(track.at):
        if c is None:
            continue
        others = [n for d, n in enumerate(c.shape) if d != number + bool(number)]
        if any(n > 1 for n in others):
            return value
        line = c.flatten()
        if number and not torch.equal(line, torch.arange(len(line)) * track.size[number - 1]
                                      // len(line)):  # fmt: skip
            return value
    filled = fill(value, 0)
    return fresh(filled, track.place.scaled(tuple(filled.shape[2:])), value)
