"""What follows from the sites alone: numbers of cells and nodes, positions, images.

Each is computed once, in vectorised integer arithmetic, when somebody asks for it.
"""

from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from convgraph.errors import GraphError
from convgraph.graph import lattice
from convgraph.graph.lattice import Size
from convgraph.memo import Record, derived


class SiteNumbers(Record):
    """The numbers of a record of sites, which has the fields; see `Sites`."""

    sizes: tuple[Size, ...]
    size: Size | None
    mask: Tensor | None
    device: torch.device
    batch_size: int
    num_cells: int

    @property
    def num_nodes(self) -> int:
        """How many cells are nodes."""
        raise NotImplementedError

    @derived
    def cell_ptr(self) -> Tensor:
        """(B + 1,) int64: the first cell of each image, and the number of cells."""
        ends = list(accumulate((prod(size) for size in self.sizes), initial=0))
        if ends[-1] >= 2**63:
            raise GraphError(f"Sites: expected fewer than 2^63 pixels, got {ends[-1]}")
        return torch.tensor(ends, device=self.device)

    @derived
    def nodes(self) -> Tensor:
        """(N,) int64: the cell of each node, ascending."""
        if self.mask is None:
            lattice.check_listable(self.num_cells)
            return torch.arange(self.num_cells, device=self.device)
        found = self.mask.nonzero().squeeze(1)
        if len(found) != self.num_nodes:
            raise GraphError(
                f"Sites: the mask has {len(found)} nodes and had {self.num_nodes}; somebody wrote "
                "to it in place. Clone a mask before you change it, and build a new graph from it"
            )
        return found

    @derived
    def rank(self) -> Tensor | None:
        """(num_cells,) int64: the node of each cell, -1 where there is none; None when full."""
        if self.mask is None:
            return None
        found = torch.full((self.num_cells,), -1, device=self.device)
        found[self.nodes] = torch.arange(self.num_nodes, device=self.device)
        return found

    def node_at(self, cell: Tensor) -> Tensor:
        """Return the node of each cell, -1 where there is none."""
        return cell if self.rank is None else self.rank[cell]

    @derived
    def batch(self) -> Tensor:
        """(N,) int64: the image of each node, ascending."""
        return torch.bucketize(self.nodes, self.cell_ptr[1:], right=True)

    @derived
    def pos(self) -> Tensor:
        """(N, d) int64: the pixel of each node in its own image, height before width."""
        if self.size is not None:
            return lattice.positions(self.nodes, self.size)
        extents = torch.tensor(self.sizes, device=self.device)[self.batch]  # (N, d)
        cells = self.nodes - self.cell_ptr[self.batch]
        return lattice.positions(cells, extents.unbind(1))

    @derived
    def counts(self) -> Tensor:
        """(B,) int64: nodes of each image."""
        if self.mask is None:
            return self.cell_ptr.diff()
        return torch.bincount(self.batch, minlength=self.batch_size)
