"""Moves: pads, crops, rolls and flips, where every site hears exactly one other, or none.

y[p] = x[q(p)]       0 where q(p) is absent, the pad's value where it lies outside
"""

from math import prod
from typing import Any

import torch

from convgraph.backends.messages.edges import take
from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial
from convgraph.functional import (
    graph_fold,
    graph_pixel_shuffle,
    graph_pixel_unshuffle,
    graph_unfold,
)
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect
from convgraph.graph.output_sites import network_sites

OUTSIDE = -1
"""Where a position has no source."""


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
    if not axis and size is not None and len(x.axes) == len(size) + 2 and dim >= 2:
        return dim - 2
    raise NoRuleError(f"it moves along {names.describe(axis)}, no whole lattice axis")


def pick(
    run: Any,
    x: Spatial,
    tables: dict[int, list[int]],
    outside: float = 0.0,
    move: str = "pad",
) -> Any:
    """Return x on a lattice whose positions name their source position, axis by axis.

    Args:
        run: the run.
        x: the value.
        tables: lattice axis -> for each new position the old one, or `OUTSIDE`.
        outside: what is there.
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
    sites = network_sites(x.sites, (size,) * x.sites.batch_size)
    axes = tuple(
        tuple(
            Name("site", size[name.axis], name.axis) if _is_moved(name, tables) else name
            for name in axis
            if not (_is_moved(name, tables) and size[name.axis] == 1)
        )
        for axis in x.axes
    )
    axes = _grown(x, axes, old, size)
    if run.planning:
        rows = x.x.new_empty(sites.num_nodes, *x.x.shape[1:])
    else:
        rows = _moved(run, x, sites, tables, outside)
    value = Spatial(rows, sites, axes)
    return value.tensor() if prod(size) == 1 else value


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


def _moved(run: Any, x: Spatial, sites: Any, tables: dict[int, list[int]], outside: float) -> Any:
    old = x.sites.size or ()
    cell = sites.batch
    inside = torch.ones_like(cell, dtype=torch.bool)
    for axis, n in enumerate(old):
        place = sites.pos[:, axis]
        if axis in tables:
            place = torch.tensor(tables[axis], device=sites.device)[place]
            inside &= place >= 0
        cell = cell * n + place.clamp(min=0)
    node = cell if x.sites.rank is None else x.sites.rank[cell]
    there = inside & (node >= 0)
    if run.listen is not None:
        run.travelled(torch.where(there, node, -1))
    rows = take(x.x, node.clamp(min=0)) if len(x.x) else x.x.new_zeros(len(cell), *x.x.shape[1:])
    shape = (-1, *(1,) * (rows.dim() - 1))
    rows = torch.where(there.view(shape), rows, 0)
    return rows if outside == 0 else torch.where(inside.view(shape), rows, outside)


@rule(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", hop="all",
)  # fmt: skip
def pad(
    run: Any, step: Any, x: Spatial, pads: Any, mode: Any = "constant", value: Any = None
) -> Any:
    """Before and after each axis, the last one first; negative pads crop."""
    if step.operator == "constant_pad_nd":
        value, mode = (0 if mode == "constant" else mode), "constant"
    elif step.operator != "pad":
        mode = "reflect" if step.operator.startswith("reflection") else "replicate"
    tables: dict[int, list[int]] = {}
    for number in range(len(pads) // 2):
        dim = len(x.axes) - 1 - number
        before, after = int(pads[2 * number]), int(pads[2 * number + 1])
        if before == after == 0:
            continue
        if names.is_plain(x.axes[dim]) and x.axes[dim]:
            x = _pad_plain(x, dim, before, after, mode, value)
            continue
        axis = site_axis(x, dim)
        n = (x.sites.size or ())[axis]
        tables[axis] = [_source(p, n, mode) for p in range(-before, n + after)]
    if not tables:
        run.travelled("node")
        return x
    return pick(run, x, tables, float(value or 0))


def _pad_plain(x: Spatial, dim: int, before: int, after: int, mode: str, value: Any) -> Spatial:
    if mode != "constant":
        raise NoRuleError(f"it pads channels by {mode}")
    merged = x.merged(dim)
    slot = merged.slot(dim)
    behind = merged.x.dim() - 1 - slot
    rows = torch.nn.functional.pad(merged.x, [0, 0] * behind + [before, after], value=value or 0)
    axes = (*merged.axes[:dim], (Name("plain", rows.shape[slot]),), *merged.axes[dim + 1 :])
    return Spatial(rows, x.sites, axes)


def _source(p: int, n: int, mode: str) -> int:
    """The position on an axis of n pixels that a padded position copies."""
    if 0 <= p < n:
        return p
    if mode == "circular":
        return p % n
    if mode == "replicate":
        return min(max(p, 0), n - 1)
    if mode == "reflect":
        return -p if p < 0 else 2 * (n - 1) - p
    return OUTSIDE


@rule("roll", hop="all")
def roll(run: Any, step: Any, x: Spatial, shifts: Any, dims: Any = ()) -> Any:
    """Positions go round."""
    pairs = list(zip(_list(shifts), _list(dims), strict=True))
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
    return pick(run, x, tables, move="roll") if tables else x


@rule("flip", hop="all")
def flip(run: Any, step: Any, x: Spatial, dims: Any) -> Any:
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
    return pick(run, x, tables, move="flip") if tables else x


def _list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _listen(run: Any, x: Spatial, geometry: KernelGeometry) -> None:
    """Say along which edges a rearrangement moves, to who asks."""
    if run.listen is not None:
        run.travelled(connect(geometry, x.graph().sites, "network"))


@rule("pixel_shuffle", hop="all")
def pixel_shuffle(run: Any, step: Any, x: Spatial, factor: int) -> Any:
    """Channels spread over r x r sites."""
    _listen(run, x, KernelGeometry(factor, factor, transposed=True))
    return run.result(graph_pixel_shuffle(x.graph(), factor, sites="network"))


@rule("pixel_unshuffle", hop="all")
def pixel_unshuffle(run: Any, step: Any, x: Spatial, factor: int) -> Any:
    """R x r sites become channels."""
    _listen(run, x, KernelGeometry(factor, factor))
    return run.result(graph_pixel_unshuffle(x.graph(), factor, sites="network"))


@rule("im2col", hop="all")
def unfold(
    run: Any, step: Any, x: Spatial, kernel: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Everything a window sees side by side; (batch) (c k) (y x)."""
    parts = [tuple(part) for part in (kernel, dilation, padding, stride)]
    _listen(run, x, KernelGeometry(parts[0], parts[3], parts[2], parts[1]))
    value = run.result(graph_unfold(x.graph(), *parts, sites="network"))
    return value.regrouped(step.shape) if isinstance(value, Spatial) else value.flatten(2)


@rule("col2im", hop="all")
def fold(
    run: Any, step: Any, x: Spatial, size: Any, kernel: Any, dilation: Any, padding: Any,
    stride: Any,
) -> Any:  # fmt: skip
    """Windows are added up where they came from."""
    lattice = x.sites.size or ()
    image = x.regrouped((names.BATCH, names.sizes(x.axes)[1], *lattice))
    parts = [tuple(part) for part in (size, kernel, dilation, padding, stride)]
    return run.result(graph_fold(image.graph(), *parts, sites="network"))
