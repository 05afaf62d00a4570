"""Halo: how far an output reads, on which grid crops may start, and whether crops are exact at all.

Whoever runs a network on overlapping crops and keeps their middles needs three numbers an axis: the
halo before, the halo behind, and the grid on which crops have to start. They follow from the tables
of the relations; whether crops with them equal the whole is read off the tables too, by comparing
what every layer does on a crop with what it does on the whole image, edge by edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any, final

import numpy as np
from torch import nn

from convgraph.door import described, door
from convgraph.errors import ConversionError, GeometryError
from convgraph.scale.plan import Plan, plan
from convgraph.scale.travel_rules import Travel


@final
@dataclass(frozen=True)
class Halo:
    """How crops of an image have to overlap.

    Attributes:
        size: of the image (pixels).
        out_size: of the output.
        before: pixels that a crop needs before what it keeps, along each axis; a multiple of grid.
        behind: likewise behind.
        reads: pixels that one output reads at most, first to last, along each axis.
        grid: crops start on multiples of it (pixels), and are multiples of it long.
        exact: whether crops with this halo, on this grid, equal the whole.
        why: why they do not, "" if they do.
    """

    size: tuple[int, ...]
    out_size: tuple[int, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]
    reads: tuple[int, ...]
    grid: tuple[int, ...]
    exact: bool
    why: str = ""

    @property
    def overlap(self) -> tuple[int, ...]:
        """Halo for libraries that take one number an axis, both sides alike (pixels).

        dask's `map_overlap(depth=)`, the halo of bioimage.io, TIAToolbox's margin; MONAI's
        `SlidingWindowInferer(overlap=)` takes a share: 2 overlap / roi_size.
        """
        return tuple(max(a, b) for a, b in zip(self.before, self.behind, strict=True))

    def __str__(self) -> str:
        """Return what a person has to know, line by line."""

        def times(numbers: Sequence[int]) -> str:
            return " x ".join(map(str, numbers))

        verdict = "equal the whole, edge by edge" if self.exact else f"differ: {self.why}"
        return "\n".join(
            [
                f"image {times(self.size)}, output {times(self.out_size)}",
                f"an output reads {times(self.reads)} pixels",
                f"halo before {times(self.before)}, behind {times(self.behind)}",
                f"grid {times(self.grid)}: crops start on multiples of it",
                f"crops with this overlap {verdict}",
            ]
        )


@door
def halo(net: nn.Module, size: Sequence[int], *, channels: int | None = None) -> Halo:
    """Return how crops of an image have to overlap so that they equal the whole.

    Nothing of the image's size is computed: a slide takes as long as a thumbnail, nearly.

    Args:
        net: a dense network on images (1, C, *size) that returns one map.
        size: of the image, along each axis (pixels).
        channels: C; None reads it off the first weight.

    Returns:
        A Halo: print it, or read `before`, `behind`, `overlap`, `grid`, `exact` and `why`.

    Raises:
        ConversionError: an operator has no plan at all, or the output is no map.
        GeometryError: no such size.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, padding=1))
        >>> print(halo(net, (64, 64)))
        image 64 x 64, output 32 x 32
        an output reads 7 x 7 pixels
        halo before 4 x 4, behind 2 x 2
        grid 2 x 2: crops start on multiples of it
        crops with this overlap equal the whole, edge by edge
        >>> halo(net, (64, 64)).overlap
        (4, 4)
    """
    size = tuple(size)
    if not size or any(
        not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1 for n in size
    ):
        raise GeometryError(
            f"cg.halo: expected size as pixels along each axis, got {described(size)}"
        )
    shape = (1, channels_of(net, len(size), channels), *map(int, size))
    found = plan(net, shape)
    if found.whole:
        step, how = found.whole[0]
        return Halo(size, found.out_size, *(size,) * 4, False, f"{step.title} {how.why}")
    if not found.out_size:
        found.refuse("cg.halo")
    grid = tuple(_grid(found, axis) for axis in range(len(size)))
    reaches = [_reach(found, axis, grid[axis]) for axis in range(len(size))]
    before, behind = (
        tuple(-(-one[k] // g) * g for one, g in zip(reaches, grid, strict=True)) for k in (0, 1)
    )
    reads = tuple(one[2] for one in reaches)
    why = _differs(net, found, shape, grid, before, behind)
    return Halo(size, found.out_size, before, behind, reads, grid, not why, why)


def channels_of(net: nn.Module, d: int, channels: int | None) -> int:
    """Return the channels that a network reads: as given, or of its first convolution."""
    if channels is not None:
        return channels
    for module in net.modules():
        if (found := getattr(module, "in_channels", None)) is not None:
            return int(found)
    raise ConversionError(
        f"cg.halo: {type(net).__name__} does not say how many channels it reads; say channels="
    )


def _scales(found: Plan, axis: int) -> dict[int, Fraction]:
    """Pixels of the image between neighbouring sites of each map, along an axis."""
    scale = {0: Fraction(1)}
    for step, how in found.steps:
        sources = [s for s in step.sources if s in scale]
        if not sources or how.axes is None:
            continue
        here = scale[sources[0]]
        if how.how == "edges":
            here *= _stride(found, step, how, axis)
        scale |= dict.fromkeys(step.results, here)
    return scale


def _stride(found: Plan, step: Any, how: Travel, axis: int) -> Fraction:
    relation = how.relation
    if (stride := getattr(relation, "stride", None)) is not None:
        one = Fraction(stride[axis])
        return 1 / one if relation.transposed else one
    if (bounds := getattr(relation, "bounds", None)) is not None:
        return Fraction(bounds[axis][2])
    if hasattr(relation, "pads"):
        return Fraction(1)
    source = next(s for s in step.sources if found.axes[s] is not None)
    if (factor := getattr(relation, "scale_factor", None)) is not None:
        return 1 / Fraction(factor[axis]).limit_denominator(1000)
    return Fraction(found.size(source)[axis], found.size(step.results[0])[axis])


def _grid(found: Plan, axis: int) -> int:
    return lcm(*(one.numerator for one in _scales(found, axis).values()))


def _reach(found: Plan, axis: int, grid: int) -> tuple[int, int, int]:
    """Pixels before and behind the block of the grid that an output belongs to, and in all."""
    n, m = found.image_size[axis], found.out_size[axis]
    pixels = _scales(found, axis)[found.out]
    block = max(1, round(grid / pixels))
    before = behind = reads = 0
    middle = (m // block // 2) * block
    for start in {max(0, middle - block), middle}:
        out = np.arange(start, min(start + block, m))
        if not len(out):
            continue
        here = int(start * pixels)
        read = found.ask(found.out, axis, out)[0]
        before = max(before, here - int(read[0]))
        behind = max(behind, int(read[-1]) + 1 - min(here + grid, n))
        for p in out[:: max(1, block // 8)]:
            one = found.ask(found.out, axis, np.array([p]))[0]
            reads = max(reads, int(one[-1]) + 1 - int(one[0]))
    return before, max(0, behind), reads


def _differs(
    net: nn.Module, found: Plan, shape: tuple[int, ...], grid: Any, before: Any, behind: Any
) -> str:
    """Where a crop does something else than the whole; "" where it never does."""
    cut = False
    for axis, n in enumerate(found.image_size):
        g, a, b = grid[axis], before[axis], behind[axis]
        length = a + 4 * g + b
        if length >= n:
            continue  # every crop is whole along this axis
        cut = True
        middle = max(a, (n // 2) // g * g)
        # a crop in the middle, one at the beginning, and one as long as it takes to the end
        for start, kept in ((middle - a, a), (0, 0)):
            crop = list(shape)
            crop[2 + axis] = length
            small = plan(net, tuple(crop), found.recording.dtypes[0])
            if why := _compared(found, small, axis, start, kept, 4 * g):
                return why
        start = (n - length) // g * g
        crop = list(shape)
        crop[2 + axis] = n - start
        small = plan(net, tuple(crop), found.recording.dtypes[0])
        if why := _compared(found, small, axis, start, a, n - start - a):
            return why
    return "" if cut else "no crop with this halo is smaller than the image"


def _compared(found: Plan, small: Plan, axis: int, start: int, kept: int, length: int) -> str:
    """Compare a crop from `start` on, of which `length` pixels from `kept` on are kept."""
    scales = _scales(found, axis)
    if len(small.travels) != len(found.travels):
        return "the network does other things on a crop"
    if any(Fraction(start) % scale for scale in scales.values()):
        return "the grid is larger than the image"
    first = -(-Fraction(kept) // scales[found.out])
    last = Fraction(kept + length) // scales[found.out]
    mine = np.arange(int(first), min(int(last), small.out_size[axis]))
    shift = {value: int(start / scale) for value, scale in scales.items()}
    mine = mine[mine + shift[found.out] < found.out_size[axis]]
    if not len(mine):
        return ""
    crop = small.ask(small.out, axis, mine)
    for (step, how), (_, other) in zip(found.steps, small.steps, strict=True):
        if how.how != "edges" or step.results[0] not in crop:
            continue
        source = next(s for s in step.sources if found.axes[s] is not None)
        here = crop[step.results[0]]
        whole = how.relation.axis_sources(axis, found.size(source)[axis])
        there = here + shift[step.results[0]]
        if (there >= len(whole)).any():
            return f"{step.title} has other sites on a crop"
        want = whole[there]
        got = other.relation.axis_sources(axis, small.size(source)[axis])[here]
        want = np.where(want >= 0, want - shift[source], -1)
        if got.shape != want.shape or (got != want).any():
            return f"{step.title} reads other pixels on a crop than on the whole image"
        weights = how.relation.axis_weights(axis, found.size(source)[axis])
        if weights is not None:
            small_weights = other.relation.axis_weights(axis, small.size(source)[axis])
            if (weights[there] != small_weights[here]).any():
                return f"{step.title} weighs pixels otherwise on a crop than on the whole image"
    return ""
