"""Alignment: operands of one operator, broadcast to common names on common sites."""

from collections.abc import Sequence
from functools import lru_cache
from operator import floordiv, is_, mod
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Axes, NoRuleError
from convgraph.convert.node_pairs import PairSites, crossed, spoken
from convgraph.convert.value import Spatial, brought, lift, placed
from convgraph.convert.windows import are_on
from convgraph.graph.network_sites import network_sites, some_images, union
from convgraph.graph.sites import Sites


def align(operands: Sequence[Any]) -> tuple[list[Any], Any, Axes]:
    """Broadcast operands as torch does, by names.

    Args:
        operands: spatial values (at least one), tensors, or anything else, which is left alone.

    Returns:
        The operands as tensors (N or 1, *plain) of one order, their sites and their axes.
    """
    shapes = tuple(tuple(one.shape) for one in operands if isinstance(one, Tensor) and one.dim())
    operands = [_in_places(one, shapes) if isinstance(one, Spatial) else one for one in operands]
    spatial = [one.thin() for one in operands if isinstance(one, Spatial)]
    pairs = next((one for one in spatial if isinstance(one.sites, PairSites)), None)
    if pairs is not None:
        spatial = [
            one if isinstance(one.sites, PairSites) else spoken(one, pairs) for one in spatial
        ]
    elif len(spatial) == 2:
        spatial = crossed(*spatial) or spatial
    try:
        sites, axes = meet(spatial, shapes)
    except NoRuleError:
        known = of_cells(operands, spatial)
        if known is None:
            raise
        return align(known)
    left = iter(spatial)
    moved = [onto(next(left) if isinstance(one, Spatial) else one, axes, sites) for one in operands]
    return moved, sites, axes


def _in_places(one: Spatial, shapes: Sequence[Sequence[int]]) -> Spatial:
    """A line of a lattice at every place along it, if a tensor tells those apart."""
    rank = len(one.axes)
    if () not in one.axes[2:] or not one.is_image() or any(len(shape) > rank for shape in shapes):
        return one
    whole = torch.broadcast_shapes(one.shape, *shapes)
    lines = [n if one.is_line(dim) else own
             for dim, (n, own) in enumerate(zip(whole, one.shape, strict=True))]  # fmt: skip
    return one if tuple(lines) == one.shape else in_places(one, lines)


def in_places(line: Spatial, shape: Sequence[int]) -> Spatial:
    """Return an image with one pixel along an axis as one that says the same along it."""
    sites = network_sites(line.sites, (tuple(shape[2:]),) * line.sites.batch_size)
    return placed(line.tensor().expand(shape), sites)


def cells_of(one: Any, other: Any) -> tuple[int, ...] | None:
    """How many pixels of a map, axis by axis, are one of another's cells; None if they are none.

    Windows with a halo are no cells: an absent pixel is in several.
    """
    if not all(
        isinstance(each, Spatial) and isinstance(each.sites, Sites) for each in (one, other)
    ):
        return None
    size, whole = one.sites.size, other.sites.size
    if not size or not whole or size == whole or len(size) != len(whole):
        return None
    if any(map(mod, whole, size)) or any(map(are_on, one.axes)):
        return None
    if network_sites(other.sites, (size,) * other.sites.batch_size) is not one.sites:
        return None
    return tuple(map(floordiv, whole, size))


