"""Unfold, fold and pixel shuffle: features move between sites and channels, along typed edges.

    unfold:  y[p, c K + t] = x[q(p, t), c]        0 where there is no edge
    fold:    y[p, c] = sum over edges (q, p, t) of  x[q, c K + t]

A pixel unshuffle is the unfold whose r x r windows tile the lattice, a pixel shuffle the fold of
the same windows.
"""

from types import ModuleType
from typing import Any

from torch import Tensor

from convgraph import arguments, backends
from convgraph.backends.dense import unfold as dense_unfold
from convgraph.backends.gather import unfold as gather_unfold
from convgraph.backends.messages import unfold as messages_unfold
from convgraph.backends.problem import Problem
from convgraph.backends.rows import HALF
from convgraph.door import door
from convgraph.errors import GeometryError, GraphError, ShapeError, UnsupportedError
from convgraph.geometry.kernel import KernelGeometry, as_int
from convgraph.graph.edges import Edges, connect, kept_relation
from convgraph.graph.pixel_graph import PixelGraph, check_graph

_RUN: dict[str, ModuleType] = {
    "dense": dense_unfold,
    "gather": gather_unfold,
    "messages": messages_unfold,
}


@door
def graph_unfold(
    graph: PixelGraph,
    kernel_size: int | tuple[int, ...],
    dilation: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    stride: int | tuple[int, ...] = 1,
    *,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_unfold",
) -> PixelGraph:
    """Put everything a window sees side by side, as `torch.nn.functional.unfold` does.

    Args:
        graph: features (N, C) on their sites, d = 1 to 3 (torch knows 2).
        kernel_size: taps along each axis; K is their product.
        dilation: pixels between neighbouring taps.
        padding: pixels before and after each axis.
        stride: pixels between neighbouring windows.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one of `convgraph.backends.NAMES`.
        who: the caller's name, for error texts.

    Returns:
        A graph with features (P, C * K), one site a window, channel c of tap t in column
        c * K + t, 0 where no message arrives through tap t. On a full grid torch's (B, C * K, L) is
        `to_image().flatten(2)`: its L columns are the output sites in raster order.

    Raises:
        GeometryError: a number is out of range, or the kernel does not fit the lattice.
        GraphError: no PixelGraph, or `sites` of another size.
        BackendError: a forced backend cannot serve.

    Example:
        >>> import torch
        >>> graph = PixelGraph.from_image(torch.tensor([[1.0, 2.0, 3.0]]), d=1)
        >>> graph_unfold(graph, 2).x.tolist()
        [[1.0, 2.0], [2.0, 3.0]]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.unfold.html
    """
    edges = unfold_edges(graph, kernel_size, dilation, padding, stride, sites=sites, who=who)
    return PixelGraph(rearrange("unfold", graph.x, edges, backend, adds=True), edges.target)


def unfold_edges(
    graph: PixelGraph,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
    *,
    sites: Any = None,
    who: str = "unfold_edges",
) -> Edges:
    """Return who talks to whom in an unfold; arguments as in `graph_unfold`."""
    _dimensions(graph, who)
    geometry = _kept(graph, kernel_size, stride, padding, dilation)
    return connect(geometry, graph.sites, sites)


@door
def graph_fold(
    graph: PixelGraph,
    output_size: int | tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    dilation: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    stride: int | tuple[int, ...] = 1,
    *,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_fold",
) -> PixelGraph:
    """Add the windows up where they came from, as `torch.nn.functional.fold` does.

    Args:
        graph: features (N, C * K) on the sites of the windows, as `graph_unfold` gives them.
        output_size: lattice to add on (pixels), an int or one int an axis.
        kernel_size: taps along each axis; K is their product.
        dilation: pixels between neighbouring taps.
        padding: pixels before and after each axis.
        stride: pixels between neighbouring windows.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one of `convgraph.backends.NAMES`.
        who: the caller's name, for error texts.

    Returns:
        A graph with features (P, C) on the sites of the output lattice.

    Raises:
        ShapeError: K does not divide the channels.
        DtypeError: features are bools or integers but int64.
        GeometryError: a number is out of range, or windows and graph have different lattices.
        GraphError: no PixelGraph, or `sites` of another size.
        BackendError: a forced backend cannot serve.

    Example:
        >>> import torch
        >>> windows = PixelGraph.from_image(torch.tensor([[1.0, 2.0], [2.0, 3.0]]), d=1)
        >>> graph_fold(windows, 3, 2).x.flatten().tolist()
        [1.0, 4.0, 3.0]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.fold.html
    """
    edges = fold_edges(
        graph, output_size, kernel_size, dilation, padding, stride, sites=sites, who=who
    )
    check_columns(graph, edges.num_taps, who)
    arguments.added(who, graph.dtype, whole=True)
    return PixelGraph(rearrange("fold", graph.x, edges, backend, adds=True), edges.target)


