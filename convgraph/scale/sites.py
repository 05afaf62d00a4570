"""Which sites of a plan's maps are there, on any part of them, from a mask of the image.

Every map lies somewhere, as in a network on a masked graph (see `convgraph.graph.places`): a move
takes the mask along, a step in scale shares out what the map covers, and where two maps of other
places meet, all sites of both are there. A map of one site is a readout and has no mask, nor has a
map that is made of such maps alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from convgraph.geometry.kernel import IntTable, KernelGeometry
from convgraph.geometry.resize import ResizeGeometry
from convgraph.graph import places
from convgraph.graph.places import ABSENT, PRESENT, Span
from convgraph.scale.mask_sites import EVERYBODY, MaskSites, changes
from convgraph.scale.plan import Plan
from convgraph.scale.positions import Positions
from convgraph.scale.relations import Pad, Shuffle, Slice, Unshuffle
from convgraph.scale.travel_rules import Travel


@dataclass(frozen=True, eq=False)
class Lies:
    """Where a map lies: on which pixels, and which of them each position stands for."""

    root: MaskSites
    spans: tuple[Span, ...]

    def stands(self, axis: int, positions: Positions) -> IntTable:
        """(P, 2): first pixel of the root and end, 0 and 0 for none, or `EVERYBODY`."""
        found: IntTable = self.spans[axis].pixels(self.root.size[axis], positions)
        found[self.spans[axis].numbers[positions] == PRESENT] = EVERYBODY
        return found

    def there(self, part: Sequence[Positions]) -> Any:
        """Bools of a part, a product of positions."""
        return self.root.some([self.stands(axis, one) for axis, one in enumerate(part)])


class PlannedSites:
    """Sites of every map of a plan; see `sites_of`. Without maps: no pixel is absent.

    Attributes:
        lies: number of a map with absent pixels -> where it lies.
        flat: whether a part names cells of a space, in row-major order.
        mask: which pixels of the image are there; None for all.
    """

    def __init__(
        self, lies: Mapping[int, Lies], *, flat: bool = False, mask: MaskSites | None = None
    ) -> None:
        self.lies, self.flat, self.mask = lies, flat, mask

    def __call__(self, value: int, part: tuple[Positions, ...]) -> Any:
        """Return bools, one for each position of a part of a map; None where all are there."""
        found = self.lies.get(value)
        if found is None:
            return None
        if self.flat:
            here: Any = found.root.some(self.stands(value, 0, part[0]), each=True)
            return here[:, None]
        return found.there(part)

    def whole(self, value: int) -> Any:
        """Return bools of the whole map as an array has it, (*size); None where all are there."""
        found = self.lies.get(value)
        return None if found is None else found.there(_all(found))

    def stands(self, value: int, axis: int, positions: Positions) -> list[IntTable]:
        """Return what positions stand for along an axis of the plan; of cells along both axes."""
        found = self.lies[value]
        if not self.flat:
            return [found.stands(axis, positions)]
        at = np.divmod(positions, found.spans[1].size)
        return [found.stands(k, one) for k, one in enumerate(at)]

    def alike(self, first: int, other: int) -> bool:
        """Whether two maps lie in the same places."""
        return self.lies.get(first) is self.lies.get(other)


EVERYWHERE = PlannedSites({})
"""Without a mask."""


def sites_of(plan: Plan, mask: Any) -> PlannedSites:
    """Return which sites of a network's maps are there.

    Args:
        plan: of the network.
        mask: of the image, see `MaskSites.of`; or None.

    Raises:
        GraphError: it is no mask of such an image.
    """
    if mask is None:
        return EVERYWHERE
    root = MaskSites.of(mask, plan.array(0))
    if root.full or prod(root.size) == 1:
        return EVERYWHERE
    lies = {0: Lies(root, tuple(map(places.whole, root.size)))}
    one: dict[Any, Lies] = {(id(root), lies[0].spans): lies[0]}
    for step, how in plan.steps:
        result = step.results[0]
        maps = [lies[source] for source in step.sources if source in lies]
        if how.axes is None or not maps or prod(plan.array(result)) == 1:
            continue
        size = plan.array(result)
        if how.how == "edges":
            found = _through(maps[0], how, size, in_space=plan.space is not None)
        else:
            found = _met([m for m in maps if _size(m) == size] or [_resized(maps[0], size)])
        found = one.setdefault((id(found.root), found.spans), found)
        lies |= dict.fromkeys(step.results, found)
    return PlannedSites(lies, flat=plan.space is not None, mask=root)


def _size(map_: Lies) -> tuple[int, ...]:
    return tuple(span.size for span in map_.spans)


def _all(map_: Lies) -> list[Positions]:
    return [np.arange(n) for n in _size(map_)]


def _through(map_: Lies, how: Travel, size: tuple[int, ...], *, in_space: bool) -> Lies:
    """Where the results of an operator along edges lie."""
    if in_space:  # it has no edge over which a mask could be moved
        return _resized(map_, size)
    each = enumerate(zip(map_.spans, size, strict=True))
    spans = [_along(span, how, axis, n) for axis, (span, n) in each]
    good = tuple(span for span in spans if span is not None)
    return Lies(map_.root, good) if len(good) == len(spans) else _resized(_own(map_), size)


def _along(span: Span, how: Travel, axis: int, n: int) -> Span | None:
    relation = how.relation
    if isinstance(relation, (Pad, Slice)):
        table = relation.axis_sources(axis, span.size)[:, 0]
        if len(table) == span.size and (table == np.arange(span.size)).all():
            return span
        outside = PRESENT if how.fill else ABSENT
        return places.moved(span, np.where(table < 0, outside, table).tolist())
    if isinstance(relation, (Shuffle, Unshuffle)):
        r, back = relation.factor, isinstance(relation, Shuffle)
        relation = KernelGeometry(r, r, transposed=back, d=relation.d)
    assert isinstance(relation, (KernelGeometry, ResizeGeometry))
    return places.through(span, relation, axis, n)


def _resized(map_: Lies, size: tuple[int, ...]) -> Lies:
    """The same stretch in so many positions; on pixels of its own where it is in pieces."""
    spans = [places.through(span, None, 0, n) for span, n in zip(map_.spans, size, strict=True)]
    good = tuple(span for span in spans if span is not None)
    return Lies(map_.root, good) if len(good) == len(spans) else _resized(_own(map_), size)


def _own(map_: Lies) -> Lies:
    """The same sites as pixels of their own."""
    root, _ = _together([map_])
    return Lies(root, tuple(map(places.whole, root.size)))


def _met(maps: Sequence[Lies]) -> Lies:
    """Where maps of one size meet: on the sites of all; those of one, where it has them."""
    first = maps[0]
    for other in maps[1:]:
        if first is other:
            continue
        root, (one, two) = _together([first, other])
        if (one | ~two).all():
            continue
        first = other if (two | ~one).all() else Lies(root, tuple(map(places.whole, root.size)))
    return first


def _together(maps: Sequence[Lies]) -> tuple[MaskSites, list[Any]]:
    """The sites of maps of one size as pixels, in boxes alike in each; and the boxes of each."""
    starts = []
    for axis, n in enumerate(_size(maps[0])):
        lines = [one.root.lines(axis, one.stands(axis, np.arange(n))) for one in maps]
        starts.append(changes(np.concatenate(lines, 1)))
    each = [one.there(starts) for one in maps]
    return MaskSites(starts, np.logical_or.reduce(each), _size(maps[0])), each
