"""Tokens: a sequence in which readouts stand beside nodes, as a class token beside patches.

    cat([class token, registers, nodes], 1)        one axis, of which a stretch is nodes
    cat([level, level / 2, level / 4], 1)          nodes of several lattices, as a detector's head

A sequence is a value like any other: its rows are those of its pieces, one after the other;
`TokenSites` says which row stands where. So the rules of rows are the rules of tokens. Absent nodes
are no tokens: they are not computed.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, groupby
from math import prod
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Axis, Name, NoRuleError
from convgraph.convert.value import Spatial, arranged, cells, digit, lift
from convgraph.graph.sites import Sites


class _NoLatticeError(NoRuleError, AttributeError):
    """Tokens are asked for what lattices alone have."""


class Nodes(NamedTuple):
    """A piece whose tokens are nodes; a plain name of the axis makes several of each."""

    sites: Sites
    axis: Axis

    @property
    def many(self) -> list[int]:
        """How many tokens each node is, by plain name."""
        return names.plain((self.axis,))


Piece = int | Nodes
"""So many readouts, or nodes."""


class TokenSites:
    """Which tokens there are: in each group the same pieces, of which some are nodes.

    Attributes:
        root: the sites that keep what follows from the tokens.
        group: the names that tell sequences apart.
        pieces: in their order along a sequence.
    """

    is_array = False
    size = space = None

    def __init__(self, root: Sites, group: Axis, pieces: tuple[Piece, ...]) -> None:
        """Keep the three."""
        self.root, self.group, self.pieces = root, group, pieces
        self.batch_size, self.device, self.d = root.batch_size, root.device, root.d
        self.nodes = [one for one in pieces if isinstance(one, Nodes)]
        self.is_full = all(one.sites.is_full for one in self.nodes)
        self.key = ("tokens", group, *(
            one if isinstance(one, int) else (one.sites.token, one.axis) for one in pieces
        ))  # fmt: skip
        self.token = (root.token, *self.key)
        self.lengths = [
            one if isinstance(one, int) else names.sizes((one.axis,))[0] for one in pieces
        ]
        self.count = prod(name.size for name in group)
        self.num_cells = self.count * sum(self.lengths)
        self.name = Name("site", sum(self.lengths), -1)
        """The axis of a whole sequence: it counts as the last of the lattice."""

    def __getattr__(self, name: str) -> Any:
        """Refuse what lattices alone have."""
        raise _NoLatticeError(f"it asks tokens beside nodes for their {name}")

    @property
    def rows_of_pieces(self) -> list[Any]:
        """How many rows each piece has."""
        return [
            self.count * one if isinstance(one, int) else one.sites.num_nodes * prod(one.many)
            for one in self.pieces
        ]

    @property
    def num_nodes(self) -> int:
        """How many tokens there are in all."""
        return sum(self.rows_of_pieces)

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """What follows from the tokens alone."""
        return self.root.memo((*self.key, key), make)

    def digit(self, name: Name) -> Tensor:
        """(N,) int64: the value that a name takes at each token."""
        return self.memo(("digit", name), lambda: self._digit(name))  # type: ignore[no-any-return]

    def _digit(self, name: Name) -> Tensor:
        along = name.kind == "site" and name.axis < 0
        found, start = [], 0
        for one, length in zip(self.pieces, self.lengths, strict=True):
            if isinstance(one, Nodes):
                own = _place(one) + start if along else _spread(one, name)
            elif along:
                own = (torch.arange(one, device=self.device) + start).repeat(self.count)
            else:
                own = self._of_groups(name).repeat_interleave(one)
            found.append(own)
            start += length
        return torch.cat(found) // name.stride % name.size

    def _of_groups(self, name: Name) -> Tensor:
        """(sequences,): where each lies along what a name counts."""
        place = torch.zeros([one.size for one in self.group], dtype=torch.int64, device=self.device)
        for number, one in enumerate(self.group):
            if (one.kind, one.axis) == (name.kind, name.axis):
                own = torch.arange(one.size, device=self.device) * one.stride
                place += own.view(-1, *(1,) * (len(self.group) - 1 - number))
        return place.flatten()

    def on(self, group: Axis, change: Callable[[Sites], Sites]) -> "TokenSites":
        """The same pieces on other sites: those of the root first, then piece by piece."""
        root = change(self.root)
        pieces = [
            Nodes(change(p.sites), p.axis) if isinstance(p, Nodes) else p for p in self.pieces
        ]
        return token_sites(root, group, pieces)

    def to(self, device: Any) -> "TokenSites":
        """The same tokens elsewhere."""
        return self.on(self.group, lambda sites: sites.to(device))

    def apart(self, rows: Tensor) -> list[Tensor]:
        """The rows of each piece; of readouts (sequences, readouts, ...)."""
        found, start = [], 0
        for one, count in zip(self.pieces, self.rows_of_pieces, strict=True):
            own = rows if len(self.pieces) == 1 else rows[start : start + count]
            found.append(own.unflatten(0, (self.count, one)) if isinstance(one, int) else own)
            start += count
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle what is given, of which there is one record."""
        return token_sites, (self.root, self.group, self.pieces)


