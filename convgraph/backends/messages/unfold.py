"""Backend `messages` of unfold and fold: PyG's propagate, one message per edge. The taught form.

unfold:  message(q --t--> p) = x[q],         what arrives through tap t goes into slot t of p
fold:    message(q --t--> p) = z[q, :, t],   what arrives at p is added
"""

from typing import final

from torch import Tensor
from torch_geometric.nn import MessagePassing

from convgraph.backends.messages import edges as messages
from convgraph.backends.problem import EdgeSource, Problem

NAME = messages.NAME

refuses, LAST_RESORT = messages.refuses, messages.LAST_RESORT


def work(problem: Problem) -> tuple[float, float]:
    """Additions and elements moved: messages are written and read, then every slot is."""
    edges = problem.edges
    channels = min(problem.in_channels, problem.out_channels)  # the wide side holds K of them
    adds = edges.num_edges * channels
    moved = 4 * adds + edges.num_targets * problem.out_channels
    return float(adds), float(moved)


@final
class Unfolding(MessagePassing):  # type: ignore[misc]  # PyG ships no types for it
    """Everything a site hears, side by side."""

    # PyG reads the arguments of `propagate` from the next line, for nobody here calls it on self.
    # propagate_type: (spoken: Tensor, edge_type: Tensor, num_taps: int)

    def __init__(self) -> None:
        """Aggregate by `aggregate`."""
        super().__init__(aggr="sum", node_dim=-2)

    def message(
        self,
        spoken: Tensor,  # (N, C)
        edge_index_j: Tensor,  # (E,) q, the node that speaks
    ) -> Tensor:
        """Message of every edge out of q: x[q]."""
        return spoken[edge_index_j]

    def aggregate(
        self,
        inputs: Tensor,  # (E, C)
        index: Tensor,  # (E,)
        edge_type: Tensor,  # (E,)
        num_taps: int,
        dim_size: int,
    ) -> Tensor:
        """y[p, :, t] = the message that arrives through t; at most one does."""
        slots = messages.sum_by_target(inputs, index * num_taps + edge_type, dim_size * num_taps)
        return slots.view(dim_size, num_taps, inputs.shape[1]).transpose(1, 2).flatten(1)


@final
class Folding(MessagePassing):  # type: ignore[misc]  # PyG ships no types for it
    """Every slot of a column goes back to where it came from; what meets there is added."""

    # propagate_type: (columns: Tensor, edge_type: Tensor)

    def __init__(self) -> None:
        """Aggregate by `aggregate`."""
        super().__init__(aggr="sum", node_dim=-2)

    def message(
        self,
        columns: Tensor,  # (N, C, K)
        edge_index_j: Tensor,  # (E,)
        edge_type: Tensor,  # (E,)
    ) -> Tensor:
        """Message of the edge q --t--> p: slot t of column q."""
        return columns[edge_index_j, :, edge_type]

    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """y[p] = sum of the messages into p."""
        return messages.sum_by_target(inputs, index, dim_size)


_UNFOLD = Unfolding()
_FOLD = Folding()


def unfold(
    x: Tensor,  # (N, C)
    edges: EdgeSource,
) -> Tensor:
    """Return (num_targets, C * K), channel c of tap t in column c * K + t."""
    out: Tensor = _UNFOLD.propagate(
        edges.edge_index,
        size=(edges.num_sources, edges.num_targets),
        spoken=x,
        edge_type=edges.edge_type,
        num_taps=edges.num_taps,
    )
    return out


def fold(
    x: Tensor,  # (N, C * K)
    edges: EdgeSource,
) -> Tensor:
    """Return (num_targets, C), the sums of what arrives."""
    out: Tensor = _FOLD.propagate(
        edges.edge_index,
        size=(edges.num_sources, edges.num_targets),
        columns=x.unflatten(1, (-1, edges.num_taps)),
        edge_type=edges.edge_type,
    )
    return out
