"""A padding mode for each axis: latitude ends, longitude goes round."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from tests.cases import integer_weights, integers

MODES = (("zeros", "circular"), ("reflect", "zeros"), ("replicate", "circular"))
KERNELS: tuple[Any, ...] = ((3, 1, 1, 1), (3, 2, 1, 1), ((3, 5), 1, (1, 2), 1), (3, 1, (0, 2), 2))


def padded(x: Tensor, layer: Any) -> Tensor:
    """The image as torch pads it, one axis after the other."""
    for axis, (mode, pair) in enumerate(zip(layer.geometry.modes, layer.padding, strict=True)):
        pads = [0, 0, 0, 0]
        pads[2 - 2 * axis : 4 - 2 * axis] = pair
        x = F.pad(x, pads, mode="constant" if mode == "zeros" else mode)
    return x


def conv(x: Tensor, layer: Any) -> Tensor:
    geometry = layer.geometry
    return F.conv2d(
        padded(x, layer), layer.weight, layer.bias, geometry.stride, 0, geometry.dilation
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mode", MODES)
def test_a_layer_pads_each_axis_in_its_own_way(mode: tuple[str, str], kernel: Any) -> None:
    """On the grid, and on a mask with every backend that serves; gradients too."""
    layer = integer_weights(cg.nn.GraphConv2d(3, 4, *kernel, padding_mode=mode))
    mask = torch.rand(2, 6, 8) > 0.3
    image = integers(2, 3, 6, 8).requires_grad_()
    full, holes = cg.PixelGraph.from_image(image), cg.PixelGraph.from_image(image, mask=mask)
    assert torch.equal(layer(full).to_image(), conv(image, layer))
    truth = conv(image * mask[:, None], layer)
    there = layer(holes)
    seen = there.mask[:, None] if there.mask is not None else torch.ones(1, 1, 1, 1)
    head = integers(*truth.shape)
    leaves = [image, layer.weight, layer.bias]
    want = [truth * seen, *torch.autograd.grad((truth * seen * head).sum(), leaves)]
    served = 0
    for name in (None, "cpp", "gather", "masked", "messages", "tiles"):
        layer.backend = name
        try:
            given = cg.PixelGraph.from_image(image, mask=mask)
            out = layer(given).to_image()
        except cg.errors.BackendError:
            continue
        served += 1
        got = [out, *torch.autograd.grad((out * head).sum(), leaves)]
        assert all(map(torch.equal, got, want))
    assert served >= 4
    layer.backend = None
    as_map = conv(holes.tensor(), layer).graph
    assert torch.equal(as_map.x, layer(holes, sites="network").x)


def test_it_is_one_word_where_the_axes_agree_and_is_refused_where_it_means_nothing() -> None:
    assert cg.nn.GraphConv2d(1, 1, 3, padding_mode=("zeros", "zeros")).padding_mode == "zeros"
    layer = cg.nn.GraphConv2d(1, 1, 3, padding=1, padding_mode=("zeros", "circular"))
    assert "padding_mode=('zeros', 'circular')" in repr(layer)
    with pytest.raises(cg.errors.ConversionError, match="one padding_mode"):
        layer.to_dense()
    for wrong in (("zeros",), ("zeros", "mirror"), ("zeros", "zeros", "zeros"), 3):
        with pytest.raises(cg.errors.GeometryError, match="padding_mode"):
            cg.nn.GraphConv2d(1, 1, 3, padding=1, padding_mode=wrong)
    graph = cg.PixelGraph.from_image(torch.rand(1, 1, 4, 4), on=cg.Torus())
    with pytest.raises(cg.errors.GeometryError, match="leave the space away"):
        layer(graph)


def test_graph_layers_within_a_network_of_torch_take_maps() -> None:
    """Beside torch's own modules, of maps and, converted, of graphs with holes or without."""
    layers = [
        cg.nn.GraphConv2d(3, 4, 3, padding=1, padding_mode=("zeros", "circular")),
        cg.nn.GraphBatchNorm2d(4), nn.ReLU(), cg.nn.GraphMaxPool2d(2), nn.Conv2d(4, 2, 1),
    ]  # fmt: skip
    net = nn.Sequential(*map(integer_weights, layers)).eval()
    image, mask = integers(2, 3, 6, 8), torch.rand(2, 6, 8) > 0.3
    holes, full = cg.PixelGraph.from_image(image, mask=mask), cg.PixelGraph.from_image(image)
    alone = cg.nn.Sequential(*layers[:4])(holes)
    true = F.conv2d(alone.tensor(), layers[4].weight, layers[4].bias).graph.x
    assert torch.equal(net(holes.tensor()).graph.x, true)
    converted = cg.to_graph(net)
    assert torch.equal(converted(holes).x, true)
    dense = F.max_pool2d(
        layers[1](cg.PixelGraph.from_image(conv(image, layers[0]))).to_image().relu(), 2
    )
    assert torch.equal(
        converted(full).to_image(), F.conv2d(dense, layers[4].weight, layers[4].bias)
    )
