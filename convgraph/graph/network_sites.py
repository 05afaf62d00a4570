"""The sites of a network: the mask at its entrance, carried to wherever a map lies.

Along each axis a map knows its places (see `convgraph.graph.places`), and a site is active when a
pixel of its cell is. A move takes the mask along with the pixels. A step in scale from S positions
to S' <= S gives pixel p to the one cell floor(p S' / S); to S' > S, site p' copies pixel
floor(p' S / S'). So maps of one place always live on the same sites and can be added and
concatenated, whatever path led to them; where two of different places meet, the result lives on
the union. A map of one site is a readout and has no mask; a full grid stays one.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from convgraph.graph import places
from convgraph.graph.lattice import Size
from convgraph.graph.places import Span
from convgraph.graph.sites import Sites


def network_sites(source: Sites, sizes: tuple[Size, ...], relation: Any = None) -> Sites:
    """Return the sites of a map that a network derives from a map on `source`.

    Args:
        source: the sites of the map that it is derived from.
        sizes: one size per image.
        relation: whose targets they are; None for a plain step in scale.

    Returns:
        The same record for the same places; the root itself at its own.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[0, 0, 0] = True
        >>> network_sites(Sites.from_mask(mask), ((2, 2),)).mask.tolist()
        [True, False, False, False]
    """
    root = source.root
    if source.space is not None and source.space.refuses("pad", tuple(range(source.d))):
        relation = None  # it has no edge over which a mask could be moved
    if root.mask is None:
        if sizes == root.sizes:
            return root
        return root.memo_sites(("network", sizes), lambda: root.derived(sizes, None))
    if source.size is None or (root.size is None and sizes):
        return _image_by_image(source, sizes, relation)
    size = sizes[0] if sizes else source.size
    found = source.memo(("through", relation, size), lambda: _Way(_through(source, relation, size)))
    target: Sites | None = found.target()
    if target is None:
        spans = found.spans
        if spans is None:
            target = network_sites(_own_root(source), sizes, relation)
        else:
            target = at(root, spans)
        found.target = ref(target)
    return target


class _Way:
    """Where a relation leads, and the record of it as long as somebody holds that."""

    def __init__(self, spans: tuple[Span, ...] | None) -> None:
        self.spans = spans
        self.target: Any = lambda: None


def _own_root(source: Sites) -> Sites:
    """The same nodes as a root of their own, where they lie on no lattice of their root."""
    return source.memo_sites("its own root", lambda: Sites(
        source.sizes, source.mask, d=source.d, device=source.device, batched=source.batched,
        num_nodes=source.num_nodes, space=source.space))  # fmt: skip


def moved_sites(source: Sites, tables: Mapping[int, Sequence[int]]) -> Sites:
    """Return the sites of a map whose positions are old ones, or none; see `places.moved`.

    Args:
        source: the sites of the old map, of one size.
        tables: axis -> for each new position the old one.
    """
    old = spans_of(source)
    spans = tuple(
        places.moved(span, tables[axis]) if axis in tables else span
        for axis, span in enumerate(old)
    )
    if source.root.mask is None:
        return network_sites(source, (tuple(span.size for span in spans),) * source.batch_size)
    return at(source.root, spans)


def turned_sites(source: Sites, order: tuple[int, ...]) -> Sites:
    """Return the sites of a map whose lattice axis k is the old axis order[k]; turned back, these.

    Args:
        source: of a map of one size, in the plane.
        order: a permutation of the axes.
    """
    root = source.root

    def make(one: Sites) -> Sites:
        size = tuple((one.size or ())[axis] for axis in order)
        if one.mask is None:
            return Sites.full(one.batch_size, size, device=one.device, batched=one.batched)
        shape = (one.batch_size, *(one.size or ()))
        mask = one.mask.view(shape).permute(0, *(1 + axis for axis in order)).reshape(-1)
        shared: dict[str, Any] = {"device": one.device, "batched": one.batched}
        made = Sites((size,) * one.batch_size, mask, d=one.d, **shared)
        back = tuple(order.index(axis) for axis in range(len(order)))
        made.memo(("turned", back), lambda: ref(one))
        return made

    before = root.memo(("turned", order), lambda: None)
    whole = before() if before is not None else None
    if whole is None:
        whole = root.memo_sites(("turned by", order), lambda: make(root))
    if source.place is None or whole.mask is None:
        return whole if source is root or whole.mask is None else source.memo_sites(
            ("turned by", order), lambda: make(source)
        )  # fmt: skip
    return at(whole, tuple(source.place[axis] for axis in order))


def union(first: Sites, other: Sites) -> Sites:
    """Return the sites of both; one of the two, where it has all of them."""
    if first is other or first.mask is None:
        return first
    if other.mask is None:
        return other

    def compare() -> int:
        """Bit 1: the first has all of the other's; bit 2: the other way round."""
        one, two = first.mask, other.mask
        if one is None or two is None:
            return 1 if one is None else 2
        return int(bool((one | ~two).all())) + 2 * int(bool((two | ~one).all()))

    has = first.memo(("has", other.token), compare)
    if has & 1:
        return first
    if has & 2:
        return other

    def make() -> Sites:
        assert first.mask is not None and other.mask is not None  # noqa: PT018 - for types
        return Sites(
            first.sizes, first.mask | other.mask, d=first.d, device=first.device,
            batched=first.batched, space=first.space,
        )  # fmt: skip

    return first.memo_sites(("union", other.token), make)


