"""Pairs: the edges of attention, the complete graph of each group of nodes, as rows of features.

    x[e, heads]        e = (p, q), the node that asks and the node that is heard

A group is named by the leading axes: an image, or a window of an image. Absent nodes are in
no group.
"""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from convgraph.backends.messages.edges import take
from convgraph.convert import names
from convgraph.convert.names import Axes, Name, NoRuleError
from convgraph.convert.tokens import has_nodes, is_sequence, taken, token_sites
from convgraph.convert.value import Spatial, index, of_nobody, within_charts


class Blocks:
    """Rows packed by group: (G, M) numbers of rows, -1 where a group has fewer.

    Attributes:
        even: whether all groups have as many; to a tracer, which means all masks, they never do.
    """

    def __init__(self, group: tuple[Name, ...], sites: Any) -> None:
        """Sort the rows by group; within one they keep their order."""
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
        self.even = len(which) == self.row.numel()

    def lent(self, by: Any) -> "Blocks":
        """The same in a tracer's tensors; see `convgraph.memo.lending`."""
        made = copy.copy(self)
        made.row, made.flat, made.even = by.tensor(self.row), by.tensor(self.flat), False
        return made

    @property
    def there(self) -> Tensor:
        """(G, M) bool: where a row is."""
        return self.row >= 0

    def pack(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (G, M, ...), 0 where no node is."""
        if rows.shape[0] == 0:  # a len() would be one number to a tracer
            return of_nobody(rows, (*self.row.shape, *rows.shape[1:]))
        packed = take(rows, self.row.clamp(min=0).flatten()).view(*self.row.shape, *rows.shape[1:])
        some = self.there.view(*self.row.shape, *(1,) * (rows.dim() - 1))
        return packed if self.even else torch.where(some, packed, 0)

    def unpack(self, packed: Tensor) -> Tensor:
        """(G, M, ...) -> (N, ...)."""
        return take(packed.flatten(0, 1), self.flat)


def _blocks(sites: Any, group: tuple[Name, ...]) -> Blocks:
    return sites.memo(("blocks", group), lambda: Blocks(group, sites))  # type: ignore[no-any-return]


class PairSites:
    """Who hears whom: all pairs of nodes, or tokens, of one group; what `Sites` is to nodes.

    Attributes:
        asking: sites of those who ask.
        answering: sites of those who are heard.
        group: the names that both share, as those who ask call them.
        heard: the same names on the lattice of those who are heard.
    """

    is_array = False
    size = space = None

    def __init__(
        self, asking: Any, answering: Any, group: tuple[Name, ...], heard: tuple[Name, ...]
    ) -> None:
        """Keep the four; pairs are listed when asked for, and kept by the sites of who asks."""
        self.asking, self.answering, self.group, self.heard = asking, answering, group, heard
        self.batch_size, self.device = asking.batch_size, asking.device
        self.is_full = asking.is_full and answering.is_full
        self.key = ("pairs", answering.token, group, heard)
        self.token = (asking.token, *self.key)

    @property
    def num_nodes(self) -> int:
        """How many pairs there are."""
        if self.is_full:
            count = prod(name.size for name in self.group)
            return int(self.asking.num_nodes) * int(self.answering.num_nodes // count)
        return self.place.shape[0]

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is made of pairs anew each time; they are many."""
        return make()

    def _kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What follows from the pairs alone."""
        return self.asking.memo((*self.key, name), make)  # type: ignore[no-any-return]

    @property
    def first(self) -> Blocks:
        """Those who ask, by group."""
        return _blocks(self.asking, self.group)

    @property
    def second(self) -> Blocks:
        """Those who are heard, by group."""
        return _blocks(self.answering, self.heard)

    @property
    def is_even(self) -> bool:
        """Whether every cell of (G, Mq, Mk) is a pair."""
        return self.first.even and self.second.even

    @property
    def some(self) -> Tensor:
        """(G, Mq, Mk) bool: where a pair is."""
        return self._kept("some", lambda: (
            self.first.there[:, :, None] & self.second.there[:, None, :]
        ))  # fmt: skip

    @property
    def place(self) -> Tensor:
        """(E,) int64: the cell of each pair in (G, Mq, Mk)."""
        return self._kept("place", lambda: self.some.flatten().nonzero().squeeze(1))

    @property
    def asker(self) -> Tensor:
        """(E,) int64: the row of who asks."""
        return self._kept("asker", lambda: (
            self.first.row.flatten()[self.place // self.second.row.shape[1]]
        ))  # fmt: skip

    @property
    def hearer(self) -> Tensor:
        """(E,) int64: the row of who is heard."""
        groups, width = self.place // self.some[0].numel(), self.second.row.shape[1]
        return self.second.row[groups, self.place % width]

    @property
    def itself(self) -> Tensor:
        """(N,) int64: the pair of each node with itself, where those who ask are heard."""

        def make() -> Tensor:
            place = (self.asker == self.hearer).nonzero().squeeze(1)
            return place[self.asker[place].argsort()]

        return self._kept("itself", make)

    def digit(self, name: Name) -> Tensor:
        """(E,) int64: the value that a name takes at each pair."""
        if name.kind == "key":
            return index(keys((name,), back=True), self.answering)[self.hearer]
        return index((name,), self.asking)[self.asker]

    def spread(self, rows: Tensor, fill: float) -> Tensor:
        """(E, ...) -> (G, Mq, Mk, ...)."""
        shape = (*self.first.row.shape, self.second.row.shape[1])
        if self.is_even:  # a copy all the same: the rows may be written into
            return rows.clone().view(*shape, *rows.shape[1:])
        cells = rows.new_full((self.some.numel(), *rows.shape[1:]), fill)
        return cells.index_put((self.place,), rows).view(*shape, *rows.shape[1:])

    def rows(self, blocks: Tensor) -> Tensor:
        """(G, Mq, Mk, ...) -> (E, ...)."""
        flat = blocks.flatten(0, 2)
        return flat if self.is_even else take(flat, self.place)

    def cut(self, x: Tensor, some: "PairSites", asking: Any, heard: Any) -> Tensor:
        """The rows of some of these pairs, by the rows that both sides had here."""
        asker = some.asker if asking is None else asking[some.asker]
        hearer = some.hearer if heard is None else heard[some.hearer]
        width = self.second.row.shape[1]
        cell = self.first.flat[asker] * width + self.second.flat[hearer] % width
        return take(self.spread(x, 0.0).flatten(0, 2), cell)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle what is given, of which there is one record."""
        return pair_sites, (self.asking, self.answering, self.group, self.heard)


_ALIVE: "WeakValueDictionary[Any, PairSites]" = WeakValueDictionary()


def pair_sites(
    asking: Any, answering: Any, group: tuple[Name, ...], heard: tuple[Name, ...]
) -> PairSites:
    """Return the one record of these pairs."""
    made = PairSites(asking, answering, group, heard)
    return _ALIVE.setdefault(made.token, made)


torch.serialization.add_safe_globals([pair_sites])


def spoken(value: Spatial, like: Spatial) -> Spatial:
    """Return what a map of those who ask, or are heard, says of each pair.

    A plain axis as long as that of who is heard is a table, in which each looks up whom it hears.
    """
    sites: Any = like.sites
    node, axes, tables = sites.asker, list(value.axes), []
    missing = len(like.axes) - len(axes)
    pairs = zip(reversed(axes), reversed(like.axes), strict=False)
    if any(axis and keys(axis) == other and axis != other for axis, other in pairs):
        if value.sites is not sites.answering:
            raise NoRuleError("pairs of nodes meet nodes of another map")
        there = [axis and names.of_rows((axis,)) for axis in axes]
        said = tuple(like.axes[missing + k] if own else axes[k] for k, own in enumerate(there))
        return Spatial(take(value.x, sites.hearer), sites, said)
    if value.sites is not sites.asking:
        raise NoRuleError("pairs of nodes meet nodes of another map")
    for dim, axis in enumerate(axes):
        other = like.axes[missing + dim] if missing + dim >= 0 else ()
        same = prod(name.size for name in axis) == prod(name.size for name in other)
        if axis and names.is_plain(axis) and same and any(name.kind == "key" for name in other):
            value = value.merged(dim)
            tables.append(value.slot(dim))
            node = node * prod(name.size for name in other) + index(other, sites)
            axes[dim] = other
    rows = value.x.movedim(tables, [1 + k for k in range(len(tables))]).flatten(0, len(tables))
    return Spatial(take(rows, node), sites, tuple(axes))


def paired(
    asking: Any, answering: Any, groups: tuple[Any, Any], asked: Any, heard: Any
) -> PairSites:
    """Return the pairs of two, whose groups may not reach over the border of a chart."""
    for sites, group, talk in zip((asking, answering), groups, (asked, heard), strict=True):
        if any(name.kind == "site" for name in group):
            within_charts(sites, talk)
    return pair_sites(asking, answering, *groups)


def crossed(one: Spatial, other: Spatial) -> list[Spatial] | None:
    """Return two maps as what both say of each pair, where they name nodes along different axes.

        (batch) (y x) () (c)  and  (batch) () (y x) (c)   ->   (batch) (y x) (y* x*) (c)

    None where they do not name one lattice twice.
    """
    found = _sides(one.axes, other.axes)
    if found is None:
        return None
    axes, heard, is_turned = found
    asking, answering = (other, one) if is_turned else (one, other)
    if is_turned:
        axes, heard = heard, axes
    alone = [bool(a) and not b for a, b in zip(heard, axes, strict=True)]
    group, spoken_of = (
        tuple(names.of_rows(tuple(a for a, b in zip(mine, theirs, strict=True) if b)))
        for mine, theirs in ((axes, heard), (heard, axes))
    )
    if not same_groups(asking.sites, group, answering.sites, spoken_of):
        raise NoRuleError("who asks and who is heard differ in their groups")
    talks = (
        tuple(name for name in names.of_rows(value.axes) if name not in groups)
        for value, groups in ((asking, group), (answering, spoken_of))
    )
    sites = paired(asking.sites, answering.sites, (group, spoken_of), *talks)
    said = tuple(
        keys(mine) if own else (theirs if mine else ())
        for mine, theirs, own in zip(heard, axes, alone, strict=True)
    )
    made = [
        Spatial(take(asking.x, sites.asker), sites, axes),
        Spatial(take(answering.x, sites.hearer), sites, said),
    ]
    return made[::-1] if is_turned else made


@lru_cache(maxsize=4096)
def _sides(one: Axes, other: Axes) -> tuple[Axes, Axes, bool] | None:
    """The axes of two, as many, and whether the second asks; None where they are no two sides."""
    rank = max(len(one), len(other))
    first, second = (((),) * (rank - len(axes)) + axes for axes in (one, other))
    mine = [k for k in range(rank) if names.of_rows((first[k],)) and not second[k]]
    theirs = [k for k in range(rank) if names.of_rows((second[k],)) and not first[k]]
    sides = [{name[:1] + name[2:] for k in own for name in side[k]} for own, side in
             ((mine, first), (theirs, second))]  # fmt: skip
    kinds = {kind for kind, *_ in sides[0] | sides[1]}
    if kinds != {"site"} or not sides[0] & sides[1]:
        return None
    return first, second, theirs < mine


def some_pairs(call: Any, x: Spatial, dim: int, numbers: Sequence[int]) -> Any:
    """Return the pairs of some of those who ask, or are heard; without nodes they are a tensor."""
    sites: Any = x.sites
    by_heard = names.kinds(x.axes[dim]) == {"key"}
    axis = keys(x.axes[dim], back=True)
    side, group = (
        (sites.answering, sites.heard) if by_heard else (sites.asking, sites.group)
    )  # fmt: skip
    rows = torch.arange(side.num_nodes, device=x.x.device)
    line = Spatial(rows, side, (group, axis))
    if not is_sequence(line, 1):
        raise NoRuleError("it takes images, or a part of the nodes, out of pairs of nodes")
    found = taken(None, line, 1, numbers)
    call.travelled("all")
    if isinstance(found, Tensor):
        part: Any = token_sites(side.root, side.group, (len(numbers),))
        order = index((*group, part.name), part)  # the group may name windows before images
        found = Spatial(take(found.flatten(), order), part, (group, (part.name,)))
    asking, answering = (sites.asking, found.sites) if by_heard else (found.sites, sites.answering)
    pairs = pair_sites(asking, answering, sites.group, sites.heard)
    picks = (None, found.x) if by_heard else (found.x, None)
    axis = keys(found.axes[1]) if by_heard else found.axes[1]
    made = Spatial(sites.cut(x.x, pairs, *picks), pairs, names.replaced(x.axes, dim, axis))
    alone = not (has_nodes(asking) or has_nodes(answering))
    return made.tensor() if alone else made


def one_side(x: Spatial, dim: int) -> Spatial:
    """Return pairs of which one side is a single readout, along this axis, as what others say."""
    sites: Any = x.sites
    by_heard = names.kinds(x.axes[dim]) == {"key"}
    side, row = (sites.asking, sites.asker) if by_heard else (sites.answering, sites.hearer)
    rows = x.x.new_zeros(side.num_nodes, *x.x.shape[1:]).index_copy(0, row, x.x)
    return Spatial(rows, side, tuple(keys(axis, back=True) for axis in names.replaced(x.axes, dim)))


def swapped(x: Spatial) -> Spatial:
    """Return the same pairs, on which those who were heard ask."""
    old: Any = x.sites
    sites = pair_sites(old.answering, old.asking, old.heard, old.group)
    shared = dict(zip(old.group, old.heard, strict=True))
    axes = []
    for axis in x.axes:
        mine = names.kinds(axis) != {"key"}
        own = [
            shared[n] if n in shared else (*keys((n,)), *keys((n,), back=True))[not mine]
            for n in axis
        ]
        axes.append(tuple(own))
    return Spatial(sites.rows(old.spread(x.x, 0.0).transpose(1, 2)), sites, tuple(axes))


def same_groups(
    asking: Any, group: tuple[Name, ...], answering: Any, heard: tuple[Name, ...]
) -> bool:
    """Whether names of two lattices mean the same images and windows, in the same order."""
    one, two = asking.size, answering.size
    if group == heard or len(group) != len(heard) or not (one and two):
        return group == heard
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
    """Return the names of the group of (lead) (tokens) (plain)."""
    if "plain" in names.kinds(axis) or not names.is_plain(width) or not axis:
        raise NoRuleError(f"axes {names.describe((*lead, axis, width))} are no tokens")
    return tuple(names.of_rows(lead))


def lead_of(axes: Axes, group: tuple[Name, ...] = ()) -> list[Any]:
    """Return how names of rows and heads follow each other, axis by axis.

    A name of the group is said by its number there, heads by how many they are.
    """
    found: list[Any] = []
    for axis in axes:
        own: list[Any] = []
        for name in axis:
            if name.kind != "plain":
                own.append((group.index(name),) if name in group else name)
            elif own and isinstance(own[-1], int):
                own[-1] *= name.size
            elif name.size > 1:
                own.append(name.size)
        found.append(own)
    return found


def heads(value: Spatial) -> Tensor:
    """Return (N, heads, width): the features of (lead) (tokens) (plain)."""
    count, shape = 1 + len(names.plain(value.axes[:-2])), value.x.shape
    return value.x.reshape(shape[0], prod(shape[1:count]), prod(shape[count:]))
