"""What a caller trusts to be multilinear: custom operators, and autograd functions beyond torch.

Nobody can follow a fused kernel or a SciPy call. If the caller names it, it is taken as affine in
each of its tensors of data, with coefficients that are not negative. Which monomials it has, and
how many terms, is then read off: the part of f that is linear in the arguments of a set S is

    f_S = sum over subsets T of S of (-1)^|S - T| f(arguments of T kept, all others 0)

and f_S at ones is the number of its terms, where known numbers among the arguments, weights of
edges say, are whole. Where they are multiples of 2^-k, and a term has one of them for a factor, it
counts such steps. The name goes into the record as assumed.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations
from math import ceil
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from convgraph.proof.aten import qualified_name
from convgraph.proof.layer.premise.degrees import Bound, measure
from convgraph.proof.layer.premise.follower import Follower
from convgraph.proof.layer.premise.product_rules import product_of
from convgraph.proof.layer.premise.rounded import either
from convgraph.proof.layer.premise.traced_tensor import Traced

_MOST = 5
"""Tensors of data up to which all subsets are tried."""


def trusted(trust: Collection[str]) -> Callable[..., Any]:
    """Return how a follower takes operators outside of aten."""

    def opaque(follower: Follower, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = qualified_name(func)
        if name not in trust:
            follower.refuse(
                "undecided", name, f"{name} is a custom operator, unknown to the judge; "
                f"trust=({name!r},) takes it as multilinear by assumption"
            )  # fmt: skip
        if func._schema.is_mutable:
            follower.refuse("undecided", name, f"{name} writes to its arguments; give it a result")
        follower.assumed.add(name)
        leaves, spec = tree_flatten((args, kwargs))

        def run(values: list[Any]) -> Any:
            some, named = tree_unflatten(values, spec)
            return func(*some, **named)

        return take(follower, name, run, leaves)

    return opaque


def take(follower: Follower, name: str, run: Callable[[list[Any]], Any], leaves: list[Any]) -> Any:
    """Run something multilinear by assumption and read its monomials off.

    Args:
        follower: that follows the program.
        name: for the record.
        run: takes the leaves, unwrapped, and returns tensors.
        leaves: arguments, flat.
    """
    data = [i for i, t in enumerate(leaves) if isinstance(t, Traced) and t.memory.bound is not None]
    if len(data) > _MOST:
        follower.refuse(
            "undecided", name, f"{name} takes {len(data)} tensors of data, over {_MOST}"
        )
    plain = [t.held if isinstance(t, Traced) else t for t in leaves]
    numbers = [t for i, t in enumerate(plain) if i not in data and isinstance(t, Tensor)]
    step = max([measure(t).step for t in numbers if t.is_floating_point()], default=0)
    outputs, spec = tree_flatten(run(plain))
    bounds = [Bound() for _ in outputs]
    subsets = [set(s) for size in range(len(data) + 1) for s in combinations(data, size)]
    ones = [
        tree_leaves(run([_only(t, i in subset, i in data) for i, t in enumerate(plain)]))
        for subset in subsets
    ]
    for subset in subsets:
        known = [leaves[i].bound for i in sorted(subset)]
        for place, output in enumerate(outputs):
            if not isinstance(output, Tensor):
                continue
            part = torch.zeros_like(output)
            for other, found in zip(subsets, ones, strict=True):
                if other <= subset:
                    part += (-1) ** (len(subset) - len(other)) * found[place]
            most = ceil(float(part.abs().max()) * 2.0**step) if part.numel() else 0
            if most:
                terms = product_of(known).times(Bound({(): most}, step))
                bounds[place] = bounds[place].plus(terms)
    follower.note(name, leaves, outputs)
    given = either(leaves[i].memory.rounded for i in data)
    made = [
        follower.adopt(name, value, bound, given) if isinstance(value, Tensor) else value
        for value, bound in zip(outputs, bounds, strict=True)
    ]
    return tree_unflatten(made, spec)


def _only(value: Any, kept: bool, data: bool) -> Any:
    """Ones for data that are kept, zeros for the others."""
    if not data:
        return value
    return torch.ones_like(value) if kept else torch.zeros_like(value)


@contextmanager
def trusting(follower: Follower, trust: Collection[str]) -> Iterator[None]:
    """Take autograd functions of these names as multilinear, forward and backward, for a block."""
    with ExitStack() as stack:
        for function, name in named_in(trust):
            stack.enter_context(_replaced(follower, function, name))
        yield


def named_in(trust: Collection[str]) -> Iterator[tuple[Any, str]]:
    """Yield the autograd functions that are named, by their own name or with their module."""
    if not trust:
        return
    functions = torch.autograd.Function.__subclasses__()
    for function in functions:
        functions += function.__subclasses__()
    last = {named.rpartition(".")[2] for named in trust}
    for function in functions:
        if function.__name__ not in last:
            continue
        name = function.__qualname__.rpartition("<locals>.")[2]
        if not {name, f"{function.__module__}.{name}"}.isdisjoint(trust):
            yield function, name


@final
class _Context:
    """What an autograd function is given in place of autograd's own context."""

    def __init__(self, needed: tuple[bool, ...]) -> None:
        self.needs_input_grad = needed
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    save_for_forward = save_for_backward

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Nothing to do: only gradients that are asked for are looked at."""

    def set_materialize_grads(self, value: bool) -> None:
        """Gradients are always there."""


@contextmanager
def _replaced(follower: Follower, function: Any, name: str) -> Iterator[None]:
    """Stand between a function and what it computes, and leave it as it was."""
    forward, backward = function.forward, function.backward
    setup = function.setup_context
    apart = setup is not torch.autograd.Function.setup_context

    def value(args: list[Any], context: _Context) -> Any:
        with _disable_current_modes(), torch.no_grad():
            if not apart:
                return forward(context, *args)
            found = forward(*args)
            setup(context, tuple(args), found)
            return found

    def gradient(args: list[Any], grads: list[Any], needed: tuple[bool, ...]) -> Any:
        context = _Context(needed)
        value(args, context)
        with _disable_current_modes(), torch.no_grad():
            return backward(context, *grads)

    def taken(operator: str, run: Callable[[list[Any]], Any], args: Any, leaves: list[Any]) -> Any:
        sent = [getattr(t, "held", t) for t in args]
        told = [one.whole(operator, sent) for one in follower.made_of]
        follower.given = told[0]
        made = take(follower, operator, run, leaves)
        follower.number(told, made)
        return made

    def judged(*args: Any) -> Any:
        needed = (False,) * len(args)
        follower.assumed.add(name)
        return taken(name, lambda plain: value(plain, _Context(needed)), args, list(args))

    def judged_with(ctx: Any, *args: Any) -> Any:
        ctx.judged = args
        return judged(*args)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.judged = inputs

    def judged_back(ctx: Any, *grads: Any) -> Any:
        args, needed = ctx.judged, tuple(ctx.needs_input_grad)
        count = len(args)

        def run(plain: list[Any]) -> Any:
            found = gradient(plain[:count], plain[count:], needed)
            return found if isinstance(found, tuple) else (found,)

        return taken(f"{name}.backward", run, grads, [*args, *grads])

    function.forward = staticmethod(judged if apart else judged_with)
    function.backward = staticmethod(torch.autograd.function.once_differentiable(judged_back))
    if apart:
        function.setup_context = staticmethod(keep)
    try:
        yield
    finally:
        function.forward, function.backward = staticmethod(forward), staticmethod(backward)
        if apart:
            function.setup_context = staticmethod(setup)