def fold_edges(
    graph: PixelGraph,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
    *,
    sites: Any = None,
    who: str = "fold_edges",
) -> Edges:
    """Return who talks to whom in a fold: the edges of the unfold, reversed."""
    d = _dimensions(graph, who)
    forward = _kept(graph, kernel_size, stride, padding, dilation)
    size = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * d
    if len(size) != d:
        raise GeometryError(f"{who}: expected output_size of {d} ints, got {output_size!r}")
    size = tuple([as_int(f"{who}: output_size", n, least=1) for n in size])
    windows = forward.output_size(size)
    for found in set(graph.sites.sizes):
        if found != windows:
            raise GeometryError(
                f"{who}: windows of kernel_size={forward.kernel_size} on output_size={size} form "
                f"a lattice {windows}, got a graph of size {found}"
            )
    # A fold is transposed; what the last window does not reach is its output padding.
    rest = tuple(
        [
            (n + sum(pad) - dil * (k - 1) - 1) % s
            for n, k, s, dil, pad in zip(
                size, forward.kernel_size, forward.stride, forward.dilation, forward.padding,
                strict=True,
            )
        ]
    )  # fmt: skip
    geometry = _kept(graph, kernel_size, stride, padding, dilation, rest)
    return connect(geometry, graph.sites, sites)


@door
def graph_pixel_shuffle(
    graph: PixelGraph,
    upscale_factor: int,
    *,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_pixel_shuffle",
) -> PixelGraph:
    """Spread C * r * r channels over r x r sites, as `torch.nn.functional.pixel_shuffle` does.

    Args:
        graph: features (N, C * r * r) on their sites, d = 2.
        upscale_factor: r, sites per node along each axis.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one of `convgraph.backends.NAMES`.
        who: the caller's name, for error texts.

    Returns:
        A graph with features (P, C); every node becomes r x r sites.

    Raises:
        ShapeError: r * r does not divide the channels.
        GeometryError: upscale_factor is no integer of at least 1.
        GraphError: no PixelGraph of two dimensions, or `sites` of another size.
        BackendError: a forced backend cannot serve.

    Example:
        >>> import torch
        >>> graph = PixelGraph.from_image(torch.arange(4.0).view(4, 1, 1))
        >>> graph_pixel_shuffle(graph, 2).to_image().tolist()
        [[[0.0, 1.0], [2.0, 3.0]]]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.pixel_shuffle.html
    """
    edges = shuffle_edges(graph, upscale_factor, sites=sites, who=who)
    check_columns(graph, edges.num_taps, who)
    return PixelGraph(rearrange("fold", graph.x, edges, backend, adds=False), edges.target)


def shuffle_edges(
    graph: PixelGraph, upscale_factor: int, *, sites: Any = None, who: str = "shuffle_edges"
) -> Edges:
    """Return who talks to whom in a pixel shuffle: each node to its own r x r sites."""
    _dimensions(graph, who, only=2)
    r = as_int(f"{who}: upscale_factor", upscale_factor, least=1)
    return _whole(connect(_kept(graph, r, r, output_padding=0), graph.sites, sites), who)


@door
def graph_pixel_unshuffle(
    graph: PixelGraph,
    downscale_factor: int,
    *,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_pixel_unshuffle",
) -> PixelGraph:
    """Gather r x r sites into channels, as `torch.nn.functional.pixel_unshuffle` does.

    Args:
        graph: features (N, C) on their sites, d = 2, sizes divisible by r.
        downscale_factor: r, sites that become one along each axis.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one of `convgraph.backends.NAMES`.
        who: the caller's name, for error texts.

    Returns:
        A graph with features (P, C * r * r), 0 for absent pixels, on the sites some node reaches.

    Raises:
        GeometryError: downscale_factor is no integer of at least 1, or does not divide a size.
        GraphError: no PixelGraph of two dimensions, or `sites` of another size.
        BackendError: a forced backend cannot serve.

    Example:
        >>> import torch
        >>> graph = PixelGraph.from_image(torch.arange(4.0).view(1, 2, 2))
        >>> graph_pixel_unshuffle(graph, 2).x.tolist()
        [[0.0, 1.0, 2.0, 3.0]]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.pixel_unshuffle.html
    """
    edges = unshuffle_edges(graph, downscale_factor, sites=sites, who=who)
    return PixelGraph(rearrange("unfold", graph.x, edges, backend, adds=False), edges.target)


