"""Footprints: taps that are not there, in every backend, against a dense kernel with zeros."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.geometry.footprint import causal, cross, hexagon
from convgraph.geometry.kernel import KernelGeometry
from tests.cases import CONV_BACKENDS
from tests.spaces.cases import integers, whole

FOOTPRINTS: list[Any] = [
    "hexagon",
    "cross",
    "causal",
    np.array([[1, 0, 0], [0, 0, 1], [0, 1, 1]], dtype=bool),
]


def masked_twin(layer: Any, dense: Any) -> None:
    """Give a dense layer the weight of a graph layer, 0 where there is no tap."""
    there = torch.tensor(layer.geometry.footprint).view(layer.kernel_size)
    dense.weight.data = torch.where(there, layer.weight.data, 0)
    dense.bias.data = layer.bias.data.clone()


@pytest.mark.parametrize("footprint", FOOTPRINTS, ids=str)
@pytest.mark.parametrize("backend", CONV_BACKENDS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("holes", [False, True])
def test_absent_taps_say_nothing(footprint: Any, backend: str, stride: int, holes: bool) -> None:
    """Values and gradients bit for bit; an absent tap's weight gets a gradient of exactly 0."""
    if backend == "dense" and holes:
        pytest.skip("dense serves full grids")
    options: dict[str, Any] = {"stride": stride, "padding": 1, "dtype": torch.float64}
    for mode in ("zeros", "circular"):
        options["padding_mode"] = mode
        layer = whole(cg.nn.GraphConv2d(3, 2, 3, **options, footprint=footprint, backend=backend))
        dense = torch.nn.Conv2d(3, 2, 3, **options)
        masked_twin(layer, dense)
        x, mask = integers(2, 3, 7, 6), integers(2, 7, 6, seed=4) > (-1 if holes else -9)
        one = x.clone().requires_grad_()
        two = x.clone().requires_grad_()
        out = layer(cg.PixelGraph.from_image(one, mask=mask))
        found = out.to_image()
        expected = dense(torch.where(mask.unsqueeze(1), two, 0))
        expected = torch.where(out.mask.unsqueeze(1), expected, 0)
        assert torch.equal(found, expected)
        g = integers(*found.shape, seed=1)
        found.backward(g)
        expected.backward(g)
        there = torch.tensor(layer.geometry.footprint).view(3, 3)
        assert torch.equal(one.grad, two.grad)
        assert torch.equal(layer.weight.grad, torch.where(there, dense.weight.grad, 0))


@pytest.mark.parametrize("footprint", FOOTPRINTS, ids=str)
def test_a_footprint_is_proven(footprint: Any) -> None:
    """The judge zeroes the weights of the dense side, and finds a tap too many."""
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1, footprint=footprint)
    layer.load_state_dict(conv.state_dict())
    cert = cg.prove(layer, conv, size=(5, 6), footprint=footprint, seed=0)
    assert cert.verdict == "proven", cert.reason
    full = cg.nn.GraphConv2d.from_dense(conv)
    assert cg.prove(full, conv, size=(5, 6), footprint=footprint, seed=0).verdict == "refuted"
    assert cg.prove(layer, conv, size=(5, 6), seed=0).verdict == "refuted"


def test_a_transposed_kernel_may_have_one() -> None:
    """Its arrows are those of the kernel, reversed."""
    layer = whole(
        cg.nn.GraphConvTranspose2d(2, 3, 3, 2, 1, output_padding=1, footprint="cross").double()
    )
    dense = torch.nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1).double()
    masked_twin(layer, dense)
    x = integers(2, 2, 4, 5)
    for backend in (None, "gather", "messages"):
        layer.backend = backend
        assert torch.equal(layer(cg.PixelGraph.from_image(x)).to_image(), dense(x))


def test_a_list_of_edges_leaves_them_out() -> None:
    """Counted and listed alike; the outputs that some pixel reaches, too."""
    g = KernelGeometry(3, padding=1, footprint="cross")
    full = cg.connect(g, cg.Sites.full(1, (4, 5)))
    counted = full.num_edges
    assert counted == full.edge_index.shape[1] == 5 * 20 - 2 * (4 + 5)
    assert sorted(full.edge_type.unique().tolist()) == [1, 3, 4, 5, 7]
    mask = torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, 2, 2] = True
    strided = cg.connect(
        KernelGeometry(3, stride=2, padding=1, footprint=np.eye(3, dtype=bool)),
        cg.Sites.from_mask(mask),
    )
    assert strided.target.nodes.tolist() == [5]


def test_names_mean_what_they_say() -> None:
    """By distances: steps on a hexagonal grid, axes left, raster order."""
    for k in (3, 5):
        r = k // 2
        for number, (i, j) in enumerate(product(range(-r, r + 1), repeat=2)):
            steps = max(abs(i), abs(j), abs(i + j))
            assert hexagon((k, k))[number] == (steps <= r)
            assert cross((k, k))[number] == (i == 0 or j == 0)
            assert causal((k, k))[number] == ((i, j) <= (0, 0))


@pytest.mark.parametrize(
    ("footprint", "kernel", "said"),
    [
        ("star", 3, "expected footprint in"),
        ("hexagon", (3, 5), "a square kernel of odd side"),
        ("cross", 2, "a kernel of odd sides"),
        ("causal", 4, "a kernel of odd sides"),
        ([1, 0, 1], 3, "as bools of the kernel's shape"),
        ([False] * 9, 3, "at least one tap"),
    ],
)
def test_what_is_no_footprint_is_refused(footprint: Any, kernel: Any, said: str) -> None:
    """The text says what was expected."""
    with pytest.raises(cg.errors.GeometryError, match=said):
        KernelGeometry(kernel, footprint=footprint, d=2)


def test_all_taps_are_no_footprint() -> None:
    """And torch has no layer with one."""
    assert KernelGeometry(3, footprint=[True] * 9, d=2) == KernelGeometry(3, d=2)
    layer = cg.nn.GraphConv2d(1, 1, 3, footprint="cross")
    assert "footprint of 5 taps" in repr(layer)
    with pytest.raises(cg.errors.ConversionError, match="5 of 9"):
        layer.to_dense()
