"""Pools: the edges of a convolution with another aggregation; windows of a whole map are readouts.

An average pool whose window is the whole map is the mean over the nodes that are there.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.gather import maxima as picks
from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial
from convgraph.functional import graph_avg_pool, graph_max_pool
from convgraph.functional.norm import image_mean
from convgraph.functional.pool import max_pool_values
from convgraph.geometry.kernel import KernelGeometry
from convgraph.geometry.window import WindowGeometry
from convgraph.graph.edges import connect
from convgraph.graph.output_sites import network_sites
from convgraph.graph.pixel_graph import PixelGraph


def _tuple(value: Any, d: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * d
    return tuple(value) * d if len(value) == 1 else tuple(value)


def _kernel(
    run: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> KernelGeometry:
    d = run.root.d
    size = _tuple(kernel, d)
    step = _tuple(stride, d) if isinstance(stride, int) or stride else size
    return KernelGeometry(
        size, step, _tuple(padding, d), _tuple(dilation, d), ceil_mode=bool(ceil), d=d
    )


def _note(run: Any, graph: PixelGraph, geometry: Any) -> None:
    if run.listen is not None:
        run.travelled(connect(geometry, graph.sites, "network"))


def readout_mean(run: Any, x: Spatial) -> Tensor:
    """Return (B, C, 1, ...): the mean over the nodes of each image."""
    graph = x.graph()
    if graph.sites.is_full:
        ones = WindowGeometry((1,) * graph.sites.d)
        pooled = graph_avg_pool(graph, ones, sites="network").x
    else:
        pooled = image_mean(graph.x, graph.sites).to(graph.dtype)
    run.travelled("all")
    return pooled.view(*pooled.shape, *(1,) * graph.sites.d)


@rule("max_pool1d", "max_pool2d", "max_pool3d", hop="edges")
def max_pool(
    run: Any, step: Any, x: Spatial, kernel: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """The loudest message."""
    graph = x.graph()
    geometry = _kernel(run, kernel, stride, padding, dilation, ceil_mode)
    _note(run, graph, geometry)
    return run.result(
        max_pool_values(graph, geometry, sites="network", backend=None, who=step.operator)
    )


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices", hop="edges")
def max_pool_with_indices(
    run: Any, step: Any, x: Spatial, kernel: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """The loudest message and where it came from."""
    graph = x.graph()
    geometry = _kernel(run, kernel, stride, padding, dilation, ceil_mode)
    _note(run, graph, geometry)
    pooled, where = graph_max_pool(graph, geometry, sites="network")
    value = run.result(pooled)
    if not isinstance(value, Spatial):
        raise NoRuleError("indices into a map that became one site")
    return value, value.with_x(where)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", hop="edges")
def avg_pool(
    run: Any, step: Any, x: Spatial, kernel: Any, stride: Any = (), padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """The mean of a window, pads and holes counted as torch counts pads."""
    graph = x.graph()
    geometry = _kernel(run, kernel, stride, padding, 1, ceil_mode)
    whole = geometry.kernel_size == graph.sites.size and not any(map(any, geometry.padding))
    if whole and divisor_override is None:
        return readout_mean(run, x)
    _note(run, graph, geometry)
    return run.result(
        graph_avg_pool(
            graph, geometry, count_include_pad=count_include_pad,
            divisor_override=divisor_override, sites="network", who=step.operator,
        )
    )  # fmt: skip


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", hop="edges")
def adaptive_avg_pool(run: Any, step: Any, x: Spatial, output_size: Any) -> Any:
    """The mean over the nodes of each adaptive window."""
    asked = _tuple(output_size, run.root.d)
    if prod(asked) == 1:
        return readout_mean(run, x)
    graph = x.graph()
    if graph.sites.size == asked:
        run.travelled("node")
        return x
    geometry = WindowGeometry(asked)
    _note(run, graph, geometry)
    return run.result(graph_avg_pool(graph, geometry, sites="network"))


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", hop="edges")
def adaptive_max_pool(run: Any, step: Any, x: Spatial, output_size: Any) -> Any:
    """The maximum over the nodes of each adaptive window; its indices are for nobody."""
    asked = _tuple(output_size, run.root.d)
    graph = x.graph()
    if prod(asked) == 1:
        run.travelled("all")
        if run.planning:
            pooled = graph.x.new_empty(graph.batch_size, graph.num_channels)
            where = torch.empty_like(pooled, dtype=torch.int64)
        else:
            where = picks.by_image(graph.x, graph.batch, graph.batch_size)
            pooled = picks.pick(graph.x, where)
        shape = (*pooled.shape, *(1,) * graph.sites.d)
        return pooled.view(shape), where.view(shape)
    geometry = WindowGeometry(asked)
    _note(run, graph, geometry)
    pooled_graph, found = graph_max_pool(graph, geometry, sites="network")
    value = run.result(pooled_graph)
    if not isinstance(value, Spatial):
        raise NoRuleError("indices into a map that became one site")
    return value, value.with_x(found)


@rule("max_unpool2d", "max_unpool3d", hop="all")
def max_unpool(run: Any, step: Any, x: Spatial, indices: Spatial, output_size: Any) -> Any:
    """Every maximum goes back to the pixel it came from, everything else is 0."""
    graph = x.graph()
    target = network_sites(graph.sites, (tuple(output_size[-graph.sites.d :]),) * graph.batch_size)
    start = target.cell_ptr[:-1][graph.batch]
    where = indices.graph().x if indices.x.is_floating_point() else indices.x
    cell = torch.where(where >= 0, where + start.unsqueeze(1), 0)
    node = cell if target.rank is None else target.rank[cell]
    node = torch.where((where >= 0) & (node >= 0), node, target.num_nodes)
    out = graph.x.new_zeros(target.num_nodes + 1, graph.num_channels)
    out = out.scatter(0, node, graph.x)[: target.num_nodes]
    return run.result(PixelGraph(out, target))
