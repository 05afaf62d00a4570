"""What is known of an entry, when all that is known of an image is which pixel is the largest.

An entry of real numbers is a complex number, number + code i:

    code 0          the number itself
    code 3 g + r    of the window g: its largest entry (r = 2); at most that (r = 1); less, or minus
                    infinity (r = 0)
    code -4         a sum of pixels, or of gradients that were sent, with shares k / 2^16 of at most
                    one; the number is its value at random whole numbers, which tell sums apart
    code -2         some finite number
    code -1         some number, perhaps an infinite one

and one of integers or bools is least + most i. So whatever moves entries moves what is known of
them. Each function answers what may come out; where that is more than one thing, it says less.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from convgraph.proof.layer.order.suppositions import anywhere

OPEN, ANY, SUM = -1, -2, -4
LOW, AT_MOST, TOP = 0, 1, 2

WIDE = 2.0**40
"""Beyond every index: an integer of which nothing is known lies between minus this and this."""

_FAR = 2.0**50
_EXACT = 256  # integers up to it are exact in every dtype
_PARTS = 2.0**16

Parts = tuple[Tensor, Tensor]
Sums = Parts | None


def number(value: Tensor) -> Tensor:
    """Return what is known of real numbers that are known."""
    value = value.to(torch.float64)
    return torch.complex(value, torch.zeros_like(value))


def whole(value: Tensor) -> Tensor:
    """Return what is known of integers or bools that are known."""
    value = value.to(torch.float64)
    return torch.complex(value, value)


def settled(span: Tensor) -> Tensor:
    """Return which integers are known."""
    return span.real == span.imag


def some(like: Tensor, code: int) -> Tensor:
    """Return entries of which no more is known than a code says."""
    zero = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
    return torch.complex(zero, torch.full_like(zero, code))


def finite(entry: Tensor) -> Tensor:
    """Return which entries are certainly finite."""
    code = entry.imag
    data = (code == ANY) | (code == SUM) | ((code > 0) & (code % 3 == TOP))
    return data | ((code == 0) & entry.real.isfinite())


def decided(entry: Tensor, known: Parts) -> Tensor:
    """Return entries whose sums give way to what their order is known to be.

    Args:
        entry: what is known.
        known: numbers of sums, ascending, and the codes of those; any other is some finite number.
    """
    numbers, found = known
    sums = entry.imag == SUM
    if not anywhere(sums):
        return entry
    code = torch.full_like(entry.real, ANY)
    if len(numbers):
        place = torch.searchsorted(numbers, entry.real.contiguous()).clamp(max=len(numbers) - 1)
        code = torch.where(numbers[place] == entry.real, found[place], code)
    return torch.where(sums, torch.complex(torch.zeros_like(code), code), entry)


def join(one: Tensor, two: Tensor) -> Tensor:
    """Return what is known of an entry that is one or the other."""
    one, two = torch.broadcast_tensors(one, two)
    a, b = one.imag, two.imag
    mute = [(t.imag == 0) & (t.real == -torch.inf) for t in (one, two)]
    group = torch.where(mute[0], (b / 3).floor(), (a / 3).floor())
    other = torch.where(mute[1], (a / 3).floor(), (b / 3).floor())
    within = (group == other) & (group >= 1)
    low = (mute[0] | (a % 3 == LOW)) & (mute[1] | (b % 3 == LOW))
    code = torch.where(finite(one) & finite(two), ANY, OPEN).to(a)
    code = torch.where(within, 3 * group + torch.where(low, LOW, AT_MOST), code)
    made = torch.complex(torch.zeros_like(a), code)
    return torch.where((one == two) & (a != OPEN) & (a != ANY), one, made)


def order(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return whether the first may be less, equal and greater; NaN aside."""
    one, two = torch.broadcast_tensors(one, two)
    a, b = one.imag, two.imag
    p, q = (torch.where(t > 0, t % 3, torch.nan) for t in (a, b))
    same = (a > 0) & (b > 0) & ((a / 3).floor() == (b / 3).floor())
    both = (a == 0) & (b == 0)
    never_less = (same & (p == TOP)) | (both & (one.real >= two.real))
    never_greater = (same & (q == TOP)) | (both & (one.real <= two.real))
    never_equal = same & (((p == TOP) & (q == LOW)) | ((p == LOW) & (q == TOP)))
    never_equal = never_equal | (both & (one.real != two.real))
    for this, that, below in ((one, two, False), (two, one, True)):
        end = (this.imag == 0) & this.real.isinf()
        low, high = end & (this.real < 0), end & (this.real > 0)
        # this is an infinity, and that is no number that is known
        beside = (that.imag != 0) & (that.imag != OPEN)  # which may be NaN
        greater_that, less_that = low & beside, high & beside
        if below:
            never_less, never_greater = never_less | greater_that, never_greater | less_that
        else:
            never_greater, never_less = never_greater | greater_that, never_less | less_that
        bounded = (that.imag > 0) | (that.imag == ANY)  # a finite number, or minus infinity
        never_equal = never_equal | (high & bounded) | (low & beside & finite(that))
    return ~never_less, ~never_equal, ~never_greater


