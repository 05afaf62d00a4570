"""Backend `gather` of unfold and fold: rows are moved tap by tap, into columns or out of them.

    unfold(x)[p, c, t] = x[q(p, t), c]            0 where there is no edge
    fold(z)[p, c]      = sum over edges (q, p, t) of  z[q, c, t]

Each is the other's derivative on the reversed edges, so nothing but the edges is kept for backward.
Within a tap neither a source nor a target appears twice: additions never race and results repeat
bit for bit.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.backends.compiled import add_rows, linear, operators
from convgraph.backends.gather import edges as gather
from convgraph.backends.problem import EdgeSource, Problem

NAME = gather.NAME

refuses, priced = gather.refuses, gather.priced


def work(problem: Problem) -> tuple[float, float]:
    """Additions and elements moved: each edge reads and adds one row, all slots are written."""
    edges = problem.edges
    channels = min(problem.in_channels, problem.out_channels)  # the wide side holds K of them
    adds = edges.num_edges * channels if problem.op == "fold" else 0
    moved = 2 * edges.num_edges * channels + edges.num_targets * problem.out_channels
    return float(adds), float(moved)


def unfold(
    x: Tensor,  # (N, C)
    edges: EdgeSource,
) -> Tensor:
    """Return (num_targets, C * K), channel c of tap t in column c * K + t."""
    source, target, _, ptr = edges.by_tap()
    return _unfold(x, source, target, edges.num_targets, *ptr).flatten(1)


def fold(
    x: Tensor,  # (N, C * K)
    edges: EdgeSource,
) -> Tensor:
    """Return (num_targets, C), the sums of what arrives."""
    source, target, _, ptr = edges.by_tap()
    columns = x.unflatten(1, (-1, edges.num_taps))
    return _fold(columns, source, target, edges.num_targets, *ptr)


class _Unfold(torch.autograd.Function):
    """(N, C) -> (P, C, K)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, source: Tensor, target: Tensor, num_targets: int, *ptr: int) -> Tensor:
        out = x.new_zeros(num_targets, x.shape[1], len(ptr) - 1)
        for tap in range(len(ptr) - 1):
            chosen = slice(ptr[tap], ptr[tap + 1])
            out[:, :, tap].index_copy_(0, target[chosen], x[source[chosen]])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, source, target, *ctx.plain = inputs
        ctx.num_sources = x.shape[0]
        ctx.save_for_backward(source, target)
        ctx.save_for_forward(source, target)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        source, target = ctx.saved_tensors
        _, *ptr = ctx.plain
        grad = _fold_back(grads[0], target, source, ctx.num_sources, *ptr)
        return (grad, None, None, None, *[None] * len(ptr))


class _Fold(torch.autograd.Function):
    """(N, C, K) -> (P, C)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        columns: Tensor, source: Tensor, target: Tensor, num_targets: int, *ptr: int
    ) -> Tensor:
        out = columns.new_zeros(num_targets, columns.shape[1])
        for tap in range(len(ptr) - 1):
            chosen = slice(ptr[tap], ptr[tap + 1])
            out = add_rows(out, target[chosen], columns[source[chosen], :, tap], distinct=True)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        columns, source, target, *ctx.plain = inputs
        ctx.num_sources = columns.shape[0]
        ctx.save_for_backward(source, target)
        ctx.save_for_forward(source, target)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        source, target = ctx.saved_tensors
        _, *ptr = ctx.plain
        grad = _unfold_back(grads[0], target, source, ctx.num_sources, *ptr)
        return (grad, None, None, None, *[None] * len(ptr))


_unfold, _unfold_back = operators(_Unfold, linear)
_fold, _fold_back = operators(_Fold, linear)
