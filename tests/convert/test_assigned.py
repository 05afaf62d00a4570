"""Strides, dilations and pads are assigned to layers as people assign torch's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from convgraph.convert import copies
from convgraph.errors import ConversionError, GeometryError
from tests.cases import integer_weights, integers

DILATED = {"stride": (1, 1), "dilation": (2, 2), "padding": (2, 2)}
"""What makes a dilated network of one that was trained without."""

CHANGES = [
    DILATED,
    {"stride": (1, 2)},
    {"padding": (0, 2)},
    {"stride": (1, 1), "padding": "same", "dilation": (3, 3)},
    {"padding_mode": "circular"},
    {"padding_mode": "reflect", "padding": (0, 0)},
]


def network() -> Any:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2, 1, groups=2),
        nn.MaxPool2d(2, 1),
    )
    return integer_weights(made)


def assign(layer: Any, change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(layer, name, value)
    if isinstance(layer, nn.Conv2d):  # which torch works out once, when a layer is made
        pads = (1, 1) if layer.padding == "same" else layer.padding
        layer._reversed_padding_repeated_twice = [n for n in pads[::-1] for _ in range(2)]


def both(net: Any, cnn: Any, image: Tensor, mask: Tensor) -> tuple[Any, Any]:
    """What both say on a mask; they agree there, on the image and on its full grid."""
    want = cnn(image)
    assert torch.equal(net(image), want)
    assert torch.equal(net(cg.PixelGraph.from_image(image)).to_image(), want)
    graph = cg.PixelGraph.from_image(image, mask=mask)
    masked, true = net(graph), cnn(graph.tensor()).graph
    assert torch.equal(masked.mask, true.mask)
    assert torch.equal(masked.x, true.x)
    return masked, true


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_was_assigned_to_is_torchs(change: dict[str, Any]) -> None:
    """On images, on full grids, on a mask with gradients, copied, and on the way back."""
    cnn, net = network(), cg.to_graph(network())
    image, mask = integers(2, 3, 12, 10), torch.rand(2, 12, 10) > 0.4
    net(cg.PixelGraph.from_image(image, mask=mask))  # what a call keeps is not kept for long
    assign(cnn[2], change)
    assign(net[2], change)
    masked, true = both(net, cnn, image, mask)
    for out in (masked, true):
        out.x.square().sum().backward()
    assert all(
        torch.equal(a.grad, b.grad) for a, b in zip(net.parameters(), cnn.parameters(), strict=True)
    )
    assert torch.equal(cg.to_dense(net)(image), cnn(image))
    alone = cg.nn.GraphConv2d(4, 4, 3, 2, 1, groups=2).double()
    alone.load_state_dict(net[2].state_dict())
    assign(alone, change)
    inside = integers(2, 4, 6, 7)
    assert torch.equal(alone(cg.PixelGraph.from_image(inside)).to_image(), cnn[2](inside))
    assert torch.equal(alone.to_dense()(inside), cnn[2](inside))


def test_more_sites_behind_a_transposed_convolution_are_torchs() -> None:
    torch.manual_seed(0)
    cnn = integer_weights(nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2)))
    net = cg.to_graph(cnn)
    image, mask = integers(2, 2, 4, 5), torch.rand(2, 4, 5) > 0.4
    for layer in (cnn[0], net[0]):
        layer.output_padding = (1, 0)
    assert cnn(image).shape == (2, 3, 10, 11)
    both(net, cnn, image, mask)
    assert torch.equal(cg.to_dense(net)(image), cnn(image))
    assert net[0].output_padding == cnn[0].output_padding
    with pytest.raises(GeometryError, match="must be smaller"):
        net[0].output_padding = (2, 0)


def test_pads_that_differ_before_and_after_are_no_torch_layers() -> None:
    """On an image such a layer sends messages, for torch's operator would pad otherwise."""
    net = cg.to_graph(network())
    net[2].padding = ((0, 1), (1, 0))
    image = integers(2, 3, 12, 10)
    cnn = network()
    cnn[2] = nn.Sequential(nn.ZeroPad2d((1, 0, 0, 1)), cnn[2])
    cnn[2][1].padding = (0, 0)
    assert torch.equal(net(image), cnn(image))
    assert not copies.calls_torch(net[2])
    with pytest.raises(ConversionError, match="one padding an axis"):
        cg.to_dense(net)


def test_what_no_kernel_has_is_refused_where_it_is_assigned() -> None:
    layer = cg.nn.GraphConv2d(3, 4, 3, padding="same")
    for name, value in (("stride", 2), ("stride", 0), ("dilation", (1, 2, 3)), ("padding", "all")):
        with pytest.raises(GeometryError):
            setattr(layer, name, value)
    assert layer.stride == layer.dilation == (1, 1)
    assert layer.padding_name == "same"
    assert not list(layer.children())  # as torch's: what counts layers goes by it
