"""Faults planted in every space: the judge's own geometry finds each of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.memo import forget
from convgraph.spaces import KINDS, charts, equirectangular, healpix
from tests.spaces.cases import SPACES

Patch = pytest.MonkeyPatch


def a_turned_face(patch: Patch) -> None:
    """Crossing an edge of rows, the neighbour's columns are read backwards."""
    right = healpix.crossed

    def wrong(face: Any, i: Any, j: Any, n: int, *, columns: bool) -> Any:
        f, row, column = right(face, i, j, n, columns=columns)
        turned = (f == 5) & (face == 1)
        return f, row, np.where(turned, n - 1 - column, column)

    patch.setattr(healpix, "crossed", wrong)


def another_corner_rule(patch: Patch) -> None:
    """The mean where DLWP doubles the polar neighbour."""
    right = healpix.walked
    patch.setattr(healpix, "walked", lambda f, i, j, n, corner: right(f, i, j, n, "mean"))


def a_pole_without_a_half_turn(patch: Patch) -> None:
    """Over the pole the same column, as if the panorama were mirrored there."""

    def wrong(rows: Any, columns: Any, height: int, width: int) -> Any:
        rows = rows % (2 * height)
        rows = np.where(rows >= height, 2 * height - 1 - rows, rows)
        return rows * width + columns % width

    patch.setattr(equirectangular, "_cells", wrong)


def a_lost_partner(patch: Patch) -> None:
    """One of the four pixels around a tap is dropped, and its weight with it."""
    right = equirectangular._tangent

    def wrong(*args: Any) -> Any:
        table = right(*args)
        sources = table.sources.copy()
        sources[..., 3] = -1
        return type(table)(sources, table.weights)

    patch.setattr(equirectangular, "_tangent", wrong)


def taps_at_the_equators_spacing(patch: Patch) -> None:
    """Longitudes do not widen towards the poles."""
    right = equirectangular._looked_at

    def wrong(right_: Any, down: Any, row: Any, height: int, width: int) -> Any:
        there, _ = right(right_, down, row, height, width)
        return there, right(right_, down, 0 * row + (height - 1) / 2, height, width)[1]

    patch.setattr(equirectangular, "_looked_at", wrong)


def a_torus_that_mirrors(patch: Patch) -> None:
    """Beyond a border comes the same border again, reflected."""
    right = charts.folded
    patch.setattr(
        charts, "folded", lambda q, n, mode: right(q, n, "reflect" if mode == "circular" else mode)
    )


def the_other_diagonal(patch: Patch) -> None:
    """The two corners that a hexagon has not are taken for the two that it has."""
    from convgraph.spaces import hexagonal

    def wrong(kernel_size: Any) -> Any:
        middle = np.arange(kernel_size[0]) - kernel_size[0] // 2
        return tuple((np.abs(middle[:, None] - middle) <= kernel_size[0] // 2).ravel().tolist())

    patch.setattr(hexagonal, "hexagon", wrong)


def a_shifted_row_parity(patch: Patch) -> None:
    """The halo of a panorama is one column off in every second row."""
    right = equirectangular._cells

    def wrong(rows: Any, columns: Any, height: int, width: int) -> Any:
        return right(rows, columns + (np.asarray(rows) & 1), height, width)

    patch.setattr(equirectangular, "_cells", wrong)


FAULTS: list[tuple[Callable[[Patch], None], Any, tuple[int, int]]] = [
    (a_turned_face, cg.HEALPix(), (24, 2)),
    (another_corner_rule, cg.HEALPix(), (24, 2)),
    (a_pole_without_a_half_turn, cg.Equirectangular("wrap"), (6, 8)),
    (a_lost_partner, cg.Equirectangular(), (6, 8)),
    (taps_at_the_equators_spacing, cg.Equirectangular(), (6, 8)),
    (a_torus_that_mirrors, cg.Torus(), (5, 6)),
    (the_other_diagonal, cg.Hexagonal(), (5, 5)),
    (a_shifted_row_parity, cg.Equirectangular("wrap"), (6, 8)),
]


def test_every_space_is_tested_and_has_a_planted_fault() -> None:
    kinds = set(KINDS.values())
    assert {type(space) for space, _ in SPACES} == kinds
    assert {type(space) for _, space, _ in FAULTS} == kinds


@pytest.mark.parametrize(
    ("fault", "space", "size"), FAULTS, ids=lambda f: getattr(f, "__name__", "")
)
def test_the_judge_finds_it(
    fault: Callable[[Patch], None], space: Any, size: tuple[int, int], monkeypatch: Patch
) -> None:
    """By its edges and by its values, where the same layer ran before and its graph is held."""
    held = cg.PixelGraph.from_image(torch.ones(2, 2, *size), on=space)
    cg.nn.GraphConv2d(2, 2, 3, padding=1)(held)
    forget()
    fault(monkeypatch)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 2, 3, padding=1)
    layer = cg.nn.GraphConv2d.from_dense(conv)
    try:
        cert = cg.prove(layer, conv, size=size, on=space, seed=3)
        by_value = cg.prove(lambda x, w, b: run(layer, x, w, b, space), conv, size=size, on=space)
    finally:
        monkeypatch.undo()
        forget()
    assert cert.verdict == "refuted"
    assert cert.parts[0].status == "refuted"
    assert cert.counterexample, "an input on which they differ, not only an edge"
    assert by_value.verdict == "refuted"


def run(layer: torch.nn.Module, x: Any, w: Any, b: Any, space: Any) -> torch.Tensor:
    """The layer as a function, so that no edges are shown."""
    graph = cg.PixelGraph.from_image(x, on=space)
    y = torch.func.functional_call(layer, {"weight": w, "bias": b}, (graph,))
    image: torch.Tensor = y.to_image()
    return image
