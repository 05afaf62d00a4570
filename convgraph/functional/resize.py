"""Resize of a pixel graph: a weighted sum of the neighbours that the geometry names.

    y[p] = sum over edges (q, p, t) of  w(p, t) x[q]

Nothing is renormalised: an absent pixel contributes 0, as in a convolution.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph import backends
from convgraph.backends.dense import resize as dense_resize
from convgraph.backends.gather import edges as gather
from convgraph.backends.halo import resize as halo_resize
from convgraph.backends.messages import edges as messages
from convgraph.backends.problem import Problem
from convgraph.backends.rows import HALF
from convgraph.door import door
from convgraph.errors import DtypeError, UnsupportedError
from convgraph.geometry.resize import ResizeGeometry, check_arguments
from convgraph.graph.edges import Edges, connect, kept_relation
from convgraph.graph.pixel_graph import PixelGraph, check_graph


@door
def graph_resize(
    graph: PixelGraph,
    size: int | tuple[int, ...] | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_resize",
) -> PixelGraph:
    """Resize a pixel graph up or down, as `torch.nn.functional.interpolate` resizes an image.

    Args:
        graph: features (N, C) on their sites, d = 1 to 3.
        size: output lattice (pixels), an int or one int an axis.
        scale_factor: output pixels per source pixel, a number or one an axis; exactly one of size
            and scale_factor is given.
        mode: "nearest", "nearest-exact", "linear" (d = 1), "bilinear" (2), "trilinear" (3) or
            "bicubic" (2).
        align_corners: whether the corner pixels' centres coincide; None is False, and the nearest
            modes take nothing else.
        recompute_scale_factor: whether the scale is taken from the rounded sizes.
        antialias: must be False.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one of `convgraph.backends.NAMES`.
        who: the caller's name, for error texts.

    Returns:
        A graph with features (P, C) on the output sites.

    Raises:
        GeometryError: an argument is out of range, missing, or of no meaning for the mode.
        GraphError: no PixelGraph, or `sites` of another size.
        UnsupportedError: antialias=True, or mode="area".
        DtypeError: whole numbers are weighed, off a full grid.
        BackendError: a forced backend cannot serve.

    Example:
        >>> graph = PixelGraph.from_image(torch.tensor([[0.0, 4.0]]), d=1)
        >>> graph_resize(graph, scale_factor=2, mode="linear").x.flatten().tolist()
        [0.0, 1.0, 3.0, 4.0]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html
    """
    if antialias:
        raise UnsupportedError(
            f"{who}: antialias={antialias} is refused, its windows grow with the scale; "
            "use antialias=False, or average first with cg.nn.GraphAvgPool1d/2d/3d"
        )
    edges = resize_edges(
        graph,
        size,
        scale_factor,
        mode,
        align_corners,
        recompute_scale_factor,
        sites=sites,
        who=who,
    )
    return PixelGraph(resize(graph.x, edges, backend), edges.target)


def resize_edges(
    graph: PixelGraph,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    *,
    sites: Any = None,
    who: str = "resize_edges",
) -> Edges:
    """Return who talks to whom in a resize, weights included; arguments as in `graph_resize`.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 1, 2, 2))
        >>> resize_edges(graph, scale_factor=2, mode="bilinear")
        Edges(4 -> 16 nodes, 4 taps, 49 edges)
    """
    check_graph(graph, who)
    if not torch.compiler.is_dynamo_compiling():  # ResizeGeometry checks once more, outside
        check_arguments(who, size, scale_factor, mode, align_corners, recompute_scale_factor)
    arguments = (
        mode,
        tuple(size) if isinstance(size, list) else size,
        tuple(scale_factor) if isinstance(scale_factor, list) else scale_factor,
        align_corners,
        recompute_scale_factor,
        graph.dtype == torch.float64,
        graph.sites.d,
    )
    return connect(kept_relation(graph.sites, ResizeGeometry, *arguments), graph.sites, sites)


def resize(
    x: Tensor,  # (N, C)
    edges: Edges,
    backend: str | None = None,
) -> Tensor:
    """Choose and run: (P, C), the weighted sums over edges that `resize_edges` made."""
    name = backends.choose(resize_problem(x, edges), backend)
    if name == dense_resize.NAME:
        return dense_resize.resize(x, edges)
    if name == halo_resize.NAME:
        return halo_resize.resize(x, edges)
    if not (x.is_floating_point() or x.is_complex()) and edges.edge_weight is not None:
        raise DtypeError(
            "resize: expected features of a floating or complex dtype where pixels are weighed, "
            f"got {x.dtype}; convert the graph with .to(dtype), or take a nearest mode"
        )
    # A weighted sum of neighbours is the depthwise convolution whose every tap is 1.
    wide = x.float() if x.dtype in HALF else x
    taps = wide.new_ones(()).expand(edges.num_taps, x.shape[1], 1, 1)
    run = gather.summed if name == gather.NAME else messages.summed
    return run(wide, taps, edges).to(x.dtype)


def resize_problem(x: Tensor, edges: Edges) -> Problem:
    """The static facts of a resize, for the choice and for `explain`."""
    return Problem(
        op="resize",
        edges=edges,
        in_channels=x.shape[1],
        out_channels=x.shape[1],
        groups=x.shape[1],
        dtype=x.dtype,
        device=x.device,
    )
