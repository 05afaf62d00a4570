"""HEALPix: the sphere as twelve charts of n x n pixels of one area.

A map is the array (12 n, n), face under face; a face starts at its northern corner, rows go to the
south-west, columns to the south-east. Faces 0 to 3 touch the north pole, 8 to 11 the south pole.
Crossing an edge of face f = 4 ring + k, with a and b pixels beyond it counted from 0:

    ring       row -1 - a               column -1 - b            row n + a             column n + b
    0  north   k+1 at (j, a)            k-1 at (b, i)            4+k at (a, j)         5+k at (i, b)
    1          k at (n-1-a, j)          k-1 at (i, n-1-b)        8+k-1 at (a, j)       8+k at (i, b)
    2  south   5+k at (n-1-a, j)        4+k at (i, n-1-b)        k-1 at (j, n-1-a) k+1 at (n-1-b, i)

(k modulo 4 within its ring.) At 8 points only three faces meet, and a pixel diagonal to the corner
does not exist: what is read there is a rule, see `HEALPix`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np
from torch import Tensor

from convgraph.door import door
from convgraph.errors import GeometryError, GraphError
from convgraph.geometry.kernel import IntTable, Relation
from convgraph.geometry.loaded import revive
from convgraph.geometry.space import FloatTable, Halo, Pads, Table
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.memo import on_forget
from convgraph.spaces import charts, healpix_order, readers

FACES = 12
CORNERS = ("hpxpad", "mean", "absent")

Place = tuple[IntTable, IntTable, IntTable]
"""Face, row and column of pixels, arrays of one shape."""


@final
@dataclass(frozen=True)
class HEALPix:
    """The sphere in HEALPix pixels; an image is an array (B, C, 12 n, n), see `from_map`.

    Args:
        corner: what a tap reads at the 24 face corners where three faces meet and a diagonal
            neighbour does not exist. "hpxpad", as DLWP-HPX, earth2grid and physicsnemo pad: beside
            the poles' faces the pixel next to it on the neighbouring polar face once more, at the
            equatorial faces the mean of the two next to it. "mean": that mean everywhere.
            "absent": nothing, as with a hole.

    Raises:
        GeometryError: another corner rule.

    Example:
        >>> import torch, convgraph as cg
        >>> graph = cg.PixelGraph.from_image(torch.ones(1, 1, 48, 4), on=cg.HEALPix())
        >>> box = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = torch.nn.init.ones_(box.weight)
        >>> cg.nn.GraphConv2d.from_dense(box)(graph).x.unique().tolist()
        [9.0]

    Source: Gorski et al., HEALPix: a framework for high-resolution discretization, ApJ 622 (2005),
    https://arxiv.org/abs/astro-ph/0409513
    """

    corner: str = "hpxpad"

    def __setstate__(self, state: Any) -> None:
        """Take pickled fields, checked anew."""
        revive(self, state)

    def __post_init__(self) -> None:
        """Refuse what is no corner rule."""
        if self.corner not in CORNERS:
            raise GeometryError(f"HEALPix: expected corner in {CORNERS}, got {self.corner!r}")

    @property
    def closed(self) -> tuple[bool, ...]:
        """A walk on the sphere never comes to a border."""
        return (True, True)

    @property
    def flat(self) -> bool:
        """False: beyond the edge of a face lies another."""
        return False

    def charts(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Twelve square charts."""
        if len(size) != 2 or size[0] != FACES * size[1]:
            raise GraphError(
                f"{self}: expected arrays of size (12 n, n), twelve faces of n x n pixels one "
                f"under the other, got {tuple(size)}; a map (B, C, 12 n^2) goes through from_map"
            )
        return (FACES, size[1], size[1])

    def seen(self, relation: Relation) -> Relation:
        """The relation itself."""
        return relation

    def along(self, relation: Relation) -> bool:
        """True: every tap reads one place of the halo."""
        return True

    def check(self, relation: Relation, size: Sequence[int], out: Sequence[int]) -> None:
        """Refuse sizes that are no faces; see `charts.check`."""
        charts.check(self, relation, size, out)

    def halo(self, size: Sequence[int], pads: Pads, mode: str = "zeros") -> Halo:
        """The faces with margins that show their neighbours."""
        n = self.charts(size)[1]
        _near(self, max(max(pair) for pair in pads), n)
        return _halo(self.corner, n, pads)

    def table(
        self, relation: Relation, size: Sequence[int], out: Sequence[int], cells: Any = None
    ) -> Table:
        """Who speaks where, read along the faces' halos."""
        return charts.table(self, relation, size, out, cells)

    def places(self, size: Sequence[int], chart: Any, rows: Any, columns: Any, mode: str) -> Halo:
        """Places of faces, and of their neighbours where they lie beyond an edge."""
        n = self.charts(size)[1]
        deepest = max(
            max(-int(at.min(initial=0)), int(at.max(initial=0)) - n + 1) for at in (rows, columns)
        )
        _near(self, deepest, n)
        return _heard(self.corner, n, *np.broadcast_arrays(chart, rows, columns))

    def refuses(self, move: str, axes: Sequence[int]) -> str | None:
        """Rows and columns of the array are no circles of the sphere."""
        return f"{move} along an axis of twelve stacked faces mixes faces that are no neighbours"

    @door
    def from_map(
        self,
        maps: Tensor,  # (B, C, 12 n^2) or (C, 12 n^2)
        order: str = "nest",
        mask: Tensor | None = None,  # (B, 12 n^2) or (12 n^2,)
        *,
        origin: str = "N",
        clockwise: bool = True,
    ) -> PixelGraph:
        """Return the graph of numbered maps.

        Args:
            maps: floating, one number a pixel and channel.
            order: "nest", "ring", or "xy" for the faces of this library one behind the other.
            mask: bool (a tensor, or an array of NumPy), True where the sky is seen; of healpy's
                maps `maps[:, 0] != UNSEEN`.
            origin: of an "xy" map, the corner of a face at which it begins: "N", "E", "S" or "W".
            clockwise: of an "xy" map, whether its rows lead to the next corner clockwise, seen from
                outside. The defaults are those of DLWP-HPX and earth2grid's HEALPIX_PAD.

        Raises:
            GraphError: no 12 n^2 pixels, or a mask of another number.
            GeometryError: another order or corner, or a nested map whose n is no power of two.

        Example:
            >>> import torch, convgraph as cg
            >>> maps = torch.arange(48.0).view(1, 1, 48)
            >>> graph = cg.HEALPix().from_map(maps, order="ring")
            >>> graph.sites.size, bool((cg.HEALPix().to_map(graph, order="ring") == maps).all())
            ((24, 2), True)
        """
        n = readers.nside(maps.shape[-1])
        cells = np.argsort(healpix_order.numbers(order, n, origin, clockwise))
        return readers.placed(maps, mask, (FACES * n, n), cells, self)

    @door
    def to_map(
        self, graph: PixelGraph, order: str = "nest", fill: float = 0.0, *, origin: str = "N",
        clockwise: bool = True,
    ) -> Tensor:  # fmt: skip
        """Return a graph's features as numbered maps (B, C, 12 n^2); see `from_map`.

        Args:
            graph: on this space, of any nside.
            order: as in `from_map`.
            fill: value of pixels that are no nodes.
            origin: as in `from_map`.
            clockwise: as in `from_map`.

        Raises:
            GraphError: the graph lies in another space, or its images have several sizes.
        """
        size = graph.sites.size
        if size is None:
            raise GraphError(f"{self}: expected a graph of images of one size, got several sizes")
        n = self.charts(size)[1]
        cells = np.argsort(healpix_order.numbers(order, n, origin, clockwise))
        return readers.read_cells(graph, (size[0], size[1]), cells, fill, self)

    def positions(self, size: Sequence[int]) -> FloatTable:
        """(P, 3) unit vectors: x to longitude 0, z to the north pole."""
        n = self.charts(size)[1]
        face, row, column = (part.ravel() for part in np.indices((FACES, n, n)))
        return healpix_order.vectors(n, face, row, column)

    def to_dict(self) -> dict[str, Any]:
        """The settings, for a record."""
        return {"kind": "healpix", "corner": self.corner}


