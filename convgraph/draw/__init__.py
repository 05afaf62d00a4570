"""Pictures: pixel graphs, messages, adjacency matrices, receptive fields, certificates.

Every picture is drawn on a matplotlib Axes and returned, so that it can be placed, styled and
saved as usual. Colours tell the taps apart for colour-blind readers too; `dark=True` suits a dark
page. matplotlib comes with the extra `viz` and is imported when something is drawn.
"""

from convgraph.draw.graphs import adjacency, pixel_graph
from convgraph.draw.one_node import messages, node
from convgraph.draw.reach import reach, receptive_field
from convgraph.draw.record import certificate
from convgraph.draw.refutation import counterexample
from convgraph.draw.spaces import world
from convgraph.draw.style import DARK, LIGHT, PALETTE, tap_colours

__all__ = [
    "DARK",
    "LIGHT",
    "PALETTE",
    "adjacency",
    "certificate",
    "counterexample",
    "messages",
    "node",
    "pixel_graph",
    "reach",
    "receptive_field",
    "tap_colours",
    "world",
]
