"""Hexagonal pixels: a kernel of radius r reaches the hexagon of 3 r (r + 1) + 1 pixels.

In axial coordinates a hexagonal grid is a square one in which two of eight neighbours are absent:

    row - 1             x  x            a step along a row goes right, a step along a column down
    row              x  p  x            and to the right; tap (i, j), counted from the middle of a
    row + 1          x  x               kernel, is there where |i + j| <= r

so one rule serves all radii and strides, where arrays with shifted columns need one table for even
columns and one for odd ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from convgraph.door import door
from convgraph.errors import GeometryError, GraphError
from convgraph.geometry.footprint import hexagon
from convgraph.geometry.kernel import KernelGeometry, Relation
from convgraph.geometry.loaded import revive
from convgraph.geometry.space import FloatTable, Halo, Pads, Table
from convgraph.graph import images
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.spaces import charts, hexagonal_layout, readers


@final
@dataclass(frozen=True)
class Hexagonal:
    """A hexagonal grid in axial coordinates; kernels of odd, equal sides become hexagons.

    Weights keep the layout of a square kernel: (C_out, C_in, 2 r + 1, 2 r + 1), of which the
    corners that a hexagon has not are never read and get a gradient of 0. Other kernels (2 x 2
    windows, 1 x 5) keep all their taps.

    Args:
        layout: how images come, see `from_image`: "axial" as they are; "odd-q" and "even-q" with
            odd or even columns shifted down, "odd-r" and "even-r" with rows shifted right.

    Raises:
        GeometryError: another layout.

    Example:
        >>> import torch, convgraph as cg
        >>> graph = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4), on=cg.Hexagonal())
        >>> box = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = torch.nn.init.ones_(box.weight)
        >>> cg.nn.GraphConv2d.from_dense(box)(graph).to_image()[0, 0, 1].tolist()
        [5.0, 7.0, 7.0, 5.0]

    Source: https://www.redblobgames.com/grids/hexagons/
    """

    layout: str = "axial"

    def __setstate__(self, state: Any) -> None:
        """Take pickled fields, checked anew."""
        revive(self, state)

    def __post_init__(self) -> None:
        """Refuse other layouts."""
        if self.layout not in hexagonal_layout.LAYOUTS:
            raise GeometryError(
                f"Hexagonal: expected layout in {hexagonal_layout.LAYOUTS}, got {self.layout!r}"
            )

    @property
    def closed(self) -> tuple[bool, ...]:
        """A hexagonal grid has borders."""
        return (False, False)

    @property
    def flat(self) -> bool:
        """True: in axial coordinates taps land where they do in the plane."""
        return True

    def charts(self, size: Sequence[int]) -> tuple[int, int, int]:
        """One chart, the whole array."""
        if len(size) != 2:
            raise GraphError(f"{self}: expected arrays of 2 axes (rows, columns), got {size}")
        return (1, size[0], size[1])

    def seen(self, relation: Relation) -> Relation:
        """A square kernel of odd side as the hexagon within it."""
        if not isinstance(relation, KernelGeometry) or relation.footprint is not None:
            return relation
        sides = set(relation.kernel_size)
        if len(sides) != 1 or not min(sides) % 2 or sides == {1}:
            return relation
        if relation.folds:
            raise GeometryError(
                f"{self}: padding_mode={relation.padding_mode!r} would fold rows onto others that "
                "are no mirror images in axial coordinates; use padding_mode='zeros'"
            )
        return replace(relation, footprint=hexagon(relation.kernel_size))

    def along(self, relation: Relation) -> bool:
        """False: there is no halo, the edges are the plane's."""
        return False

    def check(self, relation: Relation, size: Sequence[int], out: Sequence[int]) -> None:
        """Refuse what reads between pixels by a rule of square ones."""
        if not isinstance(relation, KernelGeometry) and tuple(size) != tuple(out):
            mode = getattr(relation, "mode", "nearest")
            if mode != "nearest":
                raise GeometryError(
                    f"{self}: {type(relation).__name__} {mode!r} interpolates between square "
                    "pixels; use mode='nearest', or a transposed convolution"
                )

    def halo(self, size: Sequence[int], pads: Pads, mode: str = "zeros") -> Halo | None:
        """None: the edges are the plane's."""
        return None

    def table(
        self, relation: Relation, size: Sequence[int], out: Sequence[int], cells: Any = None
    ) -> Table | None:
        """None: the edges are the plane's."""
        return None

    def places(self, size: Sequence[int], chart: Any, rows: Any, columns: Any, mode: str) -> Halo:
        """Places of the array, in axial coordinates; beyond its borders is nothing."""
        return charts.unfolded(size, rows, columns, (mode, mode))

    def refuses(self, move: str, axes: Sequence[int]) -> str | None:
        """Mirrored along one axial coordinate alone, neighbours are none any more."""
        if move == "fold":
            return f"{self}: rows beyond the border are no mirror images in axial coordinates"
        if move == "flip" and len(set(axes)) == 1:
            return f"{self}: a hexagonal grid mirrored along one axial axis is another grid"
        return None

    @door
    def from_image(
        self,
        image: Tensor,  # (B, C, H, W) or (C, H, W)
        mask: Tensor | None = None,  # (B, H, W) or (H, W)
        align: int = 1,
    ) -> PixelGraph:
        """Return the graph of an array in this layout; its lattice is axial.

        Args:
            image: pixels in the layout, floating.
            mask: bool (a tensor, or an array of NumPy), True where a pixel is.
            align: product of the strides to come, so that sites of strided layers are every
                `align`-th pixel counted from the array's first one.

        Raises:
            GraphError: another number of axes, no pixels, or a mask of another size.

        Example:
            >>> import torch, convgraph as cg
            >>> hexagons = cg.Hexagonal(layout="odd-q")
            >>> image = torch.arange(12.0).view(1, 1, 3, 4)
            >>> graph = hexagons.from_image(image)
            >>> graph.num_nodes, bool((hexagons.to_image(graph, (3, 4)) == image).all())
            (12, True)
        """
        if not isinstance(image, Tensor) or image.dim() not in (3, 4):
            raise GraphError(f"{self}: expected an image (B, C, H, W) or (C, H, W)")
        size, cells = hexagonal_layout.axial(self.layout, tuple(image.shape[-2:]), align)
        flat = None
        if mask is not None:
            there = images.as_mask(mask, image.device)
            if there.shape[-2:] != image.shape[-2:]:
                raise GraphError(
                    f"{self}: expected a mask (B, H, W) or (H, W) of the image's "
                    f"{tuple(image.shape[-2:])} pixels, got {tuple(there.shape)}"
                )
            flat = there.flatten(-2)
        return readers.placed(image.flatten(-2), flat, size, cells, self)

    @door
    def to_image(
        self, graph: PixelGraph, size: Sequence[int], fill: float = 0.0, align: int = 1
    ) -> Tensor:
        """Return a graph's features as an array (B, C, H, W) in this layout; see `from_image`.

        Args:
            graph: of an array of that size.
            size: H and W.
            fill: value of pixels that are no nodes.
            align: as in `from_image`.

        Raises:
            GraphError: the graph lies in another space, or its images have another size.
        """
        lattice, cells = hexagonal_layout.axial(self.layout, tuple(size), align)
        found = readers.read_cells(graph, lattice, cells, fill, self)
        image: Tensor = found.unflatten(-1, tuple(size))
        return image

    @door
    def from_camera(
        self,
        charges: Tensor,  # (B, C, P) or (C, P)
        pix_x: Any,  # (P,)
        pix_y: Any,  # (P,)
        pix_rotation: float = 0.0,
        mask: Tensor | None = None,  # (B, P) or (P,)
    ) -> PixelGraph:
        """Return the graph of a camera's pixels, placed by their centres.

        Args:
            charges: one number a pixel and channel, in the camera's own order of pixels.
            pix_x: centres to the right, any unit, as in `ctapipe.instrument.CameraGeometry`.
            pix_y: centres upwards, the same unit.
            pix_rotation: degrees by which the camera is turned; pixels are turned back by it, so
                that kernels of differently mounted cameras look the same way.
            mask: bool (a tensor, or an array of NumPy), False for broken pixels.

        Raises:
            GraphError: the centres are no hexagonal grid, or their number is another.

        Example:
            >>> import torch, convgraph as cg
            >>> graph = cg.Hexagonal().from_camera(torch.ones(1, 3), [0, 1, 0.5], [0, 0, -0.866])
            >>> cg.connect(cg.KernelGeometry(3, padding=1), graph).num_edges
            9
        """
        size, cells = hexagonal_layout.camera(pix_x, pix_y, pix_rotation)
        return readers.placed(charges, mask, size, cells, self)

    @door
    def to_camera(
        self, graph: PixelGraph, pix_x: Any, pix_y: Any, pix_rotation: float = 0.0,
        fill: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Return a graph's features (B, C, P) in the order of a camera; see `from_camera`.

        Args:
            graph: of that camera's pixels, or of as many places.
            pix_x: centres to the right, (P,), as in `from_camera`.
            pix_y: centres upwards.
            pix_rotation: degrees, as in `from_camera`.
            fill: value of pixels that are no nodes.

        Raises:
            GraphError: the centres are no hexagonal grid, or the graph lies on another lattice.

        Example:
            >>> import torch, convgraph as cg
            >>> x, y, space = [0, 1, 0.5], [0, 0, -0.866], cg.Hexagonal()
            >>> space.to_camera(space.from_camera(torch.tensor([[5.0, 6, 7]]), x, y), x, y)
            tensor([[5., 6., 7.]])
        """
        size, cells = hexagonal_layout.camera(pix_x, pix_y, pix_rotation)
        return readers.read_cells(graph, size, cells, fill, self)

    def positions(self, size: Sequence[int]) -> FloatTable:
        """(P, 2): right and up, neighbours at distance 1."""
        return hexagonal_layout.positions(self.layout, size)

    def to_dict(self) -> dict[str, Any]:
        """The settings, for a record."""
        return {"kind": "hexagonal"}
