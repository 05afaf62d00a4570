"""The same graph in other libraries' records: PyG's Data and networkx.

A record carries positions (pixels), image sizes and image indices as data of their own, so that
the way back is exact: nothing is guessed from zeros or from the largest coordinate.

networkx is imported when asked for.
"""

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from convgraph import arguments
from convgraph.errors import DeviceError, DtypeError, GraphError
from convgraph.geometry.kernel import KernelGeometry, Relation
from convgraph.geometry.space import Space
from convgraph.graph.edges import Edges, connect
from convgraph.graph.sites import Sites

if TYPE_CHECKING:
    import networkx

PLANE = "plane"
"""What stands for the space of images that lie in none."""


class NoNodes(Data):  # type: ignore[misc]
    """Data of images without nodes, which a loader counts all the same.

    PyG reads how many images there are off the largest number of a node's image.
    """

    def __inc__(self, key: str, value: Any, *more: Any, **named: Any) -> Any:
        """Say by how much the numbers of whoever comes next are raised."""
        return (
            len(self.image_size) if key == "batch" else super().__inc__(key, value, *more, **named)
        )


torch.serialization.add_safe_globals([NoNodes])


def to_data(
    sites: Sites,
    x: Tensor,  # (N, C)
    relation: Relation | None,
    y: Tensor | None,
) -> Data:
    """Return x, pos, image_size and, with a relation, typed edges as PyG's Data.

    Raises:
        GraphError: the relation's targets are not the nodes themselves.
    """
    data = (Data if len(x) else NoNodes)(x=x, pos=sites.pos.to(torch.float32))
    data.image_size = torch.tensor(sites.sizes, dtype=torch.int64, device=sites.device).view(
        -1, sites.d
    )
    # Copies: PyG writes into what it is given, and these are read by every graph on the sites.
    data.image_nodes, data.batch = sites.counts.clone(), sites.batch.clone()
    # Said of the plane too: a loader keeps what the first Data has, and drops all else in silence.
    data.space = PLANE if sites.space is None else sites.space
    if relation is not None:
        edges = _among_nodes(relation, sites)
        data.edge_index, data.edge_type = edges.edge_index.clone(), edges.edge_type.clone()
        if edges.edge_weight is not None:
            data.edge_weight = edges.edge_weight.to(x.dtype, copy=True)
    if y is not None:
        data.y = y
    return data


def from_data(data: Data, *, batched: bool) -> tuple[Tensor, Sites]:
    """Return features in raster order and the sites of a Data or Batch.

    Raises:
        GraphError: see `PixelGraph.from_data`.
    """
    for name in ("x", "pos", "image_size"):
        if getattr(data, name, None) is None:
            raise GraphError(
                f"PixelGraph.from_data: the Data has no {name!r}; expected x (N, C), pos (N, d) "
                "in pixels and image_size (B, d), as to_data() writes them"
            )
    x, image_size = data.x, torch.as_tensor(data.image_size, device=data.x.device)
    shapes = data.pos.dim(), data.pos.shape[-1], len(data.pos)
    if not image_size.dim() or shapes != (2, image_size.shape[-1], len(x)):
        raise GraphError(
            "PixelGraph.from_data: expected x (N, C), pos (N, d) and image_size (B, d), got "
            f"{tuple(x.shape)}, {tuple(data.pos.shape)} and {tuple(image_size.shape)}"
        )
    pos, image_size = data.pos.long(), image_size.view(-1, image_size.shape[-1])
    if not torch.equal(pos.to(data.pos.dtype), data.pos):
        raise GraphError("PixelGraph.from_data: pos lies between pixels; expected whole numbers")
    if not len(image_size):
        raise GraphError(
            "PixelGraph.from_data: a Data without images does not say how large they are; make an "
            "empty batch with PixelGraph.from_image(torch.empty(0, C, *size))"
        )
    batch = _image_of_each_node(data, len(x), len(image_size))
    extents = image_size[batch]
    if bool(((pos < 0) | (pos >= extents)).any()):
        raise GraphError("PixelGraph.from_data: a node lies outside its image_size")
    sizes = [tuple(size) for size in image_size.tolist()]
    empty = Sites.ragged(sizes, device=x.device)
    cell = pos[:, 0]
    for axis in range(1, pos.shape[1]):
        cell = cell * extents[:, axis] + pos[:, axis]
    cell = cell + empty.cell_ptr[batch]
    order = cell.argsort(stable=True)
    mask = torch.zeros(empty.num_cells, dtype=torch.bool, device=x.device)
    mask[cell] = True
    parts = mask.split([prod(size) for size in sizes])
    masks = [part.view(size) for part, size in zip(parts, sizes, strict=True)]
    sites = Sites.ragged(sizes, masks, device=x.device, batched=batched, space=_space(data))
    if sites.num_nodes != len(x):
        raise GraphError(
            f"PixelGraph.from_data: {len(x)} nodes on {sites.num_nodes} pixels; "
            "two nodes share a pixel"
        )
    return x[order], sites


