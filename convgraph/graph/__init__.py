"""Sites, typed edges, and images as graphs."""

from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites
from convgraph.graph.transforms import ToPixelGraph

__all__ = ["Edges", "PixelGraph", "Sites", "ToPixelGraph", "connect"]
