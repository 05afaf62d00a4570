"""Settling: a lattice that axes speak of becomes one, where they cut, lengthen or turn another.

    space to depth    (batch) (c y%2 x%2) (y/2) (x/2)   ->  (batch) (4 c) (y') (x')
    depth to space    (batch) (c) (y 2) (x 2)           ->  (batch) (c) (y') (x')
    transposed        (batch) (c) (x) (y)               ->  (batch) (c) (y') (x')
    frames            (batch t) (c) (y) (x)             ->  (batch') (c) (y) (x)
    windows           (batch y/8 x/8) (c) (y%8) (x%8)   ->  (batch') (c) (y') (x')

The names alone move no node; an operator that needs an image, or channels without digits of sites
among them, makes it a move: each node of the new lattice hears the nodes of its cell, an absent one
says 0.
"""

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

from convgraph.convert import names
from convgraph.convert.lattices import frames, lined, unframed, unwindowed, windowed
from convgraph.convert.names import Axes, Axis, Name
from convgraph.convert.tokens import TokenSites
from convgraph.convert.value import LOST, Spatial, placed, within_charts
from convgraph.convert.windows import are_on
from convgraph.graph.network_sites import network_sites, turned_sites
from convgraph.graph.sites import Sites


def settled(values: Sequence[Any]) -> list[Any] | None:
    """Return operands with every cut lattice settled, or None where there is nothing to settle."""
    out = [_each(value) for value in values]
    changed = any(new is not old for new, old in zip(out, values, strict=True))
    return out if changed else None


def _each(value: Any) -> Any:
    if isinstance(value, list):
        return settled(value) or value
    made = settle(value) if isinstance(value, Spatial) else value
    if made is not value and isinstance(made, Spatial) and any(map(are_on, made.axes)):
        made.cut = LOST
    return made


def settle(value: Spatial) -> Any:
    """Return a value on the lattice that its axes speak of, or the value itself."""
    if isinstance(value.sites, TokenSites):
        return lined(value)
    if not isinstance(value.sites, Sites) or value.sites.size is None:
        return value
    value = windowed(unframed(unwindowed(frames(value))))
    mixed = [dim for dim, axis in enumerate(value.axes) if _is_mixed(axis)]
    if not mixed:
        return _turned(value)
    size = list(value.sites.size)
    axes = list(value.axes)
    grown = [dim for dim in mixed if _grows(value.axes, dim, size)]
    for dim in grown:
        site = axes[dim][0]
        size[site.axis] = prod(name.size for name in axes[dim])
        axes[dim] = (Name("site", size[site.axis], site.axis),)
    moved = [name for dim in mixed if dim not in grown for name in value.axes[dim]]
    cut = set(mixed) - set(grown)
    kept = names.names(tuple(axis for dim, axis in enumerate(axes) if dim not in cut))
    low = names.cells([name for name in kept if name.kind == "site"], size)
    if low is None:
        return value  # what is left would be no cell of neighbours
    size = [n // cell for n, cell in zip(size, low, strict=True)]
    axes = list(names.coarser(tuple(axes), low))
    if prod(size) > 1:  # else the whole map becomes one
        within_charts(value.sites, moved)
    for dim in cut:
        axes[dim] = (Name("plain", prod(name.size for name in value.axes[dim])),)
    if prod(size) == 1 and len(axes) == len(size) + 2 and any(map(_is_long, axes[2:])):
        return value  # an image that names no site: its pixels were shuffled
    dense = value.tensor()
    if prod(size) == 1:
        return dense
    sites = network_sites(value.sites, (tuple(size),) * value.sites.batch_size)
    return placed(dense, sites, tuple(axes))


def _turned(value: Spatial) -> Spatial:
    """An image whose lattice axes stand in another order, on the lattice turned round."""
    lattice, tail = names.image_axes(1, value.sites.size, 1)[2:], value.axes[2:]
    if tail == lattice or Counter(tail) != Counter(lattice) or value.sites.space is not None:
        return value
    order: list[int] = []
    for place, axis in enumerate(tail):  # one of one pixel, which has no name, is its own
        left = [k for k, own in enumerate(lattice) if own == axis and k not in order]
        order.append(place if place in left else left[0])
    sites = turned_sites(value.sites, tuple(order))
    turned = names.image_axes(1, sites.size or (), 1)[2:]
    return placed(value.tensor(), sites, (*value.axes[:2], *turned))


def _is_mixed(axis: Axis) -> bool:
    return {"site", "plain"} <= {name.kind for name in axis}


def _is_long(axis: Axis) -> bool:
    return any(name.kind == "plain" and name.size > 1 for name in axis)


def _grows(axes: Axes, dim: int, size: Sequence[int]) -> bool:
    """Whether an axis is a whole lattice axis of an image, made longer by a plain size."""
    first, *rest = axes[dim]
    return (
        len(axes) == len(size) + 2
        and first == Name("site", size[first.axis], first.axis)
        and dim == 2 + first.axis
        and all(name.kind == "plain" for name in rest)
    )
