"""Backend `dense` of pools: a full grid is an image, so torch's own pools compute it."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from convgraph.backends.dense import conv as dense
from convgraph.backends.problem import Problem
from convgraph.backends.rows import HALF, as_image, as_rows
from convgraph.geometry.kernel import KernelGeometry
from convgraph.geometry.window import WindowGeometry
from convgraph.graph.edges import Edges

NAME = dense.NAME

work = dense.work

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_MAX: dict[int, Any] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
_ADAPTIVE_AVG: dict[int, Any] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = dense.refuses(problem)
    if refusal is not None:
        return refusal
    if problem.edges.num_targets == 0 or problem.in_channels == 0:
        return "torch's pools refuse images without pixels or channels"
    edges = problem.edges
    if not isinstance(edges, Edges):
        return None
    refusal = dense.window_refuses(edges.relation)
    if refusal is None and not edges.all_hear:  # only dilated, padded windows miss it
        return "no message arrives in some windows: torch answers -inf there, a graph 0"
    return refusal


def maximum(x: Tensor, edges: Edges, *, indices: bool) -> tuple[Tensor, Tensor | None]:
    """Return (P, C) maxima and, if asked for, (P, C) indices into the image plane."""
    image, relation = as_image(x, edges), edges.relation
    if isinstance(relation, WindowGeometry):
        size = relation.output_size(tuple(image.shape[2:]))
        found = _ADAPTIVE_MAX[relation.d](image, _loose(size), return_indices=indices)
    else:
        g = _kernel(relation)
        found = _MAX[g.d](
            image, g.kernel_size, g.stride, _pads(g), g.dilation, g.ceil_mode, indices
        )
    if indices:
        return as_rows(found[0]), as_rows(found[1])
    return as_rows(found), None


def average(
    x: Tensor, edges: Edges, *, count_include_pad: bool, divisor_override: int | None
) -> Tensor:
    """Return (P, C) averages."""
    image, relation = as_image(x, edges), edges.relation
    if isinstance(relation, WindowGeometry):
        size = relation.output_size(tuple(image.shape[2:]))
        return as_rows(_ADAPTIVE_AVG[relation.d](image, _loose(size)))
    g = _kernel(relation)
    extra = () if g.d == 1 else (divisor_override,)
    own = image.dtype
    if g.d == 3 and own in HALF and image.device.type == "cpu":  # torch's own has none of these
        image = image.float()
    more = (g.kernel_size, g.stride, _pads(g), g.ceil_mode, count_include_pad, *extra)
    return as_rows(_AVG[g.d](image, *more).to(own))


def _kernel(relation: Any) -> KernelGeometry:
    if not isinstance(relation, KernelGeometry):
        raise TypeError(f"a pool needs a KernelGeometry, got {type(relation).__name__}")
    return relation


def _pads(g: KernelGeometry) -> tuple[int, ...]:
    return tuple(before for before, _ in g.padding)


def _loose(size: tuple[int, ...]) -> Any:
    return size[0] if len(size) == 1 else size
