"""Rules of operators that move entries and add them up: degrees are kept and united."""

from collections.abc import Callable
from fractions import Fraction
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor

from convgraph.proof import aten
from convgraph.proof.layer.premise.call import Call, Refusal, Result, linear_rule
from convgraph.proof.layer.premise.degrees import Bound, union

# Entries stay what they are


@linear_rule(
    *aten.KEEPS,
    "_unsafe_index", "masked_select", "embedding",
    "diagonal_backward", "neg", "negative", "positive", "_unsafe_view", "reshape", "expand_copy",
    "resolve_conj", "resolve_neg", "lift_fresh", "unsafe_split", "unsafe_split_with_sizes",
    "_pin_memory", "masked_scatter_backward",
)  # fmt: skip
def _keep(call: Call) -> Result:
    return call.first()


@linear_rule(*aten.JOINS, "_cat")
def _cat(call: Call) -> Result:
    return union(call.of(t) for t in call["tensors"])


@linear_rule("where")
def _where(call: Call) -> Result:
    return call.bound("self").either(call.bound("other"))


@linear_rule("masked_fill", "index_fill", "constant_pad_nd")
def _fill_some(call: Call) -> Result:
    return call.bound("self").either(call.bound("value"))


@linear_rule("fill")
def _fill(call: Call) -> Result:
    return call.bound("value")


@linear_rule("zero")
def _zero(call: Call) -> Result:
    return Bound()


@linear_rule("copy")
def _copy(call: Call) -> Result:
    return call.bound("src")


@linear_rule(*aten.PUTS, "diagonal_scatter", "as_strided_scatter")
def _put_view(call: Call) -> Result:
    return call.bound("self").either(call.bound("src"))


@linear_rule("index_copy", "masked_scatter")
def _put_rows(call: Call) -> Result:
    return call.bound("self").either(call.bound("source"))


@linear_rule(*aten.FILLS, *aten.DRAWS)
def _fresh(call: Call) -> Result:
    return None


# Sums


@linear_rule("add")
def _add(call: Call) -> Result:
    return call.bound("self").plus(call.bound("other").scaled(call.get("alpha", 1)))


@linear_rule("sub", "subtract", "rsub")
def _sub(call: Call) -> Result:
    one, two = ("other", "self") if "rsub" in str(call.func) else ("self", "other")
    return call.bound(one).plus(call.bound(two).scaled(call.get("alpha", 1)))


@linear_rule("sum")
def _sum(call: Call) -> Result:
    return call.first().many(call.count("self", call.get("dim")))


@linear_rule("mean")
def _mean(call: Call) -> Result:
    count = max(1, call.count("self", call.get("dim")))
    whole = call.first().many(count)
    call.on_the_way.append(whole)
    return whole.scaled(part(1, count, call.first().odd))


@linear_rule("cumsum")
def _cumsum(call: Call) -> Result:
    return call.first().many(call.count("self", call["dim"]))


@linear_rule("trace")
def _trace(call: Call) -> Result:
    return call.first().many(min(call.shape("self")))


@linear_rule("index_add")
def _index_add(call: Call) -> Result:
    many = call.bound("source").many(_most_rows(call["index"]))
    return call.bound("self").plus(many.scaled(call.get("alpha", 1)))


@linear_rule("embedding_dense_backward")
def _embedding_backward(call: Call) -> Result:
    return call.bound("grad_output").many(_most_rows(call["indices"].flatten()))


@linear_rule("_embedding_bag", "_embedding_bag_forward_only")
def _bags(call: Call) -> Result:
    if call["mode"] != 0:
        raise Refusal("undecided", f"{call.func} with mode={call['mode']} has no rule")
    said = call.bound("weight")
    if call.get("per_sample_weights") is not None:
        if call.bound("per_sample_weights").terms.keys() - {()}:
            raise Refusal("undecided", f"{call.func} with weights that are data has no rule")
        said = call.times(said, "per_sample_weights")
    return [said.many(_most_bagged(call)), None, None, None]  # the others are indices


@linear_rule("segment_reduce", vendor=True)
def _segments(call: Call) -> Result:
    if call["reduce"] != "sum":
        raise Refusal("refuted", f"{call.func} with reduce={call['reduce']!r} is no sum")
    return call.bound("data").many(_longest_segment(call)).plus(call.bound("initial"))


@linear_rule("_segment_reduce_backward", vendor=True)
def _segments_backward(call: Call) -> Result:
    if call["reduce"] != "sum":
        raise Refusal("refuted", f"{call.func} with reduce={call['reduce']!r} is no sum")
    return call.bound("grad")


@linear_rule("scatter_add")
def _scatter_add(call: Call) -> Result:
    return call.bound("self").plus(call.bound("src").many(_most_scattered(call)))


@linear_rule("scatter", "scatter_reduce")
def _scatter(call: Call) -> Result:
    how = call.get("reduce")
    source = call.bound("src" if "src" in call.named else "value")
    if how is None:
        return call.bound("self").either(source)
    if how not in {"add", "sum"}:
        raise Refusal("refuted", f"{call.func} with reduce={how!r} is no sum")
    return call.bound("self").plus(source.many(_most_scattered(call)))


