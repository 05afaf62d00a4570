"""The glue of each space leads back: for every size, by z3; and each table is the code's.

healpix            crossing the shared side from the other face ends at the pixel of before
torus              a walk and the walk back end where they began, one place for each pixel
equirectangular    over a pole half a turn, and over it again nowhere; wrapped walks lead back
hexagonal          axial coordinates are one for each pixel, and their six neighbours are the
                   pixels at distance one, in even and odd rows and columns alike
"""

from itertools import product
from typing import Any

import numpy as np
import pytest

from convgraph.geometry.footprint import hexagon
from convgraph.geometry.padding import folded
from convgraph.spaces import hexagonal_layout
from convgraph.spaces.equirectangular import _cells
from convgraph.spaces.healpix import crossed

SIDES = ("row -", "column -", "row +", "column +")


def beyond(face: int, side: str, a: Any, t: Any, n: Any) -> tuple[int, Any, Any]:
    """Return the place reached `a` pixels beyond a side, `t` along it: the table of the module."""
    ring, k = divmod(face, 4)
    left, right, last = (k - 1) % 4, (k + 1) % 4, n - 1 - a
    table: dict[tuple[int, str], tuple[int, Any, Any]] = {
        (0, "row -"): (right, t, a),
        (0, "column -"): (left, a, t),
        (0, "row +"): (4 + k, a, t),
        (0, "column +"): (4 + right, t, a),
        (1, "row -"): (k, last, t),
        (1, "column -"): (left, t, last),
        (1, "row +"): (8 + left, a, t),
        (1, "column +"): (8 + k, t, a),
        (2, "row -"): (4 + right, last, t),
        (2, "column -"): (4 + k, t, last),
        (2, "row +"): (8 + left, t, last),
        (2, "column +"): (8 + right, last, t),
    }
    return table[ring, side]


def within(side: str, a: Any, t: Any, n: Any) -> tuple[Any, Any]:
    """Return the pixel `a` pixels inside of a side, `t` along it."""
    last = n - 1 - a
    return {"row -": (a, t), "column -": (t, a), "row +": (last, t), "column +": (t, last)}[side]


def test_the_table_is_the_codes() -> None:
    """Every place beyond every side of every face."""
    n = 5
    for face, side, a, t in product(range(12), SIDES, range(n), range(n)):
        i, j = within(side, -1 - a, t, n)
        found = crossed(*(np.array([v]) for v in (face, i, j)), n, columns=side[0] == "c")
        assert tuple(int(part[0]) for part in found) == beyond(face, side, a, t, n)


@pytest.mark.parametrize("face", range(12))
def test_crossing_back_leads_back_for_every_size(face: int) -> None:
    """Beyond the shared side, as deep and at the same place along it, lies the pixel of before."""
    z3 = pytest.importorskip("z3")
    n, a, t, s = z3.Ints("n a t s")
    sizes = [n >= 1, a >= 0, a < n, t >= 0, t < n, s >= 0, s < n]
    for side in SIDES:
        other, i, j = beyond(face, side, a, t, n)
        solver = z3.Solver()
        solver.add(*sizes, z3.Not(z3.And(i >= 0, i < n, j >= 0, j < n)))
        assert solver.check() == z3.unsat  # it is a pixel of the other face
        ways = []
        for back in SIDES:
            home, p, q = beyond(other, back, a, s, n)
            if home == face:
                inside, mine = within(back, a, s, n), within(side, a, t, n)
                same = z3.And(inside[0] == i, inside[1] == j)
                ways.append(z3.And(same, p == mine[0], q == mine[1]))
        assert ways, "no way back"
        solver = z3.Solver()
        solver.add(*sizes[:5], z3.Not(z3.Exists([s], z3.And(s >= 0, s < n, z3.Or(*ways)))))
        assert solver.check() == z3.unsat


def pick(condition: Any, one: Any, two: Any) -> Any:
    """Return one or two; of numbers, or of what z3 knows of them."""
    if isinstance(condition, bool):
        return one if condition else two
    import z3

    return z3.If(condition, one, two)


def around(q: Any, n: Any) -> Any:
    """Return where a place lies on a circle of n, at most n beyond it."""
    return pick(q < 0, q + n, pick(q >= n, q - n, q))


def over_a_pole(r: Any, c: Any, height: Any, half: Any) -> tuple[Any, Any]:
    """Return row and column of a place on a panorama (height, 2 half), at most that far beyond."""
    beyond = pick(r < 0, True, pick(r >= height, True, False))
    row = pick(r < 0, -1 - r, pick(r >= height, 2 * height - 1 - r, r))
    column = around(c, 2 * half)
    return row, around(column + pick(beyond, half, 0), 2 * half)


def unsat(*claims: Any) -> bool:
    """Whether no numbers at all are a counterexample."""
    z3 = pytest.importorskip("z3")
    solver = z3.Solver()
    solver.add(*claims)
    return bool(solver.check() == z3.unsat)


def test_the_circles_and_the_poles_are_the_codes() -> None:
    for n in (1, 2, 5):
        places = np.arange(-n, 2 * n)
        expected = [around(int(q), n) for q in places]
        assert folded(places, n, "circular").tolist() == expected
    for height, half in ((1, 1), (3, 2), (4, 3)):
        for r, c in product(range(-height, 2 * height), range(-2 * half, 4 * half)):
            row, column = over_a_pole(r, c, height, half)
            found = _cells(np.array([r]), np.array([c]), height, 2 * half)
            assert found.tolist() == [row * 2 * half + column]


