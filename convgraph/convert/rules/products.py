"""Products of two maps, or of a map with a matrix of each image: sums over one axis.

y[..., i, j] = sum over k of a[..., i, k] b[..., k, j]        an absent node says 0

Where k names sites, every node talks to one readout of its image (the attention of channels, a
linear layer over tokens); where i or j does, the result lives on those sites. Two lattices at once
are pairs of nodes, and those are attention's.
"""

from math import prod
from string import ascii_letters
from typing import Any

from torch import Tensor

from convgraph import autocast
from convgraph.convert import names
from convgraph.convert.align import align, cells_of, expanded, lattice_of_cells
from convgraph.convert.names import ApartError, Axes, Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules import attention
from convgraph.convert.rules.attention import turned
from convgraph.convert.value import Spatial, dense, placed, reshaped
from convgraph.graph.network_sites import network_sites
from convgraph.graph.sites import Sites


@rule("matmul", "bmm", "mm", hop="all")
def matmul(call: Any, x: Any, other: Any) -> Any:
    """Queries times keys, weights times values, or a sum over one axis."""
    if isinstance(x, Spatial) and isinstance(other, Tensor) and _is_single(other, len(x.axes)):
        last = len(x.axes) - 1
        if names.is_plain(x.axes[last]):
            matrix = other.reshape(other.shape[-2:])
            call.travelled("node")
            return x.on_axis(last, lambda rows, slot: rows @ matrix)
    if attention.is_pairs(x) and len(other.shape) == 1:
        made = attention.answers(call, x, reshaped(other, (*other.shape, 1)))
        return made.regrouped(made.shape[:-1])
    if attention.is_pairs(x):
        return attention.answers(call, x, other)
    if attention.is_pairs(other):
        return turned(attention.answers(call, turned(other), turned(x)))
    if isinstance(x, Spatial) and isinstance(other, Spatial) and _asks(x, other):
        return attention.questions(call, x, turned(other))
    return contract(call, x, other)


@rule("mv", "dot", hop="all")
def by_vector(call: Any, x: Any, other: Any) -> Any:
    """By a vector, which autocast leaves in its dtype, as it would not leave a matrix."""
    with autocast.off((x.x if isinstance(x, Spatial) else x).device):
        return matmul(call, x, other)


