"""Taps of about equally many edges go through one batched product: few steps for few edges.

Edges stand in slots, tap after tap, and the taps of one block have equally many slots; what is
left over stays empty. Three passes over rows, whatever the number of taps:

    z = x[source of each slot]      z'[block] = z[block] @ taps[block]      y[p] = sum of p's slots

Self-loops need no slots: they are rows as they lie. The order in which a target sums asks nothing
of the other edges, and an addition never races. Two operators are closed under differentiation, as
in `gather`; so that this is worth it, all slots together have to be small.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from convgraph import autocast
from convgraph.backends.bags import bags, with_hole
from convgraph.backends.compiled import keeping, multilinear, operators, untracked, unwatched
from convgraph.graph.edges import Edges

NAME = "slots"
"""The row of the cost table; to the choice this is a way of `gather`."""

MOST = 2**22
"""Elements of all slots at both ends up to which the CPU does well to fill them all at once."""

EVEN = 0.6
"""A tap joins a block if its edges fill at least this share of the block's slots."""


@final
class Slots(NamedTuple):
    """The edges of one topology in slots, int32: they are few. Tensors on the edges' device.

    Attributes:
        taps: (T,) int64, the edge types that have edges, in the order of their slots.
        sources: (E',) the source of each edge that stands in a slot.
        targets: (E',) its target.
        filled: (slots + 1,) how many edges stand before each slot.
        by_source: offsets (N + 1), then the slots (E,) of each source; self-loops come first.
        by_target: likewise for targets, (P + 1) and (E,).
        plain: num_sources, num_targets, number of self-loops, then taps and slots of each block.
    """

    taps: Tensor
    sources: Tensor
    targets: Tensor
    filled: Tensor
    by_source: Tensor
    by_target: Tensor
    plain: tuple[int, ...]


def in_turn(ptr: tuple[int, ...]) -> list[int]:
    """Taps that have edges, the middle one first: what the first one says needs no adding.

    The order asks nothing of the edges, so that an image sums alike alone and within a batch.
    """
    middle = (len(ptr) - 1) // 2
    order = [middle, *(tap for tap in range(len(ptr) - 1) if tap != middle)]
    return [tap for tap in order if ptr[tap] < ptr[tap + 1]]


def slots(edges: Edges) -> Slots:
    """Put the edges of a topology into slots."""
    source, target, _, ptr = edges.by_tap()
    device, turns = source.device, in_turn(ptr)
    count = {tap: ptr[tap + 1] - ptr[tap] for tap in turns}
    loops = _loops(edges, turns, ptr)
    taps, blocks, parts = turns[:loops], [], []
    slot = torch.empty_like(source)
    start = begin = count[turns[0]] if loops else 0
    if loops:
        slot[ptr[turns[0]] : ptr[turns[0] + 1]] = torch.arange(begin, device=device)
    for block in _blocks(turns[loops:], count):
        most = count[block[0]]
        blocks += [len(block), most]
        for tap in block:
            chosen = slice(ptr[tap], ptr[tap + 1])
            slot[chosen] = torch.arange(start, start + count[tap], device=device)
            parts.append(chosen)
            start += most
        taps = taps + block
    filled = torch.zeros(start - begin + 1, dtype=torch.int64, device=device)
    for chosen in parts:
        filled[slot[chosen] - begin + 1] = 1
    order = torch.cat([torch.arange(ptr[t], ptr[t + 1], device=device) for t in turns])
    return Slots(
        taps=torch.tensor(taps, device=device),
        sources=torch.cat([source[:0], *(source[chosen] for chosen in parts)]).int(),
        targets=torch.cat([target[:0], *(target[chosen] for chosen in parts)]).int(),
        filled=filled.cumsum(0).int(),
        by_source=_bags_of(source[order], slot[order], edges.num_sources),
        by_target=_bags_of(target[order], slot[order], edges.num_targets),
        plain=(edges.num_sources, edges.num_targets, begin, *blocks),
    )


