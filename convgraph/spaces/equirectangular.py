"""The sphere on a panorama: rows are latitudes from the north, columns longitudes eastwards.

    tangent    tap u of site p lies at  u * (tan of a pixel's angle)  in the plane that touches the
               sphere at p, north up; what is there is read between four pixels (SphereNet)
    wrap       tap u of site p lies at  p + u  on the panorama, over the seam and over the poles

A place between pixels is read to 1 / 256 of a pixel, so that the weights of its four pixels are
multiples of 2^-16 that sum to exactly one. North-up frames turn quickly near the poles; there no
choice of taps keeps up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from convgraph.errors import GeometryError, GraphError
from convgraph.geometry.kernel import IntTable, KernelGeometry, Relation
from convgraph.geometry.loaded import revive
from convgraph.geometry.space import FloatTable, Halo, Pads, Table
from convgraph.spaces import charts

TAPS = ("tangent", "wrap")

FINE = 256
"""Steps of a pixel to which places between pixels are rounded; its square is `ONE`."""


@final
@dataclass(frozen=True)
class Equirectangular:
    """The sphere as a panorama (B, C, H, W) of 180 by 360 degrees.

    Args:
        taps: "tangent" places the taps of every kernel in the tangent plane of its site, so that a
            network sees near the 60th latitude what it sees at the equator; "wrap" leaves them
            where they are on the panorama and only closes the seam and the poles, at the speed of
            the dense operator.

    Raises:
        GeometryError: other taps.

    Example:
        >>> import torch, convgraph as cg
        >>> graph = cg.PixelGraph.from_image(torch.ones(1, 1, 8, 16), on=cg.Equirectangular())
        >>> box = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = torch.nn.init.ones_(box.weight)
        >>> cg.nn.GraphConv2d.from_dense(box)(graph).x.unique().tolist()
        [9.0]

    Source: Coors et al., SphereNet: learning spherical representations for detection and
    classification in omnidirectional images, ECCV 2018
    """

    taps: str = "tangent"

    def __setstate__(self, state: Any) -> None:
        """Take pickled fields, checked anew."""
        revive(self, state)

    def __post_init__(self) -> None:
        """Refuse other taps."""
        if self.taps not in TAPS:
            raise GeometryError(f"Equirectangular: expected taps in {TAPS}, got {self.taps!r}")

    @property
    def closed(self) -> tuple[bool, ...]:
        """A walk on the sphere never comes to a border."""
        return (True, True)

    @property
    def flat(self) -> bool:
        """False: there is a seam, and there are poles."""
        return False

    def charts(self, size: Sequence[int]) -> tuple[int, int, int]:
        """One chart, the whole panorama."""
        if len(size) != 2 or size[1] % 2:
            raise GraphError(
                f"{self}: expected panoramas (H, W) of an even width, so that half way round is a "
                f"pixel, got {tuple(size)}"
            )
        return (1, size[0], size[1])

    def seen(self, relation: Relation) -> Relation:
        """The relation itself."""
        return relation

    def along(self, relation: Relation) -> bool:
        """Whether the relation reads pixels of the halo, and nothing between them."""
        bent = isinstance(relation, KernelGeometry) and self.taps == "tangent"
        return not bent or getattr(relation, "num_taps", 0) == 1

    def check(self, relation: Relation, size: Sequence[int], out: Sequence[int]) -> None:
        """Refuse sizes that do not go round; see `charts.check`."""
        charts.check(self, relation, size, out)
        if self.along(relation):
            return
        kernel: Sequence[int] = relation.kernel_size  # type: ignore[attr-defined]
        for taps, n, whole in zip(kernel, size, (180, 360), strict=True):
            apart = whole / n
            # At 90 degrees a tap lies at the horizon, and one of an even kernel beside a pole has
            # no direction there.
            if taps > 1 and (apart > 90 or (apart == 90 and taps % 2 == 0)):
                raise GeometryError(
                    f"{self}: on a panorama of {size[0]}x{size[1]} pixels neighbours are "
                    f"{apart:.0f} degrees apart, and a plane that touches the sphere at a pixel "
                    "shows less than 90 to each side; use a larger panorama, or taps='wrap'"
                )

    def halo(self, size: Sequence[int], pads: Pads, mode: str = "zeros") -> Halo:
        """The panorama with margins that show what lies beyond the seam and the poles."""
        _, height, width = self.charts(size)
        (top, bottom), (left, right) = pads
        rows, columns = np.arange(-top, height + bottom), np.arange(-left, width + right)
        return Halo(_cells(rows[:, None], columns, height, width)[None, :, :, None])

    def table(
        self, relation: Relation, size: Sequence[int], out: Sequence[int], cells: Any = None
    ) -> Table:
        """Who speaks where; up to four pixels for a tap in the tangent plane."""
        if self.along(relation):
            return charts.table(self, relation, size, out, cells)
        g: Any = relation
        if cells is None:
            cells = np.arange(out[0] * out[1])
        return _tangent(g, size[0], size[1], *np.divmod(cells, out[1]))

    def places(self, size: Sequence[int], chart: Any, rows: Any, columns: Any, mode: str) -> Halo:
        """Places of the panorama, beyond the seam and the poles too."""
        _, height, width = self.charts(size)
        return Halo(_cells(np.asarray(rows), np.asarray(columns), height, width)[..., None])

    def refuses(self, move: str, axes: Sequence[int]) -> str | None:
        """A panorama may be turned about its axis and mirrored; it has no border."""
        if move in ("pad", "fold"):
            return f"{self} has no border to pad or crop at"
        if move == "scan" and 1 in axes:
            return f"{self}: a row goes round, no column of it is the first"
        if move == "roll" and 0 in axes:
            return f"{self}: rows go from pole to pole, they are no circle to roll along"
        return None

    def positions(self, size: Sequence[int]) -> FloatTable:
        """(P, 3) unit vectors: x to the middle column, z to the north pole."""
        row, column = np.divmod(np.arange(size[0] * size[1]), size[1])
        latitude = np.pi / 2 - (row + 0.5) * np.pi / size[0]
        longitude = (column + 0.5) * 2 * np.pi / size[1] - np.pi
        flat = np.cos(latitude)
        return np.stack(
            [flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings, for a record."""
        return {"kind": "equirectangular", "taps": self.taps}


