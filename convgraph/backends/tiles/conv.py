"""Backend `tiles`: active tiles with a halo, through torch's own convolution, back to rows.

    windows = x[window]          (count, C, *W), what each active tile reads, holes 0
    y       = conv(windows, W)[place]

Dense arithmetic only where there are sites. Three operators are closed under differentiation, to
any order; like `gather`, they keep no windows for backward, but cut them out again:

    send(x, W) = y      correlate(x, g) = d<y, g> / dW      answer(g, W) = d<y, g> / dx

Where the reversed edges are a convolution again (stride 1, no folds) `answer` is `send` on their
own tiles; else the windows' gradients are added up, source by source. So nothing races and results
repeat bit for bit.

When: masks in patches and blobs.
"""

from collections.abc import Sequence
from math import prod
from operator import index
from typing import Any

import torch
from torch import Tensor

from convgraph import autocast
from convgraph.backends import cost, matrices, site_tiles
from convgraph.backends.bags import Ints, bags, with_hole
from convgraph.backends.compiled import (
    keeping,
    multilinear,
    operators,
    plus,
    untracked,
    unwatched,
)
from convgraph.backends.problem import TAPPED, Problem, bent
from convgraph.backends.rows import HALF
from convgraph.backends.tiles import cutting
from convgraph.backends.tiles.cutting import Shape
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges

NAME = "tiles"

ROW = 12
"""Sites that each row of a tile costs beside its own in a depthwise kernel: short rows leave its
vectors empty."""

COST_OF_A_TILE = 100
"""Cells that each tile costs beside its own in any other kernel: it sets out from scratch."""


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    edges = problem.edges
    if not isinstance(edges, Edges) or not isinstance(edges.relation, KernelGeometry):
        return "tiles need the edges of a kernel on a lattice"
    if not (edges.num_targets and edges.num_sources):
        return "there is no site to tile"
    return bent(edges)


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved by the tile that `tile_of` names."""
    tile = tile_of(problem)
    return _work(problem, tile, dict(_edges(problem).memo_of(site_tiles.occupancy))[tile])


def least(problem: Problem) -> tuple[float, float]:
    """What tiles of any size do at the least: they hold every target, windows as many sources."""
    edges = _edges(problem)
    g: Any = edges.relation
    targets = edges.num_targets
    macs = 0 if g.transposed else targets * g.num_taps * problem.macs_per_edge
    moved = targets * 2 * problem.out_channels
    if not g.transposed:
        moved += targets * problem.in_channels
    return float(macs), float(moved)


def tile_of(problem: Problem) -> Ints:
    """Return the tile that would take the least time, by the table in `cost`."""
    return _fixed(_edges(problem).memo_of(_least_on, *problem.facts))


def _least_on(edges: Edges, *facts: Any) -> Ints:
    """The tile for these facts, kept with the edges: a warmed-up call looks it up."""
    problem = Problem.of(edges, facts)
    table = edges.memo_of(site_tiles.occupancy)
    costs = [cost.nanoseconds(NAME, problem, *_work(problem, tile, count)) for tile, count in table]
    return table[costs.index(min(costs))][0]


def _fixed(numbers: Sequence[int]) -> Ints:
    """Constants, also under torch.compile(dynamic=True), as in backends.dense."""
    return tuple([index(n) for n in numbers])


def _work(problem: Problem, tile: Ints, count: int) -> tuple[float, float]:
    """Every site of an active tile is computed; windows are cut out, tiles are read."""
    edges = _edges(problem)
    g: Any = edges.relation
    sites, cells = count * prod(tile), count * prod(site_tiles.window_size(g, tile))
    # A transposed kernel does as many multiply-adds as its windows have cells.
    macs = (cells if g.transposed else sites) * g.num_taps * problem.macs_per_edge
    moved = cells * problem.in_channels + (sites + edges.num_targets) * problem.out_channels
    on_cpu = problem.device.type == "cpu"  # elsewhere neither has been measured
    if on_cpu and problem.depthwise:
        macs *= 1 + ROW / prod(tile) ** (1 / g.d)
    elif on_cpu:
        moved += COST_OF_A_TILE * count * problem.in_channels
    if not site_tiles.mirrored(g):  # for the backward, which adds the windows' gradients up
        moved += cells * problem.in_channels
    return float(macs), float(moved)


def _edges(problem: Problem) -> Edges:
    if not isinstance(problem.edges, Edges):
        raise TypeError(f"tiles need Edges, got {type(problem.edges).__name__}")
    return problem.edges


def conv(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    problem: Problem,
) -> Tensor:
    """Return y (num_targets, C_out), bias included."""
    whole = matrices.there(weight, edges)
    return convolution(x, whole, bias, edges, problem.groups, tile_of(problem))


def convolution(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    groups: int,
    tile: Ints,  # sites along each axis, one of `site_tiles.tiles_of`
) -> Tensor:
    """Return y (num_targets, C_out), by tiles of one size."""
    g = edges.relation
    if not isinstance(g, KernelGeometry):
        raise TypeError(f"a convolution needs a KernelGeometry, got {type(g).__name__}")
    if x.dtype in HALF and (x.device.type == "cpu" or not site_tiles.mirrored(g)):
        # Products and sums in fp32, one rounding at the end; so are the windows' gradients, which
        # are added up where the reversed edges are no convolution.
        parts = [None if t is None else t.float() for t in (x, weight, bias)]
        return convolution(parts[0], parts[1], parts[2], edges, groups, tile).to(x.dtype)  # type: ignore[arg-type]
    return _conv(x, weight, bias, edges, groups, tile)


def _shape(edges: Edges, groups: int, tile: Ints, weight: Ints) -> Shape:
    """The integers of a call, kept with the edges."""
    g: Any = edges.relation
    found = edges.memo_of(site_tiles.active_tiles, tile)
    return Shape(
        transposed=int(g.transposed),
        groups=groups,
        mirrored=int(site_tiles.mirrored(g)),
        num_sources=index(edges.num_sources),
        tiles=index(found.count),
        stride=_fixed(g.stride),
        dilation=_fixed(g.dilation),
        tile=tile,
        size=_fixed(found.size),
        crop=_fixed(found.crop),
        weight=weight,
    )


def _lists(edges: Edges, tiled: Any, tile: Ints) -> tuple[Tensor, Tensor, Tensor]:
    """The lists of tiles, alone: what an exporter takes for constants.

    A kernel that is its own mirror has these lists twice, and a compiler takes no tensor twice.
    """
    found = edges.memo_of(tiled, tile)
    return found.window.detach(), found.place.detach(), found.held.detach()


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, edges: Edges, groups: int, tile: Ints
) -> Tensor:
    """Call the operator with the topology's lists and integers."""
    facts = (groups, tile, _fixed(weight.shape))
    shape = (
        _shape(edges, *facts) if torch.compiler.is_compiling() else edges.memo_of(_shape, *facts)
    )
    here = edges.memo_of(_lists, site_tiles.active_tiles, tile)
    if untracked():
        # Nothing will come back: torch's kernel adds the bias on the way.
        return _sent(x, weight, bias, *here, shape)
    if shape.mirrored:
        there = edges.memo_of(_lists, site_tiles.reversed_tiles, tile)
        count = edges.memo_of(site_tiles.reversed_tiles, tile).count
        y = _send(x, weight, *here, *there, *shape.flat(), count)
    else:
        turned = edges.memo_of(site_tiles.spread, tile)
        # One by one: torch 2.11 unpacks no named tuple that is a constant of an export.
        lists = (turned.table, turned.cells, turned.ptr)
        y = _send(x, weight, *here, *lists, *shape.flat())
    return plus(y, bias)


