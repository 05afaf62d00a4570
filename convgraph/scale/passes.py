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

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import GraphError
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
        axes: dimensions of the map that are the image's.
    """

    step: RecordedCall
    source: int
    key: Any
    axes: tuple[int, ...]


def passes(plan: Plan) -> list[Pass]:
    """Return what has to be summed, in order."""
    found: dict[Any, Pass] = {}
    for step, how in plan.steps:
        sources = [s for s in step.sources if plan.axes[s] is not None]
        if how.how == "sum":
            result = step.results[0]
            key: Any = result if how.axes is None else ("sums", result)
            found[key] = Pass(step, sources[0], key, plan.axes[sources[0]] or ())
        elif how.how == "few":
            found |= {("map", s): Pass(step, s, ("map", s), plan.axes[s] or ()) for s in sources}
    return list(found.values())


def check_statistics(statistics: Any, who: str) -> None:
    """Refuse another word than "tiles" or "passes".

    Raises:
        GraphError: with both.
    """
    if statistics not in ("tiles", "passes"):
        raise GraphError(f"{who}: expected statistics='tiles' or 'passes', got {statistics!r}")


def groups(step: RecordedCall, y: Tensor) -> int:
    """How many statistics a norm has of a map (B, C, *size)."""
    if (over := step.args.get("normalized_shape")) is not None:
        return 1 if len(over) == y.dim() - 1 else y.shape[1]
    return int(step.args.get("num_groups", y.shape[1]))


def pixels(y: Tensor, axes: tuple[int, ...], here: Any = None) -> Tensor:
    """Return the pixels of a map's part that are there, (*others, P).

    Args:
        y: the part.
        axes: dimensions of it that are the image's.
        here: bools, one for each position; None for all.
    """
    d = len(axes)
    rows = y.movedim(axes, tuple(range(-d, 0))).flatten(-d)
    if here is None or here.all():
        return rows
    return rows.index_select(-1, torch.from_numpy(np.flatnonzero(here)).to(y.device))


def entries(one: Pass, y: Tensor, here: Any = None) -> Tensor:
    """Return what a pass takes its sums of, in float64: (*others, P), or (B, groups, P) of a norm.

    Args:
        one: the pass.
        y: a part of its map.
        here: which pixels of it are there; None for all.
    """
    rows = pixels(y, one.axes, here).double()
    if not isinstance(one.key, tuple):
        return rows
    count = groups(one.step, y)
    return rows.reshape(len(rows), count, rows.shape[1] // count * rows.shape[2])


def sums(one: Pass, y: Tensor, here: Any = None) -> Sums:
    """Return the sums of a tile; see `entries`."""
    rows = entries(one, y, here)
    n, total = rows.shape[-1], rows.sum(-1)
    if not isinstance(one.key, tuple):
        return n, total, total * 0
    mean = total / max(1, n)
    return n, mean, (rows - mean[..., None]).square().sum(-1)


def is_map(one: Pass) -> bool:
    """Whether a pass puts the map itself together."""
    return isinstance(one.key, tuple) and one.key[0] == "map"


def summary(one: Pass, y: Tensor, here: Any = None) -> Any:
    """Return what a tile of the map gives to a pass: its sums, or itself."""
    return y if is_map(one) else sums(one, y, here)


def together(one: Pass, parts: list[Sums]) -> Any:
    """Return what is known of the whole map from the sums of its tiles.

    Returns:
        The readout itself, in float64, (*others); or mean and variance of the groups of a norm.
        Of no entry at all they are 0.
    """
    if not isinstance(one.key, tuple):
        return sum(part[1] for part in parts) / max(1, sum(part[0] for part in parts))

    def both(a: Sums, b: Sums) -> Sums:
        n = a[0] + b[0]
        apart = b[1] - a[1]
        over = max(1, n)
        return n, a[1] + apart * (b[0] / over), a[2] + b[2] + apart.square() * (a[0] * b[0] / over)

    n, mean, squares = reduce(both, parts)
    return mean, squares / max(1, n)


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
