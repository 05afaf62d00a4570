"""Who talks to whom: the pixel graph over an image, one node's messages, the adjacency of a tap."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convgraph.draw.style import RIM, axes_in, counted, show_image, tap_colours
from convgraph.errors import GraphError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import GraphConvNd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NODES = 2048  # of an adjacency matrix: a picture has hardly more rows


def pixel_graph(
    image: Tensor | PixelGraph,
    geometry: KernelGeometry | None = None,
    *,
    ax: "Axes | None" = None,
    dark: bool = False,
    legend: bool = True,
) -> "Axes":
    """Draw the typed edges of a geometry over a small image.

    Each edge is a spoke at the node that hears, pointing to the node that speaks and coloured by
    tap; a self-loop is a ring. So every pixel shows at a glance through which taps it listens. Of
    an edge longer than a pixel only the beginning is drawn; `messages` shows one node's in full.

    Args:
        image: one image (C, H, W) or (1, C, H, W), values in [0, 1], or its PixelGraph, masked or
            not; at most about 32 x 32 pixels stay readable.
        geometry: the kernel; None takes 3 x 3 with padding 1. Output site p is drawn at the pixel
            p * stride, which has to exist.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page.
        legend: show which colour is which tap.

    Returns:
        The Axes.

    Raises:
        GraphError: more than one image, no 2-D lattice, a transposed kernel, or output sites beyond
            the image.
        MissingExtraError: matplotlib is not installed.

    Example:
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
    _spokes(axes, pos[source], goal[target], tap, tap_colours(kernel))
    axes.set_title(
        f"pixel graph: {graph.num_nodes} nodes, {edges.num_edges} typed edges", color=style["ink"]
    )
    if legend:
        _legend(axes, kernel, style)
    return axes


def messages(
    layer: GraphConvNd,
    graph: PixelGraph,
    node: int,
    *,
    channel: int = 0,
    ax: "Axes | None" = None,
    dark: bool = False,
) -> "Axes":
    """Draw what one output node hears: every incoming message with its number, and their sum.

    Args:
        layer: a 2-D graph convolution.
        graph: one image.
        node: the output node (its row in the layer's output).
        channel: the output channel whose numbers are written.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page.

    Returns:
        The Axes; its title is the sum, which is the layer's output.

    Raises:
        GraphError: no graph convolution with groups=1 that is not transposed, or no such node or
            channel.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import convgraph as cg
        >>> layer = cg.nn.GraphConv2d(1, 1, 3, padding=1)
        >>> graph = PixelGraph.from_image(torch.rand(1, 5, 5))
        >>> ax = messages(layer, graph, node=12)
        >>> len(ax.texts)
        9
    """
    _check_convolution("messages", layer)
    if layer.geometry.transposed or layer.groups != 1:
        raise GraphError("draw.messages: expected a convolution with groups=1, not transposed")
    edges = layer.edges(graph)
    for name, number, count in (
        ("node", node, edges.num_targets), ("channel", channel, layer.out_channels),
    ):  # fmt: skip
        if not 0 <= number < count:
            raise GraphError(f"draw.messages: expected a {name} in [0, {count}), got {number}")
    axes, style = axes_in(ax, dark)
    from matplotlib.patches import FancyArrowPatch

    show_image(axes, graph)
    here = edges.edge_index[1] == node
    source, tap = edges.edge_index[0][here], edges.edge_type[here]
    with torch.no_grad():
        taps = layer.weight.flatten(2)  # (C_out, C_in, K)
        said = torch.stack(
            [taps[channel, :, t] @ graph.x[q] for q, t in zip(source, tap, strict=True)]
        )
        total = layer(graph).x[node, channel]
    pos = graph.pos.cpu().numpy().astype(float)
    colours = tap_colours(layer.geometry)
    goal = edges.target.pos[node].cpu().numpy() * np.array(layer.stride, dtype=float)
    for q, t, value in zip(source.tolist(), tap.tolist(), said.tolist(), strict=True):
        row, column = pos[q]
        if (row, column) != tuple(goal):
            arrow = FancyArrowPatch(
                (column, row), (goal[1], goal[0]), arrowstyle="-|>", mutation_scale=14,
                color=colours[t], lw=2, shrinkA=16, shrinkB=16,
            )  # fmt: skip
            axes.add_patch(arrow)
        axes.text(
            column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color="#111111",
            bbox={"boxstyle": "round,pad=0.2", "fc": "#ffffff", "ec": colours[t], "lw": 1.5},
        )  # fmt: skip
    bias = 0.0 if layer.bias is None else layer.bias[channel].item()
    axes.set_title(
        f"{said.sum():+.2f} (messages) {bias:+.2f} (bias) = {total:+.2f}", color=style["ink"]
    )
    return axes


