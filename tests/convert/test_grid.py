"""Converted networks on full grids: the same bits, gradients, training, and the way back."""

import inspect
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import convgraph as cg
from tests.convert.nets import NETS, build, image

SIZE = (16, 24)


def flat(out: Any) -> list[Tensor]:
    found, _ = pytree.tree_flatten(out, is_leaf=lambda one: isinstance(one, cg.PixelGraph))
    return [one.to_image() if isinstance(one, cg.PixelGraph) else one for one in found]


def same(got: Any, want: Any) -> bool:
    pairs = zip(flat(got), flat(want), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def noisy(name: str) -> Any:
    """A network with ordinary weights, in the memory order that the comparison is about."""
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(memory_format=torch.channels_last)


def batch(count: int = 3) -> Tensor:
    return torch.randn(count, 2, *SIZE).double().to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETS)
def test_the_same_bits_and_the_same_gradients(name: str) -> None:
    model = noisy(name)
    net = cg.to_graph(model)
    x = batch()
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, want = net(mine), model(other)
    assert same(got, want)
    sum((out * (1 + out)).sum() for out in flat(got)).backward()
    sum((out * (1 + out)).sum() for out in flat(want)).backward()
    assert torch.equal(mine.grad, other.grad)
    for (key, one), two in zip(net.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad), key
    with torch.no_grad():
        assert same(net(cg.PixelGraph.from_image(x)), want)
        assert same(net(batch(1)), model(batch(1))) is False  # two different batches
        one = batch(1)
        assert same(net(one), model(one))  # another batch size


@pytest.mark.parametrize("name", ["plain", "residual", "unet", "next block"])
def test_rows_on_a_full_grid_are_the_truth_too(name: str) -> None:
    """The rules of masks, forced on a grid; sums are exact, so that their order says nothing."""
    model = build(name)
    net = cg.to_graph(model)
    x = image(2, 2, *SIZE)
    for backend in ("gather", "messages"):
        with cg.backend(backend):
            assert same(net(cg.PixelGraph.from_image(x)), model(x))


@pytest.mark.parametrize("name", ["residual", "depthwise", "dense"])
def test_twenty_steps_of_training(name: str) -> None:
    model = noisy(name).train()
    net = cg.to_graph(model).train()
    curves = []
    for one in (model, net):
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(one.parameters(), 0.01, momentum=0.9)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (one(batch()) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        curves.append(losses)
    assert curves[0] == curves[1]
    assert curves[0][0] != curves[0][-1]
    for key, value in model.state_dict().items():
        assert torch.equal(value, net.state_dict()[key]), key


@pytest.mark.parametrize("name", NETS)
def test_there_and_back(name: str) -> None:
    model = noisy(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net = cg.to_graph(model, batch())
    back = cg.to_dense(net)
    assert type(back) is type(model)
    assert repr(back) == repr(model)
    assert list(net.state_dict()) == list(before) == list(back.state_dict())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    for key, value in before.items():  # neither the original nor the way back shares memory
        assert torch.equal(value, model.state_dict()[key])
        assert torch.equal(value, back.state_dict()[key])
        assert value.stride() == back.state_dict()[key].stride()
    net.load_state_dict(model.state_dict())
    x = batch()
    assert same(net(x), back(x))


def test_it_is_saved_and_loaded() -> None:
    net = cg.to_graph(noisy("residual"), batch())
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = batch()
    assert type(loaded) is type(net)
    assert same(loaded(x), net(x))


def test_it_is_compiled() -> None:
    net = cg.to_graph(noisy("residual").requires_grad_(False))
    x = batch()
    want = net(x)
    assert same(torch.compile(net, backend="eager")(x), want)


def test_training_flags_and_dtypes_are_the_models_own() -> None:
    model = noisy("residual")
    net = cg.to_graph(model)
    x = batch()
    assert same(net(x), model(x))
    assert same(net.train()(x), model.train()(x))
    assert same(net.float().eval()(x.float()), model.float().eval()(x.float()))


def test_graph_layers_stand_where_convolutions_were() -> None:
    net = cg.to_graph(noisy("gate"), batch())
    assert isinstance(net, NETS["gate"])
    assert isinstance(net.conv, cg.nn.GraphConv2d)
    text = str(net)
    assert "GraphConv2d(2, 4, kernel_size=(3, 3)" in text
    assert "(pool): Snapped(" in text


def test_the_report_and_the_summary() -> None:
    net = cg.to_graph(noisy("plain"), batch())
    report = net.conversion
    assert report.size == SIZE
    assert report.is_strict
    assert "conv2d" in str(report)
    found = cg.summary(net, cg.PixelGraph.from_image(torch.ones(1, 2, *SIZE).double()))
    first = found.rows[0]
    assert (first.nodes, first.edges, first.edge_types) == (384, 46 * 70, 9)
    assert first.flops == 2 * 46 * 70 * 2 * 4  # two a multiply-add, 3 n - 2 taps an axis
    assert found.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert "0: conv2d" in str(found)


def test_its_forward_has_the_parameters_of_the_models() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor, by: float = 2.0) -> Tensor:
            return self.conv(x) * by

    model = Scaled().double()
    net = cg.to_graph(model)
    x = batch()
    assert list(inspect.signature(net.forward).parameters) == ["x", "by"]
    assert torch.equal(net(x, by=3.0), model(x, 3.0))
    assert torch.equal(torch.fx.symbolic_trace(net)(x), model(x))
