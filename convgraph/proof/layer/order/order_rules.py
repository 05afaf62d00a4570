"""What each operator makes of entries that are known by their order.

A rule gets a `Seen` call and returns what is known of each result. What has no rule here moves
nothing, compares nothing and adds nothing that can be followed, and is refused.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof import aten, trees
from convgraph.proof.layer.order import codes
from convgraph.proof.layer.order.ordered_tensor import Ordered, known
from convgraph.proof.layer.order.suppositions import alike, anywhere, everywhere
from convgraph.proof.layer.premise.call import Call, Refusal
from convgraph.proof.layer.premise.degrees import BITS, Bound

NO_ZERO = "nothing is divided by 0, and what is divided is a whole 0 or by 1"
"""Taken for granted of torch's own backward of `amax`, which divides by the number of equals; a
program that divides 0 by what is not known is refused."""


@final
class Seen:
    """One call: arguments by name, and what is known of them.

    Args:
        func: the operator, out of place.
        args: its arguments.
        kwargs: likewise.

    Attributes:
        held: by identity, what is known of tensors that are no constants, under one supposition.
        order: what is known of the order of sums of pixels; see `codes.decided`. None where there
            are none.
        sums: the same, for whoever compares.
        windows: by identity, whose window tensors follow from; see `whose`.
    """

    def __init__(self, func: Any, args: Any, kwargs: Any) -> None:
        """Bind the arguments to the operator's names."""
        self.func = func
        self.bound = Call(func, args, kwargs, lambda tensor: Bound())
        self.assumed: set[str] = set()
        self.held: dict[int, Tensor] = {}
        self.windows: dict[int, Tensor] = {}
        self.order: codes.Sums = None
        self.sums: codes.Sums = None
        self.device = next(v.device for v in trees.leaves((args, kwargs)) if isinstance(v, Tensor))

    def under(self, held: dict[int, Tensor], order: codes.Sums) -> "Seen":
        """The same call under a supposition."""
        self.held, self.order = held, order
        self.sums = order if aten.base_of(self.func) not in _ADD else None
        return self

    def __getitem__(self, name: str) -> Any:
        """An argument as it was given."""
        return self.bound.named.get(name)

    def real(self, name: str) -> bool:
        """Whether an argument holds real numbers."""
        value = self[name]
        if isinstance(value, Tensor):
            return value.dtype.is_floating_point
        return isinstance(value, float)

    def told(self, value: Ordered) -> Tensor:
        """What is known of a tensor."""
        return known(value.held(), value.memory.dtype) if value.constant else self.held[id(value)]

    def of(self, value: Any, real: bool) -> Tensor:
        """What is known of a value, as real numbers or as whole ones."""
        if isinstance(value, Ordered):
            found = self.told(value)
            dtype = value.memory.dtype
            if self.sums is not None and dtype.is_floating_point:
                found = codes.decided(found, self.sums)
        else:
            plain = torch.as_tensor(value, device=self.device)
            dtype = plain.dtype
            found = known(plain, dtype)
        if real and not dtype.is_floating_point:
            sure = codes.settled(found)
            return torch.where(sure, codes.number(found.real), codes.some(found, codes.ANY))
        if not real and dtype.is_floating_point:
            if anywhere(found.imag != 0):
                raise Refusal("refuted", "data are made whole numbers")
            return codes.whole(found.real)
        return found

    def joined(self, one: Tensor, two: Tensor) -> Tensor:
        """What is known of an entry that is one or the other, by their order."""
        if self.order is not None:
            one, two = (codes.decided(entry, self.order) for entry in (one, two))
        return codes.join(one, two)

    def knows(self, name: str, real: bool | None = None) -> Tensor:
        """What is known of an argument."""
        return self.of(self[name], self.real(name) if real is None else real)

    def whose(self, value: Any) -> Tensor:
        """Whose window a value follows from, entry by entry; nobody's where it is a constant."""
        shape = value.shape if isinstance(value, Tensor) else ()
        nobody = torch.zeros(shape, dtype=torch.float64, device=self.device)
        return self.windows.get(id(value), nobody)

    def is_sent(self, name: str) -> bool:
        """Whether an argument is made of a gradient."""
        value = self[name]
        return isinstance(value, Ordered) and value.memory.sent

    def plain(self, value: Any) -> Any:
        """The numbers of what is known; see `plain`."""
        return plain(value, self.told)

    def with_(self, name: str, value: Any, /, **more: Any) -> Any:
        """The operator with other arguments; tensors that are followed give way to plain ones."""
        named = {**self.bound.named, name: value, **more}
        schema = self.func._schema.arguments
        given = {k: self.plain(v) for k, v in named.items()}
        args = [given[a.name] for a in schema if not a.kwarg_only and a.name in given]
        rest = {a.name: given[a.name] for a in schema if a.kwarg_only and a.name in given}
        rest = {k: v for k, v in rest.items() if k not in ("dtype", "layout", "pin_memory")}
        return self.func(*args, **rest)


