"""What follows a program by the order of its entries, forward and backward."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof import aten, trees
from convgraph.proof.layer.order import codes
from convgraph.proof.layer.order.order_rules import (
    NO_ZERO,
    RULES,
    Rule,
    Seen,
    as_held,
    at_large,
    entry_by_entry,
    linear,
    plain,
)
from convgraph.proof.layer.order.ordered_tensor import Memory, Ordered
from convgraph.proof.layer.order.suppositions import alike, under_each
from convgraph.proof.layer.order.whose import whose
from convgraph.proof.layer.premise import source_lines
from convgraph.proof.layer.premise.call import Refusal, falls_apart
from convgraph.proof.layer.premise.made_of import NOTHING, Given, MadeOf
from convgraph.proof.layer.premise.steps import Step, asks_only, is_step, made_by, reshapes
from convgraph.proof.layer.premise.traced_tensor import Origin, address
from convgraph.proof.ways_out import SAYS

_KNOWN = (Path(torch.__file__).parent, Path(aten.__file__).parent)

_EMPTY = frozenset({"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"})


@final
class Follower:
    """Follows one run, under one or more suppositions side by side.

    Args:
        dtype: in which the program computes.
        sums: what is known of the order of sums of pixels under each, see `codes.decided`; None
            for nothing.
        many: how many suppositions.

    Attributes:
        refused: the first refusal, its operator and line.
        assumed: what was taken for granted.
        numbers: constants that a refused operator was given.
        steps: operators on data, views left out.
        operators: how many were followed.
        decides: whether the program itself used what comparisons decided, which may join windows.
        sends: whether gradients are sent.
        made_of: numbers what results are made of.
    """

    def __init__(self, dtype: torch.dtype, sums: codes.Sums = None, many: int = 1) -> None:
        """Start with nothing seen."""
        self.dtype, self.sums, self.many = dtype, sums, many
        self.refused: tuple[Refusal, Origin] | None = None
        self.assumed: set[str] = set()
        self.numbers: list[float] = []
        self.steps: list[Step] = []
        self.operators = 0
        self.decides = False
        self.sends = False
        self.made_of = MadeOf()
        self._given: Given = (0, None)

    def enter(
        self, known: Tensor, requires_grad: bool = True, whose: Tensor | None = None
    ) -> Ordered:
        """Wrap an image, (suppositions, *shape), and whose windows its entries are in."""
        made = Ordered(known[0], self._input(known, whose), self, requires_grad)
        self.made_of.enter(made)
        return made

    def send(self, known: Tensor, whose: Tensor | None = None) -> Ordered:
        """Wrap a gradient, which may be moved and added and nothing else."""
        self.sends = True
        made = Ordered(known[0], self._input(known, whose, sent=True), self)
        self.made_of.enter(made)
        return made

    def _input(self, known: Tensor, whose: Tensor | None, sent: bool = False) -> Memory:
        own = None if whose is None else whose.flatten(1)
        return Memory(None, known.flatten(1), self.dtype, own, data=True, frozen=True, sent=sent)

    def refuse(self, status: str, operator: str, reason: str) -> None:
        """Remember the first refusal, and stop here.

        Raises:
            Refusal: always.
        """
        refusal = Refusal(status, reason)
        if self.refused is None:
            self.refused = (refusal, Origin(operator, source_lines.here()))
        raise refusal

    def leave(self, tensor: Tensor, way: str) -> Tensor:
        """Hand out what a constant holds."""
        if not isinstance(tensor, Ordered):
            return tensor
        if not tensor.constant:
            reason = "data leave torch where nobody can follow"
            self.refuse("undecided", f"Tensor.{way}", reason)
        if way not in (*SAYS, "numpy", "__array__"):
            self.refuse("undecided", f"Tensor.{way}", "memory leaves torch")
        self.decides = self.decides or tensor.memory.decided
        return tensor.held().clone()

    # One operator

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator on what is known."""
        leaves = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Tensor)]
        ordered = [t for t in leaves if isinstance(t, Ordered)]
        name = aten.base_of(func)
        if asks_only(func, name):
            return func(*trees.mapped(_shell, args), **trees.mapped(_shell, kwargs))
        reached = any(not t.constant for t in ordered)
        data = any(t.memory.data for t in ordered)
        decided = any(t.memory.decided for t in ordered)
        # A gradient that was sent somewhere by a decision is only moved and added from there on.
        uses = any(t.memory.decided and not t.memory.sent for t in ordered)
        if uses and not func.is_view and not self.decides:
            self.decides = not self.sends or _of_the_program()
        given = self._told(func, name, args, kwargs, data)
        written = aten.written(func, args, kwargs)
        try:
            if reached or data:
                made = self._known(func, name, args, kwargs, data)
            else:
                made = self._constant(func, args, kwargs)
            if name not in aten.FILLS:
                sent = any(t.memory.sent for t in ordered)
                self._mark(made, reached, decided, sent)
            if name == "_unsafe_view":
                self.made_of.same(made, args[0])
            elif given is not None:
                self.made_of.made(given, made, written, (args, kwargs))
            return made
        except Refusal as refusal:
            if self.refused is None:
                self.numbers += [v for v in trees.leaves((args, kwargs)) if isinstance(v, float)]
            self.refuse(refusal.status, aten.qualified_name(func), str(refusal))

    def _told(self, func: Any, name: str, args: Any, kwargs: Any, data: bool) -> Given | None:
        """What an operator is given, if its results are numbered by it."""
        if not data:
            return self.made_of.beside(func, args, kwargs, aten.written(func, args, kwargs))
        if not is_step(func) or falls_apart(func, name):
            return None
        self._given = self.made_of.given(func, args, kwargs)
        return None if name in NOTHING else self._given

    def _step(self, func: Any, made: Any) -> None:
        step = Step(func.name(), made_by(made), source_lines.place(), self._given[0])
        self.steps.append(step)

    def _known(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], data: bool
    ) -> Any:
        if data and falls_apart(func, name):
            return func.decompose(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Refusal("undecided", "random numbers: two calls are two functions")
        self.operators += 1
        if name in aten.FILLS:
            shells = trees.mapped(_shell, args), trees.mapped(_shell, kwargs)
            made = self._constant(func, *shells)
            if data and is_step(func):
                self._step(func, made)
            return made
        if name in aten.READS:
            return self._read(func, name, args, kwargs)
        written = aten.written(func, args, kwargs)
        for target in written:
            if not isinstance(target, Ordered) or target.memory.frozen:
                raise Refusal("undecided", "data are written to an input, or to what outlives it")
        if func.is_view or torch.Tag.inplace_view in func.tags:
            return self._view(func, name, args, kwargs)
        if func.namespace != "aten":
            raise Refusal("undecided", "a custom operator: nobody can look into it")
        plain_func = aten.out_of_place(func)
        seen = Seen(plain_func, args, kwargs)
        found = RULES.get(name)
        if found is None and plain_func._can_decompose() and not written:
            return plain_func.decompose(*args, **kwargs)
        if found is None and not (aten.elementwise(func) or name in _ANY_KNOWN):
            raise Refusal("undecided", f"{name} of data has no rule among maxima and comparisons")
        if not linear(seen, name):
            raise Refusal("undecided", f"{name} of a gradient: it is not only moved and added")
        results, owners = self._under_each(found or entry_by_entry, seen, args, kwargs)
        if NO_ZERO in seen.assumed and (not self.sends or _of_the_program()):
            raise Refusal("undecided", "0 is divided by what is not known: it may be 0 too")
        self.assumed |= seen.assumed
        if name in _KERNELS:
            self.assumed.add(f"aten.{name}: takes the largest entry, and says where it is")
        if written:
            return self._write(func, written, results, owners, data)
        several = isinstance(results, list)
        made = [
            self._wrap(r, owners, kind, data, strides)
            for r, (kind, strides) in zip(
                results if several else [results], _likes(func, args, kwargs, seen, several),
                strict=True,
            )
        ]  # fmt: skip
        if data and is_step(func) and not reshapes(func, args):
            self._step(func, made)
        return tuple(made) if several else made[0]

    def _under_each(self, rule: Rule, seen: Seen, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """What a rule makes of a call, under each supposition; and whose it is, where one asks."""
        data = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Ordered)]
        told = {id(t): t.held() for t in data if not t.constant}
        owners = {id(t): t.whose() for t in data if t.memory.whose is not None}

        def one(*given: Tensor) -> Any:
            left = iter(given)
            held, own = ({key: next(left) for key in known} for known in (told, owners))
            order = None if self.sums is None else (next(left), next(left))
            results = rule(seen.under(held, order))
            seen.windows = own
            return results, whose(seen, aten.base_of(seen.func)) if own else torch.zeros(())

        return under_each(one, [*told.values(), *owners.values(), *(self.sums or ())])  # type: ignore[list-item,no-any-return]

    def _mark(self, made: Any, reached: bool, decided: bool, sent: bool) -> None:
        """Say of results what decided them, and whether they are made of a gradient."""
        for result in trees.leaves(made):
            if not isinstance(result, Ordered):
                continue
            real = result.dtype.is_floating_point
            if sent and not real:
                raise Refusal("undecided", "a gradient is read, not only moved and added")
            memory = result.memory
            memory.decided = memory.decided or decided or (reached and not real)
            memory.sent = memory.sent or sent

    def _read(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if any(t.memory.sent for t in trees.leaves((args, kwargs)) if isinstance(t, Ordered)):
            raise Refusal("undecided", "a number is read off a gradient")
        if any(
            t.memory.whose is not None
            for t in trees.leaves((args, kwargs))
            if isinstance(t, Ordered)
        ):
            raise Refusal("undecided", "a number is read off what several windows decide")
        try:
            numbers = trees.mapped(lambda v: plain(v, at_large), (args, kwargs))
        except Refusal:
            raise Refusal("refuted", "a number is read off data") from None
        return self._constant(func, *numbers)

    def _view(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name == "view_dtype":
            raise Refusal("undecided", "entries are read as another dtype")
        (source,) = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Ordered)]
        if not func.is_view:  # in place
            if not aten.out_of_place(func).is_view:
                raise Refusal("undecided", "the memory of a tensor changes in place")
            with torch._C._DisableTorchDispatch():
                return func(*args, **kwargs)

        def first(value: Any) -> Any:  # under each supposition the same places
            if not isinstance(value, Ordered):
                return value
            return value.held() if value.constant else value.held()[0]

        outputs = func(*trees.mapped(first, args), **trees.mapped(first, kwargs))
        return trees.mapped(
            lambda v: Ordered(v, source.memory, self) if isinstance(v, Tensor) else v, outputs
        )

    def _write(self, func: Any, written: list[Any], results: Any, owners: Any, data: bool) -> Any:
        (target,) = written
        memory = target.memory
        if memory.known is None:
            assert memory.plain is not None  # a constant has numbers
            flat = memory.plain
            kind = codes.number if memory.dtype.is_floating_point else codes.whole
            memory.known, memory.plain = kind(flat).repeat(self.many, 1), None
        target.held().copy_(as_held(results, memory.dtype, self.dtype))
        if memory.whose is None and bool(owners.any()):
            memory.whose = torch.zeros_like(memory.known.real)
        if memory.whose is not None:
            target.whose().copy_(_spread(owners, results))
        memory.data = memory.data or (data and memory.dtype.is_floating_point)
        if data and is_step(func):
            self._step(func, [target])
        return target

    def _wrap(
        self,
        known: Tensor,
        owners: Tensor,
        dtype: torch.dtype,
        data: bool,
        strides: tuple[int, ...] | None,
    ) -> Ordered:
        known = as_held(known, dtype, self.dtype)
        real, owned = dtype.is_floating_point, bool(owners.any())
        if not (real or owned) and alike(known) and bool(codes.settled(known[0]).all()):
            plain_ = known[0].real.to(dtype).contiguous()
            return Ordered(plain_, Memory(plain_.reshape(-1), None, dtype), self)
        own = _flat(_laid(_spread(owners, known), strides)) if owned else None
        known = _laid(known, strides)
        return Ordered(known[0], Memory(None, _flat(known), dtype, own, data=data and real), self)

    def _constant(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator on constants: plain numbers that may be written to later."""
        ordered = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Ordered)]
        memories = {address(t.held()): t.memory for t in ordered}
        foreign = {
            address(t)
            for t in trees.leaves((args, kwargs))
            if isinstance(t, Tensor) and not isinstance(t, Ordered)
        }
        written = aten.written(func, args, kwargs)

        def held(value: Any) -> Any:
            return value.held() if isinstance(value, Ordered) else value

        outputs = func(*trees.mapped(held, args), **trees.mapped(held, kwargs))
        if written and any(isinstance(t, Ordered) for t in written):
            return written[0] if len(written) == 1 else outputs
        hollow = aten.base_of(func) in _EMPTY

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.layout != torch.strided:
                return value
            if value.is_complex():
                return value
            place = address(value)
            if place in memories:
                return Ordered(value, memories[place], self)
            if place in foreign:
                return value
            if hollow:
                value.fill_(torch.nan if value.dtype.is_floating_point else 0)
            flat = value.as_strided((value.untyped_storage().nbytes() // value.itemsize,), (1,), 0)
            return Ordered(value, Memory(flat, None, value.dtype), self)

        return trees.mapped(wrap, outputs)


_KERNELS = frozenset({
    "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
    "adaptive_max_pool3d",
})  # fmt: skip
_ANY_KNOWN = frozenset({"arange", "bincount", "nonzero", "floor_divide", "remainder"})


def _of_the_program() -> bool:
    """Whether a backward of the program's own asks for an operator, and not torch's alone."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if not any(path.is_relative_to(known) for known in _KNOWN):
            return True
        if frame.f_code.co_name == "_attempt":
            return False
        frame = frame.f_back
    return False


def _laid(known: Tensor, strides: tuple[int, ...] | None) -> Tensor:
    """The same in memory of its own, under each supposition as torch lays a result out."""
    one = known[0]
    strides = one.contiguous().stride() if strides is None else strides
    last = sum((n - 1) * step for n, step in zip(one.shape, strides, strict=True))
    size = 1 + last if one.numel() else 0
    laid = known.new_empty(len(known) * size).as_strided(known.shape, (size, *strides))
    return laid.copy_(known)


def _flat(laid: Tensor) -> Tensor:
    """All of it under each supposition, as it lies in memory."""
    return laid.as_strided((len(laid), laid.stride(0)), (laid.stride(0), 1))


def _spread(owners: Tensor, known: Tensor) -> Tensor:
    """Whose all entries are, of what is said of one for all."""
    owners = owners.reshape(len(owners), *(1,) * (known.dim() - owners.dim()), *owners.shape[1:])
    return owners.expand(known.shape)


def _shell(value: Any) -> Any:
    """A plain tensor of the same shape and dtype, for what asks for no entries."""
    if not isinstance(value, Ordered):
        return value
    if value.constant:
        return value.held()
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _likes(
    func: Any, args: Any, kwargs: Any, seen: Seen, several: bool
) -> list[tuple[torch.dtype, tuple[int, ...] | None]]:
    """Dtype of each result, and its strides where they are not those of rows, as torch says."""
    name = aten.base_of(func)
    if name in _BOOLS:
        return [(torch.bool, None)]
    if name in _SAME:
        first: Tensor = next(v for v in trees.leaves((args, kwargs)) if isinstance(v, Tensor))
        return [(first.dtype, None)]
    if name in ("sort", "topk", "max") and several:
        return [(seen["self"].dtype, None), (torch.int64, None)]

    tensors = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Tensor)]
    if all(t.is_contiguous() for t in tensors) and name in _PROMOTES:
        one, two = (seen[k] for k in ("self", "other"))
        return [(torch.result_type(one, two), None)]

    def meta(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    rest = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    out = aten.out_of_place(func)(*trees.mapped(meta, args), **trees.mapped(meta, rest))
    return [(t.dtype, t.stride()) for t in (out if several else [out])]


_BOOLS = frozenset({
    "gt", "ge", "lt", "le", "eq", "ne", "isnan", "isinf", "logical_or", "logical_and",
    "logical_not", "any", "all",
})  # fmt: skip
_PROMOTES = frozenset({"where", "bitwise_or", "bitwise_and", "add", "mul", "maximum"})
_SAME = frozenset({
    "index", "gather", "scatter_add", "index_put", "constant_pad_nd", "amax", "roll", "flip",
    "neg", "_unsafe_view",
})  # fmt: skip
