"""Passes: what hears the whole map, as sums over its tiles, each in a pass of its own.

    mean = sum over tiles of sums / n,      variance = Chan's sum of (n, mean, squares)

A pass runs the network up to the map that is summed, tile by tile, and keeps a few numbers a
channel. The next pass starts from the image again and knows them: memory stays a tile's, work
grows. Maps that are kept in between cost disk instead. What hears a map in ways of its own, as
attention does, has it put together, if it has few pixels.
"""

from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.scale.plan import Plan
from convgraph.scale.recording import RecordedCall, State

Sums = tuple[int, Tensor, Tensor]
"""(entries, mean, sum of squared distances from it), in float64, (B, channels or groups)."""


@dataclass(frozen=True)
class Pass:
    """One operator that needs sums over a map, or all of it.

    Attributes:
        step: the operator.
        source: the map that is summed.
        key: under which the values that are known hold what it gives: the result's number, "sums"
            and it, or "map" and the source's number.
    """

    step: RecordedCall
    source: int
    key: Any


def passes(plan: Plan) -> list[Pass]:
    """Return what has to be summed, in order."""
    found: dict[Any, Pass] = {}
    for step, how in plan.steps:
        sources = [s for s in step.sources if plan.axes[s] is not None]
        if how.how == "sum":
            result = step.results[0]
            key: Any = result if how.axes is None else ("sums", result)
            found[key] = Pass(step, sources[0], key)
        elif how.how == "few":
            found |= {("map", s): Pass(step, s, ("map", s)) for s in sources}
    return list(found.values())


def groups(step: RecordedCall, y: Tensor) -> int:
    """How many statistics a norm has of a map (B, C, *size)."""
    if (over := step.args.get("normalized_shape")) is not None:
        return 1 if len(over) == y.dim() - 1 else y.shape[1]
    return int(step.args.get("num_groups", y.shape[1]))


def sums(one: Pass, y: Tensor) -> Sums:
    """Return the sums of a tile (B, C, *tile), by channels or by the operator's groups."""
    rows = y.double().reshape(y.shape[0], groups(one.step, y), -1)
    mean = rows.mean(2) if isinstance(one.key, tuple) else rows.sum(2)
    squares = (rows - mean[..., None]).square().sum(2) if isinstance(one.key, tuple) else mean * 0
    return rows.shape[2], mean, squares


def is_map(one: Pass) -> bool:
    """Whether a pass puts the map itself together."""
    return isinstance(one.key, tuple) and one.key[0] == "map"


def summary(one: Pass, y: Tensor) -> Any:
    """Return what a tile of the map gives to a pass: its sums, or itself."""
    return y if is_map(one) else sums(one, y)


def together(one: Pass, parts: list[Sums]) -> Any:
    """Return what is known of the whole map from the sums of its tiles.

    Returns:
        The readout itself, in float64, (B, C); or mean and variance of the groups of a norm.
    """
    if not isinstance(one.key, tuple):
        return sum(part[1] for part in parts) / sum(part[0] for part in parts)

    def both(a: Sums, b: Sums) -> Sums:
        n = a[0] + b[0]
        apart = b[1] - a[1]
        return n, a[1] + apart * (b[0] / n), a[2] + b[2] + apart.square() * (a[0] * b[0] / n)

    n, mean, squares = reduce(both, parts)
    return mean, squares / n


def readout(plan: Plan, one: Pass, known: Any) -> Tensor:
    """Return a readout as the operator would have made it: its shape and its dtype."""
    result = one.step.results[0]
    found: Tensor = known.reshape(plan.recording.shapes[result])
    return found.to(plan.recording.dtypes[result])


def normed(
    step: RecordedCall, x: Tensor, known: Any, state: Any, out: Any, *, flat: bool = False
) -> Tensor:
    """Return a norm's part, at positions, from the mean and the variance of the whole map.

    Args:
        step: the norm.
        x: the part, (B, C, *positions).
        known: mean and variance of its groups.
        state: the network's parameters.
        out: positions of the part.
        flat: whether they are cells of a space.
    """
    mean, variance = known
    each = x.shape[1] // mean.shape[1]
    shape = (x.shape[0], x.shape[1], *(1,) * (x.dim() - 2))
    centre, spread = (
        one.repeat_interleave(each, 1).view(shape)
        for one in (mean, (variance + step.args["eps"]).rsqrt())
    )
    y: Tensor = (x.double() - centre) * spread
    for name, apply in (("weight", torch.mul), ("bias", torch.add)):
        if isinstance(step.args[name], State):
            y = apply(y, _affine(step, state[step.args[name].name], x, out, flat))
    return y.to(x.dtype)


def _affine(step: RecordedCall, weight: Tensor, x: Tensor, out: Any, flat: bool) -> Tensor:
    """A norm's weight as it lies on a part: one a channel, or of a layer norm one a pixel."""
    if "normalized_shape" not in step.args:
        return weight.view(1, -1, *(1,) * (x.dim() - 2))
    weight = weight.flatten(-2).unsqueeze(-1) if flat else weight
    for axis, positions in enumerate(out):
        dim = axis - len(out)
        weight = weight.index_select(dim, torch.from_numpy(positions).to(weight.device))
    return weight


def times(plan: Plan, *, kept: bool = False) -> float:
    """Return multiply-adds with all passes over those of one run of the whole network.

    Args:
        plan: of the network.
        kept: whether maps are kept between passes.
    """
    whole = _work(plan, plan.out, set())
    done, held = 0, set[int]()
    for one in passes(plan):
        done += _work(plan, one.source, held)
        if kept and keepable(plan, one.source):
            held.add(one.source)
    return (done + _work(plan, plan.out, held)) / max(whole, 1)


def keepable(plan: Plan, value: int) -> bool:
    """Whether a map can be kept in zarr: (B, C, *size), and not the image itself."""
    axes = plan.axes[value] or ()
    return value != 0 and plan.lies_last(value) and bool(axes)


def _work(plan: Plan, target: int, held: set[int]) -> int:
    """Multiply-adds of all convolutions in front of a value, on the whole image."""
    needed, total = {target}, 0
    for step, how in reversed(plan.steps):
        if needed.isdisjoint(step.results) or not held.isdisjoint(step.results):
            continue
        needed.update(step.sources)
        if how.how == "edges" and "weight" in step.args:
            value = step.sources[0] if "transpose" in step.operator else step.results[0]
            total += prod(plan.size(value)) * prod(plan.recording.states[step.args["weight"].name])
    return total
