"""Pixel shuffle and unshuffle as layers: r x r sites and r x r channels change places.

shuffle:    y[r q + t, c] = x[q, c r r + t]        t = (0, 0) .. (r - 1, r - 1)
unshuffle:  y[p, c r r + t] = x[r p + t, c]        0 where that pixel is absent
"""

from typing import Any, ClassVar, Self, final

import torch

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.errors import ConversionError
from convgraph.functional import rearrange
from convgraph.geometry.kernel import as_int
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn.loading import FromFile


@final
class GraphPixelShuffle(FromFile, torch.nn.Module):
    """torch.nn.PixelShuffle on a pixel graph: every node becomes r x r sites.

    Args:
        upscale_factor: r, sites per node along each axis.
        backend: forces one of `convgraph.backends.NAMES`; None leaves the choice to the cost model.

    Raises:
        GeometryError: upscale_factor is no integer of at least 1.
        BackendError: no backend has that name.

    Example:
        >>> layer = GraphPixelShuffle(2)
        >>> layer(PixelGraph.from_image(torch.ones(1, 8, 3, 3))).to_image().shape
        torch.Size([1, 2, 6, 6])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.PixelShuffle.html
    """

    takes_graph: ClassVar[bool] = True

    def __init__(self, upscale_factor: int, *, backend: str | None = None) -> None:
        """Keep the argument under torch's name."""
        super().__init__()
        who = f"{type(self).__name__}: upscale_factor"
        self.upscale_factor = as_int(who, upscale_factor, least=1)
        self.backend = backends.check_name(backend)

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return a graph with features (P, C) from features (N, C * r * r).

        Raises:
            ShapeError, GraphError, BackendError: as `convgraph.functional.graph_pixel_shuffle`
                says.
        """
        return rearrange.graph_pixel_shuffle(
            graph,
            self.upscale_factor,
            sites=sites,
            backend=self.backend,
            who=type(self).__name__,
        )

    def edges(self, graph: PixelGraph, sites: Any = None) -> Edges:
        """Return who talks to whom when this layer meets the graph."""
        return rearrange.shuffle_edges(
            graph, self.upscale_factor, sites=sites, who=type(self).__name__
        )

    def problem(self, graph: PixelGraph, sites: Any = None) -> Problem:
        """The static facts of this layer on a graph; read by `convgraph.explain`."""
        return rearrange.rearrange_problem("fold", graph.x, self.edges(graph, sites))

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch.nn.PixelShuffle.

        Raises:
            ConversionError: another type of module.
        """
        if not isinstance(dense, torch.nn.PixelShuffle):
            raise _not_a("PixelShuffle", cls, dense)
        return cls(dense.upscale_factor).train(dense.training)

    def to_dense(self) -> torch.nn.PixelShuffle:
        """Return the torch.nn.PixelShuffle with the same factor."""
        return torch.nn.PixelShuffle(self.upscale_factor).train(self.training)

    def extra_repr(self) -> str:
        """Show what torch.nn.PixelShuffle shows, and a forced backend."""
        return _shown("upscale_factor", self.upscale_factor, self.backend)


@final
class GraphPixelUnshuffle(FromFile, torch.nn.Module):
    """torch.nn.PixelUnshuffle on a pixel graph: r x r sites become one, absent pixels are 0.

    Args:
        downscale_factor: r, sites that become one along each axis.
        backend: forces one of `convgraph.backends.NAMES`; None leaves the choice to the cost model.

    Raises:
        GeometryError: downscale_factor is no integer of at least 1.
        BackendError: no backend has that name.

    Example:
        >>> layer = GraphPixelUnshuffle(2)
        >>> layer(PixelGraph.from_image(torch.ones(1, 2, 6, 6))).to_image().shape
        torch.Size([1, 8, 3, 3])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.PixelUnshuffle.html
    """

    takes_graph: ClassVar[bool] = True

    def __init__(self, downscale_factor: int, *, backend: str | None = None) -> None:
        """Keep the argument under torch's name."""
        super().__init__()
        who = f"{type(self).__name__}: downscale_factor"
        self.downscale_factor = as_int(who, downscale_factor, least=1)
        self.backend = backends.check_name(backend)

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return a graph with features (P, C * r * r) from features (N, C).

        Raises:
            GeometryError, GraphError, BackendError: as
                `convgraph.functional.graph_pixel_unshuffle` says.
        """
        return rearrange.graph_pixel_unshuffle(
            graph,
            self.downscale_factor,
            sites=sites,
            backend=self.backend,
            who=type(self).__name__,
        )

    def edges(self, graph: PixelGraph, sites: Any = None) -> Edges:
        """Return who talks to whom when this layer meets the graph."""
        return rearrange.unshuffle_edges(
            graph, self.downscale_factor, sites=sites, who=type(self).__name__
        )

    def problem(self, graph: PixelGraph, sites: Any = None) -> Problem:
        """The static facts of this layer on a graph; read by `convgraph.explain`."""
        return rearrange.rearrange_problem("unfold", graph.x, self.edges(graph, sites))

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch.nn.PixelUnshuffle.

        Raises:
            ConversionError: another type of module.
        """
        if not isinstance(dense, torch.nn.PixelUnshuffle):
            raise _not_a("PixelUnshuffle", cls, dense)
        return cls(dense.downscale_factor).train(dense.training)

    def to_dense(self) -> torch.nn.PixelUnshuffle:
        """Return the torch.nn.PixelUnshuffle with the same factor."""
        return torch.nn.PixelUnshuffle(self.downscale_factor).train(self.training)

    def extra_repr(self) -> str:
        """Show what torch.nn.PixelUnshuffle shows, and a forced backend."""
        return _shown("downscale_factor", self.downscale_factor, self.backend)


def _not_a(twin: str, layer: type, dense: torch.nn.Module) -> ConversionError:
    return ConversionError(
        f"{layer.__name__}.from_dense: expected a torch.nn.{twin}, got {type(dense).__name__}"
    )


def _shown(name: str, factor: int, backend: str | None) -> str:
    return f"{name}={factor}" + ("" if backend is None else f", backend={backend!r}")
