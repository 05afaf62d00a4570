"""Unfold, fold and pixel shuffle as layers: their torch twins, and what they refuse by name."""

import pytest
import torch

import convgraph as cg
from convgraph import errors
from convgraph.nn import GraphFold, GraphPixelShuffle, GraphPixelUnshuffle, GraphUnfold
from tests.cases import holes


@pytest.mark.parametrize(
    ("twin", "kind"),
    [
        (torch.nn.Unfold(3, 2, 1, 2), GraphUnfold),
        (torch.nn.Fold((4, 5), (1, 2), padding=(0, 1)), GraphFold),
        (torch.nn.PixelShuffle(2), GraphPixelShuffle),
        (torch.nn.PixelUnshuffle(3), GraphPixelUnshuffle),
    ],
)
def test_the_twin_and_back(twin: torch.nn.Module, kind: type) -> None:
    layer = kind.from_dense(twin.eval())
    assert repr(layer) == f"Graph{twin!r}"
    back = layer.to_dense()
    assert repr(back) == repr(twin)
    assert (type(back), back.training, layer.training) == (type(twin), False, False)
    assert layer.takes_graph
    layer.backend = "gather"
    assert "backend='gather'" in repr(layer)
    with pytest.raises(errors.ConversionError, match=rf"torch\.nn\.{type(twin).__name__}, got Lin"):
        kind.from_dense(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("run", "kind", "text"),
    [
        (lambda g: GraphUnfold(0), errors.GeometryError, "kernel_size: expected at least 1, got 0"),
        (lambda g: GraphUnfold(2.5), errors.GeometryError, "expected an integer, got 2.5"),
        (lambda g: GraphUnfold((2, 2, 2))(g), errors.GeometryError, "same number of axes"),
        (lambda g: GraphUnfold(5)(g), errors.GeometryError, "reaches over 5 pixels, more than"),
        (lambda g: GraphUnfold(2)(g.x), errors.GraphError, "GraphUnfold: expected a PixelGraph"),
        (lambda g: GraphUnfold(2, backend="tile"), errors.BackendError, "is called 'tile'"),
        (lambda g: GraphFold(0, 2), errors.GeometryError, "output_size: expected at least 1"),
        (lambda g: GraphFold(4, 2)(g), errors.GeometryError, r"lattice \(3, 3\), got .*\(4, 4\)"),
        (lambda g: GraphFold((5, 5, 5), 2)(g), errors.GeometryError, "output_size of 2 ints"),
        (lambda g: GraphFold(5, 2)(g), errors.ShapeError, "K = 4 taps, got .*4 must divide"),
        (
            lambda g: GraphFold(5, 2).from_columns(torch.ones(1, 4, 9)),
            errors.ShapeError,
            "L = 16 windows, got",
        ),
        (lambda g: GraphPixelShuffle(0), errors.GeometryError, "upscale_factor: expected at least"),
        (lambda g: GraphPixelShuffle(2)(g), errors.ShapeError, "4 must divide the channels"),
        (lambda g: GraphPixelUnshuffle(2.0), errors.GeometryError, "downscale_factor: expected an"),
        (lambda g: GraphPixelUnshuffle(3)(g), errors.GeometryError, "downscale_factor=3 must div"),
    ],
)
def test_bad_input_is_refused_by_name(run, kind: type, text: str) -> None:
    with pytest.raises(kind, match=text):
        run(cg.PixelGraph.from_image(torch.ones(1, 3, 4, 4)))


def test_other_dimensions_and_grids_are_refused_by_name() -> None:
    signal = cg.PixelGraph.from_image(torch.ones(1, 4, 8), d=1)
    for layer in (GraphPixelShuffle(2), GraphPixelUnshuffle(2)):
        with pytest.raises(errors.GraphError, match="of d = 2 dimensions, got 1"):
            layer(signal)
    with pytest.raises(errors.BackendError, match="know 2 dimensions, these lattices have 1"):
        GraphUnfold(2, backend="dense")(signal)
    holed = cg.PixelGraph.from_image(torch.ones(1, 4, 4, 4), holes(1, (4, 4)))
    with pytest.raises(errors.BackendError, match="not every pixel is a node"):
        GraphPixelShuffle(2, backend="dense")(holed)
    with pytest.raises(errors.GraphError, match="different sizes"):
        GraphUnfold.to_columns(cg.PixelGraph.from_image([torch.ones(1, 2, 2), torch.ones(1, 3, 3)]))
