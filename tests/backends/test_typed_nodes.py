"""Slots: blocks of taps through one product, bit for bit what tap after tap gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.backends.gather import typed_nodes
from tests.cases import integer_weights, integers

LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (cg.nn.GraphConv2d, {"padding": 1}),
    "even": (cg.nn.GraphConv2d, {"kernel_size": 2}),
    "strided": (cg.nn.GraphConv2d, {"stride": 2, "padding": 1}),
    "dilated": (cg.nn.GraphConv2d, {"dilation": 3, "padding": 3}),
    "grouped": (cg.nn.GraphConv2d, {"padding": 1, "groups": 2}),
    "depthwise": (cg.nn.GraphConv2d, {"padding": 1, "groups": 4}),
    "doubling": (cg.nn.GraphConv2d, {"padding": 1, "groups": 4, "out_channels": 8}),
    "reflect": (cg.nn.GraphConv2d, {"padding": 2, "padding_mode": "reflect"}),
    "circular": (cg.nn.GraphConv2d, {"padding": 2, "padding_mode": "circular"}),
    "transposed": (cg.nn.GraphConvTranspose2d, {"stride": 2}),
}
MASKS = {
    "full": lambda: torch.ones(2, 7, 9, dtype=torch.bool),
    "scattered": lambda: torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(3)) < 0.3,
    "an empty image": lambda: torch.arange(2 * 7 * 9).view(2, 7, 9) < 40,
    "one pixel": lambda: torch.arange(2 * 7 * 9).view(2, 7, 9) == 31,
}


def layer_of(name: str, backend: str) -> Any:
    """A layer of 4 channels with integer weights."""
    kind, options = LAYERS[name]
    own = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "backend": backend} | options
    return integer_weights(kind(**own))


def found(layer: Any, graph: cg.PixelGraph) -> list[Tensor]:
    """Output, gradients, and gradients of a function of the gradients."""
    x = graph.x.clone().requires_grad_()
    y = layer(graph.with_x(x)).x
    leaves = [x, *layer.parameters()]
    head = torch.arange(y.numel(), dtype=y.dtype).view_as(y) % 7 - 3
    first = torch.autograd.grad((y * y * head).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), leaves)
    return [y, *first, *second]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", LAYERS)
def test_slots_give_what_tap_after_tap_gives(
    name: str, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(name, "gather")
    graph = cg.PixelGraph.from_image(integers(2, 4, 7, 9), MASKS[mask]())
    edges, taps = layer.edges(graph), torch.empty(9, 1, 4, 8)
    assert typed_nodes.serves(graph.x, taps, edges) == (edges.num_edges > 0)
    one = found(layer, graph)
    monkeypatch.setattr(typed_nodes, "MOST", 0)
    assert not typed_nodes.serves(graph.x, taps, edges)
    assert all(map(torch.equal, one, found(layer, graph)))


def on(d: int) -> tuple[Any, cg.PixelGraph]:
    """A layer on two images of d axes, a third of whose pixels are nodes."""
    kind = {1: cg.nn.GraphConv1d, 3: cg.nn.GraphConv3d}[d]
    size = {1: (23,), 3: (4, 5, 6)}[d]
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(3)) < 0.3
    return kind(4, 4, 3, padding=1), cg.PixelGraph.from_image(integers(2, 4, *size), mask, d=d)


def ragged() -> tuple[Any, cg.PixelGraph]:
    """The same on images of two sizes."""
    sizes = [(6, 7), (9, 4)]
    masks = [torch.rand(n, generator=torch.Generator().manual_seed(3)) < 0.3 for n in sizes]
    images = [integers(4, *n) for n in sizes]
    return cg.nn.GraphConv2d(4, 4, 3, padding=1), cg.PixelGraph.from_image(images, list(masks))


SHAPES: dict[str, Callable[[], tuple[Any, cg.PixelGraph]]] = {
    "line": lambda: on(1),
    "space": lambda: on(3),
    "ragged": ragged,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_images_of_other_shapes(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, graph = SHAPES[name]()
    layer, graph = integer_weights(layer).to(dtype), graph.with_x(graph.x.to(dtype))
    layer.backend = "gather"
    assert typed_nodes.serves(graph.x, layer.weight.new_empty(27, 1, 4, 4), layer.edges(graph))
    one = found(layer, graph)
    monkeypatch.setattr(typed_nodes, "MOST", 0)
    two = found(layer, graph)
    assert all(map(torch.equal, one, two))
    assert all(bool(part.any()) for part in one)


def test_taps_of_unequal_edges_stand_in_blocks_of_their_own() -> None:
    column = torch.zeros(1, 40, 40, dtype=torch.bool)
    column[:, :, 0] = True
    column[0, ::4] = True
    edges = cg.connect(
        cg.KernelGeometry(3, padding=1), cg.PixelGraph.from_image(column[:, None] * 1.0, column)
    )
    made = edges.form(typed_nodes.slots)
    loops, blocks = made.plain[2], made.plain[3:]
    assert loops == edges.num_targets
    assert len(blocks) > 2
    held = sum(taps * most for taps, most in zip(blocks[::2], blocks[1::2], strict=True))
    assert held == len(made.filled) - 1
    assert typed_nodes.EVEN * held <= edges.num_edges - loops


@pytest.mark.parametrize("bias", [False, True])
def test_a_1x1_between_holes_takes_a_way_of_its_own(bias: bool) -> None:
    layer = integer_weights(cg.nn.GraphConv2d(4, 3, 1, bias=bias))
    graph = cg.PixelGraph.from_image(integers(2, 4, 7, 9), MASKS["scattered"]())
    one = found(layer, graph)
    with cg.backend("messages"):
        assert all(map(torch.equal, one, found(layer, graph)))
    layer.bias = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    with pytest.raises(cg.errors.ShapeError, match="bias of shape"):
        layer(graph)
    rounded_up = cg.nn.GraphConvNd(4, 3, cg.KernelGeometry(1, ceil_mode=True, d=2))
    with pytest.raises(cg.errors.UnsupportedError, match="ceil_mode"):
        rounded_up(graph.with_x(graph.x.float()))


def test_edges_that_are_too_many_or_weighed_go_another_way() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(1, 4, 9, 9))
    layer = cg.nn.GraphConv2d(4, 4, 3, padding=1)
    edges = layer.edges(graph)
    many = typed_nodes.MOST // edges.num_edges
    assert typed_nodes.serves(graph.x, torch.empty(9, 1, many // 2, many // 2), edges)
    assert not typed_nodes.serves(graph.x, torch.empty(9, 1, many, many), edges)
    assert not typed_nodes.serves(graph.x.half(), torch.empty(9, 1, 4, 4), edges)