def _loops(edges: Edges, turns: list[int], ptr: tuple[int, ...]) -> int:
    """1 if the edges of the first tap are one self-loop per node, in node order; else 0."""
    if edges.source is not edges.target or not turns:
        return 0
    ends = edges.edge_index[:, ptr[turns[0]] : ptr[turns[0] + 1]]
    nodes = torch.arange(edges.num_sources, device=ends.device)
    return int(torch.equal(ends, nodes.expand(2, -1)))


def _blocks(taps: list[int], count: dict[int, int]) -> Iterator[list[int]]:
    """Taps of about equally many edges, the most first."""
    block: list[int] = []
    for tap in sorted(taps, key=lambda tap: -count[tap]):
        if block and count[tap] < EVEN * count[block[0]]:
            yield block
            block = []
        block.append(tap)
    if block:
        yield block


def _bags_of(ends: Tensor, slot: Tensor, nodes: int) -> Tensor:
    """Offsets of the nodes' slots, then the slots, each node's in the order given."""
    ptr = ends.new_zeros(nodes + 1)
    ptr[1:] = torch.bincount(ends, minlength=nodes).cumsum(0)
    return torch.cat([ptr, slot[ends.argsort(stable=True)]]).int()


def serves(x: Tensor, taps: Tensor, edges: Any) -> bool:
    """Whether the edges are few enough, and every step has its kernel."""
    if not isinstance(edges, Edges) or torch.compiler.is_compiling():
        return False
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    channels = taps.shape[1] * (taps.shape[2] + taps.shape[3])
    return few(edges.num_edges, channels) and edges.edge_weight is None


def few(num_edges: int, channels: int) -> bool:
    """Whether so many edges are worth slots; channels are those of both ends."""
    return 0 < num_edges * channels <= MOST


def conv(
    x: Tensor,  # (N, C_in)
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
    edges: Edges,
) -> Tensor:
    """Return y (num_targets, C_out) without bias."""
    found = edges.memo_of(slots)
    lists = (found.sources, found.targets, found.filled, found.by_source, found.by_target)
    # A convolution's weight has its inputs last: so lies a copy that is made row by row.
    chosen = taps.mT.index_select(0, found.taps).mT
    send = _Send.forward if untracked() else _send
    y: Tensor = send(x, chosen, *lists, *found.plain)
    return y


class _Blocks(NamedTuple):
    """What `Slots.plain` says."""

    num_sources: int
    num_targets: int
    loops: int
    blocks: tuple[tuple[slice, slice, int], ...]  # taps, slots after the loops, slots of one tap

    @classmethod
    def of(cls, plain: tuple[int, ...]) -> "_Blocks":
        blocks, tap, slot = [], int(plain[2] > 0), 0
        for taps, most in zip(plain[3::2], plain[4::2], strict=True):
            blocks.append((slice(tap, tap + taps), slice(slot, slot + taps * most), most))
            tap, slot = tap + taps, slot + taps * most
        return cls(plain[0], plain[1], plain[2], tuple(blocks))


def _picked(x: Tensor, rows: Tensor, filled: Tensor) -> Tensor:
    """(slots, C): the row in each slot, 0 in empty ones."""
    if unwatched(x):
        return bags(x, rows, filled)
    index = torch.full((len(filled) - 1,), x.shape[0], device=rows.device)
    index = index.index_copy(0, filled.diff().nonzero().squeeze(1), rows.long())
    return with_hole(x).index_select(0, index)


def _product(rows: Tensor, taps: Tensor, out: Tensor | None = None) -> Tensor:
    """(T, n, C) through (T, G, C / G, C' / G): (T, n, C')."""
    count, groups, c_in, c_out = taps.shape
    if groups == 1:
        return torch.bmm(rows, taps[:, 0], out=out)
    if c_in == c_out == 1:
        return torch.mul(rows, taps.view(count, 1, groups), out=out)
    blocks = rows.unflatten(-1, (groups, c_in)).transpose(1, 2)
    found = torch.matmul(blocks, taps).transpose(1, 2).flatten(2)
    return found if out is None else out.copy_(found)


