"""Products of two maps, or of a map with a matrix of each image: sums over one axis.

y[..., i, j] = sum over k of a[..., i, k] b[..., k, j]        an absent node says 0

Where k names sites, every node talks to one readout of its image (the attention of channels, a
linear layer over tokens); where i or j does, the result lives on those sites. Two lattices at once
are pairs of nodes, and those are attention's.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.align import align, expanded
from convgraph.convert.names import Axes, Axis, Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules import attention
from convgraph.convert.rules.attention import turned
from convgraph.convert.rules.reductions import reduced
from convgraph.convert.value import Spatial, dense, placed
from convgraph.graph.network_sites import network_sites
from convgraph.graph.sites import Sites


@rule("matmul", "bmm", "mm", hop="all")
def matmul(call: Any, x: Any, other: Any) -> Any:
    """Queries times keys, weights times values, or a sum over one axis."""
    if isinstance(x, Spatial) and isinstance(other, Tensor) and other.dim() == 2:
        last = len(x.axes) - 1
        if names.is_plain(x.axes[last]):
            call.travelled("node")
            return x.on_axis(last, lambda rows, slot: rows @ other)
    if attention.is_pairs(x):
        return attention.answers(call, x, other)
    if attention.is_pairs(other) and isinstance(x, Spatial):
        return turned(attention.answers(call, turned(other), turned(x)))
    if isinstance(x, Spatial) and isinstance(other, Spatial) and _asks(x, other):
        return attention.questions(call, x, other)
    return contract(call, x, other)


@rule("baddbmm", hop="all")
def added(call: Any, bias: Any, x: Any, other: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """A product, and what is added to it: a mask or a bias on who hears whom."""
    made = matmul(call, x, other)
    if not isinstance(made, Spatial) and not isinstance(bias, Spatial):
        return alpha * made + beta * bias
    (rows, more), sites, axes = align([made, bias])
    return Spatial(expanded(alpha * rows + beta * more, sites, axes), sites, axes)


def _asks(x: Spatial, other: Spatial) -> bool:
    """Whether both have nodes on the axis that is left, and none on the one that goes."""
    plain = names.is_plain(x.axes[-1]) and names.is_plain(other.axes[-2])
    return plain and not names.is_plain(x.axes[-2]) and not names.is_plain(other.axes[-1])


def contract(call: Any, x: Any, other: Any) -> Any:
    """Return the sum over the last axis of x and the last but one of the other.

    Raises:
        NoRuleError: the axes do not meet, or nodes of two lattices would be paired.
    """
    sides = (x, other)
    rank = max(len(one.shape) for one in sides)
    if len(other.shape) == 1 and isinstance(x, Spatial) and names.is_plain(x.axes[-1]):
        value = x.merged(len(x.axes) - 1)
        call.travelled("node")
        return Spatial(value.x @ other, x.sites, value.axes[:-1])
    if min(len(one.shape) for one in sides) < 2:
        raise NoRuleError("a product with a vector along the lattice")
    batch = next(one.sites.batch_size for one in sides if isinstance(one, Spatial))
    a, b = (_axes(one, rank, batch) for one in sides)
    a, b = _led(x, a, b), _led(other, b, a)
    gone = (a[-1], b[-2])
    if all(isinstance(one, Spatial) for one in sides):
        names.common(*(tuple(name for name in axis if name.size > 1) for axis in gone))
        if any(name.kind == "site" for name in gone[0]) and x.sites is not other.sites:
            raise NoRuleError("nodes of two lattices are summed over")
    lead = names.broadcast([a[:-2], b[:-2]])
    axes = (*lead, a[-2], b[-1])
    found = dense(x) @ dense(other)
    return left(found, axes, [one for one in sides if isinstance(one, Spatial)])


def left(out: Tensor, axes: Axes, sources: list[Spatial]) -> Any:
    """Return a dense result on the sites that its axes name; without any it is a readout."""
    kept = names.of_rows(axes)
    lattice = [name for name in kept if name.kind != "batch"]
    images = prod(name.size for name in kept if name.kind == "batch")
    if not lattice or images != sources[0].sites.batch_size:  # pixels of no image any more
        return out
    count = prod(name.size for name in lattice)
    for one in sources:
        sites = _lines(one.sites, {name.axis for name in lattice})
        cells = getattr(sites, "num_cells", -1)
        whole = count * sites.batch_size == cells and len(set(kept)) == len(kept)
        if whole and set(lattice) <= set(names.names(one.axes)):
            return placed(out, sites, axes)
    raise NoRuleError(f"a product on {names.describe(axes)}, no whole lattice")


def _lines(sites: Any, axes: set[int]) -> Any:
    """The sites of a lattice of which whole axes are gone, in the plane."""
    if not isinstance(sites, Sites) or sites.size is None or sites.space is not None:
        return sites
    size = tuple(n if axis in axes else 1 for axis, n in enumerate(sites.size))
    return sites if size == sites.size else network_sites(sites, (size,) * sites.batch_size)


def _axes(one: Any, rank: int, batch: int) -> Axes:
    """The names of an operand's axes; of a tensor, the first is the batch if it has its size."""
    if isinstance(one, Spatial):
        return ((),) * (rank - len(one.axes)) + one.axes
    missing = rank - one.dim()
    found: list[Axis] = [()] * missing
    for number, n in enumerate(one.shape):
        is_batch = number == missing == 0 and n == batch
        name = Name("batch", n) if is_batch else Name("plain", n)
        found.append((name,) if n > 1 else ())
    return tuple(found)