def plain(value: Any, told: Callable[[Ordered], Tensor]) -> Any:
    """Return the numbers of what is known, of a tensor or of each in a list.

    Raises:
        Refusal: they depend on data.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v, told) for v in value)
    if not isinstance(value, Ordered):
        return value
    if value.constant:
        return value.held()
    found = told(value)
    sure = (found.imag == 0) if value.dtype.is_floating_point else codes.settled(found)
    if not everywhere(sure):
        raise Refusal("undecided", "which numbers it is given depends on data")
    return found.real.to(value.dtype)


def at_large(value: Ordered) -> Tensor:
    """What is known of a tensor whatever is supposed.

    Raises:
        Refusal: that is not all that is known.
    """
    held = value.held()
    if not alike(held):
        raise Refusal("undecided", "which numbers it is given depends on data")
    return held[0]


Rule = Callable[[Seen], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def register(found: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, found))
        return found

    return register


def by_parts(run: Callable[[Tensor], Tensor], entry: Tensor) -> Tensor:
    """Run what only moves entries on what is known of them."""
    return torch.complex(run(entry.real.contiguous()), run(entry.imag.contiguous()))


def as_held(known: Tensor, dtype: torch.dtype, of_program: torch.dtype) -> Tensor:
    """Return what is known of entries once a dtype holds them.

    Raises:
        Refusal: a narrower one than the program's, or integers that grow too large.
    """
    if dtype.is_floating_point:
        data = known.imag != 0
        short = torch.finfo(dtype).max < torch.finfo(of_program).max
        if (short or BITS.get(dtype, 0) < BITS[of_program]) and bool(data.any()):
            raise Refusal("refuted", f"a narrowing cast: {dtype} within a program of {of_program}")
        return torch.where(data, known, codes.number(known.real.to(dtype)))
    if dtype is torch.bool:
        return codes.bools(known)
    room = torch.iinfo(dtype)
    most = min(room.max, 2**53)
    least = max(room.min, -most)
    beyond = (known.real < least) | (known.imag > most)
    if most == 2**53 and bool(beyond.any()):
        raise Refusal("undecided", "integers that comparisons decide may grow beyond 2^53")
    whole = torch.full_like(known.real, room.min), torch.full_like(known.real, room.max)
    return torch.where(beyond, torch.complex(*whole), known)


def linear(seen: Seen, name: str) -> bool:
    """Whether gradients that an operator is given are only moved and added."""
    sent = [
        k
        for k, v in seen.bound.named.items()
        if any(isinstance(t, Ordered) and t.memory.sent for t in trees.leaves(v))
    ]
    if name == "mul":
        return len(sent) < 2
    if name == "div":
        return "other" not in sent
    return not sent or (name in RULES and name not in _NOT_LINEAR)


_NOT_LINEAR = frozenset({
    "amax", "maximum", "fmax", "max", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "topk", "sort", "argmax", "gt", "ge", "lt", "le",
    "eq", "ne", "greater", "less", "isnan", "isinf", "amin", "any", "all", "logical_or",
    "logical_and", "logical_not", "minimum", "bitwise_or", "bitwise_and", "__or__", "__and__",
    "bitwise_not", "clamp", "clamp_min", "clamp_max", "scatter_reduce", "cumsum",
})  # fmt: skip


_ADD = frozenset({
    "add", "sub", "rsub", "mul", "sum", "index_add", "scatter_add", "index_put", "_index_put_impl",
    "_unsafe_index_put", "cat", "stack", "hstack", "vstack", "_cat", "where", "masked_fill", "copy",
    "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter", "gather", "take",
    "index_select", "embedding", "index", "_unsafe_index", "scatter",
    "constant_pad_nd", "_to_copy", "clone", "contiguous", "detach", "alias", "_unsafe_view",
    "reshape", "diagonal_backward", "expand_copy",
    "lift_fresh", "positive", "fill", "zero", "index_copy", "index_fill", "col2im",
    "unfold_backward", "embedding_dense_backward", "max_pool2d_with_indices_backward",
    "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d_backward",
}) | (aten.KEEPS - aten.PICKS)  # fmt: skip
"""Operators that move and add: sums stay sums there, for all others they have an order."""


# Moves

FIRST = aten.KEEPS - aten.PICKS - {"_to_copy", "clone", "contiguous"}


@rule(*FIRST, "_unsafe_view", "reshape", "diagonal_backward",
      "expand_copy", "lift_fresh", "positive")  # fmt: skip
def _move(seen: Seen) -> Tensor:
    name = next(iter(seen.bound.named))
    return by_parts(lambda t: seen.with_(name, t), seen.knows(name))


@rule("clone", "contiguous", "detach", "alias")
def _same(seen: Seen) -> Tensor:
    return seen.knows("self").clone()


@rule("_to_copy")
def _cast(seen: Seen) -> Tensor:
    to = seen["dtype"] or seen["self"].dtype
    found = seen.knows("self", to.is_floating_point)
    return found.clone()  # rounded, and refused where it is narrower, by `as_held`


@rule("cat", "stack", "hstack", "vstack", "_cat")
def _join(seen: Seen) -> Tensor:
    parts: Any = seen["tensors"]
    real = any(t.dtype.is_floating_point for t in parts)
    held = [seen.of(t, real) for t in parts]
    return torch.complex(
        seen.with_("tensors", [t.real.contiguous() for t in held]),
        seen.with_("tensors", [t.imag.contiguous() for t in held]),
    )


@rule("constant_pad_nd")
def _pad(seen: Seen) -> Tensor:
    found, real = seen.knows("self"), seen.real("self")
    with_code = 0 if real else seen["value"]
    return torch.complex(
        seen.with_("self", found.real.contiguous()),
        seen.with_("self", found.imag.contiguous(), value=with_code),
    )


@rule("slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter", "copy")
def _put(seen: Seen) -> Tensor:
    real = seen.real("self")
    one, two = seen.knows("self", real), seen.knows("src", real)
    if aten.base_of(seen.func) == "copy":
        return two.expand(one.shape).clone()
    return torch.complex(
        seen.with_("self", one.real.contiguous(), src=two.real.contiguous()),
        seen.with_("self", one.imag.contiguous(), src=two.imag.contiguous()),
    )


@rule("index_copy")
def _index_copy(seen: Seen) -> Tensor:
    real = seen.real("self")
    one, two = seen.knows("self", real), seen.knows("source", real)
    place, unknown = index_of(seen, "index")
    if anywhere(unknown):
        return _nothing(one, real)
    return torch.complex(
        seen.with_("self", one.real.contiguous(), index=place, source=two.real.contiguous()),
        seen.with_("self", one.imag.contiguous(), index=place, source=two.imag.contiguous()),
    )


@rule("index_fill")
def _index_fill(seen: Seen) -> Tensor:
    real = seen.real("self")
    one, value = seen.knows("self", real), seen.knows("value", real)
    place, unknown = index_of(seen, "index")
    if anywhere(unknown) or value.numel() != 1:
        return _nothing(one, real)
    filled = torch.zeros(one.shape, dtype=torch.bool, device=seen.device)
    return torch.where(filled.index_fill(seen["dim"], place, True), value.reshape(()), one)


@rule("fill")
def _fill(seen: Seen) -> Tensor:
    return seen.knows("value", seen.real("self")).expand(seen["self"].shape).clone()


@rule("zero")
def _zero(seen: Seen) -> Tensor:
    return torch.zeros(seen["self"].shape, dtype=torch.complex128, device=seen.device)


@rule("where")
def _where(seen: Seen) -> Tensor:
    return _choose(seen, seen.of(seen["condition"], False), "self", "other")


@rule("masked_fill")
def _masked_fill(seen: Seen) -> Tensor:
    return _choose(seen, seen.of(seen["mask"], False), "value", "self")


def _choose(seen: Seen, decided: Tensor, one: str, two: str) -> Tensor:
    real = seen.real(one) or seen.real(two)
    a, b = seen.knows(one, real), seen.knows(two, real)
    decided, a, b = torch.broadcast_tensors(decided, a, b)
    either = seen.joined(a, b) if real else _hull(a, b)
    return torch.where(decided.real > 0, a, torch.where(decided.imag == 0, b, either))


def _hull(one: Tensor, two: Tensor) -> Tensor:
    return torch.complex(torch.minimum(one.real, two.real), torch.maximum(one.imag, two.imag))


# Where an index is a decision


def index_of(seen: Seen, name: str) -> tuple[Tensor, Tensor]:
    """Indices, 0 for those that are not known, and which those are."""
    found = seen.of(seen[name], False)
    sure = codes.settled(found)
    return torch.where(sure, found.real, 0.0).long(), ~sure


def _unknown(like: Tensor, real: bool, source: Tensor) -> Tensor:
    """Some entry of a source, nobody knows which."""
    if real:
        return codes.some(like, codes.ANY if everywhere(codes.finite(source)) else codes.OPEN)
    low, high = source.real.min(), source.imag.max()
    return torch.complex(low.expand(like.shape).clone(), high.expand(like.shape).clone())


@rule("gather", "take", "index_select", "embedding")
def _gather(seen: Seen) -> Tensor:
    first = "weight" if aten.base_of(seen.func) == "embedding" else "self"
    name = "indices" if first == "weight" else "index"
    place, unknown = index_of(seen, name)
    source, real = seen.knows(first), seen.real(first)
    found = torch.complex(
        seen.with_(first, source.real.contiguous(), **{name: place}),
        seen.with_(first, source.imag.contiguous(), **{name: place}),
    )
    if not anywhere(unknown):
        return found
    if aten.base_of(seen.func) not in ("gather", "take"):  # one index, many entries
        unknown = torch.ones_like(found.real, dtype=torch.bool)
    return torch.where(unknown, _unknown(found, real, source), found)


@rule("index", "_unsafe_index")
def _advanced(seen: Seen) -> Tensor:
    source, real = seen.knows("self"), seen.real("self")
    places, unsure = places_of(seen)
    found = torch.complex(
        seen.with_("self", source.real.contiguous(), indices=places),
        seen.with_("self", source.imag.contiguous(), indices=places),
    )
    return _unknown(found, real, source) if unsure else found


def places_of(seen: Seen) -> tuple[list[Any], bool]:
    """Indices of an advanced index, and whether any depends on data."""
    places: list[Any] = []
    unsure = False
    for index in seen["indices"]:
        if not isinstance(index, Ordered) or index.constant:
            places.append(index if not isinstance(index, Ordered) else index.held())
            continue
        found = seen.told(index)
        sure = codes.settled(found)
        if index.dtype in (torch.bool, torch.uint8) and not everywhere(sure):
            raise Refusal("undecided", "which entries a mask names depends on data")
        unsure = unsure or not everywhere(sure)
        places.append(torch.where(sure, found.real, 0.0).to(index.dtype))
    return places, unsure


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(seen: Seen) -> Tensor:
    real = seen.real("self")
    held, values = seen.knows("self", real), seen.knows("values", real)
    places, unsure = places_of(seen)
    if unsure and not (seen["accumulate"] and everywhere(values == 0)):
        return _nothing(held, real)
    if not seen["accumulate"]:
        return torch.complex(
            seen.with_("self", held.real.contiguous(), values=values.real, indices=places),
            seen.with_("self", held.imag.contiguous(), values=values.imag, indices=places),
        )
    return _two_sums(held, values, real, lambda a, b: seen.with_(
        "self", a, values=b, indices=places))  # fmt: skip


def _nothing(held: Tensor, real: bool) -> Tensor:
    if real:
        return codes.some(held, codes.OPEN)
    far = torch.full(held.shape, codes.WIDE, dtype=torch.float64, device=held.device)
    return torch.complex(-far, far)


def _two_sums(
    one: Tensor, two: Tensor, real: bool, run: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """A sum into entries that are there already."""
    if not real:
        return torch.complex(
            run(one.real.contiguous(), two.real), run(one.imag.contiguous(), two.imag)
        )
    size = one.numel()
    both = torch.cat([one.reshape(-1), two.reshape(-1)])
    return codes.alone(
        lambda t: run(t[:size].reshape(one.shape).clone(), t[size:].reshape(two.shape)), both
    )


@rule("scatter_add", "index_add")
def _scatter_add(seen: Seen) -> Tensor:
    name = "src" if aten.base_of(seen.func) == "scatter_add" else "source"
    real = seen.real("self")
    held, values = seen.knows("self", real), seen.knows(name, real)
    if (seen["alpha"] or 1) != 1:
        return _nothing(held, real)
    place, unknown = index_of(seen, "index")
    if name == "source":
        lost = anywhere(unknown) and not everywhere(values == 0)
    else:
        lost = anywhere(unknown & (values != 0))
    if lost:
        return _nothing(held, real)
    return _two_sums(held, values, real, lambda a, b: seen.with_(
        "self", a, index=place, **{name: b}))  # fmt: skip


@rule("scatter", "scatter_reduce")
def _scatter(seen: Seen) -> Tensor:
    how, real = seen["reduce"], seen.real("self")
    name = "src" if "src" in seen.bound.named else "value"
    held = seen.knows("self", real)
    place, unknown = index_of(seen, "index")
    values = seen.knows(name, real).expand(place.shape)
    axis = seen["dim"]

    def put(a: Tensor, b: Tensor) -> Tensor:
        if name == "value":
            return a.scatter(axis, place, b.contiguous())
        return seen.with_("self", a.contiguous(), index=place, src=b.contiguous())  # type: ignore[no-any-return]

    if how is None:
        made = torch.complex(put(held.real, values.real), put(held.imag, values.imag))
        if not anywhere(unknown):
            return made
        if place.dim() == 0 or place.shape[axis] != 1:
            return _nothing(held, real)
        hit = torch.zeros(held.shape, dtype=torch.float64, device=seen.device)
        hit = hit.scatter(axis, place, unknown.double()).amax(axis, keepdim=True) > 0
        row = torch.zeros_like(held)
        row = torch.complex(
            row.real.scatter(axis, place, values.real.contiguous()),
            row.imag.scatter(axis, place, values.imag.contiguous()),
        ).narrow(axis, 0, 1)  # whose index is not known has 0 for it
        either = seen.joined(held, row) if real else _hull(held, row.expand(held.shape))
        return torch.where(hit, either, made)
    if anywhere(unknown):
        return _nothing(held, real)
    if not real:
        if how in ("amax", "amin", "sum", "add"):
            return torch.complex(put(held.real, values.real), put(held.imag, values.imag))
        raise Refusal("undecided", f"scatter_reduce by {how} of decisions has no rule")
    if how == "amax":
        size = held.numel()
        both = torch.cat([held.reshape(-1), values.reshape(-1)])
        return codes.peak(
            lambda t: put(t[:size].reshape(held.shape), t[size:].reshape(values.shape)), both
        )
    if how in ("sum", "add"):
        return _two_sums(held, values, real, put)
    raise Refusal("refuted", f"scatter_reduce by {how} of data is no maximum")


# Maxima


@rule("amax")
def _amax(seen: Seen) -> Any:
    if not seen.real("self"):
        return _rising(seen)
    return codes.peak(lambda t: seen.with_("self", t), seen.knows("self"))


@rule("maximum", "fmax")
def _maximum(seen: Seen) -> Any:
    real = seen.real("self") or seen.real("other")
    if not real:
        return _rising(seen)
    one, two = torch.broadcast_tensors(seen.knows("self", True), seen.knows("other", True))
    return codes.peak(lambda t: t.amax(0), torch.stack([one, two]))


@rule("max")
def _max(seen: Seen) -> Any:
    if seen["dim"] is None and "other" in seen.bound.named:
        return _maximum(seen)
    if not seen.real("self"):
        raise Refusal("undecided", "a maximum of decisions has no rule")
    if "dim" not in seen.bound.named:
        return codes.peak(lambda t: seen.with_("self", t), seen.knows("self"))
    return _chosen(seen, lambda t: seen.with_("self", t))


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
      "adaptive_max_pool3d")  # fmt: skip
def _pool(seen: Seen) -> Any:
    return _chosen(seen, lambda t: seen.with_("self", t))


@rule("topk", "sort")
def _sorted(seen: Seen) -> Any:
    down = seen["largest"] if "largest" in seen.bound.named else seen["descending"]
    entry, axis = seen.knows("self"), -1 if seen["dim"] is None else seen["dim"]
    if not seen.real("self") or (aten.base_of(seen.func) == "topk" and not down):
        raise Refusal("undecided", f"{aten.base_of(seen.func)} of these entries has no rule")
    values, places = _chosen(seen, lambda t: t.max(axis, keepdim=True), entry)
    count = seen["k"] if "k" in seen.bound.named else entry.shape[axis]
    rest = list(values.shape)
    rest[axis] = count - 1
    like = torch.zeros(rest, dtype=torch.float64, device=seen.device)
    parts = [(values, codes.some(like, codes.OPEN)), (places, _nothing(like, False))]
    return [torch.cat([a, b] if down else [b, a], axis) for a, b in parts]


def _chosen(seen: Seen, run: Callable[[Tensor], Any], entry: Tensor | None = None) -> Any:
    """Maxima and where they are, which is known where one entry is above all others."""
    entry = seen.knows("self") if entry is None else entry
    values = codes.peak(lambda t: run(t)[0], entry)
    code = entry.imag
    mute = (code == 0) & (entry.real == -torch.inf)
    rank = torch.where(mute, -torch.inf, code)
    highest, place = run(rank)
    tied = run(torch.where((code > 0) & (code % 3 == codes.AT_MOST), code + 2, rank))[0] > highest
    top = (values.imag > 0) & (values.imag % 3 == codes.TOP) & ~tied
    plain_too = everywhere(code == 0)
    if plain_too:
        place = run(entry.real)[1]
    sure = top | plain_too
    wide = torch.full(place.shape, codes.WIDE, dtype=torch.float64, device=place.device)
    index = place.double()
    return [
        values,
        torch.complex(torch.where(sure, index, 0.0), torch.where(sure, index, wide)),
    ]


@rule("argmax")
def _argmax(seen: Seen) -> Tensor:
    axis, keep = seen["dim"], bool(seen["keepdim"])
    entry = seen.knows("self")
    if axis is None:
        entry, axis, keep = entry.reshape(-1), 0, False
    found: Tensor = _chosen(seen, lambda t: t.max(axis, keepdim=keep), entry)[1]
    return found


# Comparisons


@rule("gt", "ge", "lt", "le", "eq", "ne", "greater", "less")
def _compare(seen: Seen) -> Tensor:
    real = seen.real("self") or seen.real("other")
    one, two = seen.knows("self", real), seen.knows("other", real)
    if real:
        less, equal, greater = codes.order(one, two)
    else:
        one, two = torch.broadcast_tensors(one, two)
        less, greater = one.real < two.imag, one.imag > two.real
        equal = (one.real <= two.imag) & (one.imag >= two.real)
    may, may_not = {
        "gt": (greater, less | equal), "ge": (greater | equal, less),
        "lt": (less, greater | equal), "le": (less | equal, greater),
        "eq": (equal, less | greater), "ne": (less | greater, equal),
    }[{"greater": "gt", "less": "lt"}.get(name := aten.base_of(seen.func), name)]  # fmt: skip
    return codes.truth(may, may_not)


@rule("isnan", "isinf")
def _never(seen: Seen) -> Tensor:
    entry = seen.knows("self")
    if aten.base_of(seen.func) == "isnan":
        sure = (entry.imag > 0) | codes.finite(entry) | (entry.imag == 0)
        return codes.truth((entry.imag == 0) & entry.real.isnan() | ~sure, ~entry.real.isnan())
    sure = codes.finite(entry) | (entry.imag == 0)
    found = (entry.imag == 0) & entry.real.isinf()
    return codes.truth(found | ~sure, ~found)


# Sums of which one term alone is not 0


@rule("add", "sub", "rsub")
def _add(seen: Seen) -> Tensor:
    real, by = seen.real("self") or seen.real("other"), seen["alpha"] or 1
    minus = aten.base_of(seen.func) in ("sub", "rsub")
    one, two = torch.broadcast_tensors(seen.knows("self", real), seen.knows("other", real))
    one, two = (two, one) if aten.base_of(seen.func) == "rsub" else (one, two)
    by = -by if minus else by
    if not real:
        ends = _in_order(two.real * by, two.imag * by)
        return torch.complex(one.real + ends[0], one.imag + ends[1])
    if everywhere(two.imag == 0):
        two = codes.number(two.real * by)
    elif by != 1:
        two = torch.where(two == 0, two, codes.some(two, codes.OPEN))
    return codes.alone(lambda t: t.sum(0), torch.stack([one, two]))


def _in_order(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Least and most of two."""
    return torch.minimum(one, two), torch.maximum(one, two)


