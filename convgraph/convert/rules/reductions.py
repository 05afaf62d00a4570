"""Reductions: over plain axes node by node, over the lattice into a readout of each image.

mean   over the nodes that are there; over none it is 0
sum    over the messages that come; maxima likewise, 0 over none
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.gather import maxima as picks
from convgraph.backends.messages.edges import sum_by_target, take
from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.pairs import PairSites
from convgraph.convert.registry import rule
from convgraph.convert.rules.attention import pair_softmax
from convgraph.convert.value import Spatial, actual, index
from convgraph.graph.output_sites import network_sites


def _dims(x: Spatial, dim: Any) -> list[int]:
    rank = len(x.axes)
    if dim is None or dim == []:
        return list(range(rank))
    return sorted({int(d) % rank for d in ([dim] if isinstance(dim, int) else dim)})


def _plain_only(x: Spatial, dims: list[int]) -> bool:
    return all(names.is_plain(x.axes[dim]) for dim in dims)


def _slots(x: Spatial, dims: list[int]) -> list[int]:
    """The dimensions of x.x that these plain axes are."""
    out: list[int] = []
    for dim in dims:
        first = x.slot(dim)
        out += range(first, first + len(names.plain((x.axes[dim],))))
    return out


def _left(x: Spatial, dims: list[int], keepdim: bool) -> names.Axes:
    return tuple(
        () if number in dims else axis
        for number, axis in enumerate(x.axes)
        if keepdim or number not in dims
    )


def over_plain(x: Spatial, dims: list[int], keepdim: bool, call: Any) -> Spatial:
    """Reduce plain axes of every node; `call(rows, slots)` drops the slots."""
    slots = _slots(x, dims)
    rows = call(x.x, slots) if slots else call(x.x.unsqueeze(-1), [x.x.dim()])
    return Spatial(rows, x.sites, _left(x, dims, keepdim))


class _Groups:
    """The rows that remain when lattice axes are reduced: which one each node speaks to."""

    def __init__(self, x: Spatial, dims: list[int]) -> None:
        kept = [
            name
            for number, axis in enumerate(x.axes)
            if number not in dims
            for name in axis
            if name.kind != "plain"
        ]
        if Name("batch", names.BATCH) not in kept:
            raise NoRuleError("it reduces the batch")
        if isinstance(x.sites, PairSites):
            raise NoRuleError("it reduces pairs of nodes")
        size = x.sites.size or ()
        lattice = [name for name in kept if name.kind == "site"]
        order = sorted(kept, key=lambda name: (name.axis, -name.stride))
        self.digits: list[Name] = []
        if any(name.stride != 1 or name.size != size[name.axis] for name in lattice):
            self.digits = order  # a part of an axis goes: a readout for each digit that stays
            self.shape = [x.sites.batch_size, *(name.size for name in order[1:])]
            self.count, self.target = prod(self.shape), index(order, x.sites)
            self.lattice = False
            return
        self.size = tuple(
            n if any(name.axis == axis for name in lattice) else 1 for axis, n in enumerate(size)
        )
        self.sites = network_sites(x.sites, (self.size,) * x.sites.batch_size)
        self.lattice = bool(lattice)
        cell = index(order, x.sites)
        rank = self.sites.rank
        self.target = cell if rank is None else rank[cell]
        self.count = self.sites.num_nodes

    def counts(self) -> Tensor:
        return torch.bincount(self.target, minlength=self.count)

    def value(self, rows: Tensor, axes: names.Axes) -> Any:
        """What the rows (count, *plain) say: a map, or readouts as a tensor of the axes."""
        if not self.digits:
            value = Spatial(rows, self.sites, axes)
            return value if self.lattice and prod(self.size) > 1 else value.tensor()
        dense = rows.reshape(*self.shape, *rows.shape[1:])
        where, number = [], len(self.digits)
        for name in names.names(axes):
            where.append(number if name.kind == "plain" else self.digits.index(name))
            number += name.kind == "plain"
        batch = self.shape[0]
        return dense.permute(where).reshape([actual(axis, batch) for axis in axes])


def over_sites(run: Any, x: Spatial, dims: list[int], keepdim: bool, how: str) -> Any:
    """Reduce lattice axes, and plain ones with them, over the nodes that are there.

    Args:
        run: the run.
        x: the value.
        dims: exported axes.
        keepdim: as in torch.
        how: "sum", "mean", "amax" or "amin".
    """
    run.travelled("all")
    groups = _Groups(x, dims)
    slots = _slots(x, [dim for dim in dims if names.is_plain(x.axes[dim])])
    _refuse_mixed(x, dims)
    rows = x.x
    if slots:
        rows = getattr(torch, how)(rows, slots)
    rest = rows.shape[1:]
    if run.planning:
        out = rows.new_empty(groups.count, *rest)
    else:
        out = _reduced(rows.reshape(rows.shape[0], -1), groups, how).view(groups.count, *rest)
    return groups.value(out, _left(x, dims, keepdim))


def _reduced(rows: Tensor, groups: _Groups, how: str) -> Tensor:
    if how in ("amax", "amin"):
        sign = 1 if how == "amax" else -1
        chosen = picks.by_image(rows * sign, groups.target, groups.count)
        return picks.pick(rows, chosen)
    total = sum_by_target(rows, groups.target, groups.count)
    if how == "sum":
        return total
    return total / groups.counts().clamp(min=1).unsqueeze(1)


def _reduce(run: Any, x: Spatial, dim: Any, keepdim: bool, how: str) -> Any:
    dims = _dims(x, dim)
    if _plain_only(x, dims):
        run.travelled("node")
        return over_plain(x, dims, keepdim, lambda rows, slots: getattr(torch, how)(rows, slots))
    return over_sites(run, x, dims, keepdim, how)


@rule("mean", hop="all")
def mean(run: Any, step: Any, x: Spatial, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    """The mean over what is there."""
    return _reduce(run, x, dim, keepdim, "mean")


@rule("sum", hop="all")
def sum_(run: Any, step: Any, x: Spatial, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    """The sum over what is there."""
    return _reduce(run, x, dim, keepdim, "sum")


@rule("amax", hop="all")
def amax(run: Any, step: Any, x: Spatial, dim: Any = (), keepdim: bool = False) -> Any:
    """The maximum over what is there."""
    return _reduce(run, x, dim, keepdim, "amax")


@rule("amin", hop="all")
def amin(run: Any, step: Any, x: Spatial, dim: Any = (), keepdim: bool = False) -> Any:
    """The minimum over what is there."""
    return _reduce(run, x, dim, keepdim, "amin")


@rule("linalg_vector_norm", "norm", "frobenius_norm", hop="all")
def vector_norm(
    run: Any, step: Any, x: Spatial, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any
) -> Any:
    """(sum |x|^p)^(1/p); the Euclidean norm of an empty image is 0."""
    dims = _dims(x, dim)
    if _plain_only(x, dims):
        run.travelled("node")
        return over_plain(
            x, dims, keepdim, lambda rows, slots: torch.linalg.vector_norm(rows, p, slots)
        )
    if p != 2:
        raise NoRuleError(f"a {p}-norm over the lattice")
    total = over_sites(run, x.with_x(x.x.square()), dims, keepdim, "sum")
    return total.with_x(total.x.sqrt()) if isinstance(total, Spatial) else total.sqrt()


def _unbiased(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float, bool]:
    """Dimensions, correction and keepdim of var and std in their several forms."""
    dim: Any = args[0] if args else None
    correction: float = 1
    if len(args) > 1:
        correction = args[1] if args[1] is not None else 1
    if "correction" in kwargs and kwargs["correction"] is not None:
        correction = kwargs["correction"]
    if isinstance(dim, bool):
        correction = int(dim)
        dim = None
    keepdim = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
    return dim, float(correction), keepdim


@rule("var", "std", hop="all")
def var(run: Any, step: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """The variance over what is there, or its root."""
    dim, correction, keepdim = _unbiased(args, kwargs)
    dims = _dims(x, dim)
    if _plain_only(x, dims):
        run.travelled("node")
        call = torch.var if step.operator == "var" else torch.std
        return over_plain(
            x, dims, keepdim, lambda rows, slots: call(rows, slots, correction=correction)
        )
    run.travelled("all")
    total, count, groups = _squares(run, x, dims)
    out = total / (count - correction).clamp(min=1).view(-1, *(1,) * (total.dim() - 1))
    out = out if step.operator == "var" else out.sqrt()
    return groups.value(out, _left(x, dims, keepdim))


def _squares(run: Any, x: Spatial, dims: list[int]) -> tuple[Tensor, Tensor, _Groups]:
    """Sums of squares around the mean of what is there, and of how many entries each is."""
    _refuse_mixed(x, dims)
    groups = _Groups(x, dims)
    slots = _slots(x, [dim for dim in dims if names.is_plain(x.axes[dim])])
    width = prod(x.x.shape[slot] for slot in slots)
    inner = x.x.mean(slots, keepdim=True) if slots else x.x
    if run.planning:
        rest = (inner.squeeze(slots) if slots else inner).shape[1:]
        return x.x.new_empty(groups.count, *rest), x.x.new_empty(groups.count), groups
    means = _reduced(inner.reshape(inner.shape[0], -1), groups, "mean")
    squares = (x.x - take(means, groups.target).view(inner.shape)).square()
    squares = squares.sum(slots) if slots else squares
    total = _reduced(squares.reshape(squares.shape[0], -1), groups, "sum")
    counts = (groups.counts() * width).to(total.dtype)
    return total.view(groups.count, *squares.shape[1:]), counts, groups


def _refuse_mixed(x: Spatial, dims: list[int]) -> None:
    for dim in dims:
        if any(n.kind == "plain" for n in x.axes[dim]) and not names.is_plain(x.axes[dim]):
            raise NoRuleError(f"it reduces the mixed axis {names.describe(x.axes[dim])}")


@rule("softmax", "log_softmax", hop="all")
def softmax(run: Any, step: Any, x: Spatial, dim: int, dtype: Any = None) -> Any:
    """Over plain axes of a node, or over the nodes that are there."""
    dims = _dims(x, dim)
    if isinstance(x.sites, PairSites):
        keyed = x.axes[dims[0]]
        if step.operator != "softmax" or any(name.kind != "key" for name in keyed):
            raise NoRuleError("pairs are normalized over another axis than the last")
        return pair_softmax(run, x)
    if _plain_only(x, dims):
        run.travelled("node")
        value = x.merged(dims[0])
        return value.with_x(step.target(value.x, value.slot(dims[0]), dtype))
    groups = _Groups(x, dims)
    if any(name.kind == "plain" for name in x.axes[dims[0]]):
        raise NoRuleError("a softmax over channels and lattice")
    if run.planning:
        return x
    rows = x.x.reshape(x.x.shape[0], -1)
    shifted = rows - take(_reduced(rows.detach(), groups, "amax"), groups.target)
    total = take(_reduced(shifted.exp(), groups, "sum"), groups.target)
    out = shifted.exp() / total if step.operator == "softmax" else shifted - total.log()
    return x.with_x(out.view(x.x.shape))


@rule("max", "min", "argmax", "argmin", "cumsum", "logsumexp", "prod", "topk", "sort")
def along_plain(run: Any, step: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """Along one plain axis of every node, as torch does."""
    places = {"topk": 1, "sort": 0}
    place = places.get(step.operator, 0)
    if len(args) <= place or not isinstance(args[place], int) or step.operator in places:
        raise NoRuleError("it runs over more than one plain axis")
    dim = args[place] % len(x.axes)
    value = x.merged(dim)
    given = (*args[:place], value.slot(dim), *args[place + 1 :])
    keepdim = bool(args[place + 1]) if len(args) > place + 1 else kwargs.get("keepdim", False)
    out = step.target(value.x, *given, **kwargs)
    if step.operator == "cumsum":
        return value.with_x(out)
    axes = _left(value, [dim], keepdim)
    parts = out if isinstance(out, (tuple, list)) else (out,)
    if keepdim:
        parts = tuple(part.squeeze(value.slot(dim)) for part in parts)
    wrapped = tuple(Spatial(part, x.sites, axes) for part in parts)
    return wrapped if isinstance(out, (tuple, list)) else wrapped[0]
