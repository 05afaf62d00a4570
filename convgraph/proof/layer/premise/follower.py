"""What follows a program operator by operator, forward and backward.

Each operator on data is run on what the tensors wrap, and its rule says which monomials come out.
Data hold magnitudes, and operators run on them as `magnitudes` says, so that what comes out counts
everything that was put together. Operators on constants make constants, whose numbers are read when
they meet data. Memory that nothing has written yet holds NaN, so that nobody reads it unseen.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convgraph.errors import ProofError
from convgraph.proof import aten, trees
from convgraph.proof.aten import READS, base_of, qualified_name
from convgraph.proof.layer.premise import magnitudes, source_lines
from convgraph.proof.layer.premise.call import RULES, VENDOR, Call, Refusal
from convgraph.proof.layer.premise.degrees import (
    BITS,
    Bound,
    Monomial,
    measure,
    spell,
    union,
)
from convgraph.proof.layer.premise.made_of import NOTHING, Given, MadeOf
from convgraph.proof.layer.premise.nonlinear import why_not
from convgraph.proof.layer.premise.rounded import HALF, NEVER, Rounded, after, either, roundings
from convgraph.proof.layer.premise.steps import Step, asks_only, is_step, made_by, reshapes
from convgraph.proof.layer.premise.traced_tensor import Memory, Origin, Traced, address, covers
from convgraph.proof.ways_out import SAYS

_EMPTY = frozenset({"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"})

NARROWING = "a narrowing cast"


@final
class Follower:
    """Follows one program.

    Args:
        lattice: the monomials that an entry may have on its way; others are refused where they
            arise.
        dtype: in which the program computes.
        a: inputs are integers of [-a, a]; 0 where they are no integers, and need no room.
        opaque: returns the results of an operator of no known rule that the caller trusts, as
            (tensor, bound) pairs, or None if it is not trusted.
        made_of: numbers what results are made of, each in its way.

    Attributes:
        refused: the first refusal, its operator and line.
        doubt: the first reason why nothing can be proven, its operator and line.
        assumed: names of what is multilinear by assumption.
        nodes: distinct (coefficients by degree, bits) of the nodes met.
        operators: how many were followed.
        steps: the operators on data, views left out.
        finest: s, where every entry on the way is a multiple of 2^-s.
        numbers: constants that a refused operator was given: data near them may show why.
        ended: whether the program has returned. Its tensors are plain numbers from then on.
        late: where a tensor of the program was used when it had ended, first things first.
        given: what the operator at hand was given; see `MadeOf`.
    """

    def __init__(
        self,
        lattice: Collection[Monomial],
        dtype: torch.dtype,
        a: int,
        opaque: Callable[["Follower", Any, tuple[Any, ...], dict[str, Any]], Any],
        made_of: tuple[MadeOf, ...],
    ) -> None:
        """Start with nothing seen."""
        self.lattice, self.dtype, self.a, self.opaque = lattice, dtype, a, opaque
        self.made_of = made_of
        self.refused: tuple[Refusal, Origin] | None = None
        self.doubt: tuple[Refusal, Origin] | None = None
        self.assumed: set[str] = set()
        self.nodes: dict[tuple[tuple[int, ...], int], Origin] = {}
        self.operators = 0
        self.steps: list[Step] = []
        self.finest = 0
        self.numbers: list[float] = []
        self.ended = False
        self.late: list[Origin] = []
        self.given: Given = (0, None)
        self.constant = 0.0
        self._made: Callable[[torch.dtype], Rounded] = lambda dtype: NEVER
        self._digest = hashlib.sha256()
        self._numbers = 0

    @property
    def trace(self) -> str:
        """SHA-256 of the operators followed, with shapes, dtypes and numbers."""
        return self._digest.hexdigest()

    # Inputs and refusals

    def enter(
        self, inner: Tensor, role: str, *, scale: int = 1, requires_grad: bool = True
    ) -> Traced:
        """Wrap an input, of multiples of a whole number."""
        memory = Memory(inner, Bound.of(role, scale), frozen=True)
        made = Traced(inner, memory, self, requires_grad)
        self._number(made)
        for numbers in self.made_of:
            numbers.enter(inner)
        return made

    def refuse(self, status: str, operator: str, reason: str) -> None:
        """Remember the first refusal, whatever the program does about it, and stop here.

        Raises:
            Refusal: always.
        """
        refusal = Refusal(status, reason)
        if self.refused is None:
            self.refused = (refusal, Origin(operator, source_lines.here()))
        raise refusal

    def hesitate(self, operator: str, reason: str) -> None:
        """Remember the first reason why nothing can be proven, and go on."""
        if self.doubt is None:
            self.doubt = (Refusal("undecided", reason), Origin(operator, source_lines.here()))

    def escape(self, tensor: Traced, way: str) -> Tensor:
        """Return what a constant holds, and remember it; refuse to give data away."""
        bound = tensor.bound
        tensor.memory.handed = tensor.memory.handed or ("" if way in SAYS else way)
        self._random(tensor.memory.random)
        if bound is not None and self.ended:
            self.late.append(Origin(f"Tensor.{way}", source_lines.here()))
        elif bound is not None:
            if way == "tolist":
                self.refuse("refuted", "Tensor.tolist", f"numbers of {_names(bound)} are read")
            function = source_lines.function_here()
            way_out = (
                f"trust=({function!r},) takes it as multilinear by assumption"
                if function
                else "an autograd function or a custom operator around it can be named in trust="
            )
            self.refuse(
                "undecided",
                f"Tensor.{way}" if not function else f"Tensor.{way} ({function})",
                f"{_names(bound)} leave torch where nobody can follow; {way_out}",
            )
        return tensor.held

    # One operator

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator on what is wrapped and say what is known of the result."""
        leaves = trees.leaves((args, kwargs))
        if any(map(_is_nowhere, leaves)):
            reason = "data left torch by a door that was taken before they were followed"
            self.refuse("undecided", qualified_name(func), reason)
        if self.ended:
            return self._late(func, args, kwargs)
        traced = [t for t in leaves if isinstance(t, Traced)]
        plain_args, plain_kwargs = trees.mapped(_unwrap, args), trees.mapped(_unwrap, kwargs)
        written = aten.written(func, args, kwargs)
        data = [t for t in traced if t.memory.bound is not None]
        random = next((t.memory.random for t in traced if t.memory.random), None)
        if torch.Tag.nondeterministic_seeded in func.tags:
            random = Origin(qualified_name(func), source_lines.here())
        if torch.Tag.inplace_view in func.tags and aten.out_of_place(func).is_view:
            return self._reshaped(func, args, plain_args, plain_kwargs)
        numbered = self._numbered(func, plain_args, plain_kwargs, written, bool(data))
        if not data:
            made = self._constant(func, plain_args, plain_kwargs, traced, written, random)
            numbered(made)
            return made
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._random(random)
        name = base_of(func)
        if asks_only(func, name):
            return func(*plain_args, **plain_kwargs)
        if name in READS:
            bound = data[0].bound
            self.refuse("refuted", qualified_name(func), f"a number is read off {_names(bound)}")
        for target in written:
            self._may_be_written(func, target)
        if func.namespace != "aten":
            made = self.opaque(self, func, args, kwargs)
            numbered(made)
            return made
        known = {id(t.held): t for t in traced}
        call = Call(func, plain_args, plain_kwargs, lambda t: self._known(known.get(id(t)), t))
        found = self._ruled(name, func, call, data) if self._needs_rule(func, name) else None
        if found is _DECOMPOSED:
            return func.decompose(*args, **kwargs)
        before = [self._all_of(t.memory) for t in written]
        kept = {id(t.held) for t in (*data, *written)}
        given = [t.memory.rounded for t in data]
        times = 0
        if self.dtype in HALF:
            times = roundings(name, call, lambda t: _is_data(known.get(id(t))))
        outputs = magnitudes.run(func, name, plain_args, plain_kwargs, kept)
        if self.dtype in HALF and not func.is_view:
            for made in aten.tensors_in(outputs, *(_unwrap(t) for t in written)):
                magnitudes.keep_support(made)
        self._made = lambda dtype: either(after(times, one, dtype) for one in given)
        step = is_step(func) and not reshapes(func, args)
        self.note(func.name(), leaves, outputs, step=step)
        numbered(outputs)
        if written:
            return self._write(func, written, before, found, data)
        return self._wrap(func, outputs, found, traced, data, args)

    def _numbered(
        self, func: Any, args: Any, kwargs: Any, written: list[Any], data: bool
    ) -> Callable[[Any], None]:
        """Look at what an operator is given; returns what numbers its results."""
        targets = trees.mapped(_unwrap, written)
        if not data:
            told = [one.beside(func, args, kwargs, targets) for one in self.made_of]
        elif is_step(func):
            given = [one.given(func, args, kwargs) for one in self.made_of]
            told, self.given = [*given], given[0]
        if data and (not is_step(func) or base_of(func) in NOTHING):
            return lambda outputs: None
        return lambda outputs: self.number(told, outputs, targets, (args, kwargs))

    def number(
        self, told: Sequence[Given | None], outputs: Any, written: Any = (), sent: Any = ()
    ) -> None:
        """Number results by what was told of it."""
        for one, given in zip(self.made_of, told, strict=True):
            if given is not None:
                one.made(given, trees.mapped(_unwrap, outputs), written, sent)

    def _reshaped(self, func: Any, args: Any, plain: Any, more: dict[str, Any]) -> Any:
        """A view in place: a tensor looks at its memory otherwise, to which nothing is written."""
        target, held = args[0], plain[0]
        if not isinstance(target, Traced):
            return func(*args, **more)
        if func is torch.ops.aten.as_strided_.default and _same_places(*plain):
            return target
        if target.memory.frozen:
            self.refuse("refuted", qualified_name(func), "the shape of an input changes in place")
        target.held = aten.out_of_place(func)(held, *plain[1:], **more)
        with torch._C._DisableTorchDispatch():
            func(*args, **more)
        return target

    def _may_be_written(self, func: Any, target: Any) -> None:
        """Refuse data where they outlive the call, where an input is, or where others look."""
        name = qualified_name(func)
        if not isinstance(target, Traced):
            self.refuse(
                "undecided", name, "data are written to memory that was not made by torch within "
                "this call, or that outlives it"
            )  # fmt: skip
        elif target.memory.frozen:
            self.refuse("refuted", name, "an input is written to")
        elif target.memory.handed:
            self.refuse(
                "undecided", name, f"data are written to memory that has left torch by "
                f"Tensor.{target.memory.handed}; whoever holds it can read and change them"
            )  # fmt: skip
        elif target.memory.bound is None and target.memory.base.layout == torch.strided:
            target.memory.base.abs_()  # from here on these entries are summed with data

    def _late(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator on what an earlier call has left behind: numbers in, numbers out."""
        traced = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Traced)]
        if any(t.memory.bound is not None for t in traced):
            self.late.append(Origin(qualified_name(func), source_lines.here()))
        return func(*trees.mapped(_unwrap, args), **trees.mapped(_unwrap, kwargs))

    def _random(self, drawn: Origin | None) -> None:
        """Random numbers meet data, or leave torch."""
        if drawn is not None and self.doubt is None:
            reason = "random numbers: two calls are two functions"
            self.doubt = (Refusal("undecided", reason), drawn)

    def _needs_rule(self, func: Any, name: str) -> bool:
        return name in RULES or not (func.is_view and name != "view_dtype")

    def _ruled(self, name: str, func: Any, call: Call, data: list[Traced]) -> Any:
        rule = RULES.get(name)
        if rule is None:
            if func._can_decompose() and name not in READS:
                return _DECOMPOSED
            status, reason = why_not(func, name, [t.bound for t in data])
            self.numbers += _constants(call)
            self.refuse(status, qualified_name(func), reason)
            return None
        try:
            found = rule(call)
        except Refusal as refusal:
            if refusal.status == "refuted":
                self.refuse("refuted", qualified_name(func), refusal.reason)
            self.refuse("undecided", qualified_name(func), refusal.reason)
        except ProofError as error:
            self.refuse("undecided", qualified_name(func), str(error))
        for bound in call.on_the_way:
            self._settle(qualified_name(func), bound, data[0].dtype)
        if name in VENDOR:
            self.assumed.add(f"aten.{name}")
        return found

    def _known(self, traced: Traced | None, inner: Tensor) -> Bound:
        if traced is not None and traced.bound is not None:
            return traced.bound
        if traced is not None and traced.memory.random:
            self._random(traced.memory.random)
        found = measure(inner, hollow=traced is not None and traced.memory.hollow)
        for number in found.terms.values():
            self.constant = max(self.constant, number / 2**found.step)
        return found

    def _all_of(self, memory: Memory) -> Bound:
        return measure(memory.base, hollow=memory.hollow) if memory.bound is None else memory.bound

    # What comes out

    def _constant(
        self, func: Any, args: Any, kwargs: Any, traced: list[Traced], written: list[Any],
        random: Origin | None,
    ) -> Any:  # fmt: skip
        """An operator on constants: what it makes is a constant that may be written to."""
        outputs = func(*args, **kwargs)
        if written and any(isinstance(t, Traced) for t in written):
            for target in written:
                if isinstance(target, Traced):
                    target.memory.random = target.memory.random or random
                else:
                    self._random(random)
            return written[0] if len(written) == 1 else outputs
        hollow = base_of(func) in _EMPTY
        foreign = {address(t) for t in trees.leaves((args, kwargs)) if isinstance(t, Tensor)}
        memories = {address(t.held): t.memory for t in traced}

        def wrap(value: Any) -> Any:
            followed = isinstance(value, Tensor) and value.dtype.is_floating_point
            place = address(value) if followed and value.layout == torch.strided else None
            if place in memories:
                return Traced(value, memories[place], self)
            if place is None or place in foreign:
                self._random(random)
                return value
            if hollow:
                value.fill_(torch.nan)
            return Traced(value, Memory(value, hollow=hollow, random=random), self)

        return trees.mapped(wrap, outputs)

    def _write(
        self, func: Any, written: list[Any], before: list[Bound], found: Any, data: list[Traced]
    ) -> Any:
        """The memory of what was written knows the new entries, and the old that remain."""
        bounds = found if isinstance(found, list) else [found]
        for target, old, bound in zip(written, before, bounds, strict=True):
            if target.held.shape != target.shape:
                self.refuse(
                    "undecided", qualified_name(func), "the shape of a tensor changes in place"
                )
            self._settle(qualified_name(func), bound, target.dtype)
            memory = target.memory
            origin = self._origin(func, bound, data)
            made = self._made(target.dtype)
            if covers(target.held):
                memory.rounded = made
                memory.bound, memory.hollow, memory.random = bound, False, None
                memory.pieces = ()
            else:
                self._random(memory.random)
                if old.terms.keys() - bound.terms.keys():
                    origin = Origin(qualified_name(func), source_lines.here())
                memory.bound, memory.pieces = old.either(bound), ()
                memory.rounded = either((memory.rounded, made))
            memory.origin = origin
            self._number(target)
        return written[0] if len(written) == 1 else tuple(written)

    def _side_by_side(self, func: Any, args: Any) -> tuple[tuple[int, int, Bound], ...]:
        """Where each operand of a concatenation along the first axis lies in the result."""
        if func is not torch.ops.aten.cat.default or (*args[1:], 0)[0] != 0:
            return ()
        found, start = [], 0
        for part in args[0]:
            known = part.bound if isinstance(part, Traced) else None
            end = start + part.numel()
            bound = measure(_unwrap(part)) if known is None else known
            found.append((start, end, bound))
            start = end
        return tuple(found)

    def _wrap(
        self, func: Any, outputs: Any, found: Any, traced: list[Traced], data: list[Traced],
        args: Any = (),
    ) -> Any:  # fmt: skip
        memories = {address(t.held): t.memory for t in traced}
        bounds = iter(found) if isinstance(found, list) else None
        if (pieces := self._side_by_side(func, args)) and isinstance(found, Bound):
            found = union(bound for _, _, bound in pieces)

        def wrap(value: Any) -> Any:
            bound = next(bounds) if bounds is not None else found
            if not isinstance(value, Tensor):
                return value
            place = address(value)
            if place in memories:
                if value.dtype != memories[place].base.dtype:
                    self.refuse("undecided", qualified_name(func), "a view of another dtype")
                memory = memories[place]
            elif bound is None:
                if func.is_view or not isinstance(found, (list, type(None))):
                    self.refuse("undecided", qualified_name(func), "a view of unknown memory")
                hollow = base_of(func) in _EMPTY
                if not value.dtype.is_floating_point:
                    return value
                if hollow:
                    value.fill_(torch.nan)
                memory = Memory(value, hollow=hollow)
            else:
                self._settle(qualified_name(func), bound, value.dtype)
                memory = Memory(value, bound, origin=self._origin(func, bound, data))
                memory.rounded = self._made(value.dtype)
                memory.pieces = pieces if value.is_contiguous() else ()
            made = Traced(value, memory, self)
            self._number(made)
            return made

        return trees.mapped(wrap, outputs)

    def _settle(self, operator: str, bound: Bound, dtype: torch.dtype) -> None:
        """Refuse what cannot come from or lead to the multilinear form; note the magnitude."""
        for monomial in bound.terms:
            if monomial not in self.lattice:
                self.refuse(
                    "refuted", operator, f"the result has degree {spell(monomial)}, which no "
                    "part of a convolution or of its gradients has"
                )  # fmt: skip
        bits = BITS.get(dtype)
        if dtype.is_complex:
            self.refuse("undecided", operator, f"data become {dtype}, and nobody follows those")
        if bits is None:
            self.refuse("refuted", operator, f"data are rounded to {dtype}")
            return
        narrow = torch.finfo(dtype).max < torch.finfo(self.dtype).max
        if bits < BITS[self.dtype] or narrow:
            self.refuse(
                "refuted", operator, f"{NARROWING}: {dtype} within a program of {self.dtype}"
            )
        self.finest = max(self.finest, bound.step)
        if bound.terms:
            by_degree = [0, 0, 0]
            for monomial, c in bound.terms.items():
                by_degree[len(monomial)] += c * bound.odd
            self.nodes.setdefault((tuple(by_degree), bits), Origin(operator))
            if bound.size(self.a) > 2**bits and self.dtype not in HALF:
                self.hesitate(
                    operator, f"entries of up to {bound.size(self.a):.3g} steps of "
                    f"2^-{bound.step} leave no room in the {bits} bits of {dtype}"
                )  # fmt: skip

    def _origin(self, func: Any, bound: Bound, data: list[Traced]) -> Origin:
        """Where the monomials came together: here, or before if this is a move or a product."""
        operands = [(t.bound.terms, t.memory.origin) for t in data if t.bound is not None]
        for terms, origin in operands:
            if terms.keys() == bound.terms.keys():
                return origin
        degree = max(map(len, bound.terms), default=0)
        if all(degree > max(map(len, terms), default=0) for terms, _ in operands):
            for terms, origin in operands:
                if len(terms) > 1:
                    return origin
        return Origin(qualified_name(func), source_lines.here())

    # The record of what was run

    def _number(self, tensor: Traced) -> None:
        tensor.number = self._numbers
        self._numbers += 1

    def note(self, name: str, leaves: list[Any], outputs: Any, *, step: bool = True) -> None:
        """Write an operator into the trace."""
        self.operators += 1
        if step:
            self.steps.append(Step(name, made_by(outputs), source_lines.place(), self.given[0]))
        self._digest.update(("|".join([name, *map(_tell, leaves)]) + "\n").encode())

    def adopt(self, operator: str, value: Tensor, bound: Bound, given: Rounded) -> Traced:
        """Wrap a result whose bound was found elsewhere, and which is rounded once more."""
        self._settle(operator, bound, value.dtype)
        memory = Memory(value, bound, origin=Origin(operator, source_lines.here()))
        memory.rounded = after(1, given, value.dtype)
        made = Traced(value, memory, self)
        self._number(made)
        return made


@final
class Mode(TorchDispatchMode):
    """Sees every operator, those on constants too, so that new tensors can be written to."""

    def __init__(self, follower: Any) -> None:
        """Hand each operator to `follower.call(func, args, kwargs)`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.follower = follower

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            return self.follower.call(func, args, kwargs or {})


_DECOMPOSED = object()


def _is_nowhere(value: Any) -> bool:
    """Whether a tensor has entries and no memory: a foreign library made it of a `Traced`."""
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type == "meta":
        return False
    return value.numel() > 0 and not value.data_ptr()


def _is_data(traced: Traced | None) -> bool:
    return traced is not None and traced.memory.bound is not None


def _unwrap(value: Any) -> Any:
    return value.held if isinstance(value, Traced) else value


def _same_places(held: Tensor, size: Any, stride: Any, offset: int | None = None) -> bool:
    """Whether new strides leave every entry where it is: those of axes of one entry are free."""
    here = zip(size, stride, held.stride(), strict=True)
    same = offset in (None, held.storage_offset()) and tuple(size) == tuple(held.shape)
    return same and all(n == 1 or new == old for n, new, old in here)


def _constants(call: Call) -> list[float]:
    """Numbers among the arguments of an operator, few of them."""
    found = []
    for value in trees.leaves(list(call.named.values())):
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            found.append(float(value))
        elif isinstance(value, float):
            found.append(value)
    return found


def _names(bound: Bound | None) -> str:
    found = () if bound is None else bound.spelled()
    return f"data of degree {', '.join(found)}" if found else "data"


def _tell(value: Any) -> str:
    """A leaf of an operator's arguments, the same in every run."""
    if isinstance(value, Traced) and value.number >= 0:
        return f"%{value.number}:{value.dtype}{list(value.shape)}"
    if isinstance(value, Tensor):
        return f"const:{value.dtype}{list(value.shape)}"
    return repr(value)
