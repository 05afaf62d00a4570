"""Which positions a part needs: one table an axis, looked up.

    need(out) = the sorted set of table[out], without the -1

A part of a map is a product of sorted lists of positions, one an axis. A part with its halo is
again a lattice whose relation is the same table, looked up: borders of the image are the -1 of the
table, and cuts have no border. Integers only.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
"""Sorted positions along one axis of the whole map, without repetition."""


def need(relation: Any, axis: int, size: int, out: Positions) -> Positions:
    """Return the source positions that these outputs read along an axis.

    Example:
        >>> from convgraph.geometry.kernel import KernelGeometry
        >>> need(KernelGeometry(3, stride=2, padding=1, d=1), 0, 9, np.array([0, 1])).tolist()
        [0, 1, 2, 3]
    """
    found = np.unique(looked_up(relation, axis, size, out))
    return found[found >= 0]


def looked_up(relation: Any, axis: int, size: int, out: Positions) -> Any:
    """Return (outputs, taps) source positions along an axis; -1 where nothing is.

    A relation that has no table an axis, as in a space, answers for these outputs alone.
    """
    if (find := getattr(relation, "sources_of", None)) is not None:
        return find(axis, out)
    return relation.axis_sources(axis, size)[out]


def runs(positions: Positions) -> list[Positions]:
    """Return the maximal runs of consecutive positions.

    Example:
        >>> [run.tolist() for run in runs(np.array([0, 1, 5]))]
        [[0, 1], [5]]
    """
    if not len(positions):
        return []
    return np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)


def places(have: Positions, want: Any) -> Any:
    """Return the index of each wanted position among those that are there; -1 for -1.

    Raises:
        IndexError: a position is wanted that is not there; a plan never asks so.

    Example:
        >>> places(np.array([4, 5, 6]), np.array([5, -1])).tolist()
        [1, -1]
    """
    want = np.asarray(want)
    if not len(have):
        index = np.full(want.shape, -1)
    else:
        index = np.minimum(np.searchsorted(have, want), len(have) - 1)
        index = np.where(have[index] == want, index, -1)
    if (lost := (index < 0) & (want >= 0)).any():
        raise IndexError(f"position {want[lost][0]} is read and not there: the halo is too short")
    return index
