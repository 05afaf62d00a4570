"""HEALPix against healpy and physicsnemo, where they are installed; maps come and go exactly."""

from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.spaces import healpix_order
from tests.spaces import referees
from tests.spaces.cases import integers

AROUND = [(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)]
"""Rows and columns of the neighbours in healpy's order: SW, W, NW, N, NE, E, SE, S."""


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 8])
def test_numbers_and_places_are_healpys(n: int) -> None:
    """Ring for every nside, nest for powers of two, and the vectors of the centres."""
    healpy = referees.healpy()
    face, row, column = (part.ravel() for part in np.indices((12, n, n)))
    ring = healpy.xyf2pix(n, n - 1 - row, n - 1 - column, face)
    assert np.array_equal(healpix_order.numbers("ring", n), ring)
    if not n & (n - 1):
        nest = healpy.xyf2pix(n, n - 1 - row, n - 1 - column, face, nest=True)
        assert np.array_equal(healpix_order.numbers("nest", n), nest)
    apart = cg.HEALPix().positions((12 * n, n)) - np.stack(healpy.pix2vec(n, ring), axis=1)
    assert np.abs(apart).max() < 8 * np.finfo(float).eps  # a few roundings of numbers up to 1


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_all_eight_neighbours_are_healpys(n: int) -> None:
    """And none where healpy has none: at the 24 corners where three faces meet."""
    healpy = referees.healpy()
    nest = healpix_order.numbers("nest", n)
    truth = healpy.get_all_neighbours(n, nest, nest=True)
    halo = cg.HEALPix(corner="absent").halo((12 * n, n), ((1, 1), (1, 1))).sources[..., 0]
    for number, (di, dj) in enumerate(AROUND):
        mine = halo[:, 1 + di : 1 + di + n, 1 + dj : 1 + dj + n].ravel()
        assert np.array_equal(np.where(mine < 0, -1, nest[mine]), truth[number])
    assert int((truth < 0).sum()) == 24


@pytest.mark.parametrize(("n", "deep"), [(2, 1), (4, 1), (4, 3), (8, 2), (8, 5), (8, 8)])
def test_margins_are_physicsnemos(n: int, deep: int) -> None:
    """No difference at any depth, corners included."""
    padding = referees.physicsnemo_padding()
    x = integers(12, 2, n, n, most=2**20)
    theirs = padding.HEALPixPadding(deep)(x)
    halo = cg.HEALPix().halo((12 * n, n), ((deep, deep), (deep, deep)))
    rows = x.transpose(0, 1).flatten(1)
    weights = np.ones(halo.sources.shape) if halo.weights is None else halo.weights
    mine = sum(
        rows[:, np.maximum(halo.sources[..., k], 0)] * torch.from_numpy(weights[..., k].copy())
        for k in range(halo.sources.shape[-1])
    )
    assert torch.equal(mine.transpose(0, 1), theirs)


@pytest.mark.parametrize("order", ["nest", "ring", "xy"])
def test_maps_come_and_go(order: str) -> None:
    """Partial sky too; a pixel that is not seen is no node."""
    space, maps = cg.HEALPix(), integers(2, 3, 12 * 16)
    graph = space.from_map(maps, order=order)
    assert torch.equal(space.to_map(graph, order=order), maps)
    seen = integers(2, 12 * 16, seed=1) > 0
    part = space.from_map(maps, order=order, mask=seen.numpy())
    assert part.num_nodes == int(seen.sum())
    back = space.to_map(part, order=order, fill=-1.0)
    assert torch.equal(back, torch.where(seen.unsqueeze(1), maps, -1.0))
    assert torch.equal(space.to_map(space.from_map(maps[0], order=order), order=order), maps[0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cg.HEALPix(corner="none"), "expected corner in"),
        (lambda: cg.HEALPix().from_map(torch.ones(1, 13)), r"12 n\^2 pixels, got 13"),
        (lambda: cg.HEALPix().from_map(torch.ones(1, 108)), "nside a power of two, got 3"),
        (lambda: cg.HEALPix().from_map(torch.ones(1, 48), order="row"), "expected order in"),
        (
            lambda: cg.HEALPix().from_map(torch.ones(1, 48), order="xy", clockwise="no"),
            "clockwise as a bool, got 'no'",
        ),
        (
            lambda: cg.HEALPix().to_map(
                cg.PixelGraph.from_image(
                    [torch.ones(1, 12, 1), torch.ones(1, 24, 2)], on=cg.HEALPix()
                )
            ),
            "of one size, got several sizes",
        ),
        (
            lambda: cg.HEALPix().from_map(torch.ones(1, 48), mask=torch.ones(47) > 0),
            "with K = 48 pixels",
        ),
        (
            lambda: cg.PixelGraph.from_image(torch.ones(1, 1, 8, 8), on=cg.HEALPix()),
            "goes through from_map",
        ),
        (
            lambda: cg.nn.GraphConv2d(1, 1, 5, padding=2)(
                cg.PixelGraph.from_image(torch.ones(1, 1, 12, 1), on=cg.HEALPix())
            ),
            "reaches 2 pixels beyond a face of 1 x 1",
        ),
    ],
)
def test_what_is_no_map_is_refused(call: Any, said: str) -> None:
    """The text says what was expected and the way out."""
    with pytest.raises(cg.errors.ConvgraphError, match=said):
        call()


@pytest.mark.parametrize("origin", healpix_order.CORNERS)
@pytest.mark.parametrize("clockwise", [True, False])
def test_all_eight_xy_maps_begin_and_turn_as_they_say(origin: str, clockwise: bool) -> None:
    """The first pixel of a face is its outermost one there; rows and columns turn that way."""
    n, sphere = 4, cg.HEALPix()
    where = {"order": "xy", "origin": origin, "clockwise": clockwise}
    maps = integers(2, 3, 12 * n * n)
    graph = sphere.from_map(maps, **where)
    assert torch.equal(sphere.to_map(graph, **where), maps)
    number = healpix_order.numbers("xy", n, origin, clockwise)
    places = np.empty((12 * n * n, 3))
    places[number] = sphere.positions((12 * n, n))
    for face in places.reshape(12, n, n, 3):
        middle = face.mean((0, 1))
        east = np.array([-middle[1], middle[0], 0])
        outermost = {"N": face[..., 2], "S": -face[..., 2], "E": face @ east, "W": -(face @ east)}
        assert np.unravel_index(outermost[origin].argmax(), (n, n)) == (0, 0)
        turn = np.cross(face[0, 1] - face[0, 0], face[1, 0] - face[0, 0]) @ middle
        assert (turn < 0) == clockwise


def test_corners_are_for_maps_that_have_them() -> None:
    maps = torch.zeros(1, 1, 48)
    with pytest.raises(cg.errors.GeometryError, match="are of order 'xy'"):
        cg.HEALPix().from_map(maps, order="ring", clockwise=False)
    with pytest.raises(cg.errors.GeometryError, match="expected origin in"):
        cg.HEALPix().from_map(maps, order="xy", origin="NE")
