"""Faults of one gradient; the value is right everywhere."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import ConvSpec
from tests.proof.faults.operators import PLAIN, plain

Change = Callable[[Tensor], Tensor | None]
Run = Callable[..., Tensor]


class Back(torch.autograd.Function):
    """The identity; what comes back is changed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, change: Change) -> Tensor:
        ctx.change = change
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return ctx.change(g), None


def altered(identity: type[torch.autograd.Function], name: str, change: Change) -> Run:
    """Return PLAIN with an identity, which hands `change` on, at x, w or b, or behind y."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        sent = {"x": x, "w": w, "b": b}
        if name in sent:
            sent[name] = identity.apply(sent[name], change)
        y = plain(**sent)
        return identity.apply(y, change) if name == "y" else y

    return run


def back(name: str, change: Change) -> Run:
    """Return PLAIN with one gradient changed: that of x, w, b, or what comes in at y."""
    return altered(Back, name, change)


class Mixed(torch.autograd.Function):
    """The right value; each gradient is what a function of (x, w, g) says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, wrong: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.wrong = wrong
        return plain(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        right = {"x": by_x, "w": by_w, "b": lambda x, w, g: g.sum((0, 2, 3))} | ctx.wrong
        return *(right[name](x, w, g) for name in "xwb"), None


def by_x(x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return torch.nn.grad.conv2d_input(x.shape, w, g, 1, 1)


def by_w(x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return torch.nn.grad.conv2d_weight(x, w.shape, g, 1, 1)


def mixed(**wrong: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, w, b: Mixed.apply(x, w, b, wrong)


def only(index: Any) -> Change:
    """Keep the gradient of a part and lose the rest."""

    def change(g: Tensor) -> Tensor:
        kept = torch.zeros(g.shape, dtype=torch.bool)
        kept[index] = True
        return torch.where(kept, g, 0)

    return change


FAULTS: dict[str, tuple[ConvSpec, Callable[..., Any]]] = {
    name: (PLAIN, run)
    for name, run in {
        # x
        "gradient of x is lost": lambda x, w, b: plain(x.detach(), w, b),
        "gradient of x is zero": back("x", lambda g: 0 * g),
        "gradient of x is doubled": lambda x, w, b: plain(2 * x - x.detach(), w, b),
        "gradient of x has the wrong sign": back("x", lambda g: -g),
        "gradient of x is that of another kernel": mixed(
            x=lambda x, w, g: by_x(x, w.flip(-1, -2), g)
        ),
        "gradient of x takes w untransposed": mixed(
            x=lambda x, w, g: by_x(x, w.transpose(0, 1), g)
        ),
        "gradient of x is shifted by a pixel": back("x", lambda g: g.roll(1, -1)),
        "gradient of x misses its border": back("x", only((..., slice(1, -1)))),
        "gradient of x misses the second image": back("x", only(0)),
        "gradient of x misses the last channel": back("x", only((slice(None), slice(3)))),
        "gradient of x mixes the images": back("x", lambda g: g.flip(0)),
        "gradient of x is averaged over images": back("x", lambda g: g / 2),
        "gradient of x misses one pixel": back("x", lambda g: g - only((1, 3, 5, 6))(g)),
        "gradient of x is clipped at 10": back("x", lambda g: g.clamp(-10, 10)),
        "gradient of x is clipped at 1e30": back("x", lambda g: g.clamp(-1e30, 1e30)),
        "gradient of x is its sign": back("x", torch.sign),
        "gradient of x goes through half": back("x", lambda g: g.half().to(g.dtype)),
        "gradient of x goes through float32": back("x", lambda g: g.float().to(g.dtype)),
        "gradient of x has a constant added": back("x", lambda g: g + 2.0**-30),
        "gradient of x is normalised": back("x", lambda g: g / g.norm()),
        # w
        "gradient of w is lost": lambda x, w, b: plain(x, w.detach(), b),
        "gradient of w is zero": back("w", lambda g: 0 * g),
        "gradient of w is halved": lambda x, w, b: plain(x, (w + w.detach()) / 2, b),
        "gradient of w is flipped": back("w", lambda g: g.flip(-1, -2)),
        "gradient of w has its axes exchanged": back("w", lambda g: g.mT),
        "gradient of w has its channels exchanged": back("w", lambda g: g.transpose(0, 1)),
        "gradient of w misses the last tap": back("w", only((..., slice(2)))),
        "gradient of w misses the last output channel": back("w", only(slice(3))),
        "gradient of w comes from the first image only": mixed(
            w=lambda x, w, g: by_w(x[:1], w, g[:1])
        ),
        "gradient of w is averaged over images": back("w", lambda g: g / 2),
        "gradient of w is averaged over pixels": back("w", lambda g: g / 64),
        "gradient of w leaves the border out": mixed(
            w=lambda x, w, g: by_w(x, w, g * F.pad(torch.ones_like(g[..., 1:-1]), (1, 1)))
        ),
        "gradient of w is summed in float16": back("w", lambda g: g.half().to(g.dtype)),
        "gradient of w is clipped at 1e30": back("w", lambda g: g.clamp(-1e30, 1e30)),
        "gradient of w holds weight decay": mixed(
            w=lambda x, w, g: by_w(x, w, g) + w * 2.0**-20
        ),
        "gradient of w is off by 2^-30": back("w", lambda g: g * (1 + 2.0**-30)),
        # b
        "gradient of b is lost": lambda x, w, b: plain(x, w, b.detach()),
        "gradient of b is zero": back("b", lambda g: 0 * g),
        "gradient of b is doubled": back("b", lambda g: 2 * g),
        "gradient of b is a mean over sites": back("b", lambda g: g / 64),
        "gradient of b comes from the first image only": mixed(
            b=lambda x, w, g: g[0].sum((1, 2))
        ),
        "gradient of b misses the last channel": back("b", only(slice(3))),
        "gradient of b is in reverse order": back("b", lambda g: g.flip(0)),
        "gradient of b is that of all channels": back("b", lambda g: g.sum().expand(4)),
        # what comes in
        "incoming gradient is scaled by 2": back("y", lambda g: 2 * g),
        "incoming gradient is rectified": back("y", torch.relu),
        "incoming gradient of the last row is lost": back("y", only((..., slice(5), slice(None)))),
        "incoming gradient is clamped at 1e30": back("y", lambda g: g.clamp(-1e30, 1e30)),
        "straight-through: rounded forward, smooth backward": lambda x, w, b: plain(x, w, b)
        + (plain(x, w, b).round() - plain(x, w, b)).detach(),
    }.items()
}  # fmt: skip
"""Name -> the operator, and what is computed instead."""
