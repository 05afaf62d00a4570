"""A tiling: a plan cut into tiles, what they cost, and the proof that they are the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np

from convgraph.errors import GeometryError
from convgraph.proof.equation.in_space import Operator
from convgraph.proof.placed_maps import Mask
from convgraph.proof.plan import AxisPart, Claim, PlanCertificate, judge_plan
from convgraph.scale.neighbours import Neighbours
from convgraph.scale.passes import Pass, is_map, readout, together
from convgraph.scale.plan import Ask, Plan
from convgraph.scale.positions import Positions, places, runs
from convgraph.scale.read_indices import edges
from convgraph.scale.sites import EVERYWHERE, PlannedSites
from convgraph.scale.travel_rules import weight_shape

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Tiling:
    """A plan whose output is cut into tiles.

    In a space a tile lies within one chart, a face of HEALPix: the whole face, if it is as large.

    Attributes:
        plan: of the network at the image's size.
        tile: pixels of the output in a tile, along each axis of the array.
        target: the value that is cut; the output, unless another is asked for.
        held: maps that were kept in front of it: a part starts from them.
        sites: which are there.
    """

    plan: Plan
    tile: tuple[int, ...]
    target: int
    held: frozenset[int] = frozenset()
    sites: PlannedSites = EVERYWHERE

    def spans(self, axis: int) -> list[Positions]:
        """The tiles along an axis of the array: rows, columns."""
        return [self._span(axis, k) for k in range(self.counts[axis])]

    def _charts(self, axis: int) -> tuple[int, int]:
        """How many charts lie one behind the other along an axis, and pixels of one."""
        size, space = self.plan.array(self.target), self.plan.space
        charts = 1 if space is None or axis else space.charts(size)[0]
        return charts, size[axis] // charts

    def _span(self, axis: int, k: int) -> Positions:
        """The k-th tile along an axis of the array."""
        _, n = self._charts(axis)
        chart, number = divmod(k, -(-n // self.tile[axis]))
        first = number * self.tile[axis]
        return chart * n + np.arange(first, min(first + self.tile[axis], n))

    def cuts(self, axis: int) -> list[Positions]:
        """The parts along an axis of the plan: in a space the first one has the cells of each."""
        if self.plan.space is None:
            return self.spans(axis)
        return [np.zeros(1, np.int64)] if axis else [out[0] for _, out in self.parts()]

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        each = [self._charts(axis) for axis in range(len(self.tile))]
        return tuple(f * -(-n // t) for (f, n), t in zip(each, self.tile, strict=True))

    def part(self, number: tuple[int, ...]) -> tuple[Positions, ...]:
        """Positions of the output that are a tile's."""
        box = tuple(self._span(axis, k) for axis, k in enumerate(number))
        if self.plan.space is None:
            return box
        width = self.plan.array(self.target)[1]
        return (box[0][:, None] * width + box[1]).ravel(), np.zeros(1, np.int64)

    def parts(self) -> Iterator[tuple[tuple[int, ...], tuple[Positions, ...]]]:
        """Yield each tile's number along each axis, and its positions of the output."""
        for number in product(*map(range, self.counts)):
            yield number, self.part(number)

    def here(self, out: tuple[Positions, ...]) -> Any:
        """Which positions of a tile are there, as bools; None for all."""
        return self.sites(self.target, out)

    @cached_property
    def empty(self) -> frozenset[tuple[int, ...]]:
        """Numbers of the tiles that have no site."""
        if self.target not in self.sites.lies:
            return frozenset()
        return frozenset(number for number, out in self.parts() if not self.here(out).any())

    def inhabited(self) -> Iterator[tuple[tuple[int, ...], tuple[Positions, ...]]]:
        """Yield the tiles that have a site, as `parts` does."""
        return (one for one in self.parts() if one[0] not in self.empty)

    def summed(self) -> list[tuple[tuple[int, ...], tuple[Positions, ...]]]:
        """Return the tiles that a pass sums: those with a site; the first tile, if none has."""
        return list(self.inhabited()) or list(islice(self.parts(), 1))

    def place(self, out: tuple[Positions, ...]) -> tuple[slice, ...]:
        """Where a tile lies in the whole value, as an array has it."""
        axes = self.plan.axes[self.target] or ()
        found = [slice(None)] * len(self.plan.recording.shapes[self.target])
        for a, (first, last) in zip(axes, self._box(out), strict=True):
            found[a] = slice(first, last + 1)
        return tuple(found)

    def boxed(self, y: Any, out: tuple[Positions, ...]) -> Any:
        """Return a tile as an array has it: in a space its cells are rows and columns again."""
        if self.plan.space is None:
            return y
        shape = list(y.shape)
        for a, (first, last) in zip(self.plan.axes[self.target] or (), self._box(out), strict=True):
            shape[a] = last + 1 - first
        return y.reshape(shape)

    def _box(self, out: tuple[Positions, ...]) -> list[tuple[int, int]]:
        """First and last row and column."""
        if self.plan.space is None:
            return [(int(p[0]), int(p[-1])) for p in out]
        ends = np.divmod(out[0][[0, -1]], self.plan.array(self.target)[1])
        return [(int(one[0]), int(one[1])) for one in ends]

    def ask(self, out: tuple[Positions, ...]) -> Ask:
        """Return what a part reads of every value."""
        return self.plan.asks(self.target, out, self.held)

    @property
    def work(self) -> float:
        """Multiply-adds of all tiles over those of the whole image; 1 is the least."""
        whole = self.plan.asks(self.target, tuple(map(np.arange, self.plan.size(self.target))))
        ideal = self.plan.work(whole)
        done = 0
        for step, how in self.plan.steps:
            if how.how != "edges" or "weight" not in step.args:
                continue
            value = step.sources[0] if "transpose" in step.operator else step.results[0]
            along = []
            for axis in range(len(self.tile)):
                found = (self.ask(self._beside(axis, out)) for out in self.cuts(axis))
                along.append(sum(len(one[value][axis]) for one in found if value in one))
            done += prod(along) * prod(weight_shape(step, self.plan.recording))
        return done / ideal if ideal else 1.0

    def _beside(self, axis: int, out: Positions) -> tuple[Positions, ...]:
        """A part with these positions along one axis and the first tile along the others."""
        if self.plan.space is not None:  # one axis has all cells, the other nothing to cut
            return (self.part((0, 0))[0], out) if axis else (out, np.zeros(1, np.int64))
        size = self.plan.size(self.target)
        first = [np.arange(min(t, n)) for t, n in zip(self.tile, size, strict=True)]
        return (*first[:axis], out, *first[axis + 1 :])

    @property
    def memory(self) -> int:
        """Bytes that the largest tile holds at once, beside the network's own."""
        most: list[Positions] = []
        for axis in range(len(self.tile)):
            sizes = [
                (sum(len(p[axis]) for p in self.ask(self._beside(axis, out)).values()), k)
                for k, out in enumerate(self.cuts(axis))
            ]
            most.append(self.cuts(axis)[max(sizes)[1]])
        return self.plan.memory(self.ask(tuple(most)))

    def prove(self) -> PlanCertificate:
        """Prove in integers that the tiles are the whole: see `convgraph.proof.plan`."""
        return judge_plan(claim(self))


