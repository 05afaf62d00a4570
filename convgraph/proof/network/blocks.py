"""Parameters that one side cuts or joins: which of its numbers is which of the other side's.

    query.weight, key.weight, value.weight  (d, d)        rows of qkv.weight  (3 d, d)
    a convolution for each group                          rows of the grouped one's
    class token's and patches' positions                  rows of one table

A block is some parameters of the candidate that are, number by number, some of the reference's,
each number once. It is found by bits: a stretch of numbers that either side has once is one, and so
is what goes on beside it. Biases, which may hold one number everywhere, are cut as their weights
are. That is a guess, like that of names, and needs no proof: the candidate's numbers are then those
of the reference's elements, wherever they are read and in every gradient.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof.network.value_numbers import Numbering, Numbers, Shape, as_tensor, tidy

WIDTHS = (8, 1)
"""How many numbers at once are looked for, behind whole rows: few of 16 bits are apart from all
others."""

SHARE = 8
"""Two parameters belong together if they have one in so many of the smaller's numbers in common."""

FEW = 4
"""How many of a kind are named."""


@final
@dataclass(frozen=True, eq=False)
class Block:
    """Parameters of the candidate that are parameters of the reference, cut otherwise.

    Attributes:
        own: the candidate's, name and shape.
        other: the reference's.
        places: for each number of the candidate's, its place among the reference's; on either side
            one parameter lies behind the other, row by row.
    """

    own: Mapping[str, Shape]
    other: Mapping[str, Shape]
    places: Tensor

    def __len__(self) -> int:
        """How many numbers they have."""
        return len(self.places)

    def numbers(self, numbering: Numbering) -> dict[str, Numbers]:
        """The numbers of the candidate's: those of the reference's elements."""
        named = [as_tensor(numbering.named(n, s)).reshape(-1) for n, s in self.other.items()]
        flat = torch.cat(named)[self.places]
        return {n: tidy(part.reshape(self.own[n])) for n, part in _parts(flat, self.own)}

    def joined(self, held: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the candidate holds in its parameters, as the reference's would hold it.

        Args:
            held: by the candidate's names: values, gradients or numbers. What is missing is 0, and
                there is nothing where all of them are.
        """
        known = {name: as_tensor(held[name]) for name in self.own if name in held}
        if not known:
            return {}
        some = next(iter(known.values()))
        with torch.no_grad():
            parts = [known.get(n, some.new_zeros(s)).reshape(-1) for n, s in self.own.items()]
            flat = torch.cat(parts)[self.places.argsort().to(some.device)]
        made = flat.requires_grad_(some.requires_grad)
        return {n: part.reshape(self.other[n]) for n, part in _parts(made, self.other)}

    def stretches(self, name: str) -> list[tuple[str, int, int, int]]:
        """What one of the candidate's is, in order: (reference's name, first, step, how many)."""
        starts = _starts(self.other)
        places = dict(_parts(self.places, self.own))[name]
        which = torch.bucketize(places, torch.tensor(starts), right=True) - 1
        names = list(self.other)
        found: list[tuple[str, int, int, int]] = []
        for first, step, count in _runs(places, which):
            at = int(which[first])
            found.append((names[at], int(places[first]) - starts[at], step, count))
        return found

    def __str__(self) -> str:
        """Say what is cut or joined how, in words."""
        if len(self.other) == 1:
            (other,) = self.other
            starts = {n: int(part.min()) for n, part in _parts(self.places, self.own)}
            own = sorted(self.own, key=starts.__getitem__)
            texts = [f"{n!r} is {_some(self._cut(n)[other])}" for n in own]
            return f"of {other!r}, {_some(texts)}"
        texts = []
        for name in self.own:
            cut = self._cut(name)
            made = [repr(o) if c == ["all"] else f"{_some(c)} of {o!r}" for o, c in cut.items()]
            texts.append(f"{name!r} is {_some(made)}")
        return "; ".join(texts)

    def _cut(self, name: str) -> dict[str, list[str]]:
        """What one of the candidate's is of each of the reference's, in words."""
        texts: dict[str, list[str]] = defaultdict(list)
        for other, *run in self.stretches(name):
            texts[other].append(_stretch(self.other[other], *run))
        return texts


def _some(words: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(words) - FEW} more" if len(words) > FEW else ""
    return ", ".join(words[:FEW]) + more


def compared(
    held: Mapping[str, Any], names: Mapping[str, str], blocks: Sequence[Block]
) -> dict[str, Any]:
    """What a side has by its own names, by the names that both sides have.

    Args:
        held: values, gradients or numbers.
        names: the other side's names of what has another here.
        blocks: what is cut or joined here.
    """
    cut = {name for block in blocks for name in block.own}
    found = {names.get(name, name): one for name, one in held.items() if name not in cut}
    for block in blocks:
        found |= block.joined(held)
    return found


def stretches(blocks: Sequence[Block]) -> dict[str, list[list[Any]]]:
    """What each of the candidate's is: name -> [reference's name, first number, step, how many]."""
    return {name: [list(one) for one in b.stretches(name)] for b in blocks for name in b.own}


def _starts(shapes: Mapping[str, Shape]) -> list[int]:
    """Where each parameter starts if they lie one behind the other."""
    found = [0]
    for shape in shapes.values():
        found.append(found[-1] + torch.Size(shape).numel())
    return found[:-1]


def _parts(flat: Tensor, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Tensor]]:
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    return zip(shapes, flat.split(sizes), strict=True)


def _runs(places: Tensor, which: Tensor) -> list[tuple[int, int, int]]:
    """Cut places into arithmetic progressions within one parameter: (first, step, how many)."""
    count = len(places)
    if count < 2:
        return [(0, 1, count)] if count else []
    steps = places.diff()
    steps = torch.where(which.diff() == 0, steps, 0)  # no step is 0
    values, lengths = torch.unique_consecutive(steps, return_counts=True)
    found: list[tuple[int, int, int]] = []
    at = 0  # the first place that is in no run yet
    end = 0
    for step, length in zip(values.tolist(), lengths.tolist(), strict=True):
        start, end = end, end + length  # steps from `start` to `end`
        if not step or length < 2:  # a jump, or nothing that goes on
            continue
        found += [(k, 1, 1) for k in range(at, start)]
        at = max(at, start)
        found.append((at, step, end + 1 - at))
        at = end + 1
    return found + [(k, 1, 1) for k in range(at, count)]


def _stretch(shape: Shape, first: int, step: int, count: int) -> str:
    """Some numbers of a parameter, as rows of its first axis that has several where they are."""
    total = torch.Size(shape).numel()
    if (first, count) == (0, total) and (step == 1 or total == 1):
        return "all"
    axes, row = [n for n in shape if n > 1], _row(shape)
    if step == 1 and first % row == count % row == 0:
        return _range("row" if len(axes) > 1 else "number", first // row, count // row, 1)
    return _range("number", first, count, step)


def _row(shape: Sequence[int]) -> int:
    """How many numbers a row of the first axis that has several has."""
    return torch.Size([n for n in shape if n > 1][1:]).numel()


def _range(what: str, first: int, count: int, step: int) -> str:
    if count == 1:
        return f"{what} {first}"
    by = "" if step == 1 else f" by {step}"
    return f"{what}s {first}-{first + (count - 1) * step}{by}"


# -- finding them ----------------------------------------------------------------------------------


def find_blocks(candidate: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> list[Block]:
    """Find out which parameters are cut or joined, by their bits.

    Args:
        candidate: those of the candidate that have no partner, of one dtype.
        reference: those of the reference.
    """
    if not candidate or not reference:
        return []
    shapes = [{n: tuple(t.shape) for n, t in side.items()} for side in (candidate, reference)]
    ours, theirs = _Line(candidate), _Line(reference)
    at = torch.full((len(ours.bits),), -1)
    rows = sorted({n for n in ours.rows & theirs.rows if n > WIDTHS[0]}, reverse=True)
    for width in (*rows, *WIDTHS):
        if bool((at >= 0).all()):
            break
        _anchor(ours, theirs, at, width)
        if width == 1:  # what others have by chance
            _drop_weak(ours, theirs, at)
        _extend(ours, theirs, at, bits=True)
    if not bool((at >= 0).all()):
        _extend(ours, theirs, at, bits=False)  # what differs within, for whoever compares to say
    found = []
    for own, other in _groups(ours, theirs, at):
        mine = torch.isin(ours.owner, torch.tensor(own)).nonzero()[:, 0]
        yours = torch.isin(theirs.owner, torch.tensor(other)).nonzero()[:, 0]
        if not torch.equal(at[mine].sort()[0], yours):  # each number once, on both sides
            continue
        names = [[list(s)[k] for k in some] for s, some in zip(shapes, (own, other), strict=True)]
        block = Block(
            {n: shapes[0][n] for n in names[0]},
            {n: shapes[1][n] for n in names[1]},
            torch.searchsorted(yours, at[mine]),
        )
        found.append(block)
    return found


@final
class _Line:
    """All numbers of some parameters, one behind the other, and whose each is."""

    def __init__(self, held: Mapping[str, Tensor]) -> None:
        self.bits = torch.cat([_bits(t) for t in held.values()])
        self.sizes = torch.tensor([t.numel() for t in held.values()])
        self.owner = torch.arange(len(self.sizes)).repeat_interleave(self.sizes)
        self.rows = {_row(t.shape) for t in held.values()}
        starts = self.sizes.cumsum(0) - self.sizes
        self._at = torch.arange(len(self.bits)) - starts[self.owner]
        powers = torch.full_like(self.bits, _MIX).cumprod(0)
        self._back = torch.full_like(self.bits, pow(_MIX, -1, 2**64) - 2**64).cumprod(0)
        self._mixed = F.pad((self.bits * powers).cumsum(0), (1, 0))
        self._changes = F.pad((self.bits.diff() != 0).cumsum(0), (1, 0))

    def keys(self, width: int) -> Tensor:
        """One number for each place and those behind it, if they are one parameter's and differ.

        Of as many as a row has, where a row may start.
        """
        found = torch.full_like(self.bits, _NONE)
        count = len(found) - width + 1
        if count <= 0:
            return found
        key = (self._mixed[width:] - self._mixed[:count]) * self._back[:count]
        kept = self.owner[width - 1 :] == self.owner[:count]
        if width not in WIDTHS:
            kept &= self._at[:count] % width == 0
        if width > 1:
            kept &= self._changes[width - 1 :] != self._changes[:count]
        found[:count] = key.masked_fill(~kept, _NONE)
        return found


_MIX = 11400714819323198485 - 2**64
"""An odd number of 64 bits, 2^64 over the golden ratio: sums of its powers tell rows apart."""

_NONE = -(2**63)


def _bits(tensor: Tensor) -> Tensor:
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(kinds[flat.element_size()]).long()


def _once(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The keys that are there once, in order, and where."""
    there = (keys != _NONE).nonzero()[:, 0]  # as a rule few
    found, order = keys[there].sort()
    alone = torch.ones_like(found, dtype=torch.bool)
    alone[1:] &= found[1:] != found[:-1]
    alone[:-1] &= found[:-1] != found[1:]
    return found[alone], there[order[alone]]


