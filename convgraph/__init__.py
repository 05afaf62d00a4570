"""convgraph: convolutions as message passing on pixel graphs, proven equal to their dense twins."""

from convgraph import errors, functional, nn
from convgraph.backends import backend
from convgraph.convert import receptive_field, summary, to_dense, to_graph
from convgraph.edges import Edges, connect
from convgraph.excite import excite
from convgraph.explanation import explain
from convgraph.explorer import explore
from convgraph.geometry import KernelGeometry
from convgraph.graph import PixelGraph
from convgraph.prove import prove
from convgraph.sides import AsNodes
from convgraph.sites import Sites
from convgraph.transforms import ToPixelGraph

__version__ = "0.1.0"

__all__ = [
    "AsNodes",
    "Edges",
    "KernelGeometry",
    "PixelGraph",
    "Sites",
    "ToPixelGraph",
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
