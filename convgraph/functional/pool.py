"""Pools: the edges of a convolution with another aggregation.

    max   y[p] = max over edges (q, p, t) of x[q]                 over no message: 0, gradient 0
    avg   y[p] = (sum over edges (q, p, t) of x[q]) / divisor(p)
    Lp    y[p] = (sum over edges (q, p, t) of x[q]^n)^(1/n)       as torch computes it

An absent pixel is the identity of the aggregation: it sends no message.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph import arguments, backends
from convgraph.backends.dense import pool as dense_pool
from convgraph.backends.gather import edges as gather
from convgraph.backends.gather import maxima
from convgraph.backends.halo import pool as halo_pool
from convgraph.backends.messages import edges as messages
from convgraph.backends.problem import Problem
from convgraph.backends.rows import HALF
from convgraph.door import door
from convgraph.errors import GeometryError, UnsupportedError
from convgraph.geometry.kernel import KernelGeometry, Relation
from convgraph.geometry.window import WindowGeometry
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.graph.sites import Sites


@door
def graph_max_pool(
    graph: PixelGraph,
    geometry: Relation,
    *,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_max_pool",
) -> tuple[PixelGraph, Tensor]:
    """Take the maximum over the messages into each output site.

    Args:
        graph: features (N, C).
        geometry: a KernelGeometry (padding at most half the window) or a WindowGeometry.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one backend.
        who: the caller's name, for error texts.

    Returns:
        The pooled graph, and indices (P, C) int64 of the winners in the plane of their image, -1
        where no message came; of equals the first in row-major order wins.

    Raises:
        GeometryError: the padding is more than half the window.

    Example:
        >>> graph = PixelGraph.from_image(torch.arange(16.0).view(1, 4, 4))
        >>> pooled, where = graph_max_pool(graph, KernelGeometry(2, stride=2))
        >>> pooled.x.flatten().tolist(), where.flatten().tolist()
        ([5.0, 7.0, 13.0, 15.0], [5, 7, 13, 15])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.max_pool2d.html
    """
    edges, name = _choose(graph, geometry, sites, backend, who)
    if name == dense_pool.NAME:
        pooled, indices = dense_pool.maximum(graph.x, edges, indices=True)
        if indices is not None:
            return PixelGraph(pooled, edges.target), indices
    if _interpolates(edges):
        raise UnsupportedError(
            f"{who}: on {edges.space} a maximum may lie between pixels, so it has no index; leave "
            "return_indices=False"
        )
    find = maxima.by_message if name == messages.NAME else maxima.by_tap
    chosen = find(graph.x, edges)
    return PixelGraph(maxima.values_at(graph.x, chosen), edges.target), plane_index(graph, chosen)


def max_pool_values(
    graph: PixelGraph, geometry: Relation, *, sites: Any, backend: str | None, who: str
) -> PixelGraph:
    """Do the same without indices, which torch computes faster."""
    edges, name = _choose(graph, geometry, sites, backend, who)
    if name == dense_pool.NAME:
        return PixelGraph(dense_pool.maximum(graph.x, edges, indices=False)[0], edges.target)
    if name == halo_pool.NAME:
        return PixelGraph(halo_pool.maximum(graph.x, edges), edges.target)
    if _interpolates(edges):
        return PixelGraph(maxima.between(graph.x, edges), edges.target)
    find = maxima.by_tap if name == gather.NAME else maxima.by_message
    return PixelGraph(maxima.values_at(graph.x, find(graph.x, edges)), edges.target)


def unpooled(graph: PixelGraph, indices: Tensor, target: Sites) -> PixelGraph:
    """Return every value at the pixel of its image that an index names, 0 everywhere else.

    Args:
        graph: pooled features (P, C).
        indices: (P, C) int64; a negative one, or one of an absent pixel, is sent nowhere.
        target: where pixels are.
    """
    start = target.cell_ptr[:-1][graph.batch]
    node = target.node_at(torch.where(indices >= 0, indices + start.unsqueeze(1), 0))
    # One spare row takes what goes nowhere.
    where = torch.where((indices >= 0) & (node >= 0), node, target.num_nodes)
    out = graph.x.new_zeros(target.num_nodes + 1, graph.num_channels)
    return PixelGraph(out.scatter(0, where, graph.x)[: target.num_nodes], target)


@door
def graph_avg_pool(
    graph: PixelGraph,
    geometry: Relation,
    *,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_avg_pool",
) -> PixelGraph:
    """Average the messages into each output site.

    Args:
        graph: features (N, C).
        geometry: a KernelGeometry (padding at most half the window) or a WindowGeometry.
        count_include_pad: divide by torch's window, padding and absent pixels included; False
            divides by the number of messages. A WindowGeometry always does the latter.
        divisor_override: divide by this instead.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one backend.
        who: the caller's name, for error texts.

    Returns:
        The pooled graph; an average over no message is 0.

    Raises:
        GeometryError: the padding is more than half the window, or the divisor is 0.
        DtypeError: features are integers, but for int64 and a KernelGeometry.

    Example:
        >>> graph = PixelGraph.from_image(torch.arange(16.0).view(1, 4, 4))
        >>> graph_avg_pool(graph, KernelGeometry(2, stride=2)).x.flatten().tolist()
        [2.5, 4.5, 10.5, 12.5]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.avg_pool2d.html
    """
    if divisor_override == 0:
        raise GeometryError(f"{who}: expected divisor_override other than 0")
    check_graph(graph, who)
    arguments.added(who, graph.dtype, whole=isinstance(geometry, KernelGeometry))
    edges, name = _choose(graph, geometry, sites, backend, who)
    if name in (dense_pool.NAME, halo_pool.NAME) and max(getattr(geometry, "dilation", (1,))) > 1:
        name = gather.NAME  # torch's averages know no dilation
    if name == dense_pool.NAME:
        y = dense_pool.average(
            graph.x,
            edges,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )
        return PixelGraph(y, edges.target)
    x = graph.x.float() if graph.dtype in HALF else graph.x
    if name == halo_pool.NAME:
        if count_include_pad or divisor_override is not None:
            y = halo_pool.average(x, edges, divisor_override)
            return PixelGraph(y.to(graph.dtype), edges.target)
        name = gather.NAME  # corners without a pixel are not counted
    # A sum of neighbours is the depthwise convolution whose every tap is 1.
    taps = x.new_ones(()).expand(edges.num_taps, x.shape[1], 1, 1)
    total = (gather.summed if name == gather.NAME else messages.summed)(x, taps, edges)
    if divisor_override is not None:
        y = total / divisor_override
    elif count_include_pad and isinstance(edges.relation, KernelGeometry):
        y = total / window_sizes(edges).to(total.dtype).unsqueeze(1)
    else:
        y = total / messages_heard(edges).to(total.dtype).unsqueeze(1)
    return PixelGraph(y.to(graph.dtype), edges.target)


@door
def graph_lp_pool(
    graph: PixelGraph,
    norm_type: float,
    geometry: KernelGeometry,
    *,
    sites: Any = None,
    backend: str | None = None,
    who: str = "graph_lp_pool",
) -> PixelGraph:
    """Take the power average of the messages, exactly as torch composes it.

    Args:
        graph: features (N, C).
        norm_type: n; 1 is the sum, large n the maximum.
        geometry: a KernelGeometry without padding.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one backend.
        who: the caller's name, for error texts.

    Example:
        >>> graph = PixelGraph.from_image(torch.tensor([[3.0, 4.0]]), d=1)
        >>> graph_lp_pool(graph, 2, KernelGeometry(2, d=1)).x.item()
        5.0

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.lp_pool2d.html
    """
    check_graph(graph, who)
    number = isinstance(norm_type, (int, float)) and not isinstance(norm_type, bool)
    if not number or not (norm_type < 0 or norm_type > 0):
        raise GeometryError(f"{who}: expected norm_type as a number but 0, got {norm_type!s:.60}")
    powers = graph_avg_pool(
        graph.map(lambda x: x.pow(norm_type)), geometry, sites=sites, backend=backend, who=who
    )
    volume = prod(geometry.kernel_size)
    return powers.map(lambda out: (out.sign() * out.abs().relu()).mul(volume).pow(1.0 / norm_type))


def pool_problem(graph: PixelGraph, edges: Edges) -> Problem:
    """The static facts of a pool, for the choice and for `explain`."""
    channels = graph.num_channels
    return Problem("pool", edges, channels, channels, channels, graph.dtype, graph.device)


def _interpolates(edges: Edges) -> bool:
    """Whether a tap may hear several sources, or a share of one."""
    if edges.space is None:
        return False
    return edges.edge_weight is not None or not edges.single_valued


def messages_heard(edges: Edges) -> Tensor:
    """(P,): messages into each target, 1 where there is none.

    The sources of one tap are one message; of a tap between pixels of which some are absent, the
    share that is there counts.
    """
    return edges.memo_of(_messages_heard)


def _messages_heard(edges: Edges) -> Tensor:
    count = torch.bincount(edges.edge_index[1], edges.edge_weight, minlength=edges.num_targets)
    return torch.where(count == 0, 1, count)


def window_sizes(edges: Edges) -> Tensor:
    """(P,) int64: torch's window at each target, pads counted, cut off behind the padded image."""
    return edges.memo_of(_window_sizes)


