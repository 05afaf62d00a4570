"""Relations of operators that move pixels and are no kernel: pads, slices, shuffles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convgraph.geometry.kernel import IntTable
from convgraph.geometry.padding import folded

MODES = {"constant": "zeros"}


class _Unweighted:
    """One source an output, each counts once."""

    def axis_weights(self, axis: int, size: int) -> None:
        """None: every edge counts once."""

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the output lattice."""
        return tuple(len(self.axis_sources(axis, n)) for axis, n in enumerate(size))

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(out, 1) int64 source positions, -1 where nothing is."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pad(_Unweighted):
    """Pixels before and after each axis; a negative number cuts them off.

    Attributes:
        pads: a pair (before, after) an axis.
        mode: torch's: "constant", "reflect", "replicate" or "circular".
    """

    pads: tuple[tuple[int, int], ...]
    mode: str = "constant"
    keeps_sites: bool = False

    @property
    def d(self) -> int:
        """Dimensions."""
        return len(self.pads)

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(out, 1) int64 source positions, -1 where the pad's value is."""
        before, after = self.pads[axis]
        found: IntTable = folded(
            np.arange(-before, size + after), size, MODES.get(self.mode, self.mode)
        )
        return found[:, None]


@dataclass(frozen=True)
class Slice(_Unweighted):
    """Every `step`-th position from `start` before `end`, an axis."""

    bounds: tuple[tuple[int, int, int], ...]  # (start, end, step); positions, not wishes
    keeps_sites: bool = False

    @property
    def d(self) -> int:
        """Dimensions."""
        return len(self.bounds)

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(out, 1) int64 source positions."""
        start, end, step = self.bounds[axis]
        return np.arange(start, min(end, size), step, dtype=np.int64)[:, None]


@dataclass(frozen=True)
class Shuffle(_Unweighted):
    """Pixel shuffle: output p reads p // r."""

    factor: int
    d: int = 2
    keeps_sites: bool = False

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(r size, 1) int64 source positions."""
        return (np.arange(size * self.factor, dtype=np.int64) // self.factor)[:, None]


@dataclass(frozen=True)
class Unshuffle(_Unweighted):
    """Pixel unshuffle: output p reads p r to p r + r - 1."""

    factor: int
    d: int = 2
    keeps_sites: bool = False

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(size / r, r) int64 source positions."""
        return np.arange(size, dtype=np.int64).reshape(-1, self.factor)
