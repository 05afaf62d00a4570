"""Backend `halo` of resizes: charts with margins, torch's interpolation, margins cut off again.

Only where torch places and weighs as the edges do, bit for bit: whole factors for the nearest
modes, powers of two for the others.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from convgraph.backends.halo import chart_margins
from convgraph.backends.halo import conv as halo
from convgraph.backends.halo.chart_margins import Margins
from convgraph.backends.problem import Problem
from convgraph.geometry.resize import NEAREST, ResizeGeometry
from convgraph.graph.edges import Edges

NAME = chart_margins.NAME

MARGIN = {"bilinear": 1, "bicubic": 2}
"""Pixels that a mode looks beyond a chart when it enlarges."""


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = chart_margins.refuses(problem)
    if refusal is not None:
        return refusal
    edges: Any = problem.edges
    relation = edges.relation
    if not isinstance(relation, ResizeGeometry):
        return "these edges are no resize"
    up, down = factors(edges)
    even = up is not None and up[0] == up[1]
    if even and (relation.mode == "nearest" or (relation.mode in MARGIN and _power(up[0]))):  # type: ignore[index]
        if problem.device.type == "cuda" and relation.mode not in NEAREST:
            return "on CUDA torch adds the gradients of its interpolation in no fixed order"
        return None
    if relation.mode == "nearest" and down is not None:
        return None
    return "torch places or weighs pixels otherwise for this factor"


def factors(edges: Edges) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Whole factors by which the array grows along both axes, and by which it shrinks, or None."""
    size, out = edges.source.size or (1, 1), edges.target.size or (1, 1)
    grows = all(m % n == 0 for n, m in zip(size, out, strict=True))
    shrinks = all(n % m == 0 for n, m in zip(size, out, strict=True))
    return (
        (out[0] // size[0], out[1] // size[1]) if grows else None,
        (size[0] // out[0], size[1] // out[1]) if shrinks else None,
    )


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved."""
    edges = problem.edges
    moved = 3 * edges.num_sources * problem.in_channels + edges.num_targets * problem.out_channels
    return float(edges.num_targets * edges.num_taps * problem.out_channels), float(moved)


def resize(x: Tensor, edges: Edges) -> Tensor:
    """Return y (num_targets, C) by torch's own operator."""
    relation: Any = edges.relation
    up, down = factors(edges)
    lay = edges.memo_of(_margins)
    image = chart_margins.spread(x, lay)
    if up is None or down is not None:  # nearest, towards fewer pixels or to the same
        steps = down or (1, 1)
        return halo.as_rows(image[:, :, :: steps[0], :: steps[1]], edges)
    corners = None if relation.mode in NEAREST else False
    size = [n * factor for n, factor in zip(lay.wide, up, strict=True)]
    large = F.interpolate(image, size=size, mode=relation.mode, align_corners=corners)
    top, left = (n * factor for n, factor in zip(lay.start, up, strict=True))
    tall, wide = (n * factor for n, factor in zip(lay.size, up, strict=True))
    return halo.as_rows(large[:, :, top : top + tall, left : left + wide], edges)


def _margins(edges: Edges) -> Margins:
    relation: Any = edges.relation
    margin = MARGIN.get(relation.mode, 0) if edges.source.size != edges.target.size else 0
    return chart_margins.margins(edges.source, ((margin, margin),) * 2, "replicate")


def _power(factor: int) -> bool:
    return factor & (factor - 1) == 0
