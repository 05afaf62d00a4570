"""The receptive field of a stack: the nodes from which one output node is reached, hop by hop.

k layers: q is in the field of p exactly when edges of the k layers lead from q to p
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convgraph.door import door
from convgraph.draw.style import LIGHT, PALETTE, axes_in, counted, show_image
from convgraph.errors import GraphError
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.torch_modules import SENDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@door
def reach(layers: Sequence[Any], graph: PixelGraph, node: int) -> list[Tensor]:
    """Return which nodes one output node hears, going back through a stack of layers.

    Args:
        layers: graph layers with `edges(graph)`, first to last; anything without edges (ReLU,
            norms) is a node transform and passes.
        graph: what the first layer is called on.
        node: a row of the last layer's output.

    Returns:
        One bool mask per layer that sends messages, last layer first: (N,) over the nodes of that
        layer's input. The last entry is the receptive field on the input.

    Raises:
        GraphError: `node` is no node of the output, or a layer is torch's own convolution, pool,
            resize, fold, pixel shuffle or padding.

    Example:
        >>> import convgraph as cg
        >>> layer = cg.nn.GraphConv2d(1, 1, 3, padding=1)
        >>> graph = PixelGraph.from_image(torch.zeros(1, 7, 7))
        >>> [int(hop.sum()) for hop in reach([layer, layer], graph, node=24)]
        [9, 25]
    """
    hops = _hops(layers, graph)
    sites = hops[-1].target if hops else graph.sites
    if not 0 <= node < sites.num_nodes:
        raise GraphError(f"reach: expected a node in [0, {sites.num_nodes}), got {node}")
    heard = torch.zeros(sites.num_nodes, dtype=torch.bool, device=graph.device)
    heard[node] = True
    found = []
    for edges in reversed(hops):
        source, target = edges.edge_index
        before = torch.zeros(edges.num_sources, dtype=torch.bool, device=graph.device)
        before[source[heard[target]]] = True
        found.append(before)
        heard = before
    return found


@door
def receptive_field(
    layers: Sequence[Any],
    graph: PixelGraph,
    node: int,
    *,
    ax: "Axes | None" = None,
    dark: bool | None = None,
) -> "Axes":
    """Draw the receptive field of one output node on the image: the fewest hops, in each pixel.

    Args:
        layers: as in `reach`; every layer keeps the image's size, so that hops share one picture.
        graph: one 2-D image.
        node: a row of the last layer's output.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.

    Returns:
        The Axes; its title counts the pixels.

    Raises:
        GraphError: more than one image, no 2-D lattice, or a layer that changes the size.

    Example:
        >>> import convgraph as cg
        >>> layer = cg.nn.GraphConv2d(1, 1, 3, padding=1)
        >>> graph = PixelGraph.from_image(torch.zeros(1, 7, 7))
        >>> receptive_field([layer, layer], graph, node=24).get_title()
        'receptive field after 2 hops: 25 pixels'
    """
    if graph.batch_size != 1 or graph.sites.d != 2:
        raise GraphError(
            f"draw.receptive_field: expected one 2-D image, got {graph.batch_size} of "
            f"{graph.sites.d}-D"
        )
    if any(edges.target.sizes != graph.sites.sizes for edges in _hops(layers, graph)):
        raise GraphError(
            "draw.receptive_field: expected layers that keep the size (stride 1, 'same' padding); "
            "use draw.reach for the nodes themselves"
        )
    hops = reach(layers, graph, node)
    axes, style = axes_in(ax, dark)
    from matplotlib.patches import Rectangle

    show_image(axes, graph)
    pos = graph.pos.cpu().numpy()
    steps = np.full(graph.num_nodes, -1)
    for number, hop in enumerate(hops, start=1):
        steps[hop.cpu().numpy() & (steps < 0)] = number
    for number in range(1, len(hops) + 1):
        colour = PALETTE[(number - 1) % len(PALETTE)]
        for row, column in pos[steps == number]:
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fc=colour, ec=LIGHT["page"], alpha=0.65)
            )
            axes.text(
                column, row, str(number), ha="center", va="center", fontsize=9, color="#111111"
            )
    row, column = pos[node]
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc="none", ec=style["ink"], lw=2.5))
    count = int(hops[-1].sum()) if hops else 1
    far = counted(len(hops), "hop")
    axes.set_title(f"receptive field after {far}: {counted(count, 'pixel')}", color=style["ink"])
    return axes


def _hops(layers: Sequence[Any], graph: PixelGraph) -> list[Edges]:
    """The edges of every layer that sends messages, first to last; refuse torch's own."""
    for layer in layers:
        if type(layer).__module__ in SENDS:
            raise GraphError(
                f"draw.reach: expected graph layers, got {type(layer).__name__}, whose edges are "
                "not known; convert the stack first: cg.nn.Sequential.from_dense(stack)"
            )
    hops: list[Edges] = []
    sites = graph.sites
    for layer in layers:
        if hasattr(layer, "edges"):
            hops.append(layer.edges(PixelGraph(graph.x.new_zeros(sites.num_nodes, 1), sites)))
            sites = hops[-1].target
    return hops
