"""Running error bounds: numbers that know how far a correct computation of them may be off.

A `Bounded` is a float64 value v and, per entry, a bound e on |computed - exact| for a computation
with unit roundoff u whose operands are within their own bounds:

    a + b     e_a + e_b                       + u (|v| + e)      one rounding of what was computed
    a * b     |a| e_b + |b| e_a + e_a e_b     + u (|v| + e)
    sum of n  sum of e                        + n u sum (|v| + e)     any order of summation
    1/sqrt a  e_a / 2 (a - e_a)^(-3/2)        + 4 u (|v| + e)    a root, a division, or one call

v itself was computed in float64, so it is within the bound for u = 2^-53 of the exact value, and a
result found with unit roundoff u is within e(u) + e(2^-53) of v. Numbers are far from underflow.

Source: N. J. Higham, "Accuracy and Stability of Numerical Algorithms", section 3.3.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bounded:
    value: Tensor
    error: Tensor
    u: float

    @classmethod
    def exactly(cls, value: Tensor, u: float) -> "Bounded":
        return cls(value.double(), torch.zeros_like(value, dtype=torch.float64), u)

    def rounded(self, value: Tensor, error: Tensor, times: float = 1) -> "Bounded":
        return Bounded(value, error + times * self.u * (value.abs() + error), self.u)

    def __add__(self, other: "Bounded") -> "Bounded":
        return self.rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: "Bounded") -> "Bounded":
        return self.rounded(self.value - other.value, self.error + other.error)

    def __mul__(self, other: "Bounded") -> "Bounded":
        error = self.value.abs() * other.error + other.value.abs() * self.error
        return self.rounded(self.value * other.value, error + self.error * other.error)

    def over(self, n: float) -> "Bounded":
        """A division by a whole number, or two divisions by its factors."""
        return self.rounded(self.value / n, self.error / n, 2)

    def times(self, factor: float) -> "Bounded":
        return self.rounded(self.value * factor, self.error * abs(factor))

    def sum(self, *dims: int) -> "Bounded":
        n = 1
        for dim in dims:
            n *= self.value.shape[dim]
        size = (self.value.abs() + self.error).sum(dims, keepdim=True)
        error = self.error.sum(dims, keepdim=True) + n * self.u * size
        return Bounded(self.value.sum(dims, keepdim=True), error, self.u)

    def rsqrt(self) -> "Bounded":
        error = self.error / 2 * (self.value - self.error) ** -1.5
        return self.rounded(self.value.rsqrt(), error, 4)

    def map(self, move: Any) -> "Bounded":
        """Apply a rearrangement of entries, which rounds nothing."""
        return Bounded(move(self.value), move(self.error), self.u)


def holds(found: Tensor, truth: Any) -> bool:
    """Whether found is within the bound of truth(u), a function from u to a Bounded.

    u is that of found's dtype; a bound of 0 demands an error of 0, and NaN is never within.
    """
    at_u = truth(torch.finfo(found.dtype).eps / 2)
    at_64 = truth(torch.finfo(torch.float64).eps / 2)
    gap = (found.double() - at_64.value.reshape(found.shape)).abs()
    return bool((gap <= (at_u.error + at_64.error).reshape(found.shape)).all())
