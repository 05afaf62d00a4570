"""Maps of few pixels as nodes, where an absent pixel is no token and neighbours may lie in a space.

What hears such a map in ways of its own, attention say, is then asked by the rules of `convert`:
it means over all the image's parts what it means in `cg.to_graph`.
"""

from collections.abc import Mapping
from dataclasses import fields
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph.convert.tensor import GraphTensor, wrapped
from convgraph.convert.value import Spatial
from convgraph.errors import ConversionError
from convgraph.graph import places
from convgraph.graph.network_sites import at
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites
from convgraph.scale.plan import Plan
from convgraph.scale.sites import Lies, PlannedSites

pytree.register_pytree_node(  # what passes know is a tree, whose tensors learn
    Spatial,
    lambda one: ([getattr(one, field.name) for field in fields(one)], None),
    lambda children, _: Spatial(*children),
)


def as_nodes(plan: Plan, value: int, x: Tensor, sites: PlannedSites) -> Tensor:
    """Return a whole map as a tensor of its nodes; as it is where every pixel of a plane is there.

    Args:
        plan: of the network.
        value: the map's number.
        x: in the shape of the run, batch first.
        sites: which are there.
    """
    there = sites.whole(value)
    if there is None and plan.space is None:
        return x
    axes, size = plan.axes[value] or (), plan.array(value)
    last = tuple(range(-len(axes), 0))
    moved = x.movedim(axes, last)
    images = moved.reshape(x.shape[0], -1, *size)
    here = None if there is None else torch.from_numpy(there).to(x.device)
    graph = PixelGraph.from_image(images, here, d=len(size), on=plan.space)
    if value in sites.lies:  # what is made of it may lie where pixels are again
        graph = PixelGraph(graph.x, _placed(sites.lies[value], images, plan.space))
    return graph.tensor().reshape(moved.shape).movedim(last, axes)


MOST = 2**28
"""Pixels of an image whose mask is held as a whole."""


def _placed(lies: Lies, images: Tensor, space: Any) -> Sites:
    """The sites of a map of nodes, derived from those of the image, in every image of a batch.

    Raises:
        ConversionError: the image is too large for that.
    """
    root = lies.root
    if prod(root.size) > MOST:
        raise ConversionError(
            f"expected an image of at most {MOST} pixels where tokens of a masked one are heard as "
            f"a whole, got {prod(root.size)}; split the network before it"
        )
    whole = torch.from_numpy(root.some([places.whole(n).pixels(n) for n in root.size]))
    mask = whole.to(images.device).expand(len(images), *root.size)
    return at(Sites.from_mask(mask, space=space), lies.spans)


def dense(x: Tensor) -> Tensor:
    """Return what may be nodes as an ordinary tensor, 0 where a site is absent."""
    return x.to_dense() if isinstance(x, GraphTensor) else x


def taken_up(known: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return values that are known with those that are nodes as tensors of nodes."""
    nodes = {key[1]: wrapped(one) for key, one in known.items() if _of_nodes(key)}
    return {key: one for key, one in known.items() if not _of_nodes(key)} | nodes


def laid_down(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return values with those that are nodes as ordinary tensors, and beside them their nodes."""
    found = {key: dense(one) for key, one in value.items()}
    nodes = {key: one.value for key, one in value.items() if isinstance(one, GraphTensor)}
    return found | {("nodes", key): one for key, one in nodes.items()}


def _of_nodes(key: Any) -> bool:
    return isinstance(key, tuple) and key[0] == "nodes"
