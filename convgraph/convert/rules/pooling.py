"""Pools: the edges of a convolution with another aggregation; windows of a whole map are readouts.

An average pool whose window is the whole map is the mean over the nodes that are there.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import NoRuleError, ints
from convgraph.convert.registry import rule
from convgraph.convert.rules.convolution import kernel, listen
from convgraph.convert.rules.reductions import extreme, over_sites
from convgraph.convert.settle import settle
from convgraph.convert.value import Spatial, result
from convgraph.functional import graph_avg_pool, graph_max_pool
from convgraph.functional.pool import max_pool_values, unpooled
from convgraph.geometry.window import WindowGeometry
from convgraph.graph.edges import connect
from convgraph.graph.network_sites import network_sites
from convgraph.graph.pixel_graph import PixelGraph


def _kernel(x: Spatial, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Any:
    d = x.sites.d
    kernel_size = ints(size, d)
    step = ints(stride, d) if isinstance(stride, int) or stride else kernel_size
    return kernel(kernel_size, step, ints(padding, d), ints(dilation, d), None, bool(ceil))


@rule(
    *(f"max_pool{d}d{more}" for d in (1, 2, 3) for more in ("", "_with_indices")), hop="edges"
)  # fmt: skip
def max_pool(
    call: Any, x: Spatial, size: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """The loudest message, and where it came from."""
    indexed = call.name.endswith("indices")
    graph = x.graph()
    geometry = _kernel(x, size, stride, padding, dilation, ceil_mode)
    listen(call, graph.sites, geometry)
    if indexed:
        return _indexed(graph, geometry)
    return result(max_pool_values(graph, geometry, sites="network", backend=None, who=call.name))


def _indexed(graph: PixelGraph, geometry: Any) -> tuple[Spatial, Spatial]:
    """The maxima, and which pixel of its image each is."""
    pooled, where = graph_max_pool(graph, geometry, sites="network")
    value = result(pooled)
    if not isinstance(value, Spatial):
        raise NoRuleError("indices into a map that became one site")
    return value, value.with_x(where)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", hop="edges")
def avg_pool(
    call: Any, x: Spatial, size: Any, stride: Any = (), padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """The mean of a window, pads and holes counted as torch counts pads."""
    graph = x.graph()
    geometry = _kernel(x, size, stride, padding, 1, ceil_mode)
    whole = geometry.kernel_size == graph.sites.size and not any(map(any, geometry.padding))
    if whole and divisor_override is None:
        return over_sites(call, x, list(range(2, len(x.axes))), True, "mean")
    listen(call, graph.sites, geometry)
    return result(
        graph_avg_pool(
            graph, geometry, count_include_pad=count_include_pad,
            divisor_override=divisor_override, sites="network", who=call.name,
        )
    )  # fmt: skip


def _is_settled(x: Spatial) -> bool:
    """Whether a value is an image, or becomes one on the lattice that its axes speak of."""
    value = x if x.is_image() else settle(x)
    return isinstance(value, Spatial) and value.is_image()


@rule(*(f"adaptive_{how}_pool{d}d" for how in ("avg", "max") for d in (1, 2, 3)), hop="edges")
def adaptive_pool(call: Any, x: Spatial, output_size: Any) -> Any:
    """The mean or the maximum over the nodes of each adaptive window; indices are for nobody."""
    largest = "max" in call.name
    asked = ints(output_size, int(call.name[-2]))
    if prod(asked) == 1:
        tail = list(range(len(x.axes) - len(asked), len(x.axes)))
        if largest:
            return extreme(call, x, tail, True, "amax")
        return over_sites(call, x, tail, True, "mean")
    first = len(x.axes) - len(asked)
    if not _is_settled(x) and names.no_pixels(x.axes[:first]):  # flattened
        call.travelled("all")
        there = x.there().to(x.x.dtype)
        if largest:
            found, where = call.target(x.tensor(-torch.inf), asked)
            return found.where(call.target(there, asked)[0] > 0, 0), where
        share: Tensor = call.target(there, asked)
        return call.target(x.tensor(), asked) / share.where(share > 0, 1)
    graph = x.graph()
    if graph.sites.size == asked and not largest:
        call.travelled("node")
        return x
    geometry = WindowGeometry(asked)
    listen(call, graph.sites, geometry)
    if largest:
        return _indexed(graph, geometry)
    return result(graph_avg_pool(graph, geometry, sites="network"))


@rule("max_unpool2d", "max_unpool3d", hop="all")
def max_unpool(call: Any, x: Spatial, indices: Spatial, output_size: Any) -> Any:
    """Every maximum goes back to the pixel it came from, everything else is 0."""
    graph = x.graph()
    target = network_sites(graph.sites, (tuple(output_size[-graph.sites.d :]),) * graph.batch_size)
    if call.listening:
        call.travelled(_heard(graph.sites, target))
    where = indices.graph().x if indices.x.is_floating_point() else indices.x
    return result(unpooled(graph, where, target))


def _heard(source: Any, target: Any) -> Any:
    """Which maxima a pixel may come from: that of its cell, or any where cells are uneven."""
    pooled, size = source.size, target.size
    steps = tuple(n // m for n, m in zip(size, pooled, strict=True))
    rest = tuple(n - m * s for n, m, s in zip(size, pooled, steps, strict=True))
    if min(steps) < 1 or any(r >= s for r, s in zip(rest, steps, strict=True)):
        return "all"
    d = len(steps)
    return connect(kernel(steps, steps, (0,) * d, (1,) * d, rest), source, target)