def lattice_of_cells(sites: Sites, kept: Sequence[names.Name]) -> Any:
    """Return the lattice where only these digits stay, and how many pixels are one of its cells.

    None where those that become one are no neighbours.
    """
    whole = sites.size or ()
    low = names.cells(kept, whole)
    if low is None:
        return None
    size = tuple(n // cell for n, cell in zip(whole, low, strict=True))
    return network_sites(sites, (size,) * sites.batch_size), low


def of_cells(operands: Sequence[Any], others: Sequence[Spatial]) -> list[Any] | None:
    """Return operands, those of lines or windows of others as tensors; None if there are none."""
    known = [_of_cells(one, others) for one in operands]
    return None if all(map(is_, known, operands)) else known


def _of_cells(one: Any, others: Sequence[Spatial]) -> Any:
    """Return a value as a tensor, if its nodes are lines or windows of another map.

    It says to each node what its line or window says, or what its place there gets on a plain axis:
    x + linear(x) along (x), x - x.mean() within windows.
    """
    for other in others:
        low = cells_of(one, other)
        if low is not None:
            both = zip(reversed(names.finer(one.axes, low)), reversed(other.axes), strict=False)
            if all(mine == theirs or names.is_plain(mine) for mine, theirs in both):
                return one.tensor()
    return one


def meet(spatial: Sequence[Spatial], shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, Axes]:
    """Return the sites and the axes of values and tensors of some shapes, broadcast."""
    axes, lattice = _common(tuple(one.axes for one in spatial), shapes)
    return _sites(spatial, axes, lattice), axes


@lru_cache(maxsize=4096)
def _common(
    spatial: tuple[Axes, ...], shapes: tuple[tuple[int, ...], ...]
) -> tuple[Axes, dict[int, int] | None]:
    """The names of the result, and the size of each lattice axis; None where pairs are meant."""
    rank = max(map(len, (*spatial, *shapes)))
    own = list(names.broadcast([((),) * rank, *spatial]))
    for shape in shapes:
        for number, axis in enumerate(names.plain_axes(shape), start=rank - len(shape)):
            own[number] = own[number] or axis
    axes = tuple(own)
    found = names.of_rows(axes)
    if len({(name.kind, name.axis, name.stride) for name in found}) != len(found):
        raise NoRuleError(f"axes {names.describe(axes)} name a lattice axis twice")
    if any(name.kind == "key" for name in found):
        return axes, None
    lattice: dict[int, int] = {}
    for name in found:
        lattice[name.axis] = lattice.get(name.axis, 1) * name.size
    return axes, lattice


def _sites(spatial: Sequence[Spatial], axes: Axes, lattice: dict[int, int] | None) -> Any:
    """The sites whose lattice the axes name, digit by digit: all of those that meet."""
    first = max((one.sites for one in spatial), key=lambda sites: sites.batch_size)
    if all(one.sites is first for one in spatial):
        return first
    if lattice is None or any(not isinstance(one.sites, Sites) for one in spatial):
        raise NoRuleError("tokens or pairs of one sequence meet a map, or those of another")
    size = tuple(lattice.get(axis, 1) for axis in range(first.d))
    whole = [one.sites for one in spatial if one.sites.size == size]
    whole = [  # one image meets each of several
        one if one.batch_size == first.batch_size
        else some_images([one], ((0, 0),) * first.batch_size) for one in whole
    ]  # fmt: skip
    if not whole:
        whole = [network_sites(first, (size,) * first.batch_size)]
    sites = whole[0]
    for other in whole[1:]:
        sites = union(sites, other)
    return sites


def onto(one: Any, axes: Axes, sites: Any) -> Any:
    """Return one operand as (N or 1, *plain) of these axes."""
    if isinstance(one, Tensor):
        return lift(one, axes, sites) if one.dim() else one
    if not isinstance(one, Spatial):
        return one
    if one.axes == axes and one.sites is sites:
        return one.x
    x = one.x
    if one.sites is not sites:
        if one.sites.size != sites.size:
            return lift(one.tensor(), axes, sites)
        x = brought(one, sites)
    own = ((),) * (len(axes) - len(one.axes)) + one.axes
    shape = [x.shape[0]]
    for mine, axis in zip(own, axes, strict=True):
        shape += [name.size if mine else 1 for name in axis if name.kind == "plain"]
    return x.reshape(shape)


def expanded(rows: Tensor, sites: Any, axes: Axes) -> Tensor:
    """Return rows (N or 1, *plain or 1) as (N, *plain)."""
    shape = torch.Size((sites.num_nodes, *names.plain(axes)))
    return rows if rows.shape == shape else rows.expand(shape)


def together(*operands: Any) -> tuple[list[Any], Any, Axes]:
    """Align operands of the same nodes, each as (N, *plain); numbers are left alone.

    Raises:
        NoRuleError: one lives on other nodes, where it would say 0.
    """
    moved, sites, axes = align(operands)
    if any(isinstance(one, Spatial) and one.sites is not sites for one in operands):
        raise NoRuleError("numbers and what is written or counted there live on other nodes")
    listed = [isinstance(one, Tensor) and one.dim() > 0 for one in moved]
    pairs = zip(moved, listed, strict=True)
    return [expanded(one, sites, axes) if many else one for one, many in pairs], sites, axes
