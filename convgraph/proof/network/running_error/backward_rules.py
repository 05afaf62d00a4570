"""Running bounds of backward operators: each is a sum of products of a gradient and what was kept.

A gradient that a kink lets through or stops is known where rounding cannot reach the kink;
elsewhere it is off by all of it.
"""

from functools import partial
from math import exp, inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import aten
from convgraph.proof.network.running_error.call import (
    ELEMENTARY,
    BoundedCall,
    NoRule,
    WithError,
    error_rule,
    rounded,
    several_rule,
)

BY_PRODUCTS = {
    "max_pool2d_with_indices_backward": ("indices",),
    "max_pool3d_with_indices_backward": ("indices",),
}
"""What forward chose, where a rule asks the input and its error what could have been chosen."""


@error_rule("threshold_backward")
def _threshold(call: BoundedCall) -> Tensor:
    g, x, kink = call.of("grad_output"), call.of("self"), float(call.given.get("threshold", 0))
    sure = ((x.x - kink).abs() > 2 * x.e) | (x.e == 0)
    return torch.where(sure, torch.where(x.x > kink, g.e, 0.0), g.a)


@error_rule("hardtanh_backward")
def _hardtanh(call: BoundedCall) -> Tensor:
    g, x = call.of("grad_output"), call.of("self")
    sure = torch.ones_like(g.e, dtype=torch.bool)
    for name in ("min_val", "max_val"):
        sure &= ((x.x - float(call.given[name])).abs() > 2 * x.e) | (x.e == 0)
    return torch.where(sure, g.e, g.a)


@error_rule("sigmoid_backward")
def _sigmoid(call: BoundedCall) -> Tensor:
    g, y = call.of("grad_output"), call.of("output")  # g y (1 - y), of slope 1 in y at most
    return rounded(call, 0.25 * g.e + g.a * y.e, ELEMENTARY)


@error_rule("tanh_backward")
def _tanh(call: BoundedCall) -> Tensor:
    g, y = call.of("grad_output"), call.of("output")  # g (1 - y^2)
    return rounded(call, g.e + 2 * g.a * y.e, ELEMENTARY)


@error_rule("leaky_relu_backward")
def _leaky_relu(call: BoundedCall) -> Tensor:
    g, x = call.of("grad_output"), call.of("self")
    steep = max(1.0, abs(float(call.given["negative_slope"])))
    sure = (x.x.abs() > 2 * x.e) | (x.e == 0)
    return rounded(call, steep * torch.where(sure, g.e, 2 * g.a), 2)


@error_rule("elu_backward")
def _elu(call: BoundedCall) -> Tensor:
    names = ("alpha", "scale", "input_scale")
    if call.given.get("is_result"):
        raise NoRule("it reads its own result")
    alpha, scale, inner = (abs(float(call.given.get(name, 1))) for name in names)
    g, x = call.of("grad_output"), call.of("self_or_result")
    steep, jump = scale * max(1.0, alpha * inner), scale * abs(1 - alpha * inner)
    near = (x.x.abs() <= 2 * x.e) & (x.e > 0)  # its slope jumps there
    bent = scale * alpha * inner**2  # g scale, or g scale alpha inner exp(inner x)
    return _of_slope(call, g, x, steep, bent, steep) + torch.where(near, jump * g.a, 0)


@error_rule("mish_backward")
def _mish(call: BoundedCall) -> Tensor:
    g, x = call.of("grad_output"), call.of("self")
    return _of_slope(call, g, x, 1.09, 0.65, 2 + 2 * x.a)  # largest f'' is 0.64, at 0


@error_rule("softplus_backward")
def _softplus(call: BoundedCall) -> Tensor:
    g, x, beta = call.of("grad_output"), call.of("self"), abs(float(call.given["beta"]))
    left = exp(-abs(float(call.given["threshold"])))  # beyond it the slope is 1
    return _of_slope(call, g, x, 1.0, beta / 4, 1 + beta * x.a) + left * g.a


