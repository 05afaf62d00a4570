"""Norms: statistics over the nodes that are there, of all images (batch norm) or of each."""

from typing import Any

import torch
from torch import Tensor

from convgraph.backends.compiled import backward_alone
from convgraph.convert import names
from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules.reductions import Groups, apart
from convgraph.convert.value import Spatial, lift, placed
from convgraph.functional import norm
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites


@rule("batch_norm")
def batch_norm(
    call: Any, x: Spatial, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
    momentum: float, eps: float, cudnn: bool,
) -> Any:  # fmt: skip
    """Axis 1 are the channels; every other name is one more sample."""
    if not isinstance(x, Spatial):
        raise NoRuleError("a map is a parameter")
    if training:
        call.travelled("all")
    elif not names.is_plain(x.axes[1]):  # a number of its own for every position
        made = call.target(x.tensor(), weight, bias, mean, var, training, momentum, eps, cudnn)
        return placed(made, x.sites, x.axes)
    merged = x.merged(1)
    if training and not merged.x.shape[0]:  # no node is there: nothing is learned
        return merged.with_x(merged.x + 0)
    slot = merged.slot(1)
    rows = merged.x.movedim(slot, 1)
    shape = rows.shape
    flat = rows.reshape(shape[0], shape[1], -1) if rows.dim() > 2 else rows
    if flat.dim() == 3 and flat.shape[2] == 1:
        flat = flat.squeeze(2)
    if training and flat.numel() == flat.shape[1]:
        raise ValueError(
            "Expected more than 1 value per channel when training, got one node; give larger "
            "images, more of them, or call .eval() on the norm"
        )
    y = call.target(flat, weight, bias, mean, var, training, momentum, eps, cudnn)
    return merged.with_x(y.reshape(shape).movedim(1, slot))


@rule("layer_norm")
def layer_norm(
    call: Any, x: Spatial, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn: bool = False,
) -> Any:  # fmt: skip
    """Over the channels of a node, or over the nodes of an image, with its channels or without."""
    if own := _of_torch(call, x, shape, weight, bias, eps):
        return own
    y = _each_image(x, shape, eps, weight, bias)
    return x.with_x(y.to(norm.autocast_dtype(x.x)))


@rule("rms_norm")
def rms_norm(
    call: Any, x: Spatial, shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    """Over the channels of a node, or over the nodes of an image that was flattened."""
    if own := _of_torch(call, x, shape, weight, eps):
        return own
    least = torch.finfo(x.x.dtype).eps if eps is None else eps
    return x.with_x(_each_image(x, shape, least, weight, centred=False).to(x.x.dtype))


def _each_image(x: Spatial, shape: Any, eps: float, *affine: Any, centred: bool = True) -> Tensor:
    """Over all nodes that are there of an image, and what the last axes name beside them.

    Of half types it is in float32.
    """
    if tuple(shape) != x.shape[-len(shape) :]:  # torch refuses it, and says why
        torch.layer_norm(torch.empty(x.shape, device="meta"), shape)
    lead = x.axes[: len(x.axes) - len(shape)]
    if not names.no_pixels(lead) or not isinstance(x.sites, Sites):
        raise NoRuleError("it normalizes over a part of the lattice")
    groups = Groups(*apart(x, list(range(len(lead), len(x.axes)))))
    y = norm.wide(x.x)
    y = y - groups.heard(y, "mean") if centred else y
    y = y / (groups.heard(y.square(), "mean") + eps).sqrt()
    parts = [None if one is None else lift(one, x.axes, x.sites) for one in affine]
    return norm.affine(y, *parts, *[None] * (2 - len(parts)))


def _of_torch(call: Any, x: Spatial, shape: Any, *more: Any) -> Spatial | None:
    """The operator over the last axes of every row, or over full grids, or None."""
    first = len(x.axes) - len(shape)
    if all(map(names.is_plain, x.axes[first:])):
        lead = x.x.shape[: x.slot(first)]
        return x.with_x(call.target(x.x.reshape(*lead, *shape), shape, *more).reshape(x.x.shape))
    call.travelled("all")
    made = call.target(x.tensor(), shape, *more) if x.sites.is_full else None
    return None if made is None else placed(made, x.sites, x.axes)


def _channels_first(x: Spatial, *, wide: bool = False) -> Spatial:
    """The value with channels as one name, and no others but of sites, unless it may be wide."""
    if not isinstance(x.sites, Sites):
        raise NoRuleError("it normalizes tokens beside nodes, or pairs, image by image")
    merged = x.merged(1)
    narrow = all(name.kind != "plain" for name in names.names(merged.axes[2:]))
    if merged.axes[0] != names.batch_axis(x.sites.batch_size) or not (narrow or wide):
        axes = names.describe(x.axes)
        raise NoRuleError(f"it takes an image, (batch) (channels) and its lattice, not {axes}")
    return merged


@rule("group_norm", hop="all")
def group_norm(
    call: Any, x: Spatial, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn: bool = False,
) -> Any:  # fmt: skip
    """Over the nodes of an image and a group of channels."""
    if len(x.axes) == 2 and not names.is_plain(x.axes[1]):  # flattened: channels with their pixels
        if x.sites.is_array:
            return placed(call.target(x.tensor(), groups, weight, bias, eps), x.sites, x.axes)
        grouped = x.regrouped((x.shape[0], groups, x.shape[1] // groups))
        parts = [one if one is None else one.view(groups, -1) for one in (weight, bias)]
        y = _each_image(grouped, grouped.shape[2:], eps, *parts)
        return grouped.with_x(y.to(x.x.dtype)).regrouped(x.shape)
    # Of a space, where a norm sees no difference; torch's own transforms want contiguous images.
    if x.is_image() and x.sites.is_array and backward_alone():
        y = call.target(norm.heard(x.tensor(), weight, bias), groups, weight, bias, eps, cudnn)
        return x.with_x(y.movedim(1, -1).reshape(x.x.shape))
    merged = _channels_first(x, wide=True)
    # Where nodes have more plain axes, each channel becomes as many as their sizes say.
    rows = merged.x.flatten(1)
    each = rows.shape[1] // merged.x.shape[1]
    y, _, _ = norm.normalize(rows, merged.sites, groups, eps)
    parts = [one if one is None or each == 1 else one.repeat_interleave(each)
             for one in (weight, bias)]  # fmt: skip
    return merged.with_x(norm.affine(y, *parts).to(x.x.dtype).reshape(merged.x.shape))


@rule("instance_norm", hop="all")
def instance_norm(
    call: Any, x: Spatial, weight: Any, bias: Any, mean: Tensor | None, var: Tensor | None,
    use_input_stats: bool, momentum: float, eps: float, cudnn: bool,
) -> Any:  # fmt: skip
    """Over the nodes of an image, channel by channel."""
    merged = _channels_first(x)
    y = norm.instance_norm(
        PixelGraph(merged.x, merged.sites), mean, var, weight, bias,
        use_input_stats=use_input_stats, momentum=momentum, eps=eps,
    )  # fmt: skip
    return merged.with_x(y)
