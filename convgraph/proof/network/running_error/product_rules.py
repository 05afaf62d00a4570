"""Running bounds of products, arithmetic and functions of one value; derived in `call`."""

from math import inf, log

import torch
from torch import Tensor

from convgraph.proof.network.running_error.call import (
    ELEMENTARY,
    QUOTIENT,
    ROOT,
    BoundedCall,
    ErrorRule,
    NoRule,
    WithError,
    error_rule,
    of_root,
    rounded,
    several_rule,
    with_self,
)

# -- sums of products ------------------------------------------------------------------------------


@error_rule("convolution")
def _convolution(call: BoundedCall) -> Tensor:
    x, w, b = call.of("input"), call.of("weight"), call.given.get("bias")
    g = call.given
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
    gamma = call.sure(n)
    error = conv(x.e + gamma * x.a, w.a)
    if bool(w.e.any()):
        error = error + conv(x.a, w.e)
    if isinstance(b, WithError):
        shape = (1, -1, *(1,) * (w.x.dim() - 2))
        error = error + (b.e + gamma * b.a).view(shape)
    return error + n * call.tiny


def _product(call: BoundedCall, one: WithError, two: WithError, extra: int = 0) -> Tensor:
    n = one.x.shape[-1]
    gamma = call.sure(n + extra)
    error = torch.matmul(one.a, two.e + gamma * two.a) + torch.matmul(one.e, two.a)
    return error + (n + extra) * call.tiny


@error_rule("mm", "bmm", "mv", "dot")
def _matmul(call: BoundedCall) -> Tensor:
    one = call.of("self")
    return _product(
        call, one, call.of(next(k for k in ("mat2", "vec", "tensor") if k in call.given))
    )


@error_rule("addmm", "baddbmm", "addmv")
def _addmm(call: BoundedCall) -> Tensor:
    if call.given.get("alpha", 1) != 1 or call.given.get("beta", 1) != 1:
        raise NoRule("alpha or beta is not 1")
    names = {"mat1", "batch1", "mat"}, {"mat2", "batch2", "vec"}
    one, two = (call.of(next(k for k in given if k in call.given)) for given in names)
    bias = call.of("self")
    n = one.x.shape[-1] + 1
    return _product(call, one, two, 1) + bias.e + call.gamma(n) * bias.a


@error_rule("linear")
def _linear(call: BoundedCall) -> Tensor:
    x, w, b = call.of("input"), call.of("weight"), call.given.get("bias")
    found = _product(call, x, WithError(w.x.T, w.e.T), int(b is not None))
    if isinstance(b, WithError):
        found = found + b.e + call.gamma(x.x.shape[-1] + 1) * b.a
    return found


# -- arithmetic of two values ----------------------------------------------------------------------


@error_rule("add", "sub")
def _add(call: BoundedCall) -> Tensor:
    alpha = abs(float(call.given.get("alpha", 1)))
    two = call.of("other")
    error = call.of("self").e + alpha * two.e
    if alpha != 1:
        error = error + 2 * call.u * alpha * two.a
    return rounded(call, error)


@error_rule("rsub")
def _rsub(call: BoundedCall) -> Tensor:
    if call.given.get("alpha", 1) != 1:
        raise NoRule("alpha is not 1")
    return rounded(call, call.of("self").e + call.of("other").e)


@error_rule("mul")
def _mul(call: BoundedCall) -> Tensor:
    x, y = call.of("self"), call.of("other")
    # x'y' - xy = x'(y' - y) + y (x' - x)
    return rounded(call, x.a * y.e + (y.x.abs() + y.e) * x.e)


@error_rule("div")
def _div(call: BoundedCall) -> Tensor:
    if call.given.get("rounding_mode") is not None:
        raise NoRule("it rounds")
    x, y = call.of("self"), call.of("other")
    low = y.x.abs() - 2 * y.e
    # x'/y' - x/y = (x' - x)/y' + x/y (y - y')/y'
    error = torch.where(low > 0, (x.e + (x.x.abs() + x.e) / low * y.e) / low, inf)
    return rounded(call, error, QUOTIENT)


@error_rule("addcmul")
def _addcmul(call: BoundedCall) -> Tensor:
    return _sum_with(call, *(call.of(name) for name in ("tensor1", "tensor2")))


