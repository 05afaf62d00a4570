"""Layers that are one node forward are one node backward: grad_x, grad_w and grad_b of (g, x, w).

A graph layer and its dense twin compute the same three by other operators, and their certificate is
about just these. So while a run is differentiated, such a layer runs on tensors of its own, and
autograd sees one function.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from convgraph.proof.network.node import Layer

Settle = Callable[[Layer, Any, Any, Tensor, Any, list[Tensor | None]], None]
"""(layer, what it took, what it returned, g, (x, w, b), their gradients) -> one more node."""


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
    own = [vars(module).get("forward") for module in whole]
    for module in whole:
        vars(module)["forward"] = partial(
            _forward, module, module.forward, layers[id(module)], aside, settle
        )
    try:
        yield
    finally:
        for module, before in zip(whole, own, strict=True):
            vars(module).pop("forward")
            if before is not None:
                vars(module)["forward"] = before


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
    returned: list[Any] = []

    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        held = {"weight": w} if b is None else {"weight": w, "bias": b}
        inner, vars(module)["forward"] = vars(module)["forward"], forward
        try:
            with _bare(module):
                out = functional_call(module, held, (layer.put(taken, x), *rest), more)
        finally:
            vars(module)["forward"] = inner
        returned.append(out)
        return layer.values(out)

    def back(leaves: list[Tensor | None], y: Tensor, g: Tensor) -> list[Tensor | None]:
        with aside():
            wanted = [t for t in leaves if t is not None and t.requires_grad]
            made = iter(torch.autograd.grad(y, wanted, g, retain_graph=True, allow_unused=True))
            found = [next(made) if t is not None and t.requires_grad else None for t in leaves]
            found = [None if t is None else t.contiguous() for t in found]
        settle(layer, taken, returned[-1], g, leaves, found)
        return found

    given = (layer.values(taken), module.weight, module.bias)
    with aside():
        y: Any = _Whole.apply(run, back, *given)  # type: ignore[no-untyped-call]
    return layer.put(returned[-1], y)


@contextmanager
def _bare(module: Any) -> Iterator[None]:
    """Without the module's hooks: they run around the one function, not within it."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    kept = {name: getattr(module, name) for name in names}
    try:
        for name in names:
            setattr(module, name, type(kept[name])())
        yield
    finally:
        for name in names:
            setattr(module, name, kept[name])
