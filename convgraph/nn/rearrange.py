"""Unfold and fold as layers: what a window sees moves between sites and channels.

unfold:  y[p, c K + t] = x[q(p, t), c]        0 where there is no edge
fold:    y[p, c] = sum over edges (q, p, t) of  x[q, c K + t]
"""

from math import prod
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.errors import ConversionError, ShapeError
from convgraph.functional import rearrange
from convgraph.geometry.kernel import KernelGeometry, as_int
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn.loading import FromFile


@final
class GraphUnfold(FromFile, torch.nn.Module):
    """torch.nn.Unfold on a pixel graph: a site holds everything its window sees.

    The L columns of torch become the sites of a new lattice, with C * K channels in torch's order
    (channel c of tap t in column c * K + t); absent taps are 0. `to_columns` gives torch's form.

    Args:
        kernel_size: taps along each axis.
        dilation: pixels between neighbouring taps.
        padding: pixels before and after each axis.
        stride: pixels between neighbouring windows.
        backend: forces one of `convgraph.backends.NAMES`; None leaves the choice to the cost model.

    Raises:
        GeometryError: an argument is no integer or out of range.
        BackendError: no backend has that name.

    Example:
        >>> image = torch.rand(2, 3, 4, 5)
        >>> layer = GraphUnfold(3, padding=1)
        >>> windows = layer(PixelGraph.from_image(image))
        >>> windows.x.shape
        torch.Size([40, 27])
        >>> torch.equal(layer.to_columns(windows), torch.nn.Unfold(3, padding=1)(image))
        True

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Unfold.html
    """

    takes_graph: ClassVar[bool] = True

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        dilation: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        stride: int | tuple[int, ...] = 1,
        *,
        backend: str | None = None,
    ) -> None:
        """Keep the arguments under torch's names."""
        super().__init__()
        _check_kernel(kernel_size, dilation, padding, stride)
        self.kernel_size = _plain(kernel_size)
        self.dilation = _plain(dilation)
        self.padding = _plain(padding)
        self.stride = _plain(stride)
        self.backend = backends.check_name(backend)

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return a graph with features (P, C * K), one site a window.

        Args:
            graph: features (N, C) on their sites.
            sites: names the output sites; see `convgraph.connect`.

        Raises:
            GeometryError, GraphError, BackendError: as `convgraph.functional.graph_unfold` says.
        """
        return rearrange.graph_unfold(
            graph, **self._arguments(), sites=sites, backend=self.backend, who=type(self).__name__
        )

    def edges(self, graph: PixelGraph, sites: Any = None) -> Edges:
        """Return who talks to whom when this layer meets the graph."""
        return rearrange.unfold_edges(
            graph, **self._arguments(), sites=sites, who=type(self).__name__
        )

    def problem(self, graph: PixelGraph, sites: Any = None) -> Problem:
        """The static facts of this layer on a graph; read by `convgraph.explain`."""
        return rearrange.rearrange_problem("unfold", graph.x, self.edges(graph, sites))

    @staticmethod
    def to_columns(windows: PixelGraph) -> Tensor:
        """Return the output as torch.nn.Unfold gives it.

        Args:
            windows: what this layer returned.

        Returns:
            (B, C * K, L), or (C * K, L) for an unbatched image; L counts the output lattice in
            raster order, and windows that are no sites are 0.

        Raises:
            GraphError: the images have different sizes.
        """
        return windows.to_image().flatten(-windows.sites.d)

    def _arguments(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
            "padding": self.padding,
            "stride": self.stride,
        }

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch.nn.Unfold.

        Raises:
            ConversionError: another type of module.
        """
        if not isinstance(dense, torch.nn.Unfold):
            raise _not_a("Unfold", cls, dense)
        made = cls(dense.kernel_size, dense.dilation, dense.padding, dense.stride)
        return made.train(dense.training)

    def to_dense(self) -> torch.nn.Unfold:
        """Return the torch.nn.Unfold with the same arguments."""
        return torch.nn.Unfold(**self._arguments()).train(self.training)

    def extra_repr(self) -> str:
        """Show what torch.nn.Unfold shows, and a forced backend."""
        return _shown(self._arguments(), self.backend)


