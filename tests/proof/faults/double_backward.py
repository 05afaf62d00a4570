"""Faults one derivative up: value and gradients are right, the gradients' gradients are not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convgraph.proof import ConvSpec
from tests.proof.faults.gradients import Back, Change, Run, altered, by_w, by_x, only
from tests.proof.faults.operators import PLAIN, plain


class Behind(Back):
    """The identity, whose backward is the identity, whose backward changes what comes."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return Back.apply(g, ctx.change), None


def behind(name: str, change: Change) -> Run:
    """Return PLAIN with the cotangent of one gradient changed."""
    return altered(Behind, name, change)


class Detached(torch.autograd.Function):
    """conv2d whose gradients are right; some of what they depend on is cut off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, cut: str) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.cut = cut
        return plain(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        x = x.detach() if "x" in ctx.cut else x
        w = w.detach() if "w" in ctx.cut else w
        g = g.detach() if "g" in ctx.cut else g
        return by_x(x, w, g), by_w(x, w, g), g.sum((0, 2, 3)), None


def detached(cut: str) -> Run:
    return lambda x, w, b: Detached.apply(x, w, b, cut)


class Once(torch.autograd.Function):
    """conv2d that says it can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return plain(x, w, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return by_x(x, w, g), by_w(x, w, g), g.sum((0, 2, 3))


FAULTS: dict[str, tuple[ConvSpec, Callable[..., Any]]] = {
    name: (PLAIN, run)
    for name, run in {
        "second derivative by w is lost": detached("w"),
        "second derivative by x is lost": detached("x"),
        "second derivative by g is lost": detached("g"),
        "second derivatives are lost": detached("xwg"),
        "backward can be differentiated once only": Once.apply,
        "cotangent of grad_x is doubled": behind("x", lambda u: 2 * u),
        "cotangent of grad_x has the wrong sign": behind("x", lambda u: -u),
        "cotangent of grad_x misses the second image": behind("x", only(0)),
        "cotangent of grad_x is clamped at 1e30": behind("x", lambda u: u.clamp(-1e30, 1e30)),
        "cotangent of grad_x goes through half": behind("x", lambda u: u.half().to(u.dtype)),
        "cotangent of grad_w is flipped": behind("w", lambda u: u.flip(-1, -2)),
        "cotangent of grad_w misses the last channel": behind("w", only(slice(3))),
        "cotangent of grad_w is zero": behind("w", lambda u: 0 * u),
        "cotangent of grad_b is lost": behind("b", lambda u: 0 * u),
        "cotangent of grad_b is in reverse order": behind("b", lambda u: u.flip(0)),
        "second derivative by g is scaled by 3": behind("y", lambda u: 3 * u),
        "second derivative by g is rectified": behind("y", torch.relu),
        "second derivative by g misses one pixel": behind("y", lambda u: u - only((0, 1, 2, 3))(u)),
    }.items()
}  # fmt: skip
"""Name -> the operator, and what is computed instead; judged one derivative up."""
