"""Entries of an axis: which old position stands at each new one, and what where none does.

y[p] = x[q(p)]       0 where q(p) is absent, another number where it lies outside

Along a plain axis each node takes its own, along the batch images go with their sites, and along a
lattice axis the mask moves with the pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.batch import images, is_batch
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.node_pairs import PairSites, one_side, some_pairs
from convgraph.convert.tokens import taken
from convgraph.convert.value import Spatial, picked
from convgraph.graph.network_sites import moved_sites
from convgraph.graph.sites import Sites


def entries(
    call: Any,
    x: Spatial,
    dim: int,
    numbers: Sequence[int] | Tensor,
    rows: Callable[[Tensor, int], Tensor],
    *,
    keepdim: bool = True,
    **how: Any,
) -> Any:
    """Return entries of one axis, whatever it names; a map of one site is a readout.

    Args:
        call: the operator.
        x: the value.
        dim: its axis.
        numbers: of the entries, counted from 0; read where they are images or positions.
        rows: what takes them of the rows and the dimension that a plain axis is there.
        keepdim: False where there is one number, and the axis goes with it.
        how: see `rearranged`.

    Raises:
        IndexError: there is no such image or position.
    """
    if names.is_plain(x.axes[dim]):
        return x.on_axis(dim, rows)
    whole, on_lattice = is_batch(x, dim), isinstance(x.sites, Sites)
    listed = numbers.tolist() if isinstance(numbers, Tensor) else list(numbers)
    if any(not 0 <= n < x.shape[dim] for n in listed):
        raise IndexError(f"index out of range for an axis of {x.shape[dim]}")
    if not whole and not on_lattice:
        return _tokens(call, x, dim, listed, keepdim)
    if whole:
        call.travelled("all")
        found = images(x, dim, listed)
    else:
        found = rearranged(call, x, dict([table_of(x, dim, listed)]), **how)
    if not keepdim:
        found = Spatial(found.x, found.sites, names.replaced(found.axes, dim))
    return found if whole else readout(found)


def _tokens(call: Any, x: Spatial, dim: int, numbers: list[int], keepdim: bool) -> Any:
    """Some of a sequence, or of who hears it."""
    some = some_pairs if isinstance(x.sites, PairSites) else taken
    found = some(call, x, dim, numbers)
    if keepdim:
        return found
    return found.select(dim, 0) if isinstance(found, Tensor) else one_side(found, dim)


def site_axis(x: Spatial, dim: int) -> int:
    """Return which lattice axis an exported axis is."""
    axis = x.axes[dim]
    size = x.sites.size
    if len(axis) == 1 and axis[0].kind == "site" and size is not None:
        name = axis[0]
        if name.stride == 1 and name.size == size[name.axis]:
            return name.axis
    if x.is_line(dim):  # else the lattice was turned, and is not settled yet
        return dim - 2
    raise NoRuleError(f"it moves along {names.describe(axis)}, no whole lattice axis")


def table_of(x: Spatial, dim: int, numbers: Sequence[int]) -> tuple[int, list[int]]:
    """Return a lattice axis and which old position stands at each new one, by entries of an axis.

    The axis may be a digit of that one, all of whose values stay.
    """
    axis, size = x.axes[dim], x.sites.size
    if len(axis) != 1 or axis[0].kind != "site" or len(numbers) != axis[0].size or size is None:
        return site_axis(x, dim), list(numbers)
    own = axis[0]
    digits = [(p, p // own.stride % own.size) for p in range(size[own.axis])]
    return own.axis, [p + (numbers[d] - d) * own.stride for p, d in digits]


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
    lattice = names.image_axes(1, size, 1)[2:]

    def moved(name: Name) -> names.Axis:
        stays = name.kind != "site" or size[name.axis] == old[name.axis]
        return (name,) if stays else lattice[name.axis]

    axes: list[Any] = [sum(map(moved, axis), ()) for axis in x.axes]
    for number, (before, after) in enumerate(zip(old, size, strict=True)):
        if before == 1 < after:  # it had no name
            if len(axes) != len(old) + 2:
                raise NoRuleError("an axis of one pixel grows")
            axes[number + 2] = lattice[number]
    return Spatial(_moved(call, x, sites, tables, outside), sites, tuple(axes))


def readout(value: Any) -> Any:
    """Return a map of one site as the tensor that it is."""
    size = value.sites.size if isinstance(value, Spatial) else None
    return value.tensor() if size and set(size) == {1} else value


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
        node = source.node_at(cell)
        there = inside & (node >= 0)
        return node.clamp(min=0), there, bool(there.all()), inside

    key = tuple((axis, tuple(table)) for axis, table in tables.items())
    node, there, every, inside = sites.memo(("moved", source.token, key), make)
    if call.listening:
        call.travelled(torch.where(there, node, -1))
    rows = picked(x.x, node, None if every else there)
    if outside == 0:
        return rows
    shape = (-1, *(1,) * (rows.dim() - 1))
    return torch.where(inside.view(shape), rows, torch.tensor(outside, dtype=rows.dtype))
