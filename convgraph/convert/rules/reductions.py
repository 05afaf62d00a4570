"""Reductions: over plain axes node by node, over the lattice into a readout of each image.

mean   over the nodes that are there; over none it is 0
sum    over the messages that come; maxima likewise, 0 over none
"""

from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.gather import maxima
from convgraph.backends.messages.edges import sum_by_target, take
from convgraph.backends.rows import HALF
from convgraph.convert import names, windows
from convgraph.convert.align import lattice_of_cells, together
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.node_pairs import PairSites, keys
from convgraph.convert.operators import operator
from convgraph.convert.registry import rule
from convgraph.convert.rules.attention import pair_softmax
from convgraph.convert.rules.pointwise import pointwise
from convgraph.convert.value import Spatial, arranged, index, of_nobody, placed, within_charts
from convgraph.functional.norm import image_mean
from convgraph.graph.sites import Sites


def _dims(x: Spatial, dim: Any) -> list[int]:
    rank = len(x.axes)
    if dim is None or (not isinstance(dim, int) and not len(dim)):
        return list(range(rank))
    return names.places([dim] if isinstance(dim, int) else dim, rank)


def _plain_only(x: Spatial, dims: list[int]) -> bool:
    return all(names.is_plain(x.axes[dim]) for dim in dims)


def _slots(x: Spatial, dims: list[int]) -> list[int]:
    """The dimensions of x.x that these plain axes are."""
    return [slot for dim in dims for slot in names.slots(x.axes)[dim]]


def _wide(x: Spatial) -> Spatial:
    """A value in float32 where its dtype is half as wide: a sum over an image overflows there."""
    return x.with_x(x.x.float()) if x.x.dtype in HALF else x


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


def apart(x: Spatial, dims: list[int]) -> tuple[Spatial, list[int]]:
    """Take axes that name sites and channels at once apart, where they are reduced.

    Returns:
        The value with an axis a name for each of them, and the dims there.
    """
    axes: list[names.Axis] = []
    found: list[int] = []
    for number, axis in enumerate(x.axes):
        mixed = number in dims and len({name.kind == "plain" for name in axis}) > 1
        parts = [(name,) for name in axis] if mixed else [axis]
        if number in dims:
            found += range(len(axes), len(axes) + len(parts))
        axes += parts
    return Spatial(x.x, x.sites, tuple(axes)), found


