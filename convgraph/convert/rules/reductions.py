"""Reductions: over plain axes node by node, over the lattice into a readout of each image.

mean   over the nodes that are there; over none it is 0
sum    over the messages that come; maxima likewise, 0 over none
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.gather import maxima
from convgraph.backends.messages.edges import sum_by_target, take
from convgraph.convert import names, node_pairs
from convgraph.convert.align import align
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.node_pairs import PairSites
from convgraph.convert.registry import rule
from convgraph.convert.rules.attention import pair_softmax
from convgraph.convert.rules.positions import on_rows, readout_but
from convgraph.convert.rules.shapes import resized
from convgraph.convert.tokens import Called
from convgraph.convert.value import Spatial, index, lift, within_charts
from convgraph.graph.network_sites import network_sites


def _dims(x: Spatial, dim: Any) -> list[int]:
    rank = len(x.axes)
    if dim is None or (not isinstance(dim, int) and not len(dim)):
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


def apart(x: Spatial, dims: list[int]) -> tuple[Spatial, list[int], tuple[int, ...]]:
    """Take axes that name sites and channels at once apart, where they are reduced.

    Returns:
        The value with an axis a name for each of them, the dims there, and which of its axes each
        axis of the original has become, by their first.
    """
    axes: list[names.Axis] = []
    found: list[int] = []
    first = []
    for number, axis in enumerate(x.axes):
        first.append(len(axes))
        mixed = number in dims and len({name.kind == "plain" for name in axis}) > 1
        parts = [(name,) for name in axis] if mixed else [axis]
        if number in dims:
            found += range(len(axes), len(axes) + len(parts))
        axes += parts
    return Spatial(x.x, x.sites, tuple(axes)), found, tuple(first)


def _cells(kept: list[Name], size: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many pixels along each axis become one; None where those that go are no neighbours."""
    low = []
    for axis, n in enumerate(size):
        mine = [name for name in kept if name.axis == axis]
        count = prod(name.size for name in mine)
        if n % count or any(name.stride % (n // count) for name in mine):
            return None
        low.append(n // count)
    return tuple(low)


class Groups:
    """The rows that remain when lattice axes are reduced: which one each node speaks to."""

    def __init__(self, x: Spatial, dims: list[int]) -> None:
        """Read off the names that stay."""
        if isinstance(x.sites, PairSites):
            raise NoRuleError("it reduces pairs of nodes")
        kept = [
            name
            for number, axis in enumerate(x.axes)
            if number not in dims
            for name in axis
            if name.kind != "plain"
        ]
        lattice = [name for name in kept if name.kind == "site"]
        if lattice and x.sites.space is not None:
            within_charts(x.sites, [name for dim in dims for name in x.axes[dim]])
        order = sorted(kept, key=lambda name: (name.axis, -name.stride))
        self.digits: list[Name] = []
        self.source = x.sites
        batch = [name for name in kept if name.kind == "batch"]
        whole = tuple(batch) == names.batch_axis(x.sites.batch_size)
        self.low = _cells(lattice, x.sites.size or ()) if whole else None
        if self.low is None or not self._on_cells(x, order, lattice):
            self.digits = order  # a part of an axis goes: a readout for each digit that stays
            self.shape = [name.size for name in order]
            self.count, self.target = prod(self.shape), index(order, x.sites)
            self.lattice = False
            self.plain = True

    def _on_cells(self, x: Spatial, order: list[Name], lattice: list[Name]) -> bool:
        """Take the lattice of cells whose pixels are reduced; whether it has every node's cell."""
        low: Any = self.low
        self.size = tuple(n // cell for n, cell in zip(x.sites.size or (), low, strict=True))
        self.sites = network_sites(x.sites, (self.size,) * x.sites.batch_size)
        self.lattice = bool(lattice)
        cell = index(order, x.sites)
        rank = self.sites.rank
        self.target = cell if rank is None else rank[cell]
        self.count = self.sites.num_nodes
        self.plain = False
        cut = any(1 < one < n for one, n in zip(low, x.sites.size or (), strict=True))
        if cut and x.sites.space is not None:
            return False
        return not cut or rank is None or not bool((self.target < 0).any())

    def counts(self) -> Tensor:
        """(count,): how many nodes speak to each."""
        none = self.target.new_zeros(self.count)
        return none.index_add(0, self.target, torch.ones_like(self.target))

    def value(self, rows: Tensor, axes: names.Axes) -> Any:
        """What the rows (count, *plain) say: a map, or readouts as a tensor of the axes."""
        if not self.plain:
            low: Any = self.low
            axes = tuple(
                tuple(
                    name._replace(stride=name.stride // low[name.axis])
                    if name.kind == "site" else name for name in axis
                ) for axis in axes
            )  # fmt: skip
            value = Spatial(rows, self.sites, axes)
            return value if self.lattice and prod(self.size) > 1 else value.tensor()
        dense = rows.reshape(*self.shape, *rows.shape[1:])
        where, number = [], len(self.digits)
        for name in names.names(axes):
            where.append(number if name.kind == "plain" else self.digits.index(name))
            number += name.kind == "plain"
        return dense.permute(where).reshape(names.sizes(axes))


def over_sites(call: Any, x: Spatial, dims: list[int], keepdim: bool, how: str) -> Any:
    """Reduce lattice axes, and plain ones with them, over the nodes that are there.

    Args:
        call: the operator.
        x: the value.
        dims: its axes.
        keepdim: as in torch.
        how: "sum", "mean", "amax" or "amin".
    """
    call.travelled("all")
    if isinstance(x.sites, PairSites) and len(dims) == 1:
        return node_pairs.reduced(x, dims[0], keepdim, how)
    if how in ("sum", "mean") and x.sites.is_array and len(x.x) and _is_readout(x, dims):
        found: Tensor = getattr(x.tensor(), how)(dims, keepdim)
        return found
    left = _left(x, dims, keepdim)
    x, dims, _ = apart(x, dims)
    groups = Groups(x, dims)
    slots = _slots(x, [dim for dim in dims if names.is_plain(x.axes[dim])])
    rows = x.x
    if slots:
        rows = getattr(torch, how)(rows, slots)
    rest = rows.shape[1:]
    flat = rows.reshape(rows.shape[0], prod(rest))
    return groups.value(_reduced(flat, groups, how).view(groups.count, *rest), left)


def _is_readout(x: Spatial, dims: list[int]) -> bool:
    """Whether nothing of the lattice stays, and every image."""
    kept = [n for k, axis in enumerate(x.axes) if k not in dims for n in axis if n.kind != "plain"]
    return tuple(kept) == names.batch_axis(x.sites.batch_size)


def extreme(call: Any, x: Spatial, dims: list[int], keepdim: bool, how: str) -> Any:
    """Return the largest or smallest entry over lattice axes, and where along them it was.

    An index counts the positions of the axes in row-major order; over nobody it is 0.
    """
    call.travelled("all")
    if any(n.kind == "plain" for dim in dims for n in x.axes[dim]):
        raise NoRuleError("an extreme over channels and lattice at once")
    groups = Groups(x, dims)
    rest = x.x.shape[1:]
    flat = x.x.reshape(x.x.shape[0], prod(rest))
    chosen = maxima.by_image(flat if how == "amax" else -flat, groups.target, groups.count)
    best = maxima.values_at(flat, chosen).view(groups.count, *rest)
    place = index([name for dim in dims for name in x.axes[dim]], x.sites)
    if place.shape[0]:
        where = torch.where(chosen >= 0, place[chosen.clamp(min=0)], 0)
    else:
        where = torch.zeros_like(chosen)
    axes = _left(x, dims, keepdim)
    return groups.value(best, axes), groups.value(where.view(groups.count, *rest), axes)


def _reduced(rows: Tensor, groups: Groups, how: str) -> Tensor:
    if how in ("amax", "amin"):
        sign = 1 if how == "amax" else -1
        chosen = maxima.by_image(rows * sign, groups.target, groups.count)
        return maxima.values_at(rows, chosen)
    total = sum_by_target(rows, groups.target, groups.count)
    if how == "sum":
        return total
    return total / groups.counts().clamp(min=1).unsqueeze(1)


def _reduce(call: Any, x: Spatial, dim: Any, keepdim: bool, how: str, dtype: Any = None) -> Any:
    dims = _dims(x, dim)
    if dtype is not None:
        x = x.with_x(x.x.to(dtype))
    if len(dims) == len(x.axes):
        call.travelled("all")  # over everything that is there, whatever the names
        nobody = how in ("amax", "amin") and not x.x.numel()
        found = x.x.new_zeros(()) if nobody else getattr(x.x, how)()
        return found.reshape((1,) * len(dims) if keepdim else ())
    if _plain_only(x, dims):
        call.travelled("node")
        return over_plain(x, dims, keepdim, lambda rows, slots: getattr(torch, how)(rows, slots))
    return over_sites(call, x, dims, keepdim, how)


@rule("mean", hop="all")
def mean(call: Any, x: Spatial, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The mean over what is there."""
    return _reduce(call, x, dim, keepdim, "mean", dtype)


@rule("sum", hop="all")
def sum_(call: Any, x: Spatial, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The sum over what is there."""
    return _reduce(call, x, dim, keepdim, "sum", dtype)


@rule("amax", hop="all")
def amax(call: Any, x: Spatial, dim: Any = (), keepdim: bool = False) -> Any:
    """The maximum over what is there."""
    return _reduce(call, x, dim, keepdim, "amax")


@rule("amin", hop="all")
def amin(call: Any, x: Spatial, dim: Any = (), keepdim: bool = False) -> Any:
    """The minimum over what is there."""
    return _reduce(call, x, dim, keepdim, "amin")


@rule("aminmax", hop="all")
def aminmax(call: Any, x: Spatial, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest of what is there."""
    return tuple(_reduce(call, x, dim, keepdim, how) for how in ("amin", "amax"))


@rule("cov", hop="all")
def cov(call: Any, *args: Any, **kwargs: Any) -> Any:
    """It divides by how many positions there are.

    Raises:
        NoRuleError: always.
    """
    raise NoRuleError("it counts absent positions as observations; give it the rows, .graph.x.T")


@rule("_unique2", hop="all")
def unique(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """The numbers that some node says."""
    found, which, counts = call.target(x.x, *args, **kwargs)
    return found, (x.with_x(which) if which.shape == x.x.shape else which), counts


@rule("histc", "bincount", hop="all")
def counted(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """How many entries of nodes have which number."""
    if any(isinstance(one, Spatial) for one in (*args, *kwargs.values())):
        raise NoRuleError("its weights are a map")
    return call.target(x.x.flatten(), *args, **kwargs)


@rule("linalg_vector_norm", "norm", "frobenius_norm", hop="all")
def vector_norm(
    call: Any, x: Spatial, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any
) -> Any:
    """(sum |x|^p)^(1/p); the Euclidean norm of an empty image is 0."""
    dims = _dims(x, dim)
    if _plain_only(x, dims):
        call.travelled("node")
        return over_plain(
            x, dims, keepdim, lambda rows, slots: torch.linalg.vector_norm(rows, p, slots)
        )
    if p != 2:
        raise NoRuleError(f"a {p}-norm over the lattice")
    total = over_sites(call, x.with_x(x.x.square()), dims, keepdim, "sum")
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
def var(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """The variance over what is there, or its root."""
    dim, correction, keepdim = _unbiased(args, kwargs)
    dims = _dims(x, dim)
    if _plain_only(x, dims):
        call.travelled("node")
        call = torch.var if call.name == "var" else torch.std
        return over_plain(
            x, dims, keepdim, lambda rows, slots: call(rows, slots, correction=correction)
        )
    call.travelled("all")
    left = _left(x, dims, keepdim)
    x, dims, _ = apart(x, dims)
    total, count, groups = _squares(x, dims)
    out = total / (count - correction).clamp(min=1).view(-1, *(1,) * (total.dim() - 1))
    out = out if call.name == "var" else out.sqrt()
    return groups.value(out, left)


@rule("var_mean", "std_mean", hop="all")
def var_mean(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """The variance over what is there, or its root, and the mean."""
    dim, _, keepdim = _unbiased(args, kwargs)
    spread = var(Called(call.name.removesuffix("_mean")), x, *args, **kwargs)
    return spread, mean(call, x, dim, keepdim)


def _squares(x: Spatial, dims: list[int]) -> tuple[Tensor, Tensor, Groups]:
    """Sums of squares around the mean of what is there, and of how many entries each is."""
    groups = Groups(x, dims)
    slots = _slots(x, [dim for dim in dims if names.is_plain(x.axes[dim])])
    width = prod(x.x.shape[slot] for slot in slots)
    inner = x.x.mean(slots, keepdim=True) if slots else x.x
    means = _reduced(inner.reshape(inner.shape[0], prod(inner.shape[1:])), groups, "mean")
    squares = (x.x - take(means, groups.target).view(inner.shape)).square()
    squares = squares.sum(slots) if slots else squares
    total = _reduced(squares.reshape(squares.shape[0], prod(squares.shape[1:])), groups, "sum")
    counts = (groups.counts() * width).to(total.dtype)
    return total.view(groups.count, *squares.shape[1:]), counts, groups


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", hop="all")
def softmax(call: Any, x: Spatial, dim: int, dtype: Any = None) -> Any:
    """Over plain axes of a node, or over the nodes that are there."""
    dims = _dims(x, dim)
    if isinstance(x.sites, PairSites):
        keyed = x.axes[dims[0]]
        if "log" in call.name or any(name.kind != "key" for name in keyed):
            raise NoRuleError("pairs are normalized over another axis than the last")
        return pair_softmax(call, x)
    if _plain_only(x, dims):
        call.travelled("node")
        value = x.merged(dims[0])
        return value.with_x(call.target(value.x, value.slot(dims[0]), dtype))
    if dtype:
        x = x.with_x(x.x.to(dtype))
    groups = Groups(x, dims)
    if any(name.kind == "plain" for name in x.axes[dims[0]]):
        raise NoRuleError("a softmax over channels and lattice")
    rows = x.x.reshape(x.x.shape[0], prod(x.x.shape[1:]))
    shifted = rows - take(_reduced(rows.detach(), groups, "amax"), groups.target)
    total = take(_reduced(shifted.exp(), groups, "sum"), groups.target)
    out = shifted.exp() / total if "log" not in call.name else shifted - total.log()
    return x.with_x(out.view(x.x.shape))


_PLACES = {"topk": 1, "kthvalue": 1}
"""Where among the arguments behind the map the axis stands; for all others it is the first."""


@rule(
    "max", "min", "argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp",
    "logsumexp", "prod", "topk", "sort", "argsort", "median", "nanmedian", "mode", "kthvalue",
    "all", "any", "nansum", "count_nonzero", hop="all",
)  # fmt: skip
def along(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """Along one plain axis of every node, as torch does; extremes along the lattice too."""
    place = _PLACES.get(call.name, 0)
    given = list(args)
    if len(given) > place:
        dim = given[place]
    elif "dim" in kwargs:
        dim = kwargs.pop("dim")
        given += [None] * (place + 1 - len(given))
    else:
        dim = -1 if call.name in ("sort", "topk", "argsort", "kthvalue", "mode") else None
        given += [dim] * (place + 1 - len(given))
    if isinstance(dim, bool):  # sort(descending), with the axis left out
        raise NoRuleError("its axis is not named")
    if isinstance(dim, (list, tuple)) and len(dim) == 1:
        dim = dim[0]
    if dim is None:
        return _over_all(call, x, args, kwargs)
    if not isinstance(dim, int):
        raise NoRuleError("it runs over several axes at once")
    dim %= len(x.axes)
    if not names.is_plain(x.axes[dim]):
        return _along_lattice(call, x, dim, given[place + 1 :], kwargs)
    call.travelled("node")
    value = x.merged(dim) if x.axes[dim] else x
    if not x.axes[dim]:
        slot = value.slot(dim)
        value = Spatial(
            value.x.unsqueeze(slot), x.sites,
            (*x.axes[:dim], (Name("plain", 1),), *x.axes[dim + 1 :]),
        )  # fmt: skip
    slot = value.slot(dim)
    given[place] = [slot] if isinstance(args[place] if len(args) > place else dim, list) else slot
    out = call.target(value.x, *given, **kwargs)
    parts = out if isinstance(out, (tuple, list)) else (out,)
    wrapped = tuple(_axis_after(value, dim, part) for part in parts)
    return wrapped if isinstance(out, (tuple, list)) else wrapped[0]


def _axis_after(value: Spatial, dim: int, rows: Tensor) -> Spatial:
    """A result whose axis is gone, or has another size."""
    if rows.dim() < value.x.dim():
        return Spatial(rows, value.sites, (*value.axes[:dim], *value.axes[dim + 1 :]))
    size = rows.shape[value.slot(dim)]
    return Spatial(
        rows, value.sites, (*value.axes[:dim], (Name("plain", size),), *value.axes[dim + 1 :])
    )


def _over_all(call: Any, x: Spatial, args: Any, kwargs: Any) -> Any:
    """Over everything that is there; an index would count what is not."""
    if call.name in ("argmax", "argmin", "median", "mode"):
        raise NoRuleError("it counts all positions, absent ones included")
    call.travelled("all")
    if call.name in ("max", "min") and not x.x.numel():
        return x.x.new_zeros(())  # of nobody
    return call.target(x.x, *args, **kwargs)


_SCANS = {
    "cumsum": 0.0, "cumprod": 1.0, "logcumsumexp": -torch.inf, "cummax": -torch.inf,
    "cummin": torch.inf,
}  # fmt: skip
"""What an absent position says to those behind it."""


def _along_lattice(call: Any, x: Spatial, dim: int, more: list[Any], kwargs: Any) -> Any:
    """The largest along a lattice axis and where it was; running sums, absent ones saying 0."""
    keepdim = bool(more[0]) if more else bool(kwargs.get("keepdim", False))
    if call.name in ("max", "min"):
        return extreme(call, x, [dim], keepdim, f"a{call.name}")
    if call.name in ("argmax", "argmin"):
        return extreme(call, x, [dim], keepdim, f"a{call.name[3:]}")[1]
    if call.name == "logsumexp":
        call.travelled("all")
        top = over_sites(call, x.with_x(x.x.detach()), [dim], True, "amax")
        (rows, high), sites, axes = align([x, top])
        total = over_sites(call, Spatial((rows - high).exp(), sites, axes), [dim], True, "sum")
        if not isinstance(total, Spatial):
            out = total.log() + top
            return out if keepdim else out.squeeze(dim)
        (one, two), sites, axes = align([total, top])
        out = one.log() + two
        return Spatial(out, sites, axes if keepdim else (*axes[:dim], *axes[dim + 1 :]))
    if call.name in ("any", "all"):
        found = over_sites(
            call, x.with_x(x.x.to(torch.bool).to(torch.uint8)), [dim], keepdim,
            "amax" if call.name == "any" else "amin",
        )  # fmt: skip
        return found.with_x(found.x.bool()) if isinstance(found, Spatial) else found.bool()
    if call.name in _SCANS and x.x.is_floating_point():
        call.travelled("all")
        space = x.sites.space
        run = sorted({name.axis for name in x.axes[dim] if name.kind == "site"})
        if space is not None and run and (refusal := space.refuses("scan", run)):
            raise NoRuleError(refusal)
        found = call.target(x.tensor(_SCANS[call.name]), dim, *more, **kwargs)
        parts = found if isinstance(found, (tuple, list)) else (found,)
        maps = tuple(x.with_x(lift(one, x.axes, x.sites).expand(x.x.shape)) for one in parts)
        return maps if isinstance(found, (tuple, list)) else maps[0]
    raise NoRuleError("it runs along the lattice, where absent positions would count")


@rule("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell")
def recurrence(call: Any, *args: Any) -> Any:
    """What is handed on at an absent position nobody says.

    Raises:
        NoRuleError: always.
    """
    raise NoRuleError("a recurrence runs from position to position, and an absent one says nothing")


@rule("gather", "take_along_dim")
def gather(call: Any, x: Any, dim: int, index: Any, **_: Any) -> Any:
    """Entries of a plain axis by a map or an image of numbers; of the lattice, a readout."""
    if call.name == "take_along_dim":
        dim, index = index, dim
    if not isinstance(x, Spatial):
        raise NoRuleError("its index is a map, and what it looks up is none")
    dim %= len(x.axes)
    if isinstance(index, Tensor) and not names.is_plain(x.axes[dim]):
        found = readout_but(call, x, dim)
        return found.gather(dim, index) if call.name == "gather" else found.take_along_dim(
            index, dim
        )  # fmt: skip
    index = on_rows(index, x, dim)
    if x.sites is not index.sites:
        raise NoRuleError("map and index do not live on the same nodes")
    value, numbers = x.merged(dim), rows_along(index, dim)
    if numbers.x.dim() != value.x.dim():
        raise NoRuleError("map and index differ in their axes")
    return resized(value, dim, value.x.gather(value.slot(dim), numbers.x))


def rows_along(index: Spatial, dim: int) -> Spatial:
    """A map of numbers whose rows have a dimension for one axis, though it may be of one entry."""
    numbers = index.thin()
    if numbers.axes[dim]:
        return numbers
    slot = 1 + len(names.plain(numbers.axes[:dim]))
    axes = (*numbers.axes[:dim], (Name("plain", 1),), *numbers.axes[dim + 1 :])
    return Spatial(numbers.x.unsqueeze(slot), index.sites, axes)


@rule("one_hot")
def one_hot(call: Any, x: Spatial, num_classes: int = -1) -> Any:
    """A new last axis with one 1."""
    rows = call.target(x.x, num_classes)
    return Spatial(rows, x.sites, (*x.axes, (Name("plain", rows.shape[-1]),)))


@rule("embedding")
def embedding(call: Any, weight: Any, index: Any, *more: Any) -> Any:
    """A row of a table for every number of a map."""
    if isinstance(weight, Spatial) or not isinstance(index, Spatial):
        raise NoRuleError("its table is a map")
    rows = call.target(weight, index.x, *more)
    return Spatial(rows, index.sites, (*index.axes, (Name("plain", weight.shape[1]),)))


@rule("bilinear")
def bilinear(call: Any, x: Any, other: Any, weight: Any, bias: Any = None) -> Any:
    """Two last axes of the same nodes, multiplied through."""
    if not all(isinstance(one, Spatial) and names.is_plain(one.axes[-1]) for one in (x, other)):
        raise NoRuleError("one of its sides is no map with channels last")
    if x.sites is not other.sites or x.axes[:-1] != other.axes[:-1]:
        raise NoRuleError("its sides do not live on the same nodes")
    rows = call.target(x.x, other.x, weight, bias)
    return Spatial(rows, x.sites, (*x.axes[:-1], (Name("plain", rows.shape[-1]),)))