@error_rule("addcdiv")
def _addcdiv(call: BoundedCall) -> Tensor:
    y = call.of("tensor2")
    low = y.x.abs() - 2 * y.e
    inverse = WithError(1 / y.x, torch.where(low > 0, y.e / (low * y.x.abs()), inf))
    return _sum_with(call, call.of("tensor1"), inverse)


def _sum_with(call: BoundedCall, one: WithError, two: WithError) -> Tensor:
    """Bound x + value one two, however the three roundings of it are taken."""
    x, value = call.of("self"), abs(float(call.given.get("value", 1)))
    error = x.e + value * (one.a * two.e + (two.x.abs() + two.e) * one.e)
    return error + call.gamma(QUOTIENT + 3) * (x.a + value * one.a * two.a) + 2 * call.tiny


@error_rule("lerp")
def _lerp(call: BoundedCall) -> Tensor:
    x, y, w = call.of("self"), call.of("end"), call.of("weight")
    error = (1 - w.x).abs() * x.e + w.a * (x.e + y.e) + w.e * (x.a + y.a)
    return error + call.gamma(6) * (1 + 2 * w.a) * (x.a + y.a) + 2 * call.tiny


@error_rule("logaddexp")
def _logaddexp(call: BoundedCall) -> Tensor:
    x, y = call.of("self"), call.of("other")
    size = 1 + torch.maximum(x.a, y.a)
    return torch.maximum(x.e, y.e) + 2 * ELEMENTARY * call.u * size + call.tiny


@error_rule("glu")
def _glu(call: BoundedCall) -> Tensor:
    x, dim = call.of("self"), call.given["dim"]
    size, (open_, gate) = x.a.chunk(2, dim)[0], x.e.chunk(2, dim)
    return rounded(call, open_ + 0.25 * size * gate) + ELEMENTARY * call.u * size


@error_rule("maximum", "minimum")
def _extreme(call: BoundedCall) -> Tensor:
    return torch.maximum(call.of("self").e, call.of("other").e)


@error_rule("where")
def _where(call: BoundedCall) -> Tensor:
    condition = call.given["condition"]
    return torch.where(condition, call.of("self").e, call.of("other").e)


@error_rule("masked_fill")
def _masked_fill(call: BoundedCall) -> Tensor:
    return call.of("self").e.masked_fill(call.given["mask"], 0.0)


# -- one value, no rounding ------------------------------------------------------------------------


@error_rule("relu")
def _relu(call: BoundedCall) -> Tensor:
    x = call.of("self")
    return torch.where(x.lies[1] <= 0, 0.0, x.e)  # 0 in every correct run


@error_rule("hardtanh", "clamp", "clamp_min", "clamp_max", "relu6", "neg", "abs", "detach")
def _lipschitz(call: BoundedCall) -> Tensor:
    if any(isinstance(call.given.get(k), WithError) for k in ("min", "max")):
        raise NoRule("its limits are data")
    # the limits, rounded alike on both sides, are part of the function
    return call.of("self").e


@error_rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "max_pool2d", "max_pool3d"
)
def _max_pool(call: BoundedCall) -> Tensor:
    found = call.func(**with_self(call, call.of("self").e))
    largest: Tensor = found[0] if isinstance(found, tuple) else found
    return largest


@error_rule("adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(call: BoundedCall) -> Tensor:
    found: Tensor = call.func(**with_self(call, call.of("self").e))[0]
    return found


@error_rule("amax", "amin")
def _amax(call: BoundedCall) -> Tensor:
    return call.of("self").e.amax(
        dim=call.given.get("dim", ()), keepdim=call.given.get("keepdim", False)
    )


@error_rule("leaky_relu")
def _leaky_relu(call: BoundedCall) -> Tensor:
    slope = abs(float(call.given.get("negative_slope", 0.01)))
    return rounded(call, max(1.0, slope) * call.of("self").e, 2)


@error_rule("_prelu_kernel")
def _prelu(call: BoundedCall) -> Tensor:
    x, w = call.of("self"), call.of("weight")
    return rounded(call, w.a.clamp(min=1) * x.e + x.a * w.e)


@error_rule("elu", "celu")
def _elu(call: BoundedCall) -> Tensor:
    alpha, scale, inner = (
        abs(float(call.given.get(k, 1))) for k in ("alpha", "scale", "input_scale")
    )
    if call.func is torch.ops.aten.celu.default:
        inner = 1 / alpha
    error = scale * max(1.0, alpha * inner) * call.of("self").e
    # for x < 0 it is scale alpha (exp(inner x) - 1), rounded against at most scale alpha
    return rounded(call, error, 4) + 2 * ELEMENTARY * call.u * scale * alpha


@error_rule("softshrink")
def _softshrink(call: BoundedCall) -> Tensor:
    return rounded(call, call.of("self").e)


@error_rule("hardshrink")
def _hardshrink(call: BoundedCall) -> Tensor:
    x = call.of("self")
    near = ((x.x.abs() - abs(float(call.given["lambd"]))).abs() <= 2 * x.e) & (x.e > 0)
    return torch.where(near, x.a, x.e)  # it jumps there


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
    "atan": (1.0, "y"),
    "erf": (1.13, "y"),  # 2 / sqrt(pi)
}


