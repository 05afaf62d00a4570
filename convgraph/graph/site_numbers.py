"""What follows from the sites alone: numbers of cells and nodes, positions, images.

Each form is made once, in vectorised integer arithmetic, when somebody asks for it; a compiler
takes it as a memo.
"""

from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from convgraph import memo
from convgraph.graph import lattice
from convgraph.graph.lattice import Size
from convgraph.memo import Memo, once

T = TypeVar("T")


class SiteForms:
    """The derived forms of a record of sites, which has the fields; see `Sites`."""

    sizes: tuple[Size, ...]
    size: Size | None
    mask: Tensor | None
    device: torch.device
    batch_size: int
    num_cells: int
    _memo: Memo

    def _form(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The derived form of that name, made at most once; a compiler takes it as a memo."""
        if torch.compiler.is_dynamo_compiling():
            found: Tensor = memo.read(self, name)
            return found
        return self.memo(name, make)

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """Return what `make()` gave the first time for this key, and keep it with the record."""
        return once(self._memo, key, make)

    @property
    def line(self) -> Memo:
        """What stays the same when the record goes and is put together again from its fields."""
        return self._memo

    @property
    def cell_ptr(self) -> Tensor:
        """(B + 1,) int64: the first cell of each image, and the number of cells."""

        def make() -> Tensor:
            ends = list(accumulate((prod(size) for size in self.sizes), initial=0))
            return torch.tensor(ends, device=self.device)

        return self._form("cell_ptr", make)

    @property
    def nodes(self) -> Tensor:
        """(N,) int64: the cell of each node, ascending."""

        def make() -> Tensor:
            if self.mask is None:
                return torch.arange(self.num_cells, device=self.device)
            return self.mask.nonzero().squeeze(1)

        return self._form("nodes", make)

    @property
    def rank(self) -> Tensor | None:
        """(num_cells,) int64: the node of each cell, -1 where there is none; None when full."""
        if self.mask is None:
            return None
        mask = self.mask
        return self._form("rank", lambda: torch.where(mask, mask.cumsum(0) - 1, -1))

    @property
    def batch(self) -> Tensor:
        """(N,) int64: the image of each node, ascending."""

        def make() -> Tensor:
            return torch.bucketize(self.nodes, self.cell_ptr[1:], right=True)

        return self._form("batch", make)

    @property
    def pos(self) -> Tensor:
        """(N, d) int64: the pixel of each node in its own image, height before width."""

        def make() -> Tensor:
            if self.size is not None:
                return lattice.positions(self.nodes, self.size)
            extents = torch.tensor(self.sizes, device=self.device)[self.batch]  # (N, d)
            cells = self.nodes - self.cell_ptr[self.batch]
            return lattice.positions(cells, extents.unbind(1))

        return self._form("pos", make)

    @property
    def counts(self) -> Tensor:
        """(B,) int64: nodes of each image."""

        def make() -> Tensor:
            return torch.bincount(self.batch, minlength=self.batch_size)

        return self._form("counts", make)