def _anchor(ours: _Line, theirs: _Line, at: Tensor, width: int) -> None:
    """Find what either side has once."""
    free = torch.ones(len(theirs.bits), dtype=torch.bool)
    free[at[at >= 0]] = False
    one, places = _once(ours.keys(width).masked_fill(at >= 0, _NONE))
    two, others = _once(theirs.keys(width).masked_fill(~free, _NONE))
    if not len(one) or not len(two):
        return
    where = torch.searchsorted(two, one).clamp_(max=len(two) - 1)
    same = (two[where] == one) & (ours.bits[places] == theirs.bits[others[where]])
    at[places[same]] = others[where[same]]


def _links(ours: _Line, theirs: _Line, at: Tensor) -> tuple[Tensor, Tensor]:
    """How many numbers two parameters have in common, a table; and which are in common at all."""
    some = (at >= 0).nonzero()[:, 0]
    shape = len(ours.sizes), len(theirs.sizes)
    pairs = ours.owner[some] * shape[1] + theirs.owner[at[some]]
    return pairs.bincount(minlength=shape[0] * shape[1]).reshape(shape), some


def _drop_weak(ours: _Line, theirs: _Line, at: Tensor) -> None:
    """Forget the few numbers that two parameters have in common by chance."""
    counts, some = _links(ours, theirs, at)
    kept = counts * SHARE >= torch.minimum(ours.sizes[:, None], theirs.sizes)
    at[some[~kept[ours.owner[some], theirs.owner[at[some]]]]] = -1


