"""Backend `resample` of convolutions: the sources of a tap are added before they are multiplied.

    columns (P, K C)  =  what every tap reads          y  =  columns @ W (K C, C_out) + b

A tap between pixels hears four of them; multiplied one by one they would cost four products. The
compiled kernels (`convgraph compile`) add up and multiply block by block, and columns never reach
memory. Without them columns are written, and in float32 the product is torch's convolution of lines
of sites with a kernel of K columns and stride K: its kernels use the widest registers, which those
of a product do on the processors of one maker.

When: interpolated taps, as on panoramas.
"""

import torch
from torch import Tensor

from convgraph.backends import matrices, onednn
from convgraph.backends.compiled import plus
from convgraph.backends.fused import autograd, cpp_build, cpp_conv, operators
from convgraph.backends.problem import TAPPED, EdgeSource, Problem
from convgraph.backends.resample import bags
from convgraph.graph.edges import Edges

NAME = "resample"

OPERATORS = operators.NAMES
"""Custom operators that this backend runs; a proof trusts them by name."""

LANES = 16
"""Channels a group from which on the compiled kernels, group by group, take less."""

LINE = 64
"""Sites of one line of the image as which columns are convolved."""


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    if problem.static:
        return "x of shape (B, N, C) on one graph is served by 'messages'"
    if problem.weight_needs_grad:
        return "edge_weight requires a gradient, which only 'messages' gives"
    if problem.device.type != "cpu":
        return "weighted bags are summed on the CPU; elsewhere 'gather' does without"
    edges = problem.edges
    if isinstance(edges, Edges) and edges.space is None:
        return "in the plane every tap hears one pixel, which 'gather' reads without a copy"
    if not isinstance(edges, Edges) and torch.compiler.is_compiling():
        return "sorting a typed graph by tap depends on data and cannot be compiled"
    if not (edges.num_targets and edges.num_sources and problem.in_channels):
        return "there is nothing to read"
    return None


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: each edge reads a row, each tap is laid out once.

    By blocks nothing is laid out: an edge is a multiply-add a channel and two numbers of a list.
    """
    edges = problem.edges
    slots = edges.num_targets * edges.num_taps
    if _by_blocks(problem):
        rows = edges.num_sources * problem.in_channels + edges.num_targets * problem.out_channels
        macs = slots * problem.macs_per_edge + edges.num_edges * problem.in_channels
        return float(macs), float(rows + 2 * edges.num_edges)
    moved = (edges.num_edges + 2 * slots) * problem.in_channels
    moved += edges.num_targets * problem.out_channels
    return float(slots * problem.macs_per_edge), float(moved)


def priced(problem: Problem) -> tuple[str, int]:
    """The row of the cost table: by blocks, that of the kernels which do the same on masks."""
    return (cpp_conv.NAME if _by_blocks(problem) else NAME), 1


def _by_blocks(problem: Problem) -> bool:
    """Whether the compiled kernels serve: without them, or of few channels a group, others do."""
    few = min(problem.in_channels, problem.out_channels) // problem.groups < LANES
    return not (problem.groups > 1 and few) and not cpp_build.lacks()


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
    if _by_blocks(problem):
        both = bags.reversible(edges, x.dtype)
        return autograd.conv(x, taps, bias, both.ahead, both.back)
    both = bags.lists(edges, x.dtype)
    columns = bags.read(x, both).view(edges.num_targets, len(taps), x.shape[1])
    whole = len(columns) // LINE * LINE if x.dtype == torch.float32 else 0
    parts = []
    if whole:
        parts.append(_convolved(columns[:whole], taps, bias))
    if whole < len(columns):
        parts.append(plus(_product(columns[whole:], taps), bias))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _convolved(
    columns: Tensor,  # (P, K, C_in), whole lines
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
    bias: Tensor | None,  # (C_out,)
) -> Tensor:
    """(P, C_out), bias included."""
    count, groups, _, c_out = taps.shape
    size, kernel, still = (len(columns) // LINE, LINE * count), (1, count), (1, 1)
    image = columns.reshape(1, *size, columns.shape[2]).permute(0, 3, 1, 2)
    weight = taps.permute(1, 3, 2, 0).flatten(0, 1).unsqueeze(2)  # (C_out, C_in / G, 1, K)
    run = onednn.convolution(size, kernel, kernel, (0, 0), still, columns.device)
    y = run(image, weight, bias, kernel, (0, 0), still, groups)
    return y.permute(0, 2, 3, 1).reshape(len(columns), groups * c_out)


def _product(
    columns: Tensor,  # (P, K, C_in)
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
) -> Tensor:
    """(P, C_out)."""
    count, groups, c_in, c_out = taps.shape
    if groups == 1:
        return columns.flatten(1) @ taps.reshape(count * c_in, c_out)
    if c_in == c_out == 1:
        return (columns * taps.view(count, groups)).sum(1)
    blocks = columns.unflatten(2, (groups, c_in)).permute(2, 0, 1, 3).flatten(2)
    matrix = taps.permute(1, 0, 2, 3).flatten(1, 2)  # (G, K C_in / G, C_out / G)
    return torch.bmm(blocks, matrix).transpose(0, 1).flatten(1)
