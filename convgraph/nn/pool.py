"""Pool layers: torch's arguments, the edges of a convolution, another aggregation.

    max   y[p] = max over edges (q, p, t) of x[q]         avg, Lp   sums over the same edges

An absent pixel sends no message; a maximum over no message is 0.
"""

from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.functional import pool as functional
from convgraph.geometry.kernel import KernelGeometry, Relation
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import twin
from convgraph.nn.loading import FromFile


class Pool(FromFile, torch.nn.Module):
    """What every pool layer shares: a geometry, its edges, a torch twin, no parameters.

    Attributes:
        d: dimensions of the lattice.
        arguments: names of torch's constructor arguments, in torch's order.
    """

    takes_graph: ClassVar[bool] = True
    d: ClassVar[int]
    arguments: ClassVar[tuple[str, ...]]

    def _keep(self, backend: str | None, **values: Any) -> None:
        """Keep torch's arguments under torch's names."""
        self.backend = backends.check_name(backend)
        for name, value in values.items():
            setattr(self, name, value)

    def relation(self, graph: PixelGraph) -> Relation:
        """Return the geometry whose edges the layer sends along."""
        raise NotImplementedError

    def edges(self, graph: PixelGraph, sites: Any = None) -> Edges:
        """Return who talks to whom when this layer meets the graph; see `convgraph.connect`."""
        return connect(self.relation(graph), graph, sites)

    def problem(self, graph: PixelGraph, sites: Any = None) -> Problem:
        """Return what the choice of a backend sees of this layer on a graph; see `cg.explain`."""
        return functional.pool_problem(graph, self.edges(graph, sites))

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of the torch pool whose name the class carries.

        Raises:
            ConversionError: another type of module.
        """
        twin.check_twin(cls, dense, twin.by_name(cls))
        made = cls(**{name: getattr(dense, name) for name in cls._of(dense)})
        return made.train(dense.training)

    def to_dense(self) -> torch.nn.Module:
        """Return the torch pool with the same arguments."""
        kind = twin.by_name(type(self))
        return kind(**{name: getattr(self, name) for name in self._of(self)}).train(self.training)

    @classmethod
    def _of(cls, layer: Any) -> list[str]:
        """Return the arguments that this layer has; avg_pool1d lacks divisor_override."""
        return [name for name in cls.arguments if hasattr(layer, name)]

    def __repr__(self) -> str:
        """Show what torch shows."""
        return f"Graph{self.to_dense()!r}"


class KernelPool(Pool):
    """A pool over a kernel's window."""

    kernel_size: Any
    stride: Any
    ceil_mode: bool

    def relation(self, graph: PixelGraph) -> KernelGeometry:
        """Return the window as a geometry; the stride defaults to the kernel size."""
        return self.geometry

    def _window(self, dilation: Any = 1) -> None:
        self.geometry = KernelGeometry(
            self.kernel_size,
            self.kernel_size if self.stride is None else self.stride,
            getattr(self, "padding", 0),
            dilation,
            ceil_mode=self.ceil_mode,
            d=self.d,
        )
        functional.check_pool(self.geometry, type(self).__name__)


class _MaxPool(KernelPool):
    arguments = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        backend: str | None = None,
    ) -> None:
        """See the class; arguments are torch's, in torch's order."""
        super().__init__()
        self._keep(
            backend,
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
            dilation=dilation,
            return_indices=return_indices,
            ceil_mode=ceil_mode,
        )
        self._window(dilation)

    def forward(
        self, graph: PixelGraph, *, sites: Any = None
    ) -> PixelGraph | tuple[PixelGraph, Tensor]:
        """Return the pooled graph and, with return_indices, (P, C) indices in the image plane."""
        who = type(self).__name__
        if not self.return_indices:
            return functional.max_pool_values(
                graph, self.geometry, sites=sites, backend=self.backend, who=who
            )
        return functional.graph_max_pool(
            graph, self.geometry, sites=sites, backend=self.backend, who=who
        )


class _AvgPool(KernelPool):
    count_include_pad: bool
    arguments = (
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
    )  # fmt: skip

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        """See the class; arguments are torch's, in torch's order."""
        super().__init__()
        self._keep(
            backend,
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )
        if self.d > 1:
            self.divisor_override = divisor_override
        elif divisor_override is not None:
            raise TypeError("GraphAvgPool1d: torch's AvgPool1d takes no divisor_override")
        self._window()

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return the pooled graph."""
        return functional.graph_avg_pool(
            graph,
            self.geometry,
            count_include_pad=self.count_include_pad,
            divisor_override=getattr(self, "divisor_override", None),
            sites=sites,
            backend=self.backend,
            who=type(self).__name__,
        )


class _LPPool(KernelPool):
    norm_type: float
    arguments = ("norm_type", "kernel_size", "stride", "ceil_mode")

    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
        *,
        backend: str | None = None,
    ) -> None:
        """See the class; arguments are torch's, in torch's order."""
        super().__init__()
        self._keep(
            backend,
            norm_type=norm_type,
            kernel_size=kernel_size,
            stride=stride,
            ceil_mode=ceil_mode,
        )
        self._window()

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return the pooled graph."""
        return functional.graph_lp_pool(
            graph,
            self.norm_type,
            self.geometry,
            sites=sites,
            backend=self.backend,
            who=type(self).__name__,
        )


@final
class GraphMaxPool1d(_MaxPool):
    """torch.nn.MaxPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphMaxPool1d(2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxPool1d.html
    """

    d = 1


@final
class GraphMaxPool2d(_MaxPool):
    """torch.nn.MaxPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphMaxPool2d(2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxPool2d.html
    """

    d = 2


@final
class GraphMaxPool3d(_MaxPool):
    """torch.nn.MaxPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphMaxPool3d(2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxPool3d.html
    """

    d = 3


@final
class GraphAvgPool1d(_AvgPool):
    """torch.nn.AvgPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphAvgPool1d(2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AvgPool1d.html
    """

    d = 1


@final
class GraphAvgPool2d(_AvgPool):
    """torch.nn.AvgPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphAvgPool2d(2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AvgPool2d.html
    """

    d = 2


@final
class GraphAvgPool3d(_AvgPool):
    """torch.nn.AvgPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphAvgPool3d(2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AvgPool3d.html
    """

    d = 3


@final
class GraphLPPool1d(_LPPool):
    """torch.nn.LPPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphLPPool1d(2, 2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LPPool1d.html
    """

    d = 1


@final
class GraphLPPool2d(_LPPool):
    """torch.nn.LPPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphLPPool2d(2, 2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LPPool2d.html
    """

    d = 2


@final
class GraphLPPool3d(_LPPool):
    """torch.nn.LPPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphLPPool3d(2, 2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LPPool3d.html
    """

    d = 3
