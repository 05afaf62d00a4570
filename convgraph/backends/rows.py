"""Rows of a full grid seen as an image, and back: views where strides allow."""

from operator import index

import torch
from torch import Tensor

from convgraph.graph.edges import Edges

HALF = (torch.float16, torch.bfloat16)
"""Dtypes whose sums are kept in float32."""


def as_image(x: Tensor, edges: Edges) -> Tensor:
    """View rows (N, C) on a full grid as an image (B, C, *size), channels-last, no copy."""
    source = edges.source
    if source.size is None:  # refuses() has said so already; this is for the type checker
        raise TypeError("a ragged batch is no image")
    # index() keeps sizes constants under torch.compile(dynamic=True): a topology is fixed, and
    # inductor cannot order the strides of a channels-last view whose sizes are symbols.
    sizes = [index(n) for n in (source.batch_size, *source.size)]
    return x.view(*sizes, x.shape[1]).movedim(-1, 1)


def as_rows(image: Tensor) -> Tensor:
    """View an image (B, C, *size) as rows (N, C) with strides (C, 1); copies if it must."""
    channels = image.shape[1]
    rows = image.movedim(1, -1)
    count = image.numel() // channels if channels else 0
    return rows.reshape(count * channels).view(count, channels)
