"""Tiles of sites: the output lattice cut into equal tiles, and which of them hold a site.

Along each axis tile i of T output sites reads one window of the source,

    no transposed kernel:  W = (T - 1) stride + dilation (k - 1) + 1,   from  i T stride - padding
    a transposed one, stride | T:  W sources from  i T / stride + floor((padding - D) / stride)

with D = dilation (k - 1), so that all windows have one shape and one small dense convolution serves
them. Windows overlap by their halo. Integers only; made once per topology and tile.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from convgraph.backends.bags import Ints, packed
from convgraph.backends.problem import kernel_of
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges
from convgraph.graph.sites import Sites

TILES = {1: (16, 64, 256), 2: (4, 8, 16, 32), 3: (4, 8)}
"""Candidates for the sites of a tile along each axis, by the dimension of the lattice."""


@final
@dataclass(frozen=True, eq=False)
class ActiveTiles:
    """The active tiles of one topology.

    Attributes:
        tile: sites of a tile along each axis.
        size: source cells of a window along each axis.
        crop: where a tile begins in what a transposed kernel makes of its window; else zeros.
        count: active tiles.
        window: (count * prod(size),) int64 row of x that stands in each cell of each window;
            num_sources where none does; on the CPU with what `windows.packed` appends.
        place: (num_targets,) int64 cell of the tiles that holds each target.
        held: (count * prod(tile),) int64, its inverse: the target of each cell, or num_targets;
            appended to likewise.
    """

    tile: Ints
    size: Ints
    crop: Ints
    count: int
    window: Tensor
    place: Tensor
    held: Tensor


class Spread(NamedTuple):
    """The windows turned round: which cells hold each source row, so that its sum never races."""

    table: Tensor  # (num_sources, most) int64 cells of each; the number of cells where it has fewer
    cells: Tensor  # (cells held,) the same one source after the other
    ptr: Tensor  # (num_sources + 1,) int64 offsets


def tiles_of(edges: Edges) -> tuple[Ints, ...]:
    """Return the candidate tiles for a topology, one int an axis; none where nothing is heard."""
    g = kernel_of(edges)
    reach = [g.output_size(size) for size in set(edges.source.sizes)]
    largest = [max(axis) for axis in zip(*reach, strict=True)]
    found = []
    for side in TILES[g.d]:
        steps = g.stride if g.transposed else (1,) * g.d
        found.append(tuple(-(-min(side, n) // s) * s for n, s in zip(largest, steps, strict=True)))
    return tuple(dict.fromkeys(found))


def occupancy(edges: Edges) -> tuple[tuple[Ints, int], ...]:
    """Return each candidate tile with how many tiles of that size hold a target."""
    return tuple((tile, _active(edges.target, tile)[2]) for tile in tiles_of(edges))


def window_size(g: KernelGeometry, tile: Ints) -> Ints:
    """Return the source cells of a window along each axis."""
    return tuple(_axis(g, axis, side)[1] for axis, side in enumerate(tile))


def mirrored(g: KernelGeometry) -> bool:
    """Whether the reversed edges are again a convolution that tiles can serve."""
    return (
        not g.transposed
        and not g.folds
        and set(g.stride) == {1}
        and all(
            max(pair) <= dil * (k - 1)
            for pair, dil, k in zip(g.padding, g.dilation, g.kernel_size, strict=True)
        )
    )


def active_tiles(edges: Edges, tile: Ints) -> ActiveTiles:
    """Return the active tiles of a topology."""
    g, source, target = kernel_of(edges), edges.source, edges.target
    device, cells = source.device, prod(tile)
    coords, node_tile, count = _active(target, tile)
    within = _within(target, tile)
    place = node_tile * cells + within
    held = torch.full((count * cells,), edges.num_targets, device=device)
    held[place] = torch.arange(edges.num_targets, device=device)
    axes = [_axis(g, axis, side) for axis, side in enumerate(tile)]
    return ActiveTiles(
        tile=tile,
        size=tuple(axis[1] for axis in axes),
        crop=tuple(axis[2] for axis in axes),
        count=count,
        window=packed(_windows(g, source, tile, coords).reshape(-1), source.num_nodes),
        place=place,
        held=packed(held, edges.num_targets),
    )


def reversed_tiles(edges: Edges, tile: Ints) -> ActiveTiles:
    """Return the active tiles of the reversed edges of a topology whose kernel is `mirrored`."""
    g = kernel_of(edges)
    pads = tuple(
        (dil * (k - 1) - before, dil * (k - 1) - after)
        for (before, after), dil, k in zip(g.padding, g.dilation, g.kernel_size, strict=True)
    )
    if edges.source is edges.target and pads == g.padding:
        return edges.memo_of(active_tiles, tile)
    back = KernelGeometry(g.kernel_size, 1, pads, g.dilation, d=g.d)
    # The record goes again: kept, it would hold on to the sites that keep it.
    return active_tiles(Edges(back, edges.target, edges.source), tile)


def spread(edges: Edges, tile: Ints) -> Spread:
    """Return the windows turned round."""
    found = edges.memo_of(active_tiles, tile)
    window = found.window[: found.count * prod(found.size)]
    cells = (window < edges.num_sources).nonzero().squeeze(1)
    rows, order = window[cells].sort(stable=True)
    cells = cells[order]
    counts = torch.bincount(rows, minlength=edges.num_sources)
    ptr = rows.new_zeros(edges.num_sources + 1)
    ptr[1:] = counts.cumsum(0)
    table = rows.new_full((edges.num_sources, int(counts.max())), len(window))
    table[rows, torch.arange(len(rows), device=rows.device) - ptr[rows]] = cells
    return Spread(table, cells, ptr)


def _axis(g: KernelGeometry, axis: int, side: int) -> tuple[int, int, int]:
    """Return (first source of tile 0, window size, crop) along one axis."""
    stride, (before, _) = g.stride[axis], g.padding[axis]
    reach = g.dilation[axis] * (g.kernel_size[axis] - 1)
    if not g.transposed:
        return -before, (side - 1) * stride + reach + 1, 0
    first = (before - reach) // stride
    last = max((side - 1 + before) // stride, -((reach - side + 1 - before) // stride))
    return first, last - first + 1, before - first * stride


def cells(sites: Sites, tile: Ints) -> tuple[Tensor, Tensor, int]:
    """Return each site's cell within its tile, its tile's number, and how many tiles hold one."""
    _, number, count = _active(sites, tile)
    return _within(sites, tile), number, count


def _within(sites: Sites, tile: Ints) -> Tensor:
    """(P,): the cell of its tile, row-major, in which each site stands."""
    within = torch.zeros(sites.num_nodes, dtype=torch.int64, device=sites.device)
    for axis, side in enumerate(tile):
        within = within * side + sites.pos[:, axis] % side
    return within


def _active(target: Sites, tile: Ints) -> tuple[Tensor, Tensor, int]:
    """Return the (count, 1 + d) image and place of each active tile, each target's, and count."""
    sizes = target.sizes if target.size is None else (target.size,)
    grid = [-(-max(n) // side) for n, side in zip(zip(*sizes, strict=True), tile, strict=True)]
    number = target.batch
    for axis, (side, n) in enumerate(zip(tile, grid, strict=True)):
        number = number * n + target.pos[:, axis] // side
    hit = torch.zeros(target.batch_size * prod(grid), dtype=torch.bool, device=target.device)
    hit[number] = True
    active = hit.nonzero().squeeze(1)
    coords = []
    left = active
    for n in reversed(grid):
        coords.append(left % n)
        left = left // n
    rank = hit.cumsum(0) - 1
    return torch.stack([left, *reversed(coords)], 1), rank[number], len(active)


def _windows(
    g: KernelGeometry,
    source: Sites,
    tile: Ints,
    coords: Tensor,  # (count, 1 + d)
) -> Tensor:
    """Return (count, *size) rows of x, num_sources where a window's cell holds none."""
    image, device = coords[:, 0], source.device
    sizes = [source.size] if source.size is not None else list(source.sizes)
    shape = (len(image),) + (1,) * g.d
    base = image * prod(sizes[0]) if source.size is not None else source.cell_ptr[image]
    cell, present = base.view(shape), torch.ones(shape, dtype=torch.bool, device=device)
    steps: Any = 1
    for axis in reversed(range(g.d)):
        first, width, _ = _axis(g, axis, tile[axis])
        step = tile[axis] // g.stride[axis] if g.transposed else tile[axis] * g.stride[axis]
        tables = [cells_along(g, axis, size[axis], first) for size in sizes]
        starts = torch.tensor(np.cumsum([0, *map(len, tables)])[:-1], device=device)
        lengths = torch.tensor([len(table) for table in tables], device=device)
        which = image if source.size is None else torch.zeros_like(image)
        at = coords[:, axis + 1, None] * step + torch.arange(width, device=device)
        inside = at < lengths[which][:, None]
        table = torch.from_numpy(np.concatenate(tables)).to(device)
        found = torch.where(inside, table[torch.where(inside, at + starts[which][:, None], 0)], -1)
        along = [len(image), *(width if a == axis else 1 for a in range(g.d))]
        cell = cell + (found * steps).view(along)
        present = present & (found >= 0).view(along)
        extents = torch.tensor([size[axis] for size in sizes], device=device)[which][:, None]
        steps = steps * extents
    cell = torch.where(present, cell, 0)
    if source.rank is not None:
        cell = source.rank[cell]
        present = present & (cell >= 0)
    return torch.where(present, cell, source.num_nodes)


def cells_along(g: KernelGeometry, axis: int, n: int, first: int) -> np.ndarray[Any, Any]:
    """Return the source that stands in each cell from the first window's start on; -1 if none."""
    if g.transposed:
        cells = np.arange(first, n, dtype=np.int64)
        return np.where(cells >= 0, cells, -1)
    table = g.axis_sources(axis, n)
    out, k = table.shape
    at = np.arange(out)[:, None] * g.stride[axis] + np.arange(k) * g.dilation[axis]
    cells = np.full(int(at.max()) + 1, -1, dtype=np.int64)
    cells[at] = table
    return cells
