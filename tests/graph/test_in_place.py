"""What a graph gives away may be written to: no graph and no kernel reads it afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.graph.edges import Edges
from tests.cases import CONV_OFF_GRID, holes, integer_weights, integers

WRITES: dict[str, Callable[[cg.PixelGraph, Edges], Any]] = {
    "batch": lambda g, e: g.batch.add_(10**6),
    "pos": lambda g, e: g.pos.sub_(3),
    "a view of pos": lambda g, e: g.pos[:, 0].mul_(1000),
    "nodes": lambda g, e: g.sites.nodes.zero_(),
    "rank": lambda g, e: g.sites.rank is not None and g.sites.rank.fill_(10**6),
    "counts": lambda g, e: g.sites.counts.zero_(),
    "cell_ptr": lambda g, e: g.sites.cell_ptr.fill_(10**6),
    "edge_index": lambda g, e: e.edge_index.add_(10**6),
    "edge_type": lambda g, e: e.edge_type.zero_(),
    "by_tap": lambda g, e: e.by_tap()[0].sub_(7),
    "data": lambda g, e: [v.add_(7) for k, v in g.to_data(e.relation) if k not in ("x", "space")],
}


@pytest.mark.parametrize("when", ["before the first call", "after it"])
@pytest.mark.parametrize("backend", CONV_OFF_GRID)
@pytest.mark.parametrize("name", WRITES)
def test_no_layer_sees_it(name: str, backend: str, when: str) -> None:
    torch.manual_seed(0)
    mask, image = holes(2, (6, 7)), integers(2, 3, 6, 7, dtype=torch.float64)
    layer = integer_weights(cg.nn.GraphConv2d(3, 2, 3, padding=1)).double()
    layer.backend = backend
    truth = layer(cg.PixelGraph.from_image(image, mask)).to_image()
    graph = cg.PixelGraph.from_image(image, mask)
    if when == "after it":
        layer(graph)
    WRITES[name](graph, layer.edges(graph))
    assert torch.equal(layer(graph).to_image(), truth)


def test_no_other_graph_of_the_size_sees_it() -> None:
    first, second = (cg.PixelGraph.from_image(torch.ones(2, 1, 3, 4)) for _ in range(2))
    assert first.sites is second.sites
    data = first.to_data()
    for written in (data.batch, data.image_nodes, first.batch, first.pos):
        written.add_(7)
    third = cg.PixelGraph.from_image(torch.ones(2, 1, 3, 4))
    for graph in (first, second, third):
        assert graph.batch.unique().tolist() == [0, 1]
        assert graph.pos.max() == 3
        assert graph.sites.counts.tolist() == [12, 12]


def test_who_writes_keeps_what_he_wrote() -> None:
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, 2, 2))
    mine = graph.pos
    mine += 5
    assert mine.min() == 5
    assert graph.pos.min() == 0
    assert graph.pos is graph.pos


@pytest.mark.parametrize("backend", CONV_OFF_GRID)
def test_a_mask_that_is_written_to_is_told(backend: str) -> None:
    graph = cg.PixelGraph.from_image(torch.ones(2, 3, 6, 7), holes(2, (6, 7)))
    mask: Tensor = graph.sites.mask
    mask.fill_(True)
    layer = cg.nn.GraphConv2d(3, 2, 3, padding=1, backend=backend)
    with pytest.raises(cg.errors.GraphError, match="somebody wrote to it in place"):
        layer(graph)
