"""Faults of the edge list: who talks to whom. Each candidate walks the edges that it shows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.proof import ConvSpec, Oracle
from tests.proof.faults.operators import CIRCULAR, MASKED, PLAIN, REFLECT, REPLICATE, STRIDED

Lists = tuple[Any, Any, Any]
"""Flat sources, flat targets, taps."""


def walk(spec: ConvSpec, lists: Lists) -> Callable[..., Tensor]:
    """Return the convolution along typed edges; behind the last pixel lies the first, not zeros."""
    source, target, tap = (torch.from_numpy(np.asarray(array)) for array in lists)
    oracle = Oracle(spec)
    there = torch.from_numpy(oracle.targets).unsqueeze(1)

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        rows = x.movedim(1, -1).flatten(0, -2)
        rows = torch.cat([rows, rows[:1]])
        y = torch.where(there, b.expand(len(there), -1), 0)
        for t, matrix in enumerate(w.flatten(2).unbind(2)):
            along = tap == t
            y = y.index_add(0, target[along], rows[source[along]] @ matrix.T)
        return y.view(spec.batch, *oracle.out_size, -1).movedim(-1, 1)

    return run


def _but(keep: Callable[..., Any]) -> Callable[..., Lists]:
    def change(q: Any, p: Any, t: Any) -> Lists:
        chosen = keep(q, p, t)
        return q[chosen], p[chosen], t[chosen]

    return change


def _once(q: Any, p: Any, t: Any) -> Any:
    return np.unique(p * 84 + q, return_index=True)[1]


def _doubled(q: Any, p: Any, t: Any) -> Lists:
    return tuple(np.append(a, a[3]) for a in (q, p, t))


def _outside(q: Any, p: Any, t: Any) -> Lists:
    return np.append(q, 84), np.append(p, 0), np.append(t, 0)


def _all_pixels(q: Any, p: Any, t: Any) -> Lists:
    full = Oracle(PLAIN).edges
    keep = np.isin(full.target, p)
    return full.source[keep], full.target[keep], full.tap[keep]


def _of(spec: ConvSpec) -> Callable[..., Lists]:
    edges = Oracle(spec).edges
    return lambda q, p, t: (edges.source, edges.target, edges.tap)


FAULTS: dict[str, tuple[ConvSpec, Callable[..., Lists]]] = {
    "source and target are swapped": (PLAIN, lambda q, p, t: (p, q, t)),
    "an edge is missing": (PLAIN, lambda q, p, t: (q[1:], p[1:], t[1:])),
    "an edge is there twice": (PLAIN, _doubled),
    "taps are numbered backwards": (PLAIN, lambda q, p, t: (q, p, t.max() - t)),
    "taps run along the columns first": (PLAIN, lambda q, p, t: (q, p, t % 3 * 3 + t // 3)),
    "an edge points outside": (PLAIN, _outside),
    "all edges are self-loops": (PLAIN, lambda q, p, t: (p, p, t)),
    "images are mixed up": (PLAIN, lambda q, p, t: ((q + 42) % 84, p, t)),
    "the second image has no edges": (PLAIN, _but(lambda q, p, t: p < 42)),
    "the second image listens to the first": (PLAIN, lambda q, p, t: (q % 42, p, t)),
    "no message arrives at the last row": (PLAIN, _but(lambda q, p, t: p % 42 < 35)),
    "self-loops are removed": (PLAIN, _but(lambda q, p, t: q != p)),
    "all taps are one type": (PLAIN, lambda q, p, t: (q, p, 0 * t)),
    "one edge has the next tap's type": (
        PLAIN,
        lambda q, p, t: (q, p, np.where(np.arange(len(t)) == 40, t + 1, t)),
    ),
    "edges wrap around the width": (PLAIN, _of(CIRCULAR)),
    "parallel edges are merged": (REFLECT, _but(_once)),
    "parallel edges of replicate are merged": (REPLICATE, _but(_once)),
    "folded edges are left out": (REFLECT, _of(PLAIN)),
    "folds repeat the border": (REFLECT, _of(REPLICATE)),
    "strided targets are one site late": (
        STRIDED,
        lambda q, p, t: (q, (p + 1) % (p.max() + 1), t),
    ),
    "absent pixels send": (MASKED, _all_pixels),
    "no edge between images' borders but one": (
        PLAIN,
        lambda q, p, t: (np.append(q, 41), np.append(p, 42), np.append(t, 0)),
    ),
}  # fmt: skip
"""Name -> the operator, and how its right edges are spoilt."""
