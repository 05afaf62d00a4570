"""Pairs: the edges of attention, the complete graph of each group of nodes, as rows of features.

    x[e, heads]        e = (p, q), the node that asks and the node that is heard

A group is named by the leading axes: an image, or a window of an image. Absent nodes are in
no group.
"""

import copy
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.messages.edges import take
from convgraph.convert.names import (
    Axes,
    Name,
    NoRuleError,
    describe,
    is_plain,
    kinds,
    names,
    of_rows,
)
from convgraph.convert.value import Spatial, index
from convgraph.graph.sites import Sites


class Blocks:
    """Nodes packed by group: (G, M) rows of x, -1 where a group has fewer nodes."""

    def __init__(self, group: tuple[Name, ...], sites: Sites) -> None:
        """Sort the nodes by group; within one they keep their order."""
        count = prod(name.size for name in group)
        which = index(group, sites)
        order = torch.argsort(which, stable=True)
        sizes = torch.bincount(which, minlength=count)
        width = max(int(sizes.max()) if len(which) else 0, 1)
        start = sizes.cumsum(0) - sizes
        place = torch.arange(len(which), device=sites.device) - start[which[order]]
        self.row = torch.full((count, width), -1, device=sites.device)
        self.row[which[order], place] = order
        self.flat = torch.empty_like(order)
        self.flat[order] = which[order] * width + place

    def lent(self, by: Any) -> "Blocks":
        """The same in a tracer's tensors; see `convgraph.memo.lending`."""
        made = copy.copy(self)
        made.row, made.flat = by.tensor(self.row), by.tensor(self.flat)
        return made

    def pack(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (G, M, ...), 0 where no node is."""
        if rows.shape[0] == 0:  # a len() would be one number to a tracer
            return rows.new_zeros(*self.row.shape, *rows.shape[1:])
        some = (self.row >= 0).view(*self.row.shape, *(1,) * (rows.dim() - 1))
        packed = take(rows, self.row.clamp(min=0).flatten()).view(*self.row.shape, *rows.shape[1:])
        return torch.where(some, packed, 0)

    def unpack(self, packed: Tensor) -> Tensor:
        """(G, M, ...) -> (N, ...)."""
        return take(packed.flatten(0, 1), self.flat)


def blocks(group: tuple[Name, ...], sites: Sites) -> Blocks:
    """Return the groups of these sites, made once."""
    return sites.memo(("blocks", group), lambda: Blocks(group, sites))


class PairSites:
    """Who hears whom: all pairs of nodes of one group; what `Sites` is to nodes.

    Attributes:
        asking: sites of the nodes that ask.
        answering: sites of the nodes that are heard.
        group: the names that both share, as those who ask call them.
        heard: the same names on the lattice of those who are heard.
    """

    is_full = is_array = False
    size = None

    def __init__(
        self, asking: Sites, answering: Sites, group: tuple[Name, ...], heard: tuple[Name, ...]
    ) -> None:
        """Keep the four; pairs are listed when asked for."""
        self.asking = asking
        self.answering = answering
        self.group = group
        self.heard = heard
        self.batch_size = asking.batch_size
        self.device = asking.device

    @property
    def num_nodes(self) -> int:
        """How many pairs there are."""
        if self.asking.is_full and self.answering.is_full:
            count = prod(name.size for name in self.group)
            return self.asking.num_nodes * (self.answering.num_nodes // count)
        return self.place.shape[0]

    @property
    def some(self) -> Tensor:
        """(G, Mq, Mk) bool: where a pair is."""
        return self._kept("some", lambda: (
            (self.first.row >= 0)[:, :, None] & (self.second.row >= 0)[:, None, :]
        ))  # fmt: skip

    def _kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What follows from the pairs alone."""
        key = ("pairs", name, self.answering.token, self.group, self.heard)
        return self.asking.memo(key, make)

    @property
    def first(self) -> Blocks:
        """The nodes that ask, by group."""
        return blocks(self.group, self.asking)

    @property
    def second(self) -> Blocks:
        """The nodes that are heard, by group."""
        return blocks(self.heard, self.answering)

    @property
    def place(self) -> Tensor:
        """(E,) int64: the cell of each pair in (G, Mq, Mk)."""
        return self._kept("place", lambda: self.some.flatten().nonzero().squeeze(1))

    @property
    def asker(self) -> Tensor:
        """(E,) int64: the node that asks."""
        return self._kept("asker", lambda: (
            self.first.row.flatten()[self.place // self.second.row.shape[1]]
        ))  # fmt: skip

    def digit(self, name: Name) -> Tensor:
        """(E,) int64: the value that a name takes at each pair."""
        width = self.second.row.shape[1]
        if name.kind == "key":
            group = self.place // (self.some.shape[1] * width)
            node = self.second.row[group, self.place % width]
            return index((Name("site", name.size, name.axis, name.stride),), self.answering)[node]
        return index((name,), self.asking)[self.asker]

    def spread(self, rows: Tensor, fill: float) -> Tensor:
        """(E, ...) -> (G, Mq, Mk, ...)."""
        cells = rows.new_full((self.some.numel(), *rows.shape[1:]), fill)
        full = cells.index_put((self.place,), rows)  # keeps no rows, which may be written into
        return full.view(*self.some.shape, *rows.shape[1:])

    def rows(self, blocks: Tensor) -> Tensor:
        """(G, Mq, Mk, ...) -> (E, ...)."""
        return take(blocks.flatten(0, 2), self.place)


def pair_sites(
    asking: Sites, answering: Sites, group: tuple[Name, ...], heard: tuple[Name, ...]
) -> PairSites:
    """Return the one record of these pairs."""
    key = ("pairs", answering.token, group, heard)
    return asking.memo(key, lambda: PairSites(asking, answering, group, heard))


def spoken(value: Spatial, like: Spatial) -> Spatial:
    """Return what a map of those who ask says of each pair.

    A plain axis as long as that of who is heard is a table, in which each looks up whom it hears.

    Raises:
        NoRuleError: it is a map of other nodes.
    """
    sites: Any = like.sites
    if value.sites is not sites.asking:
        raise NoRuleError("pairs of nodes meet nodes of another map")
    node, axes, tables = sites.asker, list(value.axes), []
    missing = len(like.axes) - len(axes)
    for dim, axis in enumerate(axes):
        other = like.axes[missing + dim] if missing + dim >= 0 else ()
        same = prod(name.size for name in axis) == prod(name.size for name in other)
        if axis and is_plain(axis) and same and any(name.kind == "key" for name in other):
            value = value.merged(dim)
            tables.append(value.slot(dim))
            node = node * prod(name.size for name in other) + index(other, sites)
            axes[dim] = other
    rows = value.x.movedim(tables, [1 + k for k in range(len(tables))]).flatten(0, len(tables))
    return Spatial(take(rows, node), sites, tuple(axes))


def reduced(x: Spatial, dim: int, keepdim: bool, how: str) -> Spatial:
    """Return the sum, mean or extreme of everybody that a node hears.

    Raises:
        NoRuleError: another axis than that of who is heard is reduced.
    """
    sites: Any = x.sites
    heard = [name for name in names(x.axes) if name.kind == "key"]
    if not heard or list(x.axes[dim]) != heard:
        raise NoRuleError("it reduces pairs of nodes over another axis than who is heard")
    counts = x.x.shape[1:]
    nobody = {"amax": -torch.inf, "amin": torch.inf}.get(how, 0.0)
    full = sites.spread(x.x.reshape(x.x.shape[0], prod(counts)), nobody)
    found = full.sum(2) if how == "mean" else getattr(torch, how)(full, 2)
    if how == "mean":
        found = found / sites.some.sum(2).clamp(min=1).unsqueeze(-1)
    rows = sites.first.unpack(found)
    left = tuple(
        () if number == dim else axis
        for number, axis in enumerate(x.axes)
        if keepdim or number != dim
    )
    return Spatial(rows.reshape(rows.shape[0], *counts), sites.asking, left)


def same_groups(
    asking: Sites, group: tuple[Name, ...], answering: Sites, heard: tuple[Name, ...]
) -> bool:
    """Whether names of two lattices mean the same images and windows, in the same order."""
    if group == heard or len(group) != len(heard):
        return group == heard
    one, two = asking.size or (), answering.size or ()
    return all(
        a == b
        or (
            a[:3] == b[:3] and a.kind == "site" and a.stride * two[b.axis] == b.stride * one[a.axis]
        )
        for a, b in zip(group, heard, strict=True)
    )


def keys(axis: tuple[Name, ...], *, back: bool = False) -> tuple[Name, ...]:
    """Return a token axis as that of the nodes that are heard, or back again."""
    old, new = ("key", "site") if back else ("site", "key")
    return tuple(
        Name(new if name.kind == old else name.kind, name.size, name.axis, name.stride)
        for name in axis
    )


def tokens(lead: Axes, axis: tuple[Name, ...], width: tuple[Name, ...]) -> tuple[Name, ...]:
    """Return the names of the group of (lead) (tokens) (plain).

    Raises:
        NoRuleError: the axes are no tokens of a group.
    """
    if "plain" in kinds(axis) or not is_plain(width) or not axis:
        raise NoRuleError(f"axes {describe((*lead, axis, width))} are no tokens")
    return tuple(of_rows(lead))


def heads(value: Spatial) -> Tensor:
    """Return (N, heads, width): the features of (lead) (tokens) (plain)."""
    width = value.x.shape[1 + _plains(value) :]
    lead = value.x.shape[1 : 1 + _plains(value)]
    return value.x.reshape(value.x.shape[0], prod(lead), prod(width))


def _plains(value: Spatial) -> int:
    """How many plain names stand before the last two axes."""
    return sum(name.kind == "plain" for name in names(value.axes[:-2]))
