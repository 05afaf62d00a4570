"""One network in several spellings is proven; a spelling that looks alike and is none is not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import convgraph as cg
from convgraph.proof import Certificate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x))).relu()

    def pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x))


def prove(**change: Callable[[Net, Tensor], Tensor]) -> Certificate:
    torch.manual_seed(0)
    dense = Net().double()
    other = copy.deepcopy(dense)
    for name, made in change.items():
        setattr(other, name, lambda x, made=made: made(other, x))
    return cg.prove(other, dense, torch.randn(2, 2, 4, 4).double())


RIGHT: dict[str, dict[str, Any]] = {
    "a stride that is the kernel's size": {"pool": lambda n, x: F.max_pool2d(x, 2)},
    "+ 0": {"pool": lambda n, x: F.max_pool2d(x + 0, 2)},
    "- 0": {"pool": lambda n, x: F.max_pool2d(x - 0.0, 2)},
    "* 1": {"pool": lambda n, x: F.max_pool2d(1.0 * x, 2)},
    "/ 1, in place": {"pool": lambda n, x: F.max_pool2d(x.clone().div_(1), 2)},
    "relu twice": {"pool": lambda n, x: F.max_pool2d(x.relu(), 2)},
    "a checkpoint": {
        "body": lambda n, x: checkpoint(lambda y: Net.body(n, y), x, use_reentrant=False)
    },
    "a reentrant checkpoint": {
        "pool": lambda n, x: checkpoint(lambda y: n.pooled(y), x, use_reentrant=True)
    },
    "values put at places": {"pool": lambda n, x: put(n.pooled(x), [0, 1])},
    "values added at places of zeros": {"pool": lambda n, x: put(n.pooled(x), [0, 1], add=True)},
    "computed twice": {"pool": lambda n, x: (n.pooled(x), n.pooled(x))[1]},
}


def put(x: Tensor, places: list[int], start: float = 0.0, add: bool = False) -> Tensor:
    """Images at places of a tensor that held something else."""
    held = torch.full_like(x, start)
    return held.index_put((torch.tensor(places),), x, accumulate=add)


Net.pooled = Net.pool  # type: ignore[attr-defined]

WRONG: dict[str, dict[str, Any]] = {
    "values put at one place": {"pool": lambda n, x: put(n.pooled(x), [1, 1])},
    "values put at each other's places": {"pool": lambda n, x: put(n.pooled(x), [1, 0])},
    "values added at places": {"pool": lambda n, x: put(n.pooled(x), [0, 1], 1.0, True)},
    "values added at one place": {"pool": lambda n, x: put(n.pooled(x), [0, 0], add=True)},
    "a first layer that a reentrant checkpoint keeps from learning": {
        "body": lambda n, x: checkpoint(lambda y: Net.body(n, y), x, use_reentrant=True)
    },
    "another stride": {"pool": lambda n, x: F.max_pool2d(x, 2, 1)[..., ::2, ::2].roll(1, 3)},
    "+ 1e-9": {"pool": lambda n, x: F.max_pool2d(x + 1e-9, 2)},
    "0 - x, twice": {"pool": lambda n, x: F.max_pool2d(0 - x, 2)},
    "1 / x": {"pool": lambda n, x: F.max_pool2d(1 / (x + 1), 2)},
    "relu of what is below": {"pool": lambda n, x: F.max_pool2d((-x).relu(), 2)},
    "a checkpoint that is cut": {
        "body": lambda n, x: checkpoint(
            lambda y: n.two(F.relu(n.one(y)).detach()).relu(), x, use_reentrant=False
        )
    },
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", RIGHT)
def test_another_spelling_is_proven(name: str) -> None:
    cert = prove(**RIGHT[name])
    assert cert.verdict == "proven", cert.reason
    assert {p.name: p.status for p in cert.parts}["gradients"] == "proven"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", WRONG)
def test_what_only_looks_like_one_is_not_proven(name: str) -> None:
    cert = prove(**WRONG[name])
    assert cert.verdict == "refuted", cert.reason


def test_places_that_are_added_to_or_named_twice_are_no_move() -> None:
    """Which of two values stays is nobody's promise, whatever numbers say."""
    cert = prove(**WRONG["values added at places"])
    assert {p.name: p.status for p in cert.parts}["wiring"] == "refuted"
    torch.manual_seed(0)
    dense = Net().double()
    other = copy.deepcopy(dense)
    pooled: Any = dense.pool
    dense.pool = lambda x: torch.cat([torch.zeros_like(pooled(x)[:1]), pooled(x)[1:]])  # type: ignore[method-assign]
    other.pool = lambda x: put(pooled(x), [1, 1])  # type: ignore[method-assign]
    twice = cg.prove(other, dense, torch.randn(2, 2, 4, 4).double())
    assert {p.name: p.status for p in twice.parts}["wiring"] == "undecided"


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")  # of another class in each version
@pytest.mark.parametrize("bias", [True, False])
def test_a_traced_network_is_proven(bias: bool) -> None:
    """Its backward has no size of a bias where there is none; torch's own writes 0."""
    torch.manual_seed(0)
    dense, x = Net(), torch.randn(2, 2, 4, 4).double()
    dense.two = nn.Conv2d(3, 3, 1, bias=bias)
    dense = dense.double()
    cert = cg.prove(torch.jit.trace(copy.deepcopy(dense), x), dense, x)
    assert cert.verdict == "proven", cert.reason
