"""Backend `gather`: for each tap, gather the rows that speak, multiply once, add where they land.

Where a tap has more edges than targets, what its sources say is added before it is multiplied.

    y[target] += w * x[source] @ taps[t]        for each tap t, all its edges at once

Nothing of size E x C is kept for backward: each derivative is again a gather and a product over
the same edges. Two operators are closed under differentiation, to any order:

    send(x, T)        y[p]  = sum over edges of  x[q] @ T[t]
    correlate(x, g)   T[t]  = sum over edges of  x[q]^T g[p]

    d send / dx = send on the reversed edges with T^T;   d send / dT = correlate

Both are linear in each factor, so forward mode is the same operator on the tangents.

Results repeat bit for bit: within a tap targets are distinct, so additions never race.

When: any graph; masks of lone pixels.
"""

from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convgraph import autocast
from convgraph.backends import matrices
from convgraph.backends.compiled import add_rows, keeping, multilinear, operators, plus
from convgraph.backends.edge_count import count_edges
from convgraph.backends.gather import typed_nodes
from convgraph.backends.problem import TAPPED, EdgeSource, Problem
from convgraph.graph.edges import Edges

NAME = "gather"


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    if problem.static:
        return "x of shape (B, N, C) on one graph is served by 'messages'"
    if problem.weight_needs_grad:
        return "edge_weight requires a gradient, which only 'messages' gives"
    if torch.compiler.is_compiling() and not hasattr(problem.edges, "relation"):
        return "sorting a typed graph by tap depends on data and cannot be compiled"
    return None


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: each edge reads a row, adds a row; nothing is kept."""
    edges = problem.edges
    if edges.is_self_loops:  # one product over the rows as they lie
        return float(edges.num_targets * problem.macs_per_edge), 0.0
    count = _count(problem)
    macs = count * problem.macs_per_edge
    moved = count * (problem.in_channels + 2 * problem.out_channels)
    return float(macs), float(moved)


def priced(problem: Problem) -> tuple[str, int]:
    """The row of the cost table, and kernels started: one a tap where edges stand in no slots."""
    if problem.edges.is_self_loops:
        return NAME, 1
    channels = problem.in_channels + problem.out_channels
    # Half types are widened on the CPU before they come here.
    in_slots = isinstance(problem.edges, Edges) and problem.device.type == "cpu"
    if in_slots and problem.op == "conv" and typed_nodes.few(_count(problem), channels):
        return typed_nodes.NAME, 1
    return NAME, problem.edges.num_taps


def _count(problem: Problem) -> int:
    """Edges, without listing what another backend may not need."""
    edges = problem.edges
    if isinstance(edges, Edges) and problem.op == "conv":
        return edges.memo_of(count_edges)
    return edges.num_edges


def summed(
    x: Tensor,  # (N, C_in)
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
    edges: EdgeSource,
    bias: Tensor | None = None,  # (C_out,)
) -> Tensor:
    """Return y (num_targets, C_out): the products with each tap's matrix, added up."""
    if edges.is_self_loops:
        return plus(_multiply(x, taps[0]), bias)
    if typed_nodes.serves(x, taps, edges):
        return plus(typed_nodes.conv(x, taps, edges), bias)  # type: ignore[arg-type]
    source, target, weight, ptr = edges.by_tap()
    if weight is not None:
        weight = weight.to(x.dtype)
    # index() keeps counts constants under torch.compile(dynamic=True), as in backends.dense.
    sent, heard = index(edges.num_sources), index(edges.num_targets)
    ends = _Ends(sent, heard, edges.injective, edges.single_valued)
    # Contiguous once, or every product would copy its matrix out of the layer's weight.
    y = _send(x, taps.contiguous(), source, target, weight, *ends, *ptr)
    return plus(y, bias)


@matrices.widened
def conv(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: EdgeSource,
    problem: Problem,
) -> Tensor:
    """Return y (num_targets, C_out), bias included."""
    taps = matrices.of_taps(weight, problem.groups, transposed=problem.transposed)
    return summed(x, taps, edges, bias)


class _Ends(NamedTuple):
    """How many nodes are at either end, and whether a tap names each at most once."""

    num_sources: int
    num_targets: int
    distinct_sources: bool
    distinct_targets: bool

    def reversed(self) -> "_Ends":
        return _Ends(
            self.num_targets, self.num_sources, self.distinct_targets, self.distinct_sources
        )


def _multiply(
    rows: Tensor,  # (n, C_in)
    tap: Tensor,  # (G, C_in / G, C_out / G)
) -> Tensor:
    """(n, C_out): the rows through one tap's block-diagonal matrix."""
    groups, c_in, c_out = tap.shape
    if groups == 1:
        return rows @ tap[0]
    blocks = rows.unflatten(-1, (groups, c_in))
    if c_in == 1:
        product: Tensor = blocks * tap[:, 0]
        return product.flatten(1)
    return torch.bmm(blocks.transpose(0, 1), tap).transpose(0, 1).reshape(-1, groups * c_out)


