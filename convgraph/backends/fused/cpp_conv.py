"""Backend `cpp`: one fused kernel on the CPU reads neighbours through a rank grid.

    y[p] = b + sum over slots of  x[grid[base[p] + offset[s]]] @ T[kind[s]]

Within a block of sites the rows that a tap hears are listed, and a few of them at a time are
multiplied while their sums stay in registers: an edge that is not there costs nothing, and no
gathered row is written to memory. The kernels are compiled once a machine (`convgraph compile`);
without them this backend refuses, and another serves.

When: masks and footprints on the CPU, once its kernels are compiled.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.backends import matrices
from convgraph.backends.edge_count import count_edges
from convgraph.backends.fused import autograd, cpp_build, cpp_tables, operators
from convgraph.backends.problem import Problem, off_lattice
from convgraph.backends.rows import HALF
from convgraph.graph.edges import Edges

NAME = "cpp"

OPERATORS = operators.NAMES
"""Custom operators that this backend runs; a proof trusts them by name."""

DTYPES = (torch.float32, torch.float64, *HALF)
"""Half types come widened, as to every backend on the CPU."""

LANES = 16
"""Output channels that are computed together, at least: float32 in one register of AVX-512."""


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = off_lattice(problem)
    if refusal is not None:
        return refusal
    if problem.device.type != "cpu":
        return f"the kernels run on the CPU, not on {problem.device.type}"
    if problem.dtype not in DTYPES:
        return f"the kernels compute in float32 and float64, not in {problem.dtype}"
    edges: Any = problem.edges
    if edges.memo_of(cpp_tables.mostly_margin):
        return (
            "its rank grid would be nearly all margin: images of very different sizes, or taps "
            "that are far away"
        )
    return cpp_build.lacks() or None


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds of whole registers, and elements moved: rows, and the neighbours looked up."""
    edges: Any = problem.edges
    count = edges.memo_of(count_edges)
    targets = edges.num_targets
    rows = edges.num_sources * problem.in_channels + targets * problem.out_channels
    looked = edges.num_taps * targets
    if problem.depthwise:
        return float(count * problem.out_channels), float(rows + looked)
    wide = -(-(problem.out_channels // problem.groups) // LANES) * LANES
    return float(count * problem.in_channels * wide), float(rows + looked * problem.groups)


@matrices.widened
def conv(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    problem: Problem,
) -> Tensor:
    """Return y (num_targets, C_out), bias included."""
    taps = matrices.of_taps(weight, problem.groups, transposed=problem.transposed)
    return autograd.conv(x, taps, bias, *edges.memo_of(cpp_tables.sides))
