"""Norms on node features: statistics over the nodes that are there, per image or per batch.

    y[p] = (x[p] - mean) / sqrt(var + eps) * weight + bias

mean and var run over the nodes of one image (instance, group and layer norm) or over all nodes
(batch norm); absent pixels are no zeros, they are not counted at all. A norm sends no messages
between pixels: it asks one readout node per image. May import errors, graph and backends.
"""

import torch
from torch import Tensor

from convgraph.backends.dense import HALF
from convgraph.backends.messages import sum_by_target, take
from convgraph.errors import GraphError, ShapeError
from convgraph.graph import PixelGraph
from convgraph.sites import Sites


def image_sum(
    x: Tensor,  # (N, C)
    sites: Sites,
) -> Tensor:
    """Return (B, C): the sum over the nodes of each image, 0 for an image without nodes."""
    return sum_by_target(x, sites.batch, sites.batch_size)


def image_mean(
    x: Tensor,  # (N, C)
    sites: Sites,
) -> Tensor:
    """Return (B, C): the mean over the nodes of each image; over no node it is 0.

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
        x: features; half types are computed in float32.
        sites: which image each row belongs to.
        groups: groups of neighbouring channels that share their statistics; C for instance norm, 1
            for layer norm.
        eps: added to the variance.

    Returns:
        y (N, C) in the dtype of x; mean (B, groups) and biased variance (B, groups).
    """
    dtype = x.dtype
    wide = x.float() if dtype in HALF else x
    blocks = wide.unflatten(1, (groups, -1)) if wide.shape[1] else wide.unsqueeze(1)
    members = blocks.shape[2]
    mean = image_mean(blocks.mean(2), sites)
    centred = blocks - take(mean, sites.batch).unsqueeze(2)
    var = image_sum(centred.square().sum(2), sites)
    var = var / (sites.counts.clamp(min=1).unsqueeze(1) * max(members, 1))
    scaled = centred * take((var + eps).rsqrt(), sites.batch).unsqueeze(2)
    return scaled.flatten(1).to(dtype), mean, var


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
    """Return (N, C), normalized per image and channel; running statistics are means over images.

    Args:
        graph: features on any sites.
        running_mean: (C,) updated in place when input statistics are used, or None.
        running_var: (C,), likewise; of the unbiased variances.
        weight: (C,) or None.
        bias: (C,) or None.
        use_input_stats: normalize with the image's own statistics, not with the running ones.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
    """
    x, sites = graph.x, graph.sites
    if use_input_stats or running_mean is None or running_var is None:
        y, mean, var = normalize(x, sites, x.shape[1], eps)
        seen = sites.counts > 0
        if use_input_stats and running_mean is not None and running_var is not None and seen.any():
            n = sites.counts[seen].unsqueeze(1)
            unbiased = var[seen] * n / (n - 1).clamp(min=1)
            with torch.no_grad():
                running_mean.lerp_(mean[seen].mean(0).to(running_mean), momentum)
                running_var.lerp_(unbiased.mean(0).to(running_var), momentum)
    else:
        y = (x - running_mean) * (running_var + eps).rsqrt()
    return affine(y, weight, bias)


def group_norm(
    graph: PixelGraph, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return (N, C), normalized per image and group of channels over the nodes."""
    channels = graph.x.shape[1]
    if channels % groups:
        raise ShapeError(
            f"group_norm: expected num_groups to divide the channels, got {groups} and {channels}"
        )
    y, _, _ = normalize(graph.x, graph.sites, groups, eps)
    return affine(y, weight, bias)


def layer_norm_images(
    graph: PixelGraph,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Return (N, C), normalized per image over all channels and nodes.

    Args:
        graph: every image has the size named in `shape`.
        shape: (C, *size).
        weight: (C, *size), one number a channel and pixel, or None.
        bias: likewise.
        eps: added to the variance.

    Raises:
        ShapeError: channels or sizes are others.
    """
    sites = graph.sites
    if graph.num_channels != shape[0] or any(size != shape[1:] for size in sites.sizes):
        raise ShapeError(
            f"layer_norm: expected images of shape (C, *size) = {shape}, got {graph.num_channels} "
            f"channels on sizes {sites.sizes[:3]}"
        )
    y, _, _ = normalize(graph.x, sites, 1, eps)
    cells = sites.num_cells // max(sites.batch_size, 1)
    pixel = sites.nodes % max(cells, 1)

    def at_nodes(parameter: Tensor | None) -> Tensor | None:
        if parameter is None:
            return None
        return take(parameter.movedim(0, -1).reshape(-1, shape[0]), pixel)

    return affine(y, at_nodes(weight), at_nodes(bias))


def affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return y * weight + bias, leaving out what is None."""
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def check_channels(graph: PixelGraph, channels: int, who: str) -> None:
    """Refuse what is no graph, or one of another number of channels."""
    if not isinstance(graph, PixelGraph):
        raise GraphError(
            f"{who}: expected a PixelGraph, got {type(graph).__name__}; "
            "wrap an image with PixelGraph.from_image(image)"
        )
    if graph.num_channels != channels:
        raise ShapeError(
            f"{who}: expected x of shape (N, {channels}), got {tuple(graph.x.shape)}; "
            f"build the layer for {graph.num_channels} channels or check the preceding one"
        )
