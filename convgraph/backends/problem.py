"""What a backend is asked: an operator on typed edges, described by static facts only.

A `Problem` never holds feature values, so that the choice of a backend is the same on every rank
and in every run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges
from convgraph.graph.typed_edges import TypedEdges

TAPPED = "hooks or an explainer listen to single messages; only 'messages' has them"
"""Why every other backend refuses a problem whose messages somebody listens to."""

TapList = tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]
"""source (E,), target (E,), weight (E,) or None, and num_taps + 1 offsets; ordered by tap."""


class EdgeSource(Protocol):
    """What backends read of edges: those of a pixel graph, or any typed graph's."""

    @property
    def num_sources(self) -> int:
        """Nodes that can send."""

    @property
    def num_targets(self) -> int:
        """Sites that receive."""

    @property
    def num_taps(self) -> int:
        """Edge types."""

    @property
    def num_edges(self) -> int:
        """Edges; on a full grid counted, not built."""

    @property
    def edge_index(self) -> Tensor:
        """(2, E) source and target of each edge."""

    @property
    def edge_type(self) -> Tensor:
        """(E,) tap of each edge."""

    @property
    def edge_weight(self) -> Tensor | None:
        """(E,) weight of each edge, or None."""

    @property
    def is_grid(self) -> bool:
        """Whether both ends are full grids of one size."""

    @property
    def is_self_loops(self) -> bool:
        """Whether the edges are one self-loop per node, in node order."""

    @property
    def injective(self) -> bool:
        """Whether within one tap no source appears twice."""

    @property
    def single_valued(self) -> bool:
        """Whether within one tap no target appears twice."""

    def by_tap(self) -> TapList:
        """The edge list ordered by tap."""


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """One operator on one set of edges, without its numbers.

    Attributes:
        op: the operator's family, a key of `convgraph.backends.TABLES`.
        edges: who talks to whom.
        in_channels: features per source.
        out_channels: features per target.
        groups: blocks of channels that do not mix.
        dtype: of the features.
        device: of the features.
        weight_needs_grad: whether edge weights are to be differentiated.
        static: whether x has a leading batch of feature sets on one graph, (B, N, C).
        tapped: whether somebody listens to single messages (PyG hooks, an explainer's mask).
        ieee: whether these are float32 convolutions on CUDA that may not use TF32.
        transposed: whether the weight is that of a transposed convolution, (C_in, C_out / G, ...).
        propagate: the layer's own `propagate`, which hands messages to whoever listens; no choice
            looks at it.
    """

    op: str
    edges: Edges | TypedEdges
    in_channels: int
    out_channels: int
    groups: int
    dtype: torch.dtype
    device: torch.device
    weight_needs_grad: bool = False
    static: bool = False
    tapped: bool = False
    ieee: bool = False
    transposed: bool = False
    propagate: Callable[..., Any] | None = None

    @property
    def facts(self) -> tuple[Any, ...]:
        """Everything but the edges, hashable, to keep with them what follows."""
        return tuple([getattr(self, name) for name in _FACTS])

    @classmethod
    def of(cls, edges: Edges, facts: tuple[Any, ...]) -> "Problem":
        """Put a problem together again from its edges and its facts."""
        return cls(edges=edges, **dict(zip(_FACTS, facts, strict=True)))

    @property
    def depthwise(self) -> bool:
        """Whether each channel is a group of its own, at both ends."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def macs_per_edge(self) -> int:
        """Multiply-adds for one edge: C_out * C_in / groups for a convolution, C otherwise."""
        if self.op == "conv":
            return self.out_channels * (self.in_channels // self.groups)
        return self.out_channels


def off_lattice(problem: Problem) -> str | None:
    """Say why a kernel that reads neighbours on a lattice cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    edges = problem.edges
    if not isinstance(edges, Edges) or not isinstance(edges.relation, KernelGeometry):
        return "neighbours are looked up by the edges of a kernel on a lattice"
    return bent(edges)


def bent(edges: Edges) -> str | None:
    """Say why edges that a space bends serve no kernel that counts along axes, or None."""
    if edges.space is None:
        return None
    return f"taps are looked up along the axes of a plane, these sites lie on {edges.space}"


_FACTS = tuple(name for name in Problem.__dataclass_fields__ if name not in ("edges", "propagate"))


def kernel_of(edges: Edges) -> KernelGeometry:
    """Return the kernel that the edges of a convolution come from."""
    if not isinstance(edges.relation, KernelGeometry):
        raise TypeError(
            f"a convolution needs a KernelGeometry, got {type(edges.relation).__name__}"
        )
    return edges.relation