def _cells(rows: Any, columns: Any, height: int, width: int) -> Any:
    """Cells of rows and columns anywhere: over a pole lies the same row half way round."""
    rows = rows % (2 * height)
    beyond = rows >= height
    rows = np.where(beyond, 2 * height - 1 - rows, rows)
    return rows * width + np.where(beyond, columns + width // 2, columns) % width


def _tangent(g: KernelGeometry, height: int, width: int, row: IntTable, column: IntTable) -> Table:
    """Four pixels around each tap; along a row every column looks alike, so one is worked out.

    Args:
        g: the kernel.
        height: rows of the panorama.
        width: columns.
        row: of each output site, (P,).
        column: of each.
    """
    rows, which = np.unique(row, return_inverse=True)
    middle = [gap * (k - 1) / 2 for k, gap in zip(g.kernel_size, g.dilation, strict=True)]
    centre = rows * g.stride[0] - g.padding[0][0] + middle[0]
    at = middle[1] - g.padding[1][0]
    right, down = (
        np.arange(k) * gap - half
        for k, gap, half in zip(g.kernel_size[::-1], g.dilation[::-1], middle[::-1], strict=True)
    )
    shape: tuple[int, ...] = (len(down), len(right), len(rows))
    r, c = _looked_at(
        np.broadcast_to(right[None, :, None], shape),
        np.broadcast_to(down[:, None, None], shape),
        np.broadcast_to(centre, shape),
        height,
        width,
    )
    r, c = np.rint(r * FINE).astype(np.int64), np.rint((c + at) * FINE).astype(np.int64)
    r0, c0 = r // FINE, c // FINE
    fr, fc = (r - r0 * FINE)[..., which], (c - c0 * FINE)[..., which]
    r0, c0 = r0[..., which], c0[..., which] + column * g.stride[1]
    sources, weights = [], []
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        loud = (fr if a else FINE - fr) * (fc if b else FINE - fc)
        sources.append(np.where(loud > 0, _cells(r0 + a, c0 + b, height, width), -1))
        weights.append(loud / FINE**2)
    shape = (len(down) * len(right), len(row), 4)
    return Table(np.stack(sources, axis=-1).reshape(shape), np.stack(weights, -1).reshape(shape))


def _looked_at(right: Any, down: Any, row: Any, height: int, width: int) -> tuple[Any, Any]:
    """Row, and column beside the site's own, of points of a site's tangent plane.

    Args:
        right: pixels of the equator to the right of the site.
        down: pixels below it.
        row: of the site.
        height: rows of the panorama.
        width: columns.
    """
    tall, wide = np.pi / height, 2 * np.pi / width
    latitude = np.pi / 2 - (row + 0.5) * tall
    x, y = np.tan(wide) * right, -np.tan(tall) * down
    # Inverse of the gnomonic projection, with cos(c) = 1 / s and sin(c) = rho / s.
    s = np.sqrt(1 + x * x + y * y)
    up = (np.sin(latitude) + y * np.cos(latitude)) / s
    ahead = np.cos(latitude) - y * np.sin(latitude)
    there = (np.pi / 2 - np.arcsin(np.clip(up, -1, 1))) / tall - 0.5
    return there, np.arctan2(x, ahead) / wide