def _smooth(slope: float, by: str) -> ErrorRule:
    def carry(call: BoundedCall) -> Tensor:
        x = call.of("self")
        error = slope * x.e
        size = torch.zeros_like(x.e)
        if "y" in by:
            size = call.y.abs() + 2 * error
        if "x" in by:
            size = size + x.a
        if "1" in by:
            size = size + 1.0
        return error + ELEMENTARY * call.u * size * (1 + 16 * call.u) + call.tiny

    return carry


for _name, (_slope, _by) in SMOOTH.items():
    error_rule(_name)(_smooth(_slope, _by))


def _log_sigmoid(call: BoundedCall) -> list[Tensor]:
    """Of log(1 / (1 + exp(-x))), and of exp(-|x|), which backward reads."""
    x = call.of("self")
    y = x.e + 2 * ELEMENTARY * call.u * (1 + x.a) + call.tiny
    return [y, x.e + ELEMENTARY * call.u * (1 + x.a) + call.tiny]


several_rule("log_sigmoid_forward", _log_sigmoid)


@error_rule("exp")
def _exp(call: BoundedCall) -> Tensor:
    e = call.of("self").e
    return rounded(call, call.y.abs() * torch.expm1(3 * e), ELEMENTARY)


@error_rule("expm1")
def _expm1(call: BoundedCall) -> Tensor:
    e = call.of("self").e
    return rounded(call, (call.y.abs() + 1) * torch.expm1(3 * e), ELEMENTARY)


@error_rule("exp2")
def _exp2(call: BoundedCall) -> Tensor:
    e = log(2) * call.of("self").e
    return rounded(call, call.y.abs() * torch.expm1(3 * e), ELEMENTARY)


def _logarithm(base: float, more: float = 0.0) -> ErrorRule:
    def carry(call: BoundedCall) -> Tensor:
        x = call.of("self")
        low = x.lies[0] + more
        return rounded(call, torch.where(low > 0, x.e / (low * base), inf), ELEMENTARY)

    return carry


for _name, _scale, _more in (
    ("log", 1.0, 0.0), ("log2", log(2), 0.0), ("log10", log(10), 0.0), ("log1p", 1.0, 1.0),
):  # fmt: skip
    error_rule(_name)(_logarithm(_scale, _more))


@error_rule("sqrt")
def _sqrt(call: BoundedCall) -> Tensor:
    x = call.of("self")
    return rounded(call, of_root(x.lies[0], x.e), ROOT)


@error_rule("rsqrt")
def _rsqrt(call: BoundedCall) -> Tensor:
    x = call.of("self")
    low = x.lies[0]
    return rounded(call, torch.where(low > 0, x.e / (2 * low.clamp(min=0) ** 1.5), inf), ROOT)


@error_rule("reciprocal")
def _reciprocal(call: BoundedCall) -> Tensor:
    x = call.of("self")
    low = x.x.abs() - 2 * x.e
    return rounded(call, torch.where(low > 0, x.e / low**2, inf), QUOTIENT)


@error_rule("pow")
def _pow(call: BoundedCall) -> Tensor:
    x, p = call.of("self"), call.given.get("exponent")
    if p == 0:
        return torch.zeros_like(x.e)
    if p == 1:  # what a square's own backward asks
        return x.e
    if p == -1:
        return _reciprocal(call)
    if p == -0.5:
        return _rsqrt(call)
    if p == 2:
        return rounded(call, (x.a + x.x.abs() + x.e) * x.e)
    if p == 3:
        return rounded(call, 3 * x.a**2 * x.e, 2)
    if p == 0.5:
        return _sqrt(call)
    raise NoRule(f"an exponent of {p}")
