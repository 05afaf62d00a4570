"""What the page opens with: a layer and an image as plain numbers."""

from typing import Any

import torch
from torch import Tensor

from convgraph.errors import ConversionError, GraphError, ShapeError
from convgraph.geometry.space import Space
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import DepthwiseSeparableConv, GraphConv2d, GraphConvNd, GraphConvTranspose2d
from convgraph.spaces import Hexagonal, Torus

MAX_PIXELS = 16
"""Pixels along an axis that stay readable."""
MAX_CHANNELS = 64
"""Channels that a browser sums while a pointer moves."""


def state_of(layer: Any, image: Tensor | PixelGraph | None = None) -> dict[str, Any]:
    """Return the record that the page opens with, ready for JSON.

    Args:
        layer: a 2-D convolution of torch or of convgraph, transposed or not, or a
            DepthwiseSeparableConv; None opens the page's own lessons.
        image: (C, H, W), (1, C, H, W) or the PixelGraph of one image, masked or not, in the plane,
            on hexagons or on a torus, at most 16 x 16 pixels; None draws whole numbers 0 to 9 on
            8 x 8 pixels.

    Returns:
        {} without a layer, else {"config": ..., "split": ... or None}; weights lie as in torch.

    Raises:
        ConversionError: the layer is no such convolution, or has more than 64 channels.
        GraphError: the image is no single 2-D image, too large to be read, or in a space that the
            page does not draw.
        GeometryError: layer and image do not fit.
        ShapeError: the image has another number of channels than the layer reads.

    Example:
        >>> state_of(torch.nn.Conv2d(1, 2, 3))["config"]["kernel_size"]
        [3, 3]
    """
    if layer is None:
        if image is not None:
            raise ConversionError("cg.explore: expected a layer beside the image, got None")
        return {}
    conv, split = _conv(layer)
    channels = max(conv.in_channels, conv.out_channels)
    if split is not None:
        channels = max(channels, layer.pointwise.out_channels)
    if channels > MAX_CHANNELS:
        raise ConversionError(
            f"cg.explore: expected at most {MAX_CHANNELS} channels, got {channels}; "
            "slice the weight of a copy"
        )
    pixels, mask, space = _image(image, conv.in_channels)
    height, width = pixels.shape[1:]
    # Whether kernel and image fit is said here, by geometry's own error, and not on a blank page.
    geometry = conv.geometry
    out = geometry.output_size((height, width))
    if space is not None:
        space.check(geometry, (height, width), out)
        space.seen(geometry)
    config: dict[str, Any] = {
        "size": [height, width],
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": list(geometry.kernel_size),
        "stride": list(geometry.stride),
        "padding": [list(pair) for pair in geometry.padding],
        "dilation": list(geometry.dilation),
        "output_padding": list(geometry.output_padding),
        "padding_mode": "zeros" if isinstance(space, Torus) else geometry.padding_mode,
        "space": _space(space),
        "footprint": None if geometry.footprint is None else list(geometry.footprint),
        "transposed": geometry.transposed,
        "groups": conv.groups,
        "weight": _numbers(conv.weight, "weight"),
        "bias": None if conv.bias is None else _numbers(conv.bias, "bias"),
        "image": _numbers(pixels, "image"),
        "mask": None if mask is None else mask.flatten().tolist(),
    }
    if split is None:
        return {"config": config, "split": None}
    # The page shows the kernel that both stages make together beside the stages themselves.
    outs, ins = layer.pointwise.out_channels, conv.in_channels
    mix = layer.pointwise.weight.detach().flatten(1).double().cpu()
    shape = conv.weight.detach().flatten(1).double().cpu()
    config.update(
        out_channels=outs,
        groups=1,
        weight=(mix[:, :, None] * shape[None]).reshape(outs, ins, -1).flatten().tolist(),
        bias=None if layer.pointwise.bias is None else _numbers(layer.pointwise.bias, "bias"),
    )
    return {"config": config, "split": split}


def _conv(layer: Any) -> tuple[GraphConvNd, dict[str, Any] | None]:
    """Return the layer in its graph form, and the split where it is one."""
    if isinstance(layer, DepthwiseSeparableConv):
        first: GraphConvNd = layer.depthwise
        split = {
            "depthwise": _numbers(first.weight, "weight"),
            "pointwise": _numbers(layer.pointwise.weight, "weight"),
            "depthwise_bias": None if first.bias is None else _numbers(first.bias, "bias"),
        }
        return _planar(first), split
    if isinstance(layer, GraphConvNd):
        return _planar(layer), None
    if isinstance(layer, torch.nn.ConvTranspose2d):
        return GraphConvTranspose2d.from_dense(layer), None
    if isinstance(layer, torch.nn.Conv2d):
        return GraphConv2d.from_dense(layer), None
    raise ConversionError(
        "cg.explore: expected a 2-D convolution (torch.nn.Conv2d, torch.nn.ConvTranspose2d, a "
        f"GraphConvNd with d = 2, DepthwiseSeparableConv), got {type(layer).__name__}; "
        "pass one layer of a network at a time"
    )


def _planar(layer: GraphConvNd) -> GraphConvNd:
    if layer.geometry.d != 2:
        raise ConversionError(
            f"cg.explore: expected a layer with d = 2 lattice axes, got {layer} with "
            f"d = {layer.geometry.d}"
        )
    return layer


def _space(space: Space | None) -> str:
    """The word for a space on the page."""
    if space is None:
        return "plane"
    if isinstance(space, Hexagonal):
        return "hexagon"
    if isinstance(space, Torus) and all(space.closed):
        return "torus"
    raise GraphError(
        f"cg.explore: expected an image in the plane, on Hexagonal() or on Torus(), got {space}"
    )


def _image(
    image: Tensor | PixelGraph | None, channels: int
) -> tuple[Tensor, Tensor | None, Space | None]:
    """Return one image (C, H, W) with absent pixels 0, its mask (H, W) or None, its space."""
    if image is None:
        image = torch.randint(0, 10, (channels, 8, 8), generator=torch.Generator().manual_seed(0))
        image = image.float()
    graph = image if isinstance(image, PixelGraph) else PixelGraph.from_image(image)
    if graph.batch_size != 1 or graph.sites.d != 2:
        raise GraphError(
            f"cg.explore: expected one 2-D image, got {graph.batch_size} of {graph.sites.d}-D"
        )
    pixels = graph.to_image(fill=0.0)
    pixels = pixels[0] if pixels.dim() == 4 else pixels
    if pixels.shape[0] != channels:
        raise ShapeError(
            f"cg.explore: expected an image with in_channels = {channels} channels, "
            f"got {pixels.shape[0]}"
        )
    height, width = pixels.shape[1:]
    if max(height, width) > MAX_PIXELS:
        raise GraphError(
            f"cg.explore: expected at most {MAX_PIXELS} x {MAX_PIXELS} pixels, got {height} x "
            f"{width}; pass a crop, for example image[..., 100:112, 80:92]"
        )
    mask = graph.sites.mask
    shown = None if mask is None else mask.reshape(height, width)
    return pixels, shown, graph.sites.space


def _numbers(values: Tensor, name: str) -> list[float]:
    """Every value of a tensor; a float64 of Python holds each exactly, and JSON too."""
    flat = values.detach().cpu().double().flatten()
    if not bool(flat.isfinite().all()):
        raise GraphError(f"cg.explore: expected finite numbers, got NaN or infinity in the {name}")
    numbers: list[float] = flat.tolist()
    return numbers
