"""The largest of some elements: of a set, so that order, repetition and nesting say nothing.

    max(max(a, b), c) = max{a, b, c}        a window of 9 pixels, or one of 5 of windows of 5
    min(a, b) = -max{-a, -b}
    max{a, 0} = a [a > 0]
    max{a, l} = l + max{a - l, 0}           of several constants the largest alone
    min(max(a, l), h) = max(min(a, h), l)   where l < h, whichever is first

A set is a variable that hangs on the sum of what its members are mixed to, each once. Nothing is
rounded where the largest is taken: of what its members can lose it loses the most, and a choice of
two counts half of either.
"""

from fractions import Fraction
from math import inf
from typing import NamedTuple, final

import torch
from torch import Tensor

from convgraph.proof.network import terms
from convgraph.proof.network.polynomials import (
    PLAIN,
    POINTS,
    Constant,
    Height,
    NoMeaning,
    Points,
    Polynomial,
    either,
    exactly,
    highest,
    mixed,
    of_constants,
    reduced,
    words_of,
)

MEMBERS = 2**22
"""Of all sets that an operator makes; beyond that it stays what it is."""

FEW = 64
"""Constants of one tensor that are told from variables."""


class _Held(NamedTuple):
    """Entries (n,) that were held between two constants; others were between -inf and inf.

    Attributes:
        x: what was held, its terms as they were before it was.
        low: (n,) float64.
        high: likewise.
    """

    x: Polynomial
    low: Tensor
    high: Tensor


class _Block(NamedTuple):
    """What was held, in the order of its keys: what it is, of what, and between which constants."""

    keys: Tensor
    at: Tensor
    of: Tensor
    values: Tensor
    low: Tensor
    high: Tensor