class Groups:
    """The rows that remain when lattice axes are reduced: which one each node speaks to.

    Plain axes that are reduced with them are `slots` of the rows.
    """

    def __init__(self, x: Spatial, dims: list[int]) -> None:
        """Read off the names that stay."""
        kept = names.of_rows(_left(x, dims, False))
        self.slots = _slots(x, [dim for dim in dims if names.is_plain(x.axes[dim])])
        self.digits = sorted(kept, key=lambda name: (name.axis, -name.stride))
        self.sites: Any = None  # whose rows remain; None where they are readouts
        self.images: Any = None  # whose images become a readout each, if nothing else is one
        if isinstance(x.sites, PairSites) and not set(kept) <= set(x.sites.group):
            self._on_one_side(x.sites, kept, names.of_rows(x.axes))
            return
        lattice = [name for name in kept if name.kind == "site"]
        if lattice and x.sites.space is not None:
            within_charts(x.sites, [name for dim in dims for name in x.axes[dim]])
        batch = tuple(name for name in kept if name.kind == "batch")
        if isinstance(x.sites, Sites) and batch == names.batch_axis(x.sites.batch_size):
            if lattice:
                self._on_cells(x.sites, lattice)
            else:
                self.images = x.sites
        if self.sites is None:
            self.count = prod(name.size for name in self.digits)
            self.target = index(self.digits, x.sites)

    def _on_one_side(self, sites: Any, kept: list[Name], every: list[Name]) -> None:
        """Take who asks, or who is heard, where pairs are reduced over the others."""
        by_asker = all(name.kind != "key" for name in kept)
        self.sites = sites.asking if by_asker else sites.answering
        side = [one for one in every if one in sites.group or (one.kind == "key") != by_asker]
        whole = kept == side and set(sites.group) <= set(kept) and len(kept) > len(sites.group)
        if not whole or (not by_asker and sites.group != sites.heard):
            raise NoRuleError("it reduces pairs of nodes over a part of who asks, or is heard")
        self.target = sites.asker if by_asker else sites.hearer
        self.count = self.sites.num_nodes
        self.renamed: Any = lambda axes: tuple(keys(axis, back=True) for axis in axes)

    def _on_cells(self, sites: Sites, lattice: list[Name]) -> None:
        """Take the lattice of cells whose pixels are reduced, if every node has its cell there."""
        found = lattice_of_cells(sites, lattice)
        if found is None:
            return
        cells, low = found
        target = cells.node_at(index(self.digits, sites))
        if any(1 < one < n for one, n in zip(low, sites.size or (), strict=True)) and (
            sites.space is not None or (cells.rank is not None and bool((target < 0).any()))
        ):
            return
        self.sites, self.target, self.count = cells, target, cells.num_nodes
        self.renamed = lambda axes: names.coarser(axes, low)

    def counts(self) -> Tensor:
        """(count,): how many nodes speak to each."""
        if self.images is not None:
            return self.images.counts  # type: ignore[no-any-return]
        none = self.target.new_zeros(self.count)
        return none.index_add(0, self.target, torch.ones_like(self.target))

    def reduced(self, rows: Tensor, how: str) -> Tensor:
        """(N, *plain) -> (count, *plain): the sum, mean, "amax" or "amin" of each."""
        rest = rows.shape[1:]
        flat = rows.reshape(rows.shape[0], prod(rest))
        if how in ("amax", "amin"):
            turned = -flat if flat.is_floating_point() else ~flat
            chosen = maxima.by_image(flat if how == "amax" else turned, self.target, self.count)
            found = maxima.values_at(flat, chosen)
        elif how == "mean" and self.images is not None:
            found = image_mean(flat, self.images)
        else:
            # A sum over rows keeps them, and whoever asked may write into his own.
            kept = flat.clone() if flat.requires_grad else flat
            found = sum_by_target(kept, self.target, self.count)
            if how == "mean":
                found = found / self.counts().clamp(min=1).unsqueeze(1)
        return found.view(self.count, *rest)

    def shared(self, rows: Tensor, how: str) -> Tensor:
        """(N, *plain) -> (count, *left): extremes, whose gradient all that say one share evenly."""
        slots = self.slots
        lines = rows.movedim(slots, list(range(1, 1 + len(slots)))).flatten(0, len(slots))
        each = prod(rows.shape[slot] for slot in slots)
        where = self.target.repeat_interleave(each).view(-1, *(1,) * (lines.dim() - 1))
        nobody = rows.new_full((self.count, *lines.shape[1:]), torch.nan)  # is as large as none
        found = nobody.scatter_reduce(0, where.expand_as(lines), lines, how, include_self=False)
        return found.where((self.counts() > 0).view(-1, *(1,) * (found.dim() - 1)), 0)

    def heard(self, rows: Tensor, how: str) -> Tensor:
        """(N, *plain), 1 in each slot: what all that is reduced to one says, to each node of it."""
        kept = getattr(torch, how)(rows, self.slots, keepdim=True) if self.slots else rows
        return take(self.reduced(kept, how), self.target)

    def value(self, rows: Tensor, axes: names.Axes) -> Any:
        """What the rows (count, *plain) say: a map, or readouts as a tensor of the axes."""
        if self.sites is None:
            return arranged(rows, self.digits, axes)
        return Spatial(rows, self.sites, self.renamed(axes))

    def placed(self, dense: Tensor, axes: names.Axes) -> Any:
        """What a tensor of the axes says, as `value`."""
        return dense if self.sites is None else placed(dense, self.sites, self.renamed(axes))


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
    if how in ("sum", "mean") and x.sites.is_array and len(x.x) and _is_readout(x, dims):
        found: Tensor = getattr(x.tensor(), how)(dims, keepdim)
        return found
    left, own = _left(x, dims, keepdim), x.x.dtype
    x, dims = apart(_wide(x), dims)
    groups = Groups(x, dims)
    if how == "mean":
        x.x.new_empty(1).mean()  # torch refuses whole numbers, and says why
    if how in ("amax", "amin") and x.x.requires_grad:
        return groups.value(groups.shared(x.x, how).to(own), left)
    rows = getattr(torch, how)(x.x, groups.slots) if groups.slots else x.x
    if how == "sum" and not (rows.is_floating_point() or rows.is_complex()):
        rows = rows.long()
    found = groups.reduced(rows, how)
    return groups.value(found.to(own) if own in HALF else found, left)


