"""Gradients of networks: right ones are proven, a wrong backward is refuted with a number."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof import Certificate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head(self.mixed(x).relu().mean((2, 3)))

    def mixed(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Reversed(torch.autograd.Function):
    """Right forward, reversed backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return -g


def cut(net: Net) -> None:
    net.mixed = lambda x: x.detach() + net.body(x)  # type: ignore[method-assign]


def reverse(net: Net) -> None:
    net.mixed = lambda x: Reversed.apply(x) + net.body(x)  # type: ignore[method-assign]


def without(net: Net) -> None:
    def mixed(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x + net.body(x)

    net.mixed = mixed  # type: ignore[method-assign]


def hooked(net: Net) -> None:
    net.body.weight.register_hook(lambda g: 2 * g)


def accumulated(net: Net) -> None:
    net.body.weight.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(0.5))


def pair(change: Callable[[Net], None] | None = None) -> Certificate:
    torch.manual_seed(0)
    dense = Net().double().eval()
    other = copy.deepcopy(dense)
    if change is not None:
        change(other)
    return cg.prove(other, dense, torch.randn(2, 3, 6, 6).double())


def test_the_same_backward_is_proven() -> None:
    found = pair()
    parts = {part.name: part for part in found.parts}
    assert found.verdict == "proven", found.reason
    assert parts["gradients"].status == "proven"
    assert not any("gradients of the network" in text for text in found.not_covered)


def test_a_hook_behind_accumulation_is_another_program() -> None:
    assert pair(accumulated).verdict != "proven"


@pytest.mark.parametrize("change", [cut, reverse, without, hooked])
def test_a_wrong_backward_is_refuted_with_a_number(change: Callable[[Net], None]) -> None:
    found = pair(change)
    parts = {part.name: part for part in found.parts}
    assert parts["end to end"].status == "proven"
    assert (found.verdict, parts["gradients"].status) == ("refuted", "refuted"), str(found)
    assert "gradient" in found.reason


def test_grads_are_left_as_they_were() -> None:
    torch.manual_seed(0)
    dense = Net().double().eval()
    kept = torch.ones_like(dense.stem.weight)
    dense.stem.weight.grad = kept
    cg.prove(copy.deepcopy(dense), dense, torch.randn(2, 3, 6, 6).double())
    assert dense.stem.weight.grad is kept