def crossed(face: IntTable, i: IntTable, j: IntTable, n: int, *, columns: bool) -> Place:
    """Go from beyond one edge into the neighbouring face.

    Args:
        face: numbers of the faces.
        i: rows, of which some may lie beyond a face.
        j: columns.
        n: pixels along an edge.
        columns: whether the edges crossed are those of columns, else of rows; places that lie
            within their face along that axis stay.
    """
    ring, k = face // 4, face % 4
    before, after = -1 - i, i - n
    low, high = i < 0, i >= n
    if columns:
        before, after, low, high = -1 - j, j - n, j < 0, j >= n
    north, middle = ring == 0, ring == 1
    left, right = (k - 1) % 4, (k + 1) % 4
    if not columns:
        f = np.select([low & north, low & middle, low], [right, k, 4 + right], face)
        f = np.select([high & north, high & middle, high], [4 + k, 8 + left, 8 + left], f)
        rows = np.select([low & north, low], [j, n - 1 - before], i)
        rows = np.select([high & (ring < 2), high], [after, j], rows)
        cols = np.select([low & north, high & (ring == 2)], [before, n - 1 - after], j)
        return f, rows, cols
    f = np.select([low & north, low & middle, low], [left, left, 4 + k], face)
    f = np.select([high & north, high & middle, high], [4 + right, 8 + k, 8 + right], f)
    cols = np.select([low & north, low], [i, n - 1 - before], j)
    cols = np.select([high & (ring < 2), high], [after, i], cols)
    rows = np.select([low & north, high & (ring == 2)], [before, n - 1 - after], i)
    return f, rows, cols