def tiling(
    plan: Plan, tile: Any, target: int | None = None, sites: PlannedSites = EVERYWHERE
) -> Tiling:
    """Cut a plan's output into tiles.

    Args:
        plan: of a network.
        tile: pixels of the output along every axis, one number an axis, or how much memory a tile
            may take, as "512 MiB".
        target: another value than the output.
        sites: which are there.

    Raises:
        GeometryError: no such tile; a budget that no tile fits names the smallest.
    """
    target = plan.out if target is None else target
    d = len(plan.size(target))
    if isinstance(tile, str):
        return replace(_largest(plan, _bytes(tile), target), sites=sites)
    sizes = tuple(tile) if isinstance(tile, (tuple, list)) else (tile,) * d
    good = all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in sizes
    )
    if len(sizes) != d or not good:
        raise GeometryError(
            f"tile: expected pixels of the output, a positive integer or {d}, or memory as "
            f"'512 MiB', got {tile!r}"
        )
    size = _chart(plan, target)
    kept = tuple(min(int(t), n) for t, n in zip(sizes, size, strict=True))
    return Tiling(plan, kept, target, sites=sites)


def gathered(cut: Tiling, one: Pass, parts: Sequence[Any]) -> Any:
    """Return what a pass makes known, from what the tiles of `summed` gave: `passes.summary`."""
    plan = cut.plan
    if not is_map(one):
        whole = together(one, list(parts))
        return whole if isinstance(one.key, tuple) else readout(plan, one, whole)
    found = parts[0].new_zeros(plan.recording.shapes[one.source])
    for (_, out), part in zip(cut.summed(), parts, strict=True):
        found[cut.place(out)] = cut.boxed(part, out)
    return found


