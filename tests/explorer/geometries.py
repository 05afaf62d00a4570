"""A table of geometries on small integers, with torch's answer to each.

Read by the browser tests; every mode, stride, dilation, groups, transposed kernels and masks.
"""

from typing import Any

import torch
from torch import Tensor

import convgraph as cg

TABLE: tuple[dict[str, Any], ...] = (
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 1)},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "dilation": 2, "padding": 2},
    {"kernel_size": (3, 2), "dilation": (1, 3), "stride": (1, 2), "padding": (2, 3)},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4},
    {"kernel_size": 5, "padding": 4},
    {"kernel_size": 1, "padding": 2},
    *(
        {"kernel_size": 3, "padding": 2, "padding_mode": mode, **more}
        for mode in ("reflect", "replicate", "circular")
        for more in ({}, {"stride": 2}, {"dilation": 2}, {"groups": 2, "stride": (1, 3)})
    ),
    {"transposed": True, "kernel_size": 3},
    {"transposed": True, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"transposed": True, "kernel_size": 2, "stride": 3, "groups": 2},
    {"transposed": True, "kernel_size": (3, 2), "stride": (2, 1), "dilation": (2, 3)},
    {"kernel_size": 3, "padding": 4},
)


def drawn(
    row: dict[str, Any], channels: int, size: tuple[int, int], seed: int, masked: bool,
    on: Any = None,
) -> tuple[torch.nn.Module, cg.PixelGraph]:  # fmt: skip
    """Return a torch layer with whole weights, and the graph of a whole image."""
    draw = torch.Generator().manual_seed(seed + 100 * masked)
    arguments = dict(row)
    kind = torch.nn.ConvTranspose2d if arguments.pop("transposed", False) else torch.nn.Conv2d
    layer = kind(channels, 2 * channels, dtype=torch.float64, **arguments)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-9, 10, parameter.shape, generator=draw))
    image = torch.randint(-9, 10, (1, channels, *size), generator=draw).double()
    mask = torch.rand((1, *size), generator=draw) > 0.4 if masked else None
    return layer, cg.PixelGraph.from_image(image, mask=mask, on=on)


def build(row: int, masked: bool) -> tuple[torch.nn.Module, cg.PixelGraph, Tensor]:
    """Return a layer and a graph as `drawn`, and torch's output."""
    layer, graph = drawn(TABLE[row], 4, (7, 6), row, masked)
    with torch.no_grad():
        return layer, graph, layer(graph.to_image(fill=0.0))
