"""Backend `masked`: rows are laid out as an image with zeros in its holes, convolved, read again.

    y = conv(image of x)[sites]

The dense operator on a mask: it does not profit from holes, but where few are missing, or where the
kernel does so little that packing costs more than the operator, nothing is faster.

When: few holes; small kernels that cost less than packing.
"""

from torch import Tensor

from convgraph.backends import matrices
from convgraph.backends.dense import conv as dense
from convgraph.backends.masked import filled_image
from convgraph.backends.problem import TAPPED, Problem, bent
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges

NAME = "masked"


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    edges = problem.edges
    if not isinstance(edges, Edges) or not isinstance(edges.relation, KernelGeometry):
        return "an image needs the edges of a kernel on a lattice"
    if edges.source.size is None:
        return "images of different sizes are no one image"
    return bent(edges)


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: every cell is computed; rows are unpacked and packed."""
    edges = problem.edges
    if not isinstance(edges, Edges):
        raise TypeError(f"an image needs Edges, got {type(edges).__name__}")
    cells, heard = edges.source.num_cells, edges.target.num_cells
    macs = heard * edges.num_taps * problem.macs_per_edge
    moved = (2 * cells + edges.num_sources) * problem.in_channels
    moved += (heard + edges.num_targets) * problem.out_channels
    return float(macs), float(moved)


def conv(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    problem: Problem,
) -> Tensor:
    """Return y (num_targets, C_out), bias included."""
    image = filled_image.lay(x, edges.source)
    y = dense.convolution(image, matrices.there(weight, edges), bias, edges, problem.groups)
    return filled_image.read(y, edges.target)
