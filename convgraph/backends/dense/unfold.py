"""Backend `dense` of unfold and fold: full grids are images, so torch's own operators move them.

unfold = F.unfold,  fold = F.fold;  where windows tile the lattice, F.pixel_unshuffle and
F.pixel_shuffle, which only permute
"""

from math import prod

import torch.nn.functional as F
from torch import Tensor

from convgraph.backends.dense import conv as dense
from convgraph.backends.problem import Problem
from convgraph.backends.rows import as_image, as_rows
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges

NAME = dense.NAME


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = dense.refuses(problem)
    if refusal is not None:
        return refusal
    edges = problem.edges
    if not isinstance(edges, Edges) or not isinstance(edges.relation, KernelGeometry):
        return "these edges are no kernel's"
    if edges.relation.d != 2:
        return f"torch's unfold and fold know 2 dimensions, these lattices have {edges.relation.d}"
    if not (problem.in_channels and problem.out_channels and edges.num_targets):
        return "torch's unfold and fold refuse empty images"
    return dense.window_refuses(edges.relation)


def work(problem: Problem) -> tuple[float, float]:
    """Additions and elements moved: each image read once, each output written once."""
    edges = problem.edges
    moved = edges.num_sources * problem.in_channels + edges.num_targets * problem.out_channels
    adds = edges.num_sources * problem.in_channels if problem.op == "fold" else 0
    return float(adds), float(moved)


def unfold(
    x: Tensor,  # (N, C)
    edges: Edges,
) -> Tensor:
    """Return (num_targets, C * K), channel c of tap t in column c * K + t."""
    geometry = _geometry(edges)
    image = as_image(x, edges)
    factor = tile(geometry, edges.source.size or ())
    if factor is not None:
        return as_rows(F.pixel_unshuffle(image, factor))
    padding = tuple(before for before, _ in geometry.padding)
    columns = F.unfold(image, geometry.kernel_size, geometry.dilation, padding, geometry.stride)
    return columns.transpose(1, 2).reshape(edges.num_targets, columns.shape[1])


def fold(
    x: Tensor,  # (N, C * K)
    edges: Edges,
) -> Tensor:
    """Return (num_targets, C), the sums of what arrives."""
    geometry, size = _geometry(edges), edges.target.size or ()
    factor = tile(geometry, size)
    if factor is not None:
        return as_rows(F.pixel_shuffle(as_image(x, edges), factor))
    padding = tuple(before for before, _ in geometry.padding)
    columns = x.view(edges.source.batch_size, prod(edges.source.size or ()), x.shape[1])
    image = F.fold(
        columns.transpose(1, 2),
        size,
        geometry.kernel_size,
        geometry.dilation,
        padding,
        geometry.stride,
    )
    return as_rows(image)


def tile(geometry: KernelGeometry, size: tuple[int, ...]) -> int | None:
    """Return r where r x r windows tile a lattice of `size` without a rest, else None."""
    r = geometry.kernel_size[0]
    tiling = set(geometry.kernel_size) == set(geometry.stride) == {r}
    plain = set(geometry.dilation) == {1} and not any(map(any, geometry.padding))
    return r if tiling and plain and not any(n % r for n in size) else None


def _geometry(edges: Edges) -> KernelGeometry:
    geometry = edges.relation
    if not isinstance(geometry, KernelGeometry):
        raise TypeError(f"an unfold needs a KernelGeometry, got {type(geometry).__name__}")
    return geometry
