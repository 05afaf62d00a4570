"""Attention: weights computed from the nodes, on the complete graph of each group.

y[p] = sum over q in group(p) of softmax_q(<Q[p], K[q]> scale + bias[p, q]) V[q]
"""

from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.compiled import outermost
from convgraph.convert import names, node_pairs
from convgraph.convert.align import align
from convgraph.convert.names import NoRuleError
from convgraph.convert.node_pairs import PairSites
from convgraph.convert.operators import operator
from convgraph.convert.registry import rule
from convgraph.convert.rules.shapes import expand
from convgraph.convert.tokens import as_sequence
from convgraph.convert.value import Spatial, placed
from convgraph.graph.sites import Sites


def is_pairs(x: Any) -> bool:
    """Whether the rows of a value are pairs."""
    return isinstance(x, Spatial) and isinstance(x.sites, PairSites)


def turned(x: Any) -> Any:
    """Return the transposed matrices of the last two axes."""
    if isinstance(x, Tensor):
        return x.mT
    last = len(x.axes) - 1
    return x.permuted([*range(last - 1), last, last - 1])


def _pairs(q: Spatial, k: Spatial) -> tuple[PairSites, names.Axes]:
    """Who of (*lead, asked, width) hears whom of (*lead, heard, width), and the axes of that."""
    *lead, asked, width = q.axes
    *other, heard, depth = k.axes
    group = node_pairs.tokens(tuple(lead), asked, width)
    spoken = node_pairs.tokens(tuple(other), heard, depth)
    if is_pairs(q) or is_pairs(k) or not node_pairs.same_groups(q.sites, group, k.sites, spoken):
        raise NoRuleError("queries and keys differ in their groups")
    if node_pairs.lead_of(tuple(lead), group) != node_pairs.lead_of(tuple(other), spoken):
        raise NoRuleError("queries and keys differ in their heads")
    sites = node_pairs.paired(q.sites, k.sites, (group, spoken), asked, heard)
    return sites, (*lead, asked, node_pairs.keys(heard))


def _packed(blocks: Any, one: Spatial) -> Tensor:
    """(G, heads, M, width) of (*lead, tokens, width)."""
    found: Tensor = blocks.pack(node_pairs.heads(one)).transpose(1, 2)
    return found


def questions(call: Any, q: Spatial, k: Spatial, product: Any = None) -> Spatial:
    """Return <Q[p], K[q]>, or another product, for every pair, as rows of pairs."""
    sites, axes = _pairs(q, k)
    if "batch" in names.kinds(axes[-1]):  # a name that both sides would have
        raise NoRuleError("nodes of one image ask those of another")
    first, second = _packed(sites.first, q), _packed(sites.second, k)
    found = product(first, second) if product else first @ second.transpose(-2, -1)
    rows = sites.rows(found.movedim(1, -1))
    return Spatial(rows.reshape(rows.shape[0], *names.plain(axes)), sites, axes)


def answers(call: Any, weights: Spatial, v: Any) -> Spatial:
    """Return the sum over pairs of their weight times what is heard, or what that hears in turn."""
    weights = _heard_last(weights)
    sites: Any = weights.sites
    *lead, asked, heard = weights.axes
    v = _heard_last(v) if is_pairs(v) else _said(weights, v)
    *other, spoken, width = v.axes
    in_turn = is_pairs(v)
    speaking, group = (v.sites.asking, v.sites.group) if in_turn else (v.sites, sites.heard)
    if speaking is not sites.answering or node_pairs.keys(heard, back=True) != spoken:
        raise NoRuleError("weights and values differ in who is heard")
    if not in_turn:
        group = node_pairs.tokens(tuple(other), spoken, width)
    if group != sites.heard:
        raise NoRuleError("weights and values differ in their groups")
    mine = node_pairs.lead_of(tuple(lead), sites.group)
    theirs = node_pairs.lead_of(tuple(other), sites.heard)
    if len(mine) != len(theirs) or any(b not in ([], a) for a, b in zip(mine, theirs, strict=True)):
        raise NoRuleError("weights and values differ in their heads")
    full = _full(weights)
    said = _full(v) if in_turn else _packed(sites.second, v)
    if said.shape[1] not in (1, full.shape[1]):
        raise NoRuleError("weights and values differ in their heads")
    axes = (*lead, asked, width)
    if not in_turn:
        return _answered(sites, full @ said, axes)
    sites = node_pairs.pair_sites(sites.asking, v.sites.answering, sites.group, v.sites.heard)
    rows = sites.rows((full @ said).movedim(1, -1))
    return Spatial(rows.reshape(rows.shape[0], *names.plain(axes)), sites, axes)


def _full(pairs: Spatial) -> Tensor:
    """(G, heads, Mq, Mk), 0 where no pair is."""
    return pairs.sites.spread(_by_heads(pairs.x), 0.0).movedim(-1, 1)  # type: ignore[no-any-return]


def _heard_last(pairs: Spatial) -> Spatial:
    """Pairs whose last axis is who is heard, and the last but one who asks."""
    sides = [names.kinds(axis) for axis in pairs.axes[-2:]]
    if sides == [{"key"}, {"site"}]:
        return node_pairs.swapped(pairs)
    if sides[-1] != {"key"}:
        raise NoRuleError("weights of pairs are summed over what is no side of theirs")
    return pairs


