"""Sides that a record can name, each right in every manner of calling but one.

"maximum between" is a maximum, and wrong where it is called again before its backward runs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Run = Callable[..., Tensor]

OPERATORS: dict[str, Run] = {
    "convolution": lambda x, w, b: functional.conv2d(x, w, b, padding=1),
    "linear": lambda x: functional.avg_pool2d(x, 2, padding=1),
    "maximum": lambda x: functional.max_pool2d(x, (3, 2), 2, (1, 0)),
}
REFERENCES = {
    "convolution": "tests.twins:dense",
    "linear": "tests.twins:pool",
    "maximum": "tests.twins:max_pool",
}
SETS = ("x", "w", "b", "x, w", "x, b", "w, b", "x, w, b")


class Counted(torch.autograd.Function):
    """A gradient that grows with each backward, and doubles if there was another call meanwhile."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, y: Tensor, between: bool) -> Tensor:
        Counted.calls += 1
        ctx.mine, ctx.between, ctx.walks = Counted.calls, between, 0
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        ctx.walks += 1
        if ctx.between:
            return g * (1 if ctx.mine == Counted.calls else 2), None
        return g * ctx.walks, None


def doubled(op: Run, asked: Callable[..., bool]) -> Run:
    return lambda *sent: op(*sent) * (2 if asked(*sent) else 1)


def stale(op: Run) -> Run:
    """By the tensor and its version, whatever it holds by now."""
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def run(x: Tensor, *others: Tensor) -> Tensor:
        _, before = kept.setdefault((id(x), x._version), (x, x.detach() * 1))
        return op(x + (before - x.detach()), *others)

    return run


def hooked(op: Run) -> Run:
    def twice(p: Tensor) -> None:
        p.grad = None if p.grad is None else p.grad * 2

    def run(x: Tensor, *others: Tensor) -> Tensor:
        if x.is_leaf and x.requires_grad:
            x.register_post_accumulate_grad_hook(twice)
        return op(x, *others)

    return run


def writing(op: Run) -> Run:
    def run(x: Tensor, *others: Tensor) -> Tensor:
        y = op(x * 1, *others)
        if no_leaf(x):
            with torch.no_grad():
                x.zero_()
        return y

    return run


def listed(op: Run) -> Run:
    def run(*sent: Tensor) -> Any:
        return [op(*sent)] if no_leaf(*sent) else op(*sent)

    return run


def rounding(op: Run) -> Run:
    """It rounds on integers too; S1 does not follow it."""

    def run(*sent: Tensor) -> Tensor:
        y = op(*sent)
        return torch.fft.irfft(torch.fft.rfft(y), n=y.shape[-1])

    return run


def raising(op: Run) -> Run:
    """It raises without a gradient for the image."""

    def run(x: Tensor, *others: Tensor) -> Tensor:
        if not x.requires_grad:
            raise RuntimeError("out of luck")
        return op(x, *others)

    return run


def corner(op: Run) -> Run:
    """It is wrong at the first entry alone, however it is called."""

    def run(*sent: Tensor) -> Tensor:
        y = op(*sent)
        first = torch.zeros_like(y)
        first.view(-1)[0] = 1
        return y + y * first

    return run


def stopping(op: Run) -> Run:
    """It raises when an image comes back."""
    kept: list[Tensor] = []

    def run(x: Tensor, *others: Tensor) -> Tensor:
        if any(x is one for one in kept):
            raise RuntimeError("out of luck")
        kept.append(x)
        return op(x, *others)

    return run


def blind(op: Run) -> Run:
    """It hands no gradient on."""
    return lambda *sent: op(*sent).detach()


def coarse(op: Run) -> Run:
    """It is right on integers, and on what powers of two make of them, and on no other numbers."""

    def run(*sent: Tensor) -> Tensor:
        y = op(*sent)
        return y + ((y * 2**14).round() / 2**14 - y).detach()

    return run


def frozen(*sent: Tensor) -> str:
    return ", ".join(n for n, t in zip("xwb", sent, strict=False) if not t.requires_grad)


def no_leaf(x: Tensor, *others: Tensor) -> bool:
    return not x.is_leaf


def written_to(x: Tensor, *_: Tensor) -> bool:
    return x._version > 0


WRONG: dict[str, Callable[[Run], Run]] = {
    "between": lambda op: lambda *s: Counted.apply(op(*s), True),  # type: ignore[no-untyped-call]
    "again": lambda op: lambda *s: Counted.apply(op(*s), False),  # type: ignore[no-untyped-call]
    "again, written to": lambda op: doubled(op, written_to),
    "refilled": stale,
    "backward": hooked,
    "inner": lambda op: doubled(op, no_leaf),
    "inner, written": writing,
    "inner, another shape": lambda op: lambda *s: op(*s)[..., no_leaf(*s) :],
    "inner, no tensor": listed,
    "inner, NaN": lambda op: lambda *s: op(*s) * (float("nan") if no_leaf(*s) else 1),
    "inner, rounding": lambda op: doubled(rounding(op), no_leaf),
    "inner, raising": lambda op: doubled(raising(op), no_leaf),
    "inner, stopping": lambda op: doubled(stopping(op), no_leaf),
}
ALWAYS = {"blind": blind, "coarse": coarse, "corner": corner}
"""However they are called."""


def __getattr__(name: str) -> Run:
    kind, _, manner = name.partition(" ")
    if kind not in OPERATORS:
        raise AttributeError(name)
    if wrong := (WRONG | ALWAYS).get(manner):
        return wrong(OPERATORS[kind])
    names = manner.removeprefix("frozen ")
    return doubled(OPERATORS[kind], lambda *sent: frozen(*sent) == names)
