"""NaN and infinities: in features as the dense twin, in weights by edges (docs/guide/safety.md)."""

import pytest
import torch

import convgraph as cg
from tests.cases import CONV_BACKENDS, CONV_OFF_GRID, holes

ALONG_EDGES = tuple(name for name in ("gather", "messages", "cpp") if name in CONV_OFF_GRID)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("backend", CONV_BACKENDS)
def test_in_features_as_the_dense_twin(backend: str, value: float) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    image = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    image[0, 1, 2, 3] = value
    with cg.backend(backend):
        found = cg.nn.GraphConv2d.from_dense(conv)(cg.PixelGraph.from_image(image)).to_image()
    truth = conv(image)
    assert torch.equal(found.isnan(), truth.isnan())
    assert torch.equal(found.isposinf(), truth.isposinf())
    assert torch.equal(found.isneginf(), truth.isneginf())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("backend", ALONG_EDGES)
def test_an_absent_edge_sends_nothing_whatever_its_weight(backend: str, value: float) -> None:
    """The last tap hears the pixel below on the right, which many do not have."""
    torch.manual_seed(0)
    layer = cg.nn.GraphConv2d(2, 3, 3, padding=1, backend=backend).double()
    with torch.no_grad():
        layer.weight[:, :, 2, 2] = value
    graph = cg.PixelGraph.from_image(torch.randn(1, 2, 6, 7, dtype=torch.float64), holes(1, (6, 7)))
    edges = layer.edges(graph)
    hears = torch.zeros(graph.num_nodes, dtype=torch.bool)
    hears[edges.edge_index[1][edges.edge_type == 8]] = True
    finite = layer(graph).x.isfinite().all(1)
    assert torch.equal(finite, ~hears)
    assert bool(hears.any())
    assert not bool(hears.all())
