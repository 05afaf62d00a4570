"""What a space is: it says where a walk over an array of pixels lands.

    y[p] = b + sum over taps t of  W[:, :, t]  sum over q of  w(q; walk(c(p), u_t)) x[q]

A lattice stays an array (H, W), an image of F charts of n x n pixels is the array (F n, n), so that
sizes, strides and weights stay as they are. c(p) is where output site p lies in source pixels, u_t
the offset of tap t; `walk` goes there in the space, and the space names the pixels that speak there
with weights that sum to one. In the plane `walk` is +, and the equation is the old one.

Integers and numpy; knows no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt

from convgraph.geometry.kernel import IntTable, Relation

FloatTable = npt.NDArray[np.float64]
Pads = tuple[tuple[int, int], ...]
"""Pixels before and after each axis of a chart."""

ONE = 2**16
"""Weights of interpolated taps are multiples of 1 / ONE, so that sums of integers stay exact."""


@final
@dataclass(frozen=True, eq=False)
class Table:
    """Who speaks at each output site through each tap, in one image.

    Attributes:
        sources: (T, P, K) int64 cells of the source's array, -1 for no pixel.
        weights: (T, P, K) float64, or None where every source counts once.
    """

    sources: IntTable
    weights: FloatTable | None = None


@final
@dataclass(frozen=True, eq=False)
class Halo:
    """The charts of one image, each with a margin that shows what lies beyond its edges.

    Attributes:
        sources: (F, h, w, K) int64 cells of the array, -1 for no pixel.
        weights: (F, h, w, K) float64, or None where every source counts once.
    """

    sources: IntTable
    weights: FloatTable | None = None


class Space(Protocol):
    """Where the pixels of an array lie. A frozen record of its settings, equal by value."""

    @property
    def closed(self) -> tuple[bool, ...]:
        """Per axis of a chart, whether a walk along it never comes to a border."""

    @property
    def flat(self) -> bool:
        """Whether the edges are the plane's, of the relation that `seen` gives."""

    def along(self, relation: Relation) -> bool:
        """Whether the relation's taps read pixels along the halo, and nothing between them."""

    def charts(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Number, height and width of the charts in an array of that size.

        Raises:
            GraphError: no array of this space has that size.
        """

    def seen(self, relation: Relation) -> Relation:
        """The relation as this space means it; mostly the same."""

    def check(self, relation: Relation, size: Sequence[int], out: Sequence[int]) -> None:
        """Refuse a relation whose output does not fit the space.

        Raises:
            GeometryError: padding, stride or size have no meaning here; the text says why.
        """

    def halo(self, size: Sequence[int], pads: Pads, mode: str = "zeros") -> Halo | None:
        """The charts of an array with margins; None for a space without charts.

        Args:
            size: of the array.
            pads: margins of each chart.
            mode: what lies beyond the border of an axis that is not closed; a padding mode.

        Raises:
            GeometryError: a margin reaches farther than the space can walk.
        """

    def places(self, size: Sequence[int], chart: Any, rows: Any, columns: Any, mode: str) -> Halo:
        """Where places of charts lie, beyond their edges too.

        Args:
            size: of the array.
            chart: numbers of charts; it, rows and columns are int64 and broadcast to one shape.
            rows: places along the charts' first axis.
            columns: along their second.
            mode: as in `halo`.

        Returns:
            A Halo whose sources and weights have that shape, and K behind it.

        Raises:
            GeometryError: a place lies farther away than the space can walk.
        """

    def table(
        self, relation: Relation, size: Sequence[int], out: Sequence[int], cells: Any = None
    ) -> Table | None:
        """Who speaks where, for a relation that is not transposed; None in a flat space.

        Args:
            relation: the relation.
            size: of the array that speaks.
            out: of the array that hears.
            cells: (P,) int64, the output sites asked for; None for all of them.
        """

    def refuses(self, move: str, axes: Sequence[int]) -> str | None:
        """Say why going by index along axes means nothing here, or None.

        Args:
            move: "roll" and "flip"; "pad" by a value or crop; "fold", pad by what is there; "scan",
                sum up from the first position to the last.
            axes: of the array.
        """

    def positions(self, size: Sequence[int]) -> FloatTable:
        """(P, 2) points of the plane (right, up) or (P, 3) of the unit sphere, for drawing."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values, "kind" among them, for a record of a proof."""
