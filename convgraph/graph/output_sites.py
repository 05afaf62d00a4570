"""Which sites receive: the ones a layer's edges reach, the ones a caller names, or a network's."""

from torch import Tensor

from convgraph import arguments
from convgraph.errors import GraphError
from convgraph.geometry.kernel import Relation
from convgraph.graph import edge_list
from convgraph.graph.lattice import Size, check_bool
from convgraph.graph.network_sites import network_sites
from convgraph.graph.sites import Sites, all_pixels
from convgraph.graph.space_edges import forwards


def target_sites(relation: Relation, source: Sites, sites: Sites | Tensor | str | None) -> Sites:
    """Return the sites that receive messages; see `connect`."""
    space, value = source.space, getattr(relation, "key", relation)
    reached = isinstance(sites, str) and sites == "reached"
    if reached:
        sites = None
    if space is not None:
        source.memo(("fits", value), lambda: check_space(relation, source))
    if (
        sites is None
        and not reached
        and relation.keeps_sites
        and source.memo(
            ("stays", value),
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
        return all_pixels(0, size, source.device, source.batched, space)
    if isinstance(sites, str):
        if sites != "network":
            raise GraphError(
                f"expected sites as a mask, a PixelGraph, 'reached' or 'network', got {sites!r}"
            )
        return network_sites(source, sizes, relation)
    if sites is not None:
        return _named(sites, source, sizes, size)
    key = ("target", value)
    if source.mask is None:
        if size is not None and source.root.mask is None:
            return source.memo_sites(
                key,
                lambda: all_pixels(source.batch_size, size, source.device, source.batched, space),
            )
        return source.memo_sites(key, lambda: source.derived(sizes, None))
    return source.memo_sites(
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
        arguments.tensor("connect", "sites", sites, shape="(B, *output_size)")
        check_bool(sites)  # before it is moved to where the graph is
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