@final
class Maxima:
    """The largest elements of both sides, and what they are the largest of.

    Args:
        points: whose elements they are.
    """

    def __init__(self, points: Points) -> None:
        """Start with none."""
        self.points = points
        self._blocks: list[_Block] = []
        self._members = Polynomial(  # of sets, by their place
            torch.zeros(POINTS, 0, dtype=torch.int64), terms.numbers(torch.zeros(0)), Height(0)
        )
        none = torch.zeros(0, dtype=torch.int64)
        self._keys, self._order, self._first, self._count, self._of = (none,) * 5

    # -- between constants -------------------------------------------------------------------------

    def between(self, x: Polynomial, low: Constant | None, high: Constant | None) -> Polynomial:
        """Each entry, no less than a constant and no more than another.

        Raises:
            NoMeaning: nothing is left between them.
        """
        flat = x.view(-1)
        ends = [torch.full(flat.shape, otherwise if end is None else float(end.value)).double()
                for end, otherwise in ((low, -inf), (high, inf))]  # fmt: skip
        return self._between(flat, *ends).view(*x.shape)

    def above(self, x: Polynomial, than: Constant) -> Polynomial:
        """Which entries are more than a constant, as 1 or 0: of what was held, as before."""
        held, value = self._held(x.view(-1)), float(than.value)
        asked = (held.low <= value) & (value < held.high)
        found = either(asked, held.x, x.view(-1)) + exactly(-than.value)
        return self._positive(found).view(*x.shape)

    def below(self, x: Polynomial, than: Constant) -> Polynomial:
        """Which entries are less than a constant, as 1 or 0: of what was held, as before."""
        return self.above(-x, exactly(-than.value))

    def positive(self, x: Polynomial) -> Polynomial:
        """Which entries are more than 0, as 1 or 0: of what was held, as before."""
        return self.above(x, exactly(Fraction(0)))

    def _positive(self, x: Polynomial) -> Polynomial:
        made = self.points.atom("positive", x)
        made.terms = terms.choices(made.shape)
        return made

    def _between(self, a: Polynomial, low: Tensor, high: Tensor) -> Polynomial:
        """Entries (n,), each between ends of its own."""
        held = self._held(a)
        ends = [torch.minimum(torch.maximum(e, low), high) for e in (held.low, held.high)]
        if bool((low >= high).any()) or bool((ends[0] >= ends[1]).any()):
            raise NoMeaning
        made = self._made(held.x, *ends)
        own = held.x.terms / 2
        made.terms = torch.cat([
            own[terms.SIZE] + _room(*ends), made.terms[terms.VALUE], own[terms.LOSS]
        ])  # fmt: skip
        free = ends[0].isinf() & ends[1].isinf()
        if bool(free.any()):
            made = either(free, a, made)
        keys, order = self.points.key(made.at).sort(stable=True)
        rest = made.at.int(), held.x.at.int(), held.x.terms[terms.VALUE], *ends
        self._blocks.append(_Block(keys, *(t[..., order] for t in rest)))
        return made

    def _made(self, x: Polynomial, low: Tensor, high: Tensor) -> Polynomial:
        """What holding comes to; of x and -x whichever has the lesser key, where both ends hold."""
        zero, lows, highs = torch.zeros_like(low), low.isfinite(), high.isfinite()
        made = x
        for some, sign, end in ((lows & ~highs, 1, low), (highs & ~lows, -1, -high)):
            if bool(some.any()):
                least = _constants(torch.where(some, end, zero))
                apart = (x if sign > 0 else -x) - least
                if bool((end[some] != 0).any()):
                    apart = self._between(apart, zero, zero + inf)
                else:
                    apart = apart * self._positive(apart)
                found = least + apart
                found = found if sign > 0 else -found
                made = found if bool(some.all()) else either(some, found, made)
        both = lows & highs
        if bool(both.any()):
            ends = [torch.where(both, e, zero + k) for k, e in enumerate((low, high))]
            turned = self.points.key(reduced(-x.at)) < self.points.key(x.at)
            y = either(turned, -x, x)
            least = _constants(torch.where(turned, -ends[1], ends[0]))
            most = _constants(torch.where(turned, -ends[0], ends[1]))
            step = self.positive(most - y)
            found = least + (y - least) * self.positive(y - least) * step
            found = found + (most - least) * (-step + exactly(Fraction(1)))
            made = either(both, either(turned, -found, found), made)
        return made

    def _held(self, a: Polynomial) -> _Held:
        """What entries (n,) were before they were held."""
        at, own, free = a.at, a.terms, torch.ones(a.shape, dtype=torch.bool)
        low, high = torch.full(a.shape, -inf).double(), torch.full(a.shape, inf).double()
        for sign in (1, -1) if self._blocks else ():
            asked = a.at if sign > 0 else reduced(-a.at)
            keys = self.points.key(asked)
            for block in self._blocks:
                if not len(block.keys):
                    continue
                place = torch.searchsorted(block.keys, keys).clamp_(max=len(block.keys) - 1)
                same = (block.keys[place] == keys) & free
                if not bool(same.any()):
                    continue
                _, made, of, values, *ends = (t[..., place] for t in block)
                same &= (made == asked).all(0) & (asked != 0).any(0)
                free &= ~same
                ends = ends if sign > 0 else [-ends[1], -ends[0]]
                low, high = (torch.where(same, *p) for p in zip(ends, (low, high), strict=True))
                before = torch.cat([
                    2 * (a.terms[terms.SIZE] - _room(*ends)).clamp(min=0), sign * values,
                    2 * a.terms[terms.LOSS],
                ])  # fmt: skip
                own = torch.where(same, before, own)
                at = torch.where(same, reduced(sign * of.long()), at)
        return _Held(Polynomial(at, own, a.height, a.factor), low, high)

    # -- sets --------------------------------------------------------------------------------------

    def largest(self, x: Polynomial, places: Tensor) -> Polynomial:
        """The largest of some entries.

        Args:
            x: (m,).
            places: (*shape, members) which of them; -1 for none.

        Raises:
            NoMeaning: there is none, or there are too many.
        """
        shape, places = places.shape[:-1], places.reshape(-1, places.shape[-1])
        there = places >= 0
        if places.numel() > MEMBERS or not bool(there.any(1).all()):
            raise NoMeaning
        self.points.compared(x)
        held = self._held(x)
        cut = held.low.isfinite() & held.high.isinf()
        base, fixed = either(cut, held.x, x), _fixed(x)
        known = fixed.isfinite()
        least = torch.where(known, fixed, torch.where(cut, held.low, -inf))
        low = torch.where(there, least[places], -inf).amax(1)
        rows, members = self._unique(base, places, there & ~known[places])
        count = rows.bincount(minlength=len(places))
        made = self._sets(rows, members, count)
        own = torch.where((there & ~known[places]), base.terms[:, places], -inf).amax(-1)
        own[terms.VALUE] = made.terms[terms.VALUE]
        made = Polynomial(made.at, own, highest([made.height, base.height]))
        none = count == 0
        if bool(none.any()):
            made = either(none, _constants(torch.where(none, low, 0.0)), made)
        if bool((low.isfinite() & ~none).any()):
            made = self._between(made, torch.where(none, -inf, low), torch.full_like(low, inf))
        return made.view(*shape)

    def smallest(self, x: Polynomial, places: Tensor) -> Polynomial:
        """The smallest of some entries, see `largest`."""
        return -self.largest(-x, places)

    def _unique(self, base: Polynomial, places: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and members, each once, those of a set in the place of the set."""
        asked = torch.zeros(base.shape, dtype=torch.bool)
        asked[places[there]] = True
        ids = torch.full(base.shape, -1)
        ids[asked] = self._ids(base.moved(lambda t: t[:, asked]))
        rows = torch.arange(len(places))[:, None].expand_as(places)[there]
        found = ids[places[there]]
        counts = self._count[found].clamp(min=1)
        if int(counts.sum()) > MEMBERS:
            raise NoMeaning
        owner = torch.arange(len(found)).repeat_interleave(counts)
        within = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
        some = self._count[found][owner] > 0
        inner = torch.cat([self._of, found.new_zeros(1)])
        start = torch.where(some, self._first[found][owner] + within, len(self._of))
        found = torch.where(some, inner[start], found[owner])
        most = max(len(self._count), 1)
        pairs = (rows[owner] * most + found).unique()
        return pairs // most, pairs % most

    def _sets(self, rows: Tensor, members: Tensor, count: Tensor) -> Polynomial:
        """The variables that sets are; of one member that member."""
        used, places = members.unique(return_inverse=True)
        at = self._members.at[:, used]
        words, total = mixed(words_of("a member", at)), torch.zeros(POINTS, len(count)).long()
        for mine, sums in zip(words, total, strict=True):
            sums.index_add_(0, rows, mine[places])
        made = self.points.variable(total, "largest")
        value = torch.full((2, len(count)), -inf).double()
        own = self._members.terms[terms.VALUE][:, members]
        value.scatter_reduce_(1, rows.expand(2, -1), own, "amax")
        made.terms = torch.cat([value.abs(), value, value.abs()])
        if not len(members):
            return made
        first = (count.cumsum(0) - count).clamp(max=len(members) - 1)
        single = count == 1
        if bool(single.any()):
            made.at = torch.where(single, self._members.at[:, members[first]], made.at)
        several = count > 1
        before = len(self._count)
        ids = self._ids(made.moved(lambda t: t[:, several]))
        new = ids >= before
        self._first[ids[new]] = len(self._of) + first[several][new]
        self._count[ids[new]] = count[several][new]
        self._of = torch.cat([self._of, members])
        return made

    def _ids(self, x: Polynomial) -> Tensor:
        """(n,) the places of entries among all members; new ones for whom nobody saw."""
        keys, flat = self.points.key(x.at), x.at
        found = torch.full(keys.shape, -1)
        if len(self._keys):
            at = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
            found = torch.where(self._keys[at] == keys, self._order[at], found)
        new = found < 0
        if bool(new.any()):
            fresh, which = keys[new].unique(return_inverse=True)
            first = torch.full((len(fresh),), len(which)).scatter_reduce_(
                0, which, torch.arange(len(which)), "amin"
            )
            start = len(self._count)
            found[new] = start + which
            mine = new.nonzero()[:, 0][first]
            self._members = Polynomial(
                torch.cat([self._members.at, flat[:, mine]], 1),
                torch.cat([self._members.terms, x.terms[:, mine]], 1), Height(0),
            )  # fmt: skip
            none = torch.zeros(len(fresh), dtype=torch.int64)
            self._first, self._count = (torch.cat([t, none]) for t in (self._first, self._count))
            keys = torch.cat([self._keys, fresh])
            order = torch.cat([self._order, start + torch.arange(len(fresh))])
            self._keys, turned = keys.sort(stable=True)
            self._order = order[turned]
        if not torch.equal(self._members.at[:, found], flat):
            raise NoMeaning  # two that differ have one key
        return found


def _room(low: Tensor, high: Tensor) -> Tensor:
    """How large the ends are that something is held between."""
    return sum((e.abs().nan_to_num(posinf=0.0) for e in (low, high)), torch.zeros_like(low))


def _constants(values: Tensor) -> Polynomial:
    """(n,) numbers, of few values."""
    some, places = values.unique(return_inverse=True)
    table = [exactly(Fraction(v)) for v in some.tolist()]
    at = torch.stack([one.at for one in table], 1)[:, places]
    return Polynomial(at, terms.numbers(values), highest([one.height for one in table]))


def _fixed(x: Polynomial) -> Tensor:
    """(n,) which numbers entries are, NaN for variables."""
    values, *others = x.terms[terms.VALUE]
    found = torch.full_like(values, torch.nan)
    alike = torch.stack([values == other for other in others]).all(0)
    if not bool(alike.any()):
        return found
    plain = alike & ((values * PLAIN).round() == values * PLAIN) & (values.abs() <= PLAIN)
    known = torch.zeros_like(alike)
    some = values[plain].unique()
    for value in some.tolist() if len(some) <= FEW else ():
        here = exactly(Fraction(value)).at[:, None] == x.at
        known |= plain & (values == value) & here.all(0)
    known |= alike & ~plain & (of_constants(values) == x.at).all(0)
    return torch.where(known, values, found)
