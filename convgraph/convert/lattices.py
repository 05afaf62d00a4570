"""Lattices that a network makes for itself: frames or channels in the batch, a line as an image.

    frames      (batch t) (c) (y) (x)     an image is a frame; who is there in it, as in its image
    volume      (batch) (c) (16) (x)      plain sizes beside a line, or a plane, are its axes too

Each node becomes as many as the plain sizes say, in the same places of the new lattice.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.batch import images_of
from convgraph.convert.names import Name
from convgraph.convert.value import Spatial
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
    node, frame = many.memo(("frames", sites.token, count), lambda: _order(sites, count))
    rows = value.x.flatten(1, len(rest))[node, frame]
    return Spatial(rows, many, (names.batch_axis(batch * count), *value.axes[1:]))


def _order(sites: Sites, count: int) -> tuple[Tensor, Tensor]:
    """Of each node of the frames: which node it was, and its frame."""
    counts = sites.counts
    line = torch.arange(count, device=sites.device).repeat(sites.batch_size)
    image = torch.arange(sites.batch_size, device=sites.device).repeat_interleave(count)
    frame = line.repeat_interleave(counts[image])
    start = counts.cumsum(0) - counts
    many = counts[image]
    first = (start[image] - (many.cumsum(0) - many)).repeat_interleave(many)
    return torch.arange(len(first), device=sites.device) + first, frame


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
    one = images_of(sites, tuple(range(0, batch * count, count)))
    if not sites.memo(("alike", count), lambda: _alike(sites, batch, count)):
        return value
    order = sites.memo(("unframed", count), lambda: _order(one, count))
    before = names.names(rest)[: names.names(rest).index(digits[0])]
    slot = 1 + sum(name.kind == "plain" for name in before)
    node, frame = order
    rows = value.x.new_empty(one.num_nodes, count, *value.x.shape[1:])
    rows = rows.index_put((node, frame), value.x).movedim(1, slot)
    frame_axis = Name("plain", count)
    axes = [tuple(frame_axis if name == digits[0] else name for name in axis) for axis in rest]
    return Spatial(rows, one, (names.batch_axis(batch), *axes))


def _alike(sites: Sites, batch: int, count: int) -> bool:
    if sites.mask is None:
        return True
    masks = sites.mask.view(batch, count, -1)
    return bool((masks == masks[:, :1]).all())


def raised(value: Any, d: int) -> Any:
    """Return (batch) (c) (plain) (x) on a lattice of d axes, plain sizes before the map's own."""
    sites = value.sites
    if not isinstance(sites, Sites) or sites.size is None or sites.space is not None:
        return value
    more = d - sites.d
    if more < 1 or len(value.axes) != d + 2:
        return value
    head, tail = value.axes[:2], value.axes[2:]
    flat = Spatial(value.x, sites, (*head, *tail[more:]))
    plain = all(map(names.is_plain, tail[:more])) and names.is_plain(head[1])
    lattice = names.image_axes(1, sites.size, sites.batch_size)
    if not plain or flat.axes[0] != lattice[0] or tail[more:] != lattice[2:]:
        return value
    shape = names.sizes(value.axes)[2 : 2 + more]
    count, batch = prod(shape), sites.batch_size
    size = (*shape, *sites.size)

    def make() -> Sites:
        if sites.mask is None:
            return Sites.full(batch, size, device=sites.device, batched=sites.batched)
        own = size[more:]
        one = sites.mask.view(batch, *(1,) * more, *own).expand(batch, *size)
        return Sites.from_mask(one.contiguous(), batched=sites.batched)

    made = sites.memo_sites(("raised", shape), make)
    made.memo("raised from", lambda: sites)
    node, place = made.memo(("raised", sites.token), lambda: _order(sites, count))
    channels = names.sizes(value.axes)[1]
    rows = value.x.reshape(value.x.shape[0], channels, count)[node, :, place]
    axes = names.image_axes(channels, size, batch)
    return Spatial(rows, made, axes)


def lowered(value: Any, d: int) -> Any:
    """Return (batch) (z) (y) (x) as a map of d axes, whose channels are the others; see `raised`.

    Where the planes do not live on the same nodes, or no map of d axes was raised to these sites,
    the value is returned as it is.
    """
    sites = value.sites
    if not isinstance(sites, Sites) or sites.size is None or len(value.axes) != d + 2:
        return value
    one = sites.memo("raised from", lambda: None)
    if one is None or one.d != d or sites.d != d + 1:
        return value
    whole = names.image_axes(1, sites.size, sites.batch_size)
    if value.axes != (whole[0], *whole[2:]):
        return value
    count = sites.size[0]
    node, place = sites.memo(("raised", one.token), lambda: _order(one, count))
    rows = value.x.new_empty(one.num_nodes, count).index_put((node, place), value.x)
    return Spatial(rows, one, names.image_axes(count, one.size or (), one.batch_size))
