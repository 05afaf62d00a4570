"""Lattices that a network makes for itself: frames or windows in the batch, a line as an image.

    frames      (batch t) (c) (y) (x)     an image is a frame; who is there in it, as in its image
    windows     (batch y/8 x/8) (c) (y) (x)     an image is a window; its border is the window's
    volume      (batch) (c) (16) (x)      plain sizes beside a line, or a plane, are its axes too

Each node becomes as many as the plain sizes say, in the same places of the new lattice.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.batch import images_of
from convgraph.convert.names import Axes, Axis, Name
from convgraph.convert.value import Spatial, placed
from convgraph.graph.lattice import Size
from convgraph.graph.network_sites import network_sites
from convgraph.graph.sites import Sites


def frames(value: Spatial) -> Spatial:
    """Return an image whose batch holds plain sizes too as one of more images, or the value."""
    sites, batch = value.sites, value.sites.batch_size
    lead = names.batch_axis(batch)
    rest = value.axes[0][len(lead) :]
    if value.axes[0][: len(lead)] != lead or not rest or not names.is_plain(rest):
        return value
    if not Spatial(value.x, sites, (lead, *value.axes[1:])).is_image():
        return value
    count = prod(name.size for name in rest)
    many = images_of(sites, tuple(b for b in range(batch) for _ in range(count)))
    return placed(value.tensor(), many)


def unframed(value: Spatial) -> Spatial:
    """Return frames whose number stands on another axis than the batch as one image, or the value.

    The frames of an image live on the same nodes, or the value stays as it is.
    """
    sites = value.sites
    lead, rest = value.axes[:1], value.axes[1:]
    digits = [name for name in names.names(rest) if name.kind == "batch"]
    if len(digits) != 1 or sites.batch_size % digits[0].size:
        return value
    count, batch = digits[0].size, sites.batch_size // digits[0].size
    own = Name("batch", batch, stride=count)
    if digits[0].stride != 1 or lead != ((own,) if batch > 1 else (),) or count == 1:
        return value
    if not sites.memo(("alike", count), lambda: _alike(sites, batch, count)):
        return value
    one = images_of(sites, tuple(range(0, batch * count, count)))
    frame = Name("plain", count)
    axes = [tuple(frame if name == digits[0] else name for name in axis) for axis in rest]
    return placed(value.tensor(), one, (names.batch_axis(batch), *axes))


def _alike(sites: Sites, batch: int, count: int) -> bool:
    if sites.mask is None:
        return True
    masks = sites.mask.view(batch, count, -1)
    return bool((masks == masks[:, :1]).all())


def windowed(value: Spatial) -> Spatial:
    """Return a map whose batch holds digits of its lattice as one of more images, or the value.

    Windows, stripes and dilated grids are images of their own, in which nobody hears beyond them.
    """
    sites, (lead, *rest) = value.sites, value.axes
    inner = [name for name in names.of_rows(tuple(rest)) if name.kind == "site"]
    images = tuple(name for name in lead if name.kind != "site")
    axes = {name.axis for name in inner}
    cut = (
        sites.space is None and 0 < len(axes) == len(inner) and len(images) < len(lead)
        and images == names.batch_axis(sites.batch_size)
        and len(names.of_rows(value.axes)) == len(lead) + len(inner)
    )  # fmt: skip
    if not cut:
        return value
    own: list[Name | None] = [None] * sites.d
    for name in inner:
        own[name.axis] = name
    size = tuple(1 if name is None else name.size for name in own)
    lattice = [name for name in own if name is not None]

    def make() -> Sites:
        mask = None
        if sites.mask is not None:
            mask = _pixels(sites, (lead, *((name,) for name in lattice))).reshape(-1)
        return _of_its_own((size,) * value.shape[0], mask, sites, ("windows", lead, own))

    made = sites.memo_sites(("windowed", lead, tuple(own)), make)
    order = tuple(
        tuple(Name("site", name.size, name.axis) if name.kind == "site" else name for name in axis)
        for axis in rest
    )
    return placed(value.tensor(), made, (names.batch_axis(made.batch_size), *order))


def unwindowed(value: Spatial) -> Spatial:
    """Return windows whose numbers stand elsewhere than in the batch as the map that they are of.

    Where they grew or shrank, that is a map of as many pixels, or the value stays as it is. Where
    pixels have moved within them, the map has a mask of its own.
    """
    root = value.sites.root
    if (
        root.made is None
        or root.made[0] != "windows"
        or value.axes[0] == names.batch_axis(value.sites.batch_size)
    ):
        return value
    whole, (_, lead, own) = root.origin, root.made
    before, after = root.size, value.sites.size
    if before != after and not all(name is not None and name.stride == 1 for name in own):
        return value
    if any(n * a % b for n, a, b in zip(whole.size, after, before, strict=True)):
        return value
    size = tuple(n * a // b for n, a, b in zip(whole.size, after, before, strict=True))
    lead = tuple(
        name._replace(stride=name.stride * after[name.axis] // before[name.axis])
        if name.kind == "site" else name for name in lead
    )  # fmt: skip

    def parts(name: Name) -> Axis | None:
        if name.kind == "batch":
            return _parts(lead, name)
        strides = name.stride * own[name.axis].stride if name.kind == "site" else name.stride
        return (name._replace(stride=strides),)

    axes = []
    for axis in value.axes:
        split = [part for part in map(parts, axis) if part is not None]
        if len(split) < len(axis):
            return value
        axes.append(names.whole(tuple(names.names(tuple(split)))))
    sites, pixels = network_sites(whole, (size,) * whole.batch_size), tuple(axes)
    same = value.sites.memo(
        ("of windows", sites.token, pixels),
        lambda: torch.equal(_pixels(sites, pixels), _pixels(value.sites, value.axes)),
    )

    def make() -> Sites:
        every = Sites.full(whole.batch_size, size, device=whole.device)
        mask = placed(_pixels(value.sites, value.axes), every, _but_plain(pixels)).x
        return _of_its_own(every.sizes, mask.clone(), whole, None)

    if not same:
        sites = value.sites.memo_sites(("of windows moved", pixels), make)
    return placed(value.tensor(), sites, pixels)


def _of_its_own(sizes: tuple[Size, ...], mask: Tensor | None, origin: Sites, made: Any) -> Sites:
    """A record that knows what it is made of, and how: no other's, also where all is there."""
    shared: Any = {"device": origin.device, "batched": origin.batched, "held": origin.held}
    found = Sites(sizes, mask, d=len(sizes[0]), **shared)
    if made is not None:
        found.origin, found.made = origin, made
    return found


