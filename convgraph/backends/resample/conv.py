"""Backend `resample` of convolutions: the sources of a tap are added before they are multiplied.

    columns (P, K C)  =  what every tap reads          y  =  columns @ W (K C, C_out) + b

A tap between pixels hears four of them; multiplied one by one they would cost four products.
"""

import torch
from torch import Tensor

from convgraph.backends import matrices
from convgraph.backends.compiled import plus
from convgraph.backends.problem import TAPPED, EdgeSource, Problem
from convgraph.backends.resample import bags
from convgraph.graph.edges import Edges

NAME = "resample"


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
    """Multiply-adds and elements moved: each edge reads a row, each tap is laid out once."""
    edges = problem.edges
    slots = edges.num_targets * edges.num_taps
    moved = (edges.num_edges + 2 * slots) * problem.in_channels
    moved += edges.num_targets * problem.out_channels
    return float(slots * problem.macs_per_edge), float(moved)


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
    both = bags.lists(edges, x.dtype)
    columns = bags.read(x, both).view(edges.num_targets, len(taps), x.shape[1])
    return plus(_product(columns, taps), bias)


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
