"""Backend `dense` of a resize: a full grid is an image, so torch's own interpolation computes it.

    y = F.interpolate(x as image)            d y / d x, on CUDA:  the transposed sums, axis by axis

On CUDA torch adds the gradients of the weighted modes with atomics, so that they differ from run to
run; there the backward is computed here, without races.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.backends.compiled import linear, operators
from convgraph.backends.dense import conv as dense
from convgraph.backends.problem import Problem
from convgraph.backends.rows import as_image, as_rows
from convgraph.geometry.resize import NEAREST, ResizeGeometry
from convgraph.graph.edges import Edges

NAME = dense.NAME

Passes = tuple[tuple[tuple[Tensor, Tensor, Tensor], ...], ...]
"""Per axis, passes of (source, output, weight): within a pass no source appears twice."""

work = dense.work


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = dense.refuses(problem)
    if refusal is not None:
        return refusal
    edges = problem.edges
    if not isinstance(edges, Edges) or not isinstance(edges.relation, ResizeGeometry):
        return "these edges are no resize"
    if problem.in_channels == 0:
        return "torch's interpolation refuses images without channels"
    double = problem.dtype == torch.float64
    if not edges.memo_of(_settled_in_double if double else _settled_in_single):
        return (
            "torch's own kernels disagree on the source pixels for this size and scale; "
            "the edges follow the rule of ATen's nearest_idx"
        )
    return None


def resize(
    x: Tensor,  # (N, C)
    edges: Edges,
) -> Tensor:
    """Return y (num_targets, C) by torch's own operator."""
    relation = edges.relation
    if not isinstance(relation, ResizeGeometry):
        raise TypeError(f"a resize needs a ResizeGeometry, got {type(relation).__name__}")
    image = as_image(x, edges)
    if x.device.type == "cuda" and relation.mode not in NEAREST and x.requires_grad:
        return as_rows(repeatable(image, edges))
    return as_rows(_interpolate(image, relation))


def repeatable(image: Tensor, edges: Edges) -> Tensor:
    """Interpolate (B, C, *size) so that the gradients repeat bit for bit, to any order."""
    passes = edges.memo_of(_passes)
    flat = [part for axis in passes for one in axis for part in one]
    return _resize(image, edges.relation, *image.shape[2:], *map(len, passes), *flat)


def _settled_in_double(edges: Edges) -> bool:
    """Whether torch's kernels agree on the sources when they reckon in float64."""
    relation: Any = edges.relation
    return bool(relation.settled(edges.source.size or (), double=True))


def _settled_in_single(edges: Edges) -> bool:
    """Whether torch's kernels agree on the sources when they reckon in float32."""
    relation: Any = edges.relation
    return bool(relation.settled(edges.source.size or (), double=False))


def _interpolate(image: Tensor, relation: ResizeGeometry) -> Tensor:
    out: Tensor = F.interpolate(
        image,
        size=relation.size,
        scale_factor=relation.scale_factor,
        mode=relation.mode,
        align_corners=None if relation.mode in NEAREST else relation.align_corners,
        recompute_scale_factor=relation.recompute_scale_factor or None,
    )
    return out


def _passes(edges: Edges) -> Passes:
    """Sort each axis' table by source and deal it out, one output per source and pass."""
    found = []
    for axis, n in enumerate(edges.source.size or ()):
        table = edges.relation.axis_sources(axis, n)
        weight = edges.relation.axis_weights(axis, n)
        out, tap = np.nonzero(table >= 0)
        source = table[out, tap]
        order = np.argsort(source, kind="stable")
        source, out, tap = source[order], out[order], tap[order]
        # The how-many-th of its source each entry is: its distance from the source's first entry.
        turn = np.arange(len(source)) - np.searchsorted(source, source)
        axis_passes = []
        for number in range(int(turn.max(initial=-1)) + 1):
            mine = turn == number
            w = np.ones(mine.sum()) if weight is None else weight[out[mine], tap[mine]]
            device = edges.source.device
            axis_passes.append(
                (
                    torch.from_numpy(source[mine]).to(device),
                    torch.from_numpy(out[mine]).to(device),
                    torch.from_numpy(w).to(device),
                )
            )
        found.append(tuple(axis_passes))
    return tuple(found)


def _spread_axis(g: Tensor, axis: int, size: int, passes: tuple[Any, ...]) -> Tensor:
    """total[source] += weight * g[output] along one axis; in a pass no two additions meet."""
    total = g.new_zeros([*g.shape[:axis], size, *g.shape[axis + 1 :]])
    shape = [-1 if a == axis else 1 for a in range(g.dim())]
    for source, out, weight in zip(passes[::3], passes[1::3], passes[2::3], strict=True):
        rows = g.index_select(axis, out) * weight.to(g.dtype).view(shape)
        total.index_add_(axis, source, rows)
    return total


class _Resize(torch.autograd.Function):
    """Torch's interpolation; its derivative is `_Spread`.

    Of what no derivative touches each number and tensor is an argument: torch's rule for vmap
    within forward mode loses count of nested ones.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, relation: ResizeGeometry, *plain: Any) -> Tensor:
        return _interpolate(image, relation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plain = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (_spread_back(grads[0], *ctx.plain), *[None] * len(ctx.plain))


class _Spread(torch.autograd.Function):
    """The transposed sums; half types accumulate in float32. Its derivative is `_Resize`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        g: Tensor,
        relation: ResizeGeometry,
        *plain: Any,  # the image's size, the passes of each axis, then the parts of each pass
    ) -> Tensor:
        total = g if g.dtype == torch.float64 else g.float()
        d = relation.d
        size, counts, parts = plain[:d], plain[d : 2 * d], plain[2 * d :]
        for axis, (n, passes) in enumerate(zip(size, counts, strict=True)):
            total = _spread_axis(total, axis + 2, n, parts[: 3 * passes])
            parts = parts[3 * passes :]
        return total.to(g.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plain = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (_resize_back(grads[0], *ctx.plain), *[None] * len(ctx.plain))


_resize, _resize_back = operators(_Resize, linear)
_, _spread_back = operators(_Spread, linear)
