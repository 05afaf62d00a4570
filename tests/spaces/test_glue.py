"""The glue of HEALPix faces leads back: for every size, by z3; and the table is the code's."""

from itertools import product
from typing import Any

import numpy as np
import pytest

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