def _sent(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Tensor,
    place: Tensor,
    held: Tensor,
    s: Shape,
) -> Tensor:
    """conv(x[window], W)[place], the bias included if there is one."""
    cut = cutting.cutter(x, window, s.size, s.tiles)
    chunks = list(cutting.chunks(s, x.shape[1], x.device))
    made = (cutting.convolve(cut(chosen), weight, s, bias) for chosen in chunks)
    if len(chunks) == 1 or not unwatched(*[t for t in (x, weight, bias) if t is not None]):
        return cutting.as_rows(list(made)).index_select(0, place)
    # Chunk after chunk to where it belongs: all tiles together would be held twice.
    y = x.new_empty(len(place), s.out_channels)
    for chosen, part in zip(chunks, made, strict=True):
        first, targets = cutting.standing_in(held, prod(s.tile), s.tiles, chosen)
        cells = place.index_select(0, targets) - first
        y.index_copy_(0, targets, cutting.as_rows([part]).index_select(0, cells))
    return y


# The three operators; `plain` is Shape.flat(), then how many tiles the reversed edges have, if they
# have any: one number an argument, for torch's rule for vmap within forward mode loses count of
# nested ones. `back_1` to `back_3` are the lists of the tiles turned round; else of
# `site_tiles.spread`.