def _is_readout(x: Spatial, dims: list[int]) -> bool:
    """Whether nothing of the lattice stays, and every image."""
    return tuple(names.of_rows(_left(x, dims, False))) == names.batch_axis(x.sites.batch_size)


def extreme(call: Any, x: Spatial, dims: list[int], keepdim: bool, how: str) -> Any:
    """Return the largest or smallest entry over lattice axes, and where along them it was.

    An index counts the positions of neighbouring axes in row-major order; over nobody it is 0.
    """
    call.travelled("all")
    groups, axes = Groups(*apart(x, dims)), _left(x, dims, keepdim)
    first, last = dims[0], dims[-1]
    nothing = silent(x.x.dtype, -torch.inf if how == "amax" else torch.inf)
    line = x.tensor(nothing).flatten(first, last)
    there = x.there().flatten(first, last)
    best, where = (torch.max if how == "amax" else torch.min)(line, first, keepdim=True)
    if not x.sites.is_full:  # an absent one may have said as much
        own = there.to(torch.uint8).argmax(first, keepdim=True)
        where = where.where(there.gather(first, where), own)
    return tuple(
        groups.placed(
            one.where(there.any(first, True), one.new_zeros(())).reshape(names.sizes(axes)), axes
        )
        for one in (best, where)
    )


def silent(dtype: torch.dtype, value: float) -> float:
    """Return a number that nobody hears beside others of a dtype, be it without infinities."""
    if dtype.is_floating_point or value not in (torch.inf, -torch.inf):
        return value
    if dtype == torch.bool:
        return value > 0
    return torch.iinfo(dtype).max if value > 0 else torch.iinfo(dtype).min