def _chart(plan: Plan, target: int) -> tuple[int, ...]:
    """What a tile is at most: the map, or one of its charts."""
    size = plan.array(target)
    return size if plan.space is None else plan.space.charts(size)[1:]


def _bytes(text: str) -> int:
    number, _, unit = text.strip().partition(" ")
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise GeometryError(
            f"tile: expected memory as a number and one of {', '.join(UNITS)}, as '512 MiB', "
            f"got {text!r}"
        ) from None


def _largest(plan: Plan, budget: int, target: int) -> Tiling:
    """The largest square tile whose memory fits, a power of two of output pixels."""
    size = _chart(plan, target)
    side = 1 << (max(size) - 1).bit_length()
    while True:
        found = tiling(plan, side, target)
        took = found.memory
        if took <= budget:
            return found
        if side == 1:
            raise GeometryError(
                f"tile: expected at least {took / 2**20:.1f} MiB, what the smallest tile of one "
                f"output pixel takes, got {budget / 2**20:.1f} MiB"
            )
        side //= 2


def operators(plan: Plan) -> list[Operator | None]:
    """Return what a plan says that it computes, operator by operator; None of what makes no map."""
    found: list[Operator | None] = []
    for step, how in plan.steps:
        sources = tuple(s for s in step.sources if plan.axes[s] is not None)
        if how.axes is None or not sources:
            found.append(None)
            continue
        name, arguments = "", {}
        if how.how == "edges":
            name, arguments = step.operator.removeprefix("_"), _arguments(plan, step, how)
        result = step.results[0]
        size, out = plan.size(sources[0]), plan.size(result)
        if plan.space is not None:  # cells are one axis
            if name:
                arguments |= {
                    "space": plan.space.to_dict(), "array": plan.array(sources[0]),
                    "array_out": plan.array(result),
                }  # fmt: skip
            size, out = size[:1], out[:1]
        found.append(Operator(step.title, name, arguments, sources, result, size, out))
    return found


def read(relation: Any, axis: int, size: int, out: Positions, have: Positions) -> Any:
    """Return (outputs, taps) places among the sources that are there, as a part reads them.

    In a space (outputs, taps, K), and beside them the weights, None where each counts once.
    """
    if isinstance(relation, Neighbours):
        sources, weights = relation.heard(out)
        return places(have, sources), weights
    found = [edges(relation, axis, size, run, have) for run in runs(out)]
    return np.concatenate(found) if found else relation.axis_sources(axis, size)[:0]


def claim(made: Tiling) -> Claim:
    """Return what a tiling claims, for the judge."""
    plan = made.plan
    said = [
        replace(one, result=result)
        for (step, _), one in zip(plan.steps, operators(plan), strict=True)
        if one is not None
        for result in step.results
    ]
    axes = []
    for axis in range(len(made.tile) if plan.space is None else 1):
        parts = []
        for out in made.cuts(axis):
            have = plan.ask(made.target, axis, out, made.held)
            reads: dict[int, Any] = {}
            for step, how in plan.steps:
                if how.how == "edges" and step.results[0] in have:
                    source = next(s for s in step.sources if plan.axes[s] is not None)
                    n, mine = plan.size(source)[axis], have[step.results[0]]
                    reads[step.results[0]] = read(how.relation, axis, n, mine, have[source])
            stands = {
                value: np.concatenate(made.sites.stands(value, axis, have[value]), 1)
                for value in made.sites.lies
                if value in have
            }
            parts.append(AxisPart(out, have, reads, stands))
        axes.append(tuple(parts))
    given = {value: plan.size(value)[: len(axes)] for value in made.held}
    root = made.sites.mask
    mask = None if root is None else Mask(root.here, root.size, tuple(map(tuple, root.starts)))
    return Claim(
        tuple(said), plan.image_size[: len(axes)], made.target,
        plan.size(made.target)[: len(axes)], tuple(axes), given, mask,
    )  # fmt: skip


def _arguments(plan: Plan, step: Any, how: Any) -> dict[str, Any]:
    """The operator's arguments as torch had them, beside what only the run knows."""
    found: dict[str, Any] = {
        k: v for k, v in step.args.items() if isinstance(v, (int, float, str, list, bool))
    }
    if "weight" in step.args:
        found["kernel"] = weight_shape(step, plan.recording)[2:]
    if step.operator == "slice":
        found["bounds"] = how.relation.bounds
    if "upsample" in step.operator:
        resize = getattr(how.relation, "relation", how.relation)
        found["scale"] = resize.scale_factor
        found["double"] = resize.double
    return found
