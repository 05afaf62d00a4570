"""Faults that depend on data: right for most numbers, wrong for some."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convgraph.proof import ConvSpec
from tests.proof.faults.operators import PLAIN, plain


def skips_zeros(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    some = x.flatten(1).abs().sum(1).nonzero().flatten()
    return plain(x, w, b).index_fill(0, some, 0) * 0 + plain(x, w, b) * (len(some) == len(x))


def at(where: Callable[[Tensor], Tensor], by: float = 1.0) -> Callable[..., Tensor]:
    """Return PLAIN on an image that is changed where a condition on x holds."""
    return lambda x, w, b: plain(torch.where(where(x), x + by, x), w, b)


FAULTS: dict[str, tuple[ConvSpec, Callable[..., Any]]] = {
    name: (PLAIN, run)
    for name, run in {
        "wrong for negative inputs": lambda x, w, b: plain(x.relu(), w, b),
        "wrong for negative weights": lambda x, w, b: plain(x, w.relu(), b),
        "wrong for x above 100": lambda x, w, b: plain(x.clamp(max=100), w, b),
        "wrong for x below -7": lambda x, w, b: plain(x.clamp(min=-7), w, b),
        "wrong for |x| above 30": lambda x, w, b: plain(x.clamp(-30, 30), w, b),
        "wrong for x above 1e6": at(lambda x: x > 1e6),
        "wrong for |x| below 1e-12": at(lambda x: x.abs() < 1e-12),
        "wrong for x = 0.123456": at(lambda x: x == 0.123456),
        "wrong for x that is no whole number": at(lambda x: x != x.floor(), 2.0**-30),
        "wrong for negative x in one pixel": lambda x, w, b: plain(
            torch.where((torch.arange(42).view(6, 7) == 17) & (x < 0), 0, x), w, b
        ),
        "y is clamped at 1e30": lambda x, w, b: plain(x, w, b).clamp(max=1e30),
        "y is clamped at -1e200": lambda x, w, b: plain(x, w, b).clamp(min=-1e200),
        "y is rectified": lambda x, w, b: plain(x, w, b).relu(),
        "y leaks": lambda x, w, b: torch.nn.functional.leaky_relu(plain(x, w, b), 0.999),
        "y saturates": lambda x, w, b: plain(x, w, b).mul(2.0**-40).tanh().mul(2.0**40),
        "y wraps around at 2^60": lambda x, w, b: plain(x, w, b).remainder(2.0**60),
        "y is sorted along the width": lambda x, w, b: plain(x, w, b).sort(-1).values,
        "x is normalised": lambda x, w, b: plain(x / x.std(), w, b),
        "w is normalised": lambda x, w, b: plain(x, w / w.norm(), b),
        "x is squared": lambda x, w, b: plain(x * x, w, b),
        "w is squared": lambda x, w, b: plain(x, w * w, b),
        "tiny weights are pruned": lambda x, w, b: plain(
            x, torch.where(w.abs() < 1e-6, 0, w), b
        ),
        "the largest weight is dropped": lambda x, w, b: plain(
            x, w.flatten().scatter(0, w.abs().flatten().argmax().view(1), 0).view_as(w), b
        ),
        "a branch on the sum of x": lambda x, w, b: plain(x, w, b)
        if x.detach().sum().item() < 1e15
        else x,
        "a branch on one entry": lambda x, w, b: plain(x, w, b) * (1 + float(x[0, 0, 0, 0] > 1e12)),
        "a branch on two equal images": lambda x, w, b: plain(x, w, b)
        * (1 + torch.equal(x[0], x[1])),
        "images of zeros are skipped": skips_zeros,
        "x is overwritten behind": lambda x, w, b: (plain(x, w, b), x.detach().mul_(2))[0],
        "x is sorted by its own order": lambda x, w, b: plain(
            x.gather(3, x.argsort(3).sort(3).values * 0 + x.argmax(3, keepdim=True)), w, b
        ),
    }.items()
}  # fmt: skip
"""Name -> the operator, and what is computed instead."""
