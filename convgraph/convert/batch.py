"""Images of a batch: some of them, or several batches as one; a map goes with its sites."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.tokens import TokenSites
from convgraph.convert.value import Spatial, digit
from convgraph.graph.network_sites import some_images
from convgraph.graph.sites import Sites


def is_batch(x: Any, dim: int) -> bool:
    """Whether an axis is the whole batch, one of several images."""
    return _has_images(x) and x.axes[dim] == (Name("batch", x.sites.batch_size),)


def _has_images(x: Any) -> bool:
    return isinstance(x, Spatial) and isinstance(x.sites, (Sites, TokenSites))


def holds_images(x: Any, dim: int) -> bool:
    """Whether an axis is the whole batch, of one image too, which has no name."""
    single = _has_images(x) and x.sites.batch_size == 1
    return is_batch(x, dim) or (single and dim == 0 and not x.axes[0] and len(x.axes) > 2)


def images(x: Spatial, dim: int, numbers: Sequence[int]) -> Spatial:
    """Return some images of a map, by their numbers."""
    if not holds_images(x, dim) or not numbers:
        raise NoRuleError("it takes images out of an axis that is no batch, or none at all")
    chosen = tuple(int(n) % x.sites.batch_size for n in numbers)
    sites = images_of(x.sites, chosen)
    key = ("rows of", x.sites.token, chosen)
    rows = x.x.index_select(0, sites.memo(key, lambda: _rows_of(x.sites, chosen)))
    return Spatial(rows, sites, names.replaced(x.axes, dim, names.batch_axis(len(chosen))))


def _rows_of(sites: Any, chosen: tuple[int, ...]) -> Tensor:
    """The rows of some images, one image after the other, of tokens piece by piece."""
    image = digit(Name("batch", sites.batch_size), sites)
    found, start = [], 0
    for piece in sites.apart(image) if isinstance(sites, TokenSites) else [image]:
        own = piece.flatten()
        found += [start + (own == n).nonzero().squeeze(1) for n in chosen]
        start += len(own)
    return torch.cat(found)


def _of_batch(sites: TokenSites, batch: int, change: Callable[[Sites], Sites]) -> TokenSites:
    """The tokens of other images."""
    rest = tuple(name for name in sites.group if name.kind != "batch")
    return sites.on((*names.batch_axis(batch), *rest), change)


def images_of(sites: Any, chosen: tuple[int, ...]) -> Any:
    """Return the sites of some images, or their tokens."""
    if isinstance(sites, TokenSites):
        return _of_batch(sites, len(chosen), lambda one: images_of(one, chosen))
    return some_images([sites], tuple((0, n) for n in chosen))


def batched(parts: Sequence[Spatial], dim: int) -> Spatial:
    """Return maps of one lattice as one batch."""
    first = parts[0]
    for one in parts:
        if not _has_images(one):
            raise NoRuleError("a map and an ordinary tensor become one batch")
        own = one.axes[dim] == names.batch_axis(one.sites.batch_size)
        if not own or names.replaced(one.axes, dim) != names.replaced(first.axes, dim):
            raise NoRuleError("maps of different axes become one batch")
        if one.sites.size != first.sites.size:
            raise NoRuleError("maps of different sizes become one batch")
    sites = together([one.sites for one in parts])
    rows = torch.cat([one.x for one in parts])
    if isinstance(sites, TokenSites):
        pieces = zip(*(one.sites.apart(one.x) for one in parts), strict=True)
        flat = [torch.cat([x.flatten(0, 1) if type(p) is int else x for x in own])
                for p, own in zip(sites.pieces, pieces, strict=True)]  # fmt: skip
        rows = torch.cat(flat)
    return Spatial(rows, sites, names.replaced(first.axes, dim, names.batch_axis(sites.batch_size)))


def together(parts: Sequence[Any]) -> Any:
    """Return the sites of several batches as one, or their tokens."""
    first = parts[0]
    if isinstance(first, TokenSites):
        kinds = {tuple(p if isinstance(p, int) else p.axis for p in one.pieces) for one in parts}
        if len(kinds) > 1:
            raise NoRuleError("tokens of different sequences become one batch")
        levels = zip(*([one.root, *(p.sites for p in one.nodes)] for one in parts), strict=True)
        made = map(together, levels)  # by place: what is one lattice here may be two there
        return _of_batch(first, sum(one.batch_size for one in parts), lambda _: next(made))
    every = ((k, n) for k, one in enumerate(parts) for n in range(one.batch_size))
    return some_images(parts, tuple(every))
