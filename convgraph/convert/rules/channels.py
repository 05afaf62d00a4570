"""Channels: cat, split, chunk, slice, select, stack and lookups along plain axes of every node.

Along a lattice axis a slice is a crop, see `convgraph.convert.entries`.
"""

from functools import partial
from itertools import accumulate, pairwise, takewhile
from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.align import align, expanded, meet, of_cells, onto
from convgraph.convert.batch import batched, holds_images
from convgraph.convert.entries import entries, rearranged, site_axis
from convgraph.convert.names import Axes, Name, NoRuleError
from convgraph.convert.node_pairs import PairSites
from convgraph.convert.registry import rule
from convgraph.convert.rules.positions import looked_up, readout_but
from convgraph.convert.tokens import beside
from convgraph.convert.value import Spatial, reshaped
from convgraph.graph.network_sites import beside as sites_beside
from convgraph.graph.places import ABSENT


@rule("cat", "concat", "concatenate")
def cat(call: Any, tensors: Any, dim: int = 0) -> Any:
    """Features side by side; the other axes are broadcast by names."""
    parts = [one for one in tensors if not (isinstance(one, Tensor) and one.numel() == 0)]
    dim = names.place(dim, max(len(one.shape) for one in parts))
    if len(parts) == 1:  # as einops packs
        (one,) = parts
        return Spatial(one.x.clone(), one.sites, one.axes, one.cut)
    _alike(call, parts, dim, [(*one.shape[:dim], *one.shape[dim + 1 :]) for one in parts])
    if any(holds_images(one, dim) for one in parts):
        return batched(parts, dim)
    sequence = beside(parts, dim)
    if sequence is not None:
        return sequence
    spatial = [one for one in parts if isinstance(one, Spatial)]
    lines = len(spatial) == len(parts) and all(one.is_line(dim) for one in spatial)
    if lines or not all(names.is_plain(one.axes[dim]) for one in spatial):
        return _beside(call, parts, dim)
    parts = [one.merged(dim) if isinstance(one, Spatial) else one for one in parts]
    # Widths differ: the axis is set aside where the others meet.
    aside = [Spatial(one.x, one.sites, names.replaced(one.axes, dim, ())) for one in spatial]
    shapes = [tuple(one.shape) for one in parts if isinstance(one, Tensor)]
    try:
        sites, common = meet(aside, tuple((*n[:dim], 1, *n[dim + 1 :]) for n in shapes))
    except NoRuleError:
        known = of_cells(parts, [one.thin() for one in spatial])
        if known is None:
            raise
        return cat(call, known, dim)
    widths = [one.shape[dim] for one in parts]
    of_windows = max(one.axes[dim][0].axis for one in parts if isinstance(one, Spatial))
    rows = []
    for one, width in zip(parts, widths, strict=True):
        axes = names.replaced(common, dim, (Name("plain", width),))
        rows.append(expanded(onto(one, axes, sites), sites, axes))
    slot = names.slots(common)[dim].start
    axes = names.replaced(common, dim, (Name("plain", sum(widths), of_windows),))
    return Spatial(torch.cat(rows, slot), sites, axes)


def _alike(call: Any, parts: list[Any], dim: int, shapes: list[tuple[int, ...]]) -> None:
    """Let torch refuse what is to be put together and differs in these shapes, in its words."""
    if len(set(shapes)) > 1:
        call.target([torch.empty(one.shape, device="meta") for one in parts], dim)


