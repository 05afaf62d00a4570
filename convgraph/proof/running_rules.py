r"""How each operator carries an error bound on: one rule an operator, each with its derivation.

x_hat is the recorded value, E its bound. Any other correct run has x' with |x' - x| <= E, hence
|x'| <= |x_hat| + 2 E =: A. u is the unit roundoff, gamma(n) = n u / (1 - n u) bounds n successive
roundings in any order (infinite where n u >= 1), eta the smallest subnormal number.

* Sums of products: |sum w' x' - sum w x| <= A_w . E_x + E_w . A_x, plus gamma(n) A_w . A_x + n eta.
* 1-Lipschitz without rounding (relu, clamp, maxima): E, or the largest E of the window.
* L-Lipschitz, elementary: L E + 8 u M, M a bound of what is rounded. The 8 u is an assumption about
  the library's exp, erf and tanh: at most 2 u each, and no more than four roundings around them.
* Norms: interval arguments on mean and variance; the variance's own error is taken as
  4 (n + 4) u mean(A^2), which two-pass, Welford's and the naive formula all keep.

Bounds are computed in float64 from nonnegative numbers, so their own relative error is small; every
one is enlarged by 2^-20. May import torch only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, final

import torch
from torch import Tensor

ELEMENTARY = 8
"""Roundings, in units of u, that an elementary function is granted; stated under `assumed`."""

GROWN = 1 + 2.0**-20


class NoRule(Exception):  # noqa: N818  # ends the bound, no error
    """The bound ends here; the text says why."""


@final
@dataclass(frozen=True)
class Entry:
    """One floating argument: its recorded value and its bound, float64."""

    x: Tensor
    e: Tensor

    @property
    def a(self) -> Tensor:
        """|x'| of any correct run."""
        return self.x.abs() + 2 * self.e

    @property
    def lies(self) -> tuple[Tensor, Tensor]:
        """Where x' of any correct run lies."""
        return self.x - 2 * self.e, self.x + 2 * self.e


@final
@dataclass
class Setting:
    """One call: the operator, its arguments by name (`Entry` for floats), its dtype, its value."""

    func: Any
    given: dict[str, Any]
    dtype: torch.dtype
    y: Any = None

    @property
    def u(self) -> float:
        """Unit roundoff."""
        return torch.finfo(self.dtype).eps / 2

    @property
    def tiny(self) -> float:
        """The smallest subnormal number."""
        info = torch.finfo(self.dtype)
        return info.smallest_normal * info.eps

    def gamma(self, n: float) -> float:
        """n u / (1 - n u)."""
        return n * self.u / (1 - n * self.u) if n * self.u < 1 else inf

    def of(self, name: str) -> Entry:
        """One argument, a number as an exact entry."""
        value = self.given.get(name)
        if isinstance(value, Entry):
            return value
        if isinstance(value, Tensor):  # integers are exact
            return Entry(value.double(), torch.zeros(value.shape, dtype=torch.float64))
        if isinstance(value, (int, float)):
            like = self.y if isinstance(self.y, Tensor) else torch.zeros(())
            number = torch.tensor(float(value), dtype=torch.float64, device=like.device)
            # a Python number is rounded to the dtype first
            return Entry(number, number.abs() * self.u)
        raise NoRule(f"its argument {name!r} is {type(value).__name__}")


