"""Moves: pads, rolls, flips and repeats, where every site hears exactly one other, or none.

The mask moves with the pixels (see `entries`): a pad with 0 adds absent sites, one with another
number present ones, the other pads copies. Along a line of tokens a constant adds readouts, which
are there whatever it is.
"""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph import functional
from convgraph.backends.messages.edges import take
from convgraph.convert import batch, names, windows
from convgraph.convert.entries import readout, rearranged, site_axis, table_of
from convgraph.convert.names import ApartError, Name, NoRuleError
from convgraph.convert.operators import operator
from convgraph.convert.registry import rule
from convgraph.convert.rules.convolution import kernel, listen
from convgraph.convert.rules.shapes import expand, shape_after
from convgraph.convert.tokens import beside, is_sequence
from convgraph.convert.value import Spatial, dense, placed, result
from convgraph.geometry.kernel import KernelGeometry
from convgraph.geometry.padding import folded
from convgraph.graph.edges import connect
from convgraph.graph.network_sites import network_sites
from convgraph.graph.places import ABSENT, PRESENT

_MODES = {"constant": "constant", "reflection": "reflect", "replication": "replicate"}
"""What the first word of an operator says of how it pads."""


@rule(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def pad(call: Any, x: Spatial, pads: Any, *more: Any, **named: Any) -> Any:
    """Before and after each axis, the last one first; negative pads crop."""
    given = call.named(x, pads, *more, **named)
    mode = given.get("mode") or _MODES[call.name.partition("_")[0]]
    if call.name == "pad" and mode in ("reflect", "replicate"):
        raise ApartError("autocast knows what it is made of")
    value = float(given.get("value") or 0)
    outside = PRESENT if value else ABSENT
    tables: dict[int, list[int]] = {}
    for number in range(len(pads) // 2):
        dim = len(x.axes) - 1 - number
        before, after = int(pads[2 * number]), int(pads[2 * number + 1])
        if before == after == 0:
            continue
        if names.is_plain(x.axes[dim]) and x.axes[dim]:
            x = _pad_plain(x, dim, before, after, mode, value)
            continue
        if mode == "constant" and min(before, after) >= 0 and _is_line(x, dim):
            x = _sequence(x, dim, before, after, value)
            continue
        axis, n = site_axis(x, dim), x.shape[dim]
        found = folded(np.arange(-before, n + after), n, mode).tolist()
        tables[axis] = [outside if p < 0 else p for p in found]
    if not tables:
        return x
    move = "pad" if mode == "constant" else "fold"
    return readout(rearranged(call, x, tables, value, move=move))


def _is_line(x: Spatial, dim: int) -> bool:
    """Whether an axis is a sequence of nodes."""
    return len(x.axes[dim]) > 1 or is_sequence(x, dim)


def _sequence(x: Spatial, dim: int, before: int, after: int, value: float) -> Spatial:
    """Nodes as tokens, with as many others before and behind them."""
    shapes = [(*x.shape[:dim], count, *x.shape[dim + 1 :]) for count in (before, after)]
    first, last = (x.x.new_full(shape, value) for shape in shapes)
    made = beside([first, x, last], dim)
    if made is None:
        raise NoRuleError(f"it pads {names.describe(x.axes)}")
    return made


def _pad_plain(x: Spatial, dim: int, before: int, after: int, mode: str, value: float) -> Spatial:
    if mode != "constant":
        raise NoRuleError(f"it pads channels by {mode}")

    def padded(rows: Tensor, slot: int) -> Tensor:
        behind = [0, 0] * (rows.dim() - 1 - slot)
        return torch.nn.functional.pad(rows, [*behind, before, after], value=value)

    return x.on_axis(dim, padded)


@rule("roll")
def roll(call: Any, x: Spatial, shifts: Any, dims: Any = ()) -> Any:
    """Positions go round."""
    shifts, dims = ([one] if isinstance(one, int) else one for one in (shifts, dims))
    if not dims:
        raise NoRuleError("it rolls the flattened tensor")
    pairs = [(dim, shift, x.shape[dim]) for shift, dim in zip(shifts, dims, strict=True)]
    return _reordered(call, x, [(dim, [(p - s) % n for p in range(n)]) for dim, s, n in pairs],
                      move="roll")  # fmt: skip


@rule("flip")
def flip(call: Any, x: Spatial, dims: Any) -> Any:
    """Positions in reverse; of an axis that names several things, each of them."""
    dims = names.places(dims, len(x.axes))
    apart: list[names.Axis] = []
    orders: list[Any] = []
    for dim, axis in enumerate(x.axes):
        parts = [(name,) for name in axis] if dim in dims and len(axis) > 1 else [axis]
        if dim in dims:
            sizes = names.sizes(tuple(parts))
            orders += [(len(apart) + k, range(n)[::-1]) for k, n in enumerate(sizes)]
        apart += parts
    out = _reordered(call, Spatial(x.x, x.sites, tuple(apart)), orders, move="flip")
    made: Spatial = out.refined(x.axes)
    return made


def _reordered(call: Any, x: Spatial, orders: Any, **how: Any) -> Any:
    """Entries of axes by number: images, plain axes of each node, lattices in one move."""
    tables: dict[int, list[int]] = {}
    for dim, numbers in orders:
        dim = names.place(dim, len(x.axes))
        if batch.holds_images(x, dim):
            call.travelled("all")
            x = batch.images(x, dim, numbers)
        elif names.is_plain(x.axes[dim]):
            some = torch.tensor([*numbers], dtype=torch.int64, device=x.x.device)
            x = x.on_axis(dim, lambda rows, slot, some=some: take(rows, some, slot))  # type: ignore[misc]
        else:
            axis, table = table_of(x, dim, numbers)
            if x.sites.space is not None and len(table) != len(numbers):
                raise NoRuleError(f"within blocks it is no symmetry of {x.sites.space}")
            before = tables.get(axis, range(len(table)))
            tables[axis] = [before[n] for n in table]
    return rearranged(call, x, tables, **how) if tables else x


@rule("pixel_shuffle", "pixel_unshuffle", hop="all")
def pixel_shuffle(call: Any, x: Spatial, factor: int) -> Any:
    """Channels spread over r x r sites, or r x r sites as channels."""
    up = call.name == "pixel_shuffle"
    listen(call, x.graph().sites, KernelGeometry(factor, factor, transposed=up))
    move = functional.graph_pixel_shuffle if up else functional.graph_pixel_unshuffle
    return result(move(x.graph(), factor, sites="network"))


def _is_asked(call: Any, x: Spatial) -> bool:
    """Whether windows are told from other channels: on a mask, and where one is asked about."""
    return not x.sites.is_full or call.listening


@rule("im2col", hop="all")
def unfold(
    call: Any, x: Spatial, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Everything a window sees side by side; (batch) (c k) (y x)."""
    parts = [tuple(part) for part in (kernel_size, dilation, padding, stride)]
    graph, geometry = x.graph(), KernelGeometry(parts[0], parts[3], parts[2], parts[1])
    listen(call, graph.sites, geometry)
    if x.cut and _is_asked(call, x):
        lattice = geometry.output_size(x.sites.size)
        sites = network_sites(x.sites, (lattice,) * x.sites.batch_size, geometry)
        value: Any = placed(call.target(windows.image(x), *parts).unflatten(2, lattice), sites)
    else:
        value = result(functional.graph_unfold(graph, *parts, sites="network"))
    if not isinstance(value, Spatial):
        return value.flatten(2)
    made = value.regrouped(shape_after(call, x.shape, *parts))
    if _is_asked(call, x):
        channels = (Name("plain", x.shape[1]), Name("plain", prod(parts[0]), 0))
        made = made.refined(names.replaced(made.axes, 1, channels))
        windows.note(call, (x, *parts), {}, made)
    return made


@rule("col2im", hop="all")
def fold(
    call: Any, x: Spatial, size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Windows are added up where they came from."""
    parts = [tuple(part) for part in (kernel_size, dilation, padding, stride)]
    windows = kernel(parts[0], parts[3], parts[2], parts[1]).output_size(tuple(size))
    image = x.regrouped((x.shape[0], x.shape[1], *windows))
    back = kernel(parts[0], parts[3], parts[2], parts[1], (0,) * len(windows))
    sites = network_sites(x.sites, (tuple(size),) * x.sites.batch_size, back)
    return result(functional.graph_fold(image.graph(), tuple(size), *parts, sites=sites))


@rule("repeat")
def repeat(call: Any, x: Any, times: Any) -> Any:
    """Entries of an axis over and over."""
    if not isinstance(x, Spatial):
        raise NoRuleError("it repeats by a map")
    x = Spatial(x.x, x.sites, ((),) * (len(times) - len(x.axes)) + x.axes)
    thin = [n if n and x.is_line(dim) else -1 for dim, n in enumerate(times)]
    if max(thin) > 1:  # one pixel along an axis says the same wherever it is repeated
        x = expand(operator(torch.ops.aten.expand.default), x, thin)
        times = [n if one < 0 else 1 for n, one in zip(times, thin, strict=True)]
    orders = [(dim, [*range(x.shape[dim])] * n) for dim, n in enumerate(times) if n != 1]
    return _reordered(call, x, orders)


@rule("repeat_interleave")
def repeat_interleave(
    call: Any, x: Any, times: Any, dim: int | None = None, output_size: Any = None
) -> Any:
    """Entries of an axis several times each; of a lattice axis that is a resize."""
    if not isinstance(x, Spatial) or dim is None:
        raise NoRuleError("it repeats by a map, or all of one as a line")
    dim = names.place(dim, len(x.axes))
    counts = times.tolist() if isinstance(times, Tensor) else times
    each = counts if isinstance(counts, list) and len(counts) > 1 else [counts] * x.shape[dim]
    order = [p for p, count in enumerate(each) for _ in range(count)]
    how: dict[str, Any] = {}
    if not batch.holds_images(x, dim) and not names.is_plain(x.axes[dim]):
        if isinstance(times, Tensor):
            raise NoRuleError("it repeats by a tensor")
        size = list(x.sites.size or ())
        size[site_axis(x, dim)] *= times
        how["sites"] = network_sites(x.sites, (tuple(size),) * x.sites.batch_size)
    return _reordered(call, x, [(dim, order)], **how)


@rule("rot90")
def rot90(call: Any, x: Spatial, k: int = 1, dims: Any = (0, 1)) -> Any:
    """Quarter turns: axes change places and one runs backwards."""
    a, b = (names.place(dim, len(x.axes)) for dim in dims)
    order = list(range(len(x.axes)))
    order[a], order[b] = order[b], order[a]
    for _ in range(k % 4):
        x = flip(call, x, [b]).permuted(order)
    return x


@rule("unfold")
def sliding(call: Any, x: Spatial, dim: int, size: int, step: int) -> Any:
    """Windows along one axis, side by side on a new last axis.

    Windows of windows are cut out of what the network sees: one may reach what no middle is.
    """
    dim = names.place(dim, len(x.axes))
    if names.is_plain(x.axes[dim]):
        out = x.on_axis(dim, lambda rows, slot: rows.unfold(slot, size, step))
        return Spatial(out.x, x.sites, (*out.axes, (out.axes[dim][0]._replace(size=size),)))
    if x.cut and x.sites.space is not None:
        raise NoRuleError(
            f"windows along two axes are those of a flat image, and {x.sites.space} is none; take "
            "torch.nn.functional.unfold"
        )
    axis, d = site_axis(x, dim), x.sites.d
    shape, steps = (tuple(n if k == axis else 1 for k in range(d)) for n in (size, step))
    geometry = kernel(shape, steps, (0,) * d, (1,) * d)
    lattice = geometry.output_size(x.sites.size)
    sites = network_sites(x.sites, (lattice,) * x.sites.batch_size, geometry)
    window = (Name("plain", size, axis if _is_asked(call, x) else -1),)
    if x.cut and _is_asked(call, x):
        call.travelled("all")
        axes = names.replaced(x.axes, dim, names.image_axes(1, lattice, 1)[2 + axis])
        made = placed(windows.image(x).unfold(dim, size, step), sites, (*axes, window))
    else:
        lines = ([p * step + t for p in range(lattice[axis])] for t in range(size))
        parts = [rearranged(call, x, {axis: line}, sites=sites) for line in lines]
        call.travelled(connect(geometry, x.sites, "network"))
        rows = torch.stack([one.x for one in parts], -1)
        made = Spatial(rows, sites, (*parts[0].axes, window))
    windows.note(call, (x, dim, size, step), {}, made)
    return made


@rule(
    "grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa", hop="all",
)  # fmt: skip
def resampled(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Anywhere between pixels: weighed sums, to which an absent one says 0."""
    if not isinstance(x, Spatial) or not x.is_image():
        raise NoRuleError("what it samples is no image")
    if x.sites.space is not None:
        raise NoRuleError(
            f"it samples between the pixels of a flat image, and {x.sites.space} is none; resize "
            "without antialiasing, or by a pool"
        )
    out = call.target(*map(dense, (x, *args)), **kwargs)
    size = tuple(out.shape[2:])
    if set(size) == {1}:
        return out
    return placed(out, network_sites(x.sites, (size,) * x.sites.batch_size))
