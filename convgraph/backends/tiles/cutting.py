"""The arithmetic of tiles: windows are cut out of rows, convolved, and put back into rows.

One small dense convolution serves all windows, for they have one shape; so do its two gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from operator import index
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.backends import onednn
from convgraph.backends.bags import Ints, bags, with_hole
from convgraph.backends.compiled import unwatched

CHUNK = 2**23
"""Elements of windows that are cut out at a time on the CPU, so that memory stays
bounded whatever the image; smaller ones were slower."""


class Shape(NamedTuple):
    """The integers of a tiled convolution, as a flat list of arguments no derivative touches."""

    transposed: int
    groups: int
    mirrored: int
    num_sources: int
    tiles: int
    stride: Ints
    dilation: Ints
    tile: Ints
    size: Ints
    crop: Ints
    weight: Ints  # the weight's shape

    @property
    def in_channels(self) -> int:
        """Channels of x, of all groups together."""
        return self.weight[0] if self.transposed else self.weight[1] * self.groups

    @property
    def out_channels(self) -> int:
        """Channels of y, of all groups together."""
        return self.weight[1] * self.groups if self.transposed else self.weight[0]

    def flat(self) -> Ints:
        """The integers one after the other, the number of axes first."""
        # By name: a compiler of torch 2.8 does not take slices of a named tuple.
        numbers = (self.transposed, self.groups, self.mirrored, self.num_sources, self.tiles)
        parts = self.stride + self.dilation + self.tile + self.size + self.crop + self.weight
        return (len(self.stride), *numbers, *parts)

    @classmethod
    def of(cls, flat: Ints) -> "tuple[Shape, Ints]":
        """Undo `flat`; what follows it comes second."""
        d = flat[0]
        ends = [6 + d * n for n in range(6)] + [6 + 5 * d + d + 2]
        parts = [flat[a:b] for a, b in pairwise(ends)]
        return cls(*flat[1:6], *parts), flat[ends[-1] :]  # type: ignore[arg-type]


def convolve(cells: Tensor, weight: Tensor, s: Shape, bias: Tensor | None = None) -> Tensor:
    """(n, C, *size) -> (n, C', *tile)."""
    if not s.transposed:
        return _forward(cells, weight, bias, s)
    y = _backward(cells, weight, bias, s)
    for axis, (start, n) in enumerate(zip(s.crop, s.tile, strict=True), start=2):
        y = y.narrow(axis, start, n)
    return y


def _forward(image: Tensor, weight: Tensor, bias: Tensor | None, s: Shape) -> Tensor:
    """The convolution of this stride and dilation, without padding."""
    zeros = (0,) * len(s.tile)
    size = tuple([index(n) for n in image.shape[2:]])
    run = onednn.convolution(size, s.weight[2:], s.stride, zeros, s.dilation, image.device)
    return run(image, weight, bias, s.stride, zeros, s.dilation, s.groups)


def _backward(image: Tensor, weight: Tensor, bias: Tensor | None, s: Shape) -> Tensor:
    """The transposed convolution of this stride and dilation."""
    zeros = [0] * len(s.tile)
    y: Tensor = torch.ops.aten.convolution.default(
        image, weight, bias, s.stride, zeros, s.dilation, True, zeros, s.groups
    )
    return y


def uncropped(g: Tensor, s: Shape) -> Tensor:
    """Pad gradients of tiles to what a transposed kernel makes of a window."""
    if not s.transposed:
        return g
    pads: list[int] = []
    axes = zip(s.crop, s.tile, s.size, s.stride, s.dilation, s.weight[2:], strict=True)
    for start, n, size, stride, dilation, k in reversed(list(axes)):
        full = (size - 1) * stride + dilation * (k - 1) + 1
        pads += [start, full - start - n]
    return F.pad(g, pads)


def adjoint(g: Tensor, weight: Tensor, s: Shape) -> Tensor:
    """(n, C', *tile) -> (n, C, *size): the gradient of the windows."""
    run = _forward if s.transposed else _backward
    return run(uncropped(g, s), weight, None, s)


def weight_gradient(cells: Tensor, g: Tensor, s: Shape) -> Tensor:
    """(n, C, *size) and (n, C', *tile) -> the gradient of the weight."""
    zeros, stride, g = [0] * len(s.tile), s.stride, uncropped(g, s)
    if onednn.errs("sliced") and onednn.is_strided_point(s.weight[2:], stride):
        wide = onednn.every(g if s.transposed else cells, stride)
        cells, g = (cells, wide) if s.transposed else (wide, g)
        stride = (1,) * len(stride)
    rows, columns, *taps = s.weight
    like = cells.new_empty(rows, *taps, columns).movedim(-1, 1)  # or it would be turned round
    found: Tensor = torch.ops.aten.convolution_backward.default(
        g, cells, like, None, stride, zeros, s.dilation,
        bool(s.transposed), zeros, s.groups, [False, True, False],
    )[1]  # fmt: skip
    return found


def chunks(s: Shape, channels: int, device: torch.device) -> Iterator[slice]:
    """Tiles that are cut out together."""
    step = s.tiles
    if device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, CHUNK // max(1, prod(s.size) * channels))
    for start in range(0, s.tiles, max(1, step)):
        yield slice(start, min(start + step, s.tiles))


def standing_in(
    index: Tensor,  # `packed`, on the CPU
    cells: int,
    tiles: int,
    chosen: slice,
) -> tuple[int, Tensor]:
    """Return the first cell of chosen tiles of so many cells, and the rows that stand in them."""
    total, first, last = tiles * cells, chosen.start * cells, chosen.stop * cells
    a, b = index[total + first : total + last + 1 : last - first].tolist()
    return first, index[2 * total + 1 :][a:b]


def cutter(
    x: Tensor,  # (n, C)
    index: Tensor,  # `packed`
    size: Ints,
    tiles: int,
) -> Callable[[slice], Tensor]:
    """Return the function from chosen tiles to what stands in them, (tiles, C, *size).

    It is channels-last, and 0 in holes.
    """
    cells, channels = prod(size), x.shape[1]
    total = tiles * cells
    if index.shape[0] > total and unwatched(x):
        ptr, rows = index[total : 2 * total + 1], index[2 * total + 1 :]

        def rows_in(a: int, b: int) -> Tensor:
            if b - a == total:
                return bags(x, rows, ptr)
            first, last = int(ptr[a]), int(ptr[b])
            return bags(x, rows[first:last], ptr[a : b + 1] - first)
    else:
        holed = with_hole(x)

        def rows_in(a: int, b: int) -> Tensor:
            return holed.index_select(0, index[a:b])

    def cut(chosen: slice) -> Tensor:
        rows = rows_in(chosen.start * cells, chosen.stop * cells)
        return rows.view(-1, *size, channels).movedim(-1, 1)

    return cut


def as_rows(tiles: list[Tensor]) -> Tensor:
    """Put tiles (n, C, *size) back into rows."""
    parts = [part.movedim(1, -1).reshape(-1, part.shape[1]) for part in tiles]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Keep cuDNN from adding up weight gradients with atomics."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        yield
        return
    before = torch._C._get_cudnn_deterministic()
    torch._C._set_cudnn_deterministic(True)
    try:
        yield
    finally:
        torch._C._set_cudnn_deterministic(before)
