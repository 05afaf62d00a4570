"""Attention: the complete graph of each group of nodes, with weights computed from the nodes.

    y[p] = sum over q in group(p) of softmax_q(<Q[p], K[q]> scale + bias[p, q]) V[q]

The group is named by the leading axes: an image, or one window of an image. Absent nodes are
nobody's neighbour.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.messages import take
from convgraph.convert import names
from convgraph.convert.names import Axes, Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial, index
from convgraph.sites import Sites


def product(run: Any, x: Any, other: Any) -> Any:
    """Refuse products of two maps that are not written as attention."""
    raise NoRuleError("it multiplies two maps")


def _parts(x: Spatial) -> tuple[list[Name], list[Name], int, int]:
    """Names of the group and of the tokens, number of heads, width.

    Raises:
        NoRuleError: axes other than (batch ...) (heads) (tokens) (plain).
    """
    *lead, tokens, width = x.axes
    group = [name for axis in lead for name in axis if name.kind != "plain"]
    heads = 1
    for name in names.names(tuple(lead)):
        heads *= name.size if name.kind == "plain" else 1
    if any(name.kind == "plain" for name in tokens) or not names.is_plain(width):
        raise NoRuleError(f"axes {names.describe(x.axes)} are no tokens")
    return group, list(tokens), heads, names.sizes((width,))[0]


class _Blocks:
    """Nodes packed by group: (G, M) rows of x, -1 where a group has fewer nodes."""

    def __init__(self, group: list[Name], sites: Sites) -> None:
        count = 1
        for name in group:
            count *= sites.batch_size if name.kind == "batch" else name.size
        which = index(group, sites)
        order = torch.argsort(which, stable=True)
        sizes = torch.bincount(which, minlength=count)
        width = int(sizes.max()) if len(which) else 0
        start = sizes.cumsum(0) - sizes
        place = torch.arange(len(which), device=sites.device) - start[which[order]]
        self.row = torch.full((count, max(width, 1)), -1, device=sites.device)
        self.row[which[order], place] = order
        self.flat = torch.empty_like(order)
        self.flat[order] = which[order] * max(width, 1) + place

    def pack(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (G, M, ...), 0 where nobody is."""
        some = (self.row >= 0).view(*self.row.shape, *(1,) * (rows.dim() - 1))
        packed = take(rows, self.row.clamp(min=0).flatten()).view(*self.row.shape, *rows.shape[1:])
        return torch.where(some, packed, 0)

    def unpack(self, packed: Tensor) -> Tensor:
        """(G, M, ...) -> (N, ...)."""
        return take(packed.flatten(0, 1), self.flat)


def _blocks(group: list[Name], sites: Sites) -> _Blocks:
    found: _Blocks = sites.memo(("blocks", tuple(group)), lambda: _Blocks(group, sites))
    return found


@rule("scaled_dot_product_attention", hop="all")
def sdpa(
    run: Any, step: Any, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(Q K^T scale + mask) V over the nodes of each group."""
    if not all(isinstance(one, Spatial) for one in (q, k, v)) or causal or enable_gqa:
        raise NoRuleError("its tokens are not all nodes")
    if k.sites is not v.sites or k.axes[:-1] != v.axes[:-1]:
        raise NoRuleError("keys and values differ in their axes")
    group, tokens, heads, width = _parts(q)
    other, listened, other_heads, _ = _parts(k)
    _, _, _, out_width = _parts(v)
    if group != other or heads != other_heads:
        raise NoRuleError("queries and keys differ in their groups")
    axes = (*q.axes[:-1], (Name("plain", out_width),))
    if run.planning:
        return Spatial(q.x.new_empty(q.x.shape[0], *names.plain(axes)), q.sites, axes)
    asking, answering = _blocks(group, q.sites), _blocks(group, k.sites)
    packed = [
        blocks.pack(one.x.reshape(one.x.shape[0], heads, -1)).transpose(1, 2)
        for one, blocks in ((q, asking), (k, answering), (v, answering))
    ]
    scale = 1 / sqrt(width) if scale is None else scale
    weights = packed[0] @ packed[1].transpose(-2, -1) * scale  # (G, heads, Mq, Mk)
    if mask is not None:
        weights = weights + _bias(mask, q, k, asking, answering, group, tokens, listened, weights)
    there = (answering.row >= 0)[:, None, None, :]
    weights = torch.where(there, weights, -torch.inf).softmax(-1)
    weights = torch.where(there, weights, 0)
    if dropout:
        weights = torch.nn.functional.dropout(weights, dropout)
    rows = asking.unpack((weights @ packed[2]).transpose(1, 2))
    return Spatial(rows.reshape(rows.shape[0], *names.plain(axes)), q.sites, axes)


def _bias(
    mask: Any, q: Spatial, k: Spatial, asking: _Blocks, answering: _Blocks, group: list[Name],
    tokens: list[Name], listened: list[Name], weights: Tensor,
) -> Tensor:  # fmt: skip
    """(G or 1, heads or 1, Mq, Mk): what a mask (..., Tq, Tk) says to each pair of nodes."""
    if isinstance(mask, Spatial):
        raise NoRuleError("its mask is a map")
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -torch.inf).to(weights.dtype)
    lead = mask.shape[:-2]
    expected = tuple(_sizes(q.axes[:-2], q.sites))
    table = mask.reshape(*(1,) * (len(expected) - len(lead)), *mask.shape)
    if any(n not in (1, full) for n, full in zip(table.shape[:-2], expected, strict=True)):
        raise NoRuleError(f"a mask of shape {tuple(mask.shape)}")
    rows, plains = _split_lead(table, q.axes[:-2], q.sites)
    table = table.reshape(*rows[2], *table.shape[-2:])
    table = table.permute(*rows[0], *rows[1], -2, -1)
    table = table.reshape(rows[3], plains, *table.shape[-2:])
    first = index(tokens, q.sites)[asking.row.clamp(min=0)]  # (G, Mq)
    second = index(listened, k.sites)[answering.row.clamp(min=0)]
    number = torch.arange(len(table), device=table.device)
    if len(table) == 1:
        number = number.expand(len(first))
    return table[number[:, None, None], :, first[:, :, None], second[:, None, :]].movedim(-1, 1)


def _sizes(axes: Axes, sites: Sites) -> list[int]:
    out = []
    for axis in axes:
        size = 1
        for name in axis:
            size *= sites.batch_size if name.kind == "batch" else name.size
        out.append(size)
    return out


def _split_lead(table: Tensor, axes: Axes, sites: Sites) -> tuple[tuple[Any, ...], int]:
    """Slots of group names and of heads in the leading axes, their sizes, and their products."""
    shape: list[int] = []
    rows: list[int] = []
    heads: list[int] = []
    spoken = []
    for axis, n in zip(axes, table.shape, strict=False):
        for name in axis or (Name("plain", 1),):
            size = sites.batch_size if name.kind == "batch" else name.size
            (heads if name.kind == "plain" else rows).append(len(shape))
            shape.append(size if n != 1 else 1)
            spoken.append(n != 1)
    groups, plains = 1, 1
    for slot in rows:
        groups *= shape[slot]
    for slot in heads:
        plains *= shape[slot]
    full = all(spoken[slot] for slot in rows) or not any(spoken[slot] for slot in rows)
    if not full:
        raise NoRuleError("a mask that speaks of some of the groups")
    return (rows, heads, shape, groups), plains
