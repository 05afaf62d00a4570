"""Slots: blocks of taps through one product, bit for bit what tap after tap gives."""

import pytest
import torch

import convgraph as cg
from convgraph.backends.gather import typed_nodes
from tests.backends.small import LAYERS, MASKS, SHAPES, found, layer_of
from tests.cases import integer_weights, integers


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
    made = edges.memo_of(typed_nodes.slots)
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