def unshuffle_edges(
    graph: PixelGraph, downscale_factor: int, *, sites: Any = None, who: str = "unshuffle_edges"
) -> Edges:
    """Return who talks to whom in a pixel unshuffle: each r x r block to its one site."""
    _dimensions(graph, who, only=2)
    r = as_int(f"{who}: downscale_factor", downscale_factor, least=1)
    for size in set(graph.sites.sizes):
        if any(n % r for n in size):
            raise GeometryError(
                f"{who}: downscale_factor={r} must divide every axis, got size {size}; "
                "crop or pad the image first"
            )
    return _whole(connect(_kept(graph, r, r), graph.sites, sites), who)


def _whole(edges: Edges, who: str) -> Edges:
    """Refuse windows that a space leaves taps out of: their channels would come from nowhere."""
    if edges.footprint is not None:
        raise UnsupportedError(
            f"{who}: on {edges.source.space} a window of {edges.relation.kernel_size} is no whole "  # type: ignore[attr-defined]
            "square; use an even factor"
        )
    return edges


def rearrange(
    op: str,
    x: Tensor,  # (N, C), to fold (N, C * K)
    edges: Edges,
    backend: str | None,
    *,
    adds: bool,
) -> Tensor:
    """Choose and run; (P, C * K) for op "unfold", (P, C) for "fold".

    Args:
        op: "unfold" or "fold".
        x: features.
        edges: a kernel's edges, whose taps name no node twice.
        backend: forces one backend.
        adds: whether several messages may meet, forward or backward; half types then do in fp32.
    """
    if edges.space is not None and (edges.edge_weight is not None or not edges.single_valued):
        raise UnsupportedError(
            f"{op}: on {edges.space} a tap may read several pixels, and a column holds one; use a "
            "convolution, or a space whose taps are pixels"
        )
    run = _RUN[backends.choose(rearrange_problem(op, x, edges), backend)]
    wide = x.float() if adds and x.dtype in HALF else x
    out: Tensor = (run.unfold if op == "unfold" else run.fold)(wide, edges)
    return out.to(x.dtype)


def rearrange_problem(op: str, x: Tensor, edges: Edges) -> Problem:
    """The static facts of an unfold or a fold, for the choice and for `explain`."""
    channels, taps = x.shape[1], edges.num_taps
    return Problem(
        op=op,
        edges=edges,
        in_channels=channels,
        out_channels=channels * taps if op == "unfold" else channels // taps,
        groups=1,
        dtype=x.dtype,
        device=x.device,
    )


def check_columns(graph: PixelGraph, taps: int, who: str) -> None:
    """Refuse channels that do not divide into one slot a tap."""
    if graph.num_channels % taps:
        raise ShapeError(
            f"{who}: expected x of shape (N, C * K) with K = {taps} taps, "
            f"got {tuple(graph.x.shape)}; {taps} must divide the channels"
        )


def _dimensions(graph: PixelGraph, who: str, only: int | None = None) -> int:
    check_graph(graph, who)
    if only is not None and graph.sites.d != only:
        raise GraphError(f"{who}: expected a graph of d = {only} dimensions, got {graph.sites.d}")
    return graph.sites.d


def _kept(
    graph: PixelGraph,
    kernel_size: Any,
    stride: Any,
    padding: Any = 0,
    dilation: Any = 1,
    output_padding: Any = None,
) -> KernelGeometry:
    """Return the kernel's integers, transposed if they come with an output padding.

    Kept with the sites, so that a warmed-up call finds its geometry instead of making one.
    """
    given = (kernel_size, stride, padding, dilation)
    kernel, step, pad, dil = [tuple(a) if isinstance(a, list) else a for a in given]
    extra = tuple(output_padding) if isinstance(output_padding, list) else output_padding
    rest = ("zeros", extra is not None, extra or 0, False, graph.sites.d)
    return kept_relation(graph.sites, KernelGeometry, kernel, step, pad, dil, *rest)
