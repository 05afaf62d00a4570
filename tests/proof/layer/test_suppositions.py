"""Operator by operator, suppositions side by side say no more than each of them alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.layer.order import codes
from convgraph.proof.layer.order.follower import Follower
from convgraph.proof.layer.order.suppositions import alike, anywhere, everywhere, under_each
from convgraph.proof.layer.premise.call import Refusal
from convgraph.proof.layer.premise.follower import Mode

MANY, SHAPE = 3, (2, 3, 4)
PLACES = torch.tensor([2, 0])


def places(x: Tensor) -> Tensor:
    """The largest of each row, where it is known: a whole number, (2, 3, 1)."""
    return x.argmax(-1, keepdim=True)


def filled(x: Tensor) -> Tensor:
    held = torch.zeros(SHAPE, dtype=x.dtype)
    held.copy_(x)
    held[0].fill_(2)
    held[1, :2].zero_()
    return held


Run = Callable[[Tensor], Any]

OPERATORS: dict[str, tuple[Run, ...]] = {
    "moves": (
        lambda x: x.roll(1, 2), lambda x: x.flip(1), lambda x: x.mT.reshape(6, 4),
        lambda x: x.unfold(2, 2, 2).clone(),
    ),
    "joins": (lambda x: torch.cat([x, x[:, :1]], 1), lambda x: torch.stack([x[0], x[1]], 2)),
    "pads": (
        lambda x: F.pad(x, (1, 2), value=-torch.inf), lambda x: F.pad(x > 0, (1, 0), value=True),
    ),
    "writes": (filled,),
    "puts": (
        lambda x: x.slice_scatter(x[:, :1], 1, 1, 2), lambda x: x.select_scatter(x[:, 0], 1, 2),
    ),
    "copies and fills at": (
        lambda x: x.index_copy(1, PLACES, x[:, :2]), lambda x: x.index_fill(1, PLACES, 2.0),
    ),
    "gathers": (
        lambda x: x.gather(2, places(x)), lambda x: x.take(places(x)),
        lambda x: x.index_select(1, PLACES), lambda x: x.index_select(2, places(x)[0, 0]),
        lambda x: x[:, :, places(x)[0, 0]], lambda x: F.embedding(PLACES, x[0]),
    ),
    "puts at": (
        lambda x: x.index_put((PLACES[1:], PLACES[:1]), x[0, 0]),
        lambda x: x.index_put((places(x)[0, 0] // 4,), x[1]),
        lambda x: torch.zeros_like(x).index_put((PLACES // 2,), x, accumulate=True),
    ),
    "adds at": (
        lambda x: torch.zeros_like(x).scatter_add(2, places(x), x[..., :1]),
        lambda x: torch.zeros_like(x).index_add(1, PLACES, x[:, :2]),
    ),
    "scatters": (
        lambda x: x.scatter(2, places(x), x[..., 1:2]), lambda x: x.scatter(2, places(x), 1.0),
        lambda x: x.scatter_reduce(1, PLACES.view(1, 2, 1).expand(2, 2, 4), x[:, :2], "amax"),
    ),
    "maxima": (
        lambda x: x.amax(1), lambda x: x.max(2), lambda x: torch.maximum(x, x[:1]),
        lambda x: x.max(), lambda x: x.argmax(), places,
    ),
    "pools": (
        lambda x: F.max_pool2d(x, 2, 1, return_indices=True),
        lambda x: F.adaptive_max_pool2d(x, (2, 2), return_indices=True),
        lambda x: F.max_pool3d(x[None], (1, 2, 2), return_indices=True),
    ),
    "sorts": (lambda x: x.topk(2), lambda x: x.sort(-1, descending=True)),
    "compares": (
        lambda x: x > x[:1], lambda x: x <= 0, lambda x: x == x.flip(2), lambda x: x != 1,
        lambda x: x.isnan(), lambda x: x.isinf(),
    ),
    "chooses": (
        lambda x: torch.where(x > x[:1], x, x[:1]), lambda x: x.masked_fill(x < x.flip(2), -1.0),
    ),
    "adds": (
        lambda x: x + 0, lambda x: x - x, lambda x: x + x.flip(1), lambda x: 1 - x,
        lambda x: x.sum(1), lambda x: x[:, 0] + (x > 0).any(1),
        lambda x: F.fold(x.reshape(1, 4, 6)[:, :, :4], 3, 2),
    ),
    "multiplies": (
        lambda x: x * 1, lambda x: x * 0, lambda x: x * x[:1], lambda x: (x > 0) * x,
        lambda x: x / 1, lambda x: -x,
    ),
    "decides": (
        lambda x: (x > 0).any(1), lambda x: (x > 0).all(2), lambda x: (x > 0) & (x < 1),
        lambda x: (x > 0) | (x < 1), lambda x: ~(x > 0), lambda x: (x > 0).long().cumsum(1),
        lambda x: (x > 0).long().amin(1), lambda x: (x > 0).sum(2),
        lambda x: places(x).clamp(1, 2), lambda x: places(x) * 2 - 1, lambda x: places(x).amax(1),
        lambda x: -places(x), lambda x: (x > 0).to(x.dtype),
    ),
}  # fmt: skip


def some(generator: torch.Generator) -> Tensor:
    """Entries of which much, little or all is known, under each supposition something else."""
    kinds = torch.tensor([
        complex(0, c) for c in (3, 4, 5, 6, 8, codes.ANY, codes.OPEN)
    ] + [complex(0), complex(1), complex(-torch.inf, 0)])  # fmt: skip
    kinds = kinds.to(torch.complex128)
    sure = torch.randint(0, len(kinds), (MANY, *SHAPE), generator=generator)
    found = kinds[sure]
    top = torch.rand(MANY, *SHAPE[:2], 1, generator=generator) < 0.7
    largest = torch.randint(0, SHAPE[2], (MANY, *SHAPE[:2], 1), generator=generator)
    at = torch.arange(SHAPE[2]) == largest
    return torch.where(top, torch.where(at, complex(0, 5), complex(0, 3)), found)


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
