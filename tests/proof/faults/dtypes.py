"""Faults of precision: right in exact arithmetic, or nearly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.proof import ConvSpec
from tests.proof.faults.gradients import by_w, by_x
from tests.proof.faults.operators import PLAIN, plain


def through(dtype: torch.dtype, names: str) -> Callable[..., Tensor]:
    """Return PLAIN with some arguments, or y, rounded to a dtype and back."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        sent = {"x": x, "w": w, "b": b}
        sent = {n: v.to(dtype).to(v.dtype) if n in names else v for n, v in sent.items()}
        y = plain(**sent)
        return y.to(dtype).to(x.dtype) if "y" in names else y

    return run


def kept_to(bits: int) -> Callable[[Tensor], Tensor]:
    """Return a rounding of operands to so many bits, as in a tensor core; gradients pass."""

    def rounded(value: Tensor) -> Tensor:
        held = value.detach()
        mantissa, exponent = torch.frexp(held)
        short = torch.ldexp(torch.round(mantissa * 2.0**bits) / 2.0**bits, exponent)
        return value + (short - held)

    return rounded


def short(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Exact on every integer probe, three digits short on real numbers; nothing S2 could see."""
    whole = (x == x.round()).all()
    return plain(x if whole else x + (x.float().double() - x).detach(), w, b)


class FixedPoint(torch.autograd.Function):
    """A foreign kernel with a fixed point: exact on whole numbers and on their scaled copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        y = plain(x, w, b)
        return torch.from_numpy(np.round(y.numpy() * 2.0**36) / 2.0**36)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return by_x(x, w, g), by_w(x, w, g), g.sum((0, 2, 3))


TRUSTED = {"keeps a fixed point of 36 bits": ("FixedPoint",)}
"""Foreign kernels that S1 is asked to trust: other parts have to see what is wrong with them."""

FAULTS: dict[str, tuple[ConvSpec, Callable[..., Any]]] = {
    name: (PLAIN, run)
    for name, run in {
        "computes in float32": lambda x, w, b: plain(x.float(), w.float(), b.float()).double(),
        "computes in float16": lambda x, w, b: plain(x.half(), w.half(), b.half()).double(),
        "computes in bfloat16": lambda x, w, b: plain(
            x.bfloat16(), w.bfloat16(), b.bfloat16()
        ).double(),
        "rounds x to bfloat16": through(torch.bfloat16, "x"),
        "rounds x to float16": through(torch.float16, "x"),
        "rounds w to float32": through(torch.float32, "w"),
        "rounds w to bfloat16": through(torch.bfloat16, "w"),
        "rounds b to float32": through(torch.float32, "b"),
        "rounds y to float32": through(torch.float32, "y"),
        "rounds y to float16": through(torch.float16, "y"),
        "rounds x and w to 8-bit floats": through(torch.float8_e4m3fn, "xw"),
        "multiplies operands of 11 bits": lambda x, w, b: plain(kept_to(11)(x), kept_to(11)(w), b),
        "multiplies operands of 48 bits": lambda x, w, b: plain(kept_to(48)(x), kept_to(48)(w), b),
        "returns another dtype": lambda x, w, b: plain(x, w, b).float(),
        "returns half": lambda x, w, b: plain(x, w, b).half(),
        "returns a list": lambda x, w, b: [plain(x, w, b)],
        "returns a tuple with the weight": lambda x, w, b: (plain(x, w, b), w),
        "rounds real numbers only": short,
        "keeps a fixed point of 36 bits": FixedPoint.apply,
        "rounds x to whole numbers": lambda x, w, b: plain(x.round(), w, b),
        "quantises w to 256 steps": lambda x, w, b: plain(
            x, w + ((w * 64).round() / 64 - w).detach(), b
        ),
    }.items()
}  # fmt: skip
"""Name -> the operator, and what is computed instead, in float64."""
