"""PixelGraph: sites together with node features; images become nodes and come back.

    x[n] = image[batch(n), :, pos(n)]        n in raster order (image, row, column)

A channels-last image is already laid out like x, so it becomes nodes without a copy and comes back
without one. Masks and sizes are explicit data: nothing is ever inferred from zeros.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data._utils.collate import default_collate_fn_map

from convgraph import arguments, memo
from convgraph.door import described, door
from convgraph.errors import ArgumentError, DeviceError, GraphError, ShapeError
from convgraph.geometry.kernel import MAX_DIMENSIONS, Relation
from convgraph.geometry.space import Space
from convgraph.graph import images, interchange
from convgraph.graph.lattice import by, several
from convgraph.graph.sites import Sites, all_pixels
from convgraph.graph.sites_as_text import Where, from_text, to_text

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data


_AS_TENSOR = (
    "give graph.tensor() to torch's modules and functions, and read .graph of what they return"
)


@final
@dataclass(frozen=True, eq=False, repr=False)
class PixelGraph:
    """Node features on the pixels of a batch of images.

    Attributes:
        x: (N, C) of any dtype, strides (C, 1); row n belongs to the n-th node in raster order.
        sites: which pixels of which lattices are the nodes; shared by everything on them.

    Raises:
        ShapeError: x does not have one row per node.
        DeviceError: x and sites live on different devices.
        GraphError: x is no tensor, or sites are no Sites.

    Example:
        >>> image = torch.arange(24.0).view(2, 3, 2, 2)
        >>> graph = PixelGraph.from_image(image)
        >>> graph.x.shape, bool((graph.to_image() == image).all())
        (torch.Size([8, 3]), True)
    """

    x: Tensor  # (N, C)
    sites: Sites

    def __post_init__(self) -> None:
        """Check the invariants: a row per node, on the device of the sites."""
        if not isinstance(self.x, Tensor):
            return  # torch's pytree rebuilds records around placeholders
        if not isinstance(self.sites, Sites):
            raise GraphError(f"PixelGraph: expected Sites, got {type(self.sites).__name__}")
        arguments.tensor("PixelGraph", "x", self.x, shape="(N, C)")
        if self.x.dim() != 2 or self.x.shape[0] != self.sites.num_nodes:
            raise ShapeError(
                f"PixelGraph: expected x of shape (N, C) with N = {self.sites.num_nodes} nodes, "
                f"got {tuple(self.x.shape)}"
            )
        if self.x.device != self.sites.device:
            raise DeviceError(
                f"PixelGraph: x on {self.x.device}, sites on {self.sites.device}; move one of them"
            )
        if self.x.stride() != (self.x.shape[1], 1):
            object.__setattr__(self, "x", images.rows_of(self.x, self.x.shape[1]))

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any) -> Any:
        """Refuse a function of torch in words: it takes the tensor of a graph, not the graph."""
        called = getattr(function, "__name__", "a function of torch")
        raise ArgumentError(f"{called}: expected a tensor, got a PixelGraph; {_AS_TENSOR}")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what a part of a network that wants a tensor may be given."""
            why = f"{type(self).__name__!r} object has no attribute {name!r}"
            if not name.startswith("_") and hasattr(Tensor, name):
                why += f", which is a tensor's: {_AS_TENSOR}"
            raise AttributeError(why, name=name, obj=self)

    # -- images -------------------------------------------------------------------------------

    @classmethod
    @door
    def from_image(
        cls,
        image: Tensor | Sequence[Tensor],
        mask: Tensor | Sequence[Tensor | None] | None = None,
        *,
        d: int = 2,
        on: Space | None = None,
    ) -> "PixelGraph":
        """Turn an image, a batch of images or a list of images of any sizes into nodes.

        Args:
            image: (B, C, *size) or, without a batch dimension, (C, *size), any dtype and
                device; or a list of (C, *size) tensors whose sizes may differ.
            mask: bool (a tensor, or an array of NumPy), True where a pixel is a node: (B, *size),
                (B, 1, *size), or (*size) for all images alike; a list of masks (or None) for a
                list of images.
            d: dimensions of the lattice, 1 (signals) to 3 (volumes).
            on: where the pixels lie: `cg.Torus()`, `cg.HEALPix()`, ...; None is the plane.

        Returns:
            A graph with one node per (unmasked) pixel. A channels-last image is not copied.

        Raises:
            DtypeError: a mask that is not boolean.
            GraphError: another number of dimensions, a mask of another size, or an image that is
                none of the space's.
            DeviceError: the mask lives on another device.

        Example:
            >>> image = torch.ones(1, 3, 4, 4)
            >>> hole = torch.ones(4, 4, dtype=torch.bool)
            >>> hole[1:3, 1:3] = False
            >>> PixelGraph.from_image(image, mask=hole)
            PixelGraph(12 nodes of 16 pixels, 1 x 4x4, 3 channels, torch.float32, cpu)
        """
        if isinstance(d, bool) or not isinstance(d, int) or not 1 <= d <= MAX_DIMENSIONS:
            raise GraphError(f"PixelGraph.from_image: expected d in 1..{MAX_DIMENSIONS}, got {d!r}")
        if isinstance(image, (list, tuple)):
            return cls._from_list(list(image), mask, d, on)
        pixels = images.check_image(image, d)
        batched = pixels.dim() == d + 2
        batch = pixels if batched else pixels.unsqueeze(0)
        size, channels = tuple(batch.shape[2:]), batch.shape[1]
        rows = batch.movedim(1, -1)
        images.check_space(on, size)
        if mask is None:
            sites = all_pixels(batch.shape[0], size, batch.device, batched, on)
            return cls(images.rows_of(rows, channels), sites)
        mask = images.as_mask(mask, batch.device)
        if not isinstance(mask, Tensor):
            raise GraphError("PixelGraph.from_image: one image tensor takes one mask tensor")
        sites = Sites.from_mask(images.expand_mask(mask, batch), batched=batched, space=on)
        picked = rows[sites.mask.view(rows.shape[:-1])] if sites.mask is not None else rows
        return cls(images.rows_of(picked, channels), sites)

    @classmethod
    def _from_list(cls, given: list[Tensor], mask: Any, d: int, on: Space | None) -> "PixelGraph":
        if given and isinstance(given[0], Tensor):
            mask = images.as_mask(mask, given[0].device)
        images.check_list(given, mask, d)
        sizes, where = [image.shape[1:] for image in given], given[0].device
        for size in sizes:
            images.check_space(on, size)
        sites = Sites.ragged(sizes, mask, device=where, space=on)
        x = torch.cat([images.rows_of(image.movedim(0, -1), image.shape[0]) for image in given])
        return cls(x if sites.mask is None else x[sites.nodes], sites)

    def __add__(self, other: object) -> "PixelGraph":
        """Add the features of another graph, node by node.

        Raises:
            GraphError: the other has other nodes, though as many.

        Example:
            >>> graph = PixelGraph.from_image(torch.ones(1, 1, 2, 2))
            >>> (graph + graph).x.unique().item()
            2.0
        """
        if not isinstance(other, PixelGraph):
            return NotImplemented
        check_same_nodes((self, other), "graph + graph")
        return self.with_x(self.x + other.x)

    @door
    def to_image(self, fill: float = 0.0) -> Tensor:
        """Return the nodes as an image; the exact inverse of `from_image`.

        Args:
            fill: value of pixels that are no nodes.

        Returns:
            (B, C, *size), or (C, *size) when the graph came from an unbatched image; channels-last
            in memory, and a view of x when every pixel is a node.

        Raises:
            GraphError: the images have different sizes; use `to_images`.
        """
        size = self.sites.size
        if size is None:
            raise GraphError(
                f"PixelGraph.to_image: {self.sites.batch_size} images of different sizes do not "
                "fit one tensor; use to_images()"
            )
        rows = self._cells(fill).view(self.sites.batch_size, *size, self.num_channels)
        image = rows.movedim(-1, 1)
        return image if self.sites.batched else image.squeeze(0)

    def tensor(self) -> Tensor:
        """Return the graph as a tensor (B, C, *size) that any torch code takes.

        Returns:
            A `convgraph.convert.tensor.GraphTensor`, which computes on the nodes alone; nothing is
            copied. Its `graph` is a PixelGraph again.

        Raises:
            GraphError: images of several sizes.

        Example:
            >>> graph = PixelGraph.from_image(torch.ones(1, 3, 4, 4))
            >>> torch.nn.Conv2d(3, 2, 3)(graph.tensor()).shape
            torch.Size([1, 2, 2, 2])
        """
        made: Tensor = _MAKERS[0](self)
        return made

    @door
    def to_images(self, fill: float = 0.0) -> list[Tensor]:
        """Return one (C, *size) tensor per image, whatever their sizes; see `to_image`."""
        parts = self._cells(fill).split([prod(size) for size in self.sites.sizes])
        return [
            part.view(*size, self.num_channels).movedim(-1, 0)
            for part, size in zip(parts, self.sites.sizes, strict=True)
        ]

    def _cells(self, fill: float) -> Tensor:
        """(num_cells, C): x where a cell is a node, `fill` elsewhere."""
        if self.sites.mask is None:
            return self.x
        empty = self.x.new_full((self.sites.num_cells, self.num_channels), fill)
        return empty.index_copy(0, self.sites.nodes, self.x)

    # -- the same sites, other features ---------------------------------------------------------

    def with_x(self, x: Tensor) -> "PixelGraph":
        """The same nodes with other features (N, C')."""
        return PixelGraph(arguments.tensor("PixelGraph.with_x", "x", x, shape="(N, C)"), self.sites)

    @door
    def map(self, transform: Callable[[Tensor], Tensor]) -> "PixelGraph":
        """Apply a node transform, a function from (N, C) to (N, C'), to the features.

        Example:
            >>> PixelGraph.from_image(-torch.ones(1, 2, 2)).map(torch.relu).x.sum()
            tensor(0.)
        """
        made = arguments.tensor(
            "PixelGraph.map", "what transform returns", transform(self.x), shape="(N, C)"
        )
        return PixelGraph(made, self.sites)

    @door
    def to(self, *args: Any, **kwargs: Any) -> "PixelGraph":
        """Move to a device or a dtype; takes what `torch.Tensor.to` takes.

        Example:
            >>> PixelGraph.from_image(torch.ones(1, 2, 2)).to(torch.float64).x.dtype
            torch.float64
        """
        x = self.x.to(*args, **kwargs)
        return PixelGraph(x, self.sites.to(x.device))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle features and sites, which follow x to where `torch.load` has mapped it."""
        return _unpickled, (self.x, self.sites)

    # -- other forms ----------------------------------------------------------------------------

    @door
    def to_data(self, geometry: Relation | None = None, *, y: Tensor | None = None) -> "Data":
        """Return a `torch_geometric.data.Data` that PyG's DataLoader can batch.

        Args:
            geometry: with one, `edge_index` and `edge_type` of its edges whose targets are the
                nodes themselves (stride 1, unchanged size).
            y: label to carry along.

        Returns:
            Data with x (N, C), pos (N, d) pixels, image_size (B, d), image_nodes (B,), batch (N,),
            space (that of `from_image`, "plane" without one), and edge_index (2, E), edge_type (E,)
            if asked for.
        """
        return interchange.to_data(self.sites, self.x, geometry, y)

    def to_data_list(self, geometry: Relation | None = None) -> "list[Data]":
        """Return one Data per image; `torch_geometric.data.Batch` puts them together again."""
        return [image.to_data(geometry) for image in self.unbatch()]

    @classmethod
    @door
    def from_data(cls, data: "Data", *, batched: bool = True) -> "PixelGraph":
        """Return the graph of a Data or Batch that carries x, pos and image_size.

        Args:
            data: what `to_data` or PyG's DataLoader made. Nodes may come in any order, but image
                by image where a Data of several images went through a DataLoader.
            batched: whether `to_image` gives a batch dimension.

        Raises:
            GraphError: images of several spaces, image_size is missing (a size is never inferred
                from the largest coordinate) or names no image, shapes do not fit each other, a
                position is no pixel of its image, two nodes share a pixel, or a node belongs to no
                one image.
        """
        x, sites = interchange.from_data(data, batched=batched)
        return cls(x, sites)

    def to_networkx(self, geometry: Relation | None = None) -> "networkx.MultiDiGraph":
        """Return a `networkx.MultiDiGraph` with typed edges.

        Args:
            geometry: whose edges to draw; None takes the 3 x 3 neighbourhood with self-loops.

        Returns:
            Nodes 0..N-1 with attributes x (list of C floats), pos (tuple, pixels) and image; edges
            with attribute edge_type. A MultiDiGraph, because folded padding has parallel edges.
        """
        return interchange.to_networkx(self.sites, self.x, geometry)

    @classmethod
    def concat(cls, graphs: "Sequence[PixelGraph]") -> "PixelGraph":
        """Put graphs together as one batch; their images may have different sizes.

        Example:
            >>> small, large = torch.ones(1, 2, 2), torch.ones(1, 3, 3)
            >>> one = PixelGraph.concat([PixelGraph.from_image(i) for i in (small, large)])
            >>> one.num_nodes
            13
        """
        if not isinstance(graphs, (list, tuple)):
            raise GraphError(
                f"PixelGraph.concat: expected a list of graphs, got {type(graphs).__name__}"
            )
        for one in graphs:
            check_graph(one, "PixelGraph.concat")
        if not graphs:
            raise GraphError("PixelGraph.concat: expected at least one graph")
        for graph in graphs[1:]:
            images.check_same(graphs[0].x, graph.x)
            if graph.num_channels != graphs[0].num_channels:
                raise ShapeError(
                    f"PixelGraph.concat: expected {graphs[0].num_channels} channels in every one, "
                    f"got {graph.num_channels}"
                )
        if len({graph.sites.space for graph in graphs}) > 1:
            raise GraphError("PixelGraph.concat: expected images of one space, got several")
        sizes = [size for graph in graphs for size in graph.sites.sizes]
        if not sizes:  # only empty batches
            first: PixelGraph = graphs[0]
            return first
        masks = [mask for graph in graphs for mask in graph.sites.mask_images()]
        full, on = all(graph.sites.mask is None for graph in graphs), graphs[0].sites.space
        sites = Sites.ragged(sizes, None if full else masks, device=graphs[0].device, space=on)
        return cls(torch.cat([graph.x for graph in graphs]), sites)

    def unbatch(self) -> "list[PixelGraph]":
        """One graph per image, each a batch of one; `concat` puts them together again."""
        counts = self.sites.counts.tolist()
        masks, on = self.sites.mask_images(), self.sites.space
        return [
            PixelGraph(x, Sites.from_mask(mask.unsqueeze(0), space=on))
            for x, mask in zip(self.x.split(counts), masks, strict=True)
        ]

    # -- what it says about itself ----------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.sites.num_nodes

    @property
    def num_channels(self) -> int:
        """C, features per node."""
        return self.x.shape[1]

    @property
    def batch_size(self) -> int:
        """B, images."""
        return self.sites.batch_size

    @property
    def batch(self) -> Tensor:
        """(N,) int64: the image of each node."""
        return self.sites.batch

    @property
    def pos(self) -> Tensor:
        """(N, d) int64: the pixel of each node, height before width."""
        return self.sites.pos

    @property
    def mask(self) -> Tensor:
        """(B, *size) bool, or (*size) for an unbatched image: which pixels are nodes."""
        if self.sites.size is None:
            raise GraphError("images of different sizes have no common mask; see sites.mask_images")
        shape = (self.batch_size, *self.sites.size)
        flat = self.sites.mask
        if flat is None:
            stacked = torch.ones(shape, dtype=torch.bool, device=self.device)
        else:
            stacked = flat.view(shape).clone()
        return stacked if self.sites.batched else stacked.squeeze(0)

    @property
    def device(self) -> torch.device:
        """Where x lives."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of x."""
        return self.x.dtype

    def __repr__(self) -> str:
        """Say nodes, pixels, sizes, channels, dtype and device."""
        s, x = self.sites, self.x
        batch = f"{s.batch_size} x {by(s.size)}" if s.size else several(s.sizes)
        nodes = f"{s.num_nodes} nodes" + ("" if s.mask is None else f" of {s.num_cells} pixels")
        on = "" if s.space is None else f", on {s.space}"
        return f"PixelGraph({nodes}, {batch}, {x.shape[1]} channels, {x.dtype}, {x.device}{on})"