def _beside(call: Any, parts: list[Any], dim: int) -> Any:
    """Maps put beside each other along a lattice axis: each is padded, and all are added up."""
    if not all(isinstance(one, Spatial) for one in parts):
        raise NoRuleError("a map and an ordinary tensor are put beside each other on the lattice")
    axis = site_axis(parts[0], dim)
    if any(site_axis(one, dim) != axis for one in parts):
        raise NoRuleError("lattices turned against each other are put beside each other")
    sites, found = sites_beside([one.sites for one in parts], axis), []
    count, start = sum(one.shape[dim] for one in parts), 0
    for one in parts:
        end = start + one.shape[dim]
        table = [p - start if start <= p < end else ABSENT for p in range(count)]
        found.append(rearranged(call, one, {axis: table}, sites=sites))
        start = end
    axes = found[0].axes
    if any(_but_plain(one.axes) != _but_plain(axes) for one in found):
        raise NoRuleError("maps of different axes are put beside each other")
    rows = found[0].x
    for other in found[1:]:
        rows = rows + other.x.reshape(rows.shape)
    call.travelled("all")
    return Spatial(rows, sites, axes)


def _but_plain(axes: Axes) -> list[Any]:
    """The axes, however plain ones are grouped."""
    return [names.sizes((axis,)) if names.is_plain(axis) else axis for axis in axes]


@rule("stack")
def stack(call: Any, tensors: Any, dim: int = 0) -> Any:
    """A new plain axis; images of a mask of their own each are a batch, rows of one an image."""
    _alike(call, tensors, dim, [tuple(one.shape) for one in tensors])
    dim = names.place(dim, 1 + len(tensors[0].shape))
    if dim == 0 and all(map(_is_single, tensors)):
        roots, sites = {one.sites.root for one in tensors}, {one.sites for one in tensors}
        if len(roots) == len(sites) > 1:  # else maps of one image, on several sites
            return batched([one.unsqueezed(0) for one in tensors], 0)
    if (found := _lines(tensors, dim)) is not None:
        place, lines = found
        order = [n for n in range(len(lines[0].axes)) if n != place]
        order.insert(dim, place)
        return _beside(call, lines, place).permuted(order)
    moved, sites, axes = align(tensors)
    slot = 1 + len(names.plain(axes[:dim]))
    rows = [one.expand(sites.num_nodes, *names.plain(axes)) for one in moved]
    new = (*axes[:dim], (Name("plain", len(rows)),), *axes[dim:])
    return Spatial(torch.stack(rows, slot), sites, new)


def _is_single(one: Any) -> bool:
    """Whether a map is a single image without its batch axis, with channels or, as labels, none."""
    if not isinstance(one, Spatial):
        return False
    image = one.unsqueezed(0)
    return image.is_image() or image.unsqueezed(1).is_image()


def _lines(tensors: Any, dim: int) -> tuple[int, list[Spatial]] | None:
    """Images that lack an axis of their lattice, with it, and where it stands; or None.

    Where all live on the same nodes, an axis at another place than that one is plain.
    """
    if not all(isinstance(one, Spatial) for one in tensors):
        return None
    same = len({one.sites for one in tensors}) == 1
    for place in (dim,) if same else (dim, *range(2, 1 + len(tensors[0].axes))):
        lines = [one.unsqueezed(place) for one in tensors]
        if all(one.is_line(place) for one in lines):
            return place, lines
    return None


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(call: Any, x: Spatial, parts: Any, dim: int = 0) -> Any:
    """Pieces of a plain axis, as views; pieces of a lattice axis are crops."""
    dim = names.place(dim, len(x.axes))
    if not names.is_plain(x.axes[dim]):
        line = torch.empty(x.shape[dim], device="meta")
        ends = accumulate(map(len, call.target(line, parts, 0)), initial=0)
        return _apart(call, [partial(slice_, call, x, dim, *pair) for pair in pairwise(ends)])
    value = x.merged(dim)
    pieces = call.target(value.x, parts, value.slot(dim))
    return [value.along(dim, piece) for piece in pieces]


def _apart(call: Any, pieces: list[Any]) -> list[Any]:
    """Pieces of a map, each of which has a way of its own."""
    found, ways = [], []
    for piece in pieces:
        found.append(piece())
        ways.append(call.moved)
    call.travelled(tuple(ways))
    return found


