"""Typed edges: a relation on the sites of a graph.

There is an edge q --t--> p exactly when q = q(p, t) is a node of the source and p a site of the
target. `connect` decides the target's sites and returns an `Edges` record that costs nothing until
somebody asks for the list itself; then it is built once, in vectorised integer arithmetic, ordered
by tap and, within a tap, by target.
"""

from functools import reduce
from math import prod
from typing import Any, TypeVar, final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph import memo
from convgraph.door import door
from convgraph.errors import GeometryError, GraphError
from convgraph.geometry.footprint import Footprint, taps_there
from convgraph.geometry.kernel import Relation
from convgraph.graph import edge_list, space_edges
from convgraph.graph.output_sites import target_sites
from convgraph.graph.sites import Sites
from convgraph.memo import Kept, Memo, Record, derived, once

R = TypeVar("R")


@final
class Edges(Record):
    """Who talks to whom: the typed edges of one relation between two sets of sites.

    Attributes:
        relation: the geometry that the edges come from.
        source: sites that send messages.
        target: sites that receive them.
        space: of both ends, where it bends the edges; None in the plane and where it is flat.
        is_grid: whether both ends are full grids of one size, so that a dense operator applies.

    Example:
        >>> from convgraph.geometry import KernelGeometry
        >>> edges = connect(KernelGeometry(3, padding=1), Sites.full(1, (4, 4)))
        >>> edges.edge_index.shape, int(edges.edge_type.max())
        (torch.Size([2, 100]), 8)
    """

    @door
    def __init__(self, relation: Relation, source: Sites, target: Sites) -> None:
        """Keep the three parts; nothing of the size of the edge list is computed here."""
        _ = relation.d
        self.relation = relation
        self.source = source
        self.target = target
        space = source.space
        self.space = None if space is None or space.flat else space
        ends = (source, target)
        self.is_grid = self.space is None and all(s.mask is None and s.size for s in ends)
        self._memo = Memo()

    @property
    def num_sources(self) -> int:
        """Nodes that can send."""
        return self.source.num_nodes

    @property
    def num_targets(self) -> int:
        """Sites that receive; equal to the number of rows of a layer's output."""
        return self.target.num_nodes

    @property
    def is_self_loops(self) -> bool:
        """Whether the edges are exactly one self-loop per node, in node order."""
        return bool(getattr(self.relation, "is_pointwise", False)) and self.target is self.source

    @property
    def num_taps(self) -> int:
        """Edge types."""
        known: int | None = getattr(self.relation, "num_taps", None)
        return self._num_taps if known is None else known

    @derived
    def _num_taps(self) -> int:
        return prod(edge_list.taps_per_axis(self.relation, self.source))

    @property
    def footprint(self) -> Footprint | None:
        """One bool a tap: whether it is there at all; None where every tap is."""
        return taps_there(self.relation)

    @property
    def num_edges(self) -> int:
        """Length of the edge list; asking builds it on a mask and counts on a full grid."""
        if torch.compiler.is_dynamo_compiling():
            return int(memo.read(self, "num_edges"))
        if self.is_grid and "_list" not in self._memo:
            counts = [
                (self.relation.axis_sources(axis, n) >= 0).sum(axis=0)
                for axis, n in enumerate(self.source.size or ())
            ]
            by_tap = reduce(np.multiply.outer, counts).ravel()
            there = slice(None) if self.footprint is None else np.array(self.footprint)
            return self.source.batch_size * int(by_tap[there].sum())
        return self.tap_ptr[-1]

    @property
    def edge_index(self) -> Tensor:
        """(2, E) int64: row 0 the source node, row 1 the target node of each edge."""
        return self._list[0]

    @derived
    def edge_type(self) -> Tensor:
        """(E,) int64, ascending: the tap of each edge, row-major over the kernel."""
        ptr = self.tap_ptr
        types = torch.empty(ptr[-1], dtype=torch.int64, device=self.source.device)
        for tap in range(len(ptr) - 1):
            types[ptr[tap] : ptr[tap + 1]] = tap
        return types

    @derived
    def edge_weight(self) -> Tensor | None:
        """(E,) float64 weight of each edge, or None when every edge counts once."""
        if self.space is not None:
            return self.memo_of(_in_space)[2]
        return edge_list.weights(
            self.relation, self.source, self.target, self.edge_index, self.edge_type
        )

    @property
    def tap_ptr(self) -> tuple[int, ...]:
        """num_taps + 1 ints: edges of tap t are tap_ptr[t]:tap_ptr[t + 1]."""
        return self._list[1]

    @derived
    def all_hear(self) -> bool:
        """Whether every target of a full grid hears some source; counted axis by axis."""
        if self.footprint is not None:
            return len(self.edge_index[1].unique()) == self.num_targets
        return all(
            bool((self.relation.axis_sources(axis, n) >= 0).any(1).all())
            for axis, n in enumerate(self.source.size or ())
        )

    @property
    def injective(self) -> bool:
        """Whether within one tap no source appears twice, so that reversed edges do not collide."""
        if self.space is not None:
            return self.memo_of(_distinct, 0)
        return not bool(getattr(self.relation, "folds", True))

    @property
    def single_valued(self) -> bool:
        """Whether within one tap no target appears twice; so for every relation of the plane."""
        return self.space is None or self.memo_of(_distinct, 1)

    def by_tap(self) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]:
        """The list as it is kept: source (E,), target (E,), weight (E,) or None, tap offsets."""
        source, target = self.edge_index
        return source, target, self.edge_weight, self.tap_ptr

    @derived
    def _list(self) -> edge_list.EdgeList:
        if self.space is not None:
            return self.memo_of(_in_space)[:2]
        return edge_list.build(self.relation, self.source, self.target)

    def __eq__(self, other: object) -> bool:
        """Identity, as for sites."""
        return self is other

    def __hash__(self) -> int:
        """Identity."""
        return id(self)

    def __repr__(self) -> str:
        """Say how many nodes talk to how many, through how many taps."""
        built = f"{self.num_edges} edges" if self.is_grid or "_list" in self._memo else "unbuilt"
        return (
            f"Edges({self.num_sources} -> {self.num_targets} nodes, {self.num_taps} taps, {built})"
        )


