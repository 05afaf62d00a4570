"""Pixels where they lie: hexagons in the plane, the sphere from outside, one node's neighbours."""

from typing import TYPE_CHECKING, Any

import numpy as np

from convgraph.door import door
from convgraph.draw.style import RIM, axes_in, tap_colours
from convgraph.errors import GraphError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect
from convgraph.graph.pixel_graph import PixelGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONG = 2.5
"""Lines longer than this many typical ones lead around the back, and are left out."""


@door
def world(
    graph: PixelGraph,
    geometry: KernelGeometry | None = None,
    node: int | None = None,
    *,
    view: tuple[float, float] = (20.0, 40.0),
    ax: "Axes | None" = None,
    dark: bool | None = None,
) -> "Axes":
    """Draw the nodes of one image at their places in its space, and who talks to whom.

    Args:
        graph: one image on a space; at most a few thousand nodes stay readable.
        geometry: the kernel; None takes 3 x 3 with padding 1.
        node: the one whose edges are drawn, each in the colour of its tap; None draws all, pale.
        view: latitude and longitude above which a sphere is looked at, degrees.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.

    Returns:
        The Axes; its title counts nodes and edges, or the node's neighbours.

    Raises:
        GraphError: no PixelGraph on a space, more than one image, or no such node.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import torch, convgraph as cg
        >>> sphere = cg.PixelGraph.from_image(torch.rand(1, 1, 48, 4), on=cg.HEALPix("absent"))
        >>> world(sphere, node=3).get_title()
        'node 3: 7 neighbours'
    """
    if not isinstance(graph, PixelGraph) or graph.sites.space is None or graph.batch_size != 1:
        raise GraphError(
            "draw.world: expected the PixelGraph of one image on a space, made with "
            "PixelGraph.from_image(image, on=...); pictures of the plane are draw.pixel_graph"
        )
    if node is not None and not 0 <= node < graph.num_nodes:
        raise GraphError(f"draw.world: expected node in [0, {graph.num_nodes}), got {node}")
    kernel = KernelGeometry(3, padding=1) if geometry is None else geometry
    edges = connect(kernel, graph)
    if edges.target is not edges.source:
        raise GraphError(f"draw.world: expected a kernel that keeps the nodes, got {kernel}")
    flat, front = seen(graph, view)
    source, target = edges.edge_index.cpu().numpy()
    tap = edges.edge_type.cpu().numpy()
    axes, style = axes_in(ax, dark)
    axes.set_aspect("equal")
    axes.set_axis_off()
    if node is None:
        _all_lines(axes, flat, front, source, target)
        title = f"{graph.num_nodes} nodes, {edges.num_edges} typed edges"
    else:
        mine = target == node
        others = set(source[mine].tolist()) - {node}
        _lines(axes, flat, source[mine], target[mine], tap_colours(kernel), tap[mine])
        title = f"node {node}: {len(others)} neighbours"
        axes.scatter(
            flat[node, 0], flat[node, 1], s=90, facecolors="none", edgecolors=style["ink"], zorder=4
        )
    colour = _colours(graph)[front]
    axes.scatter(
        flat[front, 0], flat[front, 1], s=_size(len(flat)), c=colour, marker=_marker(graph),
        edgecolors=RIM, linewidths=0.3, zorder=2,
    )  # fmt: skip
    axes.set_title(title, color=style["ink"])
    return axes


def seen(graph: PixelGraph, view: tuple[float, float]) -> tuple[Any, Any]:
    """(N, 2) right and up of the nodes of one image on a space, and (N,) which are in front.

    A sphere is seen from far away, above the latitude and longitude of `view` in degrees.
    """
    space: Any = graph.sites.space
    places = space.positions(graph.sites.sizes[0])[graph.sites.nodes.cpu().numpy()]
    if places.shape[1] == 2:
        return places, np.ones(len(places), dtype=bool)
    latitude, longitude = np.deg2rad(view)
    east = np.array([-np.sin(longitude), np.cos(longitude), 0])
    out = np.array(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ]
    )
    north = np.cross(out, east)
    return np.stack([places @ east, places @ north], axis=1), places @ out > 0


def _all_lines(axes: "Axes", flat: Any, front: Any, source: Any, target: Any) -> None:
    from matplotlib.collections import LineCollection

    apart = np.linalg.norm(flat[source] - flat[target], axis=1)
    typical = np.median(apart[apart > 0]) if (apart > 0).any() else 0.0
    drawn = front[source] & front[target] & (apart > 0) & (apart < LONG * typical)
    drawn &= source < target  # one line for both directions
    lines = np.stack([flat[source[drawn]], flat[target[drawn]]], axis=1)
    axes.add_collection(LineCollection(list(lines), colors=RIM, linewidths=0.5, zorder=1))


def _lines(axes: "Axes", flat: Any, source: Any, target: Any, colours: Any, tap: Any) -> None:
    from matplotlib.collections import LineCollection

    lines = np.stack([flat[source], flat[target]], axis=1)
    chosen = [colours[t % len(colours)] for t in tap]
    axes.add_collection(LineCollection(list(lines), colors=chosen, linewidths=2.2, zorder=3))


def _colours(graph: PixelGraph) -> Any:
    rows = graph.x.detach().cpu().float().numpy()
    shown = rows[:, :3] if rows.shape[1] >= 3 else np.repeat(rows[:, :1], 3, axis=1)
    low, high = float(shown.min(initial=0)), float(shown.max(initial=0))
    return 0.35 + 0.65 * (shown - low) / max(high - low, 1e-12)


def _size(count: int) -> float:
    return float(np.clip(20000 / max(count, 1), 6, 120))


def _marker(graph: PixelGraph) -> str:
    settings = getattr(graph.sites.space, "layout", None)
    if settings is None:
        return "o"
    return "H" if settings.endswith("-q") else "h"