def _outer(
    rows: Tensor,  # (n, C_in)
    grads: Tensor,  # (n, C_out)
    shape: torch.Size,  # (G, C_in / G, C_out / G)
) -> Tensor:
    """(G, C_in / G, C_out / G): sum over rows of the outer products, block by block."""
    groups, c_in, c_out = shape
    if groups == 1:
        return (rows.t() @ grads).unsqueeze(0)
    blocks, heads = rows.unflatten(-1, (groups, c_in)), grads.unflatten(-1, (groups, c_out))
    if c_in == c_out == 1:
        return (rows * grads).sum(0).view(shape)
    return torch.bmm(blocks.permute(1, 2, 0), heads.transpose(0, 1))


def _several(ends: _Ends, chosen: slice) -> bool:
    """Whether a tap has more edges than targets, so that adding comes before multiplying."""
    return not ends.distinct_targets and chosen.stop - chosen.start > ends.num_targets


def _heard(
    x: Tensor, source: Tensor, target: Tensor, weight: Tensor | None, chosen: slice, ends: _Ends
) -> Tensor:
    """(P, C_in): what the sources of one tap say to each target, added up."""
    rows = x.index_select(0, source)
    if weight is not None:
        rows = rows * weight[chosen, None]
    total = rows.new_zeros(ends.num_targets, x.shape[1])
    return add_rows(total, target, rows, distinct=False)


class _Send(torch.autograd.Function):
    """y[p] = sum over edges of w x[q] @ T[t]."""

    # `plain` is what no derivative touches, one number an argument: torch's rule for vmap within
    # forward mode loses count of nested ones.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        taps: Tensor,
        source: Tensor,
        target: Tensor,
        weight: Tensor | None,
        *plain: int,  # _Ends, then the offsets of the taps
    ) -> Tensor:
        ends, ptr = _Ends(*plain[:4]), plain[4:]  # type: ignore[arg-type]
        # Made from an empty product: under vmap it is batched if any factor is.
        like = _multiply(x[:0], taps[0])
        if weight is not None:
            like = like * weight[:0, None]
        out: Tensor | None = None
        for tap in typed_nodes.in_turn(ptr):
            chosen = slice(ptr[tap], ptr[tap + 1])
            if _several(ends, chosen):
                heard = _heard(x, source[chosen], target[chosen], weight, chosen, ends)
                rows = _multiply(heard, taps[tap])
                out = rows if out is None else out + rows
                continue
            rows = _multiply(x.index_select(0, source[chosen]), taps[tap])
            if weight is not None:
                rows = rows * weight[chosen, None]
            if out is None:
                out = like.new_zeros(ends.num_targets, taps.shape[1] * taps.shape[3])
                if ends.distinct_targets:  # nothing to add to yet
                    out = out.index_copy(0, target[chosen], rows)
                    continue
            out = add_rows(out, target[chosen], rows, distinct=ends.distinct_targets)
        if out is None:  # no edge at all
            out = like.new_zeros(ends.num_targets, taps.shape[1] * taps.shape[3])
        return out

    setup_context = keeping(5)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, taps, source, target, weight = ctx.saved_tensors
        (g,) = grads
        ends, ptr = _Ends(*ctx.plain[:4]), ctx.plain[4:]
        grad_x = grad_taps = None
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                back = (target, source, weight, *ends.reversed(), *ptr)
                grad_x = _send_back(g, taps.mT, *back)
            if ctx.needs_input_grad[1]:
                lists = (source, target, weight, *taps.shape[1:], *ends, *ptr)
                grad_taps = _correlate_back(x, g, *lists)
        return (grad_x, grad_taps, None, None, None, *[None] * len(ctx.plain))


class _Correlate(torch.autograd.Function):
    """T[t] = sum over the edges of tap t of w x[q]^T g[p], per group."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        g: Tensor,
        source: Tensor,
        target: Tensor,
        weight: Tensor | None,
        *plain: int,  # the shape of T[t], _Ends, then the offsets of the taps
    ) -> Tensor:
        shape, ends, ptr = torch.Size(plain[:3]), _Ends(*plain[3:7]), plain[7:]  # type: ignore[arg-type]
        parts = []
        for tap in range(len(ptr) - 1):
            chosen = slice(ptr[tap], ptr[tap + 1])
            if _several(ends, chosen):
                heard = _heard(x, source[chosen], target[chosen], weight, chosen, ends)
                parts.append(_outer(heard, g, shape))
                continue
            heads = g.index_select(0, target[chosen])
            if weight is not None:
                heads = heads * weight[chosen, None]
            parts.append(_outer(x.index_select(0, source[chosen]), heads, shape))
        return torch.stack(parts)

    setup_context = keeping(5)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, g, source, target, weight = ctx.saved_tensors
        (grad_taps,) = grads
        ends, ptr = _Ends(*ctx.plain[3:7]), ctx.plain[7:]
        grad_x = grad_g = None
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                back = (target, source, weight, *ends.reversed(), *ptr)
                grad_x = _send_back(g, grad_taps.mT, *back)
            if ctx.needs_input_grad[1]:
                grad_g = _send_back(x, grad_taps, source, target, weight, *ends, *ptr)
        return (grad_x, grad_g, None, None, None, *[None] * len(ctx.plain))


_send, _send_back = operators(_Send, multilinear)
_correlate, _correlate_back = operators(_Correlate, multilinear)
