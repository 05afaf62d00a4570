"""Hexagons: layouts and cameras come and go exactly; other packages' weights give their numbers."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.spaces import hexagonal_layout
from convgraph.spaces.hexagonal_layout import LAYOUTS
from convgraph.spaces.hexagonal_weights import from_hexagdly, from_indexedconv
from tests.spaces import referees
from tests.spaces.cases import integers, whole

THREE = KERNEL = cg.KernelGeometry(3, padding=1)


def camera(radius: int, pitch: float = 1.0, turn: float = 0.0) -> tuple[Any, Any]:
    """Return centres of a hexagon of hexagonal pixels, row by row from the top."""
    points = [
        (q + r / 2) - 1j * np.sqrt(3) / 2 * r
        for r, q in product(range(-radius, radius + 1), repeat=2)
        if abs(q + r) <= radius
    ]
    found = np.array(points) * pitch * np.exp(1j * np.deg2rad(turn)) + (3 - 2j)
    return found.real, found.imag


Pairs = set[tuple[int, int]]


def edges_and_touching(layout: str) -> tuple[Pairs, Pairs]:
    """Return pairs of pixels of an array: those with an edge, and those whose hexagons touch."""
    space = cg.Hexagonal(layout=layout)
    image = integers(1, 2, 5, 6)
    graph = space.from_image(image)
    assert torch.equal(space.to_image(graph, (5, 6)), image)
    edges = cg.connect(THREE, graph)
    lattice, cells = hexagonal_layout.axial(layout, (5, 6))
    points = space.positions(lattice)[cells]
    if layout.endswith("-q"):  # columns side by side, every second one half a pixel lower
        column, row = np.meshgrid(np.arange(6), np.arange(5))
        lower = (column & 1) == (layout == "odd-q")
        drawn = np.stack([np.sqrt(3) / 2 * column, -(row + lower / 2)], -1).reshape(-1, 2)
    elif layout.endswith("-r"):
        column, row = np.meshgrid(np.arange(6), np.arange(5))
        right = (row & 1) == (layout == "odd-r")
        drawn = np.stack([column + right / 2, -np.sqrt(3) / 2 * row], -1).reshape(-1, 2)
    else:
        drawn = points
    apart = np.abs(drawn[:, None] - drawn) @ np.array([1, 1j])
    touching = {(int(a), int(b)) for a, b in zip(*np.nonzero(np.abs(apart) < 1.2), strict=True)}
    number = {int(cell): k for k, cell in enumerate(cells)}
    nodes = [number[int(cell)] for cell in graph.sites.nodes]
    return {(nodes[q], nodes[p]) for q, p in edges.edge_index.T.tolist()}, touching


@pytest.mark.parametrize("layout", LAYOUTS)
def test_neighbours_in_a_layout_are_the_pixels_at_distance_one(layout: str) -> None:
    """The graph of an array has an edge exactly where drawn hexagons touch."""
    found, touching = edges_and_touching(layout)
    assert found == touching


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "axial"])
def test_a_shifted_parity_is_found(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other columns, or rows, are taken for those that are shifted."""
    right = hexagonal_layout.axial
    other = {"odd": "even", "even": "odd"}[layout[:-2]] + layout[-2:]
    monkeypatch.setattr(hexagonal_layout, "axial", lambda _, *rest: right(other, *rest))
    found, touching = edges_and_touching(layout)
    assert found != touching


@pytest.mark.parametrize("turn", [0.0, 10.9, 90.0, -47.3])
def test_a_camera_is_placed_by_its_centres(turn: float) -> None:
    """Whatever pitch, place and rotation: six neighbours within, and the way back is exact."""
    x, y = camera(4, pitch=0.023, turn=turn)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    charges, alive = integers(2, 3, len(x)), integers(len(x), seed=9) > -3
    space = cg.Hexagonal()
    graph = space.from_camera(charges, x, y, pix_rotation=turn, mask=alive)
    back = space.to_camera(graph, x, y, pix_rotation=turn, fill=float("nan"))
    assert torch.equal(back[..., alive], charges[..., alive])
    assert back[..., ~alive].isnan().all()
    edges = cg.connect(THREE, space.from_camera(charges, x, y))
    degree = torch.bincount(edges.edge_index[1]).view(2, -1)[0]
    assert sorted(degree.unique().tolist()) == [4, 5, 7]
    assert int((degree == 7).sum()) == 3 * 3 * 4 + 1


def test_centres_that_are_no_hexagons_are_refused() -> None:
    """A square camera, two pixels at one place, another number of charges."""
    square = np.meshgrid(np.arange(5.0), np.arange(5.0))
    space = cg.Hexagonal()
    with pytest.raises(cg.errors.GraphError, match="of a pixel off the grid"):
        space.from_camera(torch.ones(1, 25), square[0].ravel(), square[1].ravel())
    with pytest.raises(cg.errors.GraphError, match="two share one"):
        space.from_camera(torch.ones(1, 3), [0, 1, 1], [0, 0, 0])
    for x, y, turn, said in (
        ([0, 0], [0, 0], 0, "two share one"),
        ([0, 1, np.nan], [0, 0, 1], 0, "got pixel 2 at x = nan, y = 1.0, turned by 0"),
        ([0, 1], [0, 0], np.inf, "turned by inf"),
        ([0, 1, 2], [0], 0, r"of shape \(P,\), got \(3,\) and \(1,\)"),
    ):
        with pytest.raises(cg.errors.GraphError, match=said):
            space.from_camera(torch.ones(1, len(x)), x, y, turn)
    x, y = camera(2)
    with pytest.raises(cg.errors.GraphError, match="K = 19 pixels"):
        space.from_camera(torch.ones(1, 18), x, y)
    with pytest.raises(cg.errors.GeometryError, match="expected layout in"):
        cg.Hexagonal(layout="odd")
    with pytest.raises(cg.errors.GeometryError, match="use padding_mode='zeros'"):
        cg.nn.GraphConv2d(1, 1, 3, padding=1, padding_mode="reflect")(
            cg.PixelGraph.from_image(torch.ones(1, 5, 5), on=space)
        )
    with pytest.raises(cg.errors.GeometryError, match="use mode='nearest'"):
        cg.nn.GraphUpsample(scale_factor=2, mode="bilinear")(
            cg.PixelGraph.from_image(torch.ones(1, 4, 4), on=space)
        )


