"""Charts with margins: what lies beyond an edge is copied there, and its gradients come back.

    wide[r] = sum over the pixels q that stand at r of  weight x[q]        most r hear one pixel
    back[q] = sum over the places r where q stands of  weight wide[r]

The charts themselves are copied as blocks, and only margins by lists, which grow with the edges of
charts and not with their area. Ahead, every row of a margin names the pixel that it copies. Back,
they are added, dealt out into passes in which no row is written twice: nothing races, and a run
repeats.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convgraph.backends.compiled import linear, operators, unwatched
from convgraph.backends.problem import TAPPED, Problem
from convgraph.geometry.space import Halo, Pads
from convgraph.graph.edges import Edges
from convgraph.graph.sites import Sites

NAME = "halo"

Pass = tuple[Tensor, Tensor, Tensor | None]
"""Rows read, rows written, and weights (n, 1) float64 or None; no row is written twice."""


class Margins(NamedTuple):
    """The charts of one batch with margins.

    Attributes:
        charts: charts of all images.
        size: height and width of a chart.
        wide: height and width with margins.
        start: rows and columns before the chart.
        alone: (rows of margins at which one pixel stands, who that is), (M,) each.
        shared: rows (M,) where several stand, who they are (M, K) and their weights (M, K, 1).
        empty: rows where no pixel is.
        ahead: passes from the pixels to the margins.
        back: passes from the margins to the pixels.
    """

    charts: int
    size: tuple[int, int]
    wide: tuple[int, int]
    start: tuple[int, int]
    alone: tuple[Tensor, Tensor]
    shared: tuple[Tensor, Tensor, Tensor] | None
    empty: Tensor
    ahead: tuple[Pass, ...]
    back: tuple[Pass, ...]

    @property
    def plain(self) -> bool:
        """Whether there is no margin at all."""
        return self.wide == self.size


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    edges = problem.edges
    if not isinstance(edges, Edges):
        return "a typed graph given by its edge list has no charts"
    if edges.space is None:
        return "these sites lie in the plane"
    if any(s.mask is not None or s.size is None for s in (edges.source, edges.target)):
        return "not every pixel is a node at both ends, or the images differ in size"
    if not edges.space.along(edges.relation):
        return f"taps of {edges.space} lie between pixels"
    if not (edges.num_sources and edges.num_targets and problem.in_channels):
        return "there is nothing to copy"
    return None


def margins(sites: Sites, pads: Pads, mode: str) -> Margins:
    """Work out who stands in the margins of all images of full sites.

    Args:
        sites: of the lattice that is read.
        pads: margins of each chart.
        mode: what lies beyond an axis that is not closed.
    """
    space, size = sites.space, sites.size
    if space is None or size is None:
        raise TypeError("only full sites of a space have charts")
    number, height, width = space.charts(size)
    halo = space.halo(size, pads, mode)
    if halo is None:
        raise TypeError(f"{space} has no charts")
    (top, bottom), (left, right) = pads
    wide = (height + top + bottom, width + left + right)
    inside = np.zeros((number, *wide), dtype=bool)
    inside[:, top : top + height, left : left + width] = True
    pixels, weight, empty = _margin(halo, inside)
    device, cells = sites.device, size[0] * size[1]
    image = np.arange(sites.batch_size)[:, None]

    def rows(places: Any, step: int) -> Tensor:
        return torch.from_numpy((image * step + places).ravel()).to(device)

    def passes(read: int, write: int, steps: tuple[int, int]) -> tuple[Pass, ...]:
        found: list[Pass] = []
        for chosen in _dealt(pixels[write]):
            w = None if weight is None else np.tile(weight[chosen], sites.batch_size)
            some = None if w is None or (w == 1).all() else torch.from_numpy(w)[:, None].to(device)
            found.append(
                (rows(pixels[read][chosen], steps[0]), rows(pixels[write][chosen], steps[1]), some)
            )
        return tuple(found)

    room = number * wide[0] * wide[1]
    one = slice(None) if weight is None else weight == 1
    return Margins(
        charts=number * sites.batch_size,
        size=(height, width),
        wide=wide,
        start=(top, left),
        alone=(rows(pixels[1][one], room), rows(pixels[0][one], cells)),
        shared=_shared(halo, sites, cells, room),
        empty=rows(empty, room),
        ahead=passes(0, 1, (cells, room)),
        back=passes(1, 0, (room, cells)),
    )


def _shared(
    halo: Halo, sites: Sites, cells: int, room: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows where several pixels stand with a weight each, in all images; None if there are none."""
    if halo.weights is None:
        return None
    weights = halo.weights.reshape(-1, halo.weights.shape[-1])
    at = np.flatnonzero((weights[:, 0] != 1) & weights.any(axis=1))
    if not len(at):
        return None
    image = np.arange(sites.batch_size)
    who = halo.sources.reshape(weights.shape)[at]
    rows = (image[:, None] * room + at).ravel()
    read = (image[:, None, None] * cells + np.maximum(who, 0)).reshape(len(rows), -1)
    loud = np.tile(weights[at], (sites.batch_size, 1))[..., None]
    device = sites.device
    return tuple(torch.from_numpy(part).to(device) for part in (rows, read, loud))  # type: ignore[return-value]


