"""Whose windows an entry follows from, where windows that do not meet are supposed in one run.

    0       nobody's: it is what it is whatever is supposed
    w       those of one window, w >= 1: it holds of all images that are as is supposed of w alone
    -1      those of several, or nobody knows

A result is inferred from entries of the operands, and is what these are together: those at its own
place where a rule works entry by entry, those that were moved to it, or all. Gradients that were
sent are moved and added: of those that are 0 nothing arrives anywhere. See step 11c of
docs/design/theorem.md.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor

from convgraph.proof import aten, trees
from convgraph.proof.layer.order.order_rules import FIRST, Seen, index_of, places_of
from convgraph.proof.layer.order.suppositions import anywhere

SEVERAL = -1.0

_ENTRY_BY_ENTRY = frozenset({
    "gt", "ge", "lt", "le", "eq", "ne", "greater", "less", "isnan", "isinf", "logical_or",
    "logical_and", "logical_not", "bitwise_or", "bitwise_and", "bitwise_not", "__or__", "__and__",
    "add", "sub", "rsub", "mul", "div", "neg", "clamp", "clamp_min",
    "clamp_max", "maximum", "minimum", "fmax", "clone", "contiguous", "detach", "alias", "_to_copy",
})  # fmt: skip

_MOVES = frozenset({
    *FIRST, "_unsafe_view", "reshape", "diagonal_backward",
    "expand_copy", "lift_fresh", "positive", "constant_pad_nd",
})  # fmt: skip
"""Operators whose entries are those of their first tensor, or constants."""


def together(*parts: Tensor) -> Tensor:
    """Return whose an entry is that follows from one of each.

    Example:
        >>> together(torch.tensor([0.0, 3, 3, 3]), torch.tensor([5.0, 0, 3, 5])).tolist()
        [5.0, 3.0, 3.0, -1.0]
    """
    found: Tensor
    found, *rest = torch.broadcast_tensors(*parts)
    for one in rest:
        alone = torch.where((one == 0) | (one == found), found, SEVERAL)
        found = torch.where(found == 0, one, alone)
    return found


def of_extremes(
    most: Callable[[Tensor], Tensor], least: Callable[[Tensor], Tensor], one: Tensor
) -> Tensor:
    """Return whose an entry is that follows from all those of which it would be the largest.

    Args:
        most: the largest of some entries.
        least: the smallest of the same.
        one: whose the entries are.
    """
    high, low = most(one), least(torch.where(one == 0, inf, one))
    return torch.where(low == inf, 0.0, torch.where(high == low, high, SEVERAL))


def whose(seen: Seen, name: str) -> Tensor:
    """Return whose the results of a call are; of one entry where all are alike.

    Args:
        seen: the call, under one supposition.
        name: of its operator.
    """
    if name in _MOVES:
        first = next(iter(seen.bound.named))
        more = {"value": 0.0} if name == "constant_pad_nd" else {}
        return seen.with_(first, seen.whose(seen[first]), **more)  # type: ignore[no-any-return]
    if name in _RULES:
        return _RULES[name](seen)
    if name in _ENTRY_BY_ENTRY or aten.elementwise(seen.func):
        return together(*map(seen.whose, _tensors(seen.bound.named)))
    return _of_all(seen)


def _tensors(given: Any) -> list[Tensor]:
    return [value for value in trees.leaves(given) if isinstance(value, Tensor)]


def _of_all(seen: Seen) -> Tensor:
    """What every entry of every operand is together."""
    flat = torch.cat([seen.whose(one).reshape(-1) for one in _tensors(seen.bound.named)])
    return _over(flat) if flat.numel() else flat.new_zeros(())


def _over(one: Tensor, dims: tuple[int, ...] | None = None, keep: bool = False) -> Tensor:
    """What entries along some axes, or all, are together."""
    axes = dims or tuple(range(one.dim()))
    return of_extremes(lambda t: t.amax(axes, keep), lambda t: t.amin(axes, keep), one)


def _is_free(seen: Seen, *given: str) -> bool:
    """Whether some operands follow from no window."""
    parts = [seen.whose(one) for one in _tensors([seen[name] for name in given])]
    return not any(anywhere(part != 0) for part in parts)


# Where it is not entry by entry


def _joined(seen: Seen) -> Tensor:
    return seen.with_("tensors", [seen.whose(one) for one in seen["tensors"]])  # type: ignore[no-any-return]


def _put(seen: Seen) -> Tensor:
    one, two = (seen.whose(seen[name]) for name in ("self", "src"))
    if aten.base_of(seen.func) == "copy":
        return two.expand(one.shape)
    return seen.with_("self", one, src=two)  # type: ignore[no-any-return]


def _index_copy(seen: Seen) -> Tensor:
    if not _is_free(seen, "index"):
        return _of_all(seen)
    one, two = (seen.whose(seen[name]) for name in ("self", "source"))
    return seen.with_("self", one, index=index_of(seen, "index")[0], source=two)  # type: ignore[no-any-return]


def _gather(seen: Seen) -> Tensor:
    source, index = seen.whose(seen["self"]), seen.whose(seen["index"])
    place, unknown = index_of(seen, "index")
    found = seen.with_("self", source, index=place)
    if aten.base_of(seen.func) in ("gather", "take"):  # an index for each entry
        return torch.where(unknown, _of_all(seen), together(found, index))
    return found if _is_free(seen, "index") and not anywhere(unknown) else _of_all(seen)


def _advanced(seen: Seen) -> Tensor:
    places, unsure = places_of(seen)
    if unsure or not _is_free(seen, "indices"):
        return _of_all(seen)
    return seen.with_("self", seen.whose(seen["self"]), indices=places)  # type: ignore[no-any-return]


def _index_put(seen: Seen) -> Tensor:
    places, unsure = places_of(seen)
    held, values = (seen.whose(seen[name]) for name in ("self", "values"))
    is_free = _is_free(seen, "indices")
    if not seen["accumulate"]:
        if not is_free:
            return _of_all(seen)
        return seen.with_("self", held, values=values, indices=places)  # type: ignore[no-any-return]
    by = values * 0 if is_free else together(*map(seen.whose, _tensors(seen["indices"])))
    return _added(seen, "values", by, torch.full_like(by, unsure), lambda t: seen.with_(
        "self", torch.zeros_like(held), values=t, indices=places))  # fmt: skip


def _scatter_add(seen: Seen) -> Tensor:
    held, values, by = (seen.whose(seen[name]) for name in ("self", "src", "index"))
    place, unknown = index_of(seen, "index")
    if by.shape != values.shape and _is_free(seen, "index"):
        by, unknown = values * 0, torch.full_like(values, anywhere(unknown))
    return _added(seen, "src", by, unknown.to(by), lambda t: seen.with_(
        "self", torch.zeros_like(held), index=place, src=t))  # fmt: skip


def _added(
    seen: Seen, name: str, by: Tensor, unsure: Tensor, run: Callable[[Tensor], Tensor]
) -> Tensor:
    """Whose sums are into entries that are there already, at places that are somebody's.

    Args:
        seen: the call.
        name: of what is added.
        by: whose the places are.
        unsure: where they are not known.
        run: adds to zeros.
    """
    values = seen.whose(seen[name])
    is_free = not anywhere((by != 0) | (unsure != 0))
    if by.shape != values.shape or not (is_free or seen.is_sent(name)):
        return _of_all(seen)  # wherever it was added it might not have been
    gone = _is_gone(seen, name)
    found = torch.where(gone, 0.0, together(values, by))
    lost = (~gone & ((unsure != 0) | ((found == SEVERAL) & (by != 0)))).any()
    return torch.where(lost, SEVERAL, together(seen.whose(seen["self"]), _sum(run, found)))


def _is_gone(seen: Seen, name: str) -> Tensor:
    """Which entries of a gradient are 0 whatever one window says, and arrive nowhere."""
    found = seen.whose(seen[name])
    if not seen.is_sent(name):
        return torch.zeros_like(found, dtype=torch.bool)
    return (seen.knows(name) == 0) & (found != SEVERAL)


def _sum(run: Callable[[Tensor], Tensor], one: Tensor) -> Tensor:
    """Whose sums are of which one entry at most is somebody's, and of several else."""
    return torch.where(run((one != 0).to(one)) > 1, SEVERAL, run(one))


