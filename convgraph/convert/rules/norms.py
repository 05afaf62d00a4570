"""Norms: statistics over the nodes that are there, of all images (batch norm) or of each."""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial
from convgraph.functional import norm
from convgraph.graph.pixel_graph import PixelGraph


@rule("batch_norm")
def batch_norm(
    run: Any, step: Any, x: Spatial, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
    momentum: float, eps: float, cudnn: bool,
) -> Any:  # fmt: skip
    """Axis 1 are the channels; every other name is one more sample."""
    if not isinstance(x, Spatial):
        raise NoRuleError("a map is a parameter")
    if training:
        run.travelled("all")
    merged = x.merged(1)
    if run.planning:  # it moves nothing, and on fake tensors it is the dearest operator
        return merged.with_x(torch.empty_like(merged.x))
    slot = merged.slot(1)
    rows = merged.x.movedim(slot, 1)
    shape = rows.shape
    flat = rows.reshape(shape[0], shape[1], -1) if rows.dim() > 2 else rows
    if flat.dim() == 3 and flat.shape[2] == 1:
        flat = flat.squeeze(2)
    y = step.target(flat, weight, bias, mean, var, training, momentum, eps, cudnn)
    return merged.with_x(y.reshape(shape).movedim(1, slot))


@rule("layer_norm")
def layer_norm(
    run: Any, step: Any, x: Spatial, shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn: bool = False,
) -> Any:  # fmt: skip
    """Over the channels of a node, or over all channels and nodes of an image."""
    count = len(shape)
    tail = x.axes[len(x.axes) - count :]
    if all(names.is_plain(axis) for axis in tail):
        size = x.x.shape[: 1 + len(names.plain(x.axes[:-count]))]
        y = step.target(x.x.reshape(*size, *shape), shape, weight, bias, eps, cudnn)
        return x.with_x(y.reshape(x.x.shape))
    graph = x.graph()
    if count != len(x.axes) - 1:
        raise NoRuleError("it normalizes over a part of the lattice")
    run.travelled("all")
    if run.planning:
        return x.with_x(torch.empty_like(x.x))
    y = norm.layer_norm_images(graph, tuple(shape), weight, bias, eps)
    return Spatial(y.reshape(x.x.shape), x.sites, x.axes)


@rule("rms_norm")
def rms_norm(
    run: Any, step: Any, x: Spatial, shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    """Over the channels of a node."""
    count = len(shape)
    if not all(names.is_plain(axis) for axis in x.axes[len(x.axes) - count :]):
        raise NoRuleError("it normalizes over the lattice")
    size = x.x.shape[: 1 + len(names.plain(x.axes[:-count]))]
    y = step.target(x.x.reshape(*size, *shape), shape, weight, eps)
    return x.with_x(y.reshape(x.x.shape))


def _channels_first(x: Spatial) -> Spatial:
    """The value with channels as one name, all others lattice and batch.

    Raises:
        NoRuleError: axes other than (batch) (channels) and the lattice.
    """
    merged = x.merged(1)
    rest = (merged.axes[0], *merged.axes[2:])
    if merged.axes[0] != (Name("batch", names.BATCH),) or any(map(_holds_plain, rest)):
        raise NoRuleError(f"axes {names.describe(x.axes)} are no image's")
    return merged


def _holds_plain(axis: Any) -> bool:
    return any(name.kind == "plain" for name in axis)


@rule("group_norm", hop="all")
def group_norm(
    run: Any, step: Any, x: Spatial, groups: int, weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn: bool = False,
) -> Any:  # fmt: skip
    """Over the nodes of an image and a group of channels."""
    merged = _channels_first(x)
    if run.planning:
        return merged
    y, _, _ = norm.normalize(merged.x, merged.sites, groups, eps)
    return merged.with_x(norm.affine(y, weight, bias).to(x.x.dtype))


@rule("instance_norm", hop="all")
def instance_norm(
    run: Any, step: Any, x: Spatial, weight: Any, bias: Any, mean: Tensor | None,
    var: Tensor | None, use_input_stats: bool, momentum: float, eps: float, cudnn: bool,
) -> Any:  # fmt: skip
    """Over the nodes of an image, channel by channel."""
    merged = _channels_first(x)
    if run.planning:
        return merged
    y = norm.instance_norm(
        PixelGraph(merged.x, merged.sites), mean, var, weight, bias,
        use_input_stats=use_input_stats, momentum=momentum, eps=eps,
    )  # fmt: skip
    return merged.with_x(y)
