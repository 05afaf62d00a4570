"""Building edge lists: vectorised integer arithmetic, never a loop over pixels.

Two ways to the same list, ordered by tap and, within a tap, by target. Between full grids each tap
is an outer sum of one short list an axis,

    cell(p, t) = sum over axes of  q_axis(p_axis, t_axis) * step_axis

so that every entry is written once. Between any other sites each target looks itself up in the
relation's tables, tap by tap, and ranks turn cells into nodes.
"""

from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.geometry.footprint import taps_there
from convgraph.geometry.kernel import Relation
from convgraph.graph import space_edges
from convgraph.graph.lattice import Size
from convgraph.graph.sites import Sites

EdgeList = tuple[Tensor, tuple[int, ...]]
"""edge_index (2, E) int64 and num_taps + 1 offsets of the taps in it."""


def axis_table(relation: Relation, axis: int, size: int) -> Tensor:
    """(out, taps) int64: the relation's table along one axis, on the host."""
    return torch.from_numpy(np.array(relation.axis_sources(axis, size)))


def taps_per_axis(relation: Relation, source: Sites) -> tuple[int, ...]:
    """Taps along each axis; where a window varies with the size, the widest one."""
    # An empty batch still has a size.
    sizes = {*source.sizes, *([source.size] if source.size is not None else [])}
    return tuple(
        max([0, *[relation.axis_sources(axis, size[axis]).shape[1] for size in sizes]])
        for axis in range(relation.d)
    )


def build(relation: Relation, source: Sites, target: Sites) -> EdgeList:
    """Return the typed edges of a relation between two sets of sites, both flat."""
    if all(sites.mask is None and sites.size is not None for sites in (source, target)):
        return _between_grids(relation, source, target)
    return _between_sites(relation, source, target)


def reached(relation: Relation, source: Sites, sizes: tuple[Size, ...]) -> Tensor:
    """Return (cells,) bool: the output cells that some node reaches; separable, axis by axis.

    Args:
        relation: who talks to whom.
        source: who is there.
        sizes: of the output lattices.
    """
    bent = source.space is not None and not source.space.flat
    if bent or taps_there(relation) is not None:
        every = source.derived(sizes, None)
        index = (space_edges.build if bent else build)(relation, source, every)[0]
        hears = torch.zeros(every.num_cells, dtype=torch.bool, device=source.device)
        hears[index[1]] = True
        return hears
    blocks = [mask.unsqueeze(0) for mask in source.mask_images()]
    if source.size is not None and blocks:
        blocks = [torch.cat(blocks)]
    found = []
    for hit in blocks:
        for axis in range(relation.d):
            table = axis_table(relation, axis, hit.shape[axis + 1]).to(source.device)
            some = torch.zeros((), dtype=torch.bool, device=source.device)
            for column in table.unbind(1):
                heard = hit.index_select(axis + 1, column.clamp(min=0))
                along = [-1 if a == axis + 1 else 1 for a in range(hit.dim())]
                some = some | (heard & (column >= 0).view(along))
            hit = some
        found.append(hit.reshape(-1))
    return torch.cat(found)


def weights(
    relation: Relation,
    source: Sites,
    target: Sites,
    edge_index: Tensor,  # (2, E)
    edge_type: Tensor,  # (E,)
) -> Tensor | None:
    """Return (E,) float64, the product of the weights along the axes; None if all are 1."""
    if all(
        relation.axis_weights(axis, size[axis]) is None
        for size in set(source.sizes)
        for axis in range(relation.d)
    ):
        return None
    tables = _Tables(relation, source, target)
    total = torch.ones(edge_index.shape[1], dtype=torch.float64, device=source.device)
    for axis, tap in enumerate(_unravel(edge_type, tables.taps)):
        total = total * tables.weights(axis)[tables.row[axis][edge_index[1]], tap]
    return total


