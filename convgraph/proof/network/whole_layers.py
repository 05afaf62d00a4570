"""Layers that are one node forward are one node backward: grad_x, grad_w and grad_b of (g, x, w).

A graph layer and its dense twin compute the same three by other operators, and their certificate is
about just these. So while a run is differentiated, such a layer runs on tensors of its own, and
autograd sees one function. A pool holds nothing, and is one of x; a call of a function that is a
node is one where it runs, of what it is given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils import checkpoint

from convgraph.proof.network.by_itself import Lister, apart
from convgraph.proof.network.node import Layer

Settle = Callable[[Layer, Any, Any, Tensor, Any, list[Tensor | None], Callable[[], str]], None]
"""(layer, what it took, what it returned, g, (x, w, b) or x alone, their gradients, how it differs
by itself) -> one more node."""


class _Whole(torch.autograd.Function):
    """y of (x, w, b), by whoever runs the layer on tensors of its own."""

    @staticmethod
    def forward(ctx: Any, run: Any, settle: Any, *given: Tensor | None) -> Tensor:
        leaves = [
            None if t is None else t.detach().requires_grad_(needed)
            for t, needed in zip(given, ctx.needs_input_grad[2:], strict=True)
        ]
        with torch.enable_grad():
            y: Tensor = run(*leaves)
        ctx.leaves, ctx.y, ctx.settle = leaves, y, settle
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        (g,) = heads
        found: list[Tensor | None] = ctx.settle(ctx.leaves, ctx.y, g)
        return (None, None, *found)


@contextmanager
def differentiated(
    net: torch.nn.Module, layers: Mapping[int, Layer], aside: Any, settle: Settle
) -> Iterator[None]:
    """Make every layer that is one node one function of autograd, within a block.

    Args:
        net: the side.
        layers: by id, the modules that are nodes as wholes.
        aside: a context in which nothing is recorded.
        settle: called with every backward.
    """
    whole = [module for module in net.modules() if id(module) in layers]
    with ExitStack() as stack:
        for module in whole:
            one = partial(_forward, module, module.forward, layers[id(module)], aside, settle)
            stack.enter_context(_running(module, one))
        yield


def _forward(
    module: Any,
    forward: Callable[..., Any],
    layer: Layer,
    aside: Any,
    settle: Settle,
    taken: Any,
    *rest: Any,
    **more: Any,
) -> Any:
    """A layer of the network, by what it holds."""
    names = () if layer.bare is not None else ("weight", "bias")

    def run(x: Tensor, *own: Tensor | None) -> Any:
        held = {name: t for name, t in zip(names, own, strict=True) if t is not None}
        with bare(module), _running(module, forward):
            return functional_call(module, held, (layer.put(taken, x), *rest), more)

    return as_one(layer, run, taken, [getattr(module, name) for name in names], aside, settle)


def as_one(
    layer: Layer,
    call: Callable[..., Any],
    taken: Any,
    own: Sequence[Tensor | None],
    aside: Any,
    settle: Settle,
) -> Any:
    """Call a layer as one function of autograd.

    Args:
        layer: how it takes and returns images.
        call: the layer, of the tensor in what it takes, and of its own.
        taken: what it takes.
        own: its weight and its bias, or nothing.
        aside: a context in which nothing is recorded.
        settle: called with every backward.
    """
    returned: list[Any] = []
    within = Lister()

    def run(*given: Tensor | None) -> Tensor:
        with _kept_at_once():
            out = call(*given)
        returned.append(out)
        return layer.values(out)

    def alone(leaves: list[Tensor | None], g: Tensor) -> str:
        def again() -> None:
            fresh = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in leaves]
            with torch.enable_grad():
                _gradients(run(*fresh), fresh, g)

        return apart(within.found, again)

    def back(leaves: list[Tensor | None], y: Tensor, g: Tensor) -> list[Tensor | None]:
        with aside(), within:
            found = _gradients(y, leaves, g)
        settle(layer, taken, returned[-1], g, leaves, found, partial(alone, leaves, g))
        return found

    with aside(), within:
        y: Any = _Whole.apply(run, back, layer.values(taken), *own)  # type: ignore[no-untyped-call]
    return layer.put(returned[-1], y)


def _kept_at_once() -> AbstractContextManager[Any]:
    """Within a checkpoint, keep what a layer keeps: it is one function, and is not taken apart."""
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    own = vars(checkpoint)
    if hooks is None or any(getattr(one, "__globals__", None) is not own for one in hooks):
        return nullcontext()
    return saved_tensors_hooks(lambda t: t, lambda t: t)


def _gradients(y: Tensor, leaves: list[Tensor | None], g: Tensor) -> list[Tensor | None]:
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    made = iter(torch.autograd.grad(y, wanted, g, retain_graph=True, allow_unused=True))
    found = [next(made) if t is not None and t.requires_grad else None for t in leaves]
    return [None if t is None else t.contiguous() for t in found]


@contextmanager
def _running(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """With a module's forward in place of what stands for it."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        vars(module).pop("forward")
        if before is not None:
            vars(module)["forward"] = before


@contextmanager
def bare(module: Any) -> Iterator[None]:
    """Without a module's hooks: they run around the layer that is one node, not within it.

    Args:
        module: the layer.
    """
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    kept = {name: getattr(module, name) for name in names}
    try:
        for name in names:
            setattr(module, name, type(kept[name])())
        yield
    finally:
        for name in names:
            setattr(module, name, kept[name])
