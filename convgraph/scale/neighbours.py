"""Relations in a space: who speaks at the sites of a part, and nothing of the array's size.

    heard(p) = the space's table, for the sites p alone

Axes of a space are no lattices of their own: beyond the edge of a face lies another, turned. So a
map in a space has one axis of sites, its cells in order, and one of a single entry behind it; a
part is a sorted list of cells, and everything else of a plan stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from convgraph.errors import GeometryError
from convgraph.geometry.footprint import taps_there
from convgraph.geometry.kernel import IntTable, KernelGeometry
from convgraph.geometry.resize import ResizeGeometry
from convgraph.geometry.space import FloatTable, Space
from convgraph.graph.space_edges import forwards
from convgraph.scale.positions import Positions
from convgraph.scale.recording import RecordedCall, Recording
from convgraph.scale.travel_rules import Axes, Travel

Heard = tuple[IntTable, FloatTable | None]
"""(P, T, K) int64 source cells, -1 for none, and their weights, None where each counts once."""


@dataclass(frozen=True)
class Neighbours:
    """A relation between two maps in a space.

    Attributes:
        space: where the pixels lie.
        relation: as the space sees it.
        size: of the array that speaks.
        out: of the array that hears.
    """

    space: Space
    relation: Any
    size: tuple[int, ...]
    out: tuple[int, ...]
    _last: dict[bytes, Heard] = field(default_factory=dict, repr=False, compare=False)

    def heard(self, cells: Positions) -> Heard:
        """Return who speaks at these cells, tap by tap; what was asked last is kept."""
        key = cells.tobytes()
        found = self._last.get(key)
        if found is None:
            found = self._found(cells)
            self._last.clear()
            self._last[key] = found
        return found

    def _found(self, cells: Positions) -> Heard:
        if self.space.flat:
            return self._flat(cells)
        if getattr(self.relation, "transposed", False):
            return self._reversed(cells)
        table = self.space.table(self.relation, self.size, self.out, cells)
        if table is None:
            raise TypeError(f"{self.space} has no table")
        weights = None if table.weights is None else np.moveaxis(table.weights, 0, 1)
        return np.moveaxis(table.sources, 0, 1), weights

    def sources_of(self, axis: int, positions: Positions) -> IntTable:
        """Return (P, taps) source positions along an axis: of cells, or of the one behind them."""
        if axis:
            return np.zeros((len(positions), 1), np.int64)
        return self.heard(positions)[0].reshape(len(positions), -1)

    def axis_weights(self, axis: int, size: int) -> FloatTable | None:
        """Return the weights of all edges, None where each counts once."""
        return None if axis else self.heard(np.arange(prod(self.out)))[1]

    def _flat(self, cells: Positions) -> Heard:
        """Edges of the plane, less the taps that are not there."""
        relation = self.relation
        found = [
            relation.axis_sources(axis, self.size[axis])[at]
            for axis, at in enumerate(np.divmod(cells, self.out[1]))
        ]
        r, c = found[0][:, :, None], found[1][:, None, :]
        sources = np.where((r >= 0) & (c >= 0), r * self.size[1] + c, -1).reshape(len(cells), -1)
        there = taps_there(relation)
        if there is not None:
            sources = np.where(np.asarray(there, bool).reshape(-1), sources, -1)
        each = [relation.axis_weights(axis, n) for axis, n in enumerate(self.size)]
        if each[0] is None or each[1] is None:
            return sources[..., None], None
        row, column = np.divmod(cells, self.out[1])
        weights = (each[0][row][:, :, None] * each[1][column][:, None, :]).reshape(sources.shape)
        return np.where(weights == 0, -1, sources)[..., None], weights[..., None]

    def _reversed(self, cells: Positions) -> Heard:
        """A transposed kernel: the plain one leads from its output back to its input."""
        plain, one, two = forwards(self.relation, self.size, self.out)
        near = self._near(plain, cells)
        table = self.space.table(plain, one, two, near)
        if table is None:
            raise TypeError(f"{self.space} has no table")
        place = np.searchsorted(cells, table.sources)
        place = np.minimum(place, len(cells) - 1)
        tap, speaker, k = np.nonzero((table.sources >= 0) & (cells[place] == table.sources))
        hearer = place[tap, speaker, k]
        order = np.lexsort((near[speaker], tap, hearer))
        hearer, tap, speaker, k = hearer[order], tap[order], speaker[order], k[order]
        taps = len(table.sources)
        group = hearer * taps + tap
        number = np.arange(len(group)) - np.searchsorted(group, group)
        shape = (len(cells), taps, int(number.max(initial=0)) + 1)
        sources = np.full(shape, -1, np.int64)
        sources[hearer, tap, number] = near[speaker]
        if table.weights is None:
            return sources, None
        weights = np.zeros(shape)
        weights[hearer, tap, number] = table.weights[tap, speaker, k]
        return sources, weights

    def _near(self, plain: Any, cells: Positions) -> Positions:
        """Cells of the source that may reach these: a kernel's width around them, and more."""
        number, height, width = self.space.charts(self.size)
        out = self.out[0] // number, self.out[1]
        far = max(
            -(-(gap * (k - 1) + max(pads)) // s) + 1
            for k, gap, pads, s in zip(
                plain.kernel_size, plain.dilation, plain.padding, plain.stride, strict=True
            )
        )
        if 2 * far > min(height, width):
            return np.arange(prod(self.size))
        around = np.arange(-2 * far, 2 * far + 1)
        rows, column = np.divmod(cells, out[1])
        chart, row = np.divmod(rows, out[0])
        row, column = row * height // out[0], column * width // out[1]
        if not self.space.along(plain):  # north-up frames turn: whole rows
            lines = np.unique(np.clip(row[:, None] + around, 0, height - 1))
            return (lines[:, None] * width + np.arange(width)).ravel()
        each = np.unique((chart * height + row) * width + column)
        rows, column = np.divmod(each, width)
        chart, row = np.divmod(rows, height)
        at = row[:, None, None] + around[:, None], column[:, None, None] + around
        found = np.unique(self.space.places(self.size, chart[:, None, None], *at, "zeros").sources)
        return found[found >= 0]


def within(
    space: Space, step: RecordedCall, how: Travel, recording: Recording, axes: Sequence[Axes]
) -> Travel:
    """Return how an operator travels in a space, given how it does in the plane.

    Raises:
        GeometryError: sizes, padding or stride have no meaning there; with the module's path.
    """
    maps = [source for source in step.sources if axes[source] is not None]
    if not maps:
        return how

    def array(value: int, lies: Axes) -> tuple[int, ...]:
        return tuple(recording.shapes[value][a] for a in lies or ())

    if how.axes is not None and how.axes != tuple(range(how.axes[0], how.axes[0] + 2)):
        return Travel("whole", why=f"moves the axes of {space} apart")
    if how.how == "node":
        sizes = {array(source, axes[source]) for source in maps}
        if len({size for size in sizes if prod(size) > 1}) > 1:
            return Travel("whole", why=f"joins maps of other sizes, {sizes}")
    if how.how != "edges":
        return how
    if not isinstance(how.relation, (KernelGeometry, ResizeGeometry)):
        why = space.refuses("pad", (0, 1)) or f"moves pixels by their index; {space} has no plan"
        return Travel("whole", why=f"has no meaning by parts: {why}")
    size, out = array(maps[0], axes[maps[0]]), array(step.results[0], how.axes)
    try:
        seen = space.seen(how.relation)
        forward, *ends = forwards(seen, size, out)
        space.check(forward, *ends)
    except GeometryError as error:
        raise GeometryError(f"{step.title}: {error}") from error
    return replace(how, relation=Neighbours(space, seen, size, out))
