"""What rounding can lose of an element: how large its terms are, and what they come to.

    size      the sum of the absolute values of all terms, however they are put together
    value     what they come to; a difference of two that lie close together is small
    loss      what they come to can be off by, in units of roundoff:
              of a variable its value, of a sum the sum, of a product |a| loss(b) + loss(a) |b|

    (x - m)^2      size 4    loss 4 |x - m|
    x^2 - m^2      size 2    loss 4

All three are worked out at two points of real numbers, where variables of one tensor lie close
together, so that what cancels shows, and those of two tensors are of unlike sizes: one point has
the reciprocals of the other's. Two elements that are one polynomial have one value, whoever made
them; size and loss are of the way that they were made.
"""

from collections.abc import Callable

import torch
from torch import Tensor

APART = 2.0**-12
"""By how much variables of one tensor differ, relative to their size."""

SPREAD = 4
"""Variables of two tensors are up to 2^(2 SPREAD) times as large as each other."""

SIZE, VALUE, LOSS = slice(0, 2), slice(2, 4), slice(4, 6)

ROWS = 6
"""Of a tensor of terms (ROWS, *shape): the three of them at each of the two points."""


def variables(residues: Tensor, bits: int, count: int = 1) -> Tensor:
    """Terms of variables.

    Args:
        residues: (*shape), those of one point, which say where each lies.
        bits: their tensor's, at most SPREAD either way.
        count: how many of them are added up as a rule, which keeps deep networks in range.
    """
    near = (1 + APART * residues.double() / 2**24) / max(count, 1)
    both = torch.stack([near * 2.0**bits, near * 2.0**-bits])
    return torch.cat([both, both, both])


def choices(shape: torch.Size) -> Tensor:
    """Terms of what is 0 or 1, of which nothing is lost."""
    half = torch.full((ROWS, *shape), 0.5, dtype=torch.float64)
    half[LOSS] = 0
    return half


def numbers(values: Tensor) -> Tensor:
    """Terms of constants."""
    real = values.double().expand(2, *values.shape)
    return torch.cat([real.abs(), real, real.abs()])


def scaled(one: Tensor, factor: float) -> Tensor:
    """Terms of a product with a constant."""
    found = one * abs(factor)
    return negative(found) if factor < 0 else found


def negative(one: Tensor) -> Tensor:
    """Terms of the other sign."""
    return torch.cat([one[SIZE], -one[VALUE], one[LOSS]])


def products(call: Callable[[Tensor, Tensor], Tensor], one: Tensor, two: Tensor) -> Tensor:
    """Terms of what an operator that is linear in both makes of two.

    Args:
        call: the operator, of tensors without the axis of rows.
        one: (ROWS, ...).
        two: likewise.
    """
    mine, other = one[VALUE].abs(), two[VALUE].abs()
    return torch.stack([
        *(call(a, b) for a, b in zip(one[:4], two[:4], strict=True)),
        *(call(a, d) + call(c, b)
          for a, b, c, d in zip(mine, other, one[LOSS], two[LOSS], strict=True)),
    ])  # fmt: skip


def larger(mine: Tensor, other: Tensor) -> float:
    """How many times as large the first are, at most; of what is 0 in both 1.

    What is no number is infinitely large.
    """
    ratio = torch.where((mine == other) & mine.isfinite(), 1.0, mine / other)
    return float(ratio.nan_to_num(nan=torch.inf).max())