@pytest.mark.parametrize(
    ("size", "more", "said"),
    [
        ((4, 6), {"mask": torch.ones(6, 4) > 0}, r"the image's \(4, 6\) pixels, got \(6, 4\)"),
        ((4, 6), {"mask": torch.ones(24) > 0}, r"the image's \(4, 6\) pixels, got \(24,\)"),
        ((4, 6), {"align": 0}, "align >= 1, got size .4, 6. and align=0"),
        ((0, 6), {}, "at least one pixel"),
    ],
)
def test_an_array_and_its_mask_have_one_size(size: Any, more: Any, said: str) -> None:
    """A mask of as many pixels that lie otherwise would be read at the wrong ones."""
    with pytest.raises(cg.errors.GraphError, match=said):
        cg.Hexagonal(layout="odd-q").from_image(torch.ones(1, 1, *size), **more)


@pytest.mark.parametrize("name", ["hexagdly", "pytorch_hexagdly"])
@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_hexagdly_bit_for_bit(name: str, radius: int, stride: int) -> None:
    """Its weights as they are: every strided output, and the gradient of the image."""
    theirs = whole(referees.hexagdly(name).Conv2d(2, 3, radius, stride).double())
    size = (11, 12)
    x = integers(2, 2, *size).requires_grad_()
    expected = theirs(x)
    layer = cg.nn.GraphConv2d(2, 3, 2 * radius + 1, stride, radius, dtype=torch.float64)
    layer.load_state_dict(from_hexagdly(theirs.state_dict()))
    mine = x.detach().clone().requires_grad_()
    graph = cg.Hexagonal(layout="odd-q").from_image(mine, align=stride)
    out = layer(graph).to_image(float("nan"))
    (_, wide), cells = hexagonal_layout.axial("odd-q", size, stride)
    cells = cells.reshape(size)
    rows, columns = np.indices(expected.shape[2:])
    lower = (stride * (columns & 1) - (stride * columns & 1)) // 2
    i, j = np.divmod(cells[stride * rows + lower, stride * columns], wide)
    assert not (i % stride).any()
    assert not (j % stride).any()
    found = out[:, :, torch.from_numpy(i // stride), torch.from_numpy(j // stride)]
    assert torch.equal(found, expected)
    g = integers(*found.shape, seed=3)
    one, two = (torch.autograd.grad(y, leaf, g)[0] for y, leaf in ((found, mine), (expected, x)))
    assert torch.equal(one, two)


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_indexedconv_bit_for_bit(radius: int, stride: int) -> None:
    """Its weights as they are, on the mirrored array; outputs at the pixels that it keeps."""
    package = referees.indexedconv()
    side = 13
    there = torch.from_numpy(np.array(cg.Hexagonal().seen(
        cg.KernelGeometry(side, padding=side // 2)).footprint).reshape(side, side))  # fmt: skip
    mirrored = there.flip(1)
    numbers = torch.full((side, side), -1.0)
    numbers[mirrored] = torch.arange(int(there.sum())).float()
    utils = package.utils
    listed = utils.neighbours_extraction(numbers[None, None], "Hex", radius, stride)
    theirs = whole(package.engine.IndexedConv(2, 3, listed).double())
    x = integers(2, 2, int(there.sum()))
    expected = theirs(x)
    layer = cg.nn.GraphConv2d(2, 3, 2 * radius + 1, stride, radius, dtype=torch.float64)
    layer.load_state_dict(from_indexedconv(theirs.state_dict()), strict=True)
    image = torch.zeros(2, 2, side, side, dtype=torch.float64)
    image[:, :, mirrored] = x
    graph = cg.PixelGraph.from_image(image.flip(3), mask=there, on=cg.Hexagonal())
    kept = there[::stride, ::stride]
    out = layer(graph, sites=kept).to_image().flip(3)
    assert torch.equal(out[:, :, kept.flip(1)], expected)


def test_maxima_at_a_border_do_not_see_zeros() -> None:
    """An absent neighbour is no 0: the maximum of an image of -1 is -1 everywhere."""
    x, y = camera(3)
    graph = cg.Hexagonal().from_camera(-torch.ones(1, len(x)), x, y)
    assert cg.nn.GraphMaxPool2d(3, 1, 1)(graph).x.unique().tolist() == [-1]


@pytest.mark.parametrize(
    ("read", "state", "said"),
    [
        (from_hexagdly, {}, "expected kernel0"),
        (from_hexagdly, {"kernel0": torch.ones(1, 1, 3, 1)}, "expected kernel1 of shape"),
        (from_indexedconv, {"weight": torch.ones(1, 1, 8)}, "with 8 weights"),
    ],
)
def test_other_states_are_refused(read: Any, state: Any, said: str) -> None:
    """The text says which kernel and what shape."""
    with pytest.raises(cg.errors.ConversionError, match=said):
        read(state)
