"""One axis of a convolution, twice: what the edge builder computes, and what the equation says.

The builder's expressions are those of `convgraph.geometry.kernel` (`_axis_output`,
`_axis_sources`), line by line; a test holds them against that file on a box of numbers. The
equation is written without them, as a relation between a place of the padded row and the pixel that
it shows:

    zeros       the pixel of that place
    replicate   the pixel nearest to it
    circular    a pixel some whole number of rows away
    reflect     a pixel reached by mirrors at the centres of the first and the last pixel

Both are written with the arithmetic they are given.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

from convgraph.proof.symbolic.arithmetic import Term

MODES = ("zeros", "reflect", "replicate", "circular")


@final
@dataclass(frozen=True)
class Axis:
    """The integers of one axis; numbers or symbols, all but the kernel and the mode."""

    size: Term
    stride: Term
    before: Term
    after: Term
    dilation: Term
    kernel: int
    mode: str = "zeros"
    transposed: bool = False
    output_padding: Term = 0

    @property
    def span(self) -> Term:
        """Pixels between the first and the last tap."""
        return self.dilation * (self.kernel - 1)


# What the builder does


def builder_size(axis: Axis, at: Any) -> Term:
    """Output sites, as `KernelGeometry._axis_output` computes them."""
    reach = axis.dilation * (axis.kernel - 1) + 1
    if axis.transposed:
        steps = at.times(axis.size - 1, axis.stride)
        return steps - axis.before - axis.after + reach + axis.output_padding
    span = axis.size + axis.before + axis.after - reach
    return at.quotient(span, axis.stride) + 1


def builder_source(axis: Axis, p: Term, tap: int, at: Any) -> Term:
    """The source that site p hears through a tap, or -1, as `_axis_sources` computes it."""
    n, last = axis.size, axis.size - 1
    if axis.transposed:
        reach = p + axis.before - tap * axis.dilation
        q = at.where(at.remainder(reach, axis.stride) == 0, at.quotient(reach, axis.stride), -1)
    else:
        q = at.times(p, axis.stride) - axis.before + tap * axis.dilation
        if axis.mode == "reflect":
            q = at.where(q < 0, -q, q)
            q = at.where(q >= n, 2 * last - q, q)
        elif axis.mode == "replicate":
            q = at.where(q < 0, 0, at.where(q > last, last, q))
        elif axis.mode == "circular":
            q = at.remainder(q, n)
    return at.where(at.either(q < 0, q >= n), -1, q)


@final
@dataclass(frozen=True)
class Builder:
    """What is on trial: two expressions. Another pair is how a fault is planted.

    Attributes:
        size: (axis, arithmetic) -> output sites.
        source: (axis, p, tap, arithmetic) -> source position or -1.
    """

    size: Callable[[Axis, Any], Term] = builder_size
    source: Callable[[Axis, Term, int, Any], Term] = builder_source


def accepted(axis: Axis, at: Any) -> Any:
    """The integers that `KernelGeometry` takes; for all others it raises."""
    rules = [
        axis.size >= 1,
        axis.stride >= 1,
        axis.dilation >= 1,
        axis.before >= 0,
        axis.after >= 0,
        axis.output_padding >= 0,
    ]
    if axis.transposed:
        extra = axis.output_padding
        rules.append(at.either(extra == 0, extra < axis.stride, extra < axis.dilation))
        steps = at.times(axis.size - 1, axis.stride)
        rules.append(steps + axis.span + 1 + extra - axis.before - axis.after >= 1)
    else:
        rules.append(axis.span + 1 <= axis.size + axis.before + axis.after)
    if axis.mode == "reflect":
        rules += [axis.before < axis.size, axis.after < axis.size]
    if axis.mode == "circular":
        rules += [axis.before <= axis.size, axis.after <= axis.size]
    return at.both(*rules)


# What the equation says


def is_site(axis: Axis, p: Term, at: Any) -> Any:
    """Whether p is an output site: its whole window lies within the padded row.

    For a transposed axis: whether p lies on the row that all windows cover, less the padding.
    """
    if axis.transposed:
        steps = at.times(axis.size - 1, axis.stride)
        end = steps + axis.span + 1 + axis.output_padding - axis.before - axis.after
        return at.both(p >= 0, p < end)
    first = at.times(p, axis.stride)
    last = first + axis.span
    return at.both(p >= 0, last <= axis.size + axis.before + axis.after - 1)


def hears(axis: Axis, p: Term, tap: int, q: Term, witness: Term, at: Any) -> Any:
    """Whether q --tap--> p by the equation, given a witness.

    Args:
        axis: the integers.
        p: output site.
        tap: kernel position.
        q: source position.
        witness: circular and reflect: the whole number of periods between; replicate: another
            pixel, which must not be nearer. Zeros and transposed need none.
        at: the arithmetic.
    """
    n = axis.size
    there = [q >= 0, q < n]
    if axis.transposed:
        landing = at.times(q, axis.stride) - axis.before + tap * axis.dilation
        return at.both(*there, p == landing)
    place = at.times(p, axis.stride) - axis.before + tap * axis.dilation
    if axis.mode == "zeros":
        return at.both(*there, q == place)
    if axis.mode == "replicate":
        near, far = _distance(place, q, at), _distance(place, witness, at)
        return at.both(*there, at.either(witness < 0, witness >= n, near <= far))
    if axis.mode == "circular":
        return at.both(*there, place == q + at.times(witness, n))
    turn = 2 * at.times(witness, n - 1)
    return at.both(*there, at.either(place == q + turn, place == turn - q))


def hears_in_numbers(axis: Axis, p: int, tap: int, q: int, at: Any) -> bool:
    """Whether q --tap--> p by the equation, for numbers: every witness that matters is tried."""
    if axis.mode == "replicate" and not axis.transposed:
        return all(hears(axis, p, tap, q, rival, at) for rival in range(axis.size))
    reach = p * axis.stride + axis.before + axis.span + axis.size + 2
    if axis.mode == "zeros" or axis.transposed:
        reach = 0
    return any(hears(axis, p, tap, q, periods, at) for periods in range(-reach, reach + 1))


def witnesses(axis: Axis, p: Term, tap: int, at: Any) -> Iterator[Term]:
    """Witnesses enough to show an edge of the equation where there is one."""
    place = at.times(p, axis.stride) - axis.before + tap * axis.dilation
    if axis.mode == "circular":
        yield at.quotient(place, axis.size)
    elif axis.mode == "reflect":
        yield from (0, 1)
    else:
        yield 0


def _distance(a: Term, b: Term, at: Any) -> Term:
    return at.where(a < b, b - a, a - b)
