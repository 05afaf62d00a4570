"""One node and everything it hears: its edges as arrows, or the messages that come along them.

An arrow goes the way of the message, from the pixel that speaks to the pixel that hears; a
self-loop is drawn as a loop.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convgraph.door import door
from convgraph.draw.graphs import check_convolution
from convgraph.draw.style import axes_in, counted, show_image, tap_colours
from convgraph.errors import GraphError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import GraphConvNd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = 1.1  # pixels around the edges that are drawn
LEAST = 2.1  # pixels around a node, so that a loop alone is drawn as large as among others


@door
def node(
    image: Tensor | PixelGraph,
    number: int,
    geometry: KernelGeometry | None = None,
    *,
    ax: "Axes | None" = None,
    dark: bool | None = None,
) -> "Axes":
    """Draw one node large, as a node, and every edge that ends in it as an arrow with its tap.

    Args:
        image: one image (C, H, W) or (1, C, H, W), values in [0, 1], or its PixelGraph.
        number: the output node.
        geometry: the kernel; None takes 3 x 3 with padding 1. Output site p lies at the pixel
            p * stride.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.

    Returns:
        The Axes; its title counts the edges.

    Raises:
        GraphError: more than one image, no 2-D lattice, a transposed kernel, or no such node.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> node(torch.rand(3, 5, 5), 12).get_title()
        'node 12 hears 9 edges'
    """
    graph = image if isinstance(image, PixelGraph) else PixelGraph.from_image(image)
    if graph.batch_size != 1 or graph.sites.d != 2:
        raise GraphError(
            f"draw.node: expected one 2-D image, got {graph.batch_size} of {graph.sites.d}-D"
        )
    kernel = KernelGeometry(3, padding=1) if geometry is None else geometry
    if kernel.transposed:
        raise GraphError("draw.node: expected a kernel that is not transposed; use draw.adjacency")
    edges = connect(kernel, graph)
    _check_node("node", "node", number, edges.num_targets)
    axes, style = axes_in(ax, dark)
    source, tap = _heard(edges, number)
    pos = graph.pos.cpu().numpy().astype(float)
    goal = _goal(edges, number, kernel.stride)
    low, high = _window(np.vstack([pos[source], goal]))
    low, high = np.minimum(low, goal - LEAST), np.maximum(high, goal + LEAST)
    _nodes(axes, graph, pos, low, high, style["ink"])
    colours = tap_colours(kernel)
    for q, t in zip(source, tap, strict=True):
        here = pos[q]
        if np.array_equal(here, goal):
            _loop(axes, goal, colours[t])
            _number(axes, _petal(goal, 0.86, 0), str(t), colours[t])
        else:
            _arrow(axes, here, goal, colours[t], shrink=15)
            _number(axes, here + 0.4 * (goal - here), str(t), colours[t])
    axes.scatter(
        goal[1], goal[0], s=620, zorder=3, facecolors=_colours(graph)[_at(pos, goal)],
        edgecolors=style["ink"], linewidths=3,
    )  # fmt: skip
    _fit(axes, low, high)
    axes.set_title(f"node {number} hears {counted(len(tap), 'edge')}", color=style["ink"])
    return axes


@door
def messages(
    layer: GraphConvNd,
    graph: PixelGraph,
    node: int,
    *,
    channel: int = 0,
    ax: "Axes | None" = None,
    dark: bool | None = None,
) -> "Axes":
    """Draw what one output node hears: every incoming message with its number, and their sum.

    Where there is one input channel a message is written as weight x pixel. Whole numbers are
    written in full, others with two decimals.

    Args:
        layer: a 2-D graph convolution.
        graph: one image.
        node: the output node (its row in the layer's output).
        channel: the output channel whose numbers are written.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.

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
    check_convolution("messages", layer)
    if layer.geometry.transposed or layer.groups != 1:
        raise GraphError("draw.messages: expected a convolution with groups=1, not transposed")
    edges = layer.edges(graph)
    _check_node("messages", "node", node, edges.num_targets)
    _check_node("messages", "channel", channel, layer.out_channels)
    axes, style = axes_in(ax, dark)
    show_image(axes, graph)
    source, tap = _heard(edges, node)
    with torch.no_grad():
        taps = layer.weight.flatten(2)[channel]  # (C_in, K)
        said = [(taps[:, t] @ graph.x[q]).item() for q, t in zip(source, tap, strict=True)]
        total = layer(graph).x[node, channel].item()
    pos = graph.pos.cpu().numpy().astype(float)
    goal = _goal(edges, node, layer.stride)
    colours = tap_colours(layer.geometry)
    for q, t, value in zip(source, tap, said, strict=True):
        here = pos[q]
        if np.array_equal(here, goal):
            _loop(axes, goal, colours[t], size=0.9)
        else:
            _arrow(axes, here, goal, colours[t], shrink=17)
        words = written(value, sign=True)
        if layer.in_channels == 1:
            words = f"{written(taps[0, t].item())} x {written(graph.x[q, 0].item())}"
        axes.text(
            here[1], here[0], words, ha="center", va="center", fontsize=9, color="#111111",
            bbox={"boxstyle": "round,pad=0.2", "fc": "#ffffff", "ec": colours[t], "lw": 2},
            zorder=5,
        )  # fmt: skip
    _fit(axes, *_window(np.vstack([pos[source], goal])))
    parts = [f"sum of {counted(len(said), 'message')}: {written(sum(said))}"]
    if layer.bias is not None:
        bias = layer.bias[channel].item()
        parts.append(f"with the bias {written(bias)}: {written(total)}")
    axes.set_title(", ".join(parts), color=style["ink"])
    return axes


def written(value: float, *, sign: bool = False) -> str:
    """Return a number as a person writes it: whole ones in full, others with two decimals.

    Example:
        >>> written(3.0), written(-0.5), written(4.0, sign=True)
        ('3', '-0.50', '+4')
    """
    if value == round(value):
        return f"{round(value):+d}" if sign else str(round(value))
    return f"{value:+.2f}" if sign else f"{value:.2f}"


def _check_node(picture: str, name: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise GraphError(f"draw.{picture}: expected a {name} in [0, {count}), got {number}")


def _heard(edges: Edges, number: int) -> tuple[list[int], list[int]]:
    """Sources and taps of the edges that end in a node."""
    here = edges.edge_index[1] == number
    return edges.edge_index[0][here].tolist(), edges.edge_type[here].tolist()


def _goal(edges: Edges, number: int, stride: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = edges.target.pos[number].cpu().numpy() * np.array(stride, float)
    return found


def _window(places: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return places.min(0) - MARGIN, places.max(0) + MARGIN


def _at(pos: np.ndarray[Any, Any], goal: np.ndarray[Any, Any]) -> int:
    """The node at a place; the nearest one where the place is a hole."""
    return int(np.abs(pos - goal).sum(1).argmin())


def _colours(graph: PixelGraph) -> np.ndarray[Any, Any]:
    x = graph.x.detach().cpu().float().clamp(0, 1)
    shown = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3)
    found: np.ndarray[Any, Any] = shown.numpy()
    return found


def _nodes(
    axes: "Axes",
    graph: PixelGraph,
    pos: np.ndarray[Any, Any],
    low: np.ndarray[Any, Any],
    high: np.ndarray[Any, Any],
    ink: str,
) -> None:
    """Every pixel of the window as a node in its own colour, with faint lines to its neighbours."""
    from matplotlib.collections import LineCollection

    near = np.flatnonzero(((pos >= low) & (pos <= high)).all(1))
    gaps = np.abs(pos[near][:, None] - pos[near][None])
    first, second = np.nonzero(np.triu(gaps.max(2) == 1))
    lines = np.stack([pos[near[first]][:, ::-1], pos[near[second]][:, ::-1]], axis=1)
    axes.add_collection(LineCollection(list(lines), colors="#808080", linewidths=0.7, alpha=0.35))
    axes.scatter(
        pos[near, 1], pos[near, 0], s=300, facecolors=_colours(graph)[near], edgecolors=ink,
        linewidths=1, zorder=2,
    )  # fmt: skip


def _fit(axes: "Axes", low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]) -> None:
    axes.set_xlim(low[1] - 0.2, high[1] + 0.2)
    axes.set_ylim(high[0] + 0.2, low[0] - 0.2)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _arrow(
    axes: "Axes",
    speaks: np.ndarray[Any, Any],
    hears: np.ndarray[Any, Any],
    colour: str,
    shrink: float,
) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            (speaks[1], speaks[0]), (hears[1], hears[0]), arrowstyle="-|>", mutation_scale=17,
            color=colour, lw=2.6, shrinkA=9, shrinkB=shrink, zorder=4,
        )
    )  # fmt: skip


def _petal(place: np.ndarray[Any, Any], far: float, turn: float) -> np.ndarray[Any, Any]:
    """The point `far` away in the sector between the left and the lower left neighbour."""
    angle = np.pi * (1 + 1 / 8) - turn
    return place + far * np.array([-np.sin(angle), np.cos(angle)])


def _loop(axes: "Axes", place: np.ndarray[Any, Any], colour: str, size: float = 1.0) -> None:
    """An arrow that leaves a node and comes back to it."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    points = [
        _petal(place, far * size, turn)[::-1]
        for far, turn in ((0.3, -0.28), (1.1, -0.42), (1.1, 0.42), (0.3, 0.28))
    ]
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    axes.add_patch(
        FancyArrowPatch(
            path=path, arrowstyle="-|>", mutation_scale=15, color=colour, lw=2.6, zorder=4
        )
    )


def _number(axes: "Axes", place: np.ndarray[Any, Any], words: str, colour: str) -> None:
    axes.text(
        place[1], place[0], words, ha="center", va="center", fontsize=11, fontweight="bold",
        color="#111111", zorder=7,
        bbox={"boxstyle": "circle,pad=0.18", "fc": "#ffffff", "ec": colour, "lw": 2},
    )  # fmt: skip