def _margin(halo: Halo, inside: Any) -> tuple[tuple[Any, Any], Any, Any]:
    """(pixels, rows of the margin) (M,), weights (M,) or None, and rows where no pixel is."""
    margin = np.flatnonzero(~inside)
    sources = halo.sources.reshape(-1, halo.sources.shape[-1])[margin]
    who, k = np.nonzero(sources >= 0)
    empty = margin[~(sources >= 0).any(axis=1)]
    weight = None
    if halo.weights is not None:
        weight = halo.weights.reshape(-1, sources.shape[1])[margin][who, k]
    return (sources[who, k], margin[who]), weight, empty


def _dealt(written: Any) -> list[Any]:
    """Deal entries out into passes in which no row is written twice; the first has all rows."""
    order = np.argsort(written, kind="stable")
    ranked = written[order]
    turn = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
    return [order[turn == number] for number in range(int(turn.max(initial=-1)) + 1)]


def spread(
    x: Tensor,  # (N, C)
    lay: Margins,
    fill: float = 0.0,
) -> Tensor:
    """Return (charts, C, H, W), channels last in memory: the charts with their margins."""
    count, (height, width) = lay.charts, lay.wide
    if lay.plain:
        rows = x
    elif unwatched(x):
        rows = _spread(x, lay, fill)
    else:
        rows = _plainly(x, lay, fill)
    return rows.view(count, height, width, x.shape[1]).permute(0, 3, 1, 2)


def gathered(
    wide: Tensor,  # (charts, C, H, W)
    lay: Margins,
) -> Tensor:
    """Return (N, C): what stands in margins is added to the pixel it belongs to."""
    rows = wide.permute(0, 2, 3, 1).reshape(-1, wide.shape[1])
    if lay.plain:
        return rows
    if unwatched(rows):
        return _gather_rows(rows, lay, 0.0)
    return _back(rows, lay)


def _share(rows: Tensor, weight: Tensor | None) -> Tensor:
    return rows if weight is None else rows * weight.to(rows.dtype)


def _interior(rows: Tensor, lay: Margins) -> Tensor:
    """(charts, h, w, C): the charts within their margins, a view."""
    (top, left), (height, width) = lay.start, lay.size
    wide = rows.view(lay.charts, *lay.wide, rows.shape[1])
    return wide[:, top : top + height, left : left + width]


def _plainly(x: Tensor, lay: Margins, fill: float) -> Tensor:
    """The same by what a compiler or a transform can follow: margins are added to padded charts."""
    (top, left), (height, width) = lay.start, lay.size
    tall, across = lay.wide
    image = x.view(lay.charts, height, width, x.shape[1])
    pads = (0, 0, left, across - width - left, top, tall - height - top)
    rows = torch.nn.functional.pad(image, pads).reshape(-1, x.shape[1])
    for read, write, weight in lay.ahead:
        rows = rows.index_add(0, write, _share(x.index_select(0, read), weight))
    if fill and len(lay.empty):
        rows = rows.index_fill(0, lay.empty, fill)
    return rows


def _back(rows: Tensor, lay: Margins) -> Tensor:
    total = _interior(rows, lay).reshape(-1, rows.shape[1])
    for read, write, weight in lay.back:
        total = total.index_add(0, write, _share(rows.index_select(0, read), weight))
    return total


class _Spread(torch.autograd.Function):
    """Rows of pixels to rows of charts with margins; its derivative is `_Gather`."""

    @staticmethod
    def forward(x: Tensor, lay: Margins, fill: float) -> Tensor:
        rows = x.new_empty(lay.charts * lay.wide[0] * lay.wide[1], x.shape[1])
        _interior(rows, lay).copy_(x.view(lay.charts, *lay.size, x.shape[1]))
        write, read = lay.alone
        rows.index_copy_(0, write, x.index_select(0, read))
        if lay.shared is not None:
            write, read, weight = lay.shared
            said = x.index_select(0, read.view(-1)).view(*read.shape, x.shape[1])
            rows.index_copy_(0, write, said.mul_(weight).sum(1))
        if len(lay.empty):
            rows.index_fill_(0, lay.empty, fill)
        return rows

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plain = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _gather_back(grads[0], ctx.plain[0], 0.0), None, None


class _Gather(torch.autograd.Function):
    """Rows of charts with margins back to rows of pixels; its derivative is `_Spread`."""

    @staticmethod
    def forward(rows: Tensor, lay: Margins, fill: float) -> Tensor:
        rows = rows.contiguous()
        total = _interior(rows, lay).clone(memory_format=torch.contiguous_format)
        total = total.view(-1, rows.shape[1])
        for read, write, weight in lay.back:
            said = _share(rows.index_select(0, read), weight)
            total.index_copy_(0, write, said.add_(total.index_select(0, write)))
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plain = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _spread_back(grads[0].contiguous(), ctx.plain[0], 0.0), None, None


def _linear(operator: Any, ctx: Any, tangents: tuple[Any, ...]) -> Tensor:
    """Forward mode: there is no tangent where no pixel is."""
    return linear(operator, _Empty(ctx.plain[0]), (tangents[0].contiguous(),))


class _Empty:
    """What `linear` reads of a context, with nothing where no pixel is."""

    saved_tensors: tuple[Tensor, ...] = ()

    def __init__(self, lay: Margins) -> None:
        self.plain = (lay, 0.0)


_spread, _spread_back = operators(_Spread, _linear)
_gather_rows, _gather_back = operators(_Gather, _linear)
