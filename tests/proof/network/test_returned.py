"""What a network returns and leaves behind is compared by name: nothing is dropped or mixed up."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof import Certificate


class Net(nn.Module):
    end: Callable[[Tensor], Any]

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        return self.end(self.conv(x).relu())


def prove(one: Callable[[Tensor], Any], two: Callable[[Tensor], Any]) -> Certificate:
    torch.manual_seed(0)
    dense = Net().double().eval()
    other = copy.deepcopy(dense)
    other.end, dense.end = one, two
    return cg.prove(other, dense, torch.randn(2, 2, 5, 5).double())


@dataclass
class Pair:
    first: Tensor
    second: Tensor


class Hidden:
    def __init__(self, held: Tensor) -> None:
        self.held = held


def named(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {"a": a, "b": b}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (lambda y: {"b": y * 2, "a": y}, lambda y: {"a": y, "b": y * 2}),
        (lambda y: [y, (y * 2, None, 3, "a")], lambda y: (y, [y * 2, None, 3, "a"])),
        (lambda y: Pair(y, y * 2), lambda y: Pair(second=y * 2, first=y)),
        (lambda y: {"b": [y, 0.1], "a": True}, lambda y: {"a": True, "b": (y, 0.1)}),
    ],
)
def test_the_same_names_in_any_order_are_proven(one: Any, two: Any) -> None:
    cert = prove(one, two)
    assert cert.verdict == "proven", cert.reason


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        (lambda y: {"b": y, "a": y * 2}, lambda y: {"a": y, "b": y * 2}, "on the candidate"),
        (lambda y: (y, 3), lambda y: (y, 4), "is 4.0 on the reference and 3.0 on the candidate"),
        (lambda y: (y, True), lambda y: (y, False), "is 0.0 on the reference and 1.0 on"),
        (lambda y: None, lambda y: y, "on the reference, the candidate has none"),
        (lambda y: (y, y * 2), lambda y: y, "on the candidate, the reference has none"),
        (lambda y: y[None], lambda y: y, "on the reference, the candidate has no such shape"),
        (lambda y: Pair(y * 2, y), lambda y: Pair(y, y * 2), "on the candidate"),
    ],
)
def test_another_number_is_refuted(one: Any, two: Any, says: str) -> None:
    cert = prove(one, two)
    assert cert.verdict == "refuted", cert.reason
    assert says in cert.reason


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        (lambda y: {"logit": y}, lambda y: {"logits": y},
         "the reference returns output['logits'], the candidate output['logit']"),
        (lambda y: [y], lambda y: y, "the reference returns output, the candidate output[0]"),
        (lambda y: (None, y), lambda y: (y, None), "output[0] = None"),
        (lambda y: (y, "a"), lambda y: (y, "b"), "output[1] = 'b', the candidate output[1] = 'a'"),
        (lambda y: Hidden(y * 2), Hidden, "a Hidden is returned, and nobody says where"),
        (Hidden, Hidden, "return tensors, tuples, lists, dicts or dataclasses"),
    ],
)  # fmt: skip
def test_what_no_number_shows_is_undecided(one: Any, two: Any, says: str) -> None:
    cert = prove(one, two)
    assert cert.verdict == "undecided", cert.reason
    assert says in cert.reason


def test_what_is_written_behind_the_output_is_no_part_of_a_proof() -> None:
    torch.manual_seed(0)
    dense = Net().double().eval()
    dense.end = lambda y: y
    x = torch.randn(2, 2, 5, 5).double()

    def counts(net: Net, y: Tensor) -> Tensor:
        with torch.no_grad():
            net.seen.copy_(y[0, :, 0, 0])
        return y

    class Wipes(Net):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            with torch.no_grad():
                x.zero_()
            return y

    one, two = copy.deepcopy(dense), Wipes().double().eval()
    one.end = lambda y: counts(one, y)
    two.load_state_dict(dense.state_dict())
    two.end = dense.end
    for other, says in ((one, "what 'seen' holds afterwards"), (two, "what <image 0> holds")):
        cert = cg.prove(other, dense, x)
        assert cert.verdict == "undecided", cert.reason
        assert says in cert.reason
