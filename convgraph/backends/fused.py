"""Backend `triton`: one fused kernel reads neighbours through a table, multiplies, and writes once.

    send(x, T, b)      y[p]  = b + sum over slots of  x[table[s, p]] @ T[kind[s]]
    correlate(x, g)    T[t]  = sum over sites of  x[table[t, p]]^T g[p]

No message and no gathered row ever reaches memory. The two are closed under differentiation, to any
order, over one pair of tables:

    d send / dx = send over the table of the reversed edges with T^T;   d send / dT = correlate

Half types and TF32 multiply on tensor cores and add in float32. Without TF32, float32 products
run on plain units, and by the cost table `gather` wins, whose products are cuBLAS's; forced, this
backend serves them all the same. float64 it refuses.

Each block of the result has one owner and each sum one order: results repeat bit for bit. May
import autocast, backends.compiled, fused_launch, neighbours, problem and tiling, edges and
geometry; importing it does not import triton.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convgraph import autocast
from convgraph.backends import fused_launch, tiling
from convgraph.backends.compiled import keeping, operators
from convgraph.backends.neighbours import neighbours
from convgraph.backends.problem import TAPPED, Problem
from convgraph.edges import Edges
from convgraph.geometry import KernelGeometry

NAME = "triton"

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    edges = problem.edges
    if not isinstance(edges, Edges) or not isinstance(edges.relation, KernelGeometry):
        return "a neighbour table needs the edges of a kernel on a lattice"
    if problem.dtype not in DTYPES:
        return f"the kernels compute in float16, bfloat16 and float32, not in {problem.dtype}"
    if edges.is_self_loops:
        return "one self-loop per node is one matrix product, which 'gather' hands to torch"
    return fused_launch.lacks(problem.device) or None


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: rows read and written once, and the table between them."""
    edges: Any = problem.edges
    macs = edges.form(tiling.count_edges) * problem.macs_per_edge
    moved = edges.num_sources * problem.in_channels + edges.num_targets * problem.out_channels
    return float(macs), float(moved + edges.num_taps * edges.num_targets)


def conv(
    x: Tensor,  # (N, C_in)
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
) -> Tensor:
    """Return y (num_targets, C_out), bias included: half types round once."""
    there, back = edges.form(neighbours)
    return _send(x, taps, bias, *there, *back, 0)


# Both operators take the tables of both directions; `plain` is whether the call runs backwards.


class _Send(torch.autograd.Function):
    """y[p] = b + sum over slots of x[table[s, p]] @ T[kind[s]], along the edges or back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        taps: Tensor,
        bias: Tensor | None,
        table: Tensor,
        order: Tensor,
        kind: Tensor,
        back_table: Tensor,
        back_order: Tensor,
        back_kind: Tensor,
        backwards: int,
    ) -> Tensor:
        lists = (table, order, kind, back_table, back_order, back_kind)
        y: Tensor = fused_launch.send(x, taps, bias, *lists, backwards)
        return y

    setup_context = keeping(9)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, taps, _, *lists = ctx.saved_tensors
        (g,), (backwards,) = grads, ctx.plain
        grad_x = grad_taps = grad_bias = None
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                grad_x = _send_back(g, taps.mT, None, *lists, 1 - backwards)
            if ctx.needs_input_grad[1]:
                grad_taps = _correlated(x, g, lists, taps.shape[1], backwards)
            if ctx.needs_input_grad[2]:
                grad_bias = g.sum(0)
        return (grad_x, grad_taps, grad_bias, *[None] * 7)


class _Correlate(torch.autograd.Function):
    """T[t] = sum over sites of x[table[t, p]]^T g[p], per group, along the edges."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        g: Tensor,
        table: Tensor,
        order: Tensor,
        kind: Tensor,
        back_table: Tensor,
        back_order: Tensor,
        back_kind: Tensor,
        groups: int,
    ) -> Tensor:
        lists = (table, order, kind, back_table, back_order, back_kind)
        found: Tensor = fused_launch.correlate(x, g, *lists, groups)
        return found

    setup_context = keeping(8)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, g, *lists = ctx.saved_tensors
        (grad_taps,) = grads
        grad_x = grad_g = None
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                grad_x = _send_back(g, grad_taps.mT, None, *lists, 1)
            if ctx.needs_input_grad[1]:
                grad_g = _send_back(x, grad_taps, None, *lists, 0)
        return (grad_x, grad_g, *[None] * 7)


def _correlated(x: Tensor, g: Tensor, lists: list[Any], groups: int, backwards: int) -> Tensor:
    """The gradient of the matrices; backwards the same edges are read from their other end."""
    if backwards:
        return _correlate_back(g, x, *lists, groups).mT
    return _correlate_back(x, g, *lists, groups)


def _affine(operator: Callable[..., Tensor], ctx: Any, tangents: tuple[Any, ...]) -> Tensor:
    """Forward mode of `_Send`: bilinear in x and T, and the bias is added."""
    x, taps, _, *lists = ctx.saved_tensors
    parts = []
    if tangents[0] is not None:
        parts.append(operator(tangents[0], taps, None, *lists, *ctx.plain))
    if tangents[1] is not None:
        parts.append(operator(x, tangents[1], None, *lists, *ctx.plain))
    if tangents[2] is not None:
        rows = lists[3 if ctx.plain[0] else 0].shape[1]
        parts.append(tangents[2].expand(rows, -1))
    total: Tensor = sum(parts[1:], parts[0])
    return total


def _bilinear(operator: Callable[..., Tensor], ctx: Any, tangents: tuple[Any, ...]) -> Tensor:
    """Forward mode of `_Correlate`."""
    x, g, *lists = ctx.saved_tensors
    parts = []
    if tangents[0] is not None:
        parts.append(operator(tangents[0], g, *lists, *ctx.plain))
    if tangents[1] is not None:
        parts.append(operator(x, tangents[1], *lists, *ctx.plain))
    total: Tensor = sum(parts[1:], parts[0])
    return total


_followed, _send_back = operators(_Send, _affine)
_, _correlate_back = operators(_Correlate, _bilinear)


def _send(*args: Any) -> Tensor:
    """Call it; a compiler gets the operator itself, which brings its own derivative."""
    y: Tensor = (fused_launch.send if torch.compiler.is_compiling() else _followed)(*args)
    return y


# Compiled and exported programs keep the operators and none of the classes.
for _operator, _function in ((fused_launch.send, _Send), (fused_launch.correlate, _Correlate)):
    _operator.register_autograd(_function.backward, setup_context=_function.setup_context)
