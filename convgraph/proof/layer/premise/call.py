"""One call of an operator on data, as its rule sees it; and the table of rules.

A rule answers, from what is known of the operands, which monomials the result has and how large
they can be.
"""

from collections.abc import Callable
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof import aten
from convgraph.proof.layer.premise.degrees import Bound


@final
class Refusal(ProofError):  # noqa: N818 - it is caught within, and reported as a verdict
    """The premise does not hold ("refuted"), or cannot be followed ("undecided")."""

    def __init__(self, status: str, reason: str) -> None:
        """Keep the status and the reason."""
        super().__init__(reason)
        self.status = status
        self.reason = reason


Result = Bound | None | list[Bound] | list[Bound | None]
"""Of the one output; None if it does not depend on data; of each output in turn."""

LinearRule = Callable[["Call"], Result]

RULES: dict[str, LinearRule] = {}
"""Name of the operator without overload and without the underscore of its in-place form."""

VENDOR: set[str] = set()
"""Operators whose kernels are multilinear by assumption."""


def linear_rule(*names: str, vendor: bool = False) -> Callable[[LinearRule], LinearRule]:
    """Register a rule.

    Raises:
        ProofError: an operator has one already.
    """

    def register(found: LinearRule) -> LinearRule:
        for name in names:
            if name in RULES:
                raise ProofError(f"operator {name} has a rule already")
            RULES[name] = found
            if vendor:
                VENDOR.add(name)
        return found

    return register


def falls_apart(func: Any, name: str) -> bool:
    """Whether S1 follows the parts of an operator in its place."""
    needs = name in RULES or not (func.is_view and name != "view_dtype")
    known = name in RULES or name in aten.READS or func.namespace != "aten"
    return needs and not known and bool(func._can_decompose())


@final
class Call:
    """An operator with its arguments by name.

    Args:
        func: the operator's overload.
        args: positional arguments, tensors unwrapped.
        kwargs: keyword arguments, tensors unwrapped.
        known: returns the bound of an unwrapped tensor, of data or of a constant.

    Attributes:
        on_the_way: bounds of what an operator holds before it has its result, as a mean its sum.
    """

    def __init__(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: Callable[[Tensor], Bound],
    ) -> None:
        """Bind the arguments to the names of the operator's schema."""
        self.func = func
        self.args, self.kwargs = args, kwargs
        self._known = known
        self.on_the_way: list[Bound] = []
        self.named: dict[str, Any] = {}
        for place, argument in enumerate(func._schema.arguments):
            if place < len(args):
                self.named[argument.name] = args[place]
            elif argument.name in kwargs:
                self.named[argument.name] = kwargs[argument.name]
            elif argument.has_default_value():
                self.named[argument.name] = argument.default_value

    def __getitem__(self, name: str) -> Any:
        """An argument by the schema's name, or its default."""
        return self.named[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument by name, or something else where this overload has none."""
        return self.named.get(name, default)

    def bound(self, name: str) -> Bound:
        """What is known of a tensor or of a number."""
        return self.of(self.named.get(name))

    def of(self, value: Any) -> Bound:
        """What is known of any value; of nothing it is 0."""
        if value is None:
            return Bound()
        if isinstance(value, Tensor):
            return self._known(value)
        return Bound.constant(value)

    def first(self) -> Bound:
        """What is known of the first argument."""
        return self.of(next(iter(self.named.values())))

    def times(self, bound: Bound, name: str) -> Bound:
        """A bound times an argument; one number takes its exact value."""
        value = self.named.get(name)
        if isinstance(value, Tensor):
            found = self._known(value)
            if value.numel() == 1 and set(found.terms) <= {()} and bool(value.isfinite().all()):
                return bound.scaled(float(value))
            return bound.times(found)
        return bound.scaled(1 if value is None else value)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor argument."""
        return tuple(self.named[name].shape)

    def count(self, name: str, dim: Any) -> int:
        """Entries of a tensor along some dimensions, or along all for None or none."""
        sizes = self.shape(name)
        if dim is None or dim == []:
            return prod(sizes)
        dims = [dim] if isinstance(dim, int) else dim
        return prod(sizes[d] for d in dims) if sizes else 1

    def replaced(self, name: str, value: Tensor) -> Any:
        """What the operator answers with another tensor in place of one argument."""
        place = [a.name for a in self.func._schema.arguments].index(name)
        if place < len(self.args):
            args = (*self.args[:place], value, *self.args[place + 1 :])
            return self.func(*args, **self.kwargs)
        return self.func(*self.args, **{**self.kwargs, name: value})

    def weighted(self, name: str) -> Bound:
        """A linear operator whose weights are read off: ones give their sum, bits their step.

        The weights must not be negative.
        """
        like, known = self.named[name], self.bound(name)
        whole = self.of(self.replaced(name, torch.full_like(like, known.odd)))
        generator = torch.Generator().manual_seed(0)
        bits = torch.randint(0, 2, like.shape, generator=generator).to(like) * known.odd
        parts = self.of(self.replaced(name, bits))
        step = max(whole.step, parts.step)
        (most,) = (c << (step - whole.step) for c in whole.terms.values() or (0,))
        bound = known.many(most)
        return Bound(bound.terms, bound.step + step)