@error_rule("log_sigmoid_backward")
def _log_sigmoid(call: BoundedCall) -> Tensor:
    g, x, kept = call.of("grad_output"), call.of("self"), call.of("buffer")
    return _of_slope(call, g, x, 1.0, 0.25, 2.0) + kept.e * g.a


@error_rule("glu_backward")
def _glu(call: BoundedCall) -> Tensor:
    g, x, dim = call.of("grad_output"), call.of("self"), call.given["dim"]
    size, (off, gate) = x.a.chunk(2, dim)[0], x.e.chunk(2, dim)
    one = g.e + 0.25 * g.a * gate + ELEMENTARY * call.u * g.a
    # g a s (1 - s), whose last factor is 1/4 at most and of slope 0.1
    two = 0.25 * (g.e * size + g.a * off) + 0.1 * g.a * size * gate
    two = two + ELEMENTARY * call.u * g.a * size
    return torch.cat([one, two], dim) * (1 + 16 * call.u) + call.tiny


@error_rule("softshrink_backward", "hardshrink_backward")
def _shrink(call: BoundedCall) -> Tensor:
    g = call.of("grad_output" if "grad_output" in call.given else "grad_out")
    x, edge = call.of("self"), abs(float(call.given["lambd"]))
    near = ((x.x.abs() - edge).abs() <= 2 * x.e) & (x.e > 0)
    return torch.where(near, g.a, g.e)


def _prelu(call: BoundedCall) -> list[Tensor]:
    """Of g or w g, and of 0 or x g."""
    g, x, w = call.of("grad_output"), call.of("self"), call.of("weight")
    near, below = (x.x.abs() <= 2 * x.e) & (x.e > 0), x.x <= 0
    scaled, seen = _times(w, g), _times(x, g)
    image = torch.where(below, scaled.e + call.u * scaled.a, g.e)
    image = torch.where(near, g.a * (1 + w.a) + image, image)
    weight = torch.where(below, seen.e + call.u * seen.a, 0.0)
    weight = torch.where(near, x.a * g.a + weight, weight)
    return [one + call.tiny for one in (image, weight)]


@error_rule("gelu_backward")
def _gelu(call: BoundedCall) -> Tensor:
    # f'' = phi (2 - x^2), largest at 0; the tanh form's is largest there too
    g, x = call.of("grad_output"), call.of("self")
    size = torch.full_like(x.e, 1.3)
    if call.given.get("approximate", "none") != "none":  # x u'(x) (1 - t^2) / 2, rounded at t = 1
        size = size + 0.4 * x.a * (1 + 0.14 * x.a.square())
    return _of_slope(call, g, x, 1.13, 0.8, size)


@error_rule("silu_backward")
def _silu(call: BoundedCall) -> Tensor:
    g, x = call.of("grad_output"), call.of("self")
    return _of_slope(call, g, x, 1.1, 0.5, 1 + x.a)  # s (1 + x (1 - s)), rounded at s = 1


@error_rule("hardswish_backward")
def _hardswish(call: BoundedCall) -> Tensor:
    g, x = call.of("grad_output"), call.of("self")
    near = ((x.x.abs() - 3).abs() <= 2 * x.e) & (x.e > 0)  # its slope jumps by a half there
    return _of_slope(call, g, x, 1.5, 1 / 3, 1.5) + torch.where(near, 0.5 * g.a, 0)


@error_rule("hardsigmoid_backward")
def _hardsigmoid(call: BoundedCall) -> Tensor:
    g, x = call.of("grad_output"), call.of("self")
    near = ((x.x.abs() - 3).abs() <= 2 * x.e) & (x.e > 0)
    return rounded(call, torch.where(near, g.a, g.e) / 6, 2)


def _of_slope(
    call: BoundedCall, g: WithError, x: WithError, steep: float, bent: float, size: float | Tensor
) -> Tensor:
    """Bound g f'(x) by the largest |f'| and |f''|, and what is rounded on the way to f'."""
    error = steep * g.e + bent * g.a * x.e
    return error + ELEMENTARY * call.u * size * g.a * (1 + 16 * call.u) + call.tiny


