"""Graphs load with torch's safe default, and what a file says about them is checked."""

import io
from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph.graph import sites
from tests.cases import holes

GRAPHS: dict[str, Any] = {
    "full": lambda: cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5)),
    "one image": lambda: cg.PixelGraph.from_image(torch.rand(3, 4, 5)),
    "masked": lambda: cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5), holes(2, (4, 5))),
    "ragged": lambda: cg.PixelGraph.from_image([torch.rand(3, 4, 5), torch.rand(3, 2, 2)]),
    "empty": lambda: cg.PixelGraph.from_image(torch.rand(0, 3, 4, 5)),
    "torus": lambda: cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5), on=cg.Torus()),
    "moved": lambda: GRAPHS["masked"]().tensor()[:, :, 1:].roll(1, 3).graph,
    "derived": lambda: cg.nn.GraphConv2d(3, 2, 3, stride=2)(GRAPHS["masked"]()),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_loads_with_the_safe_default(name: str) -> None:
    graph = GRAPHS[name]()
    file = io.BytesIO()
    torch.save(graph.with_x(graph.x.detach()), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded.x, graph.x)
    assert loaded.sites.sizes == graph.sites.sizes
    assert loaded.sites.space == graph.sites.space
    assert all(map(torch.equal, loaded.to_images(), graph.to_images()))


MASK = torch.tensor([True, False, True, True])
WHOLE: dict[str, Any] = {"d": 2, "batched": True, "num_nodes": 3, "space": None, "place": None}
FORGED: dict[str, tuple[Any, ...]] = {
    "a longer mask": ((2, 2), ((2, 2),), MASK.repeat(2), None, WHOLE),
    "other counts": ((2, 2), ((2, 2),), MASK, None, {**WHOLE, "num_nodes": 4}),
    "no bools": ((2, 2), ((2, 2),), MASK.long(), None, WHOLE),
    "a mask of two axes": ((2, 2), ((2, 2),), MASK.view(2, 2), None, WHOLE),
    "negative sizes": ((-2, -2), ((-2, -2),), MASK, None, WHOLE),
    "another size": ((4, 4), ((2, 2),), MASK, None, WHOLE),
    "another dimension": ((2, 2), ((2, 2),), MASK, None, {**WHOLE, "d": 3}),
    "sizes of floats": ((2.0, 2.0), ((2.0, 2.0),), MASK, None, WHOLE),
    "a root that is none": ((2, 2), ((2, 2),), MASK, "root", WHOLE),
    "no fields": ((2, 2), ((2, 2),), MASK, None, {}),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_no_graph_is_does_not_load(name: str) -> None:
    size, sizes, mask, root, fields = FORGED[name]
    with pytest.raises(cg.errors.ConvgraphError):
        sites._unpickled(size, sizes, mask, torch.device("cpu"), root, fields)
