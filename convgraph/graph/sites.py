"""Sites: which pixels of which lattices are nodes.

A `Sites` record holds one lattice per image of a batch and, where not every pixel is a node, a
mask over all cells of all lattices. Cells and nodes are numbered in raster order (image, row,
column). The record is shared by every graph and every layer that lives on the same nodes, so
whatever is derived from it (positions, ranks, edges) is computed once and found again by identity.
"""

from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from itertools import count
from math import prod
from threading import Lock
from typing import Any, TypeVar, final
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from convgraph import memo
from convgraph.door import door
from convgraph.errors import GraphError
from convgraph.geometry.kernel import as_int
from convgraph.geometry.space import Space
from convgraph.graph import lattice
from convgraph.graph.lattice import Size
from convgraph.graph.places import Span, whole
from convgraph.graph.site_numbers import SiteNumbers
from convgraph.memo import Kept, Memo

T = TypeVar("T")

_SERIAL = count(1)

_ONE_AT_A_TIME = Lock()

_FULL_GRIDS: "WeakValueDictionary[Hashable, Sites]" = WeakValueDictionary()

memo.on_forget(_FULL_GRIDS.clear)


@final
class Sites(SiteNumbers):
    """The nodes of a batch of lattices: sizes, and a mask where pixels are missing.

    Build one with `Sites.full`, `Sites.from_mask` or `Sites.ragged`. Two records are the same only
    if they are the same object; full grids of equal size, batch and device are one object.

    Attributes:
        d: dimensions of every lattice, 1 to 3.
        sizes: one tuple of d ints (pixels) per image.
        mask: (num_cells,) bool over the cells of all images in raster order, or None when every
            cell is a node.
        device: where the mask and everything derived from it live.
        batched: False when the graph came from a single image without a batch dimension.
        space: where the pixels lie, see `convgraph.geometry.space`; None is the plane.
        serial: a number that grows from record to record, to tell which of two is the younger.
        token: names the record in keys; two records of one token mean the same nodes.
        place: where each position lies on the root, a Span an axis, or such a tuple an image where
            sizes differ; None on the root itself.
        origin: of a lattice that a network makes for itself, as windows are, that which it is made
            of, and `made`, how; None of any other.

    Example:
        >>> sites = Sites.from_mask(torch.tensor([[[True, False], [True, True]]]))
        >>> sites.num_nodes, sites.pos.tolist()
        (3, [[0, 0], [1, 0], [1, 1]])
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
        space: Space | None = None,
        place: Any = None,
        held: bool = False,
    ) -> None:
        """Keep the fields as they are; the class methods check and build them."""
        self.d = d
        self.sizes = sizes
        self.mask = mask
        self.device = device
        self.batched = batched
        self.space = space
        self.batch_size = len(sizes)
        first = sizes[0] if sizes else None
        # On a ragged batch there is no common size; with one distinct size the batch is uniform.
        self.size = first if first is None or sizes.count(first) == len(sizes) else None
        self.num_cells = (
            len(sizes) * prod(first) if self.size and first else sum(prod(s) for s in sizes)
        )
        if num_nodes is None:
            num_nodes = self.num_cells if mask is None else int(mask.sum())
        self._num_nodes = num_nodes
        self.serial = next(_SERIAL)
        self.token: Hashable = self.serial
        self._root = root
        self.place = place
        self.held = held
        self.origin: Sites | None = None
        self.made: Any = None
        self._memo = Memo()
        self._alive: WeakValueDictionary[Hashable, Sites] | None = None

    # -- builders ---------------------------------------------------------------------------

    @classmethod
    @door
    def full(
        cls,
        batch_size: int,
        size: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        batched: bool = True,
        space: Space | None = None,
    ) -> "Sites":
        """Every pixel of `batch_size` lattices of one size is a node. Costs O(batch_size).

        Example:
            >>> Sites.full(2, (4, 5)).num_nodes
            40
        """
        batch_size = as_int("Sites.full: batch_size", batch_size, least=0)
        return all_pixels(batch_size, size, device, batched, space)

    @classmethod
    @door
    def from_mask(
        cls,
        mask: Tensor,  # (B, *size) bool
        *,
        batched: bool = True,
        space: Space | None = None,
    ) -> "Sites":
        """The True cells of a batch of equally sized masks are the nodes.

        Args:
            mask: (B, *size) bool, one lattice per image.
            batched: whether images have a batch dimension when they come back.
            space: where the pixels lie; None is the plane.

        Raises:
            DtypeError: the mask is not boolean.
        """
        lattice.check_bool(mask)
        size = lattice.checked_size(mask.shape[1:])
        if mask.shape[0] == 0:
            return all_pixels(0, size, mask.device, batched, space)
        where = lattice.named_device(mask.device)
        made: Sites = _masked((size,) * mask.shape[0], [mask], where, batched, space)
        return made

    @classmethod
    @door
    def ragged(
        cls,
        sizes: Sequence[Sequence[int]],
        masks: Sequence[Tensor | None] | None = None,
        *,
        device: torch.device | str = "cpu",
        batched: bool = True,
        space: Space | None = None,
    ) -> "Sites":
        """Lattices of any sizes, all of one dimension, each with a mask or without.

        Args:
            sizes: one size (d ints) per image.
            masks: per image a bool tensor of that size, or None for a full lattice.
            device: where masks and derived forms live.
            batched: whether images have a batch dimension when they come back.
            space: where the pixels lie; None is the plane.

        Raises:
            GraphError: no image, sizes of different dimension, or a mask of another size.

        Example:
            >>> Sites.ragged([(2, 3), (4, 4)]).num_nodes
            22
        """
        for name, given in (("sizes", sizes), ("masks", [] if masks is None else masks)):
            if not isinstance(given, (list, tuple)):
                raise GraphError(
                    f"Sites.ragged: expected {name} as a list, one an image, "
                    f"got {type(given).__name__}"
                )
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
            return memo.result(_SHELF, _all_nodes, shapes, where, batched, space)
        flat = [lattice.flat_mask(m, s, where) for m, s in zip(given, shapes, strict=True)]
        made: Sites = _masked(shapes, flat, where, batched, space)
        return made

    # -- what the record says ----------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        """How many cells are nodes; a number that stays open, to a tracer for all masks."""
        by = memo.lender() if memo.LENDERS else None
        known = by is None or self.mask is None
        return self._num_nodes if known else by.count(self)  # type: ignore[union-attr]

    @property
    def is_full(self) -> bool:
        """Whether every cell is a node and lies in the plane, so that dense operators apply."""
        return self.mask is None and self.space is None

    @property
    def is_array(self) -> bool:
        """Whether the nodes are all pixels of images of one size, in whatever space."""
        return self.mask is None and self.size is not None

    @property
    def density(self) -> float:
        """Nodes per cell, in [0, 1]; 1 for a graph without cells."""
        return self.num_nodes / self.num_cells if self.num_cells else 1.0

    @property
    def root(self) -> "Sites":
        """The record at the entrance of a network; itself unless a layer derived it."""
        return self if self._root is None else self._root

    def memo_sites(self, key: Any, make: "Callable[[], Sites]") -> "Sites":
        """Return the sites that `make()` derived the first time for this key; see `memo`.

        What is older than this record is not kept, so that records keep each other in one direction
        only; full grids are found again without.
        """
        if self._alive is None:  # most records are never asked
            self._alive = WeakValueDictionary()
        found = self._alive.get(key)
        if found is not None:
            return found
        kept: Kept[Sites] | None = self._memo.get(key)
        if kept is None:
            with memo.outside():
                made = make()
            if made.serial <= self.serial:
                return made
            points = (("_root", made._root is self.root), ("origin", made.origin is self))
            back = tuple(name for name, is_back in points if is_back)
            kept = self.memo(key, lambda: Kept(made, *back))
        found = kept.record(_root=self.root, origin=self)
        return self._alive.setdefault(key, _interned(found))

    def place_of(self, image: int) -> tuple[Span, ...]:
        """Where the positions of an image lie on the root, axis by axis."""
        if self.place is None:
            return tuple(map(whole, self.sizes[image]))
        found: tuple[Span, ...] = self.place
        return found if isinstance(found[0], Span) else found[image]

    def readout(self) -> "Sites":
        """One pixel per image, every one a node."""
        return memo.result(self, _readout, self)

    def released(self) -> "Sites":
        """The same nodes with a mask that is not held: a full grid, where no pixel is missing."""
        more: dict[str, Any] = {"device": self.device, "batched": self.batched, "space": self.space}
        if self.num_nodes == self.num_cells and self.size is not None:
            return all_pixels(self.batch_size, self.size, self.device, self.batched, self.space)
        return self.memo_sites("released", lambda: Sites(self.sizes, self.mask, d=self.d, **more))

    # -- other records derived from this one -------------------------------------------------

    def to(self, device: torch.device | str) -> "Sites":
        """The same sites on another device; asked twice, the same object comes back."""
        where = lattice.named_device(device)
        if where == self.device:
            return self
        return memo.result(self, _moved, self, where)

    def derived(self, sizes: tuple[Size, ...], mask: Tensor | None) -> "Sites":
        """A record of the same batch on other lattices that remembers this one's root.

        Args:
            sizes: one size per image.
            mask: (num_cells of those sizes,) bool or None.
        """
        space = self.space
        if mask is None and self.root.mask is None and len(set(sizes)) == 1:
            return all_pixels(len(sizes), sizes[0], self.device, self.batched, space)
        with memo.outside():
            made = Sites(
                sizes, mask, d=self.d, device=self.device, batched=self.batched, root=self.root,
                space=space, held=self.held,
            )  # fmt: skip
            if mask is not None and made.num_nodes == made.num_cells and not self.held:
                made.mask = None
        return made

    def holding(self) -> "Sites":
        """The same nodes as a root of their own, whose mask is held; see `held`."""
        return self.memo_sites("holding", lambda: Sites(
            self.sizes, torch.cat([one.reshape(-1) for one in self.mask_images()]), d=self.d,
            device=self.device, batched=self.batched, space=self.space, held=True,
        ))  # fmt: skip

    def mask_images(self) -> list[Tensor]:
        """One bool tensor of the image's size per image; all True for a full lattice."""
        if self.mask is None:
            return [torch.ones(s, dtype=torch.bool, device=self.device) for s in self.sizes]
        parts = self.mask.split([prod(size) for size in self.sizes])
        return [part.view(size) for part, size in zip(parts, self.sizes, strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is given, not what was derived; full grids come back as the one record."""
        fields = {
            "d": self.d, "batched": self.batched, "num_nodes": self.num_nodes,
            "space": self.space, "place": self.place,
        }  # fmt: skip
        return _unpickled, (self.size, self.sizes, self.mask, self.device, self._root, fields)

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
        share = "full" if self.mask is None else f"density {self.density:.3f}"
        where = "" if self.space is None else f", on {self.space}"
        return f"Sites({what}, {self.num_nodes} nodes, {share}, {self.device}{where})"


_SHELF = memo.Shelf()


def all_pixels(
    batch_size: int,
    size: Sequence[int],
    device: torch.device | str,
    batched: bool,
    space: Space | None = None,
) -> Sites:
    """`Sites.full` of a batch that is a number already, of whoever stands behind a door."""
    shape, where = lattice.checked_size(size), lattice.named_device(device)
    return memo.result(_SHELF, full_grid, batch_size, shape, where, batched, space)


def full_grid(
    batch_size: int, size: Size, device: torch.device, batched: bool, space: Space | None = None
) -> Sites:
    """The one record of these full grids; `Sites.full` without its checks."""
    key = (batch_size, size, device, batched, space)
    found = _FULL_GRIDS.get(key)
    if found is None:
        more: dict[str, Any] = {"device": device, "batched": batched, "space": space}
        found = Sites((size,) * batch_size, None, d=len(size), **more)
        found.token = key
        if batch_size == 0:
            found.size = size  # an empty batch still has an image size, as in torch
        found = _first(key, found)
    return found


def _first(key: Hashable, made: Sites) -> Sites:
    """The record that is kept under a key: the first of those that several threads made."""
    with _ONE_AT_A_TIME:
        return _FULL_GRIDS.setdefault(key, made)


def _interned(sites: Sites) -> Sites:
    """The one record of these full grids; any other as it is."""
    return _first(sites.token, sites) if sites.token != sites.serial else sites


def _all_nodes(
    sizes: tuple[Size, ...], device: torch.device, batched: bool, space: Space | None
) -> Sites:
    """The record of full lattices of any sizes."""
    if len(set(sizes)) == 1:
        return full_grid(len(sizes), sizes[0], device, batched, space)
    return Sites(sizes, None, d=len(sizes[0]), device=device, batched=batched, space=space)


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="how many nodes a mask has is a fact of its data; build the PixelGraph outside of what "
    "is compiled and pass it in"
)
def _masked(
    sizes: tuple[Size, ...],
    masks: list[Tensor],
    device: torch.device,
    batched: bool,
    space: Space | None,
) -> Sites:
    """The record of lattices whose masks, of any shape, are these one after the other."""
    with memo.outside():
        # A copy: the caller may go on writing to his mask.
        flat = torch.cat([mask.detach().reshape(-1) for mask in masks])
        made = Sites(sizes, flat, d=len(sizes[0]), device=device, batched=batched, space=space)
    whole = made.num_nodes == made.num_cells
    return _all_nodes(sizes, device, batched, space) if whole else made


def _moved(sites: Sites, device: torch.device) -> Sites:
    """The same sites on another device."""
    if sites.mask is None and sites.size is not None and sites.root is sites:
        return full_grid(sites.batch_size, sites.size, device, sites.batched, sites.space)

    def make() -> Sites:
        mask = None if sites.mask is None else sites.mask.to(device)
        root = None if sites.root is sites else sites.root.to(device)
        more: dict[str, Any] = {
            "num_nodes": sites.num_nodes, "batched": sites.batched, "space": sites.space,
            "place": sites.place,
        }  # fmt: skip
        return Sites(sites.sizes, mask, d=sites.d, device=device, root=root, **more)

    return sites.memo_sites(("to", device), make)


def _readout(sites: Sites) -> Sites:
    one = (1,) * sites.d
    if sites.batch_size == 0:  # no image tells its size, so the record has to
        return full_grid(0, one, sites.device, sites.batched)
    if sites.space is None:
        return sites.memo_sites("readout", lambda: sites.derived((one,) * sites.batch_size, None))
    if sites.root.mask is None:  # one pixel an image lies nowhere
        return full_grid(sites.batch_size, one, sites.device, sites.batched)
    more: dict[str, Any] = {"device": sites.device, "batched": sites.batched, "root": sites.root}
    return sites.memo_sites(
        "readout", lambda: Sites((one,) * sites.batch_size, None, d=sites.d, **more)
    )


def _unpickled(
    size: Size | None,
    sizes: tuple[Size, ...],
    mask: Tensor | None,
    device: torch.device,
    root: Sites | None,
    fields: dict[str, Any],
) -> Sites:
    """The record of these fields, on the device to which `torch.load` has mapped its masks.

    Raises:
        GraphError: fields that no record has; a file may say anything.
    """
    _check_loaded(size, sizes, mask, root, fields)
    if mask is None and root is None and size is not None:
        return full_grid(len(sizes), size, device, fields["batched"], fields.get("space"))
    where = next((known.device for known in (mask, root) if known is not None), device)
    return Sites(sizes, mask, root=None if root is None else root.to(where), device=where, **fields)


def _held(mask: Tensor, cells: int, nodes: Any) -> int:
    """How many cells the mask keeps; without values (meta), any number that can be is believed."""
    if mask.is_meta:
        return nodes if isinstance(nodes, int) and 0 <= nodes <= cells else cells
    return int(mask.sum())


def _check_loaded(size: Any, sizes: Any, mask: Any, root: Any, fields: Any) -> None:
    """Refuse what was never pickled from a record."""
    d, nodes = fields.get("d"), fields.get("num_nodes")
    shapes = (*sizes, *(() if size is None else (size,)))
    if not all(isinstance(s, tuple) and len(s) == d and lattice.checked_size(s) for s in shapes):
        raise GraphError(
            f"Sites: expected sizes of {d} whole numbers in the file, got {shapes[:3]}"
        )
    cells = sum(prod(s) for s in sizes)
    whole = size is None or set(sizes) <= {size}
    if mask is not None:
        whole &= isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (cells,)
    held = _held(mask, cells, nodes) if whole and mask is not None else cells
    if not whole or held != nodes or not (root is None or isinstance(root, Sites)):
        raise GraphError(
            f"Sites: expected a bool mask of {cells} cells and {held} nodes in the file, got "
            f"{None if mask is None else tuple(mask.shape)} and {nodes}; the file was not written "
            "by torch.save(graph), or was changed"
        )


# So that `torch.load` takes a graph by its default, which imports nothing that a file names.
torch.serialization.add_safe_globals([_unpickled, Span, Fraction])