def _in_space(edges: Edges) -> space_edges.Weighted:
    """The list as a space tells it."""
    return space_edges.build(edges.relation, edges.source, edges.target)


def _distinct(edges: Edges, end: int) -> bool:
    """Whether within one tap no source (end 0) or no target (1) appears twice."""
    nodes = max(edges.num_sources, edges.num_targets)
    return len((edges.edge_type * nodes + edges.edge_index[end]).unique()) == edges.num_edges


def connect(relation: Relation, graph: Any, sites: Any = None) -> Edges:
    """Return the typed edges of a geometry on a graph.

    The target's sites: a full grid sends to the full output lattice; on a mask, stride 1 and an
    unchanged size keep the sites, anything else keeps every output site that some node reaches;
    `sites` names them exactly. One mask makes the whole batch masked: beside it an image without
    holes has the output sites that it reaches, while alone it is a full grid and has them all. (The
    two differ where padding exceeds the kernel's reach.)

    Args:
        relation: a KernelGeometry, or any other separable relation.
        graph: a PixelGraph or Sites.
        sites: a PixelGraph, Sites, or a bool mask (B, *output_size) that names the output sites;
            "reached", every output site that some node reaches, also where stride 1 would keep the
            sites (as partial and generalised convolutions grow them); or "network",
            the rule by which a whole network has one site set per size (see
            `convgraph.graph.output_sites`).

    Returns:
        Edges; the list is built when asked for. The same arguments give the same record.

    Raises:
        GraphError: the graph has another dimension, or `sites` another size than the output.
        GeometryError: the kernel does not fit the lattice.

    Example:
        >>> from convgraph.geometry import KernelGeometry
        >>> connect(KernelGeometry(2, stride=2), Sites.full(1, (4, 4)))
        Edges(16 -> 4 nodes, 4 taps, 16 edges)
    """
    source = _sites_of(graph)
    if not hasattr(relation, "axis_sources"):
        raise GeometryError(
            f"connect: expected a KernelGeometry or another relation, got {type(relation).__name__}"
        )
    if source.d != relation.d:
        raise GraphError(
            f"expected a graph of {relation.d} dimensions, got one of {source.d} "
            f"(sizes {source.sizes[:3]}); build the geometry with d={source.d}"
        )
    space = source.space
    if space is not None:
        source.memo("lies", lambda: [space.charts(size) for size in set(source.sizes)])
        relation = _seen(relation, source, space)
    if not (sites is None or isinstance(sites, (str, Tensor))):
        sites = _sites_of(sites)
    if isinstance(sites, Tensor) and torch.compiler.is_dynamo_compiling():
        raise GraphError("while compiling, name sites by a PixelGraph or Sites made before")
    if torch.compiler.is_dynamo_compiling():
        # Not every compiler takes a frozen dataclass for a constant, but all take its fields.
        kind: Any = type(relation)
        names = tuple(kind.__dataclass_fields__)
        values = tuple([getattr(relation, name) for name in names])
        fields = (kind, names, values)
        return memo.result(source, _connect_fields, fields, source, sites)
    return _connect(relation, source, sites)


