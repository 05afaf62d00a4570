"""Positions of a map that are looked up or written by number, or by yes and no.

x[:, :, [1, 2], [3, 4]]      what is read is a readout; an absent pixel says 0
x[x > 0]                     an absent pixel says no, and is left out
x[:, :, [0, 2]] = y          what is absent stays absent
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.operators import INTO_TENSOR
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial, lift


def dense(given: Any, fill: float = 0) -> Any:
    """A value as the network sees it; anything else as it is."""
    return given.tensor(fill) if isinstance(given, Spatial) else given


def looked_up(call: Any, x: Any, indices: Any) -> Any:
    """Return x[indices] as a readout, or rows of a table on the nodes of a map of numbers.

    Raises:
        NoRuleError: what is left names sites, or numbers are a map's.
    """
    given = [(dim, one) for dim, one in enumerate(indices) if one is not None]
    maps = [one for _, one in given if isinstance(one, Spatial)]
    kinds = [(one.x if isinstance(one, Spatial) else one).dtype for _, one in given]
    if kinds == [torch.bool]:
        return chosen(call, x, *given[0])
    if torch.bool in kinds and maps:
        raise NoRuleError("it looks up by a map of yes and no and by others")
    if maps:
        (place, index), table = given[0], x
        if isinstance(x, Spatial) or len(given) > 1 or place:
            raise NoRuleError("it looks up a map, or several axes of a table, by a map")
        more = tuple((Name("plain", n),) for n in table.shape[1:])
        return Spatial(table[index.x], index.sites, (*index.axes, *more))
    return call.target(readout_but(call, x, *(dim for dim, _ in given)), indices)


def readout_but(call: Any, x: Spatial, *dims: int) -> Tensor:
    """Return a map as a tensor, 0 where it is absent, if its pixels lie along the given axes alone.

    Raises:
        NoRuleError: others name pixels, too.
    """
    left = tuple(axis for dim, axis in enumerate(x.axes) if dim not in dims)
    if any(name.kind not in ("plain", "batch") for name in names.names(left)):
        raise NoRuleError("it looks up positions along some axes of the lattice only")
    call.travelled("all")
    return x.tensor()


def chosen(call: Any, x: Any, dim: int, yes: Any) -> Tensor:
    """Return the entries at which a map, or an image, says yes and both are there."""
    call.travelled("all")
    mask = dense(yes)
    spread = slice(dim, dim + mask.dim())
    if isinstance(x, Spatial):
        left = (*x.axes[: spread.start], *x.axes[spread.stop :])
        if not all(map(names.is_plain, left)):
            raise NoRuleError("it chooses along some axes of the lattice only")
        there = x.with_x(torch.ones_like(x.x, dtype=torch.bool)).tensor()
        inside = [slice(None) if spread.start <= k < spread.stop else 0 for k in range(there.dim())]
        mask = mask & there[tuple(inside)]
    found: Tensor = dense(x)[(*[slice(None)] * dim, mask)]
    return found


@rule("masked_select", hop="all")
def masked_select(call: Any, x: Any, yes: Any) -> Tensor:
    """The entries at which a mask says yes."""
    whole = torch.broadcast_shapes(x.shape, yes.shape)
    if isinstance(x, Spatial) and x.shape != whole:
        raise NoRuleError("its mask is larger than the map")
    mask = dense(yes).expand(whole)
    return chosen(call, x if isinstance(x, Spatial) else x.expand(whole), 0, mask)


@rule("nonzero", "argwhere", "nonzero_numpy", hop="all")
def nonzero(call: Any, x: Spatial) -> Any:
    """Positions that are there and not 0."""
    call.travelled("all")
    return call.target(x.tensor())


def written(call: Any, x: Any, *args: Any, **kwargs: Any) -> Spatial:
    """Return what an operator writes at positions of a map; what is absent stays absent.

    Raises:
        NoRuleError: it writes into an ordinary tensor, or where a map says.
    """
    if not isinstance(x, Spatial):
        raise NoRuleError(INTO_TENSOR)
    into = getattr(torch.ops.aten, call.name.removesuffix("_"))
    found = into(x.tensor(), *map(_given, args), **kwargs)
    call.travelled("all")
    rows = lift(found, x.axes, x.sites)
    return x.with_x(rows.expand(x.x.shape).reshape(x.x.shape))


def _given(one: Any) -> Any:
    return [*map(dense, one)] if isinstance(one, (list, tuple)) else dense(one)


@rule("slice_scatter", "select_scatter", "diagonal_scatter", hop="all")
def scattered(call: Any, x: Any, source: Any, *args: Any, **kwargs: Any) -> Spatial:
    """A copy into a part of which another map is written."""
    return written(call, x, source, *args, **kwargs)


def on_rows(given: Any, x: Spatial, dim: int) -> Any:
    """Return an image of numbers, or of what is written, as a map beside another.

    Args:
        given: a tensor of as many axes as the map, as long along all but one.
        x: the map.
        dim: the axis along which it may be shorter.
    """
    if isinstance(given, Spatial) or not isinstance(given, Tensor) or not given.dim():
        return given
    sizes = (*x.shape[:dim], given.shape[dim], *x.shape[dim + 1 :])
    if tuple(given.shape) != sizes or not names.is_plain(x.axes[dim]):
        raise NoRuleError("map and index differ in their axes")
    axes = (*x.axes[:dim], (Name("plain", given.shape[dim]),), *x.axes[dim + 1 :])
    rows = lift(given, axes, x.sites)
    return Spatial(rows.expand(x.sites.num_nodes, *names.plain(axes)), x.sites, axes)
