"""Operator by operator, suppositions side by side say no more than each of them alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.layer.order import codes
from convgraph.proof.layer.order.follower import Follower
from convgraph.proof.layer.order.suppositions import alike, anywhere, everywhere, under_each
from convgraph.proof.layer.premise.call import Refusal
from convgraph.proof.layer.premise.follower import Mode
from tests.proof.layer.order_operators import MANY, OPERATORS, Run, some


def followed(run: Run, known: Tensor) -> list[Any] | None:
    """What comes out, followed; None where it is refused."""
    follower = Follower(torch.float64, many=len(known))
    try:
        with Mode(follower):
            return trees.leaves(run(follower.enter(known, requires_grad=False)))
    except Refusal:
        return None


def says_no_more(beside: Tensor, alone: Tensor, real: bool) -> bool:
    if not real:
        return bool(((beside.real <= alone.real) & (beside.imag >= alone.imag)).all())
    less = (beside.imag == codes.OPEN) | ((beside.imag == codes.ANY) & codes.finite(alone))
    same = (beside == alone) | (beside.real.isnan() & alone.real.isnan())
    return bool((same | less).all())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of `take`, which torch loops
@pytest.mark.parametrize("name", OPERATORS)
def test_side_by_side_an_operator_says_no_more_than_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for run in OPERATORS[name]:
        held = 0
        for known in [some(generator) for _ in range(4)]:
            beside = followed(run, known)
            for place in range(MANY if beside is not None else 0):
                alone = followed(run, known[place : place + 1])
                assert alone is not None
                for one, two in zip(beside, alone, strict=True):
                    real = one.dtype.is_floating_point
                    assert says_no_more(one.knows()[place], two.knows()[0], real)
                held += 1
        assert held


def test_a_rule_runs_under_each_supposition_and_asks_of_all() -> None:
    held = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
    seen = []

    def rule(one: Tensor) -> list[Tensor]:
        seen.append((one.shape, anywhere(one == 3), everywhere(one < 3), everywhere(one >= 1)))
        return [one.amax(0), torch.zeros(2)]

    assert [t.tolist() for t in under_each(rule, [held])] == [[2, 3], [[0, 0], [0, 0]]]
    assert [t.tolist() for t in under_each(rule, [held[:1]])] == [[2], [[0, 0]]]
    assert seen == [((2,), True, False, True), ((2,), False, True, True)]
    assert [alike(held), alike(held[:, :1]), alike(held[:1])] == [False, True, True]
