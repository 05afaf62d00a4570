"""What one call can do, without the general machinery: small images wait for microseconds.

    full grid   x (B*H*W, C)  --view-->  (B, C, H, W)  --torch-->  (B, C', H', W')  --view-->  y
    1x1         x (N, C) @ W^T + b, on whatever sites
    mask        one fused kernel over the rows, where the sites stay and the choice is one of them

What follows from sites and geometry alone is worked out once and kept with the sites; what is left
of a call is one kernel between two views. torch itself refuses what does not fit, and whoever
called asks `check_weight` for the words. Steps are few because what is warm in a loop of its own
comes out of main memory between large kernels: there each costs five times as much.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from convgraph import backends
from convgraph.backends import matrices, onednn, tf32
from convgraph.backends.compiled import plus
from convgraph.backends.fused import autograd, cpp_tables, triton_conv, triton_tables
from convgraph.backends.fused import cpp_conv as cpp
from convgraph.backends.halo import chart_margins
from convgraph.backends.halo import conv as halo
from convgraph.functional.conv import conv_problem
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites, full_grid

_WHOLE = (torch.float32, torch.float64)
"""Dtypes in which torch's kernels round once, see `convgraph.backends.dense.conv`."""

_FUSED = {cpp.NAME: cpp_tables.sides, triton_conv.NAME: triton_tables.neighbours}
"""Fused backend -> the lists that its kernels read."""


@final
@dataclass(frozen=True, eq=False)
class Prepared:
    """One geometry on one full grid, ready to call.

    Attributes:
        target: what names the output grid, for `sites.full_grid`; None where the sites stay. (The
            record itself would hold on to who keeps the plan.)
        num_targets: output sites.
        sizes: (B, *size), in which rows are viewed.
        to_image: axes of the viewed rows, channels second.
        to_rows: axes of an image, channels last.
        call: torch's convolution of that dimension, or what `onednn` has in its place.
        args: stride, padding and dilation.
    """

    target: tuple[int, tuple[int, ...], torch.device, bool] | None
    num_targets: int
    sizes: tuple[int, ...]
    to_image: tuple[int, ...]
    to_rows: tuple[int, ...]
    call: Callable[..., Tensor]
    args: tuple[Any, ...]


@final
@dataclass(frozen=True, eq=False)
class Wide:
    """One geometry on full charts of a space: margins are copied, then torch convolves.

    Attributes:
        target: as in `Prepared`, with the space behind.
        num_targets: output sites.
        charts: where the margins come from.
        call: torch's convolution, or what stands in for it; see `backends.onednn`.
        args: stride, padding (none) and dilation.
    """

    target: tuple[Any, ...] | None
    num_targets: int
    charts: chart_margins.Margins
    call: Callable[..., Tensor]
    args: tuple[Any, ...]


ROWS = "rows"
"""The plan of a 1x1 where there are holes: one product over the rows as they lie."""


def prepared(source: Sites, geometry: KernelGeometry) -> Prepared | Wide | str | None:
    """Return the plan for a geometry on some sites; None if no one call of torch serves."""
    plain = not geometry.transposed and not geometry.ceil_mode
    if geometry.is_pointwise and plain and not source.is_full:
        return ROWS if geometry.d == source.d and source.num_nodes else None
    if source.mask is not None or source.size is None or not source.num_nodes:
        return None
    if source.space is not None:
        return _wide(source, geometry) if plain and geometry.footprint is None else None
    if not plain or geometry.padding_mode != "zeros" or geometry.footprint is not None:
        return None
    if geometry.d != source.d or any(before != after for before, after in geometry.padding):
        return None
    target = connect(geometry, source).target
    if target.mask is not None or target.size is None or target.root is not target:
        return None
    d = geometry.d
    padding = tuple(before for before, _ in geometry.padding)
    args = (geometry.stride, padding, geometry.dilation)
    grid = (target.batch_size, target.size, target.device, target.batched)
    return Prepared(
        target=None if target is source else grid,
        num_targets=target.num_nodes,
        sizes=(source.batch_size, *source.size),
        to_image=(0, d + 1, *range(1, d + 1)),
        to_rows=(0, *range(2, d + 2), 1),
        call=onednn.convolution(source.size, geometry.kernel_size, *args, source.device),
        args=args,
    )


