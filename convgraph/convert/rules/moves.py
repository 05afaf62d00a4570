"""Moves: pads, crops, rolls and flips, where every site hears exactly one other, or none.

y[p] = x[q(p)]       0 where q(p) is absent, the pad's value where it lies outside

The mask moves with the pixels: a pad with 0 adds absent sites, one with another number present
ones, the other pads copies.
"""

from typing import Any

import numpy as np
import torch

from convgraph.backends.messages.edges import take
from convgraph.convert import batch, names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules.convolution import kernel
from convgraph.convert.rules.shapes import resized, shape_after
from convgraph.convert.tokens import beside
from convgraph.convert.value import Spatial, placed, result
from convgraph.functional import (
    graph_fold,
    graph_pixel_shuffle,
    graph_pixel_unshuffle,
    graph_unfold,
)
from convgraph.geometry.kernel import KernelGeometry
from convgraph.geometry.padding import folded
from convgraph.graph.edges import connect
from convgraph.graph.network_sites import moved_sites, network_sites
from convgraph.graph.places import ABSENT, PRESENT


def site_axis(x: Spatial, dim: int) -> int:
    """Return which lattice axis an exported axis is.

    Raises:
        NoRuleError: it is not exactly one whole lattice axis.
    """
    axis = x.axes[dim]
    size = x.sites.size
    if len(axis) == 1 and axis[0].kind == "site" and size is not None:
        name = axis[0]
        if name.stride == 1 and name.size == size[name.axis]:
            return name.axis
    image = not axis and size is not None and len(x.axes) == len(size) + 2 and dim >= 2
    if image and size[dim - 2] == 1:  # else the lattice was turned, and is not settled yet
        return dim - 2
    raise NoRuleError(f"it moves along {names.describe(axis)}, no whole lattice axis")


def rearranged(
    call: Any,
    x: Spatial,
    tables: dict[int, list[int]],
    outside: float = 0.0,
    sites: Any = None,
    move: str = "pad",
) -> Any:
    """Return x on a lattice whose positions name their source position, axis by axis.

    Args:
        call: the operator.
        x: the value.
        tables: lattice axis -> for each new position the old one, `ABSENT` or `PRESENT`.
        outside: what is there.
        sites: of the result; None lets the mask move with the pixels.
        move: what it is called when the space is asked, see `Space.refuses`.
    """
    space = x.sites.space
    if space is not None and (refusal := space.refuses(move, tuple(tables))):
        raise NoRuleError(refusal)
    old = x.sites.size
    if old is None:
        raise NoRuleError("images of different sizes")
    size = tuple(len(tables.get(axis, range(n))) for axis, n in enumerate(old))
    if 0 in size:
        raise NoRuleError("nothing of the map is left")
    sites = moved_sites(x.sites, tables) if sites is None else sites
    axes = tuple(
        tuple(
            Name("site", size[name.axis], name.axis) if _is_moved(name, tables) else name
            for name in axis
            if not (_is_moved(name, tables) and size[name.axis] == 1)
        )
        for axis in x.axes
    )
    axes = _grown(x, axes, old, size)
    return Spatial(_moved(call, x, sites, tables, outside), sites, axes)


def readout(value: Any) -> Any:
    """Return a map of one site as the tensor that it is."""
    size = value.sites.size if isinstance(value, Spatial) else None
    return value.tensor() if size and set(size) == {1} else value


def _is_moved(name: Name, tables: dict[int, list[int]]) -> bool:
    return name.kind == "site" and name.axis in tables


def _grown(x: Spatial, axes: Any, old: Any, size: Any) -> Any:
    """Lattice axes that were of size 1, and so without a name, get one."""
    out = list(axes)
    for axis, (before, after) in enumerate(zip(old, size, strict=True)):
        if before == 1 and after > 1:
            if len(out) != len(old) + 2:
                raise NoRuleError("an axis of one pixel grows")
            out[axis + 2] = (Name("site", after, axis),)
    return tuple(out)