Rule = Callable[[Setting], Tensor]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under the names of its operators."""

    def register(made: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for {name}")
            RULES[name] = lambda s: made(s) * GROWN
        return made

    return register


def _rounded(s: Setting, error: Tensor, roundings: float = 1) -> Tensor:
    """Add the rounding of a result that is already off by `error`."""
    found: Tensor = error + s.gamma(roundings) * (s.y.abs() * (1 + 2 * s.u) + 2 * error) + s.tiny
    return found


# -- sums of products ------------------------------------------------------------------------------


@rule("convolution")
def _convolution(s: Setting) -> Tensor:
    x, w, b = s.of("input"), s.of("weight"), s.given.get("bias")
    g = s.given
    arguments = [
        g.get("stride"), g.get("padding"), g.get("dilation"), g.get("transposed", False),
        g.get("output_padding", [0] * (w.x.dim() - 2)), g.get("groups", 1),
    ]  # fmt: skip

    def conv(image: Tensor, weight: Tensor) -> Tensor:
        made: Tensor = torch.ops.aten.convolution.default(image, weight, None, *arguments)
        return made

    axis = 0 if arguments[3] else 1  # a transposed weight is (in, out / groups, ...)
    per = w.x.shape[0] // arguments[5] if axis == 0 else w.x.shape[1]
    n = per * w.x[0, 0].numel() + (b is not None)
    gamma = s.gamma(n)
    if gamma == inf:
        raise NoRule("n u >= 1")
    error = conv(x.e + gamma * x.a, w.a)
    if bool(w.e.any()):
        error = error + conv(x.a, w.e)
    if isinstance(b, Entry):
        shape = (1, -1, *(1,) * (w.x.dim() - 2))
        error = error + (b.e + gamma * b.a).view(shape)
    return error + n * s.tiny


def _product(s: Setting, one: Entry, two: Entry, extra: int = 0) -> Tensor:
    n = one.x.shape[-1]
    if s.gamma(n + extra) == inf:
        raise NoRule("n u >= 1")
    error = torch.matmul(one.a, two.e + s.gamma(n + extra) * two.a) + torch.matmul(one.e, two.a)
    return error + (n + extra) * s.tiny


@rule("mm", "bmm", "mv", "dot")
def _matmul(s: Setting) -> Tensor:
    one = s.of("self")
    return _product(s, one, s.of(next(k for k in ("mat2", "vec", "tensor") if k in s.given)))


@rule("addmm", "baddbmm", "addmv")
def _addmm(s: Setting) -> Tensor:
    if s.given.get("alpha", 1) != 1 or s.given.get("beta", 1) != 1:
        raise NoRule("alpha or beta is not 1")
    names = {"mat1", "batch1", "mat"}, {"mat2", "batch2", "vec"}
    one, two = (s.of(next(k for k in given if k in s.given)) for given in names)
    bias = s.of("self")
    n = one.x.shape[-1] + 1
    return _product(s, one, two, 1) + bias.e + s.gamma(n) * bias.a


@rule("linear")
def _linear(s: Setting) -> Tensor:
    x, w, b = s.of("input"), s.of("weight"), s.given.get("bias")
    found = _product(s, x, Entry(w.x.T, w.e.T), int(b is not None))
    if isinstance(b, Entry):
        found = found + b.e + s.gamma(x.x.shape[-1] + 1) * b.a
    return found


# -- arithmetic of two values ----------------------------------------------------------------------


@rule("add", "sub")
def _add(s: Setting) -> Tensor:
    alpha = abs(float(s.given.get("alpha", 1)))
    two = s.of("other")
    error = s.of("self").e + alpha * two.e
    if alpha != 1:
        error = error + 2 * s.u * alpha * two.a
    return _rounded(s, error)


@rule("rsub")
def _rsub(s: Setting) -> Tensor:
    if s.given.get("alpha", 1) != 1:
        raise NoRule("alpha is not 1")
    return _rounded(s, s.of("self").e + s.of("other").e)


@rule("mul")
def _mul(s: Setting) -> Tensor:
    x, y = s.of("self"), s.of("other")
    # x'y' - xy = x'(y' - y) + y (x' - x)
    return _rounded(s, x.a * y.e + (y.x.abs() + y.e) * x.e)


@rule("div")
def _div(s: Setting) -> Tensor:
    if s.given.get("rounding_mode") is not None:
        raise NoRule("it rounds")
    x, y = s.of("self"), s.of("other")
    low = y.x.abs() - 2 * y.e
    # x'/y' - x/y = (x' - x)/y' + x/y (y - y')/y'; a scalar may be multiplied by as 1/y: 2 roundings
    error = torch.where(low > 0, (x.e + (x.x.abs() + x.e) / low * y.e) / low, inf)
    return _rounded(s, error, 2)


@rule("maximum", "minimum")
def _extreme(s: Setting) -> Tensor:
    return torch.maximum(s.of("self").e, s.of("other").e)


@rule("where")
def _where(s: Setting) -> Tensor:
    condition = s.given["condition"]
    return torch.where(condition, s.of("self").e, s.of("other").e)


@rule("masked_fill")
def _masked_fill(s: Setting) -> Tensor:
    return s.of("self").e.masked_fill(s.given["mask"], 0.0)


# -- one value, no rounding ------------------------------------------------------------------------


@rule("relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "relu6", "neg", "abs", "detach")
def _lipschitz(s: Setting) -> Tensor:
    if any(isinstance(s.given.get(k), Entry) for k in ("min", "max")):
        raise NoRule("its limits are data")
    # the limits, rounded alike on both sides, are part of the function
    return s.of("self").e


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "max_pool2d")
def _max_pool(s: Setting) -> Tensor:
    found = s.func(**_with(s, s.of("self").e))
    return found[0] if isinstance(found, tuple) else found


@rule("adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(s: Setting) -> Tensor:
    found: Tensor = s.func(**_with(s, s.of("self").e))[0]
    return found


@rule("amax", "amin")
def _amax(s: Setting) -> Tensor:
    return s.of("self").e.amax(dim=s.given.get("dim", ()), keepdim=s.given.get("keepdim", False))


def _with(s: Setting, e: Tensor) -> dict[str, Any]:
    return {k: e if k == "self" else v for k, v in s.given.items()}


@rule("leaky_relu")
def _leaky_relu(s: Setting) -> Tensor:
    slope = abs(float(s.given.get("negative_slope", 0.01)))
    return _rounded(s, max(1.0, slope) * s.of("self").e, 2)


@rule("_prelu_kernel")
def _prelu(s: Setting) -> Tensor:
    x, w = s.of("self"), s.of("weight")
    return _rounded(s, w.a.clamp(min=1) * x.e + x.a * w.e)


@rule("elu")
def _elu(s: Setting) -> Tensor:
    if s.given.get("scale", 1) != 1 or s.given.get("input_scale", 1) != 1:
        raise NoRule("it is scaled")
    alpha = abs(float(s.given.get("alpha", 1)))
    error = max(1.0, alpha) * s.of("self").e
    # for x < 0 it is alpha (exp(x) - 1), rounded against at most alpha
    return _rounded(s, error, 2) + ELEMENTARY * s.u * alpha


# -- one value, elementary functions ---------------------------------------------------------------
# name: (largest |f'|, by which magnitude it is rounded: "y" its value, "x" its argument)

SMOOTH = {
    "sigmoid": (0.25, "y"),
    "tanh": (1.0, "y"),
    "silu": (1.1, "y"),  # f' = s + x s (1 - s), largest 1.0998 at x = 2.4
    "hardswish": (1.5, "x"),  # f' = (2 x + 3) / 6, largest at x = 3
    "hardsigmoid": (1 / 6, "1"),
    "gelu": (1.13, "x"),  # f' = Phi + x phi, largest 1.129 at sqrt(2); tanh form 1.1290
    "softplus": (1.0, "1x"),
    "mish": (1.09, "x"),  # largest 1.0885
    "sin": (1.0, "1x"),
    "cos": (1.0, "1x"),
    "erf": (1.13, "y"),  # 2 / sqrt(pi)
}


def _smooth(slope: float, by: str) -> Rule:
    def carry(s: Setting) -> Tensor:
        x = s.of("self")
        error = slope * x.e
        size = 0.0
        if "y" in by:
            size = s.y.abs() + 2 * error
        if "x" in by:
            size = size + x.a
        if "1" in by:
            size = size + 1.0
        return error + ELEMENTARY * s.u * size * (1 + 16 * s.u) + s.tiny

    return carry


for _name, (_slope, _by) in SMOOTH.items():
    rule(_name)(_smooth(_slope, _by))


@rule("exp")
def _exp(s: Setting) -> Tensor:
    e = s.of("self").e
    return _rounded(s, s.y.abs() * torch.expm1(3 * e), ELEMENTARY)


@rule("log")
def _log(s: Setting) -> Tensor:
    x = s.of("self")
    low = x.lies[0]
    return _rounded(s, torch.where(low > 0, x.e / low, inf), ELEMENTARY)


@rule("sqrt")
def _sqrt(s: Setting) -> Tensor:
    x = s.of("self")
    low = x.lies[0].clamp(min=0)
    # |sqrt x' - sqrt x| = |x' - x| / (sqrt x' + sqrt x) and at most sqrt |x' - x|
    return _rounded(s, torch.minimum(x.e / (2 * low.sqrt()).clamp(min=1e-300), x.e.sqrt()))


@rule("rsqrt")
def _rsqrt(s: Setting) -> Tensor:
    x = s.of("self")
    low = x.lies[0]
    return _rounded(s, torch.where(low > 0, x.e / (2 * low.clamp(min=0) ** 1.5), inf), 3)


@rule("reciprocal")
def _reciprocal(s: Setting) -> Tensor:
    x = s.of("self")
    low = x.x.abs() - 2 * x.e
    return _rounded(s, torch.where(low > 0, x.e / low**2, inf))


@rule("pow")
def _pow(s: Setting) -> Tensor:
    x, p = s.of("self"), s.given.get("exponent")
    if p == 2:
        return _rounded(s, (x.a + x.x.abs() + x.e) * x.e)
    if p == 3:
        return _rounded(s, 3 * x.a**2 * x.e, 2)
    if p == 0.5:
        return _sqrt(s)
    raise NoRule(f"an exponent of {p}")


# -- sums over axes --------------------------------------------------------------------------------


def _summed(s: Setting, mean: bool) -> Tensor:
    x = s.of("self")
    dims = s.given.get("dim")
    dims = list(range(x.x.dim())) if dims in (None, []) else dims
    dims = [dims] if isinstance(dims, int) else list(dims)
    n = torch.Size([x.x.shape[d] for d in dims]).numel()
    if s.gamma(n + 1) == inf:
        raise NoRule("n u >= 1")
    total = (x.e + s.gamma(n + 1) * x.a).sum(dims, keepdim=s.given.get("keepdim", False))
    return total / (n if mean else 1) + s.tiny


@rule("sum")
def _sum(s: Setting) -> Tensor:
    return _summed(s, mean=False)


@rule("mean")
def _mean(s: Setting) -> Tensor:
    return _summed(s, mean=True)


@rule("avg_pool2d", "avg_pool3d", "avg_pool1d")
def _avg_pool(s: Setting) -> Tensor:
    x, kernel = s.of("self"), s.given["kernel_size"]
    n = torch.Size(kernel if isinstance(kernel, (list, tuple)) else [kernel] * 3).numel()
    made: Tensor = s.func(**_with(s, x.e + s.gamma(n + 1) * x.a))
    return made.abs() + s.tiny


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def _adaptive_avg_pool(s: Setting) -> Tensor:
    x = s.of("self")
    out = s.given["output_size"]
    out = out if isinstance(out, (list, tuple)) else [out]
    spans = [-(-n // k) + 1 for n, k in zip(x.x.shape[-len(out) :], out, strict=True)]
    made: Tensor = s.func(**_with(s, x.e + s.gamma(torch.Size(spans).numel() + 1) * x.a))
    return made + s.tiny


@rule("upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d")
def _linear_resize(s: Setting) -> Tensor:
    x = s.of("self")
    made: Tensor = s.func(**_with(s, x.e))
    # Weights are nonnegative and sum to 1. A source coordinate is rounded 4 times at a size of at most
    # n + 1, which moves each weight by at most 4 u (n + 1) an axis; 8 roundings behind it.
    sizes = x.x.shape[2:]
    off = sum(4 * (n + 1) for n in sizes) * 2 ** len(sizes) + 8
    axes = tuple(range(2, x.x.dim()))
    return made + off * s.u * x.a.amax(dim=axes, keepdim=True) + s.tiny


@rule("_softmax")
def _softmax(s: Setting) -> Tensor:
    x, dim = s.of("self"), s.given["dim"]
    n = x.x.shape[dim]
    shift = x.e.amax(dim, keepdim=True)
    spread = (x.lies[1].amax(dim, keepdim=True) - x.lies[0]).clamp(min=0)
    # Every exponent is off by at most shift against the exact one and by u spread in itself; then n
    # sums and a division. With r the relative change, |y' - y| <= y (e^r - 1) and y <= y_hat e^r.
    r = 2 * shift + 2 * s.u * spread.amax(dim, keepdim=True) + (n + 2 * ELEMENTARY) * s.u
    return (s.y * torch.expm1(2 * r)).clamp(max=1) + s.tiny


# -- norms -----------------------------------------------------------------------------------------


def _affine(entry: Any, shape: tuple[int, ...]) -> Entry | None:
    return (
        Entry(entry.x.reshape(shape), entry.e.reshape(shape)) if isinstance(entry, Entry) else None
    )


def _scaled(s: Setting, d: Entry, inv: Entry, weight: Entry | None, bias: Entry | None) -> Tensor:
    """(x - mean) inv w + b, in this order or as x alpha + beta."""
    value, error, size = d.x * inv.x, d.a * inv.e + (inv.x + inv.e) * d.e, d.a * inv.a
    if weight is not None:
        error = weight.a * error + (value.abs() + error) * weight.e
        size = size * weight.a
    if bias is not None:
        error, size = error + bias.e, size + bias.a
    return error + s.gamma(ELEMENTARY + 2) * size + s.tiny


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm")
def _batch_norm(s: Setting) -> Tensor:
    if s.given.get("training"):
        raise NoRule("it is in training")
    x = s.of("input")
    shape = (1, -1, *(1,) * (x.x.dim() - 2))
    mean, var = (_affine(s.of(f"running_{k}"), shape) for k in ("mean", "var"))
    weight, bias = (_affine(s.given.get(k), shape) for k in ("weight", "bias"))
    if mean is None or var is None or bool(var.e.any()):
        raise NoRule("its statistics are data")
    inv = (var.x + s.given["eps"]).rsqrt()
    # both orders are bounded by |alpha| (|x| + |mean|) + |b|, each factor rounded at most 8 times
    wide = Entry(x.x.abs() + mean.x.abs(), x.e + mean.e)
    return _scaled(s, wide, Entry(inv, 4 * s.u * inv), weight, bias)


def _normed(s: Setting, x: Entry, eps: float, shape: Any) -> tuple[Entry, Entry]:
    """Deviations and 1 / deviation of rows (..., n), normalized over the last axis."""
    n = x.x.shape[-1]
    if s.gamma(n + 4) == inf:
        raise NoRule("n u >= 1")
    off = x.e.mean(-1, keepdim=True) + s.gamma(n + 2) * x.a.mean(-1, keepdim=True)
    d = Entry(x.x - x.x.mean(-1, keepdim=True), x.e + off)
    var = d.x.square().mean(-1, keepdim=True)
    wrong = (2 * d.a * d.e).mean(-1, keepdim=True)
    wrong = wrong + 4 * (n + 4) * s.u * (1 + (n + 4) * s.u) * x.a.square().mean(-1, keepdim=True)
    low = (var + eps - 2 * wrong).clamp(min=eps * (1 - 4 * s.u))
    inv = (var + eps).rsqrt()
    slack = wrong / (2 * low**1.5) + 4 * s.u * low.rsqrt()
    # an inverse deviation is never more than 1 / sqrt(eps)
    return d, Entry(inv, slack.clamp(max=2 / sqrt(eps)) if eps > 0 else slack)


@rule("native_layer_norm")
def _layer_norm(s: Setting) -> Tensor:
    x, shape = s.of("input"), s.given["normalized_shape"]
    size = torch.Size(shape).numel()
    rows = Entry(x.x.reshape(-1, size), x.e.reshape(-1, size))
    weight, bias = (_affine(s.given.get(k), (1, size)) for k in ("weight", "bias"))
    d, inv = _normed(s, rows, s.given["eps"], shape)
    wide = Entry(d.x.abs() + 2 * x.a.reshape(-1, size).mean(-1, keepdim=True), d.e)
    return _scaled(s, wide, inv, weight, bias).reshape(x.x.shape)


@rule("native_group_norm")
def _group_norm(s: Setting) -> Tensor:
    x = s.of("input")
    batch, channels, groups = x.x.shape[0], x.x.shape[1], s.given["group"]
    rows = Entry(x.x.reshape(batch, groups, -1), x.e.reshape(batch, groups, -1))
    d, inv = _normed(s, rows, s.given["eps"], None)
    wide = d.x.abs() + 2 * rows.a.mean(-1, keepdim=True)

    def back(value: Tensor) -> Tensor:
        return value.expand_as(rows.x).reshape(batch, channels, -1)

    weight, bias = (_affine(s.given.get(k), (1, channels, 1)) for k in ("weight", "bias"))
    return _scaled(
        s, Entry(back(wide), back(d.e)), Entry(back(inv.x), back(inv.e)), weight, bias
    ).reshape(x.x.shape)


@rule("_to_copy")
def _cast(s: Setting) -> Tensor:
    target = s.given.get("dtype")
    e = s.of("self").e
    if target is None or not target.is_floating_point:
        raise NoRule(f"a cast to {target}")
    u = torch.finfo(target).eps / 2
    return e + u * (s.of("self").a) + torch.finfo(target).smallest_normal * torch.finfo(target).eps
