"""Who talks to whom: the pixel graph over an image, the adjacency of a tap."""

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from convgraph.door import door
from convgraph.draw.style import RIM, axes_in, counted, show_image, tap_colours
from convgraph.errors import GraphError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import GraphConvNd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NODES = 2048  # of an adjacency matrix: a picture has hardly more rows


@door
def pixel_graph(
    image: Tensor | PixelGraph,
    geometry: KernelGeometry | None = None,
    *,
    ax: "Axes | None" = None,
    dark: bool | None = None,
    legend: bool = True,
) -> "Axes":
    """Draw the typed edges of a geometry over a small image.

    Of each edge the end is drawn: the last stretch of its arrow, at the node that hears, coloured
    by tap; a self-loop is a small loop. So every pixel shows at a glance through which taps it
    listens. A dot without lines speaks and does not listen. `node` shows one pixel's edges in full.

    Args:
        image: one image (C, H, W) or (1, C, H, W), values in [0, 1], or its PixelGraph, masked or
            not; at most about 32 x 32 pixels stay readable.
        geometry: the kernel; None takes 3 x 3 with padding 1. Output site p is drawn at the pixel
            p * stride, which has to exist.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.
        legend: show which colour is which tap.

    Returns:
        The Axes.

    Raises:
        GraphError: more than one image, no 2-D lattice, a transposed kernel, or output sites beyond
            the image.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> ax = pixel_graph(torch.rand(3, 6, 6))
        >>> ax.get_title()
        'pixel graph: 36 nodes, 256 typed edges'
    """
    graph = image if isinstance(image, PixelGraph) else PixelGraph.from_image(image)
    if graph.batch_size != 1 or graph.sites.d != 2:
        raise GraphError(
            f"draw.pixel_graph: expected one 2-D image, got {graph.batch_size} of {graph.sites.d}-D"
        )
    kernel = KernelGeometry(3, padding=1) if geometry is None else geometry
    edges = connect(kernel, graph)
    pos = graph.pos.cpu().numpy().astype(float)
    goal = edges.target.pos.cpu().numpy().astype(float) * np.array(kernel.stride, dtype=float)
    size = graph.sites.sizes[0]
    if kernel.transposed or (goal >= size).any():
        raise GraphError(
            f"draw.pixel_graph: expected every output site p at a pixel p * stride of the image of "
            f"{size[0]} x {size[1]}, got {kernel} with an output of "
            f"{' x '.join(map(str, edges.target.sizes[0]))}; use less padding, or draw.adjacency"
        )
    axes, style = axes_in(ax, dark)
    show_image(axes, graph)
    source, target = edges.edge_index.cpu().numpy()
    tap = edges.edge_type.cpu().numpy()
    axes.scatter(pos[:, 1], pos[:, 0], s=7, facecolors="#ffffff", edgecolors=RIM, linewidths=0.6)
    _spokes(axes, pos[source], goal[target], tap, tap_colours(kernel))
    axes.set_title(
        f"pixel graph: {graph.num_nodes} nodes, {edges.num_edges} typed edges", color=style["ink"]
    )
    if legend:
        _legend(axes, kernel, style)
    return axes


@door
def adjacency(
    layer: GraphConvNd,
    graph: PixelGraph,
    tap: int | None = None,
    *,
    ax: "Axes | None" = None,
    dark: bool | None = None,
    legend: bool = False,
) -> "Axes":
    """Draw who talks to whom as a matrix: row p hears column q.

    A faint line stands before every row of the image.

    Args:
        layer: a graph convolution.
        graph: a small graph; the matrix has a row per output node and a column per input node.
        tap: one edge type; None draws all, each in its colour.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.
        legend: show which colour is which tap.

    Returns:
        The Axes.

    Raises:
        GraphError: no graph layer, no such tap, or a matrix of more than 2048 rows or columns.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import torch, convgraph as cg
        >>> graph = PixelGraph.from_image(torch.rand(1, 3, 3))
        >>> adjacency(cg.nn.PointwiseConv(1, 1), graph).get_title()
        'adjacency of 1 tap, 9 edges'
    """
    from matplotlib.colors import to_rgba
    from matplotlib.ticker import MaxNLocator

    check_convolution("adjacency", layer)
    edges = layer.edges(graph)
    if tap is not None and not 0 <= tap < edges.num_taps:
        raise GraphError(f"draw.adjacency: expected a tap in [0, {edges.num_taps}), got {tap}")
    if max(edges.num_targets, edges.num_sources) > MOST_NODES:
        raise GraphError(
            f"draw.adjacency: expected at most {MOST_NODES} nodes, got {edges.num_targets} targets "
            f"and {edges.num_sources} sources; draw a crop"
        )
    axes, style = axes_in(ax, dark)
    colours = np.array([to_rgba(c) for c in tap_colours(layer.geometry)])
    picture = np.zeros((edges.num_targets, edges.num_sources, 4))  # no edge: the page itself
    source, target = edges.edge_index.cpu().numpy()
    kind = edges.edge_type.cpu().numpy()
    chosen = np.ones(len(kind), dtype=bool) if tap is None else kind == tap
    picture[target[chosen], source[chosen]] = colours[kind[chosen]]
    axes.imshow(picture, interpolation="nearest")
    _rows_of_the_image(axes, edges)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("source node q", color=style["ink"])
    axes.set_ylabel("target node p", color=style["ink"])
    axes.tick_params(colors=style["ink"])
    what = counted(layer.geometry.num_taps, "tap") if tap is None else f"tap {tap}"
    axes.set_title(f"adjacency of {what}, {counted(int(chosen.sum()), 'edge')}", color=style["ink"])
    if legend:
        _legend(axes, layer.geometry, style, below=-0.2)
    return axes