def _extend(ours: _Line, theirs: _Line, at: Tensor, *, bits: bool) -> None:
    """Go on from what is found, forwards and backwards, as long as it is the same."""
    if not bool((at >= 0).any()):
        return
    count, size = len(at), len(theirs.bits)
    places = torch.arange(count)
    for step in (1, -1):
        order = places if step == 1 else places.flip(0)
        known = torch.where(at >= 0, places, -1)[order]
        last = torch.where(known >= 0, places, -1).cummax(0)[0]  # in this order
        start = order[last.clamp_(min=0)]
        there = at[start] + (order - start)
        fits = (at[start] >= 0) & (there >= 0) & (there < size)
        there = there.clamp(0, size - 1)
        taken = torch.zeros(size, dtype=torch.bool)
        taken[at[at >= 0]] = True
        fits &= (ours.owner[order] == ours.owner[start]) & ~taken[there]
        fits &= theirs.owner[there] == theirs.owner[at[start].clamp(min=0)]
        if bits:
            fits &= ours.bits[order] == theirs.bits[there]
        wanted = at[order] < 0
        stop = torch.where(wanted & ~fits, places, -1).cummax(0)[0]  # nothing goes on behind it
        wanted &= fits & (stop < last)
        new, to = order[wanted], there[wanted]
        found, where = to.sort(stable=True)
        first = torch.ones_like(found, dtype=torch.bool)
        first[1:] = found[1:] != found[:-1]
        at[new[where[first]]] = found[first]


