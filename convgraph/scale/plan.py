"""A plan: what a part of the output needs of every value before it, axis by axis, in integers."""

from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from convgraph.errors import ConversionError, GraphError
from convgraph.geometry.space import Space
from convgraph.scale.neighbours import within
from convgraph.scale.positions import Positions, need
from convgraph.scale.recording import RecordedCall, Recording, record
from convgraph.scale.travel_rules import Axes, Travel, travel, weight_shape

Ask = dict[int, tuple[Positions, ...]]
"""Value -> the positions of it that are asked for, one list an axis."""


@dataclass
class Plan:
    """How a network runs by parts on images of one size; see `plan`."""

    net: nn.Module
    recording: Recording
    travels: list[Travel]
    axes: list[Axes]
    space: Space | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> Any:
        """Travel as what it follows from: another process plans anew, in integers."""
        return plan, (
            self.net, self.recording.shapes[0], self.recording.dtypes[0], self.space,
        )  # fmt: skip

    @property
    def steps(self) -> list[tuple[RecordedCall, Travel]]:
        """The operators in order, each with how it travels."""
        return list(zip(self.recording.steps, self.travels, strict=True))

    def size(self, value: int) -> tuple[int, ...]:
        """Size of a map (pixels); () of what is no map; in a space its cells, and 1."""
        size = self.array(value)
        return size if self.space is None or not size else (prod(size), 1)

    def array(self, value: int) -> tuple[int, ...]:
        """Size of a map as an array (pixels); () of what is no map."""
        shape = self.recording.shapes[value]
        return tuple(shape[a] for a in self.axes[value] or ())

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value as a part has it: in a space its cells stand in one axis."""
        found = list(self.recording.shapes[value])
        for a, n in zip(self.axes[value] or (), self.size(value), strict=True):
            found[a] = n
        return tuple(found)

    def lies_last(self, value: int) -> bool:
        """Whether a map is (B, C, *size)."""
        axes = self.axes[value] or ()
        shape = self.recording.shapes[value]
        return axes == tuple(range(-len(axes), 0)) and len(shape) == len(axes) + 2

    @property
    def image_size(self) -> tuple[int, ...]:
        """Size of the image (pixels)."""
        return self.size(0)

    @property
    def out(self) -> int:
        """The value that comes out."""
        return self.recording.out

    @property
    def out_size(self) -> tuple[int, ...]:
        """Size of what comes out (pixels)."""
        return self.size(self.out)

    @property
    def whole(self) -> list[tuple[RecordedCall, Travel]]:
        """The operators that no part can compute by itself."""
        found = [(s, t) for s, t in self.steps if t.how in ("whole", "sum", "few")]
        return found + self.written

    @property
    def written(self) -> list[tuple[RecordedCall, Travel]]:
        """The operators beside the maps that write where others read: no part repeats them."""
        return [(s, t) for s, t in self.steps if t.how == "plain" and t.why]

    def refuse(self, who: str, *, by_passes: bool = False) -> None:
        """Refuse a network that has no plan, or none without passes.

        Raises:
            ConversionError: with the path of the module, the reason and a way out.
        """
        found = [one for one in self.whole if not by_passes or one[1].how in ("whole", "plain")]
        if found or not (self.out_size or by_passes):
            if found and found[0] in self.written:
                step, how = found[0]
                raise ConversionError(
                    f"{who}: {step.title} {how.why}, which no part repeats; call eval(), or let it "
                    "write into a tensor that nobody else reads"
                )
            step, how = found[0] if found else (self.recording.steps[-1], Travel("whole"))
            count = f"{len(found)} operators hear" if len(found) > 1 else "an operator hears"
            raise ConversionError(
                f"{who}: expected a network whose every output reads a part of the image; "
                f"{count} more, first {step.title}: it {how.why}. Split the network before it and "
                "take the part in front; what is trained on patches has its statistics from "
                "patches, and equals the whole nowhere"
            )

    def ask(
        self, target: int, axis: int, out: Positions, held: frozenset[int] = frozenset()
    ) -> dict[int, Positions]:
        """Return the positions of every value that these of a target read, along one axis.

        Args:
            target: the value.
            axis: of the image.
            out: positions of it.
            held: maps that are read and not made: nothing in front of them is asked for.
        """
        found: dict[int, Positions] = {target: np.asarray(out)}
        for step, how in reversed(self.steps):
            mine = next((found[r] for r in step.results if r in found), None)
            if mine is None or how.axes is None or not held.isdisjoint(step.results):
                continue
            for result in step.results:
                mine = np.union1d(mine, found.get(result, mine))
            found |= dict.fromkeys(step.results, mine)  # what one is asked, the others are
            for source in step.sources:
                size = self.size(source)
                if not size:
                    continue
                if how.how == "edges":
                    want = need(how.relation, axis, size[axis], mine)
                else:
                    want = mine if size[axis] > 1 else mine[:1] * 0
                found[source] = np.union1d(found[source], want) if source in found else want
        return found

    def asks(
        self, target: int, out: tuple[Positions, ...], held: frozenset[int] = frozenset()
    ) -> Ask:
        """Return the positions of every value that a part of a target reads; an axis is kept."""
        found = []
        for axis, positions in enumerate(out):
            if self.space is not None:  # cells are as many as a tile has: they are not kept
                found.append(self.ask(target, axis, positions, held))
                continue
            key = (target, axis, positions.tobytes(), held)
            if key not in self._cache:
                if len(self._cache) > 4096:
                    self._cache.clear()
                self._cache[key] = self.ask(target, axis, positions, held)
            found.append(self._cache[key])
        return {v: tuple(one[v] for one in found) for v in found[0] if all(v in o for o in found)}

    def work(self, ask: Ask) -> int:
        """Return multiply-adds of the convolutions that a part computes."""
        total = 0
        for step, how in self.steps:
            if how.how == "edges" and "weight" in step.args and step.results[0] in ask:
                pixels = prod(len(p) for p in ask[step.results[0]])
                shape = weight_shape(step, self.recording)
                if step.operator.startswith("conv_transpose"):
                    pixels = prod(len(p) for p in ask[step.sources[0]])
                total += pixels * prod(shape)
        return total

    def memory(self, ask: Ask) -> int:
        """Return bytes that a part holds at most at once, one padded copy of a source included."""
        last = {source: k for k, step in enumerate(self.recording.steps) for source in step.sources}
        held = {0: self._bytes(0, ask)}
        most = held[0]
        for k, (step, how) in enumerate(self.steps):
            if how.how == "plain" or not any(r in ask for r in step.results):
                continue
            copies = sum(self._bytes(s, ask) for s in step.sources if how.how == "edges")
            held |= {r: self._bytes(r, ask) for r in step.results}
            most = max(most, sum(held.values()) + copies)
            for source in step.sources:
                if last[source] == k and source != self.out:
                    held.pop(source, None)
        return most

    def _bytes(self, value: int, ask: Ask) -> int:
        if value not in ask:
            return 0
        shape, axes = self.recording.shapes[value], self.axes[value] or ()
        other = prod(n for k, n in enumerate(shape) if k - len(shape) not in axes)
        width = torch.empty((), dtype=self.recording.dtypes[value]).element_size()
        return other * prod(len(p) for p in ask[value]) * width


def dtype_of(net: nn.Module) -> torch.dtype | None:
    """The dtype of a network's parameters, or else of its buffers; None where it has neither."""
    kinds = (one.dtype for one in chain(net.parameters(), net.buffers()))
    return next((kind for kind in kinds if kind.is_floating_point), None)


def plan(
    net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype | None = None, on: Any = None
) -> Plan:
    """Return the plan of a network for images of a shape (B, C, *size).

    Args:
        net: the network.
        shape: of the images.
        dtype: of the images; None for the network's, or float32 where it has no numbers.
        on: the space that they lie in; None for the plane.

    Raises:
        GraphError: no array of the space has that size.
        GeometryError: an operator has no meaning in the space; with the module's path.
        ConversionError: the network does not run without the numbers of an image.
    """
    if on is not None and (isinstance(on, type) or not hasattr(on, "charts")):
        raise GraphError(f"expected on as a space, cg.HEALPix() say, or None, got {on!r}")
    if on is not None:
        on.charts(shape[2:])
    found = record(net, shape, dtype or dtype_of(net) or torch.float32)
    axes: list[Axes] = [None] * len(found.shapes)
    axes[0] = tuple(range(2 - len(shape), 0))
    travels = []
    for step in found.steps:
        how = travel(step, found, axes)
        if on is not None:
            how = within(on, step, how, found, axes)
        travels.append(how)
        for result in step.results:
            axes[result] = how.axes
    return Plan(net, found, travels, axes, on)
