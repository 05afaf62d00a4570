"""Operators on pixel graphs as functions: validate, choose a backend, call it.

One file a family; layers in `convgraph.nn` are parameters plus one call of these.
"""

from convgraph.functional.conv import graph_conv, typed_conv

__all__ = ["graph_conv", "typed_conv"]
