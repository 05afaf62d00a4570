"""Nodes that hold an image each: patches of pixels that a network folds into its batch.

    (batch y x) (c) (16) (16)      every node's plain axes are an image of its own

What works on images works on each of them alone; the nodes are no pixels of it, and none moves.
"""

from math import prod
from typing import Any

from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Name
from convgraph.convert.value import Spatial

FAMILIES = ("convolution", "pooling", "resize")
NAMES = ("pixel_shuffle", "pixel_unshuffle", "im2col", "group_norm", "instance_norm")
"""Operators whose first axis is a batch, whatever stands there, by their rules' files and names."""


def inner(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what an operator on images says of each node's own, or None where nodes have none."""
    on_images = call.rule.family in FAMILIES or call.name in NAMES
    if not on_images or not isinstance(x, Spatial) or len(x.axes) < 3:
        return None
    if any(isinstance(one, Spatial) for one in (*args, *kwargs.values())):
        return None
    lead, *own = x.axes
    sizes = names.sizes(x.axes)
    if not any(name.kind == "site" for name in lead) or not all(map(names.is_plain, own)):
        return None
    counts = names.plain((lead,))
    out = call.target(x.x.reshape(x.x.shape[0] * prod(counts), *sizes[1:]), *args, **kwargs)
    if not isinstance(out, Tensor):
        return None
    call.travelled("node")
    axes = (lead, *((Name("plain", n),) for n in out.shape[1:]))
    return Spatial(out.reshape(x.x.shape[0], *counts, *out.shape[1:]), x.sites, axes)