def _space(data: Data) -> Space | None:
    """Where the pixels lie; a loader makes a list of it."""
    found = getattr(data, "space", None)
    several = set(found) if isinstance(found, list) else {found}
    if len(several) > 1:
        names = ", ".join(sorted(str(one) for one in several))
        raise GraphError(
            f"PixelGraph.from_data: expected images of one space, got {names}; load each space by "
            "a loader of its own"
        )
    space = several.pop() if several else None
    return None if space == PLANE else space


def _image_of_each_node(data: Data, num_nodes: int, num_images: int) -> Tensor:
    """Return (N,) int64 in [0, B).

    `batch` says so, but a DataLoader writes the number of the Data over it. That is the same where
    each Data holds one image; where one holds several, its nodes lie image by image and image_nodes
    counts them.
    """
    batch, counts = getattr(data, "batch", None), getattr(data, "image_nodes", None)
    loaded = getattr(data, "ptr", None) is not None
    if batch is None:
        batch = torch.zeros(num_nodes, dtype=torch.int64, device=data.x.device)
    who = "PixelGraph.from_data"
    arguments.tensor(who, "batch", batch, shape="(N,)")
    if batch.device != data.x.device:
        raise DeviceError(f"{who}: x on {data.x.device}, batch on {batch.device}; move one of them")
    if batch.is_floating_point() or batch.dtype == torch.bool:
        raise DtypeError(f"{who}: expected batch of an integer dtype, got {batch.dtype}")
    if batch.shape != (num_nodes,) or bool(((batch < 0) | (batch >= num_images)).any()):
        raise GraphError(
            f"PixelGraph.from_data: expected batch ({num_nodes},) in [0, {num_images}), the "
            f"images of image_size, got {tuple(batch.shape)}"
        )
    if not loaded:
        return batch.long()
    one_each = len(data.ptr) - 1 == num_images
    if counts is not None and counts.shape == (num_images,):
        present = batch.bincount(minlength=num_images)
        if one_each and bool((present <= counts).all()):
            return batch.long()
        if int(counts.sum()) == num_nodes:
            return torch.arange(num_images, device=batch.device).repeat_interleave(counts)
    elif one_each:
        return batch.long()
    raise GraphError(
        f"PixelGraph.from_data: {len(data.ptr) - 1} Data with {num_images} images in all, and "
        f"image_nodes does not tell which of the {num_nodes} nodes belongs to which; load Data of "
        "one image each (graph.to_data_list()), or keep the nodes that to_data() wrote"
    )


def to_networkx(sites: Sites, x: Tensor, relation: Relation | None) -> "networkx.MultiDiGraph":
    """Return nodes with x, pos and image, and edges with edge_type; see PixelGraph.to_networkx."""
    import networkx

    chosen = KernelGeometry(3, padding="same", d=sites.d) if relation is None else relation
    edges = _among_nodes(chosen, sites)
    made = networkx.MultiDiGraph()
    features = x.detach().cpu().tolist()
    positions, images = sites.pos.tolist(), sites.batch.tolist()
    made.add_nodes_from(
        (n, {"x": row, "pos": tuple(pos), "image": image})
        for n, (row, pos, image) in enumerate(zip(features, positions, images, strict=True))
    )
    pairs, types = edges.edge_index.t().tolist(), edges.edge_type.tolist()
    attributes: list[dict[str, float]] = [{"edge_type": tap} for tap in types]
    if edges.edge_weight is not None:
        for one, weight in zip(attributes, edges.edge_weight.tolist(), strict=True):
            one["edge_weight"] = weight
    made.add_edges_from((q, p, one) for (q, p), one in zip(pairs, attributes, strict=True))
    return made


def _among_nodes(relation: Relation, sites: Sites) -> Edges:
    edges = connect(relation, sites)
    if edges.target is not sites:
        raise GraphError(
            f"{relation} sends from {edges.num_sources} nodes to {edges.num_targets} other sites; "
            "one set of nodes holds only edges of stride 1 that keep the size "
            "(padding='same'); for others use convgraph.connect(geometry, graph)"
        )
    return edges
