"""Converted networks on masks, against an interpreter that refills holes; bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.convert.value import placed, result
from convgraph.functional import graph_conv
from convgraph.geometry import KernelGeometry
from tests.convert.masks import MASKS, images, patches, scattered, single
from tests.convert.nets import NETS, build, image
from tests.convert.planting import plant
from tests.convert.truth import truth

SIZE = (33, 41)


def agree(model: Any, x: Tensor, root: Tensor) -> list[Tensor]:
    """Return the outputs of the converted network, having held them against the truth."""
    got = images(cg.to_graph(model)(cg.PixelGraph.from_image(x, mask=root)))
    want = images(truth(model, x, root))
    assert len(got) == len(want)
    for mine, true in zip(got, want, strict=True):
        assert mine.shape == true.shape
        assert torch.equal(mine, true), (mine != true).sum()
    return got


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", NETS)
def test_a_masked_network_is_the_refilled_dense_one(name: str, mask: str) -> None:
    model = build(name)
    agree(model, image(3, 2, *SIZE), MASKS[mask](3, SIZE))


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "dense"])
def test_gradients_on_a_mask(name: str) -> None:
    model = build(name)
    mask = single if name == "plain" else scattered  # a mean over one site divides by 1
    x, root = image(3, 2, *SIZE), mask(3, SIZE)
    net = cg.to_graph(model)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    graph = cg.PixelGraph.from_image(mine, mask=root)
    (got,), (want,) = images(net(graph)), images(truth(model, other, root))
    send = torch.randint(-1, 2, want.shape).double()
    got.backward(send)
    want.backward(send)
    assert torch.equal(mine.grad, other.grad)
    for (key, one), two in zip(net.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad), key


class Shuffled(torch.nn.Module):
    """Rows that went round are strided, while the columns beside them only lose their border."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 5, stride=(2, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.roll(2, 2))
        return out


def test_an_axis_moves_beside_one_that_is_a_lattice_of_its_own() -> None:
    model = Shuffled().double()
    with torch.no_grad():
        model.conv.weight.copy_(torch.arange(150).view_as(model.conv.weight) % 5 - 2)
    agree(model, image(3, 2, 13, 10), scattered(3, (13, 10)))


def test_batch_norm_learns_from_the_nodes_alone() -> None:
    """One step in training, then evaluation with what was learned."""
    model = build("residual").train()
    x, root = image(3, 2, *SIZE), patches(3, SIZE)
    net = cg.to_graph(model)
    got, want = net(cg.PixelGraph.from_image(x, mask=root)), truth(model, x, root)
    assert torch.equal(got.to_image(), want)
    before = net.eval()(cg.PixelGraph.from_image(x, mask=root)).to_image()
    assert torch.equal(before, truth(model.eval(), x, root))
    assert not torch.equal(before, got.to_image())


# Faults that the comparison has to see


def _two(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else tuple(value)


def _own_sites(old: Any) -> Any:
    """A convolution by the rule for single layers: every site that some node reaches."""

    def fault(call: Any, x: Any, weight: Any, bias: Any = None, stride: Any = 1, pad: Any = 0,
              dilation: Any = 1, groups: int = 1) -> Any:  # fmt: skip
        if set(_two(stride)) == {1}:
            return old(call, x, weight, bias, stride, pad, dilation, groups)
        geometry = KernelGeometry(tuple(weight.shape[2:]), _two(stride), _two(pad))
        return result(graph_conv(x.graph(), weight, bias, geometry=geometry, groups=groups))

    return fault


def _zeros_count(old: Any) -> Any:
    """A mean over the whole map, holes included."""
    return lambda call, x, *rest: x.tensor().mean((2, 3), keepdim=True)


def _other_slope(old: Any) -> Any:
    def fault(call: Any, *rest: Any) -> Any:
        out = old(call, *rest)
        return out.with_x(out.x * 1.0000001)

    return fault


def _zero_maxima(old: Any) -> Any:
    """Holes say 0 to a maximum."""

    def fault(call: Any, x: Any, *rest: Any) -> Any:
        sites = old(call, x, *rest).sites
        return placed(call.target(x.tensor(), *rest), sites)

    return fault


def _mask_stays(old: Any) -> Any:
    """A roll whose mask does not move with its pixels."""

    def fault(call: Any, x: Any, *rest: Any) -> Any:
        return placed(call.target(x.tensor(), *rest), x.sites)

    return fault


@pytest.mark.parametrize(
    ("name", "operator", "fault"),
    [
        ("residual", "conv2d", _own_sites),
        ("plain", "adaptive_avg_pool2d", _zeros_count),
        ("residual", "relu_", _other_slope),
        ("moves", "max_pool2d", _zero_maxima),
        ("moves", "roll", _mask_stays),
    ],
)
def test_a_planted_fault_is_seen(
    name: str, operator: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name)
    x, root = image(3, 2, *SIZE), patches(3, SIZE)
    agree(model, x, root)
    plant(monkeypatch, operator, fault)
    with pytest.raises((AssertionError, cg.errors.ConvgraphError)):
        agree(model, x, root)