_MAKERS: "list[Callable[[PixelGraph], Tensor]]" = []


def tensors_by(maker: "Callable[[PixelGraph], Tensor]") -> None:
    """Say who makes a tensor of a graph: the room that has one, which lies above this one."""
    _MAKERS[:] = [maker]


def _unpickled(x: Tensor, sites: Sites) -> PixelGraph:
    return PixelGraph(x, sites.to(x.device))


def _flatten(graph: PixelGraph) -> tuple[list[Any], Where]:
    return [graph.x], memo.result(graph.sites, Where, graph.sites)


def _unflatten(children: Any, where: Where) -> PixelGraph:
    return PixelGraph(cast("Tensor", next(iter(children))), where.sites)


def _flatten_with_keys(graph: PixelGraph) -> tuple[list[tuple[Any, Any]], Where]:
    return [(pytree.GetAttrKey("x"), graph.x)], memo.result(graph.sites, Where, graph.sites)


def check_same_nodes(graphs: Sequence[PixelGraph], who: str) -> None:
    """Refuse graphs that do not live on the same pixels.

    Raises:
        GraphError: the text says which, and the way out.
    """
    for graph in graphs:
        check_graph(graph, who)
        if Where(graph.sites) != Where(graphs[0].sites):
            raise GraphError(
                f"{who}: expected graphs on the same nodes, got {graphs[0].sites} and "
                f"{graph.sites}; on the union of both: (a.tensor() + b.tensor()).graph"
            )


