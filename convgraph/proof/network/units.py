"""What is divided by: variables, but for exponentials and one more than these, which have inverses.

    1 / q                   a variable of q; 1 / (c q) is 1 / c of it
    exp(-x)                 the inverse of exp(x)
    1 / (1 + exp(x))        the inverse of that sum, so that e / (1 + e) = 1 - 1 / (1 + e)

The residue of an exponential is neither 0 nor -1, so both inverses are residues. Where they stand
for 1 / e and 1 / (1 + e), a polynomial is a rational function of each e, see `FURTHER`. What has an
inverse can vanish from a product, so a candidate takes no exponential that the reference has not.
"""

from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from convgraph.proof.network import terms
from convgraph.proof.network.polynomials import (
    PRIMES,
    NoMeaning,
    Points,
    Polynomial,
    either,
    exactly,
    reduced,
)


@final
class Units:
    """The exponentials of both sides, and what they are divided by.

    Args:
        points: whose elements they are.
    """

    def __init__(self, points: Points) -> None:
        """Start with none."""
        self.points = points
        self._known: list[tuple[Tensor, Tensor]] = []

    def exponential(self, x: Polynomial) -> Polynomial:
        """The exponential of each entry; of x and -x one is the other's inverse."""
        flat = x.view(-1)
        turned = self.points.key(reduced(-flat.at)) < self.points.key(flat.at)
        made = self.points.atom("exp", either(turned, -flat, flat), unit=True)
        if bool(turned.any()):
            made = either(turned, _inverse(made), made)
            self.points.divided = True
        keys, order = self.points.key(made.at).sort(stable=True)
        self._known.append((keys, made.at[:, order].int()))
        return made.view(*x.shape)

    def reciprocal(self, found: Polynomial) -> Polynomial:
        """One divided by each entry.

        Raises:
            NoMeaning: of constants.
        """
        if found.height.degree == 0 or not found.factor:
            raise NoMeaning
        factor = exactly(1 / found.factor)
        if factor.variable:
            factor = exactly(Fraction(1))
        scaled = (found * factor).view(-1)
        made = self.points.atom("reciprocal", scaled)
        known = self._is_known(scaled.at) | self._is_known(reduced(scaled.at - 1))
        if bool(known.any()):
            one = torch.ones_like(scaled.at)  # whose inverse is one, where there is none
            some = Polynomial(torch.where(known, scaled.at, one), scaled.terms, scaled.height)
            made = either(known, _inverse(some), made)
            self.points.divided = True
        return (made * factor).view(*found.shape)

    def _is_known(self, at: Tensor) -> Tensor:
        """(n,) bool: which entries are exponentials."""
        found = torch.zeros(at.shape[1], dtype=torch.bool)
        wanted = self.points.key(at) if self._known else at
        for keys, known in self._known:
            if len(keys):
                place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
                found |= (known[:, place] == at).all(0)
        return found


def _inverse(found: Polynomial) -> Polynomial:
    """One divided by entries of which no residue is 0; it loses what they do, relative to them."""
    made = [_power(at, p - 2, p) for at, p in zip(found.at, PRIMES, strict=True)]
    value = 1 / found.terms[terms.VALUE]
    own = torch.cat([
        found.terms[terms.SIZE] * value**2, value, found.terms[terms.LOSS] * value**2
    ])  # fmt: skip
    return Polynomial(torch.stack(made), own, found.height)


def _power(base: Tensor, exponent: int, prime: int) -> Tensor:
    found = torch.ones_like(base)
    while exponent:
        if exponent & 1:
            found = found * base % prime
        base, exponent = base * base % prime, exponent >> 1
    return found
