"""Running bounds of sums over axes, pools, resizes, norms; derived in `call`."""

from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor

from convgraph.proof.network.running_error.call import (
    ELEMENTARY,
    ROOT,
    BoundedCall,
    NoRule,
    WithError,
    error_rule,
    of_root,
    rounded,
    several_rule,
    with_self,
)

# -- sums over axes --------------------------------------------------------------------------------


def _summed(call: BoundedCall, mean: bool) -> Tensor:
    x = call.of("self")
    dims = call.given.get("dim")
    dims = list(range(x.x.dim())) if dims in (None, []) else dims
    dims = [dims] if isinstance(dims, int) else list(dims)
    n = torch.Size([x.x.shape[d] for d in dims]).numel()
    total = (x.e + call.sure(n + 1) * x.a).sum(dims, keepdim=call.given.get("keepdim", False))
    return total / (n if mean else 1) + call.tiny


@error_rule("sum")
def _sum(call: BoundedCall) -> Tensor:
    return _summed(call, mean=False)


@error_rule("mean")
def _mean(call: BoundedCall) -> Tensor:
    return _summed(call, mean=True)


@error_rule("cumsum")
def _cumsum(call: BoundedCall) -> Tensor:
    x, dim = call.of("self"), call.given["dim"]
    return (x.e + call.sure(x.x.shape[dim]) * x.a).cumsum(dim) + call.tiny


def _deviates(call: BoundedCall) -> tuple[Tensor, Tensor]:
    """A variance and how far it may be off; see `_normed`."""
    x, dims, keep = call.of("self"), call.given.get("dim"), call.given.get("keepdim", False)
    dims = list(range(x.x.dim())) if dims in (None, []) else list(dims)
    n = torch.Size([x.x.shape[d] for d in dims]).numel()
    correction = call.given.get("correction")
    left = n - float(1 if correction is None else correction)
    if left <= 0 or call.gamma(n + 4) == inf:
        raise NoRule("too few or too many for a variance")

    def total(part: Tensor) -> Tensor:
        return part.sum(dims, keepdim=keep) / left

    off = x.e + (x.e + call.gamma(n + 2) * x.a).mean(dims, keepdim=True)
    d = WithError(x.x - x.x.mean(dims, keepdim=True), off)
    wrong = total(2 * d.a * d.e + 4 * (n + 4) * call.u * (1 + (n + 4) * call.u) * x.a.square())
    return total(d.x.square()), wrong + call.gamma(4) * total(d.a.square()) + call.tiny


@error_rule("var")
def _var(call: BoundedCall) -> Tensor:
    return _deviates(call)[1]


@error_rule("std")
def _std(call: BoundedCall) -> Tensor:
    var, wrong = _deviates(call)
    return rounded(call, of_root(var - 2 * wrong, wrong), ROOT)


@error_rule("index_add")
def _index_add(call: BoundedCall) -> Tensor:
    if call.given.get("alpha", 1) != 1:
        raise NoRule("it scales what it adds")
    x, source, where = call.of("self"), call.of("source"), (call.given["dim"], call.given["index"])
    n = int(torch.bincount(where[1]).max()) if where[1].numel() else 0
    size = call.sure(n) * x.a.index_add(*where, source.a)
    error: Tensor = x.e.index_add(*where, source.e) + size + call.tiny
    return error


@error_rule("col2im", "unfold_backward")
def _windows_back(call: BoundedCall) -> Tensor:
    """Each entry adds up what the windows that hold it send, one each."""
    name = "self" if "self" in call.given else "grad_in"
    x, kernel = call.of(name), call.given.get("kernel_size", [call.given.get("size")])
    gamma = call.sure(torch.Size(kernel).numel())
    made: Tensor = call.func(**call.given | {name: x.e + gamma * x.a})
    return made + call.tiny


@error_rule("index")
def _index(call: BoundedCall) -> Tensor:
    found: Tensor = call.func(**with_self(call, call.of("self").e))
    return found


@error_rule("linalg_vector_norm")
def _vector_norm(call: BoundedCall) -> Tensor:
    if call.given.get("ord", 2) != 2 or call.given.get("dtype") is not None:
        raise NoRule("it is not the Euclidean norm")
    x, dims = call.of("self"), call.given.get("dim")
    dims = list(range(x.x.dim())) if dims is None else dims
    n = torch.Size([x.x.shape[d] for d in dims]).numel()
    gamma = call.sure(n + ROOT)
    # ||x'| - |x|| <= |x' - x|; the square root halves the relative error of n squares and sums
    wide = (x.e.square()).sum(dims, keepdim=call.given.get("keepdim", False)).sqrt()
    size = (x.a.square()).sum(dims, keepdim=call.given.get("keepdim", False)).sqrt()
    error: Tensor = wide + gamma * size + n**0.5 * call.tiny**0.5
    return error


