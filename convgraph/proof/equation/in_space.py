"""Operators of a plan in a space: their edges, written from the judge's own geometry of spaces.

    (hearer, tap, speaker, weight)        cells of one image, weights in units of 1 / 2^24

Kernels are what `spaces.heard` says of each tap, turned round where they are transposed; a resize
reads its chart with a margin. A hexagonal grid is the plane without some of its taps.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from convgraph.errors import ProofError
from convgraph.proof.equation import spaces

FRACTIONS = 2**8
ONE = spaces.ONE * FRACTIONS
"""A weight of one: those of a resize are finer than those of a tap."""

Edges = Any
"""(E, 4) int64: hearer, tap, speaker, weight."""


@dataclass(frozen=True)
class Operator:
    """What a plan says that it computes.

    Attributes:
        title: for people.
        name: torch's name, "conv2d"; "" of one that treats every pixel by itself.
        arguments: as torch names them; `kernel` is the window of a convolution.
        sources: numbers of the maps that it reads.
        result: number of what it makes.
        size: of the map that it reads (pixels).
        out: size of what it makes.
    """

    title: str
    name: str
    arguments: Mapping[str, Any]
    sources: tuple[int, ...]
    result: int
    size: tuple[int, ...]
    out: tuple[int, ...]


def edges(operator: Operator, cells: Any) -> Edges:
    """Return the edges of an operator by its definition.

    Args:
        operator: its arguments name the space, and the sizes of both arrays.
        cells: that hear.

    Raises:
        ProofError: an operator that is not described here.
    """
    key = json.dumps([operator.name, operator.arguments], sort_keys=True)
    if key not in _kept:
        if sum(map(len, _kept.values())) > MOST:
            _kept.clear()
        _kept[key] = _whole(operator)
    found = _kept[key]
    return found[np.isin(found[:, 0], cells)]


MOST = 2**22
"""Edges that are kept from one part to the next."""

_kept: dict[str, Edges] = {}


def _whole(operator: Operator) -> Edges:
    """All edges of one image."""
    a, name = operator.arguments, operator.name
    size, out = tuple(a["array"]), tuple(a["array_out"])
    if name.startswith("upsample"):
        found = _resized(operator, size, out)
    elif name.startswith(("conv", "max_pool", "avg_pool")):
        found = _kernel(a, name, size, out)
    else:
        raise ProofError(f"judge_plan: the judge has no definition of {operator.title} in a space")
    return in_order(*(one[found[3] > 0] for one in found))


def in_order(hearer: Any, tap: Any, speaker: Any, weight: Any) -> Edges:
    """Return edges in the order of hearer, tap and speaker; parallel ones are one."""
    order = np.lexsort((speaker, tap, hearer))
    found = np.stack([hearer[order], tap[order], speaker[order], weight[order]], 1)
    if not len(found):
        return found.astype(np.int64)
    starts = np.flatnonzero(np.append(True, (np.diff(found[:, :3], axis=0) != 0).any(1)))
    return np.column_stack([found[starts, :3], np.add.reduceat(found[:, 3], starts)])


def _kernel(a: Mapping[str, Any], name: str, size: Any, out: Any) -> list[Any]:
    def both(key: str, default: Any) -> tuple[int, int]:
        value = a.get(key) or default
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        return int(values[0]), int(values[-1])

    kernel = both("kernel", both("kernel_size", 1))
    gap, pads = both("dilation", 1), (0, 0)
    if a.get("padding") == "same":
        pads = gap[0] * (kernel[0] - 1) // 2, gap[1] * (kernel[1] - 1) // 2
    elif a.get("padding") != "valid":
        pads = both("padding", 0)
    described = {
        "kernel_size": kernel, "stride": both("stride", kernel if "pool" in name else 1),
        "dilation": gap, "padding": tuple((p, p) for p in pads), "padding_mode": "zeros",
    }  # fmt: skip
    turned = name.startswith("conv_transpose")
    one, two = (out, size) if turned else (size, out)
    space, found = a["space"], _Found()
    if not spaces.bends(space):
        return _hexagons(space, one, two, described, turned)
    for tap, (sources, weights) in enumerate(spaces.heard(space, one, two, described)):
        p, k = np.nonzero(sources >= 0)
        found.add(p, tap, sources[p, k], weights[p, k] * FRACTIONS, turned)
    return found.all()


class _Found:
    """Edges, tap by tap."""

    def __init__(self) -> None:
        self.parts: list[tuple[Any, Any, Any, Any]] = []

    def add(self, hearer: Any, tap: int, speaker: Any, weight: Any, turned: bool) -> None:
        """Add those of a tap; turned, who hears speaks."""
        ends = (speaker, hearer) if turned else (hearer, speaker)
        whole = np.rint(weight).astype(np.int64)
        self.parts.append((ends[0], np.full_like(ends[0], tap), ends[1], whole))

    def all(self) -> list[Any]:
        """Return hearers, taps, speakers and weights."""
        return [np.concatenate(one) for one in zip(*self.parts, strict=True)]


def _hexagons(space: Any, size: Any, out: Any, a: Any, turned: bool) -> list[Any]:
    """A square kernel without the corners that a hexagon has not."""
    there, found = spaces.footprint(space, a["kernel_size"]), _Found()
    p = np.arange(out[0] * out[1])
    for tap, offset in enumerate(np.ndindex(*a["kernel_size"])):
        if there is not None and not there[tap]:
            continue
        r, c = (
            at * s - pad[0] + t * gap
            for at, s, pad, t, gap in zip(
                np.divmod(p, out[1]), a["stride"], a["padding"], offset, a["dilation"], strict=True
            )
        )
        inside = (r >= 0) & (r < size[0]) & (c >= 0) & (c < size[1])
        q = (r * size[1] + c)[inside]
        found.add(p[inside], tap, q, np.full_like(q, ONE), turned)
    return found.all()


def _resized(operator: Operator, size: Any, out: Any) -> list[Any]:
    """A resize reads its chart with a margin of a pixel."""
    space, name = operator.arguments["space"], operator.name
    bent = spaces.bends(space)
    charts = 12 if space["kind"] == "healpix" else 1
    before, after = (size[0] // charts, size[1]), (out[0] // charts, out[1])
    reach: list[list[Any]] = []
    for n, m in zip(before, after, strict=True):
        twice = (2 * np.arange(m) + 1) * n - m  # r = twice / (2 m), half a pixel before
        low = twice // (2 * m)
        t = (twice - low * 2 * m) / (2 * m)
        if "nearest" in name:
            half = int("exact" in name)
            reach.append([((2 * np.arange(m) + half) * n // (2 * m), np.ones(m))])
        elif "bilinear" in name and bent:
            reach.append([(low, 1 - t), (low + 1, t)])
        else:
            raise ProofError(
                f"judge_plan: the judge has no definition of {operator.title} in a space"
            )
    if bent:
        cells, loud = spaces.beyond(space, size, 1)
    else:
        cells = np.pad(np.arange(size[0] * size[1]).reshape(size), 1, constant_values=-1)
        cells, loud = cells[None, :, :, None], np.full((1, *cells.shape, 1), spaces.ONE)
    chart, found = np.arange(charts)[:, None, None], _Found()
    for tap, ((r, high), (c, wide)) in enumerate(product(*reach)):
        place = (chart, r[None, :, None] + 1, c[None, None, :] + 1)
        speaker = cells[place]
        weight = loud[place] * (high[:, None] * wide)[None, :, :, None] * FRACTIONS
        hearer = np.arange(out[0] * out[1]).reshape(charts, *after, 1)
        good = (speaker >= 0) & (weight > 0)
        hearer = np.broadcast_to(hearer, speaker.shape)
        found.add(hearer[good], tap, speaker[good], weight[good], False)
    return found.all()
