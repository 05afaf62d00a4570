"""Whole networks on pixel graphs: a tensor whose pixels are nodes, and what is built on it.

A small rule says what each of torch's operators means on nodes; a network runs as it is.
"""

from convgraph.convert import functions
from convgraph.convert.network import GraphNetwork, to_dense, to_graph
from convgraph.convert.receptive import ReceptiveField, receptive_field
from convgraph.convert.report import Conversion, Line
from convgraph.convert.summary import Row, Summary, summary
from convgraph.convert.tensor import GraphTensor

REGISTERED = functions.__name__
"""What has to be imported before the first map is made."""

__all__ = [
    "Conversion",
    "GraphNetwork",
    "GraphTensor",
    "Line",
    "ReceptiveField",
    "Row",
    "Summary",
    "receptive_field",
    "summary",
    "to_dense",
    "to_graph",
]