def _wide(source: Sites, geometry: KernelGeometry) -> Wide | None:
    """The plan on charts; None where taps lie between pixels, or the edges are the plane's."""
    edges = connect(geometry, source)
    space, target = edges.space, edges.target
    if space is None or not space.along(edges.relation) or target.root is not target:
        return None
    grid = (target.batch_size, target.size, target.device, target.batched, target.space)
    charts, args = halo.margins(edges), (geometry.stride, (0, 0), geometry.dilation)
    return Wide(
        target=None if target is source else grid,
        num_targets=target.num_nodes,
        charts=charts,
        call=onednn.convolution(charts.wide, geometry.kernel_size, *args, source.device),
        args=args,
    )


def convolved(
    graph: PixelGraph, weight: Tensor, bias: Tensor | None, geometry: KernelGeometry, groups: int
) -> PixelGraph | None:
    """Return the convolution, or None where the general way has to be taken.

    Args:
        graph: features (N, C_in).
        weight: (C_out, C_in / groups, *kernel_size).
        bias: (C_out,) or None.
        geometry: the kernel's integers.
        groups: blocks of channels that do not mix.

    Raises:
        RuntimeError: torch's own, where channels, groups or devices do not fit.
    """
    x = graph.x
    if (
        weight.shape[2:] != geometry.kernel_size
        or weight.device != x.device
        or (bias is not None and bias.device != x.device)
        or torch.compiler.is_compiling()
        or torch._C._is_any_autocast_enabled()
        or backends.FORCED
    ):
        return None
    source = graph.sites
    plan = source.memo(("plan", geometry.key), lambda: prepared(source, geometry))
    if plan is None:
        return _fused(graph, weight, bias, geometry, groups)
    if x.dtype not in _WHOLE:
        return None
    if isinstance(plan, str):
        return _product(graph, weight, bias) if groups == 1 else None
    if isinstance(plan, Wide):
        wide = chart_margins.spread(x, plan.charts)
        out = plan.call(wide, weight, bias, *plan.args, groups)
        rows = out.permute(0, 2, 3, 1).reshape(plan.num_targets, weight.shape[0])
        target = source if plan.target is None else full_grid(*plan.target)
        return PixelGraph(rows, target) if weight.shape[0] == 1 else _made(rows, target)
    channels, target = weight.shape[0], source
    image = x.view(*plan.sizes, x.shape[1]).permute(plan.to_image)
    out = plan.call(image, weight, bias, *plan.args, groups)
    rows = out.permute(plan.to_rows).reshape(plan.num_targets, channels)
    if plan.target is not None:
        target = full_grid(*plan.target)
    # One channel may be viewed with any stride; the record would set it right.
    return PixelGraph(rows, target) if channels == 1 else _made(rows, target)


def _product(graph: PixelGraph, weight: Tensor, bias: Tensor | None) -> PixelGraph | None:
    """Multiply the rows as they lie; what torch would broadcast, the general way refuses."""
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != graph.x.dtype):
        return None
    return _made(plus(graph.x @ weight.flatten(1).t(), bias), graph.sites)


def _fused(
    graph: PixelGraph, weight: Tensor, bias: Tensor | None, geometry: KernelGeometry, groups: int
) -> PixelGraph | None:
    """Call the fused kernel; it checks nothing, so what does not fit takes the general way."""
    x, source, channels = graph.x, graph.sites, weight.shape[0]
    if (
        geometry.transposed
        or geometry.ceil_mode
        or weight.dtype != x.dtype
        or weight.shape[1] * groups != x.shape[1]
        or channels % groups
        or (bias is not None and (bias.shape != (channels,) or bias.dtype != x.dtype))
    ):
        return None

    def sides() -> tuple[Any, ...] | None:
        edges = connect(geometry, source)
        name = backends.choose(conv_problem(x, weight, edges, geometry, groups))
        widened = name == cpp.NAME and x.dtype not in _WHOLE  # by the general way
        if edges.target is not source or name not in _FUSED or widened:
            return None
        found: tuple[Any, ...] = edges.memo_of(_FUSED[name])
        return found

    # On CUDA the choice asks whether float32 may be TF32.
    tf32_too = x.is_cuda and tf32.allowed()
    facts = ("fused", geometry.key, x.shape[1], channels, groups, x.dtype, tf32_too)
    lists = source.memo(facts, sides)
    if lists is None:
        return None
    taps = matrices.of_taps(weight, groups, transposed=False)
    return _made(autograd.conv(x, taps, bias, *lists), source)


def _made(x: Tensor, sites: Sites) -> PixelGraph:
    """The record of what has just been made to fit, unchecked."""
    graph: PixelGraph = object.__new__(PixelGraph)
    object.__setattr__(graph, "x", x)
    object.__setattr__(graph, "sites", sites)
    return graph
