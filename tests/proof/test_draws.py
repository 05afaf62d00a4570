"""The epsilon formula against every polynomial of a tiny field, counted and not sampled."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from convgraph.proof.draws import Budget

SIDES = [1, 2, 3]


def worst(a: int) -> Fraction:
    """The largest share of [-a, a]^4 on which a nonzero polynomial of the judge's kind vanishes.

    All of c0 + c1 x1 + c2 x2 + c3 w1 + c4 w2 + sum c_ij x_i w_j with coefficients -1, 0 and 1.
    """
    points = np.array(list(product(range(-a, a + 1), repeat=4))).T
    x, w = points[:2], points[2:]
    products = (x[:, None] * w[None]).reshape(4, -1)
    monomials = np.concatenate([np.ones((1, points.shape[1])), points, products])
    forms = np.array(list(product((-1, 0, 1), repeat=len(monomials))))
    forms = forms[forms.any(axis=1)]
    zeros = max(int((block @ monomials == 0).sum(1).max()) for block in np.array_split(forms, 40))
    return Fraction(zeros, points.shape[1])


@pytest.fixture(scope="module")
def counted() -> dict[int, Fraction]:
    return {a: worst(a) for a in SIDES}


def holds(formula: Callable[[Fraction], Fraction], counted: dict[int, Fraction]) -> bool:
    return all(share <= formula(Fraction(1, 2 * a + 1)) for a, share in counted.items())


def test_no_polynomial_vanishes_more_often_than_the_theorem_says(
    counted: dict[int, Fraction],
) -> None:
    assert holds(lambda mu: 1 - (1 - mu) ** 2, counted)
    assert holds(lambda mu: 2 * mu, counted)


@pytest.mark.parametrize(
    "formula",
    [
        lambda mu: mu,
        lambda mu: mu**2,
        lambda mu: 2 * mu**2,
        lambda mu: 1 - (1 - mu**2),
        lambda mu: (1 - (1 - mu) ** 2) * Fraction(99, 100),
        lambda mu: 2 * mu - 2 * mu**2,
    ],
)
def test_a_mutated_formula_does_not_hold(
    formula: Callable[[Fraction], Fraction], counted: dict[int, Fraction]
) -> None:
    assert not holds(formula, counted)


@pytest.mark.parametrize("trials", [1, 2, 5])
@pytest.mark.parametrize("a", SIDES)
def test_a_plan_claims_no_more_than_was_counted(
    a: int, trials: int, counted: dict[int, Fraction]
) -> None:
    claimed = 2.0 ** Budget(terms=1, bits=53, a=a, trials=trials, seed=0).log2_epsilon
    assert float(counted[a] ** trials) <= claimed
