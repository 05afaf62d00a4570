"""Axes as products of names: what each axis of an exported tensor is made of.

    image   ((batch), (c), (y), (x))           tokens   ((batch), (y x), (c))

A name is the batch, a digit of a lattice axis, or a plain size. Permute, reshape, flatten and
unsqueeze regroup names and move no node: rows stay rows, whatever shape the exported graph sees. A
lattice axis, or the batch, may be split into digits (y = 7 y' + y''), as windows do. What takes one
value has no name: an axis of one pixel, a batch of one image. Integers only.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

from convgraph.errors import ConversionError


class NoRuleError(ConversionError):
    """An operator has no meaning on node features as it was called; the text says why."""


class ApartError(NoRuleError):
    """An operator is left to those that torch makes of it."""


class Name(NamedTuple):
    """One factor of an axis.

    Attributes:
        kind: "batch", "site" (digits of the image's number or of a lattice axis), "key" (the same
            of the other node of a pair) or "plain".
        size: how many values it takes.
        axis: of a site, the lattice axis, -1 along a sequence of tokens; of windows, theirs.
        stride: of a digit, its weight: its value is (position // stride) % size.
    """

    kind: str
    size: int
    axis: int = -1
    stride: int = 1


Axis = tuple[Name, ...]
Axes = tuple[Axis, ...]


@lru_cache(maxsize=4096)
def image_axes(channels: int, size: tuple[int, ...], batch: int) -> Axes:
    """Return ((batch), (c), (y), (x)) for lattices of any dimension.

    Example:
        >>> sizes(image_axes(3, (4, 5), 2))
        (2, 3, 4, 5)
    """
    lattice = (((Name("site", n, k),) if n > 1 else ()) for k, n in enumerate(size))
    return (batch_axis(batch), (Name("plain", channels),), *lattice)


def plain_axes(shape: Sequence[int]) -> Axes:
    """Return the names of a tensor's own axes."""
    return tuple((Name("plain", n),) if n > 1 else () for n in shape)


def batch_axis(batch: int) -> Axis:
    """Return the axis that names a batch of so many images."""
    return (Name("batch", batch),) if batch != 1 else ()


def ints(value: Any, d: int) -> tuple[int, ...]:
    """Return d ints, of one or of a sequence."""
    if isinstance(value, int):
        return (value,) * d
    return tuple(value) * d if len(value) == 1 else tuple(value)


def place(dim: int, rank: int) -> int:
    """Return the number of an axis, counted from the front.

    Raises:
        IndexError: there is no such axis; as torch says it.
    """
    if not -rank <= dim < rank:
        reach = f"expected to be in range of [{-rank}, {rank - 1}], but got {dim}"
        raise IndexError(f"Dimension out of range ({reach})")
    return dim % rank


def places(dims: Iterable[int], rank: int) -> list[int]:
    """Return the numbers of several axes in order.

    Raises:
        RuntimeError: one is named twice; as torch says it.
    """
    found = sorted(place(int(dim), rank) for dim in dims)
    for one, other in pairwise(found):
        if one == other:
            raise RuntimeError(f"dim {one} appears multiple times in the list of dims")
    return found


@lru_cache(maxsize=4096)
def sizes(axes: Axes) -> tuple[int, ...]:
    """Return the size of each axis."""
    return tuple(prod(name.size for name in axis) for axis in axes)


def replaced(axes: Axes, dim: int, *new: Axis) -> Axes:
    """Return axes with others in the place of one, or without it."""
    return (*axes[:dim], *new, *axes[dim + 1 :])


def names(axes: Axes) -> list[Name]:
    """Return all names in the order of the axes."""
    return [name for axis in axes for name in axis]


def plain(axes: Axes) -> list[int]:
    """Return the sizes of the plain names in order: the shape of one node's features."""
    return [name.size for name in names(axes) if name.kind == "plain"]


@lru_cache(maxsize=4096)
def slots(axes: Axes) -> tuple[range, ...]:
    """Return the dimensions of the features that each axis is, none of one without a plain name.

    Example:
        >>> slots(image_axes(3, (4, 5), 2))
        (range(1, 1), range(1, 2), range(2, 2), range(2, 2))
    """
    ends = accumulate((len(plain((axis,))) for axis in axes), initial=1)
    return tuple(range(*pair) for pair in pairwise(ends))


def of_rows(axes: Axes) -> list[Name]:
    """Return the names of what tells rows apart, in the order of the axes."""
    return [name for name in names(axes) if name.kind != "plain"]


def kinds(axis: Axis) -> set[str]:
    """Return what an axis names."""
    return {name.kind for name in axis}


def is_plain(axis: Axis) -> bool:
    """Whether an axis names no batch and no site."""
    return all(name.kind == "plain" for name in axis)


def no_pixels(axes: Axes) -> bool:
    """Whether axes tell images and channels apart, and no pixels."""
    return all(name.kind in ("batch", "plain") for name in names(axes))


def whole(axis: Axis) -> Axis:
    """Put neighbouring digits of one lattice axis together where they form a larger digit."""
    out: list[Name] = []
    for name in axis:
        larger = (name.kind, name.axis, name.stride * name.size)
        last = out[-1] if out and name.kind != "plain" else None
        if last is not None and (last.kind, last.axis, last.stride) == larger:
            out[-1] = Name(name.kind, last.size * name.size, name.axis, name.stride)
        else:
            out.append(name)
    return tuple(out)


def split(name: Name, low: int) -> tuple[Name, Name]:
    """Split a name into a high and a low digit, the low one of `low` values.

    Raises:
        NoRuleError: a size that does not divide.
    """
    if name.size % low:
        raise NoRuleError(f"a reshape splits the {name.kind} axis of {name.size} by {low}")
    stride = 1 if name.kind == "plain" else name.stride * low
    high = Name(name.kind, name.size // low, name.axis, stride)
    return high, Name(name.kind, low, name.axis, name.stride)


@lru_cache(maxsize=4096)
def regroup(axes: Axes, shape: tuple[int, ...]) -> Axes:
    """Return the names of a tensor that is reshaped, in row-major order, to `shape`.

    Example:
        >>> sizes(regroup(image_axes(6, (4, 5), 7), (7, 2, 3, 20)))
        (7, 2, 3, 20)

    Raises:
        NoRuleError: the shape cuts through a name that does not divide.
    """
    left = [name for name in names(axes) if name.size != 1]
    if any(name.size == 0 for name in left):
        raise NoRuleError("a reshape of a batch of no image")
    left.reverse()
    out: list[Axis] = []
    for size in shape:
        axis: list[Name] = []
        rest = size
        while rest > 1:
            if not left:
                raise NoRuleError(f"a reshape from {sizes(axes)} to {tuple(shape)}")
            name = left.pop()
            if rest % name.size == 0:
                axis.append(name)
                rest //= name.size
            elif name.size % rest == 0:
                high, low = split(name, name.size // rest)
                axis.append(high)
                left.append(low)
                rest = 1
            else:
                raise NoRuleError(
                    f"a reshape from {sizes(axes)} to {tuple(shape)} cuts through a {name.kind} "
                    f"axis of {name.size}"
                )
        out.append(whole(tuple(axis)))
    if left:
        raise NoRuleError(f"a reshape from {sizes(axes)} to {tuple(shape)}")
    return tuple(out)


def cells(kept: Sequence[Name], size: Sequence[int]) -> tuple[int, ...] | None:
    """Return how many positions along each axis become one where only these digits stay.

    None where those that become one are no neighbours.
    """
    low = []
    for axis, n in enumerate(size):
        mine = [name for name in kept if name.axis == axis]
        count = prod(name.size for name in mine)
        if n % count or any(name.stride % (n // count) for name in mine):
            return None
        low.append(n // count)
    return tuple(low)


def coarser(axes: Axes, low: Sequence[int]) -> Axes:
    """Return axes in digits of the lattice of such cells."""
    return _by_strides(axes, lambda name: name.stride // low[name.axis])


def finer(axes: Axes, low: Sequence[int]) -> Axes:
    """Return axes of a lattice of such cells in digits of the lattice that they are cells of."""
    return _by_strides(axes, lambda name: name.stride * low[name.axis])


def _by_strides(axes: Axes, stride: Callable[[Name], int]) -> Axes:
    """The same digits of another lattice, on which they have other weights."""

    def digit(name: Name) -> Name:
        return name._replace(stride=stride(name)) if name.kind == "site" else name

    return tuple(tuple(map(digit, axis)) for axis in axes)


def common(first: Axis, other: Axis) -> Axis:
    """Return the coarsest names that both axes of one size can be split into.

    Raises:
        NoRuleError: they differ in more than how plain sizes and digits are grouped.
    """
    a, b, out = list(reversed(first)), list(reversed(other)), []
    while a and b:
        x, y = a.pop(), b.pop()
        if x.kind == y.kind == "plain" and x.axis != y.axis:  # windows stay windows
            x, y = (one._replace(axis=max(x.axis, y.axis)) for one in (x, y))
        if x == y:
            out.append(x)
            continue
        if x.kind != y.kind or x.axis != y.axis:
            raise _meeting(first, other)
        if x.size > y.size and x.size % y.size == 0:
            x, low = split(x, x.size // y.size)
            a.append(low)
        elif y.size > x.size and y.size % x.size == 0:
            y, low = split(y, y.size // x.size)
            b.append(low)
        if x != y:
            raise _meeting(first, other)
        out.append(x)
    if a or b:
        raise _meeting(first, other)
    return tuple(out)


def _meeting(first: Axis, other: Axis) -> NoRuleError:
    lattices = [{name.axis for name in axis if name.kind == "site"} for axis in (first, other)]
    why = ""
    if lattices[0] != lattices[1]:
        why = ", of which one tells other pixels apart than the other does, though they are as long"
    elif all(name.kind == "site" for name in (*first, *other)):
        why = ", one lattice cut in two ways, as blocks beside windows with a halo are"
    return NoRuleError(f"axes {describe(first)} and {describe(other)} meet{why}")


def broadcast(all_axes: Sequence[Axes]) -> Axes:
    """Return the names of a result to which several tensors are broadcast.

    Args:
        all_axes: of each tensor, () for an axis of size 1; shorter ones are filled from the left.

    Raises:
        NoRuleError: axes of one size that mean different things.
    """
    rank = max(len(axes) for axes in all_axes)
    out: list[Axis] = [()] * rank
    for axes in all_axes:
        for number, axis in enumerate(axes, start=rank - len(axes)):
            if not axis:
                continue
            out[number] = common(out[number], axis) if out[number] else axis
    return tuple(out)


def describe(axes: Axis | Axes) -> str:
    """Return "(batch) (96) (y x)", for error texts.

    Example:
        >>> describe(image_axes(3, (4, 5), 2))
        '(batch) (3) (y) (x)'
    """
    if axes and not isinstance(axes[0], Name):
        return " ".join(f"({_words(axis)})" for axis in axes)
    return f"({_words(axes)})"


def _words(axis: object) -> str:
    words = []
    for name in axis if isinstance(axis, tuple) else ():
        if name.kind in ("site", "key"):
            letter = ("y", "x", "z", "token")[name.axis] + ("*" if name.kind == "key" else "")
            words.append(letter if name.stride == 1 else f"{letter}/{name.stride}")
        else:
            words.append("batch" if name.kind == "batch" else str(name.size))
    return " ".join(words)
