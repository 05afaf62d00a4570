"""Typed edges of any graph: superpixels, retinas, meshes, sorted once and kept.

    y[p] = b + sum over edges q --t--> p of  weight W[:, :, t] x[q]

Edges of a pixel graph follow from a relation, see `convgraph.connect`; these are listed by whoever
made the graph.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from convgraph.door import door
from convgraph.errors import DeviceError, DtypeError, EdgeError, GraphError, ShapeError
from convgraph.geometry.kernel import as_int
from convgraph.memo import Memo, once

T = TypeVar("T")


@final
class TypedEdges:
    """A list of typed edges, in whatever order; what is derived from it is worked out once.

    Args:
        edge_index: (2, E) integers, row 0 the node that speaks, row 1 the one that hears.
        edge_type: (E,) integers, the tap of each edge.
        edge_weight: (E,) floating, or None where every edge counts once. Several edges into one
            node through one tap are one message: the sum of what they say.
        sizes: number of sources and of targets; an int where they are the same nodes.
        num_taps: edge types; None takes one more than the largest type that occurs.

    Raises:
        GraphError, ShapeError, DtypeError, DeviceError: lists that do not fit each other.
        EdgeError: a node or a tap that does not exist.

    Example:
        >>> import convgraph as cg
        >>> ring = torch.tensor([[2, 0, 1, 0, 1, 2, 1, 2, 0], [0, 1, 2, 0, 1, 2, 0, 1, 2]])
        >>> edges = cg.TypedEdges(ring, torch.arange(3).repeat_interleave(3), sizes=3)
        >>> conv = cg.nn.GraphConv1d(1, 1, 3, bias=False)
        >>> _ = torch.nn.init.ones_(conv.weight)
        >>> conv(torch.tensor([[1.0], [2.0], [3.0]]), edges).flatten().tolist()
        [6.0, 6.0, 6.0]
    """

    is_grid = False
    is_self_loops = False
    injective = False
    single_valued = False

    @door
    def __init__(
        self,
        edge_index: Tensor,
        edge_type: Tensor,
        edge_weight: Tensor | None = None,
        sizes: int | tuple[int, int] | None = None,
        *,
        num_taps: int | None = None,
    ) -> None:
        """Check the lists; nothing is sorted before somebody asks."""
        who = "TypedEdges"
        if sizes is None:
            raise GraphError(
                f"{who}: expected sizes=(sources, targets) or an int; the number of nodes is never "
                "inferred from the largest index"
            )
        pair = (sizes, sizes) if isinstance(sizes, (int, Integral)) else tuple(sizes)
        if len(pair) != 2:
            raise GraphError(f"{who}: expected sizes=(sources, targets), got {sizes!r}")
        self.num_sources, self.num_targets = (as_int(f"{who}: sizes", n, least=0) for n in pair)
        _check_lists(who, edge_index, edge_type, edge_weight)
        known = int(edge_type.max()) + 1 if edge_type.numel() else 0
        self.num_taps = known if num_taps is None else as_int(f"{who}: num_taps", num_taps, least=1)
        for name, row, limit in (
            ("edge_index[0] (sources)", edge_index[0], self.num_sources),
            ("edge_index[1] (targets)", edge_index[1], self.num_targets),
            ("edge_type", edge_type, self.num_taps),
        ):
            if row.numel() and not bool(((row >= 0) & (row < limit)).all()):
                raise EdgeError(
                    f"{who}: expected every entry of {name} in [0, {limit}), got "
                    f"{int(row.min())} to {int(row.max())}"
                )
        self.edge_index, self.edge_type = edge_index.long(), edge_type.long()
        self.edge_weight = edge_weight
        self._memo = Memo()

    @classmethod
    def unchecked(
        cls,
        edge_index: Tensor,
        edge_type: Tensor,
        edge_weight: Tensor | None,
        *,
        num_sources: int,
        num_targets: int,
        num_taps: int,
    ) -> "TypedEdges":
        """Keep lists that have been checked."""
        made = object.__new__(cls)
        made.edge_index, made.edge_type, made.edge_weight = edge_index, edge_type, edge_weight
        made.num_sources, made.num_targets, made.num_taps = num_sources, num_targets, num_taps
        made._memo = Memo()
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the lists; what follows from them is worked out where they arrive."""
        lists = (self.edge_index, self.edge_type, self.edge_weight)
        return _unpickled, (*lists, (self.num_sources, self.num_targets), self.num_taps)

    @property
    def num_edges(self) -> int:
        """Length of the edge list."""
        return self.edge_index.shape[1]

    def memo_of(self, make: Callable[..., T], *args: Any) -> T:
        """Return make(self, *args), made once; `make` is a function of a module."""
        return once(self._memo, (make, *args), lambda: make(self, *args))

    @door
    def with_taps(self, num_taps: int) -> "TypedEdges":
        """The same edges for a kernel of more taps, some of which nobody uses; kept."""
        return self.memo_of(_with_taps, num_taps)

    def by_tap(self) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]:
        """Source, target and weight ordered by tap, equal taps in their order, and tap offsets."""
        source, target, order, ptr = self.memo_of(_sorted)
        return source, target, None if self.edge_weight is None else self.edge_weight[order], ptr

    def __repr__(self) -> str:
        """Say how many nodes talk to how many, through how many taps."""
        return (
            f"TypedEdges({self.num_sources} -> {self.num_targets} nodes, {self.num_taps} taps, "
            f"{self.num_edges} edges)"
        )


def _with_taps(edges: TypedEdges, num_taps: int) -> TypedEdges:
    return TypedEdges.unchecked(
        edges.edge_index,
        edges.edge_type,
        edges.edge_weight,
        num_sources=edges.num_sources,
        num_targets=edges.num_targets,
        num_taps=num_taps,
    )


def _sorted(edges: TypedEdges) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    order = edges.edge_type.argsort(stable=True)
    counts = torch.bincount(edges.edge_type, minlength=edges.num_taps)
    ptr = (0, *counts.cumsum(0).tolist())
    return edges.edge_index[0, order], edges.edge_index[1, order], order, ptr


def _check_lists(who: str, edge_index: Any, edge_type: Any, edge_weight: Any) -> None:
    named = {"edge_index": edge_index, "edge_type": edge_type, "edge_weight": edge_weight}
    for name, one in named.items():
        if one is None and name == "edge_weight":
            continue
        if not isinstance(one, Tensor):
            raise GraphError(f"{who}: expected {name} as a tensor, got {type(one).__name__}")
        if one.layout != torch.strided:
            raise GraphError(f"{who}: expected {name} as a dense tensor, got {one.layout}")
        if one.is_floating_point() != (name == "edge_weight") or one.dtype == torch.bool:
            raise DtypeError(f"{who}: {name} has dtype {one.dtype}")
        if one.device != edge_index.device:
            raise DeviceError(f"{who}: edge_index on {edge_index.device}, {name} on {one.device}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ShapeError(f"{who}: expected edge_index (2, E), got {tuple(edge_index.shape)}")
    for name in ("edge_type", "edge_weight"):
        if named[name] is not None and tuple(named[name].shape) != (edge_index.shape[1],):
            raise ShapeError(
                f"{who}: expected {name} of shape (E,) = ({edge_index.shape[1]},), got "
                f"{tuple(named[name].shape)}"
            )


def _unpickled(index: Any, types: Any, weight: Any, sizes: Any, num_taps: Any) -> TypedEdges:
    """The edges of these lists, checked anew; a file may say anything."""
    return TypedEdges(index, types, weight, sizes, num_taps=num_taps or None)


torch.serialization.add_safe_globals([_unpickled])
