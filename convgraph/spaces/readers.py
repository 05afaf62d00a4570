"""Users' formats as pixel graphs and back: numbered maps, cameras, arrays with shifted columns.

lattice[cell[k]] = given[k]        and the cells that nobody names are no pixels
"""

from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import GraphError
from convgraph.geometry.kernel import IntTable
from convgraph.geometry.space import Space
from convgraph.graph import images
from convgraph.graph.pixel_graph import PixelGraph


def nside(pixels: int) -> int:
    """Return n for a map of 12 n^2 pixels.

    Raises:
        GraphError: there is no such n.
    """
    n = isqrt(max(pixels, 0) // 12)
    if n < 1 or 12 * n * n != pixels:
        raise GraphError(f"HEALPix: expected maps of 12 n^2 pixels, got {pixels}")
    return n


def placed(
    values: Tensor,  # (B, C, K) or (C, K)
    mask: Any,  # (B, K) or (K,)
    size: tuple[int, int],
    cells: IntTable,  # (K,)
    on: Space,
) -> PixelGraph:
    """Return the graph of numbered pixels, each at its cell of an array of that size.

    Raises:
        GraphError: values or mask have another number of pixels.
    """
    who, count = type(on).__name__, len(cells)
    if not isinstance(values, Tensor) or values.dim() not in (2, 3) or values.shape[-1] != count:
        raise GraphError(
            f"{who}: expected values (B, C, K) or (C, K) of K = {count} pixels, got "
            f"{tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__}"
        )
    where = torch.from_numpy(np.ascontiguousarray(cells)).to(values.device)
    batch = values if values.dim() == 3 else values.unsqueeze(0)
    room = batch.new_zeros(*batch.shape[:2], size[0] * size[1])
    image = room.index_copy(2, where, batch).unflatten(2, size)
    there = torch.zeros(len(batch), size[0] * size[1], dtype=torch.bool, device=values.device)
    if mask is None:
        there[:, where] = True
    else:
        mask = images.as_mask(mask, values.device)
        if mask.dtype != torch.bool or tuple(mask.shape) not in ((count,), (len(batch), count)):
            raise GraphError(
                f"{who}: expected a bool mask of shape (K,) or (B, K) with K = {count} pixels, got "
                f"{mask.dtype} {tuple(mask.shape)}"
            )
        there[:, where] = mask.to(values.device).expand(len(batch), count)
    found = there.unflatten(1, size)
    if values.dim() == 2:
        image, found = image[0], found[0]
    return PixelGraph.from_image(image, mask=found, on=on)


def read_cells(
    graph: PixelGraph, size: tuple[int, int], cells: IntTable, fill: float, on: Space
) -> Tensor:
    """Return (B, C, K) or (C, K): what stands at each cell, `fill` where no pixel is.

    Raises:
        GraphError: the graph lies in another space, or its images have another size.
    """
    lies = graph.sites.space
    layouts = {getattr(one, "layout", "axial") for one in (lies, on)} - {"axial"}
    if type(lies) is not type(on) or len(layouts) > 1:
        raise GraphError(f"expected a graph on {on}, got one on {lies or 'the plane'}")
    if graph.sites.size != size:
        raise GraphError(
            f"expected a graph of images of size {size}, got {graph.sites.size or 'several sizes'}"
        )
    where: Any = torch.from_numpy(np.ascontiguousarray(cells)).to(graph.device)
    return graph.to_image(fill).flatten(-2)[..., where]