def _moved(call: Any, x: Spatial, sites: Any, tables: dict[int, list[int]], outside: float) -> Any:
    old = x.sites.size or ()
    source = x.sites

    def make() -> Any:
        cell = sites.batch
        inside = torch.ones_like(cell, dtype=torch.bool)
        for axis, n in enumerate(old):
            place = sites.pos[:, axis]
            if axis in tables:
                place = torch.tensor(tables[axis], device=sites.device)[place]
                inside &= place >= 0
            cell = cell * n + place.clamp(min=0)
        node = cell if source.rank is None else source.rank[cell]
        there = inside & (node >= 0)
        return node.clamp(min=0), there, bool(there.all()), inside

    key = tuple((axis, tuple(table)) for axis, table in tables.items())
    node, there, every, inside = sites.memo(("moved", source.token, key), make)
    if call.listening:
        call.travelled(torch.where(there, node, -1))
    rows = take(x.x, node) if x.x.shape[0] else x.x.new_zeros(node.shape[0], *x.x.shape[1:])
    shape = (-1, *(1,) * (rows.dim() - 1))
    if not every:
        rows = torch.where(there.view(shape), rows, rows.new_zeros(()))
    if outside == 0:
        return rows
    return torch.where(inside.view(shape), rows, torch.tensor(outside, dtype=rows.dtype))


