"""Running bounds of attention, of logarithms of sums of exponentials, and of their backward.

Scores s = scale q k^T + mask are off by E each. A softmax of them is a quotient of exponentials:
the factor between what two runs make of an entry lies within exp(+- r), and r adds up

* 2 max E, as scores and the largest one of a row move;
* u times the row's spread for each exponent, which is a difference of two scores, and as much for
  all rescalings of sums begun with a smaller maximum: their exponents add up to the spread;
* for n scores at most n rescalings and n sums, ELEMENTARY roundings for each exponential, and
  QUICK for the entry's own, which attention takes from a quicker function.

A probability below the smallest normal number may come out as 0. What a mask hides, at minus
infinity, is 0 in every run.
"""

from math import inf, log

import torch
from torch import Tensor

from convgraph.proof.network.running_error.call import (
    ELEMENTARY,
    BoundedCall,
    NoRule,
    WithError,
    error_rule,
    several_rule,
)

QUICK = 40
"""Roundings that attention's own exponential is granted: torch names it by 20 units in the last
place, each of two roundings at most."""

HALF = 0.5
"""The largest change of an exponent that a bound is carried through."""


def _changed(p: Tensor, r: Tensor) -> Tensor:
    """How far p may be off that lies within a factor of exp(+- r) of a probability."""
    return torch.where(r <= HALF, p * torch.expm1(r), p.clamp(min=1))


def _spread(x: WithError, dim: int) -> Tensor:
    """The most that one entry of a line lies below its largest, of those that are finite."""
    low = x.lies[0].where(x.x != -inf, inf).amin(dim, keepdim=True)
    return (x.lies[1].amax(dim, keepdim=True) - low).clamp(min=0)


def _ratio(call: BoundedCall, x: WithError, dim: int, roundings: float) -> Tensor:
    """How far each line of a softmax may be off: r, see above."""
    moved = 2 * x.e.amax(dim, keepdim=True) + 2 * call.u * _spread(x, dim)
    return moved + call.sure(x.x.shape[dim] * roundings + 2 * ELEMENTARY)


def _shares(call: BoundedCall, x: WithError, dim: int, r: Tensor, least: float) -> WithError:
    """A softmax; what is minus infinity is 0 in every run."""
    p = x.x.softmax(dim).nan_to_num(0.0)  # of a line that is hidden as a whole
    return WithError(p, (_changed(p, r) + least).masked_fill(x.x == -inf, 0.0))


@error_rule("_softmax", "_safe_softmax")
def _softmax(call: BoundedCall) -> Tensor:
    x, dim = call.of("self"), call.given["dim"]
    if call.given.get("dtype") not in (None, call.dtype):
        raise NoRule("it casts")
    return _shares(call, x, dim, _ratio(call, x, dim, 1), call.tiny).e


def _of_sums(call: BoundedCall, x: WithError, dim: int) -> Tensor:
    """How far log sum exp may be off, with what is rounded as it is put together."""
    n = x.x.shape[dim]
    r = _ratio(call, x, dim, ELEMENTARY + 2) + call.sure(QUICK)
    size = x.x.amax(dim, keepdim=True).abs() + 2 * x.e.amax(dim, keepdim=True) + log(n)
    # moved by at most the largest E; log of a sum that is off by exp(+- r) is off by r
    return torch.where(r <= HALF, r, inf) + call.sure(ELEMENTARY + 4) * size + call.tiny


@error_rule("logsumexp")
def _logsumexp(call: BoundedCall) -> Tensor:
    x, dims = call.of("self"), call.given["dim"]
    if len(dims) != 1:
        raise NoRule("it adds up along several axes")
    found = _of_sums(call, x, dims[0])
    return found if call.given.get("keepdim") else found.squeeze(dims[0])


@error_rule("_log_softmax")
def _log_softmax(call: BoundedCall) -> Tensor:
    x, dim = call.of("self"), call.given["dim"]
    size = x.a + x.a.amax(dim, keepdim=True) + log(x.x.shape[dim])
    return x.e + _of_sums(call, x, dim) + call.sure(4) * size


@error_rule("_softmax_backward_data")
def _softmax_back(call: BoundedCall) -> Tensor:
    """Of y (g - sum g y)."""
    g, y, dim = call.of("grad_output"), call.of("output"), call.given["dim"]
    gamma = call.sure(y.x.shape[dim] + 4)
    total = (g.a * y.a).sum(dim, keepdim=True)
    off = g.e + (g.a * y.e + g.e * y.a).sum(dim, keepdim=True)
    return y.a * off + y.e * (g.a + total) + gamma * y.a * (g.a + total) + call.tiny * (1 + g.a)


