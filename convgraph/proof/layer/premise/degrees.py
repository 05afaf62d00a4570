"""Degrees and magnitudes: what is known of a tensor's entries without looking at them.

Every entry is a polynomial in the inputs. A `Bound` holds, for each monomial that may occur, the
most that its integer coefficients add up to, and the step of which every entry is a multiple:

    entry = odd * 2^-step * (sum over monomials m of an integer combination),
    |sum for m| <= c[m] a^|m|

if every input entry is an integer of [-a, a], or such a multiple of a whole number. A sum is exact
in any order while the integers odd * sum stay within 2^d, and so is a division by what divides odd.
Plain arithmetic on integers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from math import gcd
from typing import final

import torch
from torch import Tensor

from convgraph.errors import ProofError

Monomial = tuple[str, ...]
"""Names of roles with repetition, in the order of `ORDER`; () is the constant monomial."""

ORDER = ("x", "w", "b", "g", "ux", "uw", "ub")
"""Image, weights, bias, incoming gradient; directions of the second derivative."""

BITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
"""Bits in which integers are exact, by dtype."""


@cache
def multiply(one: Monomial, two: Monomial) -> Monomial:
    """Return the product of two monomials.

    Example:
        >>> multiply(("w",), ("x",))
        ('x', 'w')
    """
    return tuple(sorted((*one, *two), key=ORDER.index))


@cache
def divides(one: Monomial, two: Monomial) -> bool:
    """Whether a monomial is a factor of another.

    Example:
        >>> divides(("x",), ("x", "w")), divides(("x", "x"), ("x", "w"))
        (True, False)
    """
    return all(one.count(name) <= two.count(name) for name in one)


def spell(monomial: Monomial) -> str:
    """Return a monomial as it is written; "1" is the constant.

    Example:
        >>> spell(("x", "w")), spell(())
        ('xw', '1')
    """
    return "".join(monomial) or "1"


@final
@dataclass(frozen=True)
class Bound:
    """The monomials of a tensor's entries, and how large they can be.

    Attributes:
        terms: coefficient of each monomial, in steps; no monomial, no entry but 0.
        step: every entry is a multiple of odd * 2^-step.
        odd: an odd whole number.

    Example:
        >>> image, weight = Bound.of("x"), Bound.of("w")
        >>> image.times(weight).many(9).plus(Bound.of("b")).size(10)
        910
    """

    terms: Mapping[Monomial, int] = field(default_factory=dict)
    step: int = 0
    odd: int = 1

    @classmethod
    def of(cls, role: str, scale: int = 1) -> "Bound":
        """Entries that are inputs of one role, multiples of a whole number.

        Example:
            >>> Bound.of("x", 12)
            Bound(terms={('x',): 4}, step=0, odd=3)
        """
        even = scale & -scale
        return cls({(role,): even}, 0, scale // even)

    @classmethod
    def constant(cls, value: float | Fraction) -> "Bound":
        """Constant entries of at most this magnitude, multiples of the last bit of it.

        Raises:
            ProofError: the number is infinite, NaN or no binary fraction.
        """
        try:
            exact = abs(Fraction(value))
        except (OverflowError, ValueError):
            raise ProofError(f"a constant is {value}") from None
        if exact.denominator & (exact.denominator - 1):
            raise ProofError(f"the constant {exact} is no binary fraction")
        step = exact.denominator.bit_length() - 1
        return cls({(): exact.numerator} if exact else {}, step)

    def times(self, other: "Bound") -> "Bound":
        """One product of an entry of each."""
        terms: dict[Monomial, int] = {}
        for one, c in self.terms.items():
            for two, d in other.terms.items():
                both = multiply(one, two)
                terms[both] = terms.get(both, 0) + c * d
        return Bound(terms, self.step + other.step, self.odd * other.odd)

    def scaled(self, factor: float | Fraction) -> "Bound":
        """Each entry times one known number, whose even part takes steps away.

        Example:
            >>> Bound({("x",): 4}, 2).scaled(-4)
            Bound(terms={('x',): 4}, step=0, odd=1)
            >>> Bound.of("x", 9).scaled(Fraction(1, 3))
            Bound(terms={('x',): 1}, step=0, odd=3)
        """
        odd = self.odd
        if isinstance(factor, Fraction):
            shared = gcd(factor.denominator, odd)
            factor, odd = factor * shared, odd // shared
        known = Bound.constant(factor)
        (number,) = known.terms.values() or (0,)
        even = (number & -number).bit_length() - 1 if number else 0
        whole = min(self.step, even)
        terms = {m: c * (number >> whole) for m, c in self.terms.items() if number}
        return Bound(terms, self.step - whole + known.step, odd)

    def plus(self, other: "Bound") -> "Bound":
        """The sum or the difference of an entry of each."""
        one, two, step, odd = _aligned(self, other)
        return Bound({m: one.get(m, 0) + two.get(m, 0) for m in {**one, **two}}, step, odd)

    def either(self, other: "Bound") -> "Bound":
        """An entry of one or of the other."""
        one, two, step, odd = _aligned(self, other)
        return Bound({m: max(one.get(m, 0), two.get(m, 0)) for m in {**one, **two}}, step, odd)

    def many(self, count: int) -> "Bound":
        """The sum of at most so many entries."""
        if count <= 0:
            return Bound()
        return Bound({m: c * count for m, c in self.terms.items()}, self.step, self.odd)

    def size(self, a: int) -> int:
        """The largest integer, in steps, if the inputs are integers of [-a, a]."""
        found: int = self.odd * sum(c * a ** len(m) for m, c in self.terms.items())
        return found

    def spelled(self) -> tuple[str, ...]:
        """The monomials as they are written."""
        return tuple(spell(m) for m in sorted(self.terms, key=lambda m: (-len(m), m)))


def union(bounds: Iterable[Bound]) -> Bound:
    """An entry of any of them."""
    found = Bound()
    for bound in bounds:
        found = found.either(bound)
    return found


def measure(constant: Tensor, *, hollow: bool = False) -> Bound:
    """Read magnitude and step of a constant tensor off its entries.

    Args:
        constant: of any real dtype.
        hollow: whether NaN stands for memory that nothing has written yet and is left out.

    Raises:
        ProofError: an entry is infinite or NaN.

    Example:
        >>> measure(torch.tensor([0.0, -2.5, 1.0]))
        Bound(terms={(): 5}, step=1, odd=1)
    """
    if constant.layout == torch.sparse_coo:
        constant = constant.coalesce()
    if constant.layout != torch.strided:
        constant = constant.values()
    values = constant.detach().double().flatten()
    if hollow:
        values = values[~values.isnan()]
    values = values[values != 0]
    if values.numel() == 0:
        return Bound()
    if not bool(values.isfinite().all()):
        raise ProofError("a constant is infinite or NaN")
    mantissa, exponent = torch.frexp(values)
    digits = (mantissa * 2.0**53).long()
    _, lowest = torch.frexp((digits & -digits).double())  # 2^(lowest - 1) is the last bit
    step = max(0, -int((exponent.long() - 53 + lowest - 1).min()))
    largest = Fraction(float(values.abs().max())) * 2**step
    return Bound({(): int(largest)}, step)


def _aligned(one: Bound, two: Bound) -> tuple[dict[Monomial, int], dict[Monomial, int], int, int]:
    step = max(one.step, two.step)
    odds = [bound.odd for bound in (one, two) if bound.terms]  # 0 is a multiple of anything
    odd = gcd(*odds) if odds else 1
    return (
        {m: (c << (step - one.step)) * (one.odd // odd) for m, c in one.terms.items()},
        {m: (c << (step - two.step)) * (two.odd // odd) for m, c in two.terms.items()},
        step,
        odd,
    )
