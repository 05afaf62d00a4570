"""Backend `halo` of pools: charts with margins, then torch's own pools without padding.

Where no pixel is, a maximum finds minus infinity. An average divides by its whole window, which is
what torch does where nothing is cut off; other divisors take the edges.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from convgraph.backends.halo import chart_margins
from convgraph.backends.halo import conv as halo
from convgraph.backends.problem import Problem, kernel_of
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges

NAME, work = halo.NAME, halo.work


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = chart_margins.refuses(problem)
    if refusal is not None:
        return refusal
    edges: Any = problem.edges
    g = edges.relation
    if not isinstance(g, KernelGeometry):
        return "windows of a given output size are no kernel's"
    if g.footprint is not None:
        return "torch's pools know whole windows, this one has a footprint"
    if not all(edges.space.closed):
        return "along an axis with a border windows are cut off, and divisors differ"
    return None


def maximum(x: Tensor, edges: Edges) -> Tensor:
    """Return (P, C) maxima."""
    g = kernel_of(edges)
    wide = halo.spread_with(x, edges, float("-inf"))
    return halo.as_rows(F.max_pool2d(wide, g.kernel_size, g.stride, 0, g.dilation), edges)


def average(x: Tensor, edges: Edges, divisor: int | None) -> Tensor:
    """Return (P, C): sums of windows over `divisor`, or over the whole window."""
    g = kernel_of(edges)
    wide = halo.spread_with(x, edges, 0.0)
    return halo.as_rows(
        F.avg_pool2d(wide, g.kernel_size, g.stride, divisor_override=divisor), edges
    )