def _groups(ours: _Line, theirs: _Line, at: Tensor) -> list[tuple[list[int], list[int]]]:
    """Parameters that have numbers in common, with all that those have numbers in common with."""
    groups: list[tuple[set[int], set[int]]] = []
    for one, two in _links(ours, theirs, at)[0].nonzero().tolist():
        met = [g for g in groups if one in g[0] or two in g[1]]
        groups = [g for g in groups if not any(g is other for other in met)]
        groups.append((
            {one}.union(*(g[0] for g in met)), {two}.union(*(g[1] for g in met))
        ))  # fmt: skip
    return [(sorted(one), sorted(two)) for one, two in groups]


def beside(
    block: Block, candidate: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> Block | None:
    """The biases of some weights, cut as those are; None where there are none, or no cut of rows.

    Args:
        block: of the weights.
        candidate: those of the candidate that have no partner.
        reference: those of the reference.
    """
    own = {n: bias_of(n) for n in block.own}
    other = {n: bias_of(n) for n in block.other}
    if not {*own.values()} <= candidate.keys() or not {*other.values()} <= reference.keys():
        return None
    biases = [candidate[n] for n in own.values()] + [reference[n] for n in other.values()]
    shapes = [*block.own.values(), *block.other.values()]
    if any(b.dim() != 1 or b.shape != s[:1] for b, s in zip(biases, shapes, strict=True)):
        return None
    rows = torch.cat([
        torch.arange(s[0]).repeat_interleave(torch.Size(s[1:]).numel()) + start
        for s, start in zip(
            block.other.values(), _starts({n: s[:1] for n, s in block.other.items()}), strict=True
        )
    ])[block.places]  # fmt: skip
    places = []
    for name, part in _parts(rows, block.own):
        each = part.reshape(block.own[name][0], -1)
        if not bool((each == each[:, :1]).all()):
            return None
        places.append(each[:, 0])
    found = torch.cat(places)
    if not torch.equal(found.sort()[0], torch.arange(sum(len(b) for b in biases) // 2)):
        return None
    return Block(
        {bias: block.own[n][:1] for n, bias in own.items()},
        {bias: block.other[n][:1] for n, bias in other.items()},
        found,
    )


def bias_of(weight: str) -> str:
    """The name that the bias has where a weight has this one."""
    path, dot, name = weight.rpartition(".")
    return path + dot + name.replace("weight", "bias")


def one_for_one(block: Block) -> Sequence[Any]:
    """The two names, where a block is one parameter under another name or in another shape."""
    plain = len(block.own) == len(block.other) == 1
    plain = plain and torch.equal(block.places, torch.arange(len(block.places)))
    return (*block.own, *block.other) if plain else ()