@rule("_euclidean_dist", "_cdist_forward", "cdist")
def distances(call: Any, x: Any, table: Any, *more: Any) -> Any:
    """How far every node is from each row of a table, as a codebook asks."""
    if not isinstance(x, Spatial) or not isinstance(table, Tensor) or table.dim() != 2:
        raise NoRuleError("it does not go from a map to the rows of one table")
    return x.on_axis(
        len(x.axes) - 1,
        lambda rows, slot: call.target(rows.flatten(0, -2), table, *more).unflatten(
            0, rows.shape[:-1]
        ),
    )


def _led(one: Any, axes: Axes, other: Axes) -> Axes:
    """A tensor's leading axes under the names of the map's, where they are as long."""
    if isinstance(one, Spatial):
        return axes
    lead = [
        theirs if theirs and names.sizes((mine,)) == names.sizes((theirs,)) else mine
        for mine, theirs in zip(axes[:-2], other[:-2], strict=True)
    ]
    return (*lead, *axes[-2:])


@rule("einsum", hop="all")
def einsum(call: Any, equation: str, operands: Any, **more: Any) -> Any:
    """Products of two operands at a time; a letter that one alone has, and nobody asks, is summed.

    Raises:
        NoRuleError: the equation takes a diagonal, or a product has no meaning.
    """
    terms, out = _letters(equation, operands)
    if any(len(set(term)) < len(term) for term in (*terms, out)):
        raise NoRuleError(f"einsum {equation!r} takes a diagonal")
    made, mine = _summed(call, operands[0], terms[0], {*out}.union(*terms[1:]))
    for number, (one, term) in enumerate(zip(operands[1:], terms[1:], strict=True), start=2):
        kept = {*out}.union(*terms[number:])
        other, term = _summed(call, one, term, kept.union(mine))
        made, mine = _product(call, made, mine, other, term, kept)
    order = [mine.index(c) for c in out]
    return made.permuted(order) if isinstance(made, Spatial) else made.permute(order)


def _letters(equation: str, operands: Any) -> tuple[list[str], str]:
    """The letters of each operand and of the result, those of an ellipsis included."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    counts = [
        len(x.shape) - len(t.replace("...", "")) for x, t in zip(operands, terms, strict=True)
    ]
    dots = "".join(free[: max((n for n, t in zip(counts, terms) if "..." in t), default=0)])  # noqa: B905
    if not arrow:
        once = (c for c in sorted({*left} - {*".,"}) if left.count(c) == 1)
        out = ("..." if dots else "") + "".join(once)
    terms = [t.replace("...", dots[len(dots) - n :]) for n, t in zip(counts, terms, strict=True)]
    return terms, out.replace("...", dots)


def _summed(call: Any, one: Any, letters: str, kept: set[str]) -> tuple[Any, str]:
    """An operand without the letters that nobody else asks for."""
    gone = [k for k, c in enumerate(letters) if c not in kept]
    if gone:
        one = reduced("sum", call, one, gone) if isinstance(one, Spatial) else one.sum(gone)
    return one, "".join(c for c in letters if c in kept)


def _product(call: Any, x: Any, first: str, y: Any, second: str, kept: set[str]) -> tuple[Any, str]:
    """Two operands as one, and its letters: axes change places, one product."""
    both, gone, mine, other = names.contraction(first, second, kept)
    found = both + mine + other
    if not isinstance(x, Spatial) and not isinstance(y, Spatial):
        return torch.einsum(f"{first},{second}->{found}", x, y), found
    sides = ((first, x), (second, y))
    sizes = {c: n for side, one in sides for c, n in zip(side, one.shape, strict=True) if n != 1}
    shape = [sizes.get(c, 1) for c in found]
    a = _ordered(x, first, both, mine, gone)
    b = _ordered(y, second, both, gone, other)
    value = matmul(call, a, b)
    return value.regrouped(shape) if isinstance(value, Spatial) else value.reshape(shape), found


def _ordered(one: Any, letters: str, lead: str, rows: str, columns: str) -> Any:
    """An operand as (lead) (rows) (columns), each of the last two merged."""
    order = [letters.index(c) for c in lead + rows + columns]
    size = [one.shape[k] for k in order]
    start, middle = len(lead), len(lead) + len(rows)
    shape = (*size[:start], prod(size[start:middle]), prod(size[middle:]))
    if isinstance(one, Spatial):
        return one.permuted(order).regrouped(shape)
    return one.permute(order).reshape(shape)
