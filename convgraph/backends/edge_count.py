"""How many edges a topology has, without listing them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.backends.problem import kernel_of
from convgraph.graph.edges import Edges


def count_edges(edges: Edges) -> int:
    """Return the number of edges without listing them: sources are added up axis by axis."""
    source, target = edges.source, edges.target
    if source.size is None or edges.space or 0 in (source.num_nodes, target.num_nodes):
        return edges.num_edges
    g = kernel_of(edges)
    full = torch.ones(source.num_cells, dtype=torch.bool) if source.mask is None else source.mask
    cells = full.cpu().view(source.batch_size, *source.size).to(torch.int32)
    tables = [torch.from_numpy(g.axis_sources(a, n) % (n + 1)) for a, n in enumerate(source.size)]
    taps = None if g.footprint is None else np.array(g.footprint).reshape(g.kernel_size)
    heard = _heard(cells, tables, taps).flatten()
    return int(heard.sum() if target.mask is None else heard[target.mask.cpu()].sum())


def _heard(
    cells: Tensor,  # (B, *size) int32, how many nodes stand there
    tables: Sequence[Tensor],  # of the axes left, (out, k): the source of each tap, n if none
    taps: Any,  # bool over the taps of these axes, or None: all are there
) -> Tensor:
    """Return (B, *out), what each site hears."""
    if not tables:
        return cells
    axis = cells.dim() - len(tables)
    # One row of zeros more, which a tap beyond the lattice reads.
    holed = F.pad(cells, [0, 0] * (len(tables) - 1) + [0, 1])
    columns = tables[0].unbind(1)
    chosen = (
        range(len(columns)) if taps is None else np.flatnonzero(taps.reshape(len(taps), -1).any(1))
    )
    parts = (holed.index_select(axis, columns[t]) for t in chosen)
    if taps is not None:
        parts = (_heard(part, tables[1:], taps[t]) for part, t in zip(parts, chosen, strict=True))
    total = next(parts).clone()
    for part in parts:
        total += part
    return total if taps is not None else _heard(total, tables[1:], None)
