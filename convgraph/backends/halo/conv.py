"""Backend `halo` of convolutions: charts with margins, then torch's convolution without padding.

y = conv(spread(x), W, stride, dilation)        y = gathered(conv_transpose(x, W, ...))

When: tori, HEALPix on full grids.
"""

import torch.nn.functional as F
from torch import Tensor

from convgraph.backends import matrices, onednn
from convgraph.backends.halo import chart_margins
from convgraph.backends.halo.chart_margins import Margins
from convgraph.backends.problem import Problem, kernel_of
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges
from convgraph.graph.space_edges import forwards

NAME = chart_margins.NAME


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    refusal = chart_margins.refuses(problem)
    if refusal is not None:
        return refusal
    if not isinstance(problem.edges.relation, KernelGeometry):  # type: ignore[union-attr]
        return "these edges are no kernel's"
    if problem.static:
        return "x of shape (B, N, C) on one graph is served by 'messages'"
    return None


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: pixels are copied once before they are read."""
    edges = problem.edges
    macs = edges.num_targets * edges.num_taps * problem.macs_per_edge
    moved = 3 * edges.num_sources * problem.in_channels + edges.num_targets * problem.out_channels
    return float(macs), float(moved)


def margins(edges: Edges) -> Margins:
    """The margins that a kernel reads, kept with the edges."""
    return edges.memo_of(_margins)


def _margins(edges: Edges) -> Margins:
    g = kernel_of(edges)
    fine, coarse = (edges.target, edges.source) if g.transposed else (edges.source, edges.target)
    space, size, out = fine.space, fine.size, coarse.size
    if space is None or size is None or out is None:
        raise TypeError("only full sites of a space have charts")
    forwards(g, edges.source.size or (), edges.target.size or ())
    number, height, width = space.charts(size)
    pads = []
    for axis, (n, m) in enumerate(zip((height, width), (out[0] // number, out[1]), strict=True)):
        first = -g.padding[axis][0]
        last = first + (m - 1) * g.stride[axis] + g.dilation[axis] * (g.kernel_size[axis] - 1)
        pads.append((max(0, -first), max(0, last - n + 1)))
    return chart_margins.margins(fine, tuple(pads), g.padding_mode)


@matrices.widened
def conv(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    problem: Problem,
) -> Tensor:
    """Return y (num_targets, C_out), bias included."""
    g, lay, weight = kernel_of(edges), margins(edges), matrices.there(weight, edges)
    if g.transposed:
        return _transposed(x, weight, bias, edges, problem.groups)
    args = (g.stride, (0, 0), g.dilation)
    run = onednn.convolution(lay.wide, g.kernel_size, *args, x.device)
    return as_rows(run(chart_margins.spread(x, lay), weight, bias, *args, problem.groups), edges)


def _transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, edges: Edges, groups: int
) -> Tensor:
    """Every chart speaks to a wide one; what stands beyond its edges goes where it belongs."""
    g, lay = kernel_of(edges), margins(edges)
    size, number = edges.source.size or (), lay.charts // edges.source.batch_size
    image = x.view(lay.charts, size[0] // number, size[1], x.shape[1]).permute(0, 3, 1, 2)
    none = (0, 0)
    out = onednn.transposed(image, weight, None, g.stride, none, none, groups, g.dilation)
    missing = [n - m for n, m in zip(lay.wide, out.shape[2:], strict=True)]
    if any(missing):  # pixels behind the last message hear nothing
        out = F.pad(out, (0, missing[1], 0, missing[0]))
    y = chart_margins.gathered(out, lay)
    return y if bias is None else y + bias


def spread_with(x: Tensor, edges: Edges, fill: float) -> Tensor:
    """The charts that a window reads, with `fill` where no pixel is."""
    return chart_margins.spread(x, margins(edges), fill)


def as_rows(image: Tensor, edges: Edges) -> Tensor:
    """(charts, C, h, w) as (num_targets, C)."""
    return image.permute(0, 2, 3, 1).reshape(edges.num_targets, image.shape[1])
