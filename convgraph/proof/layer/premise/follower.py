"""The watch that follows a program operator by operator, forward and backward.

Each operator on data is run on what the tensors wrap, and its rule says which monomials come out.
Operators on constants make constants, whose numbers are read when they meet data. Memory that
nothing has written yet holds NaN, so that nobody reads it unseen.
"""

import hashlib
from collections.abc import Callable, Collection
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from convgraph.errors import ProofError
from convgraph.proof import aten
from convgraph.proof.aten import READS, qualified_name
from convgraph.proof.layer.premise import source_lines
from convgraph.proof.layer.premise.call import RULES, VENDOR, Call, Refusal, base_of
from convgraph.proof.layer.premise.degrees import BITS, Bound, Monomial, measure, spell
from convgraph.proof.layer.premise.nonlinear import why_not
from convgraph.proof.layer.premise.traced_tensor import DOOR, Cell, Origin, Traced, covers, memory

_EMPTY = frozenset({"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"})

_ABOUT = frozenset({"is_same_size", "is_pinned", "_has_same_storage_numel"})
"""Questions about a tensor that its entries do not answer."""


@final
class Watch:
    """Follows one program.

    Args:
        lattice: the monomials that an entry may have on its way; others are refused where they
            arise.
        dtype: in which the program computes.
        a: inputs are integers of [-a, a].
        opaque: returns the results of an operator of no known rule that the caller trusts, as
            (tensor, bound) pairs, or None if it is not trusted.

    Attributes:
        refused: the first refusal, its operator and line.
        doubt: the first reason why nothing can be proven, its operator and line.
        assumed: names of what is multilinear by assumption.
        shapes: distinct (coefficients by degree, bits) of the nodes met.
        operators: how many were followed.
        ended: whether the program has returned. Its tensors are plain numbers from then on.
        late: where a tensor of the program was used when it had ended, first things first.
    """

    def __init__(
        self,
        lattice: Collection[Monomial],
        dtype: torch.dtype,
        a: int,
        opaque: Callable[["Watch", Any, tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        """Start with nothing seen."""
        self.lattice, self.dtype, self.a, self.opaque = lattice, dtype, a, opaque
        self.refused: tuple[Refusal, Origin] | None = None
        self.doubt: tuple[Refusal, Origin] | None = None
        self.assumed: set[str] = set()
        self.nodes: dict[tuple[tuple[int, ...], int], Origin] = {}
        self.operators = 0
        self.ended = False
        self.late: list[Origin] = []
        self.constant = 0.0
        self._digest = hashlib.sha256()
        self._numbers = 0

    @property
    def trace(self) -> str:
        """SHA-256 of the operators followed, with shapes, dtypes and numbers."""
        return self._digest.hexdigest()

    # Inputs and refusals

    def enter(self, inner: Tensor, role: str, *, requires_grad: bool = True) -> Traced:
        """Wrap an input."""
        cell = Cell(inner, Bound.of(role), frozen=True)
        made = Traced(inner, cell, self, requires_grad)
        self._number(made)
        return made

    def refuse(self, status: str, operator: str, reason: str) -> None:
        """Remember the first refusal, whatever the program does about it, and stop here.

        Raises:
            Refusal: always.
        """
        refusal = Refusal(status, reason)
        if self.refused is None:
            self.refused = (refusal, Origin(operator, source_lines.here(DOOR)))
        raise refusal

    def hesitate(self, operator: str, reason: str) -> None:
        """Remember the first reason why nothing can be proven, and go on."""
        if self.doubt is None:
            self.doubt = (Refusal("undecided", reason), Origin(operator, source_lines.here(DOOR)))

    def escape(self, tensor: Traced, way: str) -> Tensor:
        """Return what a constant holds; refuse to give data away."""
        bound = tensor.cell.bound
        self._random(tensor.cell.random)
        if bound is not None and self.ended:
            self.late.append(Origin(f"Tensor.{way}", source_lines.here(DOOR)))
        elif bound is not None:
            if way == "tolist":
                self.refuse("refuted", "Tensor.tolist", f"numbers of {_names(bound)} are read")
            function = source_lines.function_here(DOOR)
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
        if self.ended:
            return self._late(func, args, kwargs)
        traced = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Traced)]
        plain_args, plain_kwargs = tree_map(_unwrap, args), tree_map(_unwrap, kwargs)
        written = aten.written(func, args, kwargs)
        data = [t for t in traced if t.cell.bound is not None]
        random = next((t.cell.random for t in traced if t.cell.random), None)
        if torch.Tag.nondeterministic_seeded in func.tags:
            random = Origin(qualified_name(func), source_lines.here(DOOR))
        if not data:
            return self._constant(func, plain_args, plain_kwargs, traced, written, random)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._random(random)
        name = base_of(func)
        if func.namespace == "prim" or name in _ABOUT:
            return func(*plain_args, **plain_kwargs)
        if name in READS:
            bound = data[0].cell.bound
            self.refuse("refuted", qualified_name(func), f"a number is read off {_names(bound)}")
        for target in written:
            if not isinstance(target, Traced):
                self.refuse(
                    "refuted",
                    qualified_name(func),
                    "data are written to what outlives the call",
                )
            elif target.cell.frozen:
                self.refuse("refuted", qualified_name(func), "an input is written to")
        if func.namespace != "aten":
            return self.opaque(self, func, args, kwargs)
        known = {id(t.held): t for t in traced}
        call = Call(func, plain_args, plain_kwargs, lambda t: self._known(known.get(id(t)), t))
        found = self._ruled(name, func, call, data) if self._needs_rule(func, name) else None
        if found is _DECOMPOSED:
            return func.decompose(*args, **kwargs)
        before = [self._all_of(t.cell) for t in written]
        outputs = func(*plain_args, **plain_kwargs)
        self.note(func.name(), tree_leaves((args, kwargs)))
        if written:
            return self._write(func, written, before, found, data)
        return self._wrap(func, outputs, found, traced, data)

    def _late(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator on what an earlier call has left behind: numbers in, numbers out."""
        traced = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Traced)]
        if any(t.cell.bound is not None for t in traced):
            self.late.append(Origin(qualified_name(func), source_lines.here(DOOR)))
        return func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))

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
            status, reason = why_not(func, name, [t.cell.bound for t in data])
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
        if name in VENDOR:
            self.assumed.add(f"aten.{name}")
        return found

    def _known(self, traced: Traced | None, inner: Tensor) -> Bound:
        if traced is not None and traced.cell.bound is not None:
            return traced.cell.bound
        if traced is not None and traced.cell.random:
            self._random(traced.cell.random)
        found = measure(inner, hollow=traced is not None and traced.cell.hollow)
        for number in found.terms.values():
            self.constant = max(self.constant, number / 2**found.step)
        return found

    def _all_of(self, cell: Cell) -> Bound:
        return measure(cell.base, hollow=cell.hollow) if cell.bound is None else cell.bound

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
                    target.cell.random = target.cell.random or random
                else:
                    self._random(random)
            return written[0] if len(written) == 1 else outputs
        hollow = base_of(func) in _EMPTY
        foreign = {memory(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        cells = {memory(t.held): t.cell for t in traced}

        def wrap(value: Any) -> Any:
            followed = isinstance(value, Tensor) and value.dtype.is_floating_point
            place = memory(value) if followed and value.layout == torch.strided else None
            if place in cells:
                return Traced(value, cells[place], self)
            if place is None or place in foreign:
                self._random(random)
                return value
            if hollow:
                value.fill_(torch.nan)
            return Traced(value, Cell(value, hollow=hollow, random=random), self)

        return tree_map(wrap, outputs)

    def _write(
        self, func: Any, written: list[Any], before: list[Bound], found: Any, data: list[Traced]
    ) -> Any:
        """The cell of what was written knows the new entries, and the old that remain."""
        bounds = found if isinstance(found, list) else [found]
        for target, old, bound in zip(written, before, bounds, strict=True):
            if target.held.shape != target.shape:
                self.refuse(
                    "undecided", qualified_name(func), "the shape of a tensor changes in place"
                )
            self._settle(qualified_name(func), bound, target.dtype)
            cell = target.cell
            origin = self._origin(func, bound, data)
            if covers(target.held):
                cell.bound, cell.hollow, cell.random = bound, False, None
            else:
                self._random(cell.random)
                if old.terms.keys() - bound.terms.keys():
                    origin = Origin(qualified_name(func), source_lines.here(DOOR))
                cell.bound = old.either(bound)
            cell.origin = origin
            self._number(target)
        return written[0] if len(written) == 1 else tuple(written)

    def _wrap(
        self, func: Any, outputs: Any, found: Any, traced: list[Traced], data: list[Traced]
    ) -> Any:
        cells = {memory(t.held): t.cell for t in traced}
        bounds = iter(found) if isinstance(found, list) else None

        def wrap(value: Any) -> Any:
            bound = next(bounds) if bounds is not None else found
            if not isinstance(value, Tensor):
                return value
            place = memory(value)
            if place in cells:
                if value.dtype != cells[place].base.dtype:
                    self.refuse("undecided", qualified_name(func), "a view of another dtype")
                cell = cells[place]
            elif bound is None:
                if func.is_view or not isinstance(found, (list, type(None))):
                    self.refuse("undecided", qualified_name(func), "a view of unknown memory")
                hollow = base_of(func) in _EMPTY
                if not value.dtype.is_floating_point:
                    return value
                if hollow:
                    value.fill_(torch.nan)
                cell = Cell(value, hollow=hollow)
            else:
                self._settle(qualified_name(func), bound, value.dtype)
                cell = Cell(value, bound, origin=self._origin(func, bound, data))
            made = Traced(value, cell, self)
            self._number(made)
            return made

        return tree_map(wrap, outputs)

    def _settle(self, operator: str, bound: Bound, dtype: torch.dtype) -> None:
        """Refuse what cannot come from or lead to the multilinear form; note the magnitude."""
        for monomial in bound.terms:
            if monomial not in self.lattice:
                self.refuse(
                    "refuted", operator, f"the result has degree {spell(monomial)}, which no "
                    "part of a convolution or of its gradients has"
                )  # fmt: skip
        bits = BITS.get(dtype)
        if bits is None:
            self.refuse("refuted", operator, f"data are rounded to {dtype}")
            return
        if bits < BITS[self.dtype]:
            self.refuse(
                "refuted", operator, f"a narrowing cast: {dtype} within a program of {self.dtype}"
            )
        if bound.terms:
            by_degree = [0, 0, 0]
            for monomial, c in bound.terms.items():
                by_degree[len(monomial)] += c
            self.nodes.setdefault((tuple(by_degree), bits), Origin(operator))
            if bound.size(self.a) > 2**bits:
                self.hesitate(
                    operator, f"entries of up to {bound.size(self.a):.3g} steps of "
                    f"2^-{bound.step} leave no room in the {bits} bits of {dtype}"
                )  # fmt: skip

    def _origin(self, func: Any, bound: Bound, data: list[Traced]) -> Origin:
        """Where the monomials came together: here, or before if this is a move or a product."""
        operands = [(t.cell.bound.terms, t.cell.origin) for t in data if t.cell.bound is not None]
        for terms, origin in operands:
            if terms.keys() == bound.terms.keys():
                return origin
        degree = max(map(len, bound.terms), default=0)
        if all(degree > max(map(len, terms), default=0) for terms, _ in operands):
            for terms, origin in operands:
                if len(terms) > 1:
                    return origin
        return Origin(qualified_name(func), source_lines.here(DOOR))

    # The record of what was run

    def _number(self, tensor: Traced) -> None:
        tensor.number = self._numbers
        self._numbers += 1

    def note(self, name: str, leaves: list[Any]) -> None:
        """Write an operator into the trace."""
        self.operators += 1
        self._digest.update(("|".join([name, *map(_tell, leaves)]) + "\n").encode())

    def adopt(self, operator: str, value: Tensor, bound: Bound) -> Traced:
        """Wrap a result whose bound was found elsewhere."""
        self._settle(operator, bound, value.dtype)
        cell = Cell(value, bound, origin=Origin(operator, source_lines.here(DOOR)))
        made = Traced(value, cell, self)
        self._number(made)
        return made


class Mode(TorchDispatchMode):
    """Sees every operator, those on constants too, so that new tensors can be written to."""

    def __init__(self, watch: Watch) -> None:
        """Follow for this watch."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.watch.call(func, args, kwargs or {})


_DECOMPOSED = object()


def _unwrap(value: Any) -> Any:
    return value.held if isinstance(value, Traced) else value


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