@final
class GraphFold(FromFile, torch.nn.Module):
    """torch.nn.Fold on a pixel graph: windows are added up where they came from.

    Args:
        output_size: lattice to add on (pixels), an int or one int an axis.
        kernel_size: taps along each axis.
        dilation: pixels between neighbouring taps.
        padding: pixels before and after each axis.
        stride: pixels between neighbouring windows.
        backend: forces one of `convgraph.backends.NAMES`; None leaves the choice to the cost model.

    Raises:
        GeometryError: an argument is no integer or out of range.
        BackendError: no backend has that name.

    Example:
        >>> windows = torch.rand(1, 3 * 4, 9)
        >>> layer = GraphFold((4, 4), 2)
        >>> image = layer(layer.from_columns(windows)).to_image()
        >>> torch.equal(image, torch.nn.Fold((4, 4), 2)(windows))
        True

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Fold.html
    """

    takes_graph: ClassVar[bool] = True

    def __init__(
        self,
        output_size: int | tuple[int, ...],
        kernel_size: int | tuple[int, ...],
        dilation: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        stride: int | tuple[int, ...] = 1,
        *,
        backend: str | None = None,
    ) -> None:
        """Keep the arguments under torch's names."""
        super().__init__()
        _check_kernel(kernel_size, dilation, padding, stride)
        for n in output_size if isinstance(output_size, (tuple, list)) else (output_size,):
            as_int(f"{type(self).__name__}: output_size", n, least=1)
        self.output_size = _plain(output_size)
        self.kernel_size = _plain(kernel_size)
        self.dilation = _plain(dilation)
        self.padding = _plain(padding)
        self.stride = _plain(stride)
        self.backend = backends.check_name(backend)

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return a graph with features (P, C) on the sites of the output lattice.

        Args:
            graph: features (N, C * K), one site a window.
            sites: names the output sites; see `convgraph.connect`.

        Raises:
            ShapeError, GeometryError, GraphError, BackendError: as
                `convgraph.functional.graph_fold` says.
        """
        return rearrange.graph_fold(
            graph, **self._arguments(), sites=sites, backend=self.backend, who=type(self).__name__
        )

    def edges(self, graph: PixelGraph, sites: Any = None) -> Edges:
        """Return who talks to whom when this layer meets the graph."""
        return rearrange.fold_edges(
            graph, **self._arguments(), sites=sites, who=type(self).__name__
        )

    def problem(self, graph: PixelGraph, sites: Any = None) -> Problem:
        """The static facts of this layer on a graph; read by `convgraph.explain`."""
        return rearrange.rearrange_problem("fold", graph.x, self.edges(graph, sites))

    def from_columns(self, columns: Tensor, *, d: int = 2) -> PixelGraph:
        """Return the graph of what torch.nn.Fold takes.

        Args:
            columns: (B, C * K, L) or (C * K, L), one column a window, in raster order.
            d: dimensions of the lattice, where no argument of the layer tells.

        Raises:
            ShapeError: L is not the number of windows on `output_size`.
        """
        size = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * d
        kernel = KernelGeometry(
            self.kernel_size, self.stride, self.padding, self.dilation, d=len(size)
        )
        windows = kernel.output_size(size)
        if columns.dim() not in (2, 3) or columns.shape[-1] != prod(windows):
            raise ShapeError(
                f"{type(self).__name__}.from_columns: expected columns of shape (B, C * K, L) "
                f"with L = {prod(windows)} windows, got {tuple(columns.shape)}"
            )
        return PixelGraph.from_image(columns.unflatten(-1, windows), d=len(size))

    def _arguments(self) -> dict[str, Any]:
        return {
            "output_size": self.output_size,
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
            "padding": self.padding,
            "stride": self.stride,
        }

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch.nn.Fold.

        Raises:
            ConversionError: another type of module.
        """
        if not isinstance(dense, torch.nn.Fold):
            raise _not_a("Fold", cls, dense)
        made = cls(
            dense.output_size, dense.kernel_size, dense.dilation, dense.padding, dense.stride
        )
        return made.train(dense.training)

    def to_dense(self) -> torch.nn.Fold:
        """Return the torch.nn.Fold with the same arguments."""
        return torch.nn.Fold(**self._arguments()).train(self.training)

    def extra_repr(self) -> str:
        """Show what torch.nn.Fold shows, and a forced backend."""
        return _shown(self._arguments(), self.backend)


def _plain(value: Any) -> Any:
    """Lists become tuples, so that what a layer keeps can be looked up."""
    return tuple(value) if isinstance(value, list) else value


def _check_kernel(kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> None:
    """Refuse numbers that no kernel means; the dimension may still be open."""
    KernelGeometry(kernel_size, stride, padding, dilation)


def _not_a(twin: str, layer: type, dense: torch.nn.Module) -> ConversionError:
    return ConversionError(
        f"{layer.__name__}.from_dense: expected a torch.nn.{twin}, got {type(dense).__name__}"
    )


def _shown(arguments: dict[str, Any], backend: str | None) -> str:
    shown = arguments if backend is None else {**arguments, "backend": backend}
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())
