"""Channels: cat, split, chunk, slice, select, stack and lookups along plain axes of every node.

Along a lattice axis a slice is a crop, and what is asked for is in `moves`.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.align import align
from convgraph.convert.names import Axes, Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules.moves import pick, site_axis
from convgraph.convert.value import Spatial


def resized(value: Spatial, dim: int, rows: Tensor) -> Spatial:
    """Return the value with other features along one plain axis."""
    size = rows.shape[value.slot(dim)]
    axes = (*value.axes[:dim], (Name("plain", size),), *value.axes[dim + 1 :])
    return Spatial(rows, value.sites, axes)


@rule("cat", "concat", "concatenate")
def cat(run: Any, step: Any, tensors: Any, dim: int = 0) -> Any:
    """Features side by side; the other axes are broadcast by names."""
    parts = [one for one in tensors if not (isinstance(one, Tensor) and one.numel() == 0)]
    rank = max(len(one.axes) if isinstance(one, Spatial) else one.dim() for one in parts)
    dim %= rank
    masks, widths = [], []
    for one in parts:  # the axis itself is set aside, as a name of its own size
        if isinstance(one, Spatial):
            merged = one.merged(dim) if one.axes[dim] else one
            widths.append(names.sizes(merged.axes)[dim])
            masks.append(merged)
        else:
            widths.append(one.shape[dim])
            masks.append(one)
    spatial = [one for one in masks if isinstance(one, Spatial)]
    blank = [Spatial(one.x, one.sites, _without(one.axes, dim)) for one in spatial]
    if len(blank) < len(masks) or any(one.sites is not blank[0].sites for one in blank):
        return _cat_lifted(run, masks, widths, dim)
    common = names.broadcast([one.axes for one in blank])
    if any(names.sizes(one.axes) != names.sizes(common) for one in blank):
        raise NoRuleError("maps of different axes are put side by side")
    rows = []
    for one, width in zip(masks, widths, strict=True):
        axes = _with(common, dim, width)
        rows.append(one.x.reshape(one.x.shape[0], *names.plain(axes)))
    slot = 1 + len(names.plain(common[:dim]))
    return Spatial(torch.cat(rows, slot), masks[0].sites, _with(common, dim, sum(widths)))


def _cat_lifted(run: Any, parts: list[Any], widths: list[int], dim: int) -> Any:
    """Where some parts are tensors or live on other sites: lift each to common names."""
    first = next(one for one in parts if isinstance(one, Spatial))
    rows = []
    for one, width in zip(parts, widths, strict=True):
        axes = _with(_without(first.axes, dim), dim, width)
        frame = Spatial(first.x.new_empty(()).expand(first.x.shape[0], *names.plain(axes)),
                        first.sites, axes)  # fmt: skip
        (moved, _), sites, found = align([one, frame], run.root)
        if sites is not first.sites:
            raise NoRuleError("maps of different sizes are put side by side")
        shape = names.plain(found)
        rows.append(moved.expand(first.x.shape[0], *shape).reshape(-1, *names.plain(axes)))
    common = _without(first.axes, dim)
    slot = 1 + len(names.plain(common[:dim]))
    return Spatial(torch.cat(rows, slot), first.sites, _with(common, dim, sum(widths)))


def _without(axes: Axes, dim: int) -> Axes:
    return (*axes[:dim], (), *axes[dim + 1 :])


def _with(axes: Axes, dim: int, width: int) -> Axes:
    return (*axes[:dim], (Name("plain", width),), *axes[dim + 1 :])


@rule("stack")
def stack(run: Any, step: Any, tensors: Any, dim: int = 0) -> Any:
    """A new plain axis."""
    moved, sites, axes = align(tensors, run.root)
    dim %= len(axes) + 1
    slot = 1 + len(names.plain(axes[:dim]))
    rows = [one.expand(sites.num_nodes, *names.plain(axes)) for one in moved]
    new = (*axes[:dim], (Name("plain", len(rows)),), *axes[dim:])
    return Spatial(torch.stack(rows, slot), sites, new)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(run: Any, step: Any, x: Spatial, parts: Any, dim: int = 0) -> Any:
    """Pieces of a plain axis, as views; pieces of a lattice axis are crops."""
    dim %= len(x.axes)
    if not names.is_plain(x.axes[dim]):
        size = x.shape[dim]
        probe = torch.empty(size, device="meta")
        lengths = [len(one) for one in step.target(probe, parts, 0)]
        ends = torch.tensor(lengths).cumsum(0).tolist()
        return [
            slice_(run, step, x, dim, end - length, end)
            for end, length in zip(ends, lengths, strict=True)
        ]
    value = x.merged(dim)
    pieces = step.target(value.x, parts, value.slot(dim))
    return [resized(value, dim, piece) for piece in pieces]


@rule("slice", "narrow", hop="all")
def slice_(
    run: Any, step: Any, x: Spatial, dim: int = 0, start: int | None = None,
    end: int | None = None, stride: int = 1,
) -> Any:  # fmt: skip
    """Some of a plain axis, as a view; a crop of a lattice axis."""
    dim %= len(x.axes)
    size = x.shape[dim]
    if step.operator == "narrow" and start is not None and end is not None:
        start, end = start % size if size else 0, start + end
    first, last, stride = slice(start, end, stride).indices(size)
    if (first, last, stride) == (0, size, 1):
        run.travelled("node")
        return x
    if names.is_plain(x.axes[dim]):
        run.travelled("node")
        value = x.merged(dim)
        slot = value.slot(dim)
        index = (slice(None),) * slot + (slice(first, last, stride),)
        return resized(value, dim, value.x[index])
    axis = site_axis(x, dim)
    return pick(run, x, {axis: list(range(first, last, stride))})


@rule("select", hop="all")
def select(run: Any, step: Any, x: Spatial, dim: int, number: int) -> Any:
    """One entry of a plain axis, as a view."""
    dim %= len(x.axes)
    axes = (*x.axes[:dim], *x.axes[dim + 1 :])
    if not x.axes[dim]:
        run.travelled("node")
        return Spatial(x.x, x.sites, axes)
    if not names.is_plain(x.axes[dim]):
        raise NoRuleError("it selects one row or column of the lattice")
    run.travelled("node")
    value = x.merged(dim)
    return Spatial(value.x.select(value.slot(dim), number), x.sites, axes)


@rule("unbind")
def unbind(run: Any, step: Any, x: Spatial, dim: int = 0) -> Any:
    """Every entry of a plain axis, as views."""
    dim %= len(x.axes)
    if x.axes[dim] and not names.is_plain(x.axes[dim]):
        raise NoRuleError("it takes the lattice apart")
    count = names.sizes(x.axes)[dim]
    return [select(run, step, x, dim, number) for number in range(count)]


@rule("index_select")
def index_select(run: Any, step: Any, x: Any, dim: int, index: Any) -> Any:
    """Entries of a plain axis by number."""
    if not isinstance(x, Spatial) or isinstance(index, Spatial):
        raise NoRuleError("its index is a map")
    value = x.merged(dim % len(x.axes))
    return resized(
        value, dim % len(x.axes), value.x.index_select(value.slot(dim % len(x.axes)), index)
    )


@rule("index")
def index(run: Any, step: Any, x: Any, indices: Any) -> Any:
    """Entries of one plain axis by a list of numbers."""
    given = [(dim, one) for dim, one in enumerate(indices) if one is not None]
    if not isinstance(x, Spatial) or len(given) != 1 or isinstance(given[0][1], Spatial):
        raise NoRuleError("it looks up more than one axis")
    dim, numbers = given[0]
    if numbers.dim() != 1 or numbers.dtype == torch.bool:
        raise NoRuleError("its index is no list of numbers")
    return index_select(run, step, x, dim, numbers)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(run: Any, step: Any, x: Spatial, groups: int) -> Any:
    """Channels dealt out anew among groups."""
    value = x.merged(1)
    slot = value.slot(1)
    rows = value.x.unflatten(slot, (groups, -1)).transpose(slot, slot + 1).flatten(slot, slot + 1)
    return resized(value, 1, rows)


@rule("glu")
def glu(run: Any, step: Any, x: Spatial, dim: int = -1) -> Any:
    """One half of a plain axis opens the gate of the other."""
    value = x.merged(dim % len(x.axes))
    return resized(value, dim % len(x.axes), step.target(value.x, value.slot(dim % len(x.axes))))
