"""Adaptive and global pools: the size is given, the windows follow; or one readout node an image.

    adaptive   windows floor(p S / S') .. ceil((p + 1) S / S'), see `convgraph.geometry.window`
    global     every node of an image talks to its one readout node

Averages are over the nodes that are there; over none they are 0, and so is a maximum.
"""

from typing import Any, ClassVar, final

import torch
from torch import Tensor

from convgraph import arguments
from convgraph.backends.gather import maxima
from convgraph.backends.rows import HALF
from convgraph.functional import norm
from convgraph.functional import pool as functional
from convgraph.geometry.window import WindowGeometry
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.nn.loading import FromFile
from convgraph.nn.pool import Pool


class _Adaptive(Pool):
    def _size(self, output_size: Any) -> None:
        asked = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * self.d
        self.output_size = output_size
        self.geometry = WindowGeometry(tuple(asked))

    def relation(self, graph: PixelGraph) -> WindowGeometry:
        """Return the windows as a geometry."""
        return self.geometry


class _AdaptiveMaxPool(_Adaptive):
    arguments = ("output_size", "return_indices")

    def __init__(
        self, output_size: Any, return_indices: bool = False, *, backend: str | None = None
    ) -> None:
        """See the class; arguments are torch's, in torch's order."""
        super().__init__()
        self._keep(backend, return_indices=return_indices)
        self._size(output_size)

    def forward(
        self, graph: PixelGraph, *, sites: Any = None
    ) -> PixelGraph | tuple[PixelGraph, Tensor]:
        """Return the pooled graph and, with return_indices, (P, C) indices in the image plane."""
        who = type(self).__name__
        named: dict[str, Any] = {"sites": sites, "backend": self.backend, "who": who}
        if self.return_indices:
            return functional.graph_max_pool(graph, self.geometry, **named)
        return functional.max_pool_values(graph, self.geometry, **named)


class _AdaptiveAvgPool(_Adaptive):
    arguments = ("output_size",)

    def __init__(self, output_size: Any, *, backend: str | None = None) -> None:
        """See the class; arguments are torch's, in torch's order."""
        super().__init__()
        self._keep(backend)
        self._size(output_size)

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return the pooled graph."""
        return functional.graph_avg_pool(
            graph, self.geometry, sites=sites, backend=self.backend, who=type(self).__name__
        )


@final
class GraphAdaptiveMaxPool1d(_AdaptiveMaxPool):
    """torch.nn.AdaptiveMaxPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphAdaptiveMaxPool1d(2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool1d.html
    """

    d = 1


@final
class GraphAdaptiveMaxPool2d(_AdaptiveMaxPool):
    """torch.nn.AdaptiveMaxPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphAdaptiveMaxPool2d(2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool2d.html
    """

    d = 2


@final
class GraphAdaptiveMaxPool3d(_AdaptiveMaxPool):
    """torch.nn.AdaptiveMaxPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphAdaptiveMaxPool3d(2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool3d.html
    """

    d = 3


@final
class GraphAdaptiveAvgPool1d(_AdaptiveAvgPool):
    """torch.nn.AdaptiveAvgPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphAdaptiveAvgPool1d(2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool1d.html
    """

    d = 1


@final
class GraphAdaptiveAvgPool2d(_AdaptiveAvgPool):
    """torch.nn.AdaptiveAvgPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphAdaptiveAvgPool2d(2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html
    """

    d = 2


@final
class GraphAdaptiveAvgPool3d(_AdaptiveAvgPool):
    """torch.nn.AdaptiveAvgPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphAdaptiveAvgPool3d(2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool3d.html
    """

    d = 3


class _Global(FromFile, torch.nn.Module):
    """What global pools share: one readout node an image; twins are adaptive pools to size 1."""

    takes_graph: ClassVar[bool] = True

    def __init__(self, *, d: int = 2) -> None:
        """Keep the dimension, which only `to_dense` needs."""
        super().__init__()
        self.d = d

    def _readout(self, graph: PixelGraph, x: Tensor) -> PixelGraph:
        """Put one row an image on a lattice of one pixel; a map of one pixel has no mask."""
        return PixelGraph(x, graph.sites.readout())

    def _wide(self, x: Tensor) -> Tensor:
        return x.float() if x.dtype in HALF else x


@final
class GraphGlobalAvgPool(_Global):
    """The mean over the nodes of each image; x of the result is (B, C).

    Args:
        d: dimensions, for `to_dense`, which gives torch.nn.AdaptiveAvgPool{d}d(1).

    Example:
        >>> graph = PixelGraph.from_image(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))
        >>> GraphGlobalAvgPool()(graph).x
        tensor([[3.]])

    Source: M. Lin et al., "Network In Network", https://arxiv.org/abs/1312.4400
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return one node an image."""
        check_graph(graph, "GraphGlobalAvgPool")
        arguments.added("GraphGlobalAvgPool", graph.dtype, whole=False)
        if graph.sites.is_full and graph.sites.size is not None and graph.x.numel():
            whole = WindowGeometry((1,) * graph.sites.d)
            return functional.graph_avg_pool(graph, whole, backend="dense")
        mean = norm.image_mean(self._wide(graph.x), graph.sites)
        return self._readout(graph, mean.to(graph.dtype))

    def to_dense(self) -> torch.nn.Module:
        """Return torch.nn.AdaptiveAvgPool{d}d(1)."""
        made: torch.nn.Module = getattr(torch.nn, f"AdaptiveAvgPool{self.d}d")(1)
        return made


@final
class GraphGlobalMaxPool(_Global):
    """The maximum over the nodes of each image; x of the result is (B, C), 0 for no node.

    Args:
        d: dimensions, for `to_dense`, which gives torch.nn.AdaptiveMaxPool{d}d(1).

    Example:
        >>> graph = PixelGraph.from_image(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))
        >>> GraphGlobalMaxPool()(graph).x
        tensor([[6.]])
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return one node an image."""
        check_graph(graph, "GraphGlobalMaxPool")
        chosen = maxima.by_image(graph.x, graph.sites.batch, graph.batch_size)
        return self._readout(graph, maxima.values_at(graph.x, chosen))

    def to_dense(self) -> torch.nn.Module:
        """Return torch.nn.AdaptiveMaxPool{d}d(1)."""
        made: torch.nn.Module = getattr(torch.nn, f"AdaptiveMaxPool{self.d}d")(1)
        return made


@final
class GraphGlobalSumPool(_Global):
    """The sum over the nodes of each image; x of the result is (B, C), of integers in int64.

    Example:
        >>> graph = PixelGraph.from_image(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))
        >>> GraphGlobalSumPool()(graph).x
        tensor([[12.]])
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return one node an image."""
        check_graph(graph, "GraphGlobalSumPool")
        if not graph.dtype.is_floating_point and not graph.dtype.is_complex:
            return self._readout(graph, norm.image_sum(graph.x.long(), graph.sites))
        total = norm.image_sum(self._wide(graph.x), graph.sites)
        return self._readout(graph, total.to(graph.dtype))