@rule("slice")
def slice_(
    call: Any, x: Spatial, dim: int = 0, start: int | None = None,
    end: int | None = None, stride: int = 1,
) -> Any:  # fmt: skip
    """Some of a plain axis, as a view; a crop of a lattice axis."""
    dim = names.place(dim, len(x.axes))
    size = x.shape[dim]
    taken = slice(start, end, stride)
    numbers = range(*taken.indices(size))
    if numbers == range(size):
        call.travelled("node")
        return x
    first = len([*takewhile(lambda name: name.kind == "plain", x.axes[dim])]) or 1
    each = prod(name.size for name in x.axes[dim][first:])
    whole = taken.step in (None, 1) and not (numbers.start % each or numbers.stop % each)
    if whole and numbers and 1 < each < size:  # channels or lines of a map that was flattened
        lead, tail = x.shape[:dim], x.shape[dim + 1 :]
        image = x.regrouped((*lead, size // each, each, *tail))
        part = slice_(call, image, dim, numbers.start // each, numbers.stop // each)
        return part.regrouped((*lead, len(numbers), *tail))
    return entries(call, x, dim, numbers, lambda rows, slot: rows[(slice(None),) * slot + (taken,)])


@rule("select")
def select(call: Any, x: Spatial, dim: int, number: int) -> Any:
    """One entry of a plain axis, as a view; of a lattice axis, its row or column."""
    dim = names.place(dim, len(x.axes))
    numbers = [number + x.shape[dim] if number < 0 else number]
    take = partial(torch.select, index=number)
    return _anywhere(call, x, dim, numbers, take, keepdim=False)


@rule("unbind")
def unbind(call: Any, x: Spatial, dim: int = 0) -> Any:
    """Every entry of an axis, as views."""
    dim = names.place(dim, len(x.axes))
    return _apart(call, [partial(select, call, x, dim, n) for n in range(x.shape[dim])])


@rule("index_select")
def index_select(call: Any, x: Any, dim: int, index: Any) -> Any:
    """Entries of a plain axis by number; of a lattice axis that is a move, of pixels a readout."""
    if not isinstance(x, Spatial) or isinstance(index, Spatial):
        raise NoRuleError("its index is a map")
    dim = names.place(dim, len(x.axes))
    return _anywhere(call, x, dim, index, partial(torch.index_select, index=index))


def _anywhere(call: Any, x: Spatial, dim: int, numbers: Any, take: Any, **how: Any) -> Any:
    """Entries of an axis, also of one that is no line of the lattice: then as a readout."""
    try:
        return entries(call, x, dim, numbers, take, **how)
    except NoRuleError:
        if isinstance(x.sites, PairSites):
            raise
        return take(readout_but(call, x, dim), dim)


@rule("index")
def index(call: Any, x: Any, indices: Any) -> Any:
    """Entries of one axis by numbers, a list of yes and no among them; else see `positions`."""
    given = [(dim, one) for dim, one in enumerate(indices) if one is not None]
    if not isinstance(x, Spatial) or len(given) != 1 or isinstance(given[0][1], Spatial):
        return looked_up(call, x, indices)
    dim, numbers = given[0]
    if numbers.dtype == torch.bool:
        if numbers.dim() != 1:
            return looked_up(call, x, indices)
        numbers = numbers.nonzero().squeeze(1)
    flat = numbers.reshape(-1)
    found = index_select(call, x, dim, torch.where(flat < 0, flat + x.shape[dim], flat))
    if numbers.dim() == 1:
        return found
    shape = (*x.shape[:dim], *numbers.shape, *x.shape[dim + 1 :])
    return reshaped(found, shape)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Any, x: Spatial, groups: int) -> Any:
    """Channels dealt out anew among groups."""

    def dealt(rows: Tensor, slot: int) -> Tensor:
        apart: Any = rows.unflatten(slot, (groups, -1))
        made: Tensor = apart.transpose(slot, slot + 1).flatten(slot, slot + 1)
        return made

    return x.on_axis(1, dealt)


@rule("glu")
def glu(call: Any, x: Spatial, dim: int = -1) -> Any:
    """One half of a plain axis opens the gate of the other."""
    return x.on_axis(names.place(dim, len(x.axes)), call.target)
