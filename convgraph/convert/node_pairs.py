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
from convgraph.convert.names import Axes, Name, NoRuleError, describe, is_plain, names
from convgraph.convert.value import Spatial, index
from convgraph.graph.sites import Sites


class Blocks:
    """Nodes packed by group: (G, M) rows of x, -1 where a group has fewer nodes."""

    def __init__(self, group: tuple[Name, ...], sites: Sites) -> None:
        """Sort the nodes by group; within one they keep their order."""
        count = prod(sites.batch_size if name.kind == "batch" else name.size for name in group)
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
        group: the names that both share.
    """

    is_full = is_array = False
    size = None

    def __init__(self, asking: Sites, answering: Sites, group: tuple[Name, ...]) -> None:
        """Keep the three; pairs are listed when asked for."""
        self.asking = asking
        self.answering = answering
        self.group = group
        self.batch_size = asking.batch_size
        self.device = asking.device

    @property
    def num_nodes(self) -> int:
        """How many pairs there are."""
        if self.asking.is_full and self.answering.is_full:
            count = prod(
                self.batch_size if name.kind == "batch" else name.size for name in self.group
            )
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
        return self.asking.memo(("pairs", name, self.answering.token, self.group), make)

    @property
    def first(self) -> Blocks:
        """The nodes that ask, by group."""
        return blocks(self.group, self.asking)

    @property
    def second(self) -> Blocks:
        """The nodes that are heard, by group."""
        return blocks(self.group, self.answering)

    @property
    def place(self) -> Tensor:
        """(E,) int64: the cell of each pair in (G, Mq, Mk)."""
        return self._kept("place", lambda: self.some.flatten().nonzero().squeeze(1))

    def digit(self, name: Name) -> Tensor:
        """(E,) int64: the value that a name takes at each pair."""
        width = self.second.row.shape[1]
        if name.kind == "key":
            group = self.place // (self.some.shape[1] * width)
            node = self.second.row[group, self.place % width]
            return index((Name("site", name.size, name.axis, name.stride),), self.answering)[node]
        return index((name,), self.asking)[self.first.row.flatten()[self.place // width]]

    def spread(self, rows: Tensor, fill: float) -> Tensor:
        """(E, ...) -> (G, Mq, Mk, ...)."""
        cells = rows.new_full((self.some.numel(), *rows.shape[1:]), fill)
        full = cells.index_copy(0, self.place, rows)
        return full.view(*self.some.shape, *rows.shape[1:])

    def rows(self, blocks: Tensor) -> Tensor:
        """(G, Mq, Mk, ...) -> (E, ...)."""
        return take(blocks.flatten(0, 2), self.place)


def pair_sites(asking: Sites, answering: Sites, group: tuple[Name, ...]) -> PairSites:
    """Return the one record of these pairs."""
    key = ("pairs", answering.token, group)
    return asking.memo(key, lambda: PairSites(asking, answering, group))


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
    if any(name.kind == "plain" for name in axis) or not is_plain(width) or not axis:
        raise NoRuleError(f"axes {describe((*lead, axis, width))} are no tokens")
    return tuple(name for name in names(lead) if name.kind != "plain")


def heads(value: Spatial) -> Tensor:
    """Return (N, heads, width): the features of (lead) (tokens) (plain)."""
    width = value.x.shape[1 + _plains(value) :]
    lead = value.x.shape[1 : 1 + _plains(value)]
    return value.x.reshape(value.x.shape[0], prod(lead), prod(width))


def _plains(value: Spatial) -> int:
    """How many plain names stand before the last two axes."""
    return sum(name.kind == "plain" for name in names(value.axes[:-2]))