def _rows_of_the_image(axes: "Axes", edges: Edges) -> None:
    """Lines between the image's rows, where a diagonal has its gaps."""
    for sites, line in ((edges.target, axes.axhline), (edges.source, axes.axvline)):
        pos = sites.pos.cpu().numpy()
        for start in np.flatnonzero(np.any(np.diff(pos[:, :-1], axis=0) != 0, axis=1)) + 0.5:
            line(start, color="#808080", lw=0.6, alpha=0.6)


def check_convolution(picture: str, layer: object) -> None:
    """Refuse what has no typed edges to draw."""
    if not isinstance(layer, GraphConvNd):
        raise GraphError(
            f"draw.{picture}: expected a graph convolution, got {type(layer).__name__}; of a dense "
            "one: cg.nn.GraphConv2d.from_dense(conv)"
        )


def _spokes(
    axes: "Axes",
    speaks: np.ndarray[Any, Any],
    hears: np.ndarray[Any, Any],
    tap: np.ndarray[Any, Any],
    colours: list[str],
) -> None:
    from matplotlib.collections import EllipseCollection, LineCollection
    from matplotlib.patheffects import Normal, Stroke

    gap = speaks - hears
    length = np.hypot(gap[:, 0], gap[:, 1])
    loops = length == 0
    reach = np.where(loops, 1, length)[:, None]
    end = hears + gap / reach * np.minimum(0.46 * reach, 0.62)
    lines = np.stack([hears[:, ::-1], end[:, ::-1]], axis=1)[~loops]
    # A dark rim: yellow and sky blue would be lost on a bright photograph, and blue on a dark one
    # keeps the light of its own colour inside.
    rim = [Stroke(linewidth=3.0, foreground=RIM, alpha=0.6), Normal()]
    kinds = [colours[t] for t in tap[~loops]]
    axes.add_collection(LineCollection(list(lines), colors=kinds, linewidths=2.2, path_effects=rim))
    # A loop leaves its node and comes back to it: a ring through the dot.
    rings = hears[loops][:, ::-1] + np.array([0.07, -0.12])
    if len(rings):
        size = np.full(len(rings), 0.28)
        axes.add_collection(
            EllipseCollection(
                size, size, np.zeros(len(rings)), units="xy", offsets=rings,
                offset_transform=axes.transData, facecolors="none",
                edgecolors=[colours[t] for t in tap[loops]], linewidths=1.8, zorder=3,
                path_effects=rim,
            )
        )  # fmt: skip
    places = np.unique(hears, axis=0)
    axes.scatter(places[:, 1], places[:, 0], s=9, color="#111111", zorder=4)


def _legend(
    axes: "Axes", geometry: KernelGeometry, style: dict[str, str], below: float = -0.01
) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for tap, (colour, offset) in enumerate(
        zip(tap_colours(geometry), geometry.offsets, strict=True)
    ):
        loop = not offset.any()
        marker: dict[str, Any] = (
            {"marker": "o", "linestyle": "", "markerfacecolor": "#ffffff"} if loop else {}
        )
        name = "self" if loop else f"({offset[0]:+d}, {offset[1]:+d})"
        handles.append(Line2D([], [], color=colour, lw=3, label=f"{tap}: {name}", **marker))
    found = axes.legend(
        handles=handles, title="tap: (row, column) it hears", ncols=3, loc="upper center",
        bbox_to_anchor=(0.5, below), frameon=False, fontsize=9, labelcolor=style["ink"],
        handlelength=1.1, columnspacing=1.0, handletextpad=0.5,
    )  # fmt: skip
    found.get_title().set_color(style["ink"])
    found.get_title().set_fontsize(9)