@error_rule("_log_softmax_backward_data")
def _log_softmax_back(call: BoundedCall) -> Tensor:
    """Of g - exp(y) sum g."""
    g, y, dim = call.of("grad_output"), call.of("output"), call.given["dim"]
    gamma = call.sure(y.x.shape[dim] + ELEMENTARY + 4)
    p = y.x.exp()
    off, total = _changed(p, y.e), g.a.sum(dim, keepdim=True)
    wide = p + off
    error = g.e + off * total + wide * g.e.sum(dim, keepdim=True)
    return error + gamma * (g.a + wide * total) + call.tiny * (1 + total)


# -- attention -------------------------------------------------------------------------------------


def _matrices(call: BoundedCall, one: WithError, two: WithError, more: int = 0) -> WithError:
    """A product of matrices with its rounding, and room for some more."""
    gamma = call.sure(one.x.shape[-1] + more)
    e = one.a @ (two.e + gamma * two.a) + one.e @ two.a + (one.x.shape[-1] + more) * call.tiny
    return WithError(one.x @ two.x, e)


def _turned(one: WithError) -> WithError:
    return WithError(one.x.mT, one.e.mT)


def _scores(call: BoundedCall) -> tuple[WithError, float]:
    """Scale q k^T + mask, and the scale."""
    q, k, mask = call.of("query"), call.of("key"), call.given.get("attn_mask")
    if call.given.get("dropout_p") or q.x.shape[:-2] != k.x.shape[:-2]:
        raise NoRule("it drops some, or heads share keys")
    scale = call.given.get("scale")
    scale = q.x.shape[-1] ** -0.5 if scale is None else float(scale)
    made = _matrices(call, q, _turned(k), 4)
    s = WithError(made.x * scale, made.e * abs(scale) + call.tiny)
    if call.given.get("is_causal"):
        hidden = torch.ones(s.x.shape[-2:], dtype=torch.bool, device=s.x.device).triu(1)
        s = WithError(s.x.masked_fill(hidden, -inf), s.e.masked_fill(hidden, 0.0))
    if isinstance(mask, Tensor):
        s = WithError(s.x.where(mask, -inf), s.e.where(mask, 0.0))
    elif isinstance(mask, WithError):
        total = s.x + mask.x
        off = s.e + mask.e + call.u * (s.a + mask.a)
        s = WithError(total, off.expand_as(total).masked_fill(total == -inf, 0.0))
    if bool((s.x == -inf).all(-1).any()):
        raise NoRule("a query hears nobody")
    return s, scale


def _least(call: BoundedCall) -> float:
    return torch.finfo(call.dtype).smallest_normal


def _attention(call: BoundedCall) -> list[Tensor]:
    """Of the output, and of the logarithm of each query's sum, which backward reads."""
    s, _ = _scores(call)
    r = _ratio(call, s, -1, ELEMENTARY + 2) + call.sure(QUICK)
    heard = _shares(call, s, -1, r, _least(call))
    y = _matrices(call, heard, call.of("value"), 4)
    return [y.e, _of_sums(call, s, -1).squeeze(-1)]


def _attention_back(call: BoundedCall) -> list[Tensor]:
    """Of the gradients of q, k and v: with p = exp(s - log sum) and ds = p (g v^T - sum g y).

    dq = scale ds k        dk = scale ds^T q        dv = p^T g
    """
    s, scale = _scores(call)
    q, k, v, g, y = (call.of(name) for name in ("query", "key", "value", "grad_out", "out"))
    sums = call.of("logsumexp")
    sums = WithError(sums.x[..., None], sums.e[..., None])
    hidden = s.x == -inf
    size = s.a.masked_fill(hidden, 0.0) + sums.a
    x = (s.x - sums.x).exp()
    off = s.e + sums.e + call.sure(QUICK + 2) * (1 + size)
    p = WithError(x, (_changed(x, off) + _least(call)).masked_fill(hidden, 0.0))
    heard = _matrices(call, g, _turned(v))
    delta = (g.x * y.x).sum(-1, keepdim=True)
    own = (g.a * y.e + g.e * y.a + call.sure(g.x.shape[-1]) * g.a * y.a).sum(-1, keepdim=True)
    apart = WithError(heard.x - delta, heard.e + own)
    inner = p.x * apart.x
    wide = p.a * (heard.a + delta.abs() + 2 * own)
    ds = WithError(inner, p.a * apart.e + p.e * apart.a + call.sure(4) * wide + call.tiny)
    back = [_matrices(call, ds, k, 4), _matrices(call, _turned(ds), q, 4)]
    found = [abs(scale) * (one.e + call.tiny) for one in back]
    return [*found, _matrices(call, _turned(p), g).e]


for _kind in ("_scaled_dot_product_flash_attention_for_cpu",):
    several_rule(_kind, _attention)
    several_rule(f"{_kind}_backward", _attention_back)