def _between_grids(relation: Relation, source: Sites, target: Sites) -> EdgeList:
    """Each tap is an outer sum of one short list an axis; every entry is written once."""
    size_in, size_out = source.size or (), target.size or ()
    device, batch = source.device, source.batch_size
    per_axis: list[list[tuple[Tensor, Tensor]]] = []
    for axis in range(relation.d):
        step_in, step_out = prod(size_in[axis + 1 :]), prod(size_out[axis + 1 :])
        lists = []
        for column in axis_table(relation, axis, size_in[axis]).unbind(1):
            heard = (column >= 0).nonzero().squeeze(1)
            lists.append(
                ((column[heard] * step_in).to(device), (heard * step_out).to(device)),
            )
        per_axis.append(lists)
    images = torch.arange(batch, device=device)
    offsets = (images * prod(size_in), images * prod(size_out))
    taps: list[tuple[tuple[Tensor, Tensor], ...]] = list(product(*per_axis))
    footprint = taps_there(relation)
    if footprint is not None:
        none = torch.empty(0, dtype=torch.int64, device=device)
        silent = ((none, none),) * relation.d
        taps = [tap if there else silent for tap, there in zip(taps, footprint, strict=True)]
    lengths = [batch * prod(len(q) for q, _ in tap) for tap in taps]
    ptr = tuple(np.cumsum([0, *lengths]).tolist())
    index = torch.empty((2, ptr[-1]), dtype=torch.int64, device=device)
    for number, tap in enumerate(taps):
        for row in (0, 1):
            axes = [offsets[row], *(pair[row] for pair in tap)]
            _outer_sum(axes, index[row, ptr[number] : ptr[number + 1]])
    return index, ptr


def _outer_sum(axes: list[Tensor], out: Tensor) -> None:
    """Write out[i, j, ...] = axes[0][i] + axes[1][j] + ..., touching `out` once."""
    head = axes[0]
    for part in axes[1:-1]:
        head = (head.unsqueeze(-1) + part).reshape(-1)
    torch.add(head.unsqueeze(1), axes[-1], out=out.view(len(head), len(axes[-1])))


class _Tables:
    """Per axis, the relation's table with images stacked, and the row each target reads in it."""

    def __init__(self, relation: Relation, source: Sites, target: Sites) -> None:
        self.relation, self.device = relation, source.device
        self.taps = taps_per_axis(relation, source)
        # A uniform batch reads one table; a ragged one reads the tables of its images in turn.
        self.sizes = [source.size] if source.size is not None else list(source.sizes)
        self.table: list[Tensor] = []
        self.row: list[Tensor] = []
        for axis, width in enumerate(self.taps):
            parts = [axis_table(relation, axis, size[axis]) for size in self.sizes]
            self.table.append(torch.cat([_widen(p, width, -1) for p in parts]).to(self.device))
            row = target.pos[:, axis]
            if source.size is None:
                starts = np.cumsum([0, *(len(p) for p in parts)])[:-1]
                row = row + torch.tensor(starts, device=self.device)[target.batch]
            self.row.append(row)

    def weights(self, axis: int) -> Tensor:
        """(rows, taps) float64 beside the table of one axis."""
        parts = []
        for size in self.sizes:
            table = axis_table(self.relation, axis, size[axis])
            given = self.relation.axis_weights(axis, size[axis])
            one = torch.ones(table.shape) if given is None else torch.from_numpy(np.array(given))
            parts.append(_widen(one.double(), self.taps[axis], 0))
        return torch.cat(parts).to(self.device)


def _widen(table: Tensor, width: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(table, (0, width - table.shape[1]), value=fill)


def _unravel(tap: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    parts = []
    for width in reversed(shape):
        parts.append(tap % width)
        tap = tap // width
    return parts[::-1]


def _between_sites(relation: Relation, source: Sites, target: Sites) -> EdgeList:
    """Each target looks itself up in the tables, tap by tap; ranks turn cells into nodes."""
    tables, rank, batch = _Tables(relation, source, target), source.rank, target.batch
    if source.size is not None:
        extents: list[Any] = list(source.size)
        base = batch * prod(source.size)
    else:
        extents = list(torch.tensor(source.sizes, device=source.device)[batch].unbind(1))
        base = source.cell_ptr[batch]
    heard_at = [
        [table[row, tap] for tap in range(table.shape[1])]
        for row, table in zip(tables.row, tables.table, strict=True)
    ]
    rows, columns, ptr = [], [], [0]
    footprint = taps_there(relation)
    for number, tap in enumerate(np.ndindex(*tables.taps)):
        if footprint is not None and not footprint[number]:
            ptr.append(ptr[-1])
            continue
        parts = [heard_at[axis][t] for axis, t in enumerate(tap)]
        cell, present = parts[0], parts[0] >= 0
        for part, extent in zip(parts[1:], extents[1:], strict=True):
            cell = cell * extent + part
            present = present & (part >= 0)
        cell = cell + base
        if rank is not None:
            cell = rank[torch.where(present, cell, 0)]
            present = present & (cell >= 0)
        to = present.nonzero().squeeze(1)
        rows.append(cell[to])
        columns.append(to)
        ptr.append(ptr[-1] + len(to))
    if not rows:
        return torch.empty((2, 0), dtype=torch.int64, device=source.device), tuple(ptr)
    return torch.stack([torch.cat(rows), torch.cat(columns)]), tuple(ptr)
