"""Tensors that carry the degrees of their entries, and the watch that follows a program with them.

A `Traced` wraps a tensor that holds real numbers; each operator on it is run on what it wraps, and
its rule says which monomials come out. What is known belongs to memory, not to views: a `Cell` is
shared by all tensors of one storage, so that a write through any of them is known to all. Tensors
that depend on no input stay constants, whose numbers may be read. May import errors, torch, calls,
degrees, lines and nonlinear.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from convgraph.errors import ProofError
from convgraph.proof import lines
from convgraph.proof.calls import RULES, VENDOR, Call, Refusal
from convgraph.proof.degrees import BITS, Bound, Monomial, divides, measure, spell
from convgraph.proof.nonlinear import READS, why_not

DOOR = "_attempt"
"""The function of premise.py beyond which the stack is the caller's own."""

_EMPTY = frozenset({"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"})


_ABOUT = frozenset({"is_same_size", "is_pinned", "_has_same_storage_numel"})
"""Questions about a tensor that its entries do not answer."""


@final
@dataclass(frozen=True)
class Origin:
    """An operator and the line of user code that called it."""

    operator: str = ""
    line: str = ""


@final
@dataclass
class Cell:
    """What is known of one piece of memory.

    Attributes:
        base: a tensor on all of it.
        bound: of its entries; None for a constant, whose entries are read when they matter.
        frozen: an input, which a program may not write to.
        hollow: NaN stands for what nothing has written yet.
        origin: where its monomials came together.
    """

    base: Tensor
    bound: Bound | None = None
    frozen: bool = False
    hollow: bool = False
    origin: Origin = Origin()