@rule("mean", "sum", "amax", "amin", hop="all")
def reduce(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """The mean, the sum or an extreme over what is there."""
    return reduced(call.name, call, x, *args, **kwargs)


def reduced(
    how: str, call: Any, x: Spatial, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    """Return what is left of a map; see `over_sites`."""
    dims = _dims(x, dim)
    x, nobody = _of_windows(how, x, dims)
    if dtype is not None:
        found = reduced(how, call, x.with_x(x.x.to(dtype)), dim, keepdim)
        return found.with_x(found.x.to(dtype)) if isinstance(found, Spatial) else found.to(dtype)
    if len(dims) == len(x.axes):
        call.travelled("all")  # over everything that is there, whatever the names
        silence = how in ("amax", "amin") and not x.x.numel()
        found = x.x.new_zeros(()) if silence else getattr(x.x, how)()
        return found.reshape((1,) * len(dims) if keepdim else ())
    if _plain_only(x, dims):
        call.travelled("node")
        return _spoken(over_plain(x, dims, keepdim, getattr(torch, how)), nobody)
    return over_sites(call, x, dims, keepdim, how)


@rule("aminmax", hop="all")
def aminmax(call: Any, x: Spatial, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest of what is there."""
    return tuple(reduced(how, call, x, dim, keepdim) for how in ("amin", "amax"))


@rule("cov", hop="all")
def cov(call: Any, x: Spatial, *, correction: int = 1, **weights: Any) -> Tensor:
    """How plain entries vary together over the nodes that are there."""
    *variables, seen = x.axes
    if (
        names.plain((seen,))
        or names.of_rows((*variables,))
        or any(one is not None for one in weights.values())
    ):
        raise NoRuleError("its variables are pixels, or weighed; give it the rows, .graph.x.T")
    found: Tensor = call.target(x.x.reshape(len(x.x), -1).mT, correction=correction)
    return found


@rule("_unique2", hop="all")
def unique(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """The numbers that some node says."""
    found, which, counts = call.target(x.x, *args, **kwargs)
    return found, (x.with_x(which) if which.shape == x.x.shape else which), counts


@rule("histc", "histogram", "bincount", "_is_all_true", "_is_any_true", hop="all")
def counted(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """How many entries of nodes have which number; whether all, or any, say yes."""
    given = call.named(x, *args, **kwargs)
    weight = next((one for one in ("weights", "weight") if given.get(one) is not None), None)
    if weight is None:
        return call.target(x.x.flatten(), *args, **kwargs)
    if given[weight].shape != x.shape:
        raise NoRuleError("its weights are of another shape")
    both = (rows.flatten() for rows in together(x, given[weight])[0])
    return call.target(**given | dict(zip(("self", weight), both, strict=True)))


@rule("linalg_vector_norm", "norm", "frobenius_norm", hop="all")
def vector_norm(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """(sum |x|^p)^(1/p), to which an absent position adds nothing; of an empty image it is 0."""
    given = call.named(x, *args, **kwargs)
    dims, keepdim = _dims(x, given.get("dim")), given.get("keepdim", False)
    p = given.get("ord", given.get("p"))
    norm = partial(torch.linalg.vector_norm, ord=2 if p is None else p, dtype=given.get("dtype"))
    if _plain_only(x, dims):
        call.travelled("node")
        return over_plain(x, dims, keepdim, lambda rows, slots: norm(rows, dim=slots))
    if p is not None and p < 0:
        raise NoRuleError(f"an absent position would be the smallest to a {p}-norm; take amin()")
    call.travelled("all")
    found = norm(_wide(x).tensor(), dim=dims, keepdim=keepdim)
    found = found.to(x.x.dtype) if x.x.dtype in HALF and not given.get("dtype") else found
    return Groups(*apart(x, dims)).placed(found, _left(x, dims, keepdim))


@rule("renorm", "renorm_", hop="all")
def renorm(call: Any, x: Spatial, p: Any, dim: int, maxnorm: float) -> Any:
    """Parts along one axis whose norm is larger than that are made shorter."""
    rank = len(x.axes)
    call.target(x.x.new_ones((1,) * rank), p, dim, maxnorm)  # torch refuses some, and says why
    others = [number for number in range(rank) if number != dim % rank]
    over = operator(torch.ops.aten.linalg_vector_norm.default)
    norm = vector_norm(over, _wide(x), p, others, True)
    rows = norm.x if isinstance(norm, Spatial) else norm
    scale: Any = torch.where(rows > maxnorm, maxnorm / (rows + 1e-7), 1).to(x.x.dtype)
    scale = norm.with_x(scale) if isinstance(norm, Spatial) else scale
    call.travelled("all")
    return pointwise(operator(torch.ops.aten.mul.Tensor), x, scale)


@rule("dist", hop="all")
def distance(call: Any, x: Any, other: Any, p: Any = 2) -> Any:
    """The norm of a difference."""
    difference = pointwise(operator(torch.ops.aten.sub.Tensor), x, other)
    return vector_norm(operator(torch.ops.aten.norm.Scalar), difference, p)


@rule("var", "std", "var_mean", "std_mean", hop="all")
def var(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """The variance over what is there, or its root; and the mean beside it.

    Where nothing differs it is 0, also over one that is there, or over nobody.
    """
    given = call.named(x, *args, **kwargs)
    dim, keepdim = given.get("dim"), given.get("keepdim", False)
    correction = given.get("correction")
    if correction is None:
        correction = 1 if given.get("unbiased", True) else 0
    name, _, mean = call.name.partition("_")
    found = _spread(call, x, _dims(x, dim), keepdim, float(correction), name)
    return (found, reduced(mean, call, x, dim, keepdim)) if mean else found


def _spread(
    call: Any, x: Spatial, dims: list[int], keepdim: bool, correction: float, name: str
) -> Any:
    if _plain_only(x, dims):
        call.travelled("node")
        spread = partial(getattr(torch, name), correction=correction)
        return over_plain(x, dims, keepdim, spread)
    call.travelled("all")
    left, own = _left(x, dims, keepdim), x.x.dtype
    x, dims = apart(_wide(x), dims)
    groups = Groups(x, dims)
    squares = (x.x - groups.heard(x.x, "mean")).square()
    total = groups.reduced(squares.sum(groups.slots) if groups.slots else squares, "sum")
    count = groups.counts() * prod(x.x.shape[slot] for slot in groups.slots)
    count = (count.to(total.dtype) - correction).clamp(min=0)
    count = torch.where(total == 0, 1, count.view(-1, *(1,) * (total.dim() - 1)))
    out = total / count
    if name == "std":  # whose gradient is 0 where nothing differs
        out = out.masked_fill(out == 0, 1).sqrt().masked_fill(out == 0, 0)
    return groups.value(out.to(own), left)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", hop="all")
def softmax(call: Any, x: Spatial, dim: int, dtype: Any = None) -> Any:
    """Over plain axes of a node, or over the nodes that are there."""
    dims = _dims(x, dim)
    if _plain_only(x, dims):
        call.travelled("node")
        return x.on_axis(dims[0], lambda rows, slot: call.target(rows, slot, dtype))
    if dtype:
        x = x.with_x(x.x.to(dtype))
    heard = [name for name in names.of_rows(x.axes) if name.kind == "key"]
    if isinstance(x.sites, PairSites) and heard and list(x.axes[dims[0]]) == heard:
        return pair_softmax(call, x)
    own, x = x.x.dtype, _wide(x)
    groups = Groups(*apart(x, dims))
    shifted = x.x - groups.heard(x.x.detach(), "amax")
    total = groups.heard(shifted.exp(), "sum")
    found = shifted - total.log() if "log" in call.name else shifted.exp() / total
    return x.with_x(found.to(own))


@rule(
    "max", "min", "argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp",
    "logsumexp", "prod", "topk", "sort", "argsort", "median", "nanmedian", "mode", "kthvalue",
    "all", "any", "nansum", "count_nonzero", "quantile", "nanquantile", hop="all",
)  # fmt: skip
def along(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """Along plain axes of every node, as torch does; along the lattice where absent ones can."""
    given = call.named(x, *args, **kwargs)
    if "other" in given:  # the larger of two maps
        return pointwise(call, x, *args)
    dim = given.get("dim")
    dims = _dims(x, dim)
    x, nobody = _of_windows(call.name, x, dims)
    if call.name in ("argmax", "argmin"):
        call.target(x.x.new_zeros(1))  # torch refuses yes and no, and says why
        if dim is None:
            return extreme(call, x, dims, given["keepdim"], f"a{call.name[-3:]}")[1]
    if dim is None:
        return _over_all(call, x, given, args, kwargs)
    if not _plain_only(x, dims):
        return _along_lattice(call, x, dims, given)
    call.travelled("node")
    if not isinstance(dim, int):
        more = given | {"keepdim": False} if "keepdim" in given else given
        return over_plain(
            x, dims, given.get("keepdim", False),
            lambda rows, slots: call.target(**more | {"self": rows, "dim": slots}),
        )  # fmt: skip
    value = x.merged(dims[0])
    out = call.target(**given | {"self": value.x, "dim": value.slot(dims[0])})
    if _shares(given):  # on a first axis
        axes = value.along(dims[0], out[0]).axes
        return Spatial(out.movedim(0, 1), x.sites, ((Name("plain", len(out)),), *axes))
    if isinstance(out, Tensor):
        return _spoken(value.along(dims[0], out), nobody)
    return tuple(_spoken(value.along(dims[0], part), nobody) for part in out)


def _of_windows(name: str, x: Spatial, dims: list[int]) -> tuple[Spatial, Tensor | None]:
    """Windows in which absent pixels say what nobody hears, and which of them have no others."""
    of_windows = x.cut and any(windows.are_on(x.axes[dim]) for dim in dims)
    if not of_windows or name not in _SILENT or name in _SCANS:
        return x, None
    there = windows.there(x)
    rows = torch.where(there.x, x.x, silent(x.x.dtype, _SILENT[name]))
    if name not in windows.EXTREMES or not _plain_only(x, dims):
        return x.with_x(rows), None
    return x.with_x(rows), ~over_plain(there, dims, False, torch.any).x


def _spoken(found: Spatial, nobody: Tensor | None) -> Spatial:
    """Extremes, 0 where nobody says one."""
    if nobody is None:
        return found
    return found.with_x(found.x.masked_fill(nobody.reshape(found.x.shape), 0))


def _over_all(call: Any, x: Spatial, given: dict[str, Any], args: Any, kwargs: Any) -> Any:
    """Over everything that is there."""
    call.travelled("all")
    kept = (1,) * len(x.axes) if given.get("keepdim") else ()
    if call.name in ("max", "min", *_RANKED) and not x.x.numel():
        return of_nobody(x.x, _shares(given) + kept)
    return call.target(x.x, *args, **kwargs).reshape(_shares(given) + kept)


def _shares(given: dict[str, Any]) -> tuple[int, ...]:
    """The shape of what a quantile is asked for; () of anything else."""
    q = given.get("q")
    return tuple(q.shape) if isinstance(q, Tensor) else ()


_SCANS = {
    "cumsum": 0.0, "cumprod": 1.0, "logcumsumexp": -torch.inf, "cummax": -torch.inf,
    "cummin": torch.inf,
}  # fmt: skip
"""What an absent position says to those behind it."""

_SILENT = {
    **dict.fromkeys(("amax", "max", "argmax", "logsumexp"), -torch.inf),
    **dict.fromkeys(("amin", "min", "argmin"), torch.inf),
    "prod": 1.0, "any": 0.0, "all": 1.0, "nansum": 0.0, "count_nonzero": 0.0, **_SCANS,
}  # fmt: skip
"""What an absent position says, so that nobody hears it."""

_RANKED = ("median", "nanmedian", "mode", "kthvalue", "quantile", "nanquantile")
"""What is one of the entries of a line, and where it was, or lies between two of them."""


def _along_lattice(call: Any, x: Spatial, dims: list[int], given: dict[str, Any]) -> Any:
    """The largest and where it was; sums, products and scans to which absent ones say nothing."""
    name, keepdim = call.name, bool(given.get("keepdim", False))
    if name in ("max", "min", "argmax", "argmin"):
        best, where = extreme(call, x, dims, keepdim, f"a{name[-3:]}")
        return where if name.startswith("arg") else (best, where)
    if name == "topk":
        return _largest(call, x, dims, given)
    if name in _RANKED:
        return _ranked(call, x, dims, given)
    if name not in _SILENT:
        return _in_order(call, x, dims[0], given)
    call.travelled("all")
    if name == "logsumexp" and not x.x.is_floating_point():
        x = x.with_x(x.x.to(torch.get_default_dtype()))  # among whole numbers there is no log of 0
    found = call.target(**given | {"self": x.tensor(silent(x.x.dtype, _SILENT[name]))})
    if name not in _SCANS:
        return Groups(*apart(x, dims)).placed(found, _left(x, dims, keepdim))
    space = x.sites.space
    run = sorted({name.axis for name in x.axes[dims[0]] if name.kind == "site"})
    if space is not None and run and (refusal := space.refuses("scan", run)):
        raise NoRuleError(refusal)
    parts = (found,) if isinstance(found, Tensor) else found
    maps = tuple(placed(one, x.sites, x.axes) for one in parts)
    return maps[0] if isinstance(found, Tensor) else maps


def _ranked(call: Any, x: Spatial, dims: list[int], given: dict[str, Any]) -> Any:
    """The median, the k-th smallest or the most frequent of what is there, line by line.

    An index counts as that of an extreme does; over nobody both are 0. Of a quantile there is none.
    """
    call.travelled("all")
    groups, axes, k = Groups(*apart(x, dims)), _left(x, dims, given["keepdim"]), given.get("k", 0)
    if bool((groups.counts() * prod(names.plain((x.axes[dims[0]],))) < k).any()):
        raise NoRuleError(f"fewer than the {k} that it takes are there; take a smaller k")
    axes = (*((Name("plain", n),) for n in _shares(given)), *axes)
    if x.sites.is_full:
        out = call.target(**given | {"self": x.tensor()})
        parts = (out,) if isinstance(out, Tensor) else out
    else:
        both = (x.tensor(), x.there())
        lines = [one.movedim(dims[0], -1).reshape(-1, x.shape[dims[0]]) for one in both]
        pairs = zip(*lines, strict=True)
        found = [_ranked_line(call, line, there, given) for line, there in pairs]
        stacked = (torch.stack(one, -1) for one in zip(*found, strict=True))
        parts = tuple(one.reshape(names.sizes(axes)) for one in stacked)
    made = tuple(groups.placed(one, axes) for one in parts)
    return made if len(made) > 1 else made[0]


def _ranked_line(call: Any, line: Tensor, there: Tensor, given: dict[str, Any]) -> Any:
    """One or several of a line, and where each was, if that is asked."""
    places = there.nonzero().squeeze(1)
    if not len(places):
        nobody = of_nobody(line[places], _shares(given))
        return (nobody,) if "q" in given else (nobody, places.new_zeros(()))
    out = call.target(**given | {"self": line[places], "dim": 0, "keepdim": False})
    return (out,) if isinstance(out, Tensor) else (out[0], places[out[1]])


def _largest(call: Any, x: Spatial, dims: list[int], given: dict[str, Any]) -> Any:
    """The k largest of what is there, and behind them absent positions, which say 0."""
    call.travelled("all")
    k, there = given["k"], x.there()
    line = x.tensor(silent(x.x.dtype, -torch.inf if given["largest"] else torch.inf))
    found = call.target(**given | {"self": line})
    if not x.sites.is_full and not bool(there.gather(dims[0], found[1]).all()):
        where = _there_first(line, there, dims[0], given["largest"]).narrow(dims[0], 0, k)
        found = (line.gather(dims[0], where).where(there.gather(dims[0], where), 0), where)
    groups, axes = Groups(*apart(x, dims)), names.replaced(x.axes, dims[0], (Name("plain", k),))
    return tuple(groups.placed(one, axes) for one in found)


def _there_first(line: Tensor, there: Tensor, dim: int, descending: bool) -> Tensor:
    """Positions in the order of what they say, those of nobody behind all others."""
    order = line.argsort(stable=True, dim=dim, descending=descending)
    return order.gather(dim, (~there.gather(dim, order)).argsort(stable=True, dim=dim))


def _in_order(call: Any, x: Spatial, dim: int, given: dict[str, Any]) -> Any:
    """What is there, line by line, and where it was: a list, as entries that are chosen are."""
    call.travelled("all")
    line, there = x.tensor(), x.there()
    if x.sites.is_full:
        return call.target(**given | {"self": line})
    if not names.no_pixels(names.replaced(x.axes, dim)):
        raise NoRuleError("it sorts lines of an image, of which one has fewer than another")
    count = there.sum(dim).flatten()
    most = int(count.max()) if count.numel() else 0
    if bool((count != most).any()):
        raise NoRuleError(
            f"of one image {int(count.min())} are there and of another {most}, which makes no "
            "array; sort each image by itself, x[n : n + 1]"
        )
    where = _there_first(line, there, dim, given["descending"]).narrow(dim, 0, most).contiguous()
    return where if call.name == "argsort" else (line.gather(dim, where), where)


@rule("one_hot")
def one_hot(call: Any, x: Spatial, num_classes: int = -1) -> Any:
    """A new last axis with one 1; where nobody is, the only class is that of absent pixels, 0."""
    rows = call.target(x.x, num_classes if x.x.numel() else max(num_classes, 1))
    return Spatial(rows, x.sites, (*x.axes, (Name("plain", rows.shape[-1]),)))


@rule("embedding")
def embedding(call: Any, weight: Any, index: Any, *more: Any) -> Any:
    """A row of a table for every number of a map."""
    if isinstance(weight, Spatial) or not isinstance(index, Spatial):
        raise NoRuleError("its table is a map")
    rows = call.target(weight, index.x, *more)
    return Spatial(rows, index.sites, (*index.axes, (Name("plain", weight.shape[1]),)))