def _place(one: Nodes) -> Tensor:
    """Where each of a piece's tokens stands in it."""
    line = torch.arange(prod(names.sizes((one.axis,))), device=one.sites.device)
    return lift(line, (one.axis,), one.sites).expand(one.sites.num_nodes, *one.many).flatten()


def _spread(one: Nodes, name: Name) -> Tensor:
    """Where each of a piece's tokens lies along what another name counts."""
    own = digit(name._replace(stride=1, size=2**62), one.sites)
    return own.repeat_interleave(prod(one.many))


_ALIVE: "WeakValueDictionary[Any, TokenSites]" = WeakValueDictionary()


def token_sites(root: Sites, group: Axis, pieces: Sequence[Piece]) -> TokenSites:
    """Return the one record of these tokens."""
    made = TokenSites(root, group, tuple(pieces))
    return _ALIVE.setdefault(made.token, made)


torch.serialization.add_safe_globals([token_sites, Nodes])


def _group(axes: Sequence[Axis]) -> Axis:
    """The names of rows, the batch first, then along each lattice axis."""
    return tuple(sorted(names.of_rows(tuple(axes)), key=lambda one: (one.axis, -one.stride)))


def is_sequence(x: Any, dim: int) -> bool:
    """Whether a whole sequence stands along an axis."""
    return isinstance(x.sites, TokenSites) and x.axes[dim] == (x.sites.name,)


def has_nodes(sites: Any) -> bool:
    """Whether any row is a node."""
    return not isinstance(sites, TokenSites) or bool(sites.nodes)


def as_sequence(given: Tensor, like: Spatial) -> Spatial:
    """Return (*lead, tokens, width) as readouts of the images, or windows, of a map so led."""
    sites, lead = like.sites, like.axes[:-2]
    root, group = getattr(sites, "root", None), _group(lead)
    if isinstance(sites, Sites):
        root = sites
    if not isinstance(root, Sites) or given.dim() != len(like.axes):
        raise NoRuleError("its tokens are no (batch) (heads) (tokens) (width)")
    some = token_sites(root, group, (given.shape[-2],))
    axes = (*lead, (some.name,), (Name("plain", given.shape[-1]),))
    rows = cells(given.expand(names.sizes(axes)), [*group, some.name], axes)
    return Spatial(rows, some, axes)


def beside(parts: Sequence[Any], dim: int) -> Spatial | None:
    """Return tensors and maps as tokens, if they stand beside each other along nodes."""
    maps = [one for one in parts if isinstance(one, Spatial)]
    x, dim = maps[0], names.place(dim, len(maps[0].axes))
    if len(parts) < 2 or not (_is_one(x, dim) if len(maps) == 1 else _are_levels(maps, dim)):
        if any(is_sequence(one, dim) for one in maps):
            raise NoRuleError("maps of other axes among tokens")
        return None
    group = _group(names.replaced(x.axes, dim))
    root = x.sites if isinstance(x.sites, Sites) else x.sites.root
    found: list[tuple[Piece, Tensor]] = []
    for one in parts:
        if isinstance(one, Tensor):
            found.append((one.shape[dim], _cells(one, x, dim, group)))
        elif isinstance(one.sites, TokenSites):
            found += zip(one.sites.pieces, one.sites.apart(one.x), strict=True)
        else:
            found.append((Nodes(one.sites, one.axes[dim]), _rows(one, dim)))
    return _joined(root, group, found, x.axes, dim)


def _is_one(x: Spatial, dim: int) -> bool:
    """Whether an axis names nodes alone, or a whole sequence."""
    lattice = isinstance(x.sites, Sites) and names.kinds(x.axes[dim]) == {"site"}
    return lattice or is_sequence(x, dim)


def _are_levels(maps: Sequence[Spatial], dim: int) -> bool:
    """Whether an axis names the nodes of each of several maps, and is no line of one lattice."""
    lines = 0
    for one in maps:
        if len(one.axes) != len(maps[0].axes) or not (
            isinstance(one.sites, Sites) or is_sequence(one, dim)
        ):
            return False
        rest = names.replaced(one.axes, dim)
        if rest != names.replaced(maps[0].axes, dim) or "site" not in names.kinds(one.axes[dim]):
            return False
        if any("site" in names.kinds(axis) for axis in rest):
            return False
        line = len(names.whole(one.axes[dim])) == 1
        lines += line and not is_sequence(one, dim)
    return lines < len(maps)