@error_rule("index_put")
def _index_put(call: BoundedCall) -> Tensor:
    x, values, where = call.of("self"), call.of("values"), call.given["indices"]
    put = partial(
        torch.ops.aten.index_put, indices=where, accumulate=True
    )  # Tensor's takes no None
    many = put(torch.zeros_like(x.e), values=torch.ones_like(values.e))
    most = int(many.max()) if many.numel() else 0
    if not call.given.get("accumulate", False):
        if most > 1:
            raise NoRule("several are written to one entry")
        return torch.where(many > 0, put(torch.zeros_like(x.e), values=values.e), x.e)
    gamma = call.sure(most)
    error: Tensor = put(x.e, values=values.e) + gamma * put(x.a, values=values.a) + call.tiny
    return error


@error_rule(
    *("upsample_nearest2d_backward", "_adaptive_avg_pool2d_backward", "avg_pool2d_backward"),
    *("_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *(f"{kind}_pad{d}d_backward" for kind in ("reflection", "replication") for d in (1, 2, 3)),
)
def _linear(call: BoundedCall) -> Tensor:
    g = call.of("grad_output")
    gamma = call.sure(g.x[0, 0].numel() + 1)
    wide = {k: v.x.abs() if isinstance(v, WithError) else v for k, v in call.given.items()}
    made: Tensor = call.func(**{**wide, "grad_output": g.e + gamma * g.a})
    return made.abs() + call.tiny


@error_rule(
    "upsample_bilinear2d_backward", "upsample_linear1d_backward", "upsample_trilinear3d_backward"
)
def _linear_resize(call: BoundedCall) -> Tensor:
    # A weight, a product of one an axis, is off by 4 u (n + 1) an axis (see `sum_rules`), perhaps
    # at a pixel that it does not belong to; a pixel adds up at most a product an output.
    g, sizes = call.of("grad_output"), call.given["input_size"][2:]
    off = call.gamma(sum(4 * (n + 1) for n in sizes) + 8)
    gamma = call.gamma(g.x[0, 0].numel() + 2 * len(sizes))
    if inf in (off, gamma):
        raise NoRule("n u >= 1")
    made: Tensor = call.func(**{**call.given, "grad_output": g.e + gamma * g.a})
    heard = g.a.sum(dim=tuple(range(2, g.x.dim())), keepdim=True)
    return made + off * (1 + gamma) * heard + call.tiny


def _max_pool(axes: int, call: BoundedCall) -> Tensor:
    """Where one entry alone can be the largest, g arrives there; else anyone near may get all.

    A run that is off by at most 2 E can choose q if x_q + 2 E_q >= x_r - 2 E_r for all r.
    """
    g, x = call.of("grad_output"), call.of("self")
    kernel, stride, padding, dilation = (
        aten.each(call.given.get(name) or otherwise, axes)
        for name, otherwise in (
            ("kernel_size", 1), ("stride", call.given["kernel_size"]), ("padding", 0),
            ("dilation", 1),
        )
    )  # fmt: skip
    size, out = x.x.shape[-axes:], g.x.shape[-axes:]

    def windows(values: Tensor, fill: float) -> Tensor:
        pads: list[int] = []
        steps = [*zip(size, out, kernel, stride, padding, dilation, strict=True)]
        for n, m, k, s, p, gap in reversed(steps):
            pads += [p, (m - 1) * s + gap * (k - 1) + 1 - n - p]
        found = F.pad(values, pads, value=fill)
        for axis, (_, _, k, s, _, gap) in enumerate(steps, values.dim() - axes):
            found = found.unfold(axis, gap * (k - 1) + 1, s)[..., ::gap]
        return found.flatten(-axes)

    low, high = x.lies
    place = torch.arange(size.numel(), dtype=torch.float64, device=x.x.device).view(size)
    place = windows(place.expand(x.x.shape), -1.0).long()
    least = windows(low, -inf).amax(-1, keepdim=True)
    can = (windows(high, -inf) >= least) & (place >= 0)
    alone = can.sum(-1, keepdim=True) == 1
    heard = torch.Size([-(-(gap * (k - 1) + 1) // s) for k, s, gap in
                        zip(kernel, stride, dilation, strict=True)]).numel()  # fmt: skip
    gamma = call.sure(heard)
    off = torch.where(alone, g.e[..., None], g.a[..., None]) + gamma * g.a[..., None]
    lead = x.x.shape[:-axes].numel()
    error = torch.zeros(lead, size.numel(), dtype=torch.float64, device=x.x.device)
    error.scatter_add_(
        1, place.clamp(min=0).reshape(lead, -1), torch.where(can, off, 0.0).reshape(lead, -1)
    )
    return error.view(x.x.shape) + call.tiny


for _axes in (2, 3):
    error_rule(f"max_pool{_axes}d_with_indices_backward")(partial(_max_pool, _axes))


def _normed(
    call: BoundedCall,
    g: WithError,
    x: WithError,
    w: WithError,
    shape: tuple[int, ...],
    held: tuple[str, str] = ("mean", "rstd"),
) -> tuple[Tensor, WithError, Tensor]:
    """Of the image's gradient, and of g z, with what it rounds, for rows of what is normalized.

    With h = w g and z = (x - mean) / deviation: (h - mean(h) - z mean(h z)) / deviation. However it
    is summed up, nothing on the way is larger than it is with |x| + |mean| for x - mean.
    """

    def mean(part: Tensor) -> Tensor:
        return part.mean(-1, keepdim=True)

    middle, inv = (_rows(call.of(name), shape) for name in held)
    gamma = call.sure(x.x.shape[-1] + 4 * ELEMENTARY)
    h = _times(w, g)
    z = _times(WithError(x.x - middle.x, x.e + middle.e), inv)
    size = (x.a + middle.a) * inv.a
    hz = _times(h, z)
    inner = WithError(mean(hz.x), mean(hz.e))
    off = h.e + mean(h.e) + _times(z, inner).e
    total = WithError(h.x - mean(h.x) - z.x * inner.x, off)
    wide = h.a + mean(h.a) + size * mean(h.a * size)
    return _times(total, inv).e + gamma * inv.a * wide, _times(g, z), g.a * size


def _rows(one: WithError, shape: tuple[int, ...]) -> WithError:
    return WithError(one.x.reshape(shape), one.e.reshape(shape))


def _layer_norm(call: BoundedCall) -> list[Tensor]:
    shape = call.given["normalized_shape"]
    n = torch.Size(shape).numel()
    g, x = (_rows(call.of(name), (-1, n)) for name in ("grad_out", "input"))
    held = call.given.get("weight")
    w = _rows(held, (-1, n)) if isinstance(held, WithError) else _exactly(torch.ones_like(x.x[:1]))
    sums = call.sure(len(x.x) + ELEMENTARY)
    image, gz, size = _normed(call, g, x, w, (-1, 1))
    found = [
        image.reshape(call.of("input").x.shape),
        (gz.e + sums * size).sum(0).reshape(shape),
        (g.e + sums * g.a).sum(0).reshape(shape),
    ]
    asked = zip(found, call.given["output_mask"], strict=True)
    return [one + call.tiny for one, mine in asked if mine]


def _group_norm(call: BoundedCall) -> list[Tensor]:
    batch, channels, groups = call.given["N"], call.given["C"], call.given["group"]
    rows = (batch, groups, -1)
    g, x = (_rows(call.of(name), rows) for name in ("grad_out", "input"))
    held = call.given.get("weight")
    w = held if isinstance(held, WithError) else _exactly(x.x.new_ones(channels))
    w = _rows(w, (1, channels, 1))
    w = WithError(*(part.expand(batch, channels, call.given["HxW"]) for part in (w.x, w.e)))
    count = batch * call.given["HxW"]
    sums = call.sure(count + 2 * ELEMENTARY)
    image, gz, size = _normed(call, g, x, _rows(w, rows), (batch, groups, 1))

    def by_channel(part: Tensor) -> Tensor:
        return part.reshape(batch, channels, -1).sum((0, 2))

    found = [
        image.reshape(call.of("input").x.shape),
        by_channel(gz.e + sums * size),
        by_channel(g.e + sums * g.a),
    ]
    asked = zip(found, call.given["output_mask"], strict=True)
    return [one + call.tiny * (1 + count) for one, mine in asked if mine]


def _exactly(value: Tensor) -> WithError:
    return WithError(value, torch.zeros_like(value))


def _times(one: WithError, two: WithError) -> WithError:
    """A product before it is rounded."""
    return WithError(one.x * two.x, one.a * two.e + (two.x.abs() + two.e) * one.e)


def _convolution(call: BoundedCall) -> list[Tensor]:
    g, x, w = call.of("grad_output"), call.of("input"), call.of("weight")
    n = max(w.x.numel(), g.x.numel() // max(1, g.x.shape[1]))
    gamma = call.sure(n + 1)

    def back(head: Tensor, image: Tensor, weight: Tensor) -> Any:
        given = {**call.given, "grad_output": head, "input": image, "weight": weight}
        given["output_mask"] = [True, True, call.given["output_mask"][2]]
        return call.func(**given)

    first, second = back(g.e + gamma * g.a, x.a, w.a), back(g.a, x.e, w.e)
    found = [first[0] + second[0], first[1] + second[1], first[2]]
    asked = zip(found, call.given["output_mask"], strict=True)
    return [one + call.tiny * n for one, mine in asked if mine and one is not None]


def _batch_norm_by_images(call: BoundedCall) -> list[Tensor]:
    """In training: a row is a channel."""
    shape = call.of("input").x.shape
    g, x = (
        WithError(*(part.transpose(0, 1).flatten(1) for part in (one.x, one.e)))
        for one in (call.of("grad_out"), call.of("input"))
    )
    held = call.given.get("weight")
    w = _rows(held, (-1, 1)) if isinstance(held, WithError) else _exactly(x.x.new_ones(1, 1))
    sums = call.sure(x.x.shape[1] + 2 * ELEMENTARY)
    image, gz, size = _normed(call, g, x, w, (-1, 1), ("save_mean", "save_invstd"))
    found = [
        image.unflatten(1, (shape[0], -1)).transpose(0, 1).reshape(shape),
        (gz.e + sums * size).sum(1),
        (g.e + sums * g.a).sum(1),
    ]
    asked = zip(found, call.given["output_mask"], strict=True)
    return [one + call.tiny * (1 + x.x.shape[1]) for one, mine in asked if mine]


def _batch_norm(call: BoundedCall) -> list[Tensor]:
    if call.given.get("train"):
        return _batch_norm_by_images(call)
    g, x = call.of("grad_out"), call.of("input")
    shape = (1, -1, *(1,) * (x.x.dim() - 2))
    axes = [d for d in range(x.x.dim()) if d != 1]
    mean, var = (call.of(f"running_{name}") for name in ("mean", "var"))
    if bool(mean.e.any()) or bool(var.e.any()):
        raise NoRule("its statistics are data")
    inv = (var.x + call.given["eps"]).rsqrt().reshape(shape)
    held = call.given.get("weight")
    w = (
        held
        if isinstance(held, WithError)
        else WithError(torch.ones_like(mean.x), torch.zeros_like(mean.x))
    )
    a, e = (part.reshape(shape) for part in (w.a, w.e))
    n = x.x.numel() // x.x.shape[1]
    gamma = call.sure(n + 2 * ELEMENTARY)
    wide = x.a + mean.x.abs().reshape(shape)
    found = [
        inv * (a * g.e + e * g.a + call.gamma(ELEMENTARY) * a * g.a),
        (inv * (g.e * wide + g.a * x.e + gamma * g.a * wide)).sum(axes),
        (g.e + gamma * g.a).sum(axes),
    ]
    asked = zip(found, call.given["output_mask"], strict=True)
    least = n * call.tiny * (1 + float(inv.max()))  # products are scaled behind their sum
    return [one + least for one, mine in asked if mine]


for _name, _made in (
    ("convolution_backward", _convolution),
    ("native_batch_norm_backward", _batch_norm),
    ("native_layer_norm_backward", _layer_norm),
    ("native_group_norm_backward", _group_norm),
    ("_prelu_kernel_backward", _prelu),
):
    several_rule(_name, _made)
