"""Operators on pixel graphs as functions: validate, choose a backend, call it.

One file a family; layers in `convgraph.nn` are parameters plus one call of these.
"""

from convgraph.functional.conv import graph_conv, typed_conv
from convgraph.functional.pool import graph_avg_pool, graph_lp_pool, graph_max_pool
from convgraph.functional.rearrange import (
    graph_fold,
    graph_pixel_shuffle,
    graph_pixel_unshuffle,
    graph_unfold,
)
from convgraph.functional.resize import graph_resize
from convgraph.functional.typed import typed_avg_pool, typed_max_pool, typed_resize

__all__ = [
    "graph_avg_pool",
    "graph_conv",
    "graph_fold",
    "graph_lp_pool",
    "graph_max_pool",
    "graph_pixel_shuffle",
    "graph_pixel_unshuffle",
    "graph_resize",
    "graph_unfold",
    "typed_avg_pool",
    "typed_conv",
    "typed_max_pool",
    "typed_resize",
]
