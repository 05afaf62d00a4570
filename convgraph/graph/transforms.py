"""PyG transform: an image becomes a pixel graph while a data set is read."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from convgraph.door import described, door
from convgraph.errors import GraphError
from convgraph.geometry.kernel import KernelGeometry, Relation
from convgraph.graph.pixel_graph import PixelGraph


def _tensor(given: Any) -> Any:
    """An array of NumPy as a tensor; anything else as it is."""
    return torch.from_numpy(np.ascontiguousarray(given)) if isinstance(given, np.ndarray) else given


@final
class ToPixelGraph(BaseTransform):  # type: ignore[misc]  # PyG ships no types for it
    """Turn an image into `torch_geometric.data.Data` with typed pixel edges.

    Args:
        geometry: whose edges to add; None adds none. The default is the 3 x 3 neighbourhood with
            self-loops of a 2-D image.
        d: dimensions of the lattice.
        fields: names of a Data's other maps, (*size) or (K, *size) of any dtype: labels, ids,
            weights; arrays of NumPy too. They go to the same nodes, as (N,) or (N, K).

    Example:
        >>> import torch
        >>> data = ToPixelGraph()((torch.ones(3, 4, 4), 7))
        >>> data.num_nodes, data.num_edges, data.y
        (16, 100, 7)

    Source: https://pytorch-geometric.readthedocs.io/en/latest/modules/transforms.html
    """

    def __init__(
        self,
        geometry: Relation | str | None = "3x3",
        *,
        d: int = 2,
        fields: Sequence[str] = (),
    ) -> None:
        """Keep the geometry; "3x3" stands for one tap in each direction, padding 'same'."""
        if isinstance(geometry, str):
            if geometry != "3x3":
                raise GraphError(
                    f"ToPixelGraph: expected a geometry, None or '3x3', got {geometry!r}"
                )
            geometry = KernelGeometry(3, padding="same", d=d)
        self.geometry = geometry
        names = isinstance(fields, (tuple, list)) and all(isinstance(one, str) for one in fields)
        if not names:
            raise GraphError(
                f"ToPixelGraph: expected fields as names in a tuple, got {described(fields)}"
            )
        self.d = d
        self.fields = tuple(fields)

    @door
    def __call__(self, data: Any) -> Data:
        """Return what `forward` makes of a copy of an example."""
        made: Data = super().__call__(data)
        return made

    def forward(self, data: Any) -> Data:
        """Return Data with x, pos, image_size and typed edges.

        Args:
            data: an image (C, *size); a pair (image, label); a PixelGraph; or a Data that holds
                `image` and optionally a bool `mask` of the image's size, whose other attributes
                are kept.

        Raises:
            GraphError: none of these.
        """
        if isinstance(data, PixelGraph):
            return data.to_data(self.geometry)
        if isinstance(data, Tensor):
            return PixelGraph.from_image(data, d=self.d).to_data(self.geometry)
        if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], Tensor):
            return PixelGraph.from_image(data[0], d=self.d).to_data(self.geometry, y=data[1])
        image = _tensor(getattr(data, "image", None))
        if isinstance(data, Data) and isinstance(image, Tensor):
            graph = PixelGraph.from_image(image, getattr(data, "mask", None), d=self.d)
            made = graph.to_data(self.geometry)
            for key in data.keys():  # noqa: SIM118 - Data is no mapping
                if key not in ("image", "mask"):
                    made[key] = data[key]
            for key in self.fields:
                made[key] = self._on_nodes(graph, key, getattr(data, key, None))
            return made
        raise GraphError(
            "ToPixelGraph: expected an image tensor, an (image, label) pair, a PixelGraph or a "
            f"Data with an 'image', got {type(data).__name__}"
        )

    def _on_nodes(self, graph: PixelGraph, key: str, field: Any) -> Tensor:
        """A map as rows of the nodes."""
        field = _tensor(field)
        size = graph.sites.size or ()
        if (
            not isinstance(field, Tensor)
            or tuple(field.shape[-self.d :]) != size
            or (field.dim() not in (self.d, self.d + 1))
        ):
            got = tuple(field.shape) if isinstance(field, Tensor) else type(field).__name__
            raise GraphError(
                f"ToPixelGraph: expected field {key!r} of shape {size} or (K, *{size}), got {got}"
            )
        rows = field.reshape(-1, graph.sites.num_cells).t()[graph.sites.nodes.to(field.device)]
        return rows.squeeze(1) if field.dim() == self.d else rows

    def __repr__(self) -> str:
        """Show the geometry."""
        return f"ToPixelGraph({self.geometry})"