@rule(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", hop="all",
)  # fmt: skip
def pad(call: Any, x: Spatial, pads: Any, mode: Any = "constant", value: Any = None) -> Any:
    """Before and after each axis, the last one first; negative pads crop."""
    outside = ABSENT if not value else PRESENT
    if call.name == "constant_pad_nd":
        value, mode = (0 if mode == "constant" else mode), "constant"
        outside = PRESENT if value else ABSENT
    elif call.name != "pad":
        mode = "reflect" if call.name.startswith("reflection") else "replicate"
    tables: dict[int, list[int]] = {}
    for number in range(len(pads) // 2):
        dim = len(x.axes) - 1 - number
        before, after = int(pads[2 * number]), int(pads[2 * number + 1])
        if before == after == 0:
            continue
        if names.is_plain(x.axes[dim]) and x.axes[dim]:
            x = _pad_plain(x, dim, before, after, mode, value)
            continue
        if mode == "constant" and min(before, after) >= 0 and len(x.axes[dim]) > 1:
            return _sequence(x, pads, float(value or 0))
        axis = site_axis(x, dim)
        n = (x.sites.size or ())[axis]
        found = folded(np.arange(-before, n + after), n, mode).tolist()
        tables[axis] = [outside if p < 0 else p for p in found]
    if not tables:
        call.travelled("node")
        return x
    move = "pad" if mode == "constant" else "fold"
    return readout(rearranged(call, x, tables, float(value or 0), move=move))


def _sequence(x: Spatial, pads: Any, value: float) -> Any:
    """Nodes as tokens, with as many others before and behind them."""
    moved = [number for number in range(len(pads) // 2) if any(pads[2 * number :][:2])]
    dim = len(x.axes) - 1 - moved[0]
    parts: list[Any] = [x]
    for place, count in zip((0, 2), pads[2 * moved[0] :][:2], strict=True):
        shape = (*x.shape[:dim], int(count), *x.shape[dim + 1 :])
        if count:
            parts.insert(place, x.x.new_full(shape, value))
    made = beside(parts, dim) if len(moved) == 1 else None
    if made is None:
        raise NoRuleError(f"it pads {names.describe(x.axes)}")
    return made


def _pad_plain(x: Spatial, dim: int, before: int, after: int, mode: str, value: Any) -> Spatial:
    if mode != "constant":
        raise NoRuleError(f"it pads channels by {mode}")
    merged = x.merged(dim)
    slot = merged.slot(dim)
    behind = merged.x.dim() - 1 - slot
    rows = torch.nn.functional.pad(merged.x, [0, 0] * behind + [before, after], value=value or 0)
    axes = (*merged.axes[:dim], (Name("plain", rows.shape[slot]),), *merged.axes[dim + 1 :])
    return Spatial(rows, x.sites, axes)


@rule("roll", hop="all")
def roll(call: Any, x: Spatial, shifts: Any, dims: Any = ()) -> Any:
    """Positions go round."""
    pairs = list(zip(_list(shifts), _list(dims), strict=bool(dims)))
    if not pairs:
        raise NoRuleError("it rolls the flattened tensor")
    tables: dict[int, list[int]] = {}
    for shift, dim in pairs:
        dim %= len(x.axes)
        if names.is_plain(x.axes[dim]) and x.axes[dim]:
            merged = x.merged(dim)
            x = merged.with_x(merged.x.roll(shift, merged.slot(dim)))
            continue
        axis = site_axis(x, dim)
        n = (x.sites.size or ())[axis]
        tables[axis] = [(p - shift) % n for p in range(n)]
    return rearranged(call, x, tables, move="roll") if tables else x


@rule("flip", hop="all")
def flip(call: Any, x: Spatial, dims: Any) -> Any:
    """Positions in reverse."""
    tables: dict[int, list[int]] = {}
    for dim in dims:
        dim %= len(x.axes)
        if names.is_plain(x.axes[dim]):
            merged = x.merged(dim)
            x = merged.with_x(merged.x.flip(merged.slot(dim)))
            continue
        axis = site_axis(x, dim)
        tables[axis] = list(range((x.sites.size or ())[axis]))[::-1]
    return rearranged(call, x, tables, move="flip") if tables else x


def _list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _listen(call: Any, x: Spatial, geometry: KernelGeometry) -> None:
    """Say along which edges a rearrangement moves, to who asks."""
    if call.listening:
        call.travelled(connect(geometry, x.graph().sites, "network"))


@rule("pixel_shuffle", hop="all")
def pixel_shuffle(call: Any, x: Spatial, factor: int) -> Any:
    """Channels spread over r x r sites."""
    _listen(call, x, KernelGeometry(factor, factor, transposed=True))
    return result(graph_pixel_shuffle(x.graph(), factor, sites="network"))


@rule("pixel_unshuffle", hop="all")
def pixel_unshuffle(call: Any, x: Spatial, factor: int) -> Any:
    """R x r sites become channels."""
    _listen(call, x, KernelGeometry(factor, factor))
    return result(graph_pixel_unshuffle(x.graph(), factor, sites="network"))


@rule("im2col", hop="all")
def unfold(
    call: Any, x: Spatial, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Everything a window sees side by side; (batch) (c k) (y x)."""
    parts = [tuple(part) for part in (kernel_size, dilation, padding, stride)]
    _listen(call, x, KernelGeometry(parts[0], parts[3], parts[2], parts[1]))
    value = result(graph_unfold(x.graph(), *parts, sites="network"))
    if not isinstance(value, Spatial):
        return value.flatten(2)
    return value.regrouped(shape_after(call, x, kernel_size, dilation, padding, stride))


@rule("col2im", hop="all")
def fold(
    call: Any, x: Spatial, size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Windows are added up where they came from."""
    parts = [tuple(part) for part in (kernel_size, dilation, padding, stride)]
    windows = kernel(parts[0], parts[3], parts[2], parts[1]).output_size(tuple(size))
    image = x.regrouped((x.shape[0], x.shape[1], *windows))
    sites = network_sites(x.sites, (tuple(size),) * x.sites.batch_size)
    return result(graph_fold(image.graph(), tuple(size), *parts, sites=sites))


@rule("repeat", "tile")
def repeat(call: Any, x: Any, times: Any) -> Any:
    """Plain axes side by side."""
    if not isinstance(x, Spatial):
        raise NoRuleError("it repeats by a map")
    counts = [1] * (len(x.axes) - len(times)) + list(times)
    axes = ((),) * (len(counts) - len(x.axes)) + x.axes
    value = Spatial(x.x, x.sites, axes)
    for number, count in enumerate(counts):
        if count == 1:
            continue
        if batch.holds_images(value, number):
            value = batch.images(value, number, [*range(value.sites.batch_size)] * count)
            continue
        if value.axes[number] and not names.is_plain(value.axes[number]):
            axis = site_axis(value, number)
            n = (value.sites.size or ())[axis]
            value = rearranged(call, value, {axis: list(range(n)) * count})
            continue
        if value.axes[number]:
            value = value.merged(number)
            rows = torch.cat([value.x] * count, value.slot(number))
        else:
            slot = value.slot(number)
            shape = [*value.x.shape[:slot], count, *value.x.shape[slot:]]
            rows = value.x.unsqueeze(slot).expand(shape)
        value = resized(value, number, rows)
    return value


@rule("repeat_interleave", hop="all")
def repeat_interleave(
    call: Any, x: Any, times: Any, dim: int | None = None, output_size: Any = None
) -> Any:
    """Entries of a plain axis several times; images of a batch; of a lattice axis, a resize."""
    if not isinstance(x, Spatial) or dim is None:
        raise NoRuleError("it repeats by a map, or all of one as a line")
    dim %= len(x.axes)
    if batch.holds_images(x, dim):
        numbers = torch.arange(x.sites.batch_size, device=x.x.device)
        return batch.images(x, dim, numbers.repeat_interleave(times).tolist())
    if not isinstance(times, int):
        raise NoRuleError("it repeats by a tensor")
    if names.is_plain(x.axes[dim]):
        call.travelled("node")
        value = x.merged(dim)
        return resized(value, dim, value.x.repeat_interleave(times, value.slot(dim)))
    axis = site_axis(x, dim)
    size = list(x.sites.size or ())
    table = [p // times for p in range(size[axis] * times)]
    size[axis] *= times
    sites = network_sites(x.sites, (tuple(size),) * x.sites.batch_size)
    return rearranged(call, x, {axis: table}, sites=sites)


@rule("rot90", hop="all")
def rot90(call: Any, x: Spatial, k: int = 1, dims: Any = (0, 1)) -> Any:
    """Quarter turns: axes change places and one runs backwards."""
    a, b = (dim % len(x.axes) for dim in dims)
    order = list(range(len(x.axes)))
    order[a], order[b] = order[b], order[a]
    for _ in range(k % 4):
        x = flip(call, x, [b]).permuted(order)
    return x


@rule("unfold", hop="all")
def sliding(call: Any, x: Spatial, dim: int, size: int, step: int) -> Any:
    """Windows along one axis, side by side on a new last axis."""
    dim %= len(x.axes)
    if names.is_plain(x.axes[dim]):
        call.travelled("node")
        value = x.merged(dim)
        rows = value.x.unfold(value.slot(dim), size, step)
        out = resized(value, dim, rows)
        return Spatial(rows, x.sites, (*out.axes, (Name("plain", size),)))
    axis = site_axis(x, dim)
    d = x.sites.d
    shape = [1] * d
    shape[axis] = size
    steps = [1] * d
    steps[axis] = step
    geometry = kernel(tuple(shape), tuple(steps), (0,) * d, (1,) * d)
    lattice = geometry.output_size(x.sites.size)
    sites = network_sites(x.sites, (lattice,) * x.sites.batch_size, geometry)
    count = lattice[axis]
    parts = [
        rearranged(call, x, {axis: [p * step + t for p in range(count)]}, sites=sites)
        for t in range(size)
    ]
    call.travelled(connect(geometry, x.sites, "network"))
    rows = torch.stack([one.x for one in parts], -1)
    return Spatial(rows, sites, (*parts[0].axes, (Name("plain", size),)))


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
    args = tuple(one.tensor() if isinstance(one, Spatial) else one for one in args)
    out = call.target(x.tensor(), *args, **kwargs)
    size = tuple(out.shape[2:])
    if set(size) == {1}:
        return out
    return placed(out, network_sites(x.sites, (size,) * x.sites.batch_size))
