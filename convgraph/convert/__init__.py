"""Whole networks on pixel graphs: `to_graph`, `to_dense` and what can be said of the result.

A network is captured as a list of torch's operators; a small rule says what each means on nodes.
"""

from convgraph.convert.network import GraphNetwork, to_dense, to_graph
from convgraph.convert.receptive import ReceptiveField, receptive_field
from convgraph.convert.report import Conversion, Line
from convgraph.convert.summary import Row, Summary, summary

__all__ = [
    "Conversion",
    "GraphNetwork",
    "Line",
    "ReceptiveField",
    "Row",
    "Summary",
    "receptive_field",
    "summary",
    "to_dense",
    "to_graph",
]
