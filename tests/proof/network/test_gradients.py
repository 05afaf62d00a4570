"""Gradients of networks: right ones are proven, a wrong backward is refuted with a number."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof import Certificate
from tests.reversed_gradient import Reversed


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


class OnGraph(nn.Module):
    """The same network, built by hand of graph layers, which are nodes as wholes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cg.nn.GraphConv2d(3, 4, 3, padding=1)
        self.norm = cg.nn.GraphBatchNorm2d(4)
        self.body = cg.nn.GraphConv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, graph: cg.PixelGraph) -> Tensor:
        graph = self.norm(self.stem(graph))
        graph = graph.with_x(graph.x.relu())
        return self.head(self.mixed(graph).relu().mean((2, 3)))

    def mixed(self, graph: cg.PixelGraph) -> Tensor:
        return (graph.with_x(graph.x + self.body(graph).x)).to_image()


def graph_cut(net: Any) -> None:
    net.mixed = lambda g: g.with_x(g.x.detach() + net.body(g).x).to_image()


def graph_reversed(net: Any) -> None:
    net.mixed = lambda g: g.with_x(Reversed.apply(g.x) + net.body(g).x).to_image()


def graph_without(net: Any) -> None:
    def mixed(g: cg.PixelGraph) -> Tensor:
        with torch.no_grad():
            inner = net.body(g).x
        return g.with_x(g.x + inner).to_image()

    net.mixed = mixed


def graph_image_alone(net: Any) -> None:
    """The layer is right for its image, and its weight learns nothing: as it is called there."""
    body = net.body

    def mixed(g: cg.PixelGraph) -> Tensor:
        held = {name: value.detach() for name, value in body.named_parameters()}
        return g.with_x(g.x + torch.func.functional_call(body, held, (g,)).x).to_image()

    net.mixed = mixed


def on_graph(change: Callable[[Any], None] | None = None) -> Certificate:
    torch.manual_seed(0)
    dense = Net().double().eval()
    net = OnGraph().double().eval()
    net.load_state_dict(dense.state_dict())
    if change is not None:
        change(net)
    return cg.prove(net, dense, torch.randn(2, 3, 6, 6).double())


def test_the_backward_of_graph_layers_is_proven() -> None:
    found = on_graph()
    parts = {part.name: part for part in found.parts}
    assert found.verdict == "proven", str(found)
    assert parts["gradients"].status == "proven", str(found)
    assert not any("gradients of the network" in text for text in found.not_covered)


@pytest.mark.parametrize(
    "change", [graph_cut, graph_reversed, graph_without, graph_image_alone, hooked]
)
def test_a_wrong_backward_between_graph_layers_is_refuted(change: Callable[[Any], None]) -> None:
    found = on_graph(change)
    parts = {part.name: part for part in found.parts}
    assert parts["end to end"].status == "proven"
    assert (found.verdict, parts["gradients"].status) == ("refuted", "refuted"), str(found)
    assert "grad" in found.reason


class Forgets(torch.autograd.Function):
    """A product whose weight learns only where the image asks for a gradient too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x.mm(w.t())

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        x, w = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None
        return heads[0].mm(w), heads[0].t().mm(x)


def test_a_first_layer_that_does_not_learn_is_refuted() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU()).double()
    other = copy.deepcopy(dense)
    other[0].forward = lambda x: Forgets.apply(x, other[0].weight)
    x = torch.randn(4, 6).double()
    found = cg.prove(other, dense, x)
    assert found.verdict == "refuted", found.reason
    assert "where the images need no gradient; '0.weight' has no gradient" in found.reason
    assert cg.prove(copy.deepcopy(dense), dense, x).verdict == "proven"


def test_what_nobody_followed_is_named_as_not_covered() -> None:
    """Second derivatives, and a clamp beyond the numbers that are sent where nothing learns."""
    lines = pair().not_covered
    assert any("gradients of gradients" in line for line in lines)
    assert any("frozen parameters (all or none of them)" in line for line in lines)