class _Send(torch.autograd.Function):
    """y = conv(x[window], W)[place]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        window: Tensor,
        place: Tensor,
        held: Tensor,
        back_1: Tensor,
        back_2: Tensor,
        back_3: Tensor,
        *plain: int,
    ) -> Tensor:
        s, _ = Shape.of(plain)
        return _sent(x, weight, None, window, place, held, s)

    setup_context = keeping(8)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, *lists = ctx.saved_tensors
        grad_x = grad_w = None
        with autocast.off(grads[0].device):
            if ctx.needs_input_grad[0]:
                grad_x = _answer_to(grads[0], weight, lists, ctx.plain)
            if ctx.needs_input_grad[1]:
                grad_w = _correlate_back(x, grads[0], *lists, *ctx.plain)
        return (grad_x, grad_w, *[None] * (6 + len(ctx.plain)))


class _Answer(torch.autograd.Function):
    """d<y, g> / dx: the windows' gradients, added up row by row."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        g: Tensor,
        weight: Tensor,
        window: Tensor,
        place: Tensor,
        held: Tensor,
        table: Tensor,
        cells: Tensor,
        ptr: Tensor,
        *plain: int,
    ) -> Tensor:
        s, _ = Shape.of(plain)
        cut = cutting.cutter(g, held, s.tile, s.tiles)
        parts = [
            cutting.adjoint(cut(chosen), weight, s)
            for chosen in cutting.chunks(s, s.in_channels, g.device)
        ]
        found = cutting.as_rows(parts)
        if unwatched(found):
            return bags(found, cells, ptr)
        # Compilers turn additions into rows into atomics.
        rows = with_hole(found).index_select(0, table.flatten())
        total: Tensor = rows.unflatten(0, table.shape).sum(1)
        return total

    setup_context = keeping(8)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        g, weight, *lists = ctx.saved_tensors
        grad_g = grad_w = None
        with autocast.off(grads[0].device):
            if ctx.needs_input_grad[0]:
                grad_g = _send_back(grads[0], weight, *lists, *ctx.plain)
            if ctx.needs_input_grad[1]:
                grad_w = _correlate_back(grads[0], g, *lists, *ctx.plain)
        return (grad_g, grad_w, *[None] * (6 + len(ctx.plain)))


class _Correlate(torch.autograd.Function):
    """d<y, g> / dW, chunk after chunk."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        g: Tensor,
        window: Tensor,
        place: Tensor,
        held: Tensor,
        back_1: Tensor,
        back_2: Tensor,
        back_3: Tensor,
        *plain: int,
    ) -> Tensor:
        s, _ = Shape.of(plain)
        cells = cutting.cutter(x, window, s.size, s.tiles)
        heads = cutting.cutter(g, held, s.tile, s.tiles)
        parts = []
        with cutting.repeatable(x.device):
            for chosen in cutting.chunks(s, x.shape[1], x.device):
                parts.append(cutting.weight_gradient(cells(chosen), heads(chosen), s))
        total: Tensor = sum(parts[1:], parts[0])
        return total

    setup_context = keeping(8)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, g, *lists = ctx.saved_tensors
        grad_x = grad_g = None
        with autocast.off(grads[0].device):
            if ctx.needs_input_grad[0]:
                grad_x = _answer_to(g, grads[0], lists, ctx.plain)
            if ctx.needs_input_grad[1]:
                grad_g = _send_back(x, grads[0], *lists, *ctx.plain)
        return (grad_x, grad_g, *[None] * (6 + len(ctx.plain)))


def _answer_to(g: Tensor, weight: Tensor, lists: list[Any], plain: Ints) -> Tensor:
    """Send gradients back along the edges, within a backward."""
    s, count = Shape.of(plain)
    if not s.mirrored:
        return _answer_back(g, weight, *lists, *plain)
    turned = _turned(weight, s.groups)
    back = Shape(  # a compiler of torch 2.8 does not take `_replace`
        s.transposed, s.groups, s.mirrored, len(lists[1]), count[0], s.stride, s.dilation, s.tile,
        s.size, s.crop, _fixed(turned.shape),
    )  # fmt: skip
    return _send_back(g, turned, *lists[3:], *lists[:3], *back.flat(), s.tiles)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """(C', C / G, *k) -> (C, C' / G, *k): the taps of the reversed edges, in their order."""
    kernel = weight.shape[2:]
    blocks = weight.unflatten(0, (groups, weight.shape[0] // groups)).flatten(3)
    lines = blocks.permute(0, 2, 3, 1).flatten(0, 1)  # (C, K, C' / G), to lie channels last
    order = torch.arange(lines.shape[1] - 1, -1, -1, device=weight.device)
    turned: Tensor = lines.index_select(1, order).unflatten(1, kernel).movedim(-1, 1)
    return turned


_send, _send_back = operators(_Send, multilinear)
_, _answer_back = operators(_Answer, multilinear)
_, _correlate_back = operators(_Correlate, multilinear)