def _scattered(seen: Seen) -> Tensor:
    how = seen["reduce"]
    if how not in (None, "amax", "amin") or not _is_free(seen, "index"):
        return _of_all(seen)
    place = index_of(seen, "index")[0]
    held, axis = seen.whose(seen["self"]), seen["dim"]
    name = "src" if "src" in seen.bound.named else "value"
    values = seen.whose(seen[name]).expand(place.shape)
    if how is None:
        return held.scatter(axis, place, values)

    def over(reduce: str) -> Callable[[Tensor], Tensor]:
        size = held.numel()
        return lambda t: (
            t[:size]
            .view(held.shape)
            .scatter_reduce(axis, place, t[size:].view(values.shape), reduce)
        )

    return of_extremes(
        over("amax"), over("amin"), torch.cat([held.reshape(-1), values.reshape(-1)])
    )


def _summed(seen: Seen) -> Tensor:
    name = next(iter(seen.bound.named))
    if not seen.is_sent(name):
        return (
            _reduced(seen) if name == "self" and aten.base_of(seen.func) == "sum" else _of_all(seen)
        )
    found = torch.where(_is_gone(seen, name), 0.0, seen.whose(seen[name]))
    return _sum(lambda t: seen.with_(name, t), found)


def _pool(seen: Seen) -> Tensor:
    one = seen.whose(seen["self"])
    return of_extremes(
        lambda t: seen.with_("self", t)[0], lambda t: -seen.with_("self", -t)[0], one
    )


