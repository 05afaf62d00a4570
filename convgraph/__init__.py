"""convgraph: convolutions as message passing on pixel graphs, proven equal to their dense twins."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convgraph import errors, functional, nn
from convgraph.backends import backend
from convgraph.comparison.callers import AsNodes
from convgraph.comparison.excite import excite
from convgraph.comparison.prove import prove
from convgraph.convert import summary, to_dense, to_graph
from convgraph.explanation import explain
from convgraph.explorer import explore
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph, cat
from convgraph.graph.sites import Sites
from convgraph.graph.transforms import ToPixelGraph
from convgraph.graph.typed_edges import TypedEdges
from convgraph.spaces import Equirectangular, HEALPix, Hexagonal, Torus

if TYPE_CHECKING:
    from convgraph.scale.halo import halo
    from convgraph.scale.reach import receptive_field
    from convgraph.scale.sharded import sharded
    from convgraph.scale.streamed import streamed
    from convgraph.scale.tiled import tiled

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
    "TypedEdges",
    "backend",
    "cat",
    "connect",
    "errors",
    "excite",
    "explain",
    "explore",
    "functional",
    "halo",
    "nn",
    "prove",
    "receptive_field",
    "sharded",
    "streamed",
    "summary",
    "tiled",
    "to_dense",
    "to_graph",
]

_LATER = {
    "receptive_field": "scale.reach",
    **{name: f"scale.{name}" for name in ("halo", "sharded", "streamed", "tiled")},
}
"""Names whose files are read when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
