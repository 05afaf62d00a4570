"""From axes to lists: flat numbers of pixels, sites and taps, for all sizes.

The edge builder writes pixel (b, h, w) of a lattice H x W as one number, in two ways: as a sum of
steps, b (H W) + h W + w, and nested, (b H + h) W + w. They are equal, they lie in the range of the
lattice, and no two pixels share one; so a list of flat edges is the product of the axes' edges.
"""

from collections.abc import Iterator
from typing import Any

from convgraph.proof.symbolic.arithmetic import Symbols, load_z3

Check = tuple[str, list[Any]]
"""A claim in words, and what must be unsatisfiable for it."""


def checks() -> Iterator[Check]:
    """Every claim about flat numbers."""
    z3 = load_z3()
    b, h, w, d, height, width, depth = z3.Reals("b h w d H W D")
    two = z3.Not(b * (height * width) + h * width + w == (b * height + h) * width + w)
    three = z3.Not(
        b * (depth * height * width) + d * (height * width) + h * width + w
        == ((b * depth + d) * height + h) * width + w
    )
    yield "sums of steps = nested numbers, d = 2", [two]
    yield "sums of steps = nested numbers, d = 3", [three]
    # One more axis: `rest` numbers the axes before, 0 <= rest < R, and w the new one.
    at = Symbols()
    rest, other, place, second, extent, rows = z3.Ints("rest rest2 w w2 W R")
    inside = [extent >= 1, rows >= 1]
    for row, column in ((rest, place), (other, second)):
        inside += [row >= 0, row < rows, column >= 0, column < extent]
    one = at.times(rest, extent) + place
    two_ = at.times(other, extent) + second
    whole = at.times(rows, extent)
    yield (
        "in the range of the lattice, axis by axis",
        [*at.facts, *inside, z3.Not(z3.And(one >= 0, one < whole))],
    )
    yield (
        "no two pixels share one, axis by axis",
        [*at.facts, *inside, one == two_, z3.Or(rest != other, place != second)],
    )
