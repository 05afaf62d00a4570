"""Faults planted in every space, small and each in one place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convgraph as cg
from convgraph.spaces import charts, equirectangular, healpix, hexagonal

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
"""Fault, the space that it is in, and a size of an array there."""
