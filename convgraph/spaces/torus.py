"""The torus: below the last row comes the first, right of the last column the first.

Seamless textures, and cylinders where one axis closes. One chart, glued to itself axis by axis:
what a circular padding mode does to one convolution, for every operator of a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from convgraph.errors import GeometryError, GraphError
from convgraph.geometry.kernel import Relation
from convgraph.geometry.loaded import revive
from convgraph.geometry.space import FloatTable, Halo, Pads, Table
from convgraph.spaces import charts


@final
@dataclass(frozen=True)
class Torus:
    """A plane whose opposite borders are one: every operator wraps around.

    A network on a torus is the network on the infinite tiling of its image. Where an axis closes,
    the layers' own padding mode has nothing to say; it stays in force along an axis that does not.

    Args:
        rows: whether below the last row comes the first.
        columns: whether right of the last column comes the first.

    Raises:
        GeometryError: neither axis closes; that is the plane.

    Example:
        >>> import torch, convgraph as cg
        >>> graph = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4), on=cg.Torus())
        >>> box = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = torch.nn.init.ones_(box.weight)
        >>> cg.nn.GraphConv2d.from_dense(box)(graph).x.unique().tolist()
        [9.0]
    """

    rows: bool = True
    columns: bool = True

    def __setstate__(self, state: Any) -> None:
        """Take pickled fields, checked anew."""
        revive(self, state)

    def __post_init__(self) -> None:
        """Refuse what is no torus and no cylinder."""
        for name, value in (("rows", self.rows), ("columns", self.columns)):
            if not isinstance(value, bool):
                raise GeometryError(f"Torus: expected {name} to be a bool, got {value!r}")
        if not (self.rows or self.columns):
            raise GeometryError(
                "Torus: expected rows or columns to close; without on= an image lies in the plane"
            )

    @property
    def closed(self) -> tuple[bool, ...]:
        """Whether rows and columns close."""
        return (self.rows, self.columns)

    @property
    def flat(self) -> bool:
        """False: taps land on the other side."""
        return False

    def charts(self, size: Sequence[int]) -> tuple[int, int, int]:
        """One chart, the whole array."""
        if len(size) != 2:
            raise GraphError(f"{self}: expected arrays of 2 axes (H, W), got {tuple(size)}")
        return (1, size[0], size[1])

    def seen(self, relation: Relation) -> Relation:
        """The relation itself."""
        return relation

    def along(self, relation: Relation) -> bool:
        """True: every tap reads one place of the halo."""
        return True

    def check(self, relation: Relation, size: Sequence[int], out: Sequence[int]) -> None:
        """Refuse sizes that do not go round; see `charts.check`."""
        charts.check(self, relation, size, out)

    def halo(self, size: Sequence[int], pads: Pads, mode: str = "zeros") -> Halo:
        """The array with margins that show the other side."""
        modes = ["circular" if closed else mode for closed in self.closed]
        return charts.separable(size, pads, modes)

    def table(
        self, relation: Relation, size: Sequence[int], out: Sequence[int], cells: Any = None
    ) -> Table:
        """Who speaks where; one source each, and weights for resizes only."""
        return charts.table(self, relation, size, out, cells)

    def places(self, size: Sequence[int], chart: Any, rows: Any, columns: Any, mode: str) -> Halo:
        """Places of the array, on the other side too."""
        modes = ["circular" if closed else mode for closed in self.closed]
        return charts.unfolded(size, rows, columns, modes)

    def refuses(self, move: str, axes: Sequence[int]) -> str | None:
        """Roll and flip mean what they mean on the array; a closed axis has no border."""
        if move in ("roll", "flip") or not any(self.closed[axis] for axis in axes):
            return None
        if move == "scan":
            return f"an axis of {self} closes, no position on it is the first"
        return f"an axis of {self} closes, there is no border to pad or crop at"

    def positions(self, size: Sequence[int]) -> FloatTable:
        """(H W, 2): the pixels in the plane, cut open where the borders meet; right and up.

        Example:
            >>> Torus().positions((2, 2)).tolist()
            [[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [1.0, -1.0]]
        """
        row, column = np.divmod(np.arange(size[0] * size[1]), size[1])
        return np.stack([column, -row], axis=1).astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The settings, for a record."""
        return {"kind": "torus", "rows": self.rows, "columns": self.columns}
