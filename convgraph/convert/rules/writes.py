"""Writes at positions that are given by number: along a plain axis of every node, or whole images.

y[n, i[k]] = source[n, k]        copied, added or filled; scattered by a map of numbers
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import batch
from convgraph.convert.align import align, expanded
from convgraph.convert.entries import from_start
from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules.positions import on_rows, written
from convgraph.convert.value import Spatial, digit


@rule("index_fill", "index_fill_")
def index_fill(call: Any, x: Any, dim: int, index: Any, value: Any) -> Any:
    """One number at chosen channels, or at all nodes of chosen images."""
    if _is_on_lattice(x, dim):
        return written(call, x, dim, index, value)
    x, dim = _chosen(x, dim, index)
    if isinstance(value, Spatial):
        raise NoRuleError("it writes a map as a number")
    if batch.is_batch(x, dim):
        images = from_start(index, x.sites.batch_size)
        yes = torch.isin(digit(x.axes[dim][0], x.sites), images)
        return x.with_x(torch.where(yes.view(-1, *(1,) * (x.x.dim() - 1)), value, x.x))
    slot = x.slot(dim)
    return x.with_x(x.x.index_fill(slot, from_start(index, x.x.shape[slot]), value))


@rule("index_copy", "index_copy_", "index_add", "index_add_")
def index_copy(call: Any, x: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """Chosen channels of every node from another map, or from a tensor."""
    if _is_on_lattice(x, dim) or batch.is_batch(x, dim % len(x.axes)):
        more = {"alpha": alpha} if call.name.startswith("index_add") else {}
        return written(call, x, dim, index, source, **more)
    x, dim = _chosen(x, dim, index)
    slot = x.slot(dim)
    index = from_start(index, x.x.shape[slot])
    old = x.along(dim, x.x.index_select(slot, index))
    (_, new), sites, axes = align([old, source])
    if sites is not x.sites:
        raise NoRuleError("what it writes lives on other sites")
    rows = expanded(new, sites, axes).reshape(old.x.shape).to(x.x.dtype)
    if call.name.startswith("index_add"):
        return x.with_x(x.x.index_add(slot, index, rows, alpha=alpha))
    return x.with_x(x.x.index_copy(slot, index, rows))


def by_number(call: Any, x: Any, indices: Any, value: Any) -> Any:
    """Write a number, a map or a tensor at chosen channels, images or pixels: y[:, [0, 2]] = z."""
    given = [(dim, one) for dim, one in enumerate(indices) if one is not None]
    dim, index = given[0]
    if len(given) != 1 or index.dim() > 1 or _is_on_lattice(x, dim):
        return written(call, x, indices, value)
    if isinstance(value, Tensor) and value.numel() == 1:
        return index_fill(call, x, dim, index, value.reshape(()).to(x.x.dtype))
    return index_copy(call, x, dim, index, value)


@rule(
    "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"
)  # fmt: skip
def scatter(
    call: Any, x: Any, dim: int, index: Any, source: Any, *rest: Any, **more: Any
) -> Spatial:  # fmt: skip
    """Entries of a plain axis, chosen by a map or an image of numbers."""
    if not isinstance(x, Spatial):
        raise NoRuleError("a map of numbers says where to write into an ordinary tensor")
    dim %= len(x.axes)
    index, source = on_rows(index, x, dim), on_rows(source, x, dim)
    if x.sites is not index.sites:
        raise NoRuleError("map and index do not live on the same nodes")
    value, numbers = x.merged(dim), index.thin().merged(dim).x
    if isinstance(source, Spatial) and source.sites is x.sites:
        source = source.thin().merged(dim).x
    elif isinstance(source, Spatial) or (isinstance(source, Tensor) and source.dim()):
        raise NoRuleError("what it scatters is no map of these nodes")
    if numbers.dim() != value.x.dim():
        raise NoRuleError("map and index differ in their axes")
    target = getattr(torch, call.name.removesuffix("_"))
    return value.with_x(target(value.x, value.slot(dim), numbers, source, *rest, **more))


@rule("index_put", "index_put_", "_unsafe_index_put")
def index_put(call: Any, x: Any, indices: Any, value: Tensor, accumulate: bool = False) -> Any:
    """Where a map of yes and no says yes, another value: y[y < 0] = 0; or at numbers."""
    given = [one for one in indices if one is not None]
    chosen = given[0] if len(given) == 1 else None
    numbers = all(isinstance(one, Tensor) and one.dtype == torch.int64 for one in given)
    if isinstance(x, Spatial) and given and numbers:
        if accumulate:
            return written(call, x, indices, value, True)
        return by_number(call, x, indices, value)
    listed = chosen is not None and isinstance(chosen, Tensor) and chosen.dtype == torch.bool
    if isinstance(x, Spatial) and listed:
        return written(call, x, indices, value, accumulate)
    simple = isinstance(chosen, Spatial) and chosen.x.dtype == torch.bool and indices[0] is chosen
    if not isinstance(x, Spatial) or not simple or accumulate or isinstance(value, Spatial):
        raise NoRuleError("it writes at positions that are no map of yes and no")
    if value.numel() != 1:
        raise NoRuleError("it writes a list of values, one for every yes")
    missing = len(x.axes) - len(chosen.axes)  # type: ignore[union-attr]
    wide = Spatial(chosen.x, chosen.sites, (*chosen.axes, *((),) * missing))  # type: ignore[union-attr]
    (rows, yes), sites, axes = align([x, wide])
    out = torch.where(yes, value.to(rows.dtype).reshape(()), rows)
    return Spatial(expanded(out, sites, axes), sites, axes)


def _is_on_lattice(x: Any, dim: int) -> bool:
    """Whether an axis of a map holds pixels."""
    return isinstance(x, Spatial) and any(name.kind == "site" for name in x.axes[dim % len(x.axes)])


def _chosen(x: Any, dim: int, index: Any) -> tuple[Spatial, int]:
    """The map, its axis made one, and which it is."""
    if not isinstance(x, Spatial) or not isinstance(index, Tensor) or index.dim() > 1:
        raise NoRuleError("it writes into an ordinary tensor, or at positions that are no list")
    dim %= len(x.axes)
    return (x if batch.is_batch(x, dim) else x.merged(dim)), dim