def test_a_walk_on_a_torus_leads_back_for_every_size() -> None:
    z3 = pytest.importorskip("z3")
    n, i, j, s = z3.Ints("n i j s")
    inside = [n >= 1, i >= 0, i < n, s >= -n, s <= n]
    there = around(i + s, n)
    assert unsat(*inside, z3.Not(z3.And(there >= 0, there < n)))
    assert unsat(*inside, around(there - s, n) != i)
    # One place for each pixel: no two pixels of a margin are one.
    assert unsat(*inside, j >= 0, j < n, i != j, there == around(j + s, n))
    assert not unsat(*inside, there != i)  # a claim that can fail does


def test_a_walk_over_a_pole_leads_back_for_every_size() -> None:
    """Behind the pole the walk goes on the other way: back over it lies the pixel of before."""
    z3 = pytest.importorskip("z3")
    h, half, r, c, a, b = z3.Ints("h half r c a b")
    inside = [h >= 1, half >= 1, r >= 0, r < h, c >= 0, c < 2 * half]
    for beyond in (-1 - r, 2 * h - 1 - r):  # as deep beyond the north, the south pole
        row, column = over_a_pole(beyond, c, h, half)
        assert unsat(*inside, z3.Not(z3.And(row == r, column >= 0, column < 2 * half)))
        again = over_a_pole(beyond, column, h, half)
        assert unsat(*inside, z3.Not(z3.And(again[0] == r, again[1] == c)))
        assert unsat(*inside, column == c)  # and it is another pixel
    step = [a >= -h, a <= h, b >= -half, b <= half]
    row, column = over_a_pole(r + a, c + b, h, half)
    assert unsat(*inside, *step, z3.Not(z3.And(row >= 0, row < h)))
    over = z3.Or(r + a < 0, r + a >= h)
    back = over_a_pole(row - pick(over, -a, a), column - b, h, half)
    assert unsat(*inside, *step, z3.Not(z3.And(back[0] == r, back[1] == c)))


def in_layout(layout: str, row: Any, column: Any, odd: Any) -> tuple[Any, Any]:
    """Return axial (r, q) of a pixel of an offset array; odd is its row's, or column's, parity."""
    if layout.endswith("-q"):
        return row - (column + (-odd if layout == "odd-q" else odd)) // 2, column
    return row, column - (row + (-odd if layout == "odd-r" else odd)) // 2


OFFSET = [layout for layout in hexagonal_layout.LAYOUTS if layout != "axial"]


@pytest.mark.parametrize("layout", OFFSET)
def test_the_layouts_are_the_codes(layout: str) -> None:
    size, cells = hexagonal_layout.axial(layout, (5, 6))
    expected = []
    for row, column in np.ndindex(5, 6):
        odd = (column if layout.endswith("-q") else row) & 1
        expected.append(in_layout(layout, row, column, odd))
    r, q = np.array(expected).T
    assert (((r - r.min()) * size[1] + q - q.min()) == cells).all()


@pytest.mark.parametrize("layout", OFFSET)
def test_parity_is_a_bijection_that_keeps_neighbours_for_every_size(layout: str) -> None:
    """Six axial steps are the six pixels at distance one, whatever the parities are.

    A shifted line stands half a pixel off and lines are sqrt(3) / 2 apart, so 4 times a squared
    distance is (2 along + shift)^2 + 3 across^2; only across = -1, 0, 1 comes to 4.
    """
    z3 = pytest.importorskip("z3")
    line, along, other = z3.Ints("line along other")  # of a row (or column), and within it
    sign = 1 if layout.startswith("odd") else -1
    for odd, across in product((0, 1), (-1, 0, 1)):
        two = (odd + across) & 1
        first, second = 2 * line + odd, 2 * line + odd + across

        def place(at: Any, within: Any, parity: int) -> tuple[Any, Any]:
            pair = (within, at) if layout.endswith("-q") else (at, within)
            r, q = pair
            half = (at - sign * parity) / 2  # at - sign * parity is even: z3's / is exact here
            return (r - half, q) if layout.endswith("-q") else (r, q - half)

        one, there = place(first, along, odd), place(second, other, two)
        down, right = there[0] - one[0], there[1] - one[1]
        shift = sign * (two - odd)
        apart = (2 * (other - along) + shift, 3 * across * across)
        near = z3.Or(*(apart[0] == root for root in _roots(4 - apart[1])))
        step = z3.Or(*(z3.And(down == a, right == b) for a, b in STEPS))
        assert unsat(z3.Xor(near, step))
        # The way back: the pixel of an axial place is one.
        assert unsat(down == 0, right == 0, z3.Or(across != 0, other != along))


STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, -1), (-1, 1))


def _roots(square: int) -> list[int]:
    """Return the whole numbers of that square."""
    return [n for n in range(-2, 3) if n * n == square]


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_a_hexagons_steps_lead_back(side: int) -> None:
    """A tap is there where its opposite is, and the seven of 3 x 3 are the six steps and none."""
    there = np.array(hexagon((side, side))).reshape(side, side)
    assert (there == there[::-1, ::-1]).all()
    if side == 3:
        assert {(a - 1, b - 1) for a, b in np.argwhere(there).tolist()} == {(0, 0), *STEPS}