@door
def cat(graphs: Sequence[PixelGraph]) -> PixelGraph:
    """Return graphs on the same nodes as one, their channels side by side.

    Args:
        graphs: at least one, each of features (N, C_i).

    Returns:
        A graph of features (N, sum of C_i).

    Raises:
        GraphError: no graph, or graphs on different pixels.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 3, 2, 2))
        >>> cat([graph, graph]).num_channels
        6
    """
    given: Any = graphs
    if not isinstance(given, (list, tuple)) or not given:
        raise GraphError(f"cat: expected a list of graphs, got {given!r}")
    check_same_nodes(graphs, "cat")
    first: PixelGraph = graphs[0]
    return first.with_x(torch.cat([graph.x for graph in graphs], 1))


def check_graph(graph: object, who: str) -> None:
    """Refuse what is no pixel graph, and say the way out.

    Args:
        graph: what a layer or a function was called with.
        who: its name, for the error text.

    Raises:
        GraphError: it is none, or it holds no tensor.
    """
    x: object = graph.x if isinstance(graph, PixelGraph) else None
    if not isinstance(x, Tensor):
        holds = f" with x {described(x)}" if isinstance(graph, PixelGraph) else ""
        raise GraphError(
            f"{who}: expected a PixelGraph, got {described(graph)}{holds}; "
            "wrap an image with PixelGraph.from_image(image)"
        )


# x is the only leaf; the sites are a constant of whatever is compiled or exported. (torch's own
# register_dataclass would make the sites a leaf, and torch.export takes tensors as leaves only.)
pytree.register_pytree_node(
    PixelGraph,
    _flatten,
    _unflatten,
    flatten_with_keys_fn=_flatten_with_keys,
    serialized_type_name="convgraph.PixelGraph",
    to_dumpable_context=to_text,
    from_dumpable_context=from_text,
)
pytree.register_constant(Where)
default_collate_fn_map[PixelGraph] = lambda batch, **_: PixelGraph.concat(batch)
torch.serialization.add_safe_globals([_unpickled])
