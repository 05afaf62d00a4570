"""convgraph: convolutions as message passing on pixel graphs, proven equal to their dense twins."""

from convgraph import errors, functional, nn
from convgraph.backends import backend
from convgraph.comparison.callers import AsNodes
from convgraph.comparison.excite import excite
from convgraph.comparison.layers import prove
from convgraph.convert import receptive_field, summary, to_dense, to_graph
from convgraph.explanation import explain
from convgraph.explorer import explore
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites
from convgraph.graph.transforms import ToPixelGraph
from convgraph.spaces import Equirectangular, HEALPix, Hexagonal, Torus

__version__ = "0.1.0"

__all__ = [
    "AsNodes",
    "Edges",
    "Equirectangular",
    "HEALPix",
    "Hexagonal",
    "KernelGeometry",
    "PixelGraph",
    "Sites",
    "ToPixelGraph",
    "Torus",
    "backend",
    "connect",
    "errors",
    "excite",
    "explain",
    "explore",
    "functional",
    "nn",
    "prove",
    "receptive_field",
    "summary",
    "to_dense",
    "to_graph",
]