@rule("mul")
def _mul(seen: Seen) -> Tensor:
    if not (seen.real("self") or seen.real("other")):
        one, two = torch.broadcast_tensors(seen.knows("self"), seen.knows("other"))
        ends = torch.stack([a * b for a in (one.real, one.imag) for b in (two.real, two.imag)])
        return torch.complex(ends.amin(0), ends.amax(0))
    return codes.times(seen.knows("self", True), seen.knows("other", True))


@rule("div")
def _div(seen: Seen) -> Tensor:
    if seen["rounding_mode"] is not None:
        raise Refusal("refuted", "a division that rounds")
    one, two = torch.broadcast_tensors(seen.knows("self", True), seen.knows("other", True))
    found = torch.where((two == 1), one, codes.some(one, codes.OPEN))
    if anywhere((one == 0) & (two.imag != 0)):
        seen.assumed.add(NO_ZERO)
    found = torch.where((one == 0) & ((two.imag != 0) | (two.real != 0)), one, found)
    both = (one.imag == 0) & (two.imag == 0)
    return torch.where(both, codes.number(one.real / two.real), found)


@rule("neg")
def _neg(seen: Seen) -> Tensor:
    entry = seen.knows("self")
    if not seen.real("self"):
        return torch.complex(-entry.imag, -entry.real)
    other = torch.where(codes.finite(entry), codes.ANY, codes.OPEN).double()
    turned = torch.complex(torch.zeros_like(other), other)
    return torch.where(entry.imag == 0, codes.number(-entry.real), turned)