@rule("baddbmm", "addmm", "addmv", hop="all")
def added(call: Any, bias: Any, x: Any, other: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """A product, and what is added to it: a mask or a bias on who hears whom; beta 0 reads none."""
    made = (by_vector if call.name == "addmv" else matmul)(call, x, other)
    bias = bias if beta else 0
    if not isinstance(made, Spatial) and not isinstance(bias, Spatial):
        return alpha * made + beta * bias
    (rows, more), sites, axes = align([made, bias])
    return Spatial(expanded(alpha * rows + beta * more, sites, axes), sites, axes)


@rule("einsum")
def einsum(call: Any, equation: str, operands: list[Any], **more: Any) -> Spatial:
    """Sums over plain axes of one map, beside tensors that name nothing else of it.

    Raises:
        ApartError: it is another; products and sums are made of it.
    """
    given, arrow, out = equation.replace(" ", "").partition("->")
    sides = given.split(",")
    place = next(k for k, one in enumerate(operands) if isinstance(one, Spatial))
    x, own = operands[place], sides[place]
    others = [one for k, one in enumerate(operands) if k != place]
    beside = "".join(side for k, side in enumerate(sides) if k != place)
    of_rows = {a: axis for a, axis in zip(own, x.axes, strict=False) if not names.is_plain(axis)}
    kept_apart = set(out) - set(beside) >= set(of_rows) and not names.plain((*of_rows.values(),))
    simple = arrow and "." not in given and len(set(own)) == len(own) == len(x.axes)
    alone = not any(isinstance(one, Spatial) for one in others)
    if not (others and alone and simple and kept_apart):
        raise ApartError("it is taken apart")
    value, kept = x, "".join(a for a in own if a not in of_rows)
    for dim, letter in enumerate(own):
        value = value.merged(dim) if letter in kept else value
    node = next(a for a in ascii_letters if a not in equation)
    sides[place] = node + kept
    left = "".join(a for a in out if a not in of_rows)
    operands = [value.x if one is x else one for one in operands]
    rows = call.target(f"{','.join(sides)}->{node}{left}", operands, **more)
    sizes = dict(zip(left, rows.shape[1:], strict=True))
    axes = dict(zip(own, x.axes, strict=True))
    made = tuple(
        axes[a] if a in axes and sizes.get(a, 1) in (1, *names.sizes((axes[a],)))
        else (Name("plain", sizes[a]),) for a in out
    )  # fmt: skip
    return Spatial(rows.reshape(rows.shape[0], *names.plain(made)), x.sites, made)


def _is_single(other: Tensor, rank: int) -> bool:
    """Whether a tensor is one matrix, or vector, for all that such a map names."""
    return 1 <= other.dim() <= rank and set(other.shape[:-2]) <= {1}


def _asks(x: Spatial, other: Spatial) -> bool:
    """Whether both have nodes on the axis that is left, and none on the one that goes."""
    plain = names.is_plain(x.axes[-1]) and names.is_plain(other.axes[-2])
    return plain and not names.is_plain(x.axes[-2]) and not names.is_plain(other.axes[-1])


def contract(call: Any, x: Any, other: Any) -> Any:
    """Return the sum over the last axis of x and the last but one of the other."""
    row, column = len(x.shape) == 1, len(other.shape) == 1
    if row or column:  # a vector is a matrix of one row, or of one column
        x = reshaped(x, (1, *x.shape)) if row else x
        other = reshaped(other, (*other.shape, 1)) if column else other
        made = contract(call, x, other)
        rows = () if row else made.shape[-2:-1]
        return reshaped(made, (*made.shape[:-2], *rows, *(() if column else made.shape[-1:])))
    sides = (x, other)
    rank = max(len(one.shape) for one in sides)
    a, b = (_axes(one, rank) for one in sides)
    a, b = _led(x, a, b), _led(other, b, a)
    gone = (a[-1], b[-2])
    if all(isinstance(one, Spatial) for one in sides):
        names.common(*(tuple(name for name in axis if name.size > 1) for axis in gone))
        pixels = any(name.kind == "site" for name in gone[0])
        if pixels and x.sites is not other.sites and not _of_one_lattice(x.sites, other.sites):
            raise NoRuleError("nodes of two lattices are summed over")
    a, b = _in_cells(x, other, a), _in_cells(other, x, b)
    lead = names.broadcast([a[:-2], b[:-2]])
    axes = (*lead, a[-2], b[-1])
    found = dense(x) @ dense(other)
    return left(found, axes, [one for one in sides if isinstance(one, Spatial)])


def _in_cells(one: Any, other: Any, axes: Axes) -> Axes:
    """The names of what windows say, among those of a map whose windows they are."""
    low = cells_of(one, other)
    return axes if low is None else names.finer(axes, low)


def _of_one_lattice(first: Any, other: Any) -> bool:
    """Whether pixels have one number in both, so that what one of them lacks counts as 0."""
    both = isinstance(first, Sites) and isinstance(other, Sites)
    return both and (first.size, first.batch_size) == (other.size, other.batch_size)


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
    of_windows = _of_windows(out, axes, sources, lattice) if len(set(kept)) == len(kept) else None
    if of_windows is not None:
        return of_windows
    raise NoRuleError(f"a product on {names.describe(axes)}, no whole lattice")


def _of_windows(out: Tensor, axes: Axes, sources: list[Spatial], lattice: list[Name]) -> Any:
    """What is left of each window, on their lattice; of dilated ones, as readouts."""
    for one in sources:
        sites = one.sites
        known = isinstance(sites, Sites) and sites.size is not None and sites.space is None
        if not known or not set(lattice) <= set(names.names(one.axes)):
            continue
        found = lattice_of_cells(sites, lattice)
        if found is None:
            return out if len(sources) > 1 else None
        cells, low = found
        return placed(out, cells, names.coarser(axes, low))
    return None


def _lines(sites: Any, axes: set[int]) -> Any:
    """The sites of a lattice of which whole axes are gone, in the plane."""
    if not isinstance(sites, Sites) or sites.size is None or sites.space is not None:
        return sites
    size = tuple(n if axis in axes else 1 for axis, n in enumerate(sites.size))
    return sites if size == sites.size else network_sites(sites, (size,) * sites.batch_size)


def _axes(one: Any, rank: int) -> Axes:
    """The names of an operand's axes; those of a tensor are plain."""
    missing: Axes = ((),) * (rank - len(one.shape))
    if isinstance(one, Spatial):
        return missing + one.axes
    return missing + names.plain_axes(one.shape)


@rule("_euclidean_dist", "_cdist_forward", "cdist")
def distances(call: Any, x: Any, table: Any, *more: Any) -> Any:
    """How far every node is from each row of a table, as a codebook asks, or from others."""
    if isinstance(x, Spatial) and isinstance(table, Spatial):
        return attention.questions(call, x, table, lambda a, b: call.target(a, b, *more))
    if not isinstance(x, Spatial) or not isinstance(table, Tensor) or table.dim() != 2:
        raise NoRuleError("it does not go from a map to the rows of one table")
    return x.on_lines(lambda lines: call.target(lines, table, *more))


def _led(one: Any, axes: Axes, other: Axes) -> Axes:
    """A tensor's leading axes under the names of the map's, where they are as long."""
    if isinstance(one, Spatial):
        return axes
    lead = [
        theirs if theirs and names.sizes((mine,)) == names.sizes((theirs,)) else mine
        for mine, theirs in zip(axes[:-2], other[:-2], strict=True)
    ]
    return (*lead, *axes[-2:])