def _chosen(seen: Seen) -> Tensor:
    """One or the other; where both are the same, whatever decides."""
    one, two = ("value", "self") if "mask" in seen.bound.named else ("self", "other")
    real = seen.real(one) or seen.real(two)
    same = seen.knows(one, real) == seen.knows(two, real)
    either = together(seen.whose(seen[one]), seen.whose(seen[two]))
    decided = seen.whose(seen["mask"] if "mask" in seen.bound.named else seen["condition"])
    return torch.where(same, either, together(either, decided))


def _max(seen: Seen) -> Tensor:
    if "other" in seen.bound.named:
        return together(*map(seen.whose, _tensors(seen.bound.named)))
    return _reduced(seen)


def _sorted(seen: Seen) -> Tensor:
    return _over(seen.whose(seen["self"]), (-1 if seen["dim"] is None else seen["dim"],), True)


def _reduced(seen: Seen) -> Tensor:
    one, dims = seen.whose(seen["self"]), seen["dim"]
    axes = (dims,) if isinstance(dims, int) else tuple(dims or ())
    return _over(one, axes, bool(seen["keepdim"]))


_RULES: dict[str, Callable[[Seen], Tensor]] = {
    **dict.fromkeys(("cat", "stack", "hstack", "vstack", "_cat"), _joined),
    **dict.fromkeys(
        ("slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter", "copy"), _put
    ),
    "fill": lambda seen: seen.whose(seen["value"]),
    "zero": lambda seen: torch.zeros_like(seen.whose(seen["self"])),
    "index_copy": _index_copy,
    **dict.fromkeys(("gather", "take", "index_select"), _gather),
    **dict.fromkeys(("index", "_unsafe_index"), _advanced),
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), _index_put),
    "scatter_add": _scatter_add,
    **dict.fromkeys(("scatter", "scatter_reduce"), _scattered),
    **dict.fromkeys(("amax", "amin", "any", "all", "argmax"), _reduced),
    **dict.fromkeys(("sum", "col2im", "unfold_backward"), _summed),
    **dict.fromkeys(("topk", "sort"), _sorted),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
                     "adaptive_max_pool3d"), _pool),
    **dict.fromkeys(("where", "masked_fill"), _chosen),
    "max": _max,
}  # fmt: skip
