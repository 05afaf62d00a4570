"""Sites: which pixels of which lattices are nodes.

A `Sites` record holds one lattice per image of a batch and, where not every pixel is a node, a
mask over all cells of all lattices. Cells and nodes are numbered in raster order (image, row,
column). The record is shared by every graph and every layer that lives on the same nodes, so
whatever is derived from it (positions, ranks, edges) is computed once and found again by identity.

This module may import errors, geometry's integer checks, lattice, kept and constant; it knows
nothing of kernels.
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, count
from math import prod
from typing import Any, TypeVar, final
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from convgraph import constant, lattice
from convgraph.errors import GraphError
from convgraph.geometry import as_int
from convgraph.kept import Kept, once
from convgraph.lattice import Size

T = TypeVar("T")

_BORN = count(1)

_FULL_GRIDS: "WeakValueDictionary[Hashable, Sites]" = WeakValueDictionary()


@final
class Sites:
    """The nodes of a batch of lattices: sizes, and a mask where pixels are missing.

    Build one with `Sites.full`, `Sites.from_mask` or `Sites.ragged`. Two records are the same only
    if they are the same object; full grids of equal size, batch and device are one object.

    Attributes:
        d: dimensions of every lattice, 1 to 3.
        sizes: one tuple of d ints (pixels) per image.
        mask: (num_cells,) bool over the cells of all images in raster order, or None when every
            cell is a node.
        num_nodes: how many cells are nodes.
        device: where the mask and everything derived from it live.
        batched: False when the graph came from a single image without a batch dimension.
        born: a number that grows from record to record, to tell which of two is the younger; 0
            for a record made while a compiler traces.
        token: names the record in keys; two records of one token mean the same nodes.
    """

    def __init__(
        self,
        sizes: tuple[Size, ...],
        mask: Tensor | None,  # (num_cells,) bool
        *,
        d: int,
        device: torch.device,
        batched: bool = True,
        root: "Sites | None" = None,
        num_nodes: int | None = None,
    ) -> None:
        """Keep the fields as they are; the class methods check and build them."""
        self.d = d
        self.sizes = sizes
        self.mask = mask
        self.device = device
        self.batched = batched
        self.batch_size = len(sizes)
        first = sizes[0] if sizes else None
        # On a ragged batch there is no common size; with one distinct size the batch is uniform.
        self.size = first if first is None or sizes.count(first) == len(sizes) else None
        self.num_cells = (
            len(sizes) * prod(first) if self.size and first else sum(prod(s) for s in sizes)
        )
        if num_nodes is None:
            num_nodes = self.num_cells if mask is None else int(mask.sum())
        self.num_nodes = num_nodes
        self.born = 0 if torch.compiler.is_dynamo_compiling() else next(_BORN)
        self.token: Hashable = self.born
        self._root = root
        self._memo: dict[Any, Any] = {}

    # -- builders ---------------------------------------------------------------------------

    @classmethod
    def full(
        cls,
        batch_size: int,
        size: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        batched: bool = True,
    ) -> "Sites":
        """Every pixel of `batch_size` lattices of one size is a node. Costs O(batch_size).

        Example:
            >>> Sites.full(2, (4, 5)).num_nodes
            40
        """
        shape, where = lattice.checked_size(size), lattice.named_device(device)
        batch_size = as_int("Sites.full: batch_size", batch_size, least=0)
        if torch.compiler.is_dynamo_compiling():
            kept: Sites = constant.result(_SHELF, _full, batch_size, shape, where, batched)
            return kept
        return _full(batch_size, shape, where, batched)

    @classmethod
    def from_mask(
        cls,
        mask: Tensor,  # (B, *size) bool
        *,
        batched: bool = True,
    ) -> "Sites":
        """The True cells of a batch of equally sized masks are the nodes.

        Args:
            mask: (B, *size) bool, one lattice per image.
            batched: whether images have a batch dimension when they come back.

        Raises:
            DtypeError: the mask is not boolean.
        """
        lattice.check_bool(mask)
        size = lattice.checked_size(mask.shape[1:])
        if mask.shape[0] == 0:
            return cls.full(0, size, device=mask.device, batched=batched)
        sizes = (size,) * mask.shape[0]
        with constant.outside():
            flat = mask.detach().reshape(-1).clone()  # the caller may go on writing to his mask
            made = cls(sizes, flat, d=len(size), device=mask.device, batched=batched)
        if made.num_nodes == made.num_cells:
            return cls.full(mask.shape[0], size, device=mask.device, batched=batched)
        return made

    @classmethod
    def ragged(
        cls,
        sizes: Sequence[Sequence[int]],
        masks: Sequence[Tensor | None] | None = None,
        *,
        device: torch.device | str = "cpu",
        batched: bool = True,
    ) -> "Sites":
        """Lattices of any sizes, all of one dimension, each with a mask or without.

        Args:
            sizes: one size (d ints) per image.
            masks: per image a bool tensor of that size, or None for a full lattice.
            device: where masks and derived forms live.
            batched: whether images have a batch dimension when they come back.

        Raises:
            GraphError: no image, sizes of different dimension, or a mask of another size.

        Example:
            >>> Sites.ragged([(2, 3), (4, 4)]).num_nodes
            22
        """
        shapes = tuple(lattice.checked_size(size) for size in sizes)
        if len({len(shape) for shape in shapes}) != 1:
            raise GraphError(
                "Sites.ragged: expected at least one image and one number of dimensions, "
                f"got sizes {shapes}"
            )
        where = lattice.named_device(device)
        given = list(masks) if masks is not None else [None] * len(shapes)
        if len(given) != len(shapes):
            raise GraphError(f"expected {len(shapes)} masks, one per image, got {len(given)}")
        if all(mask is None for mask in given):
            if len(set(shapes)) == 1:
                return cls.full(len(shapes), shapes[0], device=where, batched=batched)
            return cls(shapes, None, d=len(shapes[0]), device=where, batched=batched)
        with constant.outside():
            flat = torch.cat(
                [lattice.flat_mask(m, s, where) for m, s in zip(given, shapes, strict=True)]
            )
            made = cls(shapes, flat, d=len(shapes[0]), device=where, batched=batched)
        if made.num_nodes == made.num_cells:
            return cls.ragged(shapes, device=where, batched=batched)
        return made

    # -- what the record says ----------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether every cell of every lattice is a node."""
        return self.mask is None

    @property
    def density(self) -> float:
        """Nodes per cell, in [0, 1]; 1 for a graph without cells."""
        return self.num_nodes / self.num_cells if self.num_cells else 1.0

    @property
    def root(self) -> "Sites":
        """The record at the entrance of a network; itself unless a layer derived it."""
        return self if self._root is None else self._root

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """Return what `make()` gave the first time for this key, and keep it with the record."""
        return once(self._memo, key, make)

    def kin(self, key: Any, make: "Callable[[], Sites]") -> "Sites":
        """Return the sites that `make()` derived the first time for this key; see `kept`."""
        if torch.compiler.is_dynamo_compiling():
            return make()
        kept: Kept[Sites] | None = self._memo.get(key)
        if kept is not None:
            return _interned(kept.record(_root=self.root))
        with constant.outside():
            made = make()
        if made is not self:
            self.memo(key, lambda: Kept(made, *(["_root"] if made._root is self.root else [])))
        return made

    def readout(self) -> "Sites":
        """One pixel per image, every one a node."""
        if torch.compiler.is_dynamo_compiling():
            found: Sites = constant.result(self, _readout, self)
            return found
        return _readout(self)

    def _form(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The derived form of that name, made at most once; a compiler takes it as a constant."""
        if torch.compiler.is_dynamo_compiling():
            found: Tensor = constant.read(self, name)
            return found
        return self.memo(name, make)

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

    # -- other records derived from this one -------------------------------------------------

    def to(self, device: torch.device | str) -> "Sites":
        """The same sites on another device; asked twice, the same object comes back."""
        where = lattice.named_device(device)
        if where == self.device:
            return self
        if self.mask is None and self.size is not None and self._root is None:
            return Sites.full(self.batch_size, self.size, device=where, batched=self.batched)

        def make() -> Sites:
            mask = None if self.mask is None else self.mask.to(where)
            root = None if self._root is None else self._root.to(where)
            more: dict[str, Any] = {"num_nodes": self.num_nodes, "batched": self.batched}
            return Sites(self.sizes, mask, d=self.d, device=where, root=root, **more)

        return self.kin(("to", where), make)

    def derived(self, sizes: tuple[Size, ...], mask: Tensor | None) -> "Sites":
        """A record of the same batch on other lattices that remembers this one's root.

        Args:
            sizes: one size per image.
            mask: (num_cells of those sizes,) bool or None.
        """
        if mask is None and self.root.is_full and len(set(sizes)) == 1:
            return Sites.full(len(sizes), sizes[0], device=self.device, batched=self.batched)
        with constant.outside():
            made = Sites(
                sizes, mask, d=self.d, device=self.device, batched=self.batched, root=self.root
            )
        if mask is not None and made.num_nodes == made.num_cells:
            made.mask = None
        return made

    def mask_images(self) -> list[Tensor]:
        """One bool tensor of the image's size per image; all True for a full lattice."""
        if self.mask is None:
            return [torch.ones(s, dtype=torch.bool, device=self.device) for s in self.sizes]
        parts = self.mask.split([prod(size) for size in self.sizes])
        return [part.view(size) for part, size in zip(parts, self.sizes, strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is given, not what was derived; full grids come back as the one record."""
        fields = {"d": self.d, "device": self.device, "batched": self.batched, "root": self._root}
        return _unpickled, (self.size, self.sizes, self.mask, fields)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sites":
        """The record itself: it never changes, and whoever shares it finds its edges."""
        return self

    def __eq__(self, other: object) -> bool:
        """Identity: masks are never compared."""
        return self is other

    def __hash__(self) -> int:
        """Identity."""
        return id(self)

    def __repr__(self) -> str:
        """Say how many nodes on which lattices."""
        what = (
            f"{self.batch_size} x {lattice.by(self.size)}"
            if self.size
            else lattice.several(self.sizes)
        )
        share = "full" if self.is_full else f"density {self.density:.3f}"
        return f"Sites({what}, {self.num_nodes} nodes, {share}, {self.device})"


def _full(batch_size: int, size: Size, device: torch.device, batched: bool) -> Sites:
    """The one record of these full grids."""
    key = (batch_size, size, device, batched)
    found = _FULL_GRIDS.get(key)
    if found is None:
        found = Sites((size,) * batch_size, None, d=len(size), device=device, batched=batched)
        found.token = key
        if batch_size == 0:
            found.size = size  # an empty batch still has an image size, as in torch
        _FULL_GRIDS[key] = found
    return found


_SHELF = constant.Shelf()


def _readout(sites: Sites) -> Sites:
    one = (1,) * sites.d
    if sites.batch_size == 0:  # no image tells its size, so the record has to
        return Sites.full(0, one, device=sites.device, batched=sites.batched)
    return sites.kin("readout", lambda: sites.derived((one,) * sites.batch_size, None))


def _interned(sites: Sites) -> Sites:
    """The one record of these full grids; any other as it is."""
    return _FULL_GRIDS.setdefault(sites.token, sites) if sites.token != sites.born else sites


def _unpickled(
    size: Size | None, sizes: tuple[Size, ...], mask: Tensor | None, fields: dict[str, Any]
) -> Sites:
    """The record of these fields."""
    if mask is None and fields["root"] is None and size is not None:
        return _full(len(sizes), size, fields["device"], fields["batched"])
    return Sites(sizes, mask, **fields)
