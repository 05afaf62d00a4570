"""Parameters that hold the same numbers in another shape, as a linear map's and a 1 x 1's do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof import Certificate
from tests import zoo


class Block(nn.Module):
    """A convolution, a gate, two layers that work on every pixel alone, and a scale."""

    def __init__(self, linear: bool, scale: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = linear
        self.stem, self.scale = nn.Conv2d(2, 4, 2, 2), nn.Parameter(torch.randn(scale))
        self.gate, self.one, self.two = (
            nn.Linear(a, b) if linear else nn.Conv2d(a, b, 1) for a, b in [(4, 4), (4, 8), (8, 4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if not self.linear:
            y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
            return y + self.two(F.gelu(self.one(y))) * self.scale.view(1, -1, 1, 1)
        y = y.movedim(1, -1)
        y = y * self.gate(y.mean((1, 2), keepdim=True)).sigmoid()
        return (y + self.two(F.gelu(self.one(y))) * self.scale.flatten()).movedim(-1, 1)


class Patches(Block):
    """Its stem a linear map of each patch."""

    def __init__(self) -> None:
        super().__init__(linear=True, scale=(4, 1, 1))
        self.stem = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.unfold(x, 2, stride=2).mT
        y = self.stem(rows).unflatten(1, (x.shape[2] // 2, x.shape[3] // 2))
        y = y * self.gate(y.mean((1, 2), keepdim=True)).sigmoid()
        return (y + self.two(F.gelu(self.one(y))) * self.scale.flatten()).movedim(-1, 1)


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = filled(Block(linear=True, scale=(1, 4)))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net(x)
        return made


def dense() -> Block:
    return Block(linear=False, scale=(4,))


def filled(net: nn.Module) -> nn.Module:
    """With the numbers of the dense one, row by row."""
    own, of = net.state_dict(), dense().state_dict()
    net.load_state_dict({name: t.reshape(own[name].shape) for name, t in of.items()})
    return net


def proof(one: nn.Module, two: nn.Module) -> Certificate:
    torch.manual_seed(1)
    found: Certificate = cg.prove(one, two, torch.randn(2, 2, 6, 8))
    return found


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: filled(Block(linear=True, scale=(4,))),
    "patches": lambda: filled(Patches()),
    "a scale of pixels": lambda: filled(Block(linear=False, scale=(1, 4, 1, 1))),
    "other names too": Renamed,
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", RIGHT)
def test_the_same_numbers_in_another_shape_are_proven(name: str, turned: bool) -> None:
    net = RIGHT[name]()
    found = proof(dense(), net) if turned else proof(net, dense())
    assert found.verdict == "proven", found.reason
    parts = {part.name: part for part in found.parts}
    assert parts["gradients"].status == "proven", parts["gradients"].facts
    assert "row by row, of other shapes: " in parts["parameters"].facts
    assert Certificate.from_json(found.to_json()) == found


def hooked(net: Block) -> None:
    net.gate.weight.register_hook(lambda gradient: 2 * gradient)


def crossed(net: Block) -> None:
    """One square weight the other way round, as `x @ weight` would hold it."""
    net.gate.weight = nn.Parameter(net.gate.weight.detach().t().contiguous())


def moved(net: Block) -> None:
    with torch.no_grad():
        net.one.weight[7, 3] = torch.nextafter(net.one.weight[7, 3], torch.tensor(9.0))


def read_across(net: Block) -> None:
    used: Any = net.two
    used.forward = lambda y: F.linear(y, used.weight.view(8, 4).t(), used.bias)


@pytest.mark.parametrize("change", [hooked, crossed, read_across, moved])
def test_another_use_of_them_is_refuted(change: Callable[[Block], None]) -> None:
    net = Block(linear=True, scale=(1, 4))
    filled(net)
    change(net)
    assert proof(net, dense()).verdict == "refuted"


@pytest.mark.published
def test_both_ways_to_write_convnext_are_one_network() -> None:
    zoo.models()  # torchvision, without its compiled operators
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    one, two = (timm.create_model("convnext_atto", conv_mlp=conv).eval() for conv in (False, True))
    own = one.state_dict()
    one.load_state_dict({n: t.reshape(own[n].shape) for n, t in two.state_dict().items()})
    found = cg.prove(one, two, torch.randn(2, 3, 64, 64))
    assert found.verdict == "proven", found.reason
