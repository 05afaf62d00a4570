"""Edges in a space: who speaks where is given by a table of the space, not axis by axis.

    sources (T, P, K) of one image  ->  edge_index, tap offsets, and weights where there are any

An output site may hear several sources through one tap, with weights that sum to one.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import GeometryError
from convgraph.geometry.kernel import IntTable, KernelGeometry, Relation
from convgraph.geometry.space import FloatTable, Space
from convgraph.graph.sites import Sites

Weighted = tuple[Tensor, tuple[int, ...], Tensor | None]
"""edge_index (2, E) int64, num_taps + 1 offsets of the taps in it, weights (E,) float64 or None."""

Heard = tuple[IntTable, IntTable, FloatTable | None]
"""Sources, targets and weights of one tap, (E,) each."""


def build(relation: Relation, source: Sites, target: Sites) -> Weighted:
    """Return the typed edges between two sets of sites of one space, which is not flat."""
    space = source.space
    if space is None:
        raise TypeError("sites in the plane have separable edges, see edge_list")
    sizes = list(zip(source.sizes, target.sizes, strict=True))
    if source.size is not None:  # one table serves all images
        repeats, sizes = len(sizes), sizes[:1]
    else:
        repeats = 1
    taps: list[list[Heard]] = []
    base = np.zeros(2, dtype=np.int64)
    for size, out in sizes:
        cells = np.array([prod(size), prod(out)])
        shift = base[:, None] + np.arange(repeats) * cells[:, None]
        for number, (q, p, w) in enumerate(_of_image(space, relation, size, out)):
            if len(taps) == number:
                taps.append([])
            ends = [(shift[end][:, None] + at).ravel() for end, at in enumerate((q, p))]
            taps[number].append((ends[0], ends[1], None if w is None else np.tile(w, repeats)))
        base = base + cells
    return _as_nodes(taps, source, target)


def forwards(
    relation: Relation, size: Sequence[int], out: Sequence[int]
) -> tuple[Relation, Sequence[int], Sequence[int]]:
    """Return a relation with its arrows forwards, and the sizes at its ends.

    A transposed kernel sends along the reversed edges of the plain one from its output to its
    input, so that has to lead back to the size that it came from.

    Raises:
        GeometryError: it does not.
    """
    if not getattr(relation, "transposed", False):
        return relation, size, out
    g: Any = relation
    plain = KernelGeometry(
        g.kernel_size, g.stride, g.padding, g.dilation, g.padding_mode, footprint=g.footprint
    )
    if plain.output_size(out) != tuple(size):
        raise GeometryError(
            f"a transposed kernel of size {g.kernel_size}, stride {g.stride} and padding "
            f"{g.padding} makes {tuple(out)} of {tuple(size)}, from where the plain one leads to "
            f"{plain.output_size(out)}; use another output_padding"
        )
    return plain, out, size


def _of_image(
    space: Space, relation: Relation, size: Sequence[int], out: Sequence[int]
) -> Iterator[Heard]:
    """Yield, tap by tap, the edges between the cells of one image, ordered by target."""
    forward, one, two = forwards(relation, size, out)
    table = space.table(forward, one, two)
    if table is None:
        raise TypeError(f"{space} is flat: its edges are separable, see edge_list")
    for tap, heard in enumerate(table.sources):
        p, k = np.nonzero(heard >= 0)
        q = heard[p, k]
        w = None if table.weights is None else table.weights[tap, p, k]
        if forward is not relation:
            order = np.argsort(q, kind="stable")
            q, p = p[order], q[order]
            w = None if w is None else w[order]
        yield q, p, w


def _as_nodes(taps: list[list[Heard]], source: Sites, target: Sites) -> Weighted:
    """Cells become nodes; what ends at a hole goes."""
    cells, weights, ptr = [torch.empty((2, 0), dtype=torch.int64)], [], [0]
    for parts in taps:
        ends = np.stack([np.concatenate([part[end] for part in parts]) for end in (0, 1)])
        cells.append(torch.from_numpy(ends))
        ptr.append(ptr[-1] + ends.shape[1])
        weights += [torch.from_numpy(part[2]) for part in parts if part[2] is not None]
    index = torch.cat(cells, dim=1).to(source.device)
    weight = torch.cat(weights).to(source.device) if weights else None
    if source.mask is not None or target.mask is not None:
        keep = torch.ones(index.shape[1], dtype=torch.bool, device=index.device)
        for row, sites in enumerate((source, target)):
            if sites.rank is not None:
                index[row] = sites.rank[index[row]]
                keep &= index[row] >= 0
        counts = [int(keep[a:b].sum()) for a, b in pairwise(ptr)]
        ptr = np.cumsum([0, *counts]).tolist()
        index, weight = index[:, keep], None if weight is None else weight[keep]
    if weight is not None and bool((weight == 1).all()):
        weight = None
    return index, tuple(ptr), weight
