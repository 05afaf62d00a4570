"""Lattice axes that a network folds into its batch, as frames of a volume or rows of an image.

    (batch t) (c) (y) (x)      an operator on images of each frame has a window of 1 along t
    (batch) (c) (y) (x)        one frame of a volume, of which nothing names t

What it says is what the operator on one or two axes more says of the whole map.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.operators import Operator, operator
from convgraph.convert.value import Spatial
from convgraph.graph.sites import Sites

_LINEAR = ("linear1d", "bilinear2d", "trilinear3d")

_ALONG = {
    "stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, "kernel_size": 1,
    "scale_factors": 1.0, "output_size": None,
}  # fmt: skip
"""What an operator is told along an axis that it does not reach over; None is its length."""


def folded(call: Operator, x: Spatial, given: dict[str, Any]) -> Any:
    """Return what an operator says of such a map, or None where it is none, or its windows are one.

    Args:
        call: an operator on images, which reaches over no channel and names no index.
        x: the map.
        given: the operator's arguments by their names.
    """
    d = len(x.axes) - 2
    if not isinstance(x.sites, Sites) or x.sites.space is not None or x.sites.size is None:
        return None
    if d >= x.sites.d or not call.name.endswith(f"{d}d"):  # or an image without a batch
        return None
    twin, size, batch = _twin(call, x.sites.d), x.sites.size, x.sites.batch_size
    lattice = names.image_axes(1, size, batch)[2:]
    away = [k for k, axis in enumerate(lattice) if axis and axis[0] in x.axes[0]]
    thin = [k for k, axis in enumerate(lattice) if not axis]  # one frame, which has no name
    away = sorted([*away, *thin[: max(x.sites.d - d - len(away), 0)]])
    own = [k for k in range(x.sites.d) if k not in away]
    every = {*names.batch_axis(batch), *(name for k in away for name in lattice[k])}
    if twin is None or {*x.axes[0]} != every or x.axes[2:] != tuple(lattice[k] for k in own):
        return None
    value = x.merged(1)
    image = Spatial(value.x, x.sites, names.image_axes(value.shape[1], size, batch))
    wide = dict(given)
    for key, along in _ALONG.items():
        told = given.get(key)
        if told is None or isinstance(told, str) or told == []:
            continue
        told = names.ints(told, d)
        wide[key] = [
            told[own.index(k)] if k in own else size[k] if along is None else along
            for k in range(x.sites.d)
        ]
    if "weight" in given:
        for k in away:
            wide["weight"] = wide["weight"].unsqueeze(2 + k)
    _, *order = (one.name for one in call.target._schema.arguments)
    out = twin.rule.call(twin, image, *(wide[name] for name in order))
    if isinstance(out, Tensor):  # one pixel of one frame
        return out.reshape(*out.shape[:2], *(1,) * d)
    lattice = out.axes[2:]
    return Spatial(out.x, out.sites, (x.axes[0], out.axes[1], *(lattice[k] for k in own)))


def _twin(call: Operator, d: int) -> Operator | None:
    """The operator on so many axes, None where there is none that says the same of each image."""
    name = call.name
    if "indices" in name or name.startswith(("adaptive_max", "upsample_bicubic")):
        return None
    linear = next((one for one in _LINEAR if name.endswith(one)), None)
    other = name.replace(linear, _LINEAR[d - 1]) if linear else f"{name[:-2]}{d}d"
    packet = getattr(torch.ops.aten, other, None)
    kinds = (call.target._overloadname, "input", "default")  # a transposed one of a line has none
    found = [kind for kind in kinds if packet and kind in packet.overloads()]
    return operator(getattr(packet, found[0])) if found else None
