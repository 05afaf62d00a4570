"""Norms on node features: statistics over the nodes that are there, per image or per batch.

    y[p] = (x[p] - mean) / sqrt(var + eps) * weight + bias

mean and var run over the nodes of one image (instance, group and layer norm) or over all nodes
(batch norm); absent pixels are no zeros, they are not counted at all. A norm sends no messages
between pixels: it asks one readout node per image.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph import autocast, memo
from convgraph.backends.compiled import keeping, outermost
from convgraph.backends.messages.edges import sum_by_target, take
from convgraph.backends.rows import HALF
from convgraph.errors import DeviceError, DtypeError, GeometryError, ShapeError
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.graph.sites import Sites

PADDED_LIMIT = 4
"""Images are summed as one padded block unless that block would be this many times their nodes."""


def wide(x: Tensor) -> Tensor:
    """Return half types as float32, in which their sums are taken; others as they are."""
    return x.float() if x.dtype in HALF else x


def image_sum(
    x: Tensor,  # (N, C)
    sites: Sites,
) -> Tensor:
    """Return (B, C): the sum over the nodes of each image, 0 for an image without nodes.

    Half types are summed, and returned, in float32. The order of a sum depends on the sites alone,
    so that results repeat bit for bit.

    Example:
        >>> image_sum(torch.ones(8, 3), Sites.full(2, (2, 2))).tolist()
        [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    x = wide(x)
    slots, width = memo.constant(_slots, sites)
    if width < 0:
        return sum_by_target(x, sites.batch, sites.batch_size)
    if slots is not None:
        # One row of nodes per image, filled up with zeros: torch adds such a block as a tree, in
        # fewer roundings than one after the other, and without atomics.
        x = x.new_zeros(sites.batch_size * width, x.shape[1]).index_copy(0, slots, x)
    total: Tensor = x.view(sites.batch_size, width, x.shape[1]).sum(1)
    return total


def _slots(sites: Sites) -> tuple[Tensor | None, int]:
    """(N,) where each node goes in a (B, width) block, and width; -1 where a block is too big.

    A compiler takes both as constants: sites do not change.
    """
    if memo.LENDERS and memo.lender() is not None and sites.mask is not None:
        return None, -1  # a width would be one mask's

    def make() -> tuple[Tensor | None, int]:
        images, counts = sites.batch_size, sites.counts
        width = int(counts.max()) if images else 0
        if images * width == sites.num_nodes:
            return None, width
        if images * width > PADDED_LIMIT * sites.num_nodes:
            return None, -1
        shift = torch.arange(images, device=sites.device) * width - (counts.cumsum(0) - counts)
        return torch.arange(sites.num_nodes, device=sites.device) + shift[sites.batch], width

    return sites.memo("slots", make)


def image_mean(
    x: Tensor,  # (N, C)
    sites: Sites,
) -> Tensor:
    """Return (B, C): the mean over the nodes of each image; over no node it is 0.

    Half types are summed, and returned, in float32.

    Example:
        >>> mask = torch.tensor([[[True, False]], [[False, False]]])
        >>> graph = PixelGraph.from_image(torch.ones(2, 1, 1, 2), mask)
        >>> image_mean(graph.x, graph.sites).tolist()
        [[1.0], [0.0]]
    """
    return image_sum(x, sites) / sites.counts.clamp(min=1).unsqueeze(1)


def normalize(
    x: Tensor,  # (N, C)
    sites: Sites,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize each image, and within it each group of channels, over the nodes.

    Args:
        x: features; half types are computed, and returned, in float32.
        sites: which image each row belongs to.
        groups: groups of neighbouring channels that share their statistics; C for instance norm, 1
            for layer norm.
        eps: added to the variance.

    Returns:
        y (N, C), mean (B, groups) and biased variance (B, groups). One node alone has the variance
        0 and becomes 0; an image without nodes has the mean 0 and the variance 0.

    Example:
        >>> graph = PixelGraph.from_image(torch.tensor([[[1.0, 3.0]]]))
        >>> normalize(graph.x, graph.sites, 1, 0.0)[0].tolist()
        [[-1.0], [1.0]]
    """
    blocks = wide(x).unflatten(1, (groups, x.shape[1] // groups))
    mean = image_mean(blocks.mean(2), sites)
    centred = blocks - take(mean, sites.batch).unsqueeze(2)
    var = image_mean(centred.square().mean(2), sites)
    scaled = centred * take((var + eps).rsqrt(), sites.batch).unsqueeze(2)
    return scaled.flatten(1), mean, var


def instance_norm(
    graph: PixelGraph,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalize per image and channel; running statistics are means over the images with nodes.

    Args:
        graph: features on any sites.
        running_mean: (C,) updated in place when input statistics are used, or None.
        running_var: (C,), likewise; of the unbiased variances.
        weight: (C,) or None.
        bias: (C,) or None.
        use_input_stats: normalize with the image's own statistics, not with the running ones.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.

    Returns:
        (N, C) in the dtype of x.

    Raises:
        ShapeError: an image of one pixel, with input statistics; as torch says.

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.instance_norm.html
    """
    x, sites = graph.x, graph.sites
    if use_input_stats or running_mean is None or running_var is None:
        if any(set(size) == {1} for size in sites.sizes):
            raise ShapeError(
                "instance_norm: expected more than 1 spatial element when training, got an image "
                f"of one pixel among the sizes {sites.sizes[:3]}"
            )
        y, mean, var = normalize(x, sites, x.shape[1], eps)
        if use_input_stats and running_mean is not None and running_var is not None:
            with torch.no_grad():
                _update(running_mean, mean, sites, momentum)
                n = sites.counts.unsqueeze(1)
                _update(running_var, var * n / (n - 1).clamp(min=1), sites, momentum)
    else:
        y = (wide(x) - running_mean) * (running_var + eps).rsqrt()
    return affine(y, weight, bias).to(x.dtype)


def _update(running: Tensor, new: Tensor, sites: Sites, momentum: float) -> None:
    """Move the running statistics towards the mean over images; without a node they stay put.

    Nothing here waits for the device, so that it can be captured and compiled.
    """
    seen = (sites.counts > 0).unsqueeze(1)
    images = seen.sum()
    mean = torch.where(seen, new, 0).sum(0) / images.clamp(min=1)
    share = (images > 0).to(running.dtype) * momentum
    running.copy_((1 - share) * running + share * mean.to(running.dtype))


def group_norm(
    graph: PixelGraph, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalize per image and group of channels over the nodes.

    Args:
        graph: features on any sites.
        groups: groups of neighbouring channels.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: added to the variance.

    Returns:
        (N, C) in the dtype of x; under CUDA's autocast in float32, as torch's.

    Raises:
        ShapeError: groups do not divide the channels.

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.group_norm.html
    """
    channels = graph.x.shape[1]
    if channels % groups:
        raise ShapeError(
            f"group_norm: expected num_groups to divide the channels, got {groups} and {channels}"
        )
    y, _, _ = normalize(graph.x, graph.sites, groups, eps)
    return affine(y, weight, bias).to(autocast_dtype(graph.x))


class _Heard(torch.autograd.Function):
    """The image, through which gradients of parameters ask for one of the image as well."""

    @staticmethod
    def forward(image: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return image.view_as(image)

    setup_context = keeping(0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, None, None


# torch's way in reads the signature at every call, which only transforms have a use for.
_straight: Any = super(torch.autograd.Function, _Heard).apply


def heard(image: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return an image for torch's group norm, around a fault of its backward.

    Rows seen as an image lie channels-last. On the CPU the backward for such images ends in
    SIGSEGV where gradients of the parameters are asked for and the image's is not (seen with torch
    2.13; no report is known). An ordinary image never reaches that kernel. So here whoever asks
    for the first asks for the other. A program that is exported keeps no such asking, and gets an
    ordinary image.
    """
    if torch.compiler._is_exporting_flag:  # torch 2.8 compiles is_exporting() to True
        return image.contiguous()
    learns = any(one is not None and one.requires_grad for one in (weight, bias))
    if not learns or image.device.type != "cpu" or not torch.is_grad_enabled():
        return image
    if torch.compiler.is_compiling():
        seen: Tensor = _Heard.apply(image, weight, bias)  # type: ignore[no-untyped-call]
        return seen
    # Derivatives of torch.func's are derived again, by other kernels.
    return _straight(image, weight, bias) if outermost() else image


def layer_norm_images(
    graph: PixelGraph,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Normalize per image over all channels and nodes.

    Args:
        graph: every image has the size named in `shape`.
        shape: (C, *size).
        weight: (C, *size), one number a channel and pixel, or None.
        bias: likewise.
        eps: added to the variance.

    Returns:
        (N, C) in the dtype of x; under CUDA's autocast in float32, as torch's.

    Raises:
        ShapeError: channels or sizes are others.

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.layer_norm.html
    """
    sites = graph.sites
    if graph.num_channels != shape[0] or any(size != shape[1:] for size in sites.sizes):
        raise ShapeError(
            f"layer_norm: expected images of shape (C, *size) = {shape}, got {graph.num_channels} "
            f"channels on sizes {sites.sizes[:3]}; build the layer for that size"
        )
    y, _, _ = normalize(graph.x, sites, 1, eps)
    cells = sites.num_cells // max(sites.batch_size, 1)
    pixel = sites.nodes % max(cells, 1)

    weight, bias = _at(weight, pixel), _at(bias, pixel)
    return affine(y, weight, bias).to(autocast_dtype(graph.x))


def _at(parameter: Tensor | None, pixel: Tensor) -> Tensor | None:
    """(N, C) of a parameter (C, *size): the row of each node's pixel."""
    if parameter is None:
        return None
    return take(parameter.movedim(0, -1).reshape(-1, parameter.shape[0]), pixel)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch leaves group and layer norm: CUDA's autocast widens half types."""
    widened = x.dtype in HALF and x.is_cuda and autocast.enabled(x.device)
    return torch.float32 if widened else x.dtype


def affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return y * weight + bias, leaving out what is None."""
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def check_features(
    graph: PixelGraph, channels: int, who: str, parameters: dict[str, Tensor | None]
) -> None:
    """Refuse what is no graph, or does not fit the layer in channels, dtype or device.

    Args:
        graph: what the layer was called with.
        channels: C of the layer.
        who: the layer's name, for error texts.
        parameters: by name; float32 goes with half features, as in torch.

    Raises:
        GraphError, ShapeError, DtypeError, DeviceError: as the names say.
    """
    check_graph(graph, who)
    if graph.num_channels != channels:
        raise ShapeError(
            f"{who}: expected x of shape (N, {channels}), got {tuple(graph.x.shape)}; "
            f"build the layer for {graph.num_channels} channels or check the preceding one"
        )
    for name, parameter in parameters.items():
        if parameter is None:
            continue
        if parameter.device != graph.device:
            raise DeviceError(
                f"{who}: x on {graph.device} but {name} on {parameter.device}; "
                "move the layer or the graph with .to(device)"
            )
        mixed = graph.dtype in HALF and parameter.dtype == torch.float32
        if parameter.dtype != graph.dtype and not mixed:
            if autocast.enabled(graph.device):
                continue
            raise DtypeError(
                f"{who}: x has dtype {graph.dtype} but {name} has {parameter.dtype}; "
                "convert the layer or the graph with .to(dtype)"
            )


def check_dimension(graph: PixelGraph, d: int, who: str) -> None:
    """Refuse a graph of another number of lattice axes than the layer's.

    Raises:
        GeometryError: the text names the layer to use.
    """
    if graph.sites.d != d:
        raise GeometryError(
            f"{who}: expected a graph of d = {d} lattice axes, got d = {graph.sites.d}; "
            f"use {who.rstrip('123d')}{graph.sites.d}d"
        )