_BACK = ("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward",
         "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward")  # fmt: skip


@rule(*_BACK)
def _pool_back(seen: Seen) -> Tensor:
    place, unknown = index_of(seen, "indices")
    came = seen.knows("grad_output", True)
    like = torch.zeros(seen["self"].shape, dtype=torch.float64, device=seen.device)
    if anywhere(unknown & (came != 0)):
        return codes.some(like, codes.OPEN)
    return codes.alone(lambda t: seen.with_(
        "grad_output", t.contiguous(), indices=place, self=like), came)  # fmt: skip


@rule("sum", "col2im", "unfold_backward", "embedding_dense_backward")
def _sum(seen: Seen) -> Tensor:
    name = next(iter(seen.bound.named))
    entry = seen.knows(name)
    if not seen.real(name):
        return torch.complex(seen.with_(name, entry.real), seen.with_(name, entry.imag))
    return codes.alone(lambda t: seen.with_(name, t.contiguous()), entry)


# Decisions among themselves


@rule("amin", "cumsum", "any", "all", "logical_or", "logical_and", "minimum")
def _rising(seen: Seen) -> Tensor:
    """What does not fall where its arguments rise."""
    real = [k for k, v in seen.bound.named.items() if isinstance(v, Tensor) and seen.real(k)]
    if real:
        raise Refusal("refuted", f"{aten.base_of(seen.func)} of data is no maximum")
    ends, logical = [], aten.base_of(seen.func) in ("any", "all", "logical_or", "logical_and")
    for end in (0, 1):
        given = {
            k: _end(codes.bools(seen.knows(k)) if logical else seen.knows(k), end, v.dtype)
            for k, v in seen.bound.named.items()
            if isinstance(v, Tensor)
        }
        name = next(iter(given))
        ends.append(seen.with_(name, given.pop(name), **given).double())
    return torch.complex(*ends)