def _joined(
    root: Sites, group: Axis, found: Sequence[tuple[Piece, Tensor]], axes: names.Axes, dim: int
) -> Spatial:
    """Pieces as one sequence; readouts beside readouts are one piece."""
    pieces: list[Any] = []
    rows: list[Tensor] = []
    for piece, own in found:
        if isinstance(piece, int) and pieces and isinstance(pieces[-1], int):
            pieces[-1], rows[-1] = pieces[-1] + piece, torch.cat([rows[-1], own], 1)
        elif piece:
            pieces.append(piece)
            rows.append(own)
    made = token_sites(root, group, pieces)
    flat = [x.flatten(0, 1) if isinstance(p, int) else x for p, x in zip(pieces, rows, strict=True)]
    return Spatial(torch.cat(flat), made, names.replaced(axes, dim, (made.name,)))


def _cells(given: Tensor, x: Spatial, dim: int, group: Axis) -> Tensor:
    """(sequences, tokens, *plain): what a tensor says that stands beside a map."""
    name = Name("site", given.shape[dim], -1)
    axes = names.replaced(x.axes, dim, (name,))
    found = cells(given.expand(names.sizes(axes)), [*group, name], axes)
    return found.reshape(prod(one.size for one in group), name.size, *found.shape[1:])


def _rows(x: Spatial, dim: int) -> Tensor:
    """The rows of a map, one a token of the axis."""
    slots = names.slots(x.axes)[dim]
    count = len(slots)
    return x.x.movedim([*slots], [*range(1, 1 + count)]).flatten(0, count) if count else x.x


def _map(one: Nodes, rows: Tensor, axes: names.Axes, dim: int) -> Spatial:
    """A piece as the map that it was; see `_rows`."""
    made, count = names.replaced(axes, dim, one.axis), len(one.many)
    if count:
        rows = rows.reshape(one.sites.num_nodes, *one.many, *rows.shape[1:])
        rows = rows.movedim([*range(1, 1 + count)], [*names.slots(made)[dim]])
    return Spatial(rows, one.sites, made)


def taken(call: Any, x: Spatial, dim: int, numbers: Sequence[int]) -> Any:
    """Return tokens by their places in a sequence: whole pieces of nodes, and any readouts.

    Whoever has a call hears which rows they were.
    """
    if not is_sequence(x, dim):
        raise NoRuleError("the axis of tokens beside nodes is that of images too")
    sites: Any = x.sites
    picks = _picked(sites, list(numbers))

    def pick(rows: Tensor) -> list[tuple[Piece, Tensor]]:
        apart = sites.apart(rows)
        return [
            (sites.pieces[piece], apart[piece]) if local is None
            else (len(local), apart[piece][:, _view(local)])
            for piece, local in picks
        ]  # fmt: skip

    found = pick(x.x)
    if call is not None and call.listening:
        line = pick(torch.arange(x.x.shape[0], device=x.x.device))
        call.travelled(torch.cat([own.flatten() for _, own in line]) if line else "all")
    if not found:
        found = [(0, x.x.new_empty(sites.count, 0, *x.x.shape[1:]))]
    (first, own), *more = found
    if not any(isinstance(piece, Nodes) for piece, _ in found):
        name = Name("site", len(numbers), -1)
        own = torch.cat([rows for _, rows in found], 1) if more else own
        return arranged(own, [*sites.group, name], names.replaced(x.axes, dim, (name,)))
    if not more and isinstance(first, Nodes):
        return _map(first, own, x.axes, dim)
    return _joined(sites.root, sites.group, found, x.axes, dim)


def _picked(sites: TokenSites, numbers: list[int]) -> list[tuple[int, list[int] | None]]:
    """Which piece each stretch of numbers is of, and its places there; None where it is whole."""
    found: list[tuple[int, list[int] | None]] = []
    ends = list(accumulate(sites.lengths))
    for piece, stretch in groupby(numbers, partial(bisect, ends)):
        length = sites.lengths[piece]
        local = [number - ends[piece] + length for number in stretch]
        if not isinstance(sites.pieces[piece], Nodes):
            found.append((piece, local))
            continue
        times = len(local) // length
        if local != [*range(length)] * times:
            raise NoRuleError("it takes a part of the nodes out of a sequence")
        found += [(piece, None)] * times
    return found


def _view(numbers: list[int]) -> Any:
    """Numbers as a slice where they are one, so that what is taken is a view."""
    line = list(range(numbers[0], numbers[0] + len(numbers)))
    return slice(line[0], line[-1] + 1) if numbers == line else numbers