@linear_rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(call: Call) -> Result:
    if not call["accumulate"]:
        return call.bound("self").either(call.bound("values"))
    return call.bound("self").plus(call.bound("values").many(_most_put(call)))


@linear_rule("unfold_backward")
def _unfold_backward(call: Call) -> Result:
    return call.first().many(-(-call["size"] // call["step"]))


@linear_rule("col2im")
def _col2im(call: Call) -> Result:
    return call.first().many(prod(call["kernel_size"]))


@linear_rule("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward")
def _reflection_backward(call: Call) -> Result:
    # Padding is less than the size, so that a pixel has one mirror image at most beyond each end.
    return call.bound("grad_output").many(3 ** (len(call["padding"]) // 2))


@linear_rule(
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward"
)
def _replication_backward(call: Call) -> Result:
    pads = [max(0, n) for n in call["padding"]]
    pairs = zip(pads[::2], pads[1::2], strict=True)
    return call.bound("grad_output").many(prod(1 + a + b for a, b in pairs))


def part(numerator: int, denominator: int, odd: int = 1) -> Fraction:
    """Return a fraction of which entries that are multiples of `odd` can be taken exactly.

    Raises:
        Refusal: they cannot.
    """
    found = Fraction(numerator, denominator)
    rest = (found * odd).denominator
    if rest & (rest - 1):
        raise Refusal("undecided", f"the constant {found} is no binary fraction: no exact integers")
    return found


# How often one place is added to


def _most_rows(index: Tensor) -> int:
    """The most often that one number occurs."""
    if index.numel() == 0:
        return 0
    return int(torch.bincount(index.reshape(-1)).max())


def _most_scattered(call: Call) -> int:
    """The most entries that scatter adds into one place."""
    index, dim = call["index"], call["dim"]
    if index.numel() == 0:
        return 0
    for axis in range(index.dim()):  # an expanded index says the same along that axis
        if axis != dim % index.dim() and index.stride(axis) == 0:
            index = index.narrow(axis, 0, 1)
    shape = list(index.shape)
    if shape:
        shape[dim] = call.shape("self")[dim]
    count = torch.zeros(shape, dtype=torch.int64, device=index.device)
    return int(count.scatter_add(dim, index, torch.ones_like(index)).max())


def _most_put(call: Call) -> int:
    """The most entries that index_put adds into one place."""
    indices: list[Any] = list(call["indices"])
    shape, axis = [], 0
    for index in indices:
        mask = index is not None and index.dtype in {torch.bool, torch.uint8}
        for _ in range(index.dim() if mask else 1):
            shape.append(1 if index is None else call.shape("self")[axis])
            axis += 1
    device = call["self"].device
    count = torch.zeros(shape, dtype=torch.int64, device=device)
    one = torch.ones((), dtype=torch.int64, device=device)
    put = torch.ops.aten.index_put(count, indices, one, True)  # the method takes no None
    return int(put.max()) if put.numel() else 0


def _most_bagged(call: Call) -> int:
    """The most rows of one bag."""
    ends = call["offsets"]
    if not call["include_last_offset"]:
        ends = torch.cat([ends, ends.new_tensor([call["indices"].numel()])])
    return int(ends.diff().max()) if ends.numel() > 1 else 0


def _longest_segment(call: Call) -> int:
    """The most rows of one segment, or of all where neither lengths nor ends are given."""
    many = call.get("lengths")
    if many is None and call.get("offsets") is not None:
        many = call["offsets"].diff(dim=-1)
    whole = call.shape("data")[call["axis"]]
    return whole if many is None else int(many.max()) if many.numel() else 0


def _most_folded(call: Call) -> int:
    """The most taps of a patch that lie on one pixel."""
    axes = zip(call["kernel_size"], call["stride"], call["dilation"], strict=True)
    return prod(-(-k // (step // gcd(step, gap))) for k, step, gap in axes)


MOVES = (_keep, _cat, _where, _fill_some, _fill, _zero, _copy, _put_view, _put_rows)
"""Rules of operators whose entries are entries that they are given, or constants."""

NOT_COMPUTED = (*MOVES, _fresh)
"""Those, and rules of operators that make constants of a shape."""

ONE_BY_ONE: dict[str, Callable[[Call], int]] = {
    "index_add": lambda call: _most_rows(call["index"]),
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), lambda call: (
        _most_bagged(call) * (1 if call.get("per_sample_weights") is None else 2)
    )),
    "embedding_dense_backward": lambda call: _most_rows(call["indices"].flatten()),
    "segment_reduce": _longest_segment,
    "scatter_add": _most_scattered,
    **dict.fromkeys(("scatter", "scatter_reduce"), lambda call: (
        0 if call.get("reduce") is None else _most_scattered(call)
    )),
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), lambda call: (
        _most_put(call) if call["accumulate"] else 0
    )),
    "col2im": lambda call: _most_folded(call) - 1,  # into zeros
    "unfold_backward": lambda call: -(-call["size"] // call["step"]),
    "cumsum": lambda call: call.count("self", call["dim"]) - 1,
    "sum": lambda call: int(call.count("self", call.get("dim")) > 1),
}  # fmt: skip
"""Operators that add up one by one in the dtype of their result, and the most of one entry."""
