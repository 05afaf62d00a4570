"""Which sites receive: the ones a layer's edges reach, the ones a caller names, or a network's.

The sites of a network are one set per size, a function of the root mask and of the size alone.
Along each axis from size S to S' <= S, pixel p belongs to the one cell floor(p S' / S); for S' > S
site p' copies pixel floor(p' S / S'). A site is active when a pixel of its cell is. So maps of one
size always live on the same sites and can be added and concatenated, whatever path led to them. A
map of one site is a readout and has no mask.
"""

from math import prod

import torch
from torch import Tensor

from convgraph.errors import GraphError
from convgraph.geometry.kernel import Relation
from convgraph.graph import edge_list
from convgraph.graph.lattice import Size
from convgraph.graph.sites import Sites
from convgraph.graph.space_edges import forwards


def network_sites(source: Sites, sizes: tuple[Size, ...]) -> Sites:
    """Return the sites that a network starting at `source.root` uses at these sizes.

    Args:
        source: any record of the network; only its root is read.
        sizes: one size per image.

    Returns:
        The same record for the same root and sizes; the root itself at its own size.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[0, 0, 0] = True
        >>> network_sites(Sites.from_mask(mask), ((2, 2),)).mask.tolist()
        [True, False, False, False]
    """
    root = source.root
    if sizes == root.sizes:
        return root

    def make() -> Sites:
        if root.mask is None:
            return root.derived(sizes, None)
        parts = [
            torch.ones(size, dtype=torch.bool, device=root.device)
            if prod(size) == 1
            else _resized(mask, size)
            for mask, size in zip(root.mask_images(), sizes, strict=True)
        ]
        return root.derived(sizes, torch.cat([part.reshape(-1) for part in parts]))

    return root.kin(("network", sizes), make)


def _resized(mask: Tensor, size: Size) -> Tensor:
    """The mask at another size, one axis at a time."""
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        if new > old:
            copied = torch.arange(new, device=mask.device) * old // new
            mask = mask.index_select(axis, copied)
        elif new < old:
            cell = torch.arange(old, device=mask.device) * new // old
            shape = [*mask.shape[:axis], new, *mask.shape[axis + 1 :]]
            total = torch.zeros(shape, dtype=torch.int32, device=mask.device)
            mask = total.index_add(axis, cell, mask.int()) > 0
    return mask


def target_sites(relation: Relation, source: Sites, sites: Sites | Tensor | str | None) -> Sites:
    """Return the sites that receive messages; see `connect`."""
    space = source.space
    if space is not None:
        source.memo(("fits", relation), lambda: check_space(relation, source))
    if (
        sites is None
        and relation.keeps_sites
        and source.memo(
            ("stays", relation),
            # An empty batch has no sites that could stay, and a size that may change all the same.
            lambda: (
                (source.size is None or bool(source.sizes))
                and all(relation.output_size(s) == s for s in set(source.sizes))
            ),
        )
    ):
        return source
    if source.size is not None:
        sizes = (relation.output_size(source.size),) * source.batch_size
        size: Size | None = sizes[0] if sizes else relation.output_size(source.size)
    else:
        sizes = tuple(relation.output_size(s) for s in source.sizes)
        size = None
    if size is not None and not sizes:  # an empty batch: no sites to speak of, but a size
        return Sites.full(0, size, device=source.device, batched=source.batched, space=space)
    if isinstance(sites, str):
        if sites != "network":
            raise GraphError(f"expected sites as a mask, a PixelGraph or 'network', got {sites!r}")
        return network_sites(source, sizes)
    if sites is not None:
        return _named(sites, source, sizes, size)
    key = ("target", relation)
    if source.mask is None:
        if size is not None and source.root.mask is None:
            where = {"device": source.device, "batched": source.batched, "space": space}
            return source.kin(
                key,
                lambda: Sites.full(source.batch_size, size, **where),  # type: ignore[arg-type]
            )
        return source.kin(key, lambda: source.derived(sizes, None))
    return source.kin(
        key, lambda: source.derived(sizes, edge_list.reached(relation, source, sizes))
    )


def check_space(relation: Relation, source: Sites) -> bool:
    """Refuse a relation that does not fit the space of the source; a warmed-up call asks once.

    Raises:
        GeometryError: padding, stride or size have no meaning there; the text says why.
    """
    for size in set(source.sizes):
        out = relation.output_size(size)
        if source.space is not None:
            forward, *ends = forwards(relation, size, out)
            source.space.check(forward, *ends)
    return True


def _named(
    sites: Sites | Tensor, source: Sites, sizes: tuple[Size, ...], size: Size | None
) -> Sites:
    if isinstance(sites, Tensor):
        if size is None:
            raise GraphError("a ragged batch takes sites= as a PixelGraph or Sites, not a mask")
        expected, shape = (source.batch_size, *size), tuple(sites.shape)
        if shape == (source.batch_size, 1, *size):
            mask = sites.squeeze(1)
        elif shape in (expected, size):
            mask = sites.expand(expected)
        else:
            raise GraphError(f"expected sites of shape {expected} or {size}, got {shape}")
        return source.derived(sizes, Sites.from_mask(mask.to(source.device)).mask)
    if sites.space != source.space:
        raise GraphError(
            f"expected sites on {source.space or 'the plane'} as the graph is, got sites on "
            f"{sites.space or 'the plane'}"
        )
    if sites.sizes != sizes or sites.device != source.device:
        raise GraphError(
            f"expected sites on lattices of sizes {sizes[:3]} on {source.device}, "
            f"got {sites.sizes[:3]} on {sites.device}"
        )
    return sites
