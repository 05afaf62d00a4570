"""Resize as a layer: torch.nn.Upsample on pixel graphs.

y[p] = sum over edges (q, p, t) of  w(p, t) x[q]
"""

from typing import Any, ClassVar, Self, final

import torch

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.errors import ConversionError
from convgraph.functional.resize import graph_resize, resize_edges, resize_problem
from convgraph.geometry.resize import check_arguments
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn.loading import FromFile


@final
class GraphUpsample(FromFile, torch.nn.Module):
    """torch.nn.Upsample on a pixel graph, up or down, as weighted edges; arguments as there.

    Args:
        size: output lattice (pixels), an int or one int an axis.
        scale_factor: output pixels per source pixel, a number or one an axis; exactly one of size
            and scale_factor is given.
        mode: "nearest", "nearest-exact", "linear", "bilinear", "trilinear" or "bicubic".
        align_corners: whether the corner pixels' centres coincide; None is False.
        recompute_scale_factor: whether the scale is taken from the rounded sizes.
        backend: forces one of `convgraph.backends.NAMES`; None leaves the choice to the cost model.

    Raises:
        GeometryError: an argument is out of range, missing, or of no meaning for the mode.
        UnsupportedError: mode "area".
        BackendError: no backend has that name.

    Example:
        >>> layer = GraphUpsample(scale_factor=2, mode="bilinear")
        >>> layer(PixelGraph.from_image(torch.ones(1, 3, 4, 4))).to_image().shape
        torch.Size([1, 3, 8, 8])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Upsample.html
    """

    takes_graph: ClassVar[bool] = True

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        """Keep the arguments under torch's names."""
        super().__init__()
        check_arguments(
            type(self).__name__, size, scale_factor, mode, align_corners, recompute_scale_factor
        )
        self.size = tuple(size) if isinstance(size, (tuple, list)) else size
        self.scale_factor: float | tuple[float, ...] | None = None
        if isinstance(scale_factor, (tuple, list)):
            self.scale_factor = tuple(float(factor) for factor in scale_factor)
        elif scale_factor is not None:
            self.scale_factor = float(scale_factor)
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor
        self.backend = backends.check_name(backend)

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Resize.

        Args:
            graph: features (N, C) on their sites.
            sites: names the output sites; see `convgraph.connect`.

        Returns:
            A graph with features (P, C) on the output sites.

        Raises:
            GeometryError, GraphError, BackendError: as `convgraph.functional.graph_resize` says.
        """
        return graph_resize(
            graph,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
            sites=sites,
            backend=self.backend,
            who=type(self).__name__,
        )

    def edges(self, graph: PixelGraph, sites: Any = None) -> Edges:
        """Return who talks to whom when this layer meets the graph, weights included."""
        return resize_edges(
            graph,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
            sites=sites,
            who=type(self).__name__,
        )

    def problem(self, graph: PixelGraph, sites: Any = None) -> Problem:
        """The static facts of this layer on a graph; read by `convgraph.explain`."""
        return resize_problem(graph.x, self.edges(graph, sites))

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch.nn.Upsample (or UpsamplingNearest2d, UpsamplingBilinear2d).

        Raises:
            ConversionError: another type of module.
        """
        if not isinstance(dense, torch.nn.Upsample):
            raise ConversionError(
                f"{cls.__name__}.from_dense: expected a torch.nn.Upsample, "
                f"got {type(dense).__name__}"
            )
        return cls(
            dense.size,
            dense.scale_factor,
            dense.mode,
            dense.align_corners,
            dense.recompute_scale_factor,
        ).train(dense.training)

    def to_dense(self) -> torch.nn.Upsample:
        """Return the torch.nn.Upsample with the same arguments."""
        return torch.nn.Upsample(
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
        ).train(self.training)

    def extra_repr(self) -> str:
        """Show what torch.nn.Upsample shows, and a forced backend."""
        given = (
            f"scale_factor={self.scale_factor!r}"
            if self.scale_factor is not None
            else f"size={self.size!r}"
        )
        forced = "" if self.backend is None else f", backend={self.backend!r}"
        return f"{given}, mode={self.mode!r}{forced}"
