"""Adaptive windows: the sizes are given and the windows follow from them.

Along an axis of S pixels with S' outputs, output p reads the pixels

    floor(p S / S')  up to, but not including,  ceil((p + 1) S / S')

so windows may overlap and differ in width by one or two. Integers only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from convgraph.errors import GeometryError
from convgraph.geometry.kernel import IntTable, as_int
from convgraph.geometry.loaded import revive


@final
@dataclass(frozen=True)
class WindowGeometry:
    """The relation of an adaptive pool: a given output size, windows that share out the source.

    Args:
        window_size: output size along each axis (pixels), None for the source's own.

    Raises:
        GeometryError: an entry is no positive integer, or there are none or more than three.

    Example:
        >>> WindowGeometry((2,)).axis_sources(0, 5).tolist()
        [[0, 1, 2], [2, 3, 4]]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html
    """

    window_size: tuple[int | None, ...]

    def __setstate__(self, state: Any) -> None:
        """Take pickled fields, checked anew."""
        revive(self, state)

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        sizes: Any = self.window_size
        if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
            raise GeometryError(f"expected output_size of 1 to 3 entries, got {sizes!r}")
        checked = tuple(None if n is None else as_int("output_size", n, least=1) for n in sizes)
        object.__setattr__(self, "window_size", checked)

    @property
    def d(self) -> int:
        """Dimensions."""
        return len(self.window_size)

    @property
    def keeps_sites(self) -> bool:
        """Whether an unchanged size means unchanged sites: every window is then one pixel."""
        return True

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the output lattice: the one asked for."""
        if len(size) != self.d:
            raise GeometryError(f"expected a size of {self.d} ints, got {tuple(size)}")
        return tuple(
            n if asked is None else asked for asked, n in zip(self.window_size, size, strict=True)
        )

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(out, widest window) int64: pixels of each window, -1 where a narrower one ends."""
        asked = self.window_size[axis]
        out = size if asked is None else asked
        p = np.arange(out, dtype=np.int64)
        start, end = p * size // out, -(-(p + 1) * size // out)
        table = start[:, None] + np.arange(int((end - start).max()), dtype=np.int64)
        table[table >= end[:, None]] = -1
        return table

    def axis_weights(self, axis: int, size: int) -> None:
        """None: every edge counts once."""