@error_rule("avg_pool2d", "avg_pool3d", "avg_pool1d")
def _avg_pool(call: BoundedCall) -> Tensor:
    x, kernel = call.of("self"), call.given["kernel_size"]
    n = torch.Size(kernel if isinstance(kernel, (list, tuple)) else [kernel] * 3).numel()
    made: Tensor = call.func(**with_self(call, x.e + call.gamma(n + 1) * x.a))
    return made.abs() + call.tiny


@error_rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def _adaptive_avg_pool(call: BoundedCall) -> Tensor:
    x = call.of("self")
    out = call.given["output_size"]
    out = out if isinstance(out, (list, tuple)) else [out]
    spans = [-(-n // k) + 1 for n, k in zip(x.x.shape[-len(out) :], out, strict=True)]
    made: Tensor = call.func(
        **with_self(call, x.e + call.gamma(torch.Size(spans).numel() + 1) * x.a)
    )
    return made + call.tiny


@error_rule("upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d")
def _linear_resize(call: BoundedCall) -> Tensor:
    x = call.of("self")
    made: Tensor = call.func(**with_self(call, x.e))
    # Weights are nonnegative and sum to 1. A source coordinate is rounded 4 times at a size of at
    # most n + 1, which moves each weight by at most 4 u (n + 1) an axis; 8 roundings behind it.
    sizes = x.x.shape[2:]
    off = sum(4 * (n + 1) for n in sizes) * 2 ** len(sizes) + 8
    axes = tuple(range(2, x.x.dim()))
    error: Tensor = made + off * call.u * x.a.amax(dim=axes, keepdim=True) + call.tiny
    return error


# -- norms -----------------------------------------------------------------------------------------


def _affine(entry: Any, shape: tuple[int, ...]) -> WithError | None:
    return (
        WithError(entry.x.reshape(shape), entry.e.reshape(shape))
        if isinstance(entry, WithError)
        else None
    )


def _scaled(
    call: BoundedCall,
    d: WithError,
    inv: WithError,
    weight: WithError | None,
    bias: WithError | None,
) -> Tensor:
    """(x - mean) inv w + b, in this order or as x alpha + beta."""
    value, error, size = d.x * inv.x, d.a * inv.e + (inv.x + inv.e) * d.e, d.a * inv.a
    if weight is not None:
        error = weight.a * error + (value.abs() + error) * weight.e
        size = size * weight.a
    if bias is not None:
        error, size = error + bias.e, size + bias.a
    return error + call.gamma(ELEMENTARY + 2) * size + call.tiny


@error_rule("_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm")
def _batch_norm(call: BoundedCall) -> Tensor:
    if call.given.get("training"):
        raise NoRule("it is in training")
    x = call.of("input")
    shape = (1, -1, *(1,) * (x.x.dim() - 2))
    mean, var = (_affine(call.of(f"running_{k}"), shape) for k in ("mean", "var"))
    weight, bias = (_affine(call.given.get(k), shape) for k in ("weight", "bias"))
    if mean is None or var is None:
        raise NoRule("it keeps no statistics")
    inv = (var.x + call.given["eps"]).rsqrt()
    low = var.lies[0].clamp(min=0) + call.given["eps"]
    slack = (ROOT + 1) * call.u * inv + var.e / (2 * low**1.5)
    # both orders are bounded by |alpha| (|x| + |mean|) + |b|, each factor rounded at most 8 times
    wide = WithError(x.x.abs() + mean.x.abs(), x.e + mean.e)
    return _scaled(call, wide, WithError(inv, slack), weight, bias)


def _normed(call: BoundedCall, x: WithError, eps: float, shape: Any) -> tuple[WithError, WithError]:
    """Deviations and 1 / deviation of rows (..., n), normalized over the last axis."""
    n = x.x.shape[-1]
    if call.gamma(n + 4) == inf:
        raise NoRule("n u >= 1")
    off = x.e.mean(-1, keepdim=True) + call.gamma(n + 2) * x.a.mean(-1, keepdim=True)
    d = WithError(x.x - x.x.mean(-1, keepdim=True), x.e + off)
    var = d.x.square().mean(-1, keepdim=True)
    wrong = (2 * d.a * d.e).mean(-1, keepdim=True)
    wrong = wrong + 4 * (n + 4) * call.u * (1 + (n + 4) * call.u) * x.a.square().mean(
        -1, keepdim=True
    )
    low = (var + eps - 2 * wrong).clamp(min=eps * (1 - 4 * call.u))
    inv = (var + eps).rsqrt()
    slack = wrong / (2 * low**1.5) + (ROOT + 1) * call.u * low.rsqrt()
    # an inverse deviation is never more than 1 / sqrt(eps)
    return d, WithError(inv, slack.clamp(max=2 / sqrt(eps)) if eps > 0 else slack)


def _batch_norm_by_images(call: BoundedCall) -> list[Tensor]:
    """Of y, and in training of the mean and 1 / deviation of the images, that backward reads."""
    x = call.of("input")
    if not call.given["training"]:
        nobody = torch.tensor(inf, dtype=torch.float64, device=x.x.device)
        return [_batch_norm(call), nobody, nobody]
    rows = WithError(*(part.transpose(0, 1).flatten(1) for part in (x.x, x.e)))
    d, inv = _normed(call, rows, call.given["eps"], None)
    wide = WithError(d.x.abs() + 2 * rows.a.mean(-1, keepdim=True), d.e)
    weight, bias = (_affine(call.given.get(k), (-1, 1)) for k in ("weight", "bias"))
    y = _scaled(call, wide, inv, weight, bias)
    y = y.unflatten(1, (x.x.shape[0], -1)).transpose(0, 1).reshape(x.x.shape)
    off = (d.e - rows.e).amax(-1) + call.tiny
    return [y, off, inv.e[..., 0]]


several_rule("native_batch_norm", _batch_norm_by_images)


def _layer_norm(call: BoundedCall) -> list[Tensor]:
    """Of y, and of the mean and 1 / deviation that backward reads."""
    x, shape = call.of("input"), call.given["normalized_shape"]
    size = torch.Size(shape).numel()
    rows = WithError(x.x.reshape(-1, size), x.e.reshape(-1, size))
    weight, bias = (_affine(call.given.get(k), (1, size)) for k in ("weight", "bias"))
    d, inv = _normed(call, rows, call.given["eps"], shape)
    wide = WithError(d.x.abs() + 2 * x.a.reshape(-1, size).mean(-1, keepdim=True), d.e)
    y = _scaled(call, wide, inv, weight, bias).reshape(x.x.shape)
    off = (d.e - rows.e).amax(-1) + call.tiny
    kept = (*x.x.shape[: x.x.dim() - len(shape)], *(1,) * len(shape))
    return [y, off.reshape(kept), inv.e.reshape(kept)]


several_rule("native_layer_norm", _layer_norm)


def _group_norm(call: BoundedCall) -> list[Tensor]:
    """Of y, and of the mean and 1 / deviation that backward reads."""
    x = call.of("input")
    batch, channels, groups = x.x.shape[0], x.x.shape[1], call.given["group"]
    rows = WithError(x.x.reshape(batch, groups, -1), x.e.reshape(batch, groups, -1))
    d, inv = _normed(call, rows, call.given["eps"], None)
    wide = d.x.abs() + 2 * rows.a.mean(-1, keepdim=True)

    def back(value: Tensor) -> Tensor:
        return value.expand_as(rows.x).reshape(batch, channels, -1)

    weight, bias = (_affine(call.given.get(k), (1, channels, 1)) for k in ("weight", "bias"))
    y = _scaled(
        call, WithError(back(wide), back(d.e)), WithError(back(inv.x), back(inv.e)), weight, bias
    ).reshape(x.x.shape)
    off = (d.e - rows.e).amax(-1) + call.tiny
    return [y, off, inv.e[..., 0]]


several_rule("native_group_norm", _group_norm)


@error_rule("_to_copy")
def _cast(call: BoundedCall) -> Tensor:
    target = call.given.get("dtype")
    e = call.of("self").e
    if target is None or not target.is_floating_point:
        raise NoRule(f"a cast to {target}")
    u = torch.finfo(target).eps / 2
    return (
        e + u * (call.of("self").a) + torch.finfo(target).smallest_normal * torch.finfo(target).eps
    )