def same(first: Sites, other: Sites) -> Sites:
    """Return the first for a record of its own of the same nodes, as an equal mask gives, or it."""
    apart = first.root is other.root or (first.sizes, first.space, first.place) != (
        other.sizes, other.space, other.place
    )  # fmt: skip
    if apart or first.device != other.device or first.num_nodes != other.num_nodes:
        return other
    return first if union(first, other) is first else other


def beside(parts: Sequence[Sites], axis: int) -> Sites:
    """Return the sites of maps put beside each other along an axis.

    Where they are neighbouring pieces of one map, that is the sites of the whole.
    """
    first = parts[0]
    if all(one.root is first.root for one in parts) and first.root.mask is not None:
        spans = [spans_of(one) for one in parts]
        joined = places.joined([one[axis] for one in spans])
        rest = {(*one[:axis], *one[axis + 1 :]) for one in spans}
        if joined is not None and len(rest) == 1:
            return at(first.root, (*spans[0][:axis], joined, *spans[0][axis + 1 :]))
    size = list(first.size or ())
    size[axis] = sum((one.size or ())[axis] for one in parts)
    sizes = (tuple(size),) * first.batch_size
    full = all(one.mask is None for one in parts)
    if full and first.root.mask is None:
        return first.derived(sizes, None)

    def make() -> Sites:
        if full:  # beside each other they lie on no lattice of a root with holes
            return Sites(sizes, None, d=first.d, **shared)
        masks = [torch.stack(one.mask_images()) if one.batch_size else one.mask for one in parts]
        flat = torch.cat(masks, axis + 1).reshape(-1)  # type: ignore[arg-type]
        return Sites(sizes, flat, d=first.d, **shared)

    shared: Any = {"device": first.device, "batched": first.batched, "space": first.space}
    return first.memo_sites(("beside", axis, *(one.token for one in parts)), make)


def some_images(parts: Sequence[Sites], chosen: tuple[tuple[int, int], ...]) -> Sites:
    """Return the sites of images out of several batches; maps of one place keep a common root.

    Args:
        parts: batches of images of one size.
        chosen: of each image of the result, which batch it is of and its number there.
    """

    def make(batches: Sequence[Sites]) -> Sites:
        one = batches[0]
        shared: dict[str, Any] = {"device": one.device, "space": one.space}
        if all(batch.mask is None for batch in batches):
            return Sites.full(len(chosen), one.size or (), **shared)
        masks = [batch.mask_images() for batch in batches]
        sizes = tuple(batches[k].sizes[n] for k, n in chosen)
        flat = torch.cat([masks[k][n].reshape(-1) for k, n in chosen])
        made = Sites(sizes, flat, d=one.d, **shared)
        if len(batches) == 1:
            made.origin, made.made = one, ("images", [n for _, n in chosen])
        return made

    def known(batches: Sequence[Sites]) -> Sites:
        whole = batches[0].origin
        if whole is not None and _is_whole(whole, batches, chosen):
            return whole
        key = ("images", *(one.token for one in batches), chosen)
        return batches[0].memo_sites(key, lambda: make(batches))

    place = parts[0].place
    if place is not None and all(one.place == place for one in parts):
        root = known([one.root for one in parts])
        if root.mask is not None:
            return at(root, place)
    return known(parts)


