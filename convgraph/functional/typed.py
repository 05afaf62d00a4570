"""Pools and resizes on any typed graph, beside the layers that take `TypedEdges`.

max    y[p] = max over taps t of  what t reads at p          over no message: 0, gradient 0
avg    y[p] = (sum over edges of  w x[q]) / (sum of w)        over no message: 0
resize y[p] = sum over edges of  w x[q]
"""

import torch
from torch import Tensor

from convgraph import arguments
from convgraph.backends.gather import edges as gather
from convgraph.backends.gather import maxima
from convgraph.door import door
from convgraph.errors import GraphError, ShapeError
from convgraph.graph.typed_edges import TypedEdges


@door
def typed_max_pool(
    x: Tensor,  # (N, C)
    edges: TypedEdges,
) -> Tensor:
    """Return (P, C): the maximum over taps of the weighted sum of each tap's sources.

    Raises:
        GraphError, ShapeError: no `TypedEdges`, or another number of nodes.

    Example:
        >>> edges = TypedEdges(torch.tensor([[0, 1, 2], [0, 0, 1]]), torch.tensor([0, 1, 0]),
        ...                    sizes=(3, 2))
        >>> typed_max_pool(torch.tensor([[1.0], [5.0], [-2.0]]), edges).flatten().tolist()
        [5.0, -2.0]
    """
    _check("typed_max_pool", x, edges)
    if edges.edge_weight is not None or not edges.single_valued:
        arguments.added("typed_max_pool", x.dtype, whole=edges.edge_weight is None)
    return maxima.between(x, edges)


@door
def typed_resize(
    x: Tensor,  # (N, C)
    edges: TypedEdges,
) -> Tensor:
    """Return (P, C): the weighted sum of the sources of each target; nothing is renormalised.

    Example:
        >>> weight = torch.tensor([0.25, 0.75])
        >>> edges = TypedEdges(torch.tensor([[0, 1], [0, 0]]), torch.tensor([0, 1]), weight, (2, 1))
        >>> typed_resize(torch.tensor([[4.0], [8.0]]), edges).item()
        7.0
    """
    _check("typed_resize", x, edges)
    arguments.added("typed_resize", x.dtype, whole=edges.edge_weight is None)
    ones = x.new_ones(()).expand(edges.num_taps, x.shape[1], 1, 1)
    return gather.summed(x, ones, edges)


@door
def typed_avg_pool(
    x: Tensor,  # (N, C)
    edges: TypedEdges,
) -> Tensor:
    """Return (P, C): the weighted mean of the sources of each target.

    Example:
        >>> edges = TypedEdges(torch.tensor([[0, 1], [0, 0]]), torch.tensor([0, 1]), sizes=(2, 2))
        >>> typed_avg_pool(torch.tensor([[4.0], [8.0]]), edges).flatten().tolist()
        [6.0, 0.0]
    """
    total = typed_resize(x, edges)
    weight = edges.edge_weight
    if weight is None:
        weight = torch.ones(edges.num_edges, device=x.device)
    count = x.new_zeros(edges.num_targets).index_add(0, edges.edge_index[1], weight.to(x.dtype))
    return torch.where((count != 0)[:, None], total / torch.where(count == 0, 1, count)[:, None], 0)


def _check(who: str, x: Tensor, edges: TypedEdges) -> None:
    if not isinstance(edges, TypedEdges):
        raise GraphError(f"{who}: expected TypedEdges, got {type(edges).__name__}")
    if x.dim() != 2 or x.shape[0] != edges.num_sources:
        raise ShapeError(
            f"{who}: expected x of shape (N, C) with N = {edges.num_sources} sources, got "
            f"{tuple(x.shape)}"
        )