def bools(span: Tensor) -> Tensor:
    """Return which integers are not 0."""
    low = (span.real > 0) | (span.imag < 0)
    return truth((span.real != 0) | (span.imag != 0), ~low)


def truth(may: Tensor, may_not: Tensor) -> Tensor:
    """Return what is known of a bool that may be true, and may be false."""
    return torch.complex((~may_not).double(), may.double())


def peak(run: Callable[[Tensor], Tensor], entry: Tensor) -> Tensor:
    """Return what is known of maxima.

    Args:
        run: the operator, on real numbers: each result is the largest of some of the entries.
        entry: what they are.
    """
    value, code = entry.real, entry.imag
    mute = (code == 0) & (value == -torch.inf)
    high = torch.where(mute, -torch.inf, torch.where(code < 0, _FAR, code))
    low = torch.where(mute, torch.inf, torch.where(code < 0, -_FAR, code))
    top, bottom = run(high), -run(-low)
    alike = (top / 3).floor() == (bottom / 3).floor()
    code_out = torch.where(alike, top, OPEN)
    silent = top == -torch.inf
    code_out = torch.where(silent, 0.0, code_out)
    numbers = run(torch.where(code == 0, value, -torch.inf))
    numbers = torch.where(code_out == 0, numbers, 0.0)
    return torch.complex(numbers, code_out)


def alone(run: Callable[[Tensor], Tensor], entry: Tensor) -> Tensor:
    """Return what is known of sums in which every entry counts once: one and zeros is that one.

    More than two numbers are added where no order of them rounds.

    Args:
        run: the operator, on real numbers.
        entry: what they are.
    """
    value, code = entry.real, entry.imag
    data = code != 0
    several = run(data.double())
    others = run(((code == 0) & (value != 0)).double())
    numbers = run(torch.where(data, 0.0, value))
    codes = run(torch.where(data, code, 0.0))
    numerals = torch.where(data, 0.0, value)
    exact = (run((numerals != numerals.round()).double()) == 0) & (run(numerals.abs()) <= _EXACT)
    made = torch.where((several == 1) & (others == 0), codes, OPEN)
    known = (several == 0) & (exact | (others <= 2))
    sums = code == SUM
    if anywhere(sums):
        added = (several > 0) & (others == 0) & (run((data & ~sums).double()) == 0)
        made = torch.where(added, SUM, made)
        numbers = torch.where(added, run(torch.where(sums, value, 0.0)), numbers)
        known = known | added
        return torch.complex(
            torch.where(known, numbers, 0.0), torch.where(known & ~added, 0.0, made)
        )
    return torch.complex(torch.where(known, numbers, 0.0), torch.where(known, 0.0, made))


def times(one: Tensor, two: Tensor) -> Tensor:
    """Return what is known of products: by 1 and by 0, and of sums by shares."""
    one, two = torch.broadcast_tensors(one, two)
    a, b = one.imag == 0, two.imag == 0
    found = some(one, OPEN)
    found = torch.where(b & (two.real == 1), one, torch.where(a & (one.real == 1), two, found))
    empty = (b & (two.real == 0) & finite(one)) | (a & (one.real == 0) & finite(two))
    found = torch.where(empty, torch.zeros_like(one), found)
    for this, by, number_ in ((one, two, b), (two, one, a)):
        parts = by.real * _PARTS
        share = (this.imag == SUM) & number_ & (parts == parts.round()) & (by.real <= 1)
        share = share & (by.real > 0)
        product = torch.complex(this.real * by.real, torch.full_like(this.real, SUM))
        found = torch.where(share, product, found)
    return torch.where(a & b, number(one.real * two.real), found)
