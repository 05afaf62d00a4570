"""Max unpooling: every maximum goes back to the pixel it came from, everything else is 0.

y[indices[p, c], c] = x[p, c]
"""

from typing import Any, final

import torch
from torch import Tensor

from convgraph import arguments
from convgraph.door import described
from convgraph.errors import DtypeError, GeometryError, GraphError, ShapeError
from convgraph.functional.pool import unpooled
from convgraph.geometry.kernel import KernelGeometry, as_int
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.nn.pool import Pool


class _MaxUnpool(Pool):
    arguments = ("kernel_size", "stride", "padding")

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, *, backend: str | None = None
    ) -> None:
        """See the class; arguments are torch's, in torch's order."""
        super().__init__()
        self._keep(
            backend,
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
        )
        self.geometry = KernelGeometry(kernel_size, self.stride, padding, transposed=True, d=self.d)

    def relation(self, graph: PixelGraph, output_size: Any = None) -> KernelGeometry:
        """Return the reversed window that reaches `output_size` (pixels; None: torch's own)."""
        g = self.geometry
        size = graph.sites.size
        if output_size is None:
            return g
        if size is None:
            raise GraphError(
                f"{type(self).__name__}: output_size= is one size, the images have several; "
                "name the sites with sites="
            )
        if not isinstance(output_size, (tuple, list)) or len(output_size) < g.d:
            raise GeometryError(
                f"{type(self).__name__}: expected output_size of {g.d} ints, "
                f"got {described(output_size)}"
            )
        who = f"{type(self).__name__}: output_size"
        asked = tuple(as_int(who, n, least=1) for n in output_size[-g.d :])
        normal = g.output_size(size)
        pads, extra = [], []
        for (before, after), step, n, want in zip(g.padding, g.stride, normal, asked, strict=True):
            if not n - step < want < n + step:
                raise GeometryError(
                    f"{type(self).__name__}: expected output_size within {step - 1} pixels of "
                    f"{normal}, got {asked}"
                )
            pads.append((before, after + max(n - want, 0)))
            extra.append(max(want - n, 0))
        return KernelGeometry(
            g.kernel_size, g.stride, tuple(pads), transposed=True, output_padding=tuple(extra)
        )

    def edges(self, graph: PixelGraph, sites: Any = None, output_size: Any = None) -> Edges:
        """Return the edges along which values could go back; each value takes one of them."""
        return connect(self.relation(graph, output_size), graph, sites)

    def forward(
        self,
        graph: PixelGraph,
        indices: Tensor,
        output_size: Any = None,
        *,
        sites: Any = None,
    ) -> PixelGraph:
        """Send every value back.

        Args:
            graph: pooled features (P, C).
            indices: (P, C) int64 as the max pool returned them; -1 is sent nowhere.
            output_size: size of the images (pixels); None takes torch's default.
            sites: names the output sites, e.g. the graph that was pooled.

        Returns:
            A graph with 0 where nothing came back. Where two values meet, one of them stays.

        Raises:
            ShapeError: indices have another shape than the features, or lie outside the image.
            GeometryError: output_size is further than a stride from the default.
        """
        who = type(self).__name__
        check_graph(graph, who)
        arguments.tensor(who, "indices", indices, shape="(P, C), as the max pool returned them")
        if indices.dtype not in (torch.int64, torch.int32):
            raise DtypeError(f"{who}: expected indices of int64, got {indices.dtype}")
        indices = indices.long()
        if indices.shape != graph.x.shape:
            raise ShapeError(
                f"{who}: expected indices of shape (P, C) = {tuple(graph.x.shape)}, "
                f"got {tuple(indices.shape)}"
            )
        target = self.edges(graph, sites, output_size).target
        ptr = target.cell_ptr
        pixels = ptr.diff()[graph.batch]
        if bool((indices >= pixels.unsqueeze(1)).any()):
            raise ShapeError(
                f"{who}: an index lies outside the output images of sizes {target.sizes[:3]}; "
                "pass the output_size of the images that were pooled"
            )
        return unpooled(graph, indices, target)


@final
class GraphMaxUnpool1d(_MaxUnpool):
    """torch.nn.MaxUnpool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> from convgraph.nn.pool import GraphMaxPool1d
        >>> graph = PixelGraph.from_image(torch.rand(1, 2, 4), d=1)
        >>> pooled, indices = GraphMaxPool1d(2, return_indices=True)(graph)
        >>> GraphMaxUnpool1d(2)(pooled, indices).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxUnpool1d.html
    """

    d = 1


@final
class GraphMaxUnpool2d(_MaxUnpool):
    """torch.nn.MaxUnpool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> from convgraph.nn.pool import GraphMaxPool2d
        >>> graph = PixelGraph.from_image(torch.rand(1, 2, 4, 4), d=2)
        >>> pooled, indices = GraphMaxPool2d(2, return_indices=True)(graph)
        >>> GraphMaxUnpool2d(2)(pooled, indices).num_nodes
        16

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxUnpool2d.html
    """

    d = 2


@final
class GraphMaxUnpool3d(_MaxUnpool):
    """torch.nn.MaxUnpool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> from convgraph.nn.pool import GraphMaxPool3d
        >>> graph = PixelGraph.from_image(torch.rand(1, 2, 4, 4, 4), d=3)
        >>> pooled, indices = GraphMaxPool3d(2, return_indices=True)(graph)
        >>> GraphMaxUnpool3d(2)(pooled, indices).num_nodes
        64

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxUnpool3d.html
    """

    d = 3
