"""Receptive fields on tables: the pixels that an output reads, at any size, in integers.

What reads a product of positions an axis reads a product of its own, looked up in the tables; where
branches meet, reach is a union of such products. None is ever written out, so that a slide takes
what a thumbnail takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from convgraph.convert.network import GraphNetwork
from convgraph.convert.receptive import in_words
from convgraph.convert.receptive import receptive_field as walked
from convgraph.door import door
from convgraph.errors import ConversionError, GeometryError, GraphError
from convgraph.scale.halo import channels_of
from convgraph.scale.plan import Plan, plan
from convgraph.scale.positions import Positions, need

Product = tuple[Positions, ...]
MOST = 64  # products of one map; more are taken as the one that holds them all


@final
@dataclass(frozen=True)
class Reach:
    """The pixels that an output can hear, as products of positions.

    Attributes:
        products: whose union it is; each holds sorted positions, one list an axis.
        image_size: of the image (pixels).
        pixel: the output site.
        exact: whether every operator on the way has a rule; otherwise it is an upper bound.
    """

    products: tuple[Product, ...]
    image_size: tuple[int, ...]
    pixel: tuple[int, ...]
    exact: bool = True

    @property
    def box(self) -> tuple[tuple[int, int], ...]:
        """First and last pixel along each axis; () where nothing is heard."""
        if not self.products:
            return ()
        return tuple(
            (min(int(p[0]) for p in along), max(int(p[-1]) for p in along))
            for along in zip(*self.products, strict=True)
        )

    @property
    def size(self) -> tuple[int, ...]:
        """Extent along each axis (pixels)."""
        return tuple(last - first + 1 for first, last in self.box)

    @property
    def mask(self) -> Tensor:
        """Bool of `size`: which pixels of `box` are heard."""
        found = torch.zeros(self.size, dtype=torch.bool)
        for one in self.products:
            index = np.ix_(*(p - low for p, (low, _) in zip(one, self.box, strict=True)))
            found[tuple(map(torch.from_numpy, index))] = True
        return found

    @property
    def num_pixels(self) -> int:
        """How many pixels can be heard."""
        if len(self.products) == 1:
            return prod(len(p) for p in self.products[0])
        return int(self.mask.sum())

    __repr__ = in_words


@door
def receptive_field(
    net: Any,
    pixel: int | tuple[int, ...],
    graph: Any = None,
    *others: Any,
    size: Sequence[int] | None = None,
    channels: int | None = None,
    **how: Any,
) -> Any:
    """Return the input pixels from which a path of edges leads to an output site.

    Given `size`, of a dense network, nothing is run and nothing of the image's size is held: the
    answer is looked up in tables. Otherwise the run of a converted network on a graph is walked
    back, holes and all.

    Args:
        net: a dense network on images, beside `size`; or what `to_graph` returned.
        pixel: a position on the lattice of an output, or () for one that is a readout.
        graph: of which image size and mask; None takes a full grid of the latest call's shapes.
        others: further inputs of the network.
        size: of the image (pixels); the network then takes one image.
        channels: C; None reads it off the first weight.
        how: `input=` and `output=`, of a network on graphs; see `convert.receptive_field`.

    Returns:
        A Reach beside `size`, else a ReceptiveField.

    Raises:
        ConversionError: no network that can be asked.
        GraphError: the pixel is no site of the output, or there is no such input or output.
        GeometryError: no such size.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.Conv2d(1, 1, 3))
        >>> found = receptive_field(net, (20000, 30000), size=(102400, 81920))
        >>> found
        Reach(49 pixels, box=((40000, 40006), (60000, 60006)), pixel=(20000, 30000), exact=True)
    """
    if size is None:
        if isinstance(net, torch.nn.Module) and not isinstance(net, GraphNetwork):
            raise ConversionError(
                f"receptive_field: expected size= beside a dense network such as "
                f"{type(net).__name__}, or what cg.to_graph(network) returns"
            )
        return walked(net, pixel, graph, *others, **how)
    if graph is not None or others or how:
        raise GraphError("receptive_field: expected a graph or size=, got both")
    size = tuple(size)
    if not size or any(not isinstance(n, (int, np.integer)) or n < 1 for n in size):
        raise GeometryError(f"receptive_field: expected size as pixels an axis, got {size!r}")
    where = (pixel,) if isinstance(pixel, (int, np.integer)) else tuple(pixel)
    found = plan(net, (1, channels_of(net, len(size), channels), *map(int, size)))
    out = found.out_size
    inside = len(where) == len(out) and all(0 <= p < n for p, n in zip(where, out, strict=True))
    if out and not inside:
        raise GraphError(f"receptive_field: expected a pixel of the output {out}, got {where}")
    products, exact = _back(found, tuple(np.array([p]) for p in where) if out else ())
    return Reach(tuple(products), size, where, exact)


def _back(found: Plan, start: Product) -> tuple[list[Product], bool]:
    """Walk back over a plan: the products of the image, and whether each step had a rule."""
    reach: dict[int, list[Product]] = {found.out: [start]}
    exact = True
    for step, how in reversed(found.steps):
        mine = [one for result in step.results for one in reach.pop(result, [])]
        if not mine:
            continue
        maps = [s for s in step.sources if found.axes[s] is not None]
        for source in set(step.sources) - set(maps):  # a number for all pixels: a gate, a readout
            reach[source] = [()]
        if not maps:
            continue
        exact &= how.how in ("node", "edges", "sum")
        for source in maps:
            size = found.size(source)
            if how.how == "edges":
                new = [
                    tuple(need(how.relation, k, size[k], p) for k, p in enumerate(one))
                    for one in mine
                ]
            elif how.how == "node":
                new = [
                    tuple(p if n > 1 else p[:1] * 0 for p, n in zip(one, size, strict=True))
                    for one in mine
                ]
            else:
                new = [tuple(map(np.arange, size))]
            reach[source], whole = _union([*reach.get(source, []), *new])
            exact &= whole
    return reach.get(0, []), exact


def _union(products: list[Product]) -> tuple[list[Product], bool]:
    """The products that no other holds; and whether none had to be added to hold them all."""
    kept: list[Product] = []
    for one in products:
        if not all(map(len, one)) or any(_within(one, other) for other in kept):
            continue
        kept = [other for other in kept if not _within(other, one)] + [one]
    if len(kept) > MOST:
        return [tuple(reduce(np.union1d, axis) for axis in zip(*kept, strict=True))], False
    return kept, True


def _within(one: Product, other: Product) -> bool:
    return all(
        len(a) <= len(b) and b[0] <= a[0] and a[-1] <= b[-1] and bool(np.isin(a, b).all())
        for a, b in zip(one, other, strict=True)
    )