def _end(span: Tensor, end: int, dtype: torch.dtype) -> Tensor:
    return (span.imag if end else span.real).to(dtype)


@rule("bitwise_or", "bitwise_and", "__or__", "__and__")
def _bits(seen: Seen) -> Any:
    parts = [v for v in (seen["self"], seen["other"]) if isinstance(v, Tensor)]
    if all(t.dtype is torch.bool for t in parts) or any(isinstance(v, bool) for v in parts):
        return _rising(seen)
    return entry_by_entry(seen)


@rule("logical_not", "bitwise_not")
def _not(seen: Seen) -> Tensor:
    if seen["self"].dtype is not torch.bool:
        return entry_by_entry(seen)
    span = seen.knows("self")
    return torch.complex(1 - span.imag, 1 - span.real)


@rule("clamp", "clamp_min", "clamp_max")
def _clamp(seen: Seen) -> Tensor:
    entry = seen.knows("self")
    if not seen.real("self"):
        low, high = seen["min"], seen["max"]
        ends = (entry.real.clamp(low, high), entry.imag.clamp(low, high))
        return torch.complex(*ends)
    return entry_by_entry(seen)


def entry_by_entry(seen: Seen) -> Tensor:
    """An operator entry by entry, of which all are known: run as it is."""
    try:
        given = {k: seen.plain(v) for k, v in seen.bound.named.items() if isinstance(v, Tensor)}
    except Refusal:
        reason = f"{aten.base_of(seen.func)} of data is no maximum, no comparison and no move"
        raise Refusal("refuted", reason) from None
    name = next(iter(given))
    found = seen.with_(name, given.pop(name), **given)
    if not isinstance(found, Tensor):
        raise ProofError(f"{seen.func} returns more than a tensor")
    return known(found, found.dtype)