def _outer(rows: Tensor, grads: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(T, n, C) and (T, n, C'): (T, G, C / G, C' / G), sums over n of the outer products."""
    groups, c_in, c_out = shape
    if groups == 1:
        return torch.bmm(rows.mT, grads).unsqueeze(1)
    if c_in == c_out == 1:
        return (rows * grads).sum(1).view(-1, groups, 1, 1)
    blocks = rows.unflatten(-1, (groups, c_in)).transpose(1, 2)
    return torch.matmul(blocks.mT, grads.unflatten(-1, (groups, c_out)).transpose(1, 2))


class _Send(torch.autograd.Function):
    """y[p] = sum over edges of x[q] @ T[t]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        taps: Tensor,
        sources: Tensor,
        targets: Tensor,
        filled: Tensor,
        by_source: Tensor,
        by_target: Tensor,
        *plain: int,
    ) -> Tensor:
        layout = _Blocks.of(plain)
        z, loops = _picked(x, sources, filled), layout.loops
        ptr = by_target[: layout.num_targets + 1]
        where = by_target[layout.num_targets + 1 :]
        if unwatched(x, taps):
            found = x.new_empty(loops + z.shape[0], taps.shape[1] * taps.shape[3])
            if loops:
                _product(x.unsqueeze(0), taps[:1], found[:loops].unsqueeze(0))
            for chosen, slot, most in layout.blocks:
                out = found[loops:][slot].unflatten(0, (-1, most))
                _product(z[slot].unflatten(0, (-1, most)), taps[chosen], out)
            return bags(found, where, ptr)
        parts = [_product(x.unsqueeze(0), taps[:1]).flatten(0, 1)] if loops else []
        for chosen, slot, most in layout.blocks:
            rows = z[slot].unflatten(0, (-1, most))
            parts.append(_product(rows, taps[chosen]).flatten(0, 1))
        found = torch.cat(parts).index_select(0, where)
        nodes = torch.arange(layout.num_targets, device=ptr.device).repeat_interleave(ptr.diff())
        return found.new_zeros(layout.num_targets, found.shape[1]).index_add(0, nodes, found)

    setup_context = keeping(7)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, taps, *lists = ctx.saved_tensors
        (g,) = grads
        grad_x = grad_taps = None
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                grad_x = _send_back(g, taps.mT, *_turned(lists, ctx.plain))
            if ctx.needs_input_grad[1]:
                grad_taps = _correlate_back(x, g, *lists, *taps.shape[1:], *ctx.plain)
        return (grad_x, grad_taps, *[None] * (5 + len(ctx.plain)))


class _Correlate(torch.autograd.Function):
    """T[t] = sum over the edges of tap t of x[q]^T g[p], per group."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        g: Tensor,
        sources: Tensor,
        targets: Tensor,
        filled: Tensor,
        by_source: Tensor,
        by_target: Tensor,
        *plain: int,  # the shape of T[t], then the layout
    ) -> Tensor:
        shape, layout = plain[:3], _Blocks.of(plain[3:])
        z, heads = _picked(x, sources, filled), _picked(g, targets, filled)
        parts = [_outer(x.unsqueeze(0), g.unsqueeze(0), shape)] if layout.loops else []
        for _, slot, most in layout.blocks:
            rows = (z[slot].unflatten(0, (-1, most)), heads[slot].unflatten(0, (-1, most)))
            parts.append(_outer(*rows, shape))
        return torch.cat(parts)

    setup_context = keeping(7)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, g, *lists = ctx.saved_tensors
        (grad_taps,) = grads
        grad_x = grad_g = None
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                grad_x = _send_back(g, grad_taps.mT, *_turned(lists, ctx.plain[3:]))
            if ctx.needs_input_grad[1]:
                grad_g = _send_back(x, grad_taps, *lists, *ctx.plain[3:])
        return (grad_x, grad_g, *[None] * (5 + len(ctx.plain)))


def _turned(lists: list[Tensor], plain: tuple[int, ...]) -> tuple[Any, ...]:
    """The same slots with the edges reversed."""
    sources, targets, filled, by_source, by_target = lists
    return (
        *(targets, sources, filled, by_target, by_source),
        *(plain[1], plain[0], *plain[2:]),
    )


_send, _send_back = operators(_Send, multilinear)
_, _correlate_back = operators(_Correlate, multilinear)
