"""Rounding after every operator, so that two orders of summation say the same bits.

A result keeps 20 bits below its largest entry. Sums in float64 that differ only in their order
differ in the 45th bit and later; after rounding they are equal, unless an entry lies within that of
a tie. What is left between two ways of computing a network is a difference in meaning: more than
2^-21 of a map's largest entry, at any operator, stays in the result. Reads torch only.
"""

from typing import Any

import torch
from torch import Tensor

BITS = 20

OFFSET = 0.7182818284
"""Where values part between two grains. Means of grains are simple fractions, so never a tie."""


def is_view(target: Any) -> bool:
    """Whether an operator returns elements of its argument: they are rounded already."""
    schema = getattr(target, "_schema", None)
    return schema is None or any(
        one.alias_info is not None and not one.alias_info.is_write for one in schema.returns
    )


def is_exact(target: Any, args: Any) -> bool:
    """Whether an operator adds one number: equal bits stay equal, and a small one stays there."""
    name = getattr(getattr(target, "_schema", None), "name", "")
    return name in ("aten::add", "aten::add_") and isinstance(args[1], (int, float))


def writes(target: Any) -> bool:
    """Whether an operator writes into its argument."""
    schema = getattr(target, "_schema", None)
    return schema is not None and any(
        one.alias_info is not None and one.alias_info.is_write for one in schema.returns
    )


def snap(x: Tensor, target: Any, there: Tensor | None = None) -> Tensor:
    """Round a result to 20 bits below the largest entry that is there.

    Args:
        x: any; only floating ones are rounded, in place where the operator wrote in place.
        target: the operator.
        there: broadcasts to x; which entries mean something.
    """
    return snap_together([(x, there)], target)[0]


def snap_together(parts: list[tuple[Tensor, Tensor | None]], target: Any) -> list[Tensor]:
    """Round the parts of one result, below the largest entry of all."""
    grain = grain_of(parts)
    return [x if grain is None else _rounded(x, grain, target) for x, _ in parts]


def grain_of(parts: list[tuple[Tensor, Tensor | None]]) -> float | None:
    """What is rounded to; None where nothing is."""
    largest = 0.0
    for x, there in parts:
        if not x.is_floating_point() or not x.numel():
            continue
        size = x.detach().abs()
        if there is not None:
            size = torch.where(there, size, 0)
        largest = max(largest, float(size.max()))
    if not 0 < largest < float("inf"):
        return None
    exponent = int(torch.frexp(torch.tensor(largest, dtype=torch.float64))[1])
    return float(2.0 ** (exponent - BITS))


def _rounded(x: Tensor, grain: float, target: Any) -> Tensor:
    if not x.is_floating_point():
        return x
    rounded = torch.floor(x / grain + OFFSET) * grain
    if writes(target):
        return x.copy_(rounded)
    return x if torch.equal(rounded, x) else rounded


def wide(value: Any) -> Any:
    """Float64 where a network asks for float32 inside: its sums would differ in their 20th bit."""
    return torch.float64 if value is torch.float32 else value
