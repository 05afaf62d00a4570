"""How many edges a topology has, without listing them."""

import torch

from convgraph import autocast
from convgraph.backends import matrices
from convgraph.backends.dense import conv as dense
from convgraph.backends.problem import kernel_of
from convgraph.graph.edges import Edges


def count_edges(edges: Edges) -> int:
    """Return the number of edges without listing them: a dense kernel of ones counts sources."""
    source, target = edges.source, edges.target
    if source.size is None or edges.space or 0 in (source.num_nodes, target.num_nodes):
        return edges.num_edges
    ones = torch.ones((1, 1, *kernel_of(edges).kernel_size))  # no pixel hears more than 2^24 taps
    full = torch.ones(source.num_cells, dtype=torch.bool) if source.mask is None else source.mask
    rows = full.to(ones.device, ones.dtype).unsqueeze(1)
    with autocast.off(rows.device):
        whole = matrices.there(ones, edges)
        heard = dense.convolution(rows, whole, None, edges, groups=1).squeeze(1).round()
    heard = heard if target.mask is None else heard[target.mask.to(ones.device)]
    return int(heard.sum(dtype=torch.float64))
