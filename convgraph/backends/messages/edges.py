"""Backend `messages`: PyG's propagate, one message per edge. The taught form.

    Wx[q, t] = W[:, :, t] x[q]             what node q would say through tap t, once per node
    message(q -> p through t) = Wx[q, t]   one row per edge
    y[p] = sum of the messages into p

No matrix is gathered per edge: the table Wx holds what every node can say, and an edge reads its
row. Serves every case; chosen for its generality, never for speed.

When: always possible, never chosen for speed.
"""

from collections.abc import Callable
from typing import Any, Optional, final

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from convgraph.backends import matrices
from convgraph.backends.problem import EdgeSource, Problem

NAME = "messages"

LAST_RESORT = True
"""Never chosen for speed: only where nobody else serves."""


def refuses(problem: Problem) -> str | None:
    """None: this backend serves every case."""


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: the table is written and read, messages twice."""
    edges = problem.edges
    table = edges.num_sources * edges.num_taps
    macs = table * problem.macs_per_edge
    moved = edges.num_sources * problem.in_channels + problem.out_channels * (
        2 * table + 4 * edges.num_edges + edges.num_targets
    )
    return float(macs), float(moved)


def say(
    x: Tensor,  # (..., N, C_in)
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
) -> Tensor:
    """Return Wx (..., N, K, C_out): what every node would say through every tap."""
    k, g, c_in, c_out = taps.shape
    grouped = x.unflatten(-1, (g, c_in))
    said = torch.einsum("...ngi,kgio->...nkgo", grouped, taps)
    return said.reshape(*x.shape[:-1], k, g * c_out)


def along_edges(
    Wx: Tensor,  # noqa: N803 - the equation's own name; (..., N, K, C_out)
    source: Tensor,  # (E,)
    edge_type: Tensor,  # (E,)
    edge_weight: Tensor | None,  # (E,)
) -> Tensor:
    """Return the messages (..., E, C_out): row (source, tap) of the table, times the weight."""
    num_taps = Wx.shape[-2]
    message = take(Wx.flatten(-3, -2), source * num_taps + edge_type, dim=-2)
    return message if edge_weight is None else message * edge_weight.unsqueeze(-1)


def take(rows: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    """Return the rows at `index` along a dimension; its backward adds in an order that repeats.

    On the CPU index_select's backward runs in order; on CUDA that of plain indexing sorts first.
    """
    if rows.device.type != "cuda":
        return rows.index_select(dim, index)
    return rows.movedim(dim, 0)[index].movedim(0, dim)


def sum_by_target(
    messages: Tensor,  # (..., E, C)
    target: Tensor,  # (E,)
    num_targets: int,
) -> Tensor:
    """Return (..., num_targets, C) sums; repeats bit for bit, also on CUDA.

    On the CPU index_add runs in order; on CUDA it would use atomics, while index_put with
    accumulate sorts first.
    """
    shape = (*messages.shape[:-2], num_targets, messages.shape[-1])
    zeros = messages.new_zeros(shape)
    if messages.device.type != "cuda":
        return zeros.index_add(-2, target, messages)
    rows = zeros.movedim(-2, 0).index_put((target,), messages.movedim(-2, 0), accumulate=True)
    return rows.movedim(0, -2)


@final
class Propagation(MessagePassing):  # type: ignore[misc]  # PyG ships no types for it
    """The equation as a MessagePassing without parameters; layers bring their own."""

    # PyG reads the arguments of `propagate` from the next line, for nobody here calls it on self.
    # propagate_type: (Wx: Tensor, edge_type: Tensor, edge_weight: Optional[Tensor])

    def __init__(self) -> None:
        """Sum what arrives."""
        super().__init__(aggr="sum", node_dim=-2)

    def message(
        self,
        Wx: Tensor,  # noqa: N803 - the equation's own name
        edge_index_j: Tensor,
        edge_type: Tensor,
        edge_weight: Optional[Tensor],  # noqa: UP045 - PyG reads this form only
    ) -> Tensor:
        """Message of the edge q --t--> p:  W[:, :, t] x[q]."""
        return along_edges(Wx, edge_index_j, edge_type, edge_weight)

    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """y[p] = sum of the messages into p."""
        return sum_by_target(inputs, index, dim_size)


_PROPAGATE = Propagation()


def summed(
    x: Tensor,  # (..., N, C_in)
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
    edges: EdgeSource,
    propagate: Callable[..., Any] | None = None,
) -> Tensor:
    """Return y (..., num_targets, C_out) without bias.

    Args:
        x: node features; leading dimensions are feature sets on one graph.
        taps: one matrix per edge type and group.
        edges: typed edges.
        propagate: a layer's own `propagate`, so that its hooks and masks see the messages.
    """
    edge_index = edges.edge_index
    size = (edges.num_sources, edges.num_targets)
    module = getattr(propagate, "__self__", None)
    if getattr(module, "flow", "") == "target_to_source":
        edge_index, size = edge_index.flip(0), size[::-1]
    weight = edges.edge_weight
    out: Tensor = (_PROPAGATE.propagate if propagate is None else propagate)(
        edge_index,
        size=size,
        Wx=say(x, taps),
        edge_type=edges.edge_type,
        edge_weight=None if weight is None else weight.to(x.dtype),
    )
    return out


@matrices.widened
def conv(
    x: Tensor,  # (..., N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: EdgeSource,
    problem: Problem,
) -> Tensor:
    """Return y (..., num_targets, C_out), bias included."""
    taps = matrices.of_taps(weight, problem.groups, transposed=problem.transposed)
    y = summed(x, taps, edges, problem.propagate)
    return y if bias is None else y + bias
