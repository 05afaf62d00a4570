"""Operators on images within each node, where nothing that they reach along names one.

    (batch y x) (c) (16) (16)      a network folds patches into its batch: every node holds an image
    (batch) () (c) (y) (x)         a window of k x 1 x 1 goes along the channels of a node
    (batch) (c) (y x)              a kernel of one pixel mixes them

Each row is an image of its own, with one pixel along an axis of nodes; none of them moves.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.folded import folded
from convgraph.convert.lattices import raised
from convgraph.convert.names import Name
from convgraph.convert.operators import operator
from convgraph.convert.value import Spatial

FAMILIES = ("convolution", "pooling", "resize")
NAMES = ("pixel_shuffle", "pixel_unshuffle", "im2col", "group_norm", "instance_norm")
"""Operators whose first axis is a batch, whatever stands there, by their rules' files and names."""

_MIXES = ("conv1d", "conv2d", "conv3d")
"""Operators that a kernel of one pixel makes a product of each pixel's channels."""


def inner(call: Any, x: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Return what an operator on images says within each node, or None where it reaches others."""
    on_images = call.rule.family in FAMILIES or call.name in NAMES
    if not on_images or not isinstance(x, Spatial) or x.is_image() or len(x.axes) < 2:
        return None
    if any(isinstance(one, Spatial) for one in (*args, *kwargs.values())):
        return None
    given = call.named(x, *args, **kwargs)
    if call.rule.family in FAMILIES and (of_slices := folded(call, x, given)) is not None:
        return of_slices
    alone = _alone(call, given, len(x.axes))
    lead, own = x.axes[: -len(alone)], x.axes[-len(alone) :]
    if len(lead) > 1 or len(own) < len(alone):
        return None
    if all(alone[1:]) and call.name in _MIXES and given["weight"].shape[1] == x.shape[len(lead)]:
        call.travelled("node")
        return _mixed(x, len(lead), given["weight"].flatten(1), given["bias"])
    single = x.unsqueezed(0)
    if not lead and single.is_image():  # an image without a batch
        out = call.rule.call(call, single, *args, **kwargs)
        return tuple(map(_single, out)) if isinstance(out, tuple) else _single(out)
    if not all(one or names.is_plain(axis) for one, axis in zip(alone, own, strict=True)):
        image = raised(x, len(x.axes) - 2)
        return None if image is x else call.rule.call(call, image, *args, **kwargs)
    counts, sizes = names.plain(lead), [prod(names.plain((axis,))) for axis in own]
    rows = x.x.shape[0] * prod(counts)
    images = x.x.reshape(rows, *sizes)
    out = call.target(images, *args, **kwargs)
    if not isinstance(out, Tensor) or out.shape[0] != rows:
        return None
    call.travelled("node")
    tail = out.shape[1:]
    if len(tail) != len(own):  # a patch as columns
        own, sizes = ((),) * len(tail), [1] * len(tail)
    made = [
        axis if n == size else (Name("plain", n),)
        for axis, n, size in zip(own, tail, sizes, strict=True)
    ]
    axes = (*lead, *made)
    return Spatial(out.reshape(x.x.shape[0], *names.plain(axes)), x.sites, axes)


def _single(out: Any) -> Any:
    """The image of a batch of one."""
    return Spatial(out.x, out.sites, out.axes[1:]) if isinstance(out, Spatial) else out[0]


def _mixed(x: Spatial, dim: int, weight: Tensor, bias: Any) -> Any:
    """One product along an axis, whatever it names."""
    order = [*range(dim), *range(dim + 1, len(x.axes)), dim]
    product = operator(torch.ops.aten.linear.default)
    out = product.rule.call(product, x.permuted(order), weight, bias)
    if isinstance(out, Tensor):
        return out.movedim(-1, dim)
    return out.permuted([*range(dim), len(order) - 1, *range(dim, len(order) - 1)])


def _alone(call: Any, given: dict[str, Any], rank: int) -> list[bool]:
    """Whether each place is alone: along the channels first, then along the lattice of an image."""
    family = call.rule.family
    if family == "convolution":
        window = tuple(given["weight"].shape[2:])
    elif family == "pooling" and "kernel_size" in given:
        d = int(call.name[call.name.index("pool") + 4])
        window = names.ints(given["kernel_size"], d)
    else:
        return [False] * (rank - 1)
    d = len(window)
    steps = names.ints(given["stride"] or window, d)
    pads = (0,) * d if isinstance(given["padding"], str) else names.ints(given["padding"], d)
    more = names.ints(given.get("output_padding", 0), d)
    still = [one == (1, 1, 0, 0) for one in zip(window, steps, pads, more, strict=True)]
    return [family == "pooling", *still]
