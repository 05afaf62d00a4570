"""Pictures of spaces: what they draw is what the edges say, at the places of the pixels."""

from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph import draw
from tests.spaces.cases import SPACES


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_every_space_is_drawn(space: Any, size: tuple[int, int]) -> None:
    """The title counts; a sphere shows the half that is in front."""
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, *size), on=space)
    axes = draw.world(graph)
    edges = cg.connect(cg.KernelGeometry(3, padding=1), graph)
    assert axes.get_title() == f"{graph.num_nodes} nodes, {edges.num_edges} typed edges"
    (dots,) = [c for c in axes.collections if hasattr(c, "get_sizes") and len(c.get_offsets()) > 1]
    drawn, every = len(dots.get_offsets()), graph.num_nodes
    assert drawn == every if space.positions(size).shape[1] == 2 else every / 3 < drawn < every
    axes.figure.canvas.draw()


def test_the_corner_where_three_faces_meet_has_seven_neighbours() -> None:
    """And a pixel in the middle of a face eight, a hexagon six."""
    sphere = cg.PixelGraph.from_image(torch.rand(1, 1, 48, 4), on=cg.HEALPix(corner="absent"))
    titles = [draw.world(sphere, node=n).get_title() for n in (3, 5)]
    assert titles == ["node 3: 7 neighbours", "node 5: 8 neighbours"]
    hexagons = cg.PixelGraph.from_image(torch.rand(1, 1, 5, 5), on=cg.Hexagonal())
    axes = draw.world(hexagons, node=12)
    assert axes.get_title() == "node 12: 6 neighbours"
    assert len(axes.collections[0].get_segments()) == 7


def test_what_cannot_be_drawn_is_refused() -> None:
    """The plane has another picture; a node has to be there; strides leave nodes behind."""
    graph = cg.PixelGraph.from_image(torch.rand(1, 1, 4, 4), on=cg.Torus())
    with pytest.raises(cg.errors.GraphError, match="pictures of the plane"):
        draw.world(cg.PixelGraph.from_image(torch.rand(1, 1, 4, 4)))
    with pytest.raises(cg.errors.GraphError, match=r"node in \[0, 16\)"):
        draw.world(graph, node=16)
    with pytest.raises(cg.errors.GraphError, match="keeps the nodes"):
        draw.world(graph, cg.KernelGeometry(2, stride=2))
