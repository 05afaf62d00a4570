"""Backend `triton`: one fused kernel on CUDA reads neighbours through a table.

    y[p] = b + sum over slots of  x[table[s, p]] @ T[kind[s]]

Half types and TF32 multiply on tensor cores and add in float32. Without TF32, float32 products
run on plain units, and by the cost table `gather` wins, whose products are cuBLAS's; forced, this
backend serves them all the same. float64 it refuses.

When: masks on CUDA, half types and TF32.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.backends import matrices
from convgraph.backends.edge_count import count_edges
from convgraph.backends.fused import autograd, operators, triton_launch
from convgraph.backends.fused.triton_tables import neighbours
from convgraph.backends.problem import Problem, off_lattice
from convgraph.graph.edges import Edges

NAME = "triton"

OPERATORS = operators.NAMES
"""Custom operators that this backend runs; a proof trusts them by name."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = off_lattice(problem)
    if refusal is not None:
        return refusal
    if problem.dtype not in DTYPES:
        return f"the kernels compute in float16, bfloat16 and float32, not in {problem.dtype}"
    if problem.edges.is_self_loops:
        return "one self-loop per node is one matrix product, which 'gather' hands to torch"
    return triton_launch.lacks(problem.device) or None


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: rows read and written once, and the table between them."""
    edges: Any = problem.edges
    macs = edges.memo_of(count_edges) * problem.macs_per_edge
    moved = edges.num_sources * problem.in_channels + edges.num_targets * problem.out_channels
    return float(macs), float(moved + edges.num_taps * edges.num_targets)


def conv(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    problem: Problem,
) -> Tensor:
    """Return y (num_targets, C_out), bias included: half types round once."""
    whole = matrices.there(weight, edges)
    taps = matrices.of_taps(whole, problem.groups, transposed=problem.transposed)
    return autograd.conv(x, taps, bias, *edges.memo_of(neighbours))
