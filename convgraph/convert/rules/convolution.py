"""Convolutions: y[p] = b + sum over edges (q, p, t) of W[:, :, t] x[q]."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.batch import images
from convgraph.convert.lattices import lowered
from convgraph.convert.names import Name, NoRuleError, ints
from convgraph.convert.registry import rule
from convgraph.convert.tokens import TokenSites
from convgraph.convert.value import Spatial, result
from convgraph.functional import graph_conv
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect


@lru_cache(maxsize=1024)
def kernel(
    size: tuple[int, ...], stride: tuple[int, ...], padding: Any, dilation: tuple[int, ...],
    output_padding: tuple[int, ...] | None = None, ceil: bool = False,
) -> KernelGeometry:  # fmt: skip
    """Return a kernel's integers; transposed, if they come with an output padding."""
    return KernelGeometry(
        size, stride, padding, dilation, transposed=output_padding is not None,
        output_padding=output_padding or 0, ceil_mode=ceil, d=len(size),
    )  # fmt: skip


def listen(call: Any, sites: Any, geometry: Any) -> None:
    """Say along which edges values came, to who asks."""
    if call.listening:
        call.travelled(connect(geometry, sites, "network"))


@rule("conv1d", "conv2d", "conv3d", hop="edges")
def conv(
    call: Any, x: Any, weight: Any, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Any:  # fmt: skip
    """The sum over the edges of the kernel."""
    if isinstance(x, Spatial) and isinstance(weight, Tensor):
        if _is_by_image(x, groups):
            return _by_image(call, x, weight, bias, stride, padding, dilation, groups)
        d = int(call.name[-2])
        x = lowered(x, d)
    d = _same_d(call, x, weight)
    pads = padding if isinstance(padding, str) else ints(padding, d)
    geometry = kernel(tuple(weight.shape[2:]), ints(stride, d), pads, ints(dilation, d))
    return _send(call, x, weight, bias, geometry, groups)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", hop="edges")
def conv_transpose(
    call: Any, x: Any, weight: Any, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """The same edges with the arrows reversed."""
    d = _same_d(call, x, weight)
    geometry = kernel(
        tuple(weight.shape[2:]), ints(stride, d), ints(padding, d), ints(dilation, d),
        ints(output_padding, d),
    )  # fmt: skip
    return _send(call, x, weight, bias, geometry, groups)


def _same_d(call: Any, x: Any, weight: Any) -> int:
    """The number of lattice axes, of the operator and of the map."""
    if not isinstance(x, Spatial) or isinstance(weight, Spatial):
        raise NoRuleError("its weight is a map")
    d = int(call.name[-2])
    if isinstance(x.sites, TokenSites):
        raise NoRuleError("its kernel reaches from one token beside nodes to another")
    if getattr(x.sites, "d", d) != d:
        raise NoRuleError(
            f"a {call.name} on a lattice of {x.sites.d} axes: it takes channels or frames for one "
            "more, as lambda layers do"
        )
    return d


def _send(
    call: Any, x: Spatial, weight: Tensor, bias: Any, geometry: KernelGeometry, groups: int
) -> Any:
    graph = x.graph()
    listen(call, graph.sites, geometry)
    if bias is not None and bias.dtype != weight.dtype:
        raise NoRuleError("weight and bias differ in dtype")
    return result(
        graph_conv(
            graph, weight, bias, geometry=geometry, groups=groups, sites="network", who=call.name
        )
    )


def _is_by_image(x: Spatial, groups: int) -> bool:
    """Whether images are groups of channels, so that each has a kernel of its own."""
    batch = x.sites.batch_size
    return (
        batch > 1
        and groups % batch == 0
        and x.axes[0] == ()
        and x.axes[1][:1] == names.batch_axis(batch)
        and names.is_plain(x.axes[1][1:])
    )


def _by_image(
    call: Any, x: Spatial, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
    groups: int,
) -> Spatial:  # fmt: skip
    """Each image by its kernel: (1, B C, *size) with groups for each image, as in CondConv."""
    batch = x.sites.batch_size
    inner = Spatial(x.x, x.sites, (x.axes[1][:1], x.axes[1][1:], *x.axes[2:])).merged(1)
    more = (stride, padding, dilation)
    one = weight.new_zeros(1, 1, *weight.shape[2:])
    single = (inner.axes[0], (Name("plain", 1),), *inner.axes[2:])
    where = conv(call, Spatial(inner.x[:, :1], x.sites, single), one, None, *more)
    if not isinstance(where, Spatial):
        raise NoRuleError("each image has a kernel of its own, and one pixel is left")
    biases = [None] * batch if bias is None else bias.chunk(batch)
    parts = [
        conv(call, images(inner, 0, [b]), mine, biases[b], *more, groups // batch).x
        for b, mine in enumerate(weight.chunk(batch))
    ]
    channels = Name("plain", parts[0].shape[1])
    axes = ((), (*where.axes[0], channels), *where.axes[2:])
    return Spatial(torch.cat(parts), where.sites, axes)