@lru_cache(maxsize=64)
def _halo(corner: str, n: int, pads: Pads) -> Halo:
    """Faces with margins; read-only."""
    axes = [np.arange(-before, n + after) for before, after in pads]
    return _heard(corner, n, *np.meshgrid(np.arange(FACES), *axes, indexing="ij"))


on_forget(_halo.cache_clear)


def _near(space: Any, deepest: int, n: int) -> None:
    if deepest > n:
        raise GeometryError(
            f"{space}: a kernel reaches {deepest} pixels beyond a face of {n} x {n}, farther "
            "than its neighbours are wide; use a larger map or a smaller kernel"
        )


def _heard(corner: str, n: int, face: IntTable, i: IntTable, j: IntTable) -> Halo:
    """Who speaks at places of faces; read-only."""
    first, second, halves = walked(face, i, j, n, corner)
    one = (first[0] * n + first[1]) * n + first[2]
    nobody = first[0] < 0
    if not halves.any():
        sources = np.where(nobody, -1, one)[..., None]
        sources.setflags(write=False)
        return Halo(sources)
    two = (second[0] * n + second[1]) * n + second[2]
    sources = np.stack([np.where(nobody, -1, one), np.where(halves, two, -1)], axis=-1)
    weights = np.where(sources >= 0, np.where(halves, 0.5, 1.0)[..., None], 0.0)
    for array in (sources, weights):
        array.setflags(write=False)
    return Halo(sources, weights)


def walked(
    face: IntTable, i: IntTable, j: IntTable, n: int, corner: str
) -> tuple[Place, Place, Any]:
    """Where places up to n pixels beyond a face lie: one pixel, or two that speak half each.

    Returns:
        The first pixel (face -1 for none), the second, and where the second speaks too.
    """
    over_rows, over_columns = (i < 0) | (i >= n), (j < 0) | (j >= n)
    place = crossed(face, i, j, n, columns=False)
    # Over the edge of rows only or of columns only; the poles and the equator's corners, where four
    # faces meet, are reached by crossing both, in either order.
    for columns in (True, False, True):
        place = crossed(*place, n, columns=columns)
    ring = face // 4
    # North, east, south and west corners of a face, in turn; at the east and west of the polar
    # faces, and at the north and south of the others, three faces meet.
    same = (i < 0) == (j < 0)
    three = over_rows & over_columns & np.where(ring == 1, same, ~same)
    none = np.zeros_like(three)
    if corner == "absent":
        gone = tuple(np.where(three, -1, part) for part in place)
        return (gone[0], gone[1], gone[2]), place, none
    deep = (np.where(i < 0, -1 - i, i - n), np.where(j < 0, -1 - j, j - n))
    by_row = _turned(face, i, j, n, deep[0], deep[1], columns=False)
    by_column = _turned(face, i, j, n, deep[1], deep[0], columns=True)
    if corner == "hpxpad":
        # Once more the pixel of the neighbouring face of the same pole, turned around the corner:
        # the walk through the equatorial face, which ends there.
        polar = three & (ring != 1)
        first_rows = ((ring == 0) & (i >= n)) | ((ring == 2) & (i < 0))
        through = crossed(*crossed(face, i, j, n, columns=False), n, columns=True)
        other = crossed(*crossed(face, i, j, n, columns=True), n, columns=False)
        place = _where(polar, _where(first_rows, through, other), place)
        three = three & ~polar
    halves = three & (deep[0] == deep[1])
    nearer = _where(deep[0] >= deep[1], by_row, by_column)
    return _where(three, nearer, place), by_column, halves


def _turned(
    face: IntTable, i: IntTable, j: IntTable, n: int, deep: IntTable, beside: IntTable,
    *, columns: bool,
) -> Place:  # fmt: skip
    """The pixel as deep in the neighbour, as far from the corner as the place off the diagonal."""
    off = np.maximum(np.abs(deep - beside) - 1, 0)
    if columns:
        return crossed(face, np.where(i < 0, off, n - 1 - off), j, n, columns=True)
    return crossed(face, i, np.where(j < 0, off, n - 1 - off), n, columns=False)


def _where(condition: Any, one: Place, two: Place) -> Place:
    found = tuple(np.where(condition, a, b) for a, b in zip(one, two, strict=True))
    return found[0], found[1], found[2]