def _said(weights: Spatial, v: Any) -> Spatial:
    """What is heard, also where an ordinary tensor says it of each place."""
    if isinstance(v, Spatial):
        return v
    sites: Any = weights.sites
    *lead, _, heard = weights.axes
    shared = dict(zip(sites.group, sites.heard, strict=True))
    before = [tuple(shared.get(name, name) for name in axis) for axis in lead]
    axes = (*before, node_pairs.keys(heard, back=True), (names.Name("plain", v.shape[-1]),))
    return placed(v.expand(names.sizes(axes)), sites.answering, axes)


def _answered(sites: PairSites, packed: Tensor, axes: names.Axes) -> Spatial:
    """(G, heads, Mq, width) as what those say who asked."""
    rows = sites.first.unpack(packed.transpose(1, 2))
    return Spatial(rows.reshape(rows.shape[0], *names.plain(axes)), sites.asking, axes)


def _by_heads(rows: Tensor) -> Tensor:
    """(E, heads)."""
    return rows.reshape(rows.shape[0], prod(rows.shape[1:]))


def pair_softmax(call: Any, x: Spatial) -> Spatial:
    """Return the softmax over everybody that one hears."""
    sites: Any = x.sites
    full = _heard(sites, sites.spread(_by_heads(x.x), -torch.inf))
    found = full.log_softmax(2) if "log" in call.name else full.softmax(2)
    return x.with_x(sites.rows(found).reshape(x.x.shape))


def _heard(sites: PairSites, full: Tensor) -> Tensor:
    """(G, Mq, Mk, heads), where who hears nobody hears all alike: NaN would be in gradients too."""
    return full if sites.is_even else torch.where(sites.some.any(2)[:, :, None, None], full, 0)


def _bias(sites: PairSites, mask: Any, like: Spatial) -> Tensor | None:
    """(G, heads or 1, Mq or 1, Mk): what is added to the weights, -inf where nobody is."""
    if mask is None:
        if sites.is_even:
            return None
        some = sites.second.there
        silent = ~(some | ~some.any(1, keepdim=True))[:, None, None]
        return like.x.new_zeros(silent.shape).masked_fill(silent, -torch.inf)
    if isinstance(mask, Spatial) and not is_pairs(mask):  # one side of each pair is no node
        mask = mask.tensor()
    value = mask.x if isinstance(mask, Spatial) else mask
    if value.dtype == torch.bool:
        value = like.x.new_zeros(value.shape).masked_fill(~value, -torch.inf)
        mask = mask.with_x(value) if isinstance(mask, Spatial) else value
    (_, rows), _, axes = align([like, mask])
    plain = names.plain(axes) if rows.shape[1:].numel() > 1 else rows.shape[1:]
    rows = rows.expand(sites.num_nodes, *plain).to(like.x.dtype)
    return _heard(sites, sites.spread(_by_heads(rows), -torch.inf)).movedim(-1, 1)


def _for_heads(q: Spatial, one: Spatial) -> Spatial:
    """Keys or values that all heads share, once for each."""
    shape = (*q.shape[:-2], *one.shape[-2:])
    if len(q.axes) != len(one.axes) or one.shape == shape:
        return one
    made: Spatial = expand(operator(torch.ops.aten.expand.default), one, shape)
    return made


@rule("scaled_dot_product_attention", hop="all")
def attention(
    call: Any, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(Q K^T scale + mask) V over the nodes, or tokens, of each group."""
    like = next((one for one in (q, k, v) if isinstance(one, Spatial)), None)
    if like is None:
        raise NoRuleError("its mask alone is a map")
    if enable_gqa and q.shape[1] != k.shape[1]:
        raise NoRuleError("its heads are grouped")
    if causal and mask is not None:
        raise NoRuleError("it is causal and has a mask besides; torch takes one of them")
    if causal:  # who of a whole sequence stands no later; absent ones are counted too
        shape = (q.shape[-2], k.shape[-2])
        mask = torch.ones(shape, dtype=torch.bool, device=like.x.device).tril()
    asked, k, v = (
        one if isinstance(one, Spatial) else as_sequence(one, like) for one in (q, k, v)
    )  # fmt: skip
    k, v = _for_heads(asked, k), _for_heads(asked, v)
    sites, axes = _pairs(asked, k)
    if (
        v.sites is not k.sites
        or names.of_rows(v.axes) != names.of_rows(k.axes)
        or node_pairs.lead_of(v.axes[:-2]) != node_pairs.lead_of(k.axes[:-2])
    ):
        raise NoRuleError("keys and values differ in who is heard")
    pairs = asked.x.new_zeros(1).expand(sites.num_nodes, *names.plain(axes))
    bias = _bias(sites, mask, Spatial(pairs, sites, axes))
    first, second, said = (_packed(side, one) for side, one in (
        (sites.first, asked), (sites.second, k), (sites.second, v)
    ))  # fmt: skip
    lone = all(isinstance(one.sites, Sites) for one in (asked, k))
    if lone or not outermost():  # torch's fused sums know one derivative, and no forward mode
        weights = first @ second.transpose(-2, -1)
        weights = weights * (1 / sqrt(first.shape[-1]) if scale is None else scale)
        weights = weights if bias is None else weights + bias
        # As torch's: who may hear nobody that is there hears nothing.
        weights = weights.softmax(-1) if mask is None else torch._safe_softmax(weights, -1)
        if dropout:
            weights = torch.nn.functional.dropout(weights, dropout)
        out = weights @ said
    else:
        out = torch.nn.functional.scaled_dot_product_attention(
            first, second, said, bias, dropout, scale=scale
        )
    found = _answered(sites, out, (*asked.axes[:-1], v.axes[-1]))
    return found if isinstance(q, Spatial) else found.tensor()