def _is_whole(whole: Sites, batches: Sequence[Sites], chosen: tuple[tuple[int, int], ...]) -> bool:
    """Whether these are all images of a record in their order, that were taken out of it."""
    if any(one.origin is not whole or one.made[0] != "images" for one in batches):
        return False
    return [batches[k].made[1][n] for k, n in chosen] == [*range(whole.batch_size)]


def spans_of(sites: Sites) -> tuple[Span, ...]:
    """Return the places of a map of one size, axis by axis."""
    return sites.place_of(0) if sites.batch_size else tuple(map(places.whole, sites.size or ()))


def at(root: Sites, spans: tuple[Span, ...]) -> Sites:
    """Return the sites at these places of a root with holes."""
    if spans == spans_of(root):
        return root

    def make() -> Sites:
        size = tuple(span.size for span in spans)
        shape = (root.batch_size, *(root.size or ()))
        mask = torch.ones(shape, dtype=torch.bool) if root.mask is None else root.mask.view(shape)
        if prod(size) == 1:
            mask = torch.ones((root.batch_size, *size), dtype=torch.bool, device=root.device)
        else:
            for axis, span in enumerate(spans):
                mask = _any(mask, axis + 1, span)
        made = root.derived((size,) * root.batch_size, mask.reshape(-1))
        made.place = spans
        return made

    return root.memo_sites(("at", spans), make)


def _through(source: Sites, relation: Any, size: Size) -> tuple[Span, ...] | None:
    return _each_axis(spans_of(source), relation, size)


def _each_axis(spans: tuple[Span, ...], relation: Any, size: Size) -> tuple[Span, ...] | None:
    found = [
        span if relation is None and n == span.size else places.through(span, relation, axis, n)
        for axis, (span, n) in enumerate(zip(spans, size, strict=True))
    ]
    return None if None in found else tuple(one for one in found if one is not None)


def _any(mask: Tensor, axis: int, span: Span) -> Tensor:
    """Whether a pixel of each position is there, along one axis."""
    size = mask.shape[axis]
    first, end = torch.from_numpy(span.pixels(size)).to(mask.device).unbind(1)
    zero = mask.new_zeros((*mask.shape[:axis], 1, *mask.shape[axis + 1 :]), dtype=torch.int32)
    counts = torch.cat([zero, mask.int().cumsum(axis, dtype=torch.int32)], axis)
    some = counts.index_select(axis, end) > counts.index_select(axis, first)
    table = span.table or ()
    always = [p for p, cell in enumerate(table) if cell == places.PRESENT]
    if always:
        some.index_fill_(axis, torch.tensor(always, device=mask.device), True)
    return some


def _image_by_image(source: Sites, sizes: tuple[Size, ...], relation: Any) -> Sites:
    """The sites of images of several sizes, each by its own places."""
    root = source.root
    known = source.memo("image by image", lambda: [source.place_of(image) for image in range(
        source.batch_size)])  # fmt: skip
    found = [_each_axis(spans, relation, size) for spans, size in zip(known, sizes, strict=True)]
    if None in found:
        return network_sites(_own_root(source), sizes, relation)
    spans = tuple(one for one in found if one is not None)
    if all(
        one == tuple(map(places.whole, size)) for one, size in zip(spans, root.sizes, strict=True)
    ):
        return root

    def make() -> Sites:
        parts = []
        for mask, one in zip(root.mask_images(), spans, strict=True):
            part = mask.unsqueeze(0)
            for axis, span in enumerate(one):
                part = _any(part, axis + 1, span)
            parts.append(part if part.numel() > 1 else torch.ones_like(part))
        made = root.derived(sizes, torch.cat([part.reshape(-1) for part in parts]))
        made.place = spans
        return made

    return root.memo_sites(("at", spans), make)
