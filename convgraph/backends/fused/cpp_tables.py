"""Rank grids: a lattice with a margin that holds the row of each site, so that a tap is an offset.

    site m hears through slot s the row  grid[base[m] + offset[s]];  -1 where no pixel is

Forwards the grid is the padded source, folded where padding folds. Backwards it is as fine as the
source and holds the targets, each where its window begins; where padding folds several targets onto
one source within one tap, the list of neighbours itself takes the place of the grid. A kernel that
looks as far back as ahead reads one grid both ways. Nothing is listed edge by edge but those folds.

Integers only; made once per topology.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.backends import site_tiles
from convgraph.backends.bags import Ints
from convgraph.backends.fused import triton_tables
from convgraph.backends.fused.operators import ABSENT
from convgraph.backends.problem import kernel_of
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges
from convgraph.graph.sites import Sites


class RankGrid(NamedTuple):
    """Who speaks to whom in one direction of the edges.

    Attributes:
        who: (cells,) int32 row that stands in each cell of the grid, -1 for none.
        sites: (2, P) int64 the cell from which each site counts, and the site itself; sites stand
            tile after tile.
        slots: (2, S) int64 offset and tap of each slot; forwards slot s is tap s. A tap that the
            footprint leaves out has the offset `operators.ABSENT`.
    """

    who: Tensor
    sites: Tensor
    slots: Tensor


MARGIN = 64
"""Cells a node up to which images share one grid."""

SMALL = 2**16
"""Cells that a grid may have whatever its nodes."""

Cells = Callable[[int, int, int], Tensor]
"""(axis, size of the source, size of the target) -> what stands in each cell along that axis."""


def sides(edges: Edges) -> tuple[RankGrid, RankGrid]:
    """Return what targets hear, and what sources are answered."""
    g: KernelGeometry = edges.relation  # type: ignore[assignment]
    # A transposed kernel's arrows are those of a plain one from its target to its source, reversed.
    fine, coarse = (edges.target, edges.source) if g.transposed else (edges.source, edges.target)
    ahead = _ahead(g, fine, coarse)
    if edges.source is edges.target and _looks_both_ways(g):
        offset, kind = ahead.slots
        back = RankGrid(ahead.who, ahead.sites, torch.stack([offset.flip(0), kind]))
    elif edges.injective:
        back = _behind(g, fine, coarse)
    else:
        table, order, kind = triton_tables.answers(edges)
        base = torch.arange(len(order), device=order.device)
        offset = torch.arange(len(kind), device=order.device) * len(order)
        back = RankGrid(
            table.view(-1), torch.stack([base, order.long()]), torch.stack([offset, kind])
        )
    return (back, ahead) if g.transposed else (ahead, back)


def mostly_margin(edges: Edges) -> bool:
    """Whether a rank grid, as wide as the largest images reach, has far more cells than nodes."""
    g, source, target = kernel_of(edges), edges.source, edges.target
    fine, coarse = (target, source) if g.transposed else (source, target)
    cells = max(fine.batch_size, 1)
    for axis in range(g.d):
        sizes, outs = (max((s[axis] for s in end.sizes), default=1) for end in (fine, coarse))
        reach = g.dilation[axis] * (g.kernel_size[axis] - 1)
        ahead = (outs - 1) * g.stride[axis] + reach + 1
        cells *= max(ahead, sizes + max(reach, g.padding[axis][0]))
    return cells > max(SMALL, MARGIN * (edges.num_sources + edges.num_targets))


def _looks_both_ways(g: KernelGeometry) -> bool:
    """Whether p hears q through a tap exactly when q hears p through the opposite one."""
    if g.footprint is not None and g.footprint != g.footprint[::-1]:
        return False
    return not g.folds and all(
        stride == 1 and 2 * before == dilation * (k - 1)
        for stride, (before, _), dilation, k in zip(
            g.stride, g.padding, g.dilation, g.kernel_size, strict=True
        )
    )


def _ahead(g: KernelGeometry, fine: Sites, coarse: Sites) -> RankGrid:
    """What coarse sites hear: p counts from p * stride on the padded fine lattice."""

    def cells(axis: int, size: int, out: int) -> Tensor:
        needed = (out - 1) * g.stride[axis] + g.dilation[axis] * (g.kernel_size[axis] - 1) + 1
        at = torch.from_numpy(site_tiles.cells_along(g, axis, size, -g.padding[axis][0]))[:needed]
        return F.pad(at, (0, needed - len(at)), value=-1)

    who, steps = _grid(fine, fine.sizes, coarse.sizes, cells)
    return _side(g, who, steps, coarse, g.stride, (0,) * g.d, 1)


def _behind(g: KernelGeometry, fine: Sites, coarse: Sites) -> RankGrid:
    """What fine sites are answered: p stands at p * stride, and q counts down from q + padding."""
    starts = tuple(
        max(before, dilation * (k - 1))
        for (before, _), dilation, k in zip(g.padding, g.dilation, g.kernel_size, strict=True)
    )

    def cells(axis: int, size: int, out: int) -> Tensor:
        margin = starts[axis] - g.padding[axis][0]
        at = torch.arange(size + starts[axis]) - margin
        p = at.div(g.stride[axis], rounding_mode="floor")
        return torch.where((p * g.stride[axis] == at) & (p < out), p, -1)

    who, steps = _grid(coarse, fine.sizes, coarse.sizes, cells)
    return _side(g, who, steps, fine, (1,) * g.d, starts, -1)


def _grid(
    held: Sites, sizes: tuple[Ints, ...], outs: tuple[Ints, ...], cells: Cells
) -> tuple[Tensor, Ints]:
    """Return the ranks of `held` in the cells of all images, and the step along each axis."""
    device, d = held.device, held.d
    pairs = list(zip(sizes, outs, strict=True))
    found = {pair: [cells(a, pair[0][a], pair[1][a]) for a in range(d)] for pair in set(pairs)}
    extents = [max([1, *(len(axes[a]) for axes in found.values())]) for a in range(d)]
    rank = torch.arange(held.num_cells, device=device) if held.rank is None else held.rank
    rank = rank.int()
    uniform = held.size is not None and len(found) == 1
    images = [rank.view(-1, *held.size)] if uniform else _images(held, rank)  # type: ignore[misc]
    parts = []
    for image, pair in zip(images, pairs[: len(images)], strict=True):
        part = image
        for axis, at in enumerate(found[pair], start=1):
            size = part.shape[axis]
            at = F.pad(at, (0, extents[axis - 1] - len(at)), value=-1)
            at = torch.where(at < 0, size, at).to(device)
            margin = [0, 0] * (d - axis) + [0, 1]
            part = F.pad(part, margin, value=-1).index_select(axis, at)
        parts.append(part)
    steps = tuple(accumulate(reversed(extents[1:]), lambda a, b: a * b, initial=1))[::-1]
    who = torch.cat(parts).reshape(-1) if parts else rank.new_empty(0)
    return who, (extents[0] * steps[0], *steps)


def _images(held: Sites, rank: Tensor) -> list[Tensor]:
    """The ranks image by image, (1, *size)."""
    ends = held.cell_ptr.tolist()
    return [
        rank[a:b].view(1, *size) for a, b, size in zip(ends, ends[1:], held.sizes, strict=False)
    ]


def _side(
    g: KernelGeometry, who: Tensor, steps: Ints, sites: Sites, stride: Ints, starts: Ints, sign: int
) -> RankGrid:
    """Count cells: from pos * stride + starts for a site, by sign * tap * dilation for a slot."""
    device = who.device
    order = triton_tables.tile_order(sites)
    base = sites.batch[order] * steps[0]
    offset: Any = torch.zeros((), dtype=torch.int64)
    for axis, step in enumerate(steps[1:]):
        base = base + (sites.pos[order, axis] * stride[axis] + starts[axis]) * step
        taps = torch.arange(g.kernel_size[axis]) * (sign * g.dilation[axis] * step)
        offset = offset.unsqueeze(-1) + taps
    offset = offset.reshape(-1).to(device)
    if g.footprint is not None:
        offset = torch.where(torch.tensor(g.footprint, device=device), offset, ABSENT)
    kind = torch.arange(len(offset), device=device)
    return RankGrid(who, torch.stack([base, order]), torch.stack([offset, kind]))