def _pixels(sites: Sites, axes: Axes) -> Tensor:
    """Which pixels are there, as axes order them."""
    rows = torch.ones(sites.num_nodes, dtype=torch.bool, device=sites.device)
    return Spatial(rows, sites, _but_plain(axes)).tensor()


def _but_plain(axes: Axes) -> Axes:
    return tuple(tuple(name for name in axis if name.kind != "plain") for axis in axes)


def _parts(lead: Axis, number: Name) -> Axis | None:
    """The names that a digit of their row-major number is, or None where it cuts one unevenly."""
    found, stride = [], 1
    for name in reversed(lead):
        low, high = max(stride, number.stride), min(stride * name.size, number.stride * number.size)
        if low < high:
            if low % stride or high % low:
                return None
            found.append(name._replace(size=high // low, stride=name.stride * (low // stride)))
        stride *= name.size
    return tuple(reversed(found))


def lined(value: Spatial) -> Spatial:
    """Readouts before and behind the nodes of a line as a longer line, or the value.

    So moving averages of a series begin: copies of its ends are put beside it.
    """
    sites: Any = value.sites
    lines = [k for k, one in enumerate(sites.pieces) if not isinstance(one, int)]
    if len(lines) != 1 or sites.root.d != 1 or value.axes[2:] != ((sites.name,),):
        return value
    one = sites.pieces[lines[0]].sites
    own = names.image_axes(1, one.size or (), one.batch_size)
    batch = one.batch_size
    if (value.axes[0], sites.pieces[lines[0]].axis) != (own[0], own[-1]) or one.space is not None:
        return value

    def make() -> Sites:
        there = torch.ones(batch, sites.num_cells // batch, dtype=torch.bool, device=sites.device)
        first = sum(sites.lengths[: lines[0]])
        if one.mask is not None:
            there[:, first : first + sites.lengths[lines[0]]] = one.mask.view(batch, -1)
        return Sites.from_mask(there, batched=one.batched)

    return placed(value.tensor(), one.memo_sites(("lined", *sites.key), make))


def raised(value: Any, d: int) -> Any:
    """Return (batch) (c) (plain) (x) on a lattice of d axes, plain sizes before the map's own.

    Behind them may stand axes of one entry.
    """
    sites = value.sites
    if not isinstance(sites, Sites) or sites.space is not None:
        return value
    more, tail = d - sites.d, value.axes[2:]
    kept = [k for k, axis in enumerate(tail) if not names.is_plain(axis)]
    if len(kept) != sites.d or {*value.shape[3 + kept[-1] :]} - {1}:
        kept = [*range(more, d)]
    if more < 1 or len(tail) != d:
        return value
    own = Spatial(value.x, sites, (*value.axes[:2], *(tail[k] for k in kept)))
    if not own.is_image():
        return value
    batch, size = sites.batch_size, value.shape[2:]

    def make() -> Sites:
        mask = None
        if sites.mask is not None:
            one = sites.mask.view(batch, *(n if k in kept else 1 for k, n in enumerate(size)))
            mask = one.expand(batch, *size).reshape(-1)
        return _of_its_own((size,) * batch, mask, sites, ("raised",) if kept[0] == more else None)

    return placed(value.tensor(), sites.memo_sites(("raised", size, *kept), make))


def lowered(value: Any, d: int) -> Any:
    """Return (batch) (z) (y) (x) as a map of d axes, whose channels are the others; see `raised`.

    Where the planes do not live on the same nodes, or no map of d axes was raised to these sites,
    the value is returned as it is.
    """
    sites = value.sites
    one = sites.origin if isinstance(sites, Sites) and sites.made == ("raised",) else None
    if one is None or one.d != d or sites.d != d + 1 or len(value.axes) != d + 2:
        return value
    planes = Spatial(value.x, sites, (value.axes[0], (), *value.axes[1:]))
    return placed(value.tensor(), one) if planes.is_image() else value