class Traced(Tensor):
    """A tensor whose entries are followed; see the module."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    inner: Tensor
    cell: Cell
    watch: "Watch"
    number: int

    @staticmethod
    def __new__(  # noqa: D102
        cls, inner: Tensor, cell: Cell, watch: "Watch", requires_grad: bool = False
    ) -> "Traced":
        made: Traced = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=inner.device,
            requires_grad=requires_grad,
        )
        made.inner, made.cell, made.watch, made.number = inner, cell, watch, -1
        return made

    @classmethod
    def __torch_dispatch__(  # noqa: D105
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        (watch, *_) = (t.watch for t in tree_leaves((args, kwargs)) if isinstance(t, Traced))
        return watch.call(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        """Shape and monomials; no numbers, which would be a way out for them."""
        known = "constant" if self.cell.bound is None else ", ".join(self.cell.bound.spelled())
        return f"Traced({tuple(self.shape)}, {self.dtype}, {known})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        """A copy that is followed too."""
        return self.detach().clone().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles hold numbers."""
        self.watch.escape(self, "pickle")
        return self.inner.__reduce_ex__(protocol)

    # What gives numbers away without an operator. A constant may; data may not.

    def numpy(self, **how: Any) -> Any:
        """The numbers of a constant."""
        return self.watch.escape(self, "numpy").numpy(**how)

    def __array__(self, *how: Any, **more: Any) -> Any:
        """The numbers of a constant."""
        return self.watch.escape(self, "numpy").__array__(*how, **more)

    def tolist(self) -> Any:
        """The numbers of a constant."""
        return self.watch.escape(self, "tolist").tolist()

    def data_ptr(self) -> int:
        """Where the numbers of a constant are."""
        return self.watch.escape(self, "data_ptr").data_ptr()

    def const_data_ptr(self) -> int:
        """Where the numbers of a constant are."""
        return self.watch.escape(self, "data_ptr").data_ptr()

    def mutable_data_ptr(self) -> int:
        """Where the numbers of a constant are."""
        return self.watch.escape(self, "data_ptr").data_ptr()

    def untyped_storage(self) -> Any:
        """Memory of a constant."""
        return self.watch.escape(self, "untyped_storage").untyped_storage()

    def storage(self) -> Any:
        """Memory of a constant."""
        return self.watch.escape(self, "storage").storage()

    def __dlpack__(self, *how: Any, **more: Any) -> Any:
        """Memory of a constant."""
        return self.watch.escape(self, "dlpack").__dlpack__(*how, **more)

    def __dlpack_device__(self) -> Any:
        """Where it is."""
        return self.inner.__dlpack_device__()

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The same entries without a history."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self.watch.refuse("refuted", "Tensor.data", "assigning .data swaps what a tensor holds")


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
            self.refused = (refusal, Origin(operator, lines.here(DOOR)))
        raise refusal

    def hesitate(self, operator: str, reason: str) -> None:
        """Remember the first reason why nothing can be proven, and go on."""
        if self.doubt is None:
            self.doubt = (Refusal("undecided", reason), Origin(operator, lines.here(DOOR)))

    def escape(self, tensor: Traced, way: str) -> Tensor:
        """Return what a constant holds; refuse to give data away."""
        bound = tensor.cell.bound
        if bound is not None:
            if way == "tolist":
                self.refuse("refuted", "Tensor.tolist", f"numbers of {_names(bound)} are read")
            function = lines.function_here(DOOR)
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
        return tensor.inner

    # One operator

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator on what is wrapped and say what is known of the result."""
        traced = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Traced)]
        plain_args, plain_kwargs = tree_map(_unwrap, args), tree_map(_unwrap, kwargs)
        written = _written(func, args, kwargs)
        data = [t for t in traced if t.cell.bound is not None]
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.hesitate(_name(func), "random numbers: two calls are two functions")
        if not data:
            return self._constant(func, plain_args, plain_kwargs, traced, written)
        name = _base(func)
        if func.namespace == "prim" or name in _ABOUT:
            return func(*plain_args, **plain_kwargs)
        if name in READS:
            bound = data[0].cell.bound
            self.refuse("refuted", _name(func), f"a number is read off {_names(bound)}")
        for target in written:
            if not isinstance(target, Traced):
                self.refuse(
                    "refuted", _name(func), "data are written into a tensor that outlives the call"
                )
            elif target.cell.frozen:
                self.refuse("refuted", _name(func), "an input is written to")
        if func.namespace != "aten":
            return self.opaque(self, func, args, kwargs)
        known = {id(t.inner): t for t in traced}
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

    def _needs_rule(self, func: Any, name: str) -> bool:
        return name in RULES or not (func.is_view and name != "view_dtype")

    def _ruled(self, name: str, func: Any, call: Call, data: list[Traced]) -> Any:
        rule = RULES.get(name)
        if rule is None:
            if func._can_decompose() and name not in READS:
                return _DECOMPOSED
            status, reason = why_not(func, name, [t.cell.bound for t in data])
            self.refuse(status, _name(func), reason)
            return None
        try:
            found = rule(call)
        except Refusal as refusal:
            if refusal.status == "refuted":
                self.refuse("refuted", _name(func), refusal.reason)
            self.refuse("undecided", _name(func), refusal.reason)
        except ProofError as error:
            self.refuse("undecided", _name(func), str(error))
        if name in VENDOR:
            self.assumed.add(f"aten.{name}")
        return found

    def _known(self, traced: Traced | None, inner: Tensor) -> Bound:
        if traced is not None and traced.cell.bound is not None:
            return traced.cell.bound
        found = measure(inner, hollow=traced is not None and traced.cell.hollow)
        for number in found.terms.values():
            self.constant = max(self.constant, number / 2**found.step)
        return found

    def _all_of(self, cell: Cell) -> Bound:
        return measure(cell.base, hollow=cell.hollow) if cell.bound is None else cell.bound

    # What comes out

    def _constant(
        self, func: Any, args: Any, kwargs: Any, traced: list[Traced], written: list[Any]
    ) -> Any:
        """An operator on constants: what it makes is a constant that may be written to."""
        outputs = func(*args, **kwargs)
        if written and any(isinstance(t, Traced) for t in written):
            return written[0] if len(written) == 1 else outputs
        hollow = _base(func) in _EMPTY
        foreign = {_memory(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        cells = {_memory(t.inner): t.cell for t in traced}

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
                return value
            memory = _memory(value)
            if memory in cells:
                return Traced(value, cells[memory], self)
            if memory in foreign:
                return value
            if hollow:
                value.fill_(torch.nan)
            return Traced(value, Cell(value, hollow=hollow), self)

        return tree_map(wrap, outputs)

    def _write(
        self, func: Any, written: list[Any], before: list[Bound], found: Any, data: list[Traced]
    ) -> Any:
        """The cell of what was written knows the new entries, and the old that remain."""
        bounds = found if isinstance(found, list) else [found]
        for target, old, bound in zip(written, before, bounds, strict=True):
            if target.inner.shape != target.shape:
                self.refuse("undecided", _name(func), "the shape of a tensor changes in place")
            self._settle(_name(func), bound, target.dtype)
            cell = target.cell
            origin = self._origin(func, bound, data)
            if _covers(target.inner):
                cell.bound, cell.hollow = bound, False
            else:
                if old.terms.keys() - bound.terms.keys():
                    origin = Origin(_name(func), lines.here(DOOR))
                cell.bound = old.either(bound)
            cell.origin = origin
            self._number(target)
        return written[0] if len(written) == 1 else tuple(written)

    def _wrap(
        self, func: Any, outputs: Any, found: Any, traced: list[Traced], data: list[Traced]
    ) -> Any:
        cells = {_memory(t.inner): t.cell for t in traced}
        bounds = iter(found) if isinstance(found, list) else None

        def wrap(value: Any) -> Any:
            bound = next(bounds) if bounds is not None else found
            if not isinstance(value, Tensor):
                return value
            memory = _memory(value)
            if memory in cells:
                if value.dtype != cells[memory].base.dtype:
                    self.refuse("refuted", _name(func), "bits are read as another dtype")
                cell = cells[memory]
            elif bound is None:
                if func.is_view or not isinstance(found, (list, type(None))):
                    self.refuse("undecided", _name(func), "a view of unknown memory")
                hollow = _base(func) in _EMPTY
                if not value.dtype.is_floating_point:
                    return value
                if hollow:
                    value.fill_(torch.nan)
                cell = Cell(value, hollow=hollow)
            else:
                self._settle(_name(func), bound, value.dtype)
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
        return Origin(_name(func), lines.here(DOOR))

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
        cell = Cell(value, bound, origin=Origin(operator, lines.here(DOOR)))
        made = Traced(value, cell, self)
        self._number(made)
        return made


class Mode(TorchDispatchMode):
    """Sees every operator, those on constants too, so that new tensors can be written to."""

    def __init__(self, watch: Watch) -> None:
        """Follow for this watch."""
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.watch.call(func, args, kwargs or {})


_DECOMPOSED = object()


def _unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, Traced) else value


def _memory(tensor: Tensor) -> int:
    """What two tensors that share memory have in common."""
    return tensor.untyped_storage()._cdata


def _covers(tensor: Tensor) -> bool:
    """Whether a tensor is all of its memory, each place once."""
    if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        return False
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _name(func: Any) -> str:
    """The operator as it is written: aten.abs, ns::op."""
    name: str = func.name().partition(".")[0]
    return name.replace("aten::", "aten.")


def _base(func: Any) -> str:
    """Name of the operator without namespace, overload and the underscore of its in-place form."""
    if func.name() == "aten::view.dtype":
        return "view_dtype"
    name: str = func._schema.name.partition("::")[2]
    return name.rstrip("_") if not name.startswith("__") else name


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The tensors that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [t for t in tree_leaves(value) if isinstance(t, Tensor)]
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