def _seen(relation: Relation, source: Sites, space: Any) -> Relation:
    """The relation as a space has it, kept with the sites."""
    seen: Relation
    if torch.compiler.is_dynamo_compiling():
        seen = space.seen(relation)
    else:
        value = getattr(relation, "key", relation)
        seen = source.memo(("seen", value), lambda: space.seen(relation))
    return seen


def kept_relation(sites: Sites, kind: type[R], *args: Any) -> R:
    """Return `kind(*args)`, kept with the sites: a warmed-up call finds its geometry."""
    if torch.compiler.is_dynamo_compiling():
        return memo.result(sites, kind, *args)
    # Told apart as they are written: 3.0 is no 3, and is refused.
    return sites.memo((kind, repr(args)), lambda: kind(*args))


def _connect_fields(
    fields: tuple[Any, tuple[str, ...], tuple[Any, ...]], source: Sites, sites: Sites | str | None
) -> Edges:
    """Find or make the record for the relation of these fields, which have been checked."""
    kind, names, values = fields
    relation: Relation = object.__new__(kind)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(relation, name, value)
    return _connect(relation, source, sites)


def _connect(relation: Relation, source: Sites, sites: Sites | Tensor | str | None) -> Edges:
    """Find or make the record."""
    target = target_sites(relation, source, sites)
    value = getattr(relation, "key", relation)
    if sites is None or isinstance(sites, str):  # targets of the rule live as long as their source
        memo, key = source.memo_key, ("edges", value, target.token)
    else:
        # Named ones live for themselves, so the younger record keeps the edges for as long as the
        # older one can come back: neither a stream of masks nor one of named sites piles up on a
        # record that stays.
        young, old = (source, target) if source.serial > target.serial else (target, source)
        heard: WeakKeyDictionary[Memo, Memo] = young.memo("named", WeakKeyDictionary)
        memo, key = heard.setdefault(old.memo_key, Memo()), ("edges", value, target is young)
    kept = once(memo, key, lambda: Kept(Edges(relation, source, target), "source", "target"))
    return kept.record(source=source, target=target)


def _sites_of(graph: Any) -> Sites:
    sites = graph if isinstance(graph, Sites) else getattr(graph, "sites", None)
    if not isinstance(sites, Sites):
        raise GraphError(
            f"expected a PixelGraph or Sites, got {type(graph).__name__}; "
            "wrap an image with PixelGraph.from_image(image)"
        )
    return sites


# Compilers may take the record for a constant.
pytree.register_constant(Edges)