def adjacency(
    layer: GraphConvNd,
    graph: PixelGraph,
    tap: int | None = None,
    *,
    ax: "Axes | None" = None,
    dark: bool = False,
) -> "Axes":
    """Draw who talks to whom as a matrix: row p hears column q.

    Args:
        layer: a graph convolution.
        graph: a small graph; the matrix has a row per output node and a column per input node.
        tap: one edge type; None draws all, each in its colour.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page.

    Returns:
        The Axes.

    Raises:
        GraphError: no graph layer, no such tap, or a matrix of more than 2048 rows or columns.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import convgraph as cg
        >>> graph = PixelGraph.from_image(torch.rand(1, 3, 3))
        >>> adjacency(cg.nn.PointwiseConv(1, 1), graph).get_title()
        'adjacency of 1 tap, 9 edges'
    """
    from matplotlib.colors import to_rgb

    _check_convolution("adjacency", layer)
    edges = layer.edges(graph)
    if tap is not None and not 0 <= tap < edges.num_taps:
        raise GraphError(f"draw.adjacency: expected a tap in [0, {edges.num_taps}), got {tap}")
    if max(edges.num_targets, edges.num_sources) > MOST_NODES:
        raise GraphError(
            f"draw.adjacency: expected at most {MOST_NODES} nodes, got {edges.num_targets} targets "
            f"and {edges.num_sources} sources; draw a crop"
        )
    axes, style = axes_in(ax, dark)
    colours = np.array([to_rgb(c) for c in tap_colours(layer.geometry)])
    picture = np.tile(np.array(to_rgb(style["page"])), (edges.num_targets, edges.num_sources, 1))
    source, target = edges.edge_index.cpu().numpy()
    kind = edges.edge_type.cpu().numpy()
    chosen = np.ones(len(kind), dtype=bool) if tap is None else kind == tap
    picture[target[chosen], source[chosen]] = colours[kind[chosen]]
    axes.imshow(picture, interpolation="nearest")
    axes.set_xlabel("source node q", color=style["ink"])
    axes.set_ylabel("target node p", color=style["ink"])
    axes.tick_params(colors=style["ink"])
    what = counted(layer.geometry.num_taps, "tap") if tap is None else f"tap {tap}"
    axes.set_title(f"adjacency of {what}, {counted(int(chosen.sum()), 'edge')}", color=style["ink"])
    return axes


def _check_convolution(picture: str, layer: object) -> None:
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
    rings = hears[loops][:, ::-1]
    if len(rings):
        size = np.full(len(rings), 0.26)
        axes.add_collection(
            EllipseCollection(
                size, size, np.zeros(len(rings)), units="xy", offsets=rings,
                offset_transform=axes.transData, facecolors="#ffffff",
                edgecolors=[colours[t] for t in tap[loops]], linewidths=1.6, zorder=3,
            )
        )  # fmt: skip
    places = np.unique(hears, axis=0)
    axes.scatter(places[:, 1], places[:, 0], s=5, color="#111111", zorder=4, label=None)


def _legend(axes: "Axes", geometry: KernelGeometry, style: dict[str, str]) -> None:
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
        handles=handles, title="tap: (row, column) it listens to", ncols=3, loc="upper center",
        bbox_to_anchor=(0.5, -0.01), frameon=False, fontsize=8, labelcolor=style["ink"],
    )  # fmt: skip
    found.get_title().set_color(style["ink"])
    found.get_title().set_fontsize(8)
