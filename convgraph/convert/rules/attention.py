"""Attention: weights computed from the nodes, on the complete graph of each group.

y[p] = sum over q in group(p) of softmax_q(<Q[p], K[q]> scale + bias[p, q]) V[q]
"""

from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.align import align
from convgraph.convert.names import NoRuleError
from convgraph.convert.node_pairs import (
    PairSites,
    heads,
    keys,
    pair_sites,
    same_groups,
    tokens,
)  # fmt: skip
from convgraph.convert.registry import rule
from convgraph.convert.tokens import attention as tokens_attention
from convgraph.convert.tokens import before, turned
from convgraph.convert.value import Spatial, within_charts


def is_pairs(x: Spatial) -> bool:
    """Whether the rows of a value are pairs of nodes."""
    return isinstance(x.sites, PairSites)


def questions(call: Any, q: Spatial, k: Spatial) -> Spatial:
    """Return <Q[p], K[q]> for every pair, as rows of pairs; k is transposed."""
    *lead, asked, width = q.axes
    *other, depth, heard = k.axes
    group = tokens(tuple(lead), asked, width)
    spoken = tokens(tuple(other), heard, depth)
    if isinstance(k.sites, PairSites) or not same_groups(q.sites, group, k.sites, spoken):
        raise NoRuleError("queries and keys differ in their groups")
    if names.plain(tuple(lead)) != names.plain(tuple(other)):
        raise NoRuleError("queries and keys differ in their heads")
    for one, groups, talk in ((q, group, asked), (k, spoken, heard)):
        if any(name.kind == "site" for name in groups):
            within_charts(one.sites, talk)
    sites = pair_sites(q.sites, k.sites, group, spoken)
    axes = (*lead, asked, keys(heard))
    counts = names.plain(tuple(lead))
    first = sites.first.pack(heads(q)).transpose(1, 2)
    second = sites.second.pack(heads(k)).transpose(1, 2)
    rows = sites.rows((first @ second.transpose(-2, -1)).movedim(1, -1))
    return Spatial(rows.reshape(rows.shape[0], *counts), sites, axes)


def answers(call: Any, weights: Spatial, v: Any) -> Spatial:
    """Return the sum over pairs of their weight times what is heard."""
    if not isinstance(v, Spatial):
        raise NoRuleError("weights of pairs meet what is no map")
    sites: Any = weights.sites
    *lead, asked, heard = weights.axes
    *other, spoken, width = v.axes
    if v.sites is not sites.answering or keys(heard, back=True) != spoken:
        raise NoRuleError("weights and values differ in who is heard")
    if tokens(tuple(other), spoken, width) != sites.heard:
        raise NoRuleError("weights and values differ in their groups")
    axes = (*lead, asked, width)
    full = sites.spread(
        weights.x.reshape(weights.x.shape[0], prod(weights.x.shape[1:])), 0.0
    ).movedim(-1, 1)
    packed = sites.second.pack(heads(v)).transpose(1, 2)
    rows = sites.first.unpack((full @ packed).transpose(1, 2))
    return Spatial(rows.reshape(rows.shape[0], *names.plain(axes)), sites.asking, axes)


def pair_softmax(call: Any, x: Spatial) -> Spatial:
    """Return the softmax over everybody that a node hears."""
    sites: Any = x.sites
    full = sites.spread(x.x.reshape(x.x.shape[0], prod(x.x.shape[1:])), -torch.inf)
    # A row without any pair would be NaN in value and gradient; nobody reads it.
    full = torch.where(sites.some.any(2)[:, :, None, None], full, 0)
    return x.with_x(sites.rows(full.softmax(2)).reshape(x.x.shape))


def _for_heads(q: Spatial, one: Spatial) -> Spatial:
    """Keys or values that all heads share, once for each."""
    if len(q.axes) != len(one.axes):
        return one
    value = one.thin()
    for dim, axis in enumerate(q.axes[:-2]):
        if axis and names.is_plain(axis) and not value.axes[dim]:
            slot = value.slot(dim)
            shape = (*value.x.shape[:slot], *names.plain((axis,)), *value.x.shape[slot:])
            for _ in axis:
                value = value.with_x(value.x.unsqueeze(slot))
            axes = (*value.axes[:dim], axis, *value.axes[dim + 1 :])
            value = Spatial(value.x.expand(shape), value.sites, axes)
    return value


@rule("scaled_dot_product_attention", hop="all")
def attention(
    call: Any, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(Q K^T scale + mask) V over the nodes of each group."""
    if not all(isinstance(one, Spatial) for one in (q, k, v)):
        call.travelled("all")
        return tokens_attention(q, k, v, mask, dropout, causal, scale, enable_gqa)
    if enable_gqa and q.shape[1] != k.shape[1]:
        raise NoRuleError("its heads are grouped")
    if causal:
        mask = before(q, k)
    k, v = _for_heads(q, k), _for_heads(q, v)
    width = names.sizes(q.axes)[-1]
    weights = questions(call, q, turned(k))
    weights = weights.with_x(weights.x * (1 / sqrt(width) if scale is None else scale))
    if mask is not None:
        if isinstance(mask, Tensor) and mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, -torch.inf).to(weights.x.dtype)
        (rows, bias), _, axes = align([weights, mask])
        weights = Spatial(rows + bias, weights.sites, axes)
        weights = weights.regrouped(names.sizes((*q.axes[:-1], k.axes[-2])))
    weights = pair_softmax(call, weights)
    if dropout:
        weights = weights.with_x(torch.nn.functional.dropout(weights.x, dropout))
    return answers(call, weights, v)
