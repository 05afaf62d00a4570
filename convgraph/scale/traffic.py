"""The traffic model: what an image over so many workers sends, computes and holds, from tables.

    sent = sum over layers and axes of the positions that others own, times what lies beside them

The bytes are those of `cg.sharded`, to the byte; no link and no clock is assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, final

import numpy as np
import torch

from convgraph.errors import GeometryError
from convgraph.scale.plan import Plan
from convgraph.scale.positions import Positions, need
from convgraph.scale.sharded import at_home, cut_at, ends_of, sends
from convgraph.scale.travel_rules import weight_shape


@final
@dataclass(frozen=True)
class Traffic:
    """What the workers of one image do in one forward run.

    Attributes:
        workers: along each axis that is cut.
        sent: bytes that the busiest worker sends to others; backward sends as much again.
        messages: exchanges, in which every worker of an axis takes part.
        work: multiply-adds of the worker that has most.
        share: of it in the multiply-adds of all, times the workers: 1 where loads are equal.
        held: bytes of all maps that the largest worker makes, what training keeps.
    """

    workers: tuple[int, ...]
    sent: int
    messages: int
    work: int
    share: float
    held: int

    def __str__(self) -> str:
        """Return a line."""
        return (
            f"{' x '.join(map(str, self.workers))} workers: each sends at most "
            f"{self.sent / 2**20:.1f} MiB in {self.messages} exchanges, computes "
            f"{self.work / 1e9:.1f} G multiply-adds (load {self.share:.2f}), makes "
            f"{self.held / 2**30:.2f} GiB of maps"
        )


def traffic(plan: Plan, workers: Sequence[int], shares: Any = None) -> Traffic:
    """Return what a plan costs over workers, forward.

    Args:
        plan: of the network at the image's size.
        workers: along each axis of the image that is cut, as the axes of the mesh.
        shares: as in `cg.sharded`.

    Raises:
        GeometryError: no such workers.

    Example:
        >>> from torch import nn
        >>> from convgraph.scale.plan import plan
        >>> found = traffic(plan(nn.Conv2d(1, 1, 3, padding=1), (1, 1, 64, 64)), (2,))
        >>> found.sent, found.messages  # one row of 64 numbers of four bytes
        (256, 1)
    """
    if plan.space is not None:
        raise GeometryError(f"traffic: expected a plan in the plane, got one on {plan.space}")
    counts = tuple(workers)
    good = 1 <= len(counts) <= min(2, len(plan.image_size))
    if not good or any(not isinstance(n, (int, np.integer)) or n < 1 for n in counts):
        raise GeometryError(
            f"traffic: expected workers as one or two counts, an axis of the image each, got "
            f"{workers!r}"
        )
    ends = ends_of(shares, list(counts))
    ranks = list(product(*map(range, counts)))
    sent, work, held = (np.zeros(len(ranks)) for _ in range(3))
    messages = 0
    for step, how in plan.steps:
        if how.axes is None:
            continue
        result = step.results[0]
        size = plan.size(result)
        beside, width = _beside(plan, result)
        for k, rank in enumerate(ranks):
            own = prod(len(_own(ends, a, n, rank)) for a, n in enumerate(size))
            held[k] += own * beside * width
            if how.how == "edges" and "weight" in step.args:
                macs = prod(weight_shape(step, plan.recording))
                if step.operator.startswith("conv_transpose"):
                    of = plan.size(step.sources[0])
                    own = prod(len(_own(ends, a, n, rank)) for a, n in enumerate(of))
                work[k] += own * macs
        if how.how == "edges":
            moved, calls = _moved(plan, step, how, ends, ranks)
            sent += moved
            messages += calls
    return Traffic(
        counts, int(sent.max()), messages, int(work.max()),
        float(work.max() * len(ranks) / max(work.sum(), 1)), int(held.max()),
    )  # fmt: skip


def _beside(plan: Plan, value: int) -> tuple[int, int]:
    """Entries of a map at one position, and bytes of one."""
    axes = plan.axes[value] or ()
    shape = plan.recording.shapes[value]
    other = prod(n for k, n in enumerate(shape) if k - len(shape) not in axes)
    return other, torch.empty((), dtype=plan.recording.dtypes[value]).element_size()


def _own(ends: Any, axis: int, n: int, rank: Sequence[int]) -> Positions:
    """Positions of an axis that are a rank's."""
    if axis >= len(ends):
        return np.arange(n)
    cut = cut_at(ends[axis], n)
    return np.arange(cut[rank[axis]], cut[rank[axis] + 1])


def _moved(plan: Plan, step: Any, how: Any, ends: Any, ranks: Any) -> tuple[Any, int]:
    """Bytes that each rank sends to others for an operator, and how many exchanges that takes."""
    source = next(s for s in step.sources if plan.axes[s] is not None)
    size, to = plan.size(source), plan.size(step.results[0])
    beside, width = _beside(plan, source)
    along = [{r: len(_own(ends, a, n, r)) for r in ranks} for a, n in enumerate(size)]
    found, calls = np.zeros(len(ranks)), 0
    for axis in range(len(ends)):
        count = len(ends[axis]) - 1
        cut = cut_at(ends[axis], size[axis])
        line = [tuple(q if a == axis else 0 for a in range(len(ends))) for q in range(count)]
        wants = [need(how.relation, axis, size[axis], _own(ends, axis, to[axis], r)) for r in line]
        if at_home(cut, wants):
            continue
        calls += 1
        for k, rank in enumerate(ranks):
            away = [len(p) for q, p in enumerate(sends(cut, wants, rank[axis])) if q != rank[axis]]
            others = prod(along[a][rank] for a in range(len(size)) if a != axis)
            found[k] += sum(away) * others * beside * width
        for rank in ranks:
            along[axis][rank] = len(wants[rank[axis]])
    return found, calls