def _window_sizes(edges: Edges) -> Tensor:
    g = edges.relation
    if not isinstance(g, KernelGeometry):
        raise TypeError(f"a pool needs a KernelGeometry, got {type(g).__name__}")
    device, closed = edges.target.device, edges.space.closed if edges.space else (False,) * g.d
    sizes = torch.tensor(edges.source.sizes, dtype=torch.int64, device=device).view(-1, g.d)
    there = torch.ones(g.kernel_size, dtype=torch.int64, device=device)
    if g.footprint is not None:
        there = torch.tensor(g.footprint, device=device).view(g.kernel_size).long()
    count = there.expand(edges.num_targets, *g.kernel_size)
    for axis in reversed(range(g.d)):
        start = edges.target.pos[:, axis, None] * g.stride[axis] - g.padding[axis][0]
        behind = sizes[edges.target.batch, axis, None] + g.padding[axis][1]
        taps = torch.arange(g.kernel_size[axis], device=device) * g.dilation[axis]
        inside = start + taps < behind
        inside = inside | closed[axis]  # where an axis closes nothing lies behind the image
        count = (count * inside.view(-1, *(1,) * axis, g.kernel_size[axis])).sum(-1)
    return count


def plane_index(graph: PixelGraph, chosen: Tensor) -> Tensor:
    """Turn rows of x into torch's flat indices in the plane of their image; -1 stays."""
    sites = graph.sites
    if sites.num_nodes == 0:
        return chosen
    plane = sites.nodes - sites.cell_ptr[sites.batch]
    return torch.where(chosen >= 0, plane[chosen.clamp(min=0)], -1)


def _choose(
    graph: PixelGraph, geometry: Relation, sites: Any, backend: str | None, who: str
) -> tuple[Edges, str]:
    check_graph(graph, who)
    check_pool(geometry, who)
    edges = connect(geometry, graph.sites, sites)
    return edges, backends.choose(pool_problem(graph, edges), backend)


def check_pool(geometry: Relation, who: str) -> None:
    """Refuse padding of more than half the window, as torch does."""
    if isinstance(geometry, WindowGeometry):
        return
    if not isinstance(geometry, KernelGeometry) or geometry.transposed:
        raise GeometryError(f"{who}: expected a KernelGeometry or WindowGeometry, got {geometry!r}")
    reach = [
        gap * (k - 1) + 1 for k, gap in zip(geometry.kernel_size, geometry.dilation, strict=True)
    ]
    for (before, after), width in zip(geometry.padding, reach, strict=True):
        if max(before, after) > width // 2:
            raise GeometryError(
                f"{who}: expected padding of at most half the window, {width // 2} of {width} "
                f"pixels, got {(before, after)}"
            )
