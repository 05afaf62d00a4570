"""What operators of torch mean, as sums of products of their entries, forward and backward.

    addmm(b, x, w)        beta b + alpha x w
    native_layer_norm     (x - m) r w + b      m = sum x / n, r = 1 / sqrt(sum (x - m)^2 / n + eps)
    _softmax              e (1 / sum e)        e = exp(x), that never overflows

A square root, a quotient's divisor, an exponential, whether an entry is more than 0, the largest of
some (see `maxima`): each is a variable of what it is made of. Who is called in another way than is
written here stays what it is.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.proof import aten
from convgraph.proof.network.maxima import Maxima
from convgraph.proof.network.polynomials import (
    PLAIN,
    Call,
    Constant,
    NoMeaning,
    Points,
    Polynomial,
    constant,
    exactly,
    means,
    multilinear,
    product,
)
from convgraph.proof.network.units import Units
from convgraph.proof.network.value_numbers import Numbering


def points(numbering: Numbering, *, together: bool = False) -> Points:
    """Return what elements are worth, of operators that mean what is written here."""
    found = Points(numbering, together=together)
    found.maxima, found.units = Maxima(found), Units(found)
    return found


# -- entry by entry --------------------------------------------------------------------------------

_ZERO, _ONE = exactly(Fraction(0)), exactly(Fraction(1))


def _other(call: Call) -> Polynomial | Constant:
    """The second operand, a tensor or a number."""
    found = call.get("other")
    return call.constant(call.given.get("other")) if found is None else found


def _times(one: Polynomial | Constant, two: Constant) -> Polynomial | Constant:
    if isinstance(one, Constant):
        return exactly(one.value * two.value)
    return one * two


def _units(call: Call) -> Units:
    found: Units = call.points.units
    return found


def _inverse(call: Call, one: Polynomial) -> Polynomial:
    return _units(call).reciprocal(one)


def _root(call: Call, one: Polynomial) -> Polynomial:
    return call.atom("sqrt", one)


def _sigmoid(call: Call, x: Polynomial) -> Polynomial:
    return _inverse(call, _units(call).exponential(-x) + _ONE)


@means("add.Tensor", "add.Scalar", given="other alpha")
def _add(call: Call) -> Any:
    return [call["self"] + _times(_other(call), call.constant(call.given.get("alpha", 1)))]


@means("sub.Tensor", "sub.Scalar", given="other alpha")
def _sub(call: Call) -> Any:
    return [call["self"] + _times(_other(call), call.constant(-call.given.get("alpha", 1)))]


@means("rsub.Tensor", "rsub.Scalar", given="other alpha")
def _rsub(call: Call) -> Any:
    return [call["self"] * call.constant(-call.given.get("alpha", 1)) + _other(call)]


@means("mul.Tensor", given="other")
def _mul(call: Call) -> Any:
    return [call["self"] * _other(call)]


@means("mul.Scalar", given="other")
def _scaled_by(call: Call) -> Any:
    """What autograd multiplies by is 2 / n where that is the nearest float64, as of a variance."""
    other = call.given["other"]
    if isinstance(other, float) and 0 < other <= 1:
        share = Fraction(other).limit_denominator(PLAIN)
        if share.numerator <= 2 and float(share) == other:
            if share != Fraction(other):
                call.points.shares.add(share)
            return [call["self"] * exactly(share)]
    return [call["self"] * call.constant(other)]


@means("div.Tensor", "div.Scalar", given="other")
def _div(call: Call) -> Any:
    other = call.get("other")
    if other is not None:
        return [call["self"] * _inverse(call, other)]
    divisor = call.constant(call.given["other"]).value
    if not divisor:
        raise NoMeaning
    return [call["self"] * exactly(1 / divisor)]


@means("neg")
def _neg(call: Call) -> Any:
    return [-call["self"]]


@means("reciprocal")
def _reciprocal(call: Call) -> Any:
    return [_inverse(call, call["self"])]


@means("sqrt")
def _sqrt(call: Call) -> Any:
    return [_root(call, call["self"])]


@means("rsqrt")
def _rsqrt(call: Call) -> Any:
    return [_inverse(call, _root(call, call["self"]))]


@means("exp")
def _exp(call: Call) -> Any:
    return [_units(call).exponential(call["self"])]


@means("log")
def _log(call: Call) -> Any:
    return [call.atom("log", call["self"])]


@means("pow.Tensor_Scalar", given="exponent")
def _pow(call: Call) -> Any:
    x, power = call["self"], call.given["exponent"]
    if power in (0.5, -0.5):
        root = _root(call, x)
        return [root if power > 0 else _inverse(call, root)]
    if power in (-1.5, -2.5):  # what autograd makes of the first of these
        one = _inverse(call, _root(call, x))
        return [one * one * one if power == -1.5 else one * one * one * one * one]
    if power not in (-2, -1, 1, 2, 3, 4):
        raise NoMeaning
    base = x if power > 0 else _inverse(call, x)
    found = base
    for _ in range(abs(int(power)) - 1):
        found = found * base
    return [found]


@means("addcmul", given="value")
def _addcmul(call: Call) -> Any:
    more = call["tensor1"] * call["tensor2"] * call.constant(call.given.get("value", 1))
    return [call["self"] + more]


@means("addcdiv", given="value")
def _addcdiv(call: Call) -> Any:
    factor = call.constant(call.given.get("value", 1))
    return [call["self"] + call["tensor1"] * _inverse(call, call["tensor2"]) * factor]


@means("lerp.Scalar", "lerp.Tensor", given="weight")
def _lerp(call: Call) -> Any:
    weight = call.get("weight")
    factor = call.constant(call.given["weight"]) if weight is None else weight
    return [call["self"] + (call["end"] - call["self"]) * factor]


@means("sigmoid")
def _of_sigmoid(call: Call) -> Any:
    return [_sigmoid(call, call["self"])]


@means("silu")
def _silu(call: Call) -> Any:
    return [call["self"] * _sigmoid(call, call["self"])]


@means("glu", given="dim")
def _glu(call: Call) -> Any:
    one, two = _halves(call)
    return [one * _sigmoid(call, two)]


def _halves(call: Call) -> tuple[Polynomial, Polynomial]:
    """Of a tensor, along an axis."""
    x = call["self"]
    axis = 1 + call.given.get("dim", -1) % len(x.shape)
    return x.moved(lambda t: t.chunk(2, axis)[0]), x.moved(lambda t: t.chunk(2, axis)[1])


@means("sigmoid_backward")
def _sigmoid_backward(call: Call) -> Any:
    y = call["output"]
    return [call["grad_output"] * (y - y * y)]


@means("tanh")
def _tanh(call: Call) -> Any:
    return [call.atom("tanh", call["self"])]


def _softplus(call: Call, x: Polynomial) -> Polynomial:
    return call.atom("softplus", x)


@means("softplus", given="beta threshold")
def _of_softplus(call: Call) -> Any:
    if call.given.get("beta", 1) != 1 or call.given.get("threshold", 20) != 20:
        raise NoMeaning
    return [_softplus(call, call["self"])]


@means("softplus_backward", given="beta threshold")
def _softplus_backward(call: Call) -> Any:
    ends = call.given["beta"], call.given["threshold"]
    if ends != (1, 20) or call.dtype == torch.float64:  # beyond 20 torch has 1, 2e-9 away
        raise NoMeaning
    return [call["grad_output"] * _sigmoid(call, call["self"])]


@means("mish")
def _mish(call: Call) -> Any:
    return [call["self"] * call.atom("tanh", _softplus(call, call["self"]))]


@means("mish_backward")
def _mish_backward(call: Call) -> Any:
    x = call["self"]
    y = call.atom("tanh", _softplus(call, x))
    slope = y + x * _sigmoid(call, x) * (-(y * y) + _ONE)
    return [call["grad_output"] * slope]


@means("tanh_backward")
def _tanh_backward(call: Call) -> Any:
    y = call["output"]
    return [call["grad_output"] * (-(y * y) + _ONE)]


@means("silu_backward")
def _silu_backward(call: Call) -> Any:
    x, y = call["self"], _sigmoid(call, call["self"])
    return [call["grad_output"] * (y + x * y - x * y * y)]


PART_AT_TIES = frozenset({
    "relu", "clamp", "clamp_min", "clamp_max", "hardtanh", "leaky_relu", "maximum", "minimum",
    "amax", "amin", "max", "min", "max.dim", "min.dim",
    "max_pool2d_with_indices", "max_pool3d_with_indices",
})  # fmt: skip
"""Operators that mean one thing and send other gradients back where what they compare is equal."""


# -- what is held between constants, and choices ---------------------------------------------------

_THREE, _SIX = exactly(Fraction(3)), exactly(Fraction(6))
_SIXTH = exactly(Fraction(1, 6))


def _maxima(call: Call) -> Maxima:
    found: Maxima = call.points.maxima
    return found


def _end(call: Call, name: str, otherwise: Any = None) -> Constant | None:
    """A number that something is held by, if there is one."""
    value = call.given.get(name, otherwise)
    return None if value is None else call.constant(value)


@means("relu")
def _relu(call: Call) -> Any:
    return [_maxima(call).between(call["self"], _ZERO, None)]


@means("clamp", "clamp_min", "clamp_max", given="min max")
def _clamp(call: Call) -> Any:
    low, high = _end(call, "min"), _end(call, "max")
    return [_maxima(call).between(call["self"], low, high)]


@means("hardtanh", given="min_val max_val")
def _hardtanh(call: Call) -> Any:
    low, high = _end(call, "min_val", -1), _end(call, "max_val", 1)
    return [_maxima(call).between(call["self"], low, high)]


def _inside(call: Call, x: Polynomial, low: Constant, high: Constant) -> Polynomial:
    """Which entries are between two constants, neither of them, as 1 or 0."""
    return _maxima(call).above(x, low) * _maxima(call).below(x, high)


@means("hardtanh_backward", given="min_val max_val")
def _hardtanh_backward(call: Call) -> Any:
    ends = [call.constant(call.given[name]) for name in ("min_val", "max_val")]
    return [call["grad_output"] * _inside(call, call["self"], ends[0], ends[1])]


def _hard_sigmoid(call: Call, x: Polynomial) -> Polynomial:
    """Six times what torch calls so."""
    return _maxima(call).between(x + _THREE, _ZERO, _SIX)


@means("hardsigmoid")
def _of_hard_sigmoid(call: Call) -> Any:
    return [_hard_sigmoid(call, call["self"]) * _SIXTH]


@means("hardsigmoid_backward")
def _hard_sigmoid_backward(call: Call) -> Any:
    inside = _inside(call, call["self"] + _THREE, _ZERO, _SIX)
    wide = call.dtype == torch.float64  # there torch's sixth is float32's, 3e-8 away
    return [call["grad_output"] * inside * (constant(1 / 6, torch.float32) if wide else _SIXTH)]


@means("hardswish")
def _hard_swish(call: Call) -> Any:
    return [call["self"] * _hard_sigmoid(call, call["self"]) * _SIXTH]


@means("hardswish_backward")
def _hard_swish_backward(call: Call) -> Any:
    x = call["self"]
    slope = _hard_sigmoid(call, x) + x * _inside(call, x + _THREE, _ZERO, _SIX)
    return [call["grad_output"] * slope * _SIXTH]


@means("leaky_relu", given="negative_slope")
def _leaky_relu(call: Call) -> Any:
    x, slope = call["self"], call.constant(call.given.get("negative_slope", 0.01))
    return [call.points.chosen(_maxima(call).positive(x), x, x * slope)]


@means("leaky_relu_backward", given="negative_slope self_is_result")
def _leaky_relu_backward(call: Call) -> Any:
    if call.given["self_is_result"]:
        raise NoMeaning
    g, slope = call["grad_output"], call.constant(call.given["negative_slope"])
    return [call.points.chosen(_maxima(call).positive(call["self"]), g, g * slope)]


@means("threshold", "threshold_backward", given="threshold value")
def _threshold(call: Call) -> Any:
    if call.given.get("threshold", 0) != 0 or call.given.get("value", 0) != 0:
        raise NoMeaning
    if call.node.name == "threshold":
        return _relu(call)
    return [call["grad_output"] * _maxima(call).positive(call["self"])]


def _not(found: Polynomial) -> Polynomial:
    """Where it is not so: of it and of that no digit is lost."""
    made = -found + _ONE
    made.terms = found.terms
    return made


@means("gt.Scalar", "lt.Scalar", "ge.Scalar", "le.Scalar", given="other")
def _compared(call: Call) -> Any:
    x, than, kind = call["self"], call.constant(call.given["other"]), call.node.name[:2]
    ask = _maxima(call).above if kind in ("gt", "le") else _maxima(call).below
    found = ask(x, than)
    return [found if kind in ("gt", "lt") else _not(found)]


@means("gt.Tensor", "lt.Tensor", "ge.Tensor", "le.Tensor", given="")
def _compared_with(call: Call) -> Any:
    apart, kind = call["self"] - call["other"], call.node.name[:2]
    found = _maxima(call).positive(apart if kind in ("gt", "le") else -apart)
    return [found if kind in ("gt", "lt") else _not(found)]


@means("logical_and", given="")
def _logical_and(call: Call) -> Any:
    return [call["self"] * call["other"]]


@means("where.self")
def _where(call: Call) -> Any:
    return [call.points.chosen(call["condition"], call["self"], call["other"])]


# -- the largest of some ---------------------------------------------------------------------------


@means("maximum", "minimum")
def _maximum(call: Call) -> Any:
    sign = _ONE if call.node.name == "maximum" else exactly(Fraction(-1))
    one, two = call["self"] * sign, call["other"] * sign
    for x, y in ((one, two), (two, one)):
        by = call.points.multiple(y, x)
        if by is not None and by.value != 1:  # whichever is more where x is, on either side of 0
            more = (x, y) if by.value < 1 else (y, x)
            return [call.points.chosen(_maxima(call).positive(x), *more) * sign]
    shape = torch.broadcast_shapes(one.shape, two.shape)
    places = [torch.arange(prod(p.shape)).view(p.shape).expand(shape) for p in (one, two)]
    places[1] = places[1] + prod(one.shape)
    found = _maxima(call).largest(one.view(-1).beside(two.view(-1)), torch.stack(places, -1))
    return [found * sign]


def _along(call: Call) -> tuple[Polynomial, Tensor]:
    """A tensor as a line, and where those lie in it of which one is asked for."""
    x, keepdim = call["self"], call.given.get("keepdim", False)
    places = torch.arange(prod(x.shape)).view(x.shape)
    dims = _dims(call, x)
    kept = [d for d in range(len(x.shape)) if d not in dims]
    lines = places.permute(*kept, *dims).reshape(*(x.shape[d] for d in kept), -1)
    for d in sorted(dims) if keepdim else ():
        lines = lines.unsqueeze(d)
    return x.view(-1), lines


@means("amax", "max", "max.dim", given="dim keepdim")
def _amax(call: Call) -> Any:
    return [_maxima(call).largest(*_along(call)), *call.rest()]


@means("amin", "min", "min.dim", given="dim keepdim")
def _amin(call: Call) -> Any:
    return [_maxima(call).smallest(*_along(call)), *call.rest()]


@means(
    "max_pool2d_with_indices", "max_pool3d_with_indices",
    given="kernel_size stride padding dilation ceil_mode",
)  # fmt: skip
def _max_pool(call: Call) -> Any:
    x, d = call["self"], int(call.node.name[8])
    kernel = aten.each(call.given["kernel_size"], d)
    stride = aten.each(call.given.get("stride") or kernel, d)
    padding, dilation = (aten.each(call.given.get(name, k), d) for name, k in
                         (("padding", 0), ("dilation", 1)))  # fmt: skip
    places = torch.arange(prod(x.shape)).view(x.shape)
    lead = len(x.shape) - d
    for axis in range(d):  # the windows along an axis, and behind all axes what is within them
        n, count = x.shape[lead + axis], call.node.shapes[0][lead + axis]
        start = torch.arange(count)[:, None] * stride[axis] - padding[axis]
        rows = start + torch.arange(kernel[axis]) * dilation[axis]
        found = places.movedim(lead + axis, -1)[..., rows.clamp(0, n - 1)]
        places = torch.where((rows >= 0) & (rows < n), found, -1).movedim(-2, lead + axis)
    lines = places.flatten(lead + d)
    return [_maxima(call).largest(x.view(-1), lines), *call.rest()]


@means("_to_copy", given="dtype")
def _to_copy(call: Call) -> Any:
    if call.given.get("dtype") not in (torch.float32, torch.float64):
        raise NoMeaning
    return [call["self"]]  # of truths, which are numbers in either


# -- along axes ------------------------------------------------------------------------------------


def _dims(call: Call, x: Polynomial) -> list[int]:
    """The axes that are asked for, all of them where none is."""
    dims = call.given.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(x.shape)))
    return [d % max(len(x.shape), 1) for d in dims]


def _count(x: Polynomial, dims: list[int]) -> int:
    return prod(x.shape[d] for d in dims) if x.shape else 1


def _mean(x: Polynomial, dims: list[int], *, keepdim: bool) -> Polynomial:
    count = _count(x, dims)
    if not count:
        raise NoMeaning
    return x.sum(dims, keepdim=keepdim) * exactly(Fraction(1, count))


@means("sum", "sum.dim_IntList", given="dim keepdim")
def _sum(call: Call) -> Any:
    x = call["self"]
    return [x.sum(_dims(call, x), keepdim=call.given.get("keepdim", False))]


@means("mean", "mean.dim", given="dim keepdim")
def _of_mean(call: Call) -> Any:
    x = call["self"]
    return [_mean(x, _dims(call, x), keepdim=call.given.get("keepdim", False))]


def _variance(call: Call) -> Polynomial:
    x = call["self"]
    dims, keepdim = _dims(call, x), call.given.get("keepdim", False)
    apart = x - _mean(x, dims, keepdim=True)
    left = _count(x, dims) - call.given.get("correction", 1)
    if left <= 0 or left != int(left):
        raise NoMeaning
    return (apart * apart).sum(dims, keepdim=keepdim) * exactly(Fraction(1, int(left)))


@means("var.correction", given="dim correction keepdim")
def _var(call: Call) -> Any:
    return [_variance(call)]


@means("var_mean.correction", given="dim correction keepdim")
def _var_mean(call: Call) -> Any:
    return [_variance(call), *_of_mean(call)]


@means("std.correction", given="dim correction keepdim")
def _std(call: Call) -> Any:
    return [_root(call, _variance(call))]


@means("cumsum", given="dim")
def _cumsum(call: Call) -> Any:
    return [call["self"].added_up(lambda t: t.cumsum(call.given["dim"]))]


@means("index_add", given="dim index alpha")
def _index_add(call: Call) -> Any:
    index, dim = call.given.get("index"), call.given["dim"]
    if index is None:
        raise NoMeaning
    source = call["source"] * call.constant(call.given.get("alpha", 1))
    start = torch.zeros(call["self"].shape, dtype=torch.float64)
    return [call["self"] + source.added_up(lambda t: start.index_add(dim, index.cpu(), t))]


@means("scatter_add", given="dim index")
def _scatter_add(call: Call) -> Any:
    index, dim = call.given.get("index"), call.given["dim"]
    if index is None:
        raise NoMeaning
    start = torch.zeros(call["self"].shape, dtype=torch.float64)
    put = call["src"].added_up(lambda t: start.scatter_add(dim, index.cpu(), t))
    return [call["self"] + put]


@means("index_put", given="indices accumulate")
def _index_put(call: Call) -> Any:
    named = [p for name, p in call.tensors.items() if name.startswith("indices")]
    if not call.given.get("accumulate") or any(p.height.degree for p in named):
        raise NoMeaning  # or a move; or data say where
    places = [at if at is None else at.cpu() for at in call.given["indices"]]
    start = torch.zeros(call["self"].shape, dtype=torch.float64)
    put = torch.ops.aten.index_put
    return [call["self"] + call["values"].added_up(lambda t: put(start, places, t, True))]


def _in_range(call: Call, x: Polynomial) -> Polynomial:
    """An exponential that never overflows, for the largest is taken off: no bare one is it."""
    return call.atom("exp of what is largest at 0", x)


def _softmax_of(call: Call, x: Polynomial, dim: int) -> Polynomial:
    e = _in_range(call, x)
    return e * _inverse(call, e.sum([dim], keepdim=True))


@means("_softmax", "_safe_softmax", given="dim half_to_float")
def _softmax(call: Call) -> Any:
    if call.given.get("half_to_float"):
        raise NoMeaning
    return [_softmax_of(call, call["self"], call.given["dim"])]


@means("_log_softmax", given="dim half_to_float")
def _log_softmax(call: Call) -> Any:
    if call.given.get("half_to_float"):
        raise NoMeaning
    x = call["self"]
    return [x - call.atom("log", _in_range(call, x).sum([call.given["dim"]], keepdim=True))]


@means("logsumexp", given="dim keepdim")
def _logsumexp(call: Call) -> Any:
    x = call["self"]
    e = _in_range(call, x).sum(_dims(call, x), keepdim=call.given.get("keepdim", False))
    return [call.atom("log", e)]


@means("_softmax_backward_data", given="dim input_dtype")
def _softmax_backward(call: Call) -> Any:
    g, y = call["grad_output"], call["output"]
    return [y * (g - (g * y).sum([call.given["dim"]], keepdim=True))]


# -- products --------------------------------------------------------------------------------------


@means("mm", "bmm", given="")
def _mm(call: Call) -> Any:
    return [product(call["self"], call["mat2"])]


@means("mv", given="")
def _mv(call: Call) -> Any:
    return [product(call["self"], call["vec"])]


@means("dot", given="")
def _dot(call: Call) -> Any:
    return [product(call["self"], call["tensor"])]


def _added(call: Call, made: Polynomial) -> Any:
    beta, alpha = (call.constant(call.given.get(name, 1)) for name in ("beta", "alpha"))
    return [call["self"] * beta + made * alpha]


@means("addmm", given="beta alpha")
def _addmm(call: Call) -> Any:
    return _added(call, product(call["mat1"], call["mat2"]))


@means("baddbmm", given="beta alpha")
def _baddbmm(call: Call) -> Any:
    return _added(call, product(call["batch1"], call["batch2"]))


@means("addmv", given="beta alpha")
def _addmv(call: Call) -> Any:
    return _added(call, product(call["mat"], call["vec"]))


def _weights(call: Call) -> tuple[Polynomial, Constant]:
    """How much each query hears of each key, and the factor of their products."""
    q, k, given = call["query"], call["key"], call.given
    if given.get("dropout_p") or given.get("is_causal") or q.shape[:-2] != k.shape[:-2]:
        raise NoMeaning
    scale = given.get("scale")
    factor = call.constant(q.shape[-1] ** -0.5 if scale is None else scale)
    logits = product(q, k.transposed()) * factor
    mask = call.get("attn_mask")
    return _softmax_of(call, logits if mask is None else logits + mask, -1), factor


@means(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
    given="dropout_p is_causal scale",
)  # fmt: skip
def _attention(call: Call) -> Any:
    weights, _ = _weights(call)
    return [product(weights, call["value"]), *call.rest()]


@means("_scaled_dot_product_flash_attention_for_cpu_backward", given="dropout_p is_causal scale")
def _attention_backward(call: Call) -> Any:
    weights, factor = _weights(call)
    g = call["grad_out"]
    heard = product(g, call["value"].transposed())
    back = weights * (heard - (heard * weights).sum([-1], keepdim=True)) * factor
    return [
        product(back, call["key"]),
        product(back.transposed(), call["query"]),
        product(weights.transposed(), g),
    ]


# -- convolutions ----------------------------------------------------------------------------------

_GEOMETRY = "stride padding dilation transposed output_padding groups"


def _geometry(call: Call) -> list[Any]:
    return [call.given[name] for name in _GEOMETRY.split()]


@means("convolution", given=f"bias {_GEOMETRY}")
def _convolution(call: Call) -> Any:
    geometry = _geometry(call)
    made = multilinear(
        lambda x, w: torch.convolution(x, w, None, *geometry), call["input"], call["weight"]
    )
    bias = call.get("bias")
    d = len(made.shape) - 2
    return [made if bias is None else made + bias.view(-1, *(1,) * d)]


@means("convolution_backward", given=f"bias_sizes {_GEOMETRY} output_mask")
def _convolution_backward(call: Call) -> Any:
    g, x, w = call["grad_output"], call["input"], call["weight"]
    asked, geometry = call.given["output_mask"], _geometry(call)

    def back(head: Tensor, one: Tensor, two: Tensor, which: int) -> Tensor:
        mask = [k == which for k in range(3)]
        run = torch.ops.aten.convolution_backward.default
        made: Tensor = run(head, one, two, None, *geometry, mask)[which]
        return made

    zeros = [torch.zeros(p.shape, dtype=torch.float64) for p in (x, w)]
    found = []
    if asked[0]:
        found.append(multilinear(lambda a, b: back(a, zeros[0], b, 0), g, w))
    if asked[1]:
        found.append(multilinear(lambda a, b: back(a, b, zeros[1], 1), g, x))
    if asked[2]:
        found.append(g.sum([0, *range(2, len(g.shape))]))
    return found


# -- norms -----------------------------------------------------------------------------------------


def _scaled(made: Polynomial, weight: Polynomial | None, bias: Polynomial | None) -> Polynomial:
    made = made if weight is None else made * weight
    return made if bias is None else made + bias


def _normed(call: Call, x: Polynomial, dims: list[int]) -> tuple[Polynomial, ...]:
    """Return x - m, m and r along some axes."""
    mean = _mean(x, dims, keepdim=True)
    apart = x - mean
    var = _mean(apart * apart, dims, keepdim=True) + call.constant(call.given["eps"])
    return apart, mean, _inverse(call, _root(call, var))


def _own_axes(call: Call, x: Polynomial) -> list[int]:
    """The last axes, of which a layer norm takes mean and variance."""
    return [*range(len(x.shape) - len(call.given["normalized_shape"]), len(x.shape))]


@means("native_layer_norm", given="normalized_shape weight bias eps")
def _layer_norm(call: Call) -> Any:
    x = call["input"]
    dims = _own_axes(call, x)
    apart, mean, r = _normed(call, x, dims)
    return [_scaled(apart * r, call.get("weight"), call.get("bias")), mean, r]


def _back(g: Polynomial, hat: Polynomial, r: Polynomial, dims: list[int]) -> Polynomial:
    """What comes back to x, of g that arrives at hat = (x - m) r."""
    along = hat * _mean(g * hat, dims, keepdim=True)
    return (g - _mean(g, dims, keepdim=True) - along) * r


@means("native_layer_norm_backward", given="normalized_shape weight bias output_mask")
def _layer_norm_backward(call: Call) -> Any:
    g, x, r, weight = call["grad_out"], call["input"], call["rstd"], call.get("weight")
    dims = _own_axes(call, x)
    hat, outer = (x - call["mean"]) * r, [*range(dims[0])]
    found = [
        _back(g if weight is None else g * weight, hat, r, dims),
        (g * hat).sum(outer) if outer else g * hat,
        g.sum(outer) if outer else g,
    ]
    return [p for p, asked in zip(found, call.given["output_mask"], strict=True) if asked]


def _by_groups(call: Call, p: Polynomial) -> Polynomial:
    n, c, rest, groups = (call.given[k] for k in ("N", "C", "HxW", "group"))
    return p.view(n, groups, c // groups, rest)


@means("native_group_norm", given="weight bias N C HxW group eps")
def _group_norm(call: Call) -> Any:
    x = call["input"]
    apart, mean, r = _normed(call, _by_groups(call, x), [2, 3])
    own = [p if p is None else p.view(1, -1, 1) for p in (call.get("weight"), call.get("bias"))]
    y = (apart * r).view(call.given["N"], call.given["C"], call.given["HxW"])
    n, groups = call.given["N"], call.given["group"]
    return [_scaled(y, *own).view(*x.shape), mean.view(n, groups), r.view(n, groups)]


@means("native_group_norm_backward", given="weight N C HxW group output_mask")
def _group_norm_backward(call: Call) -> Any:
    n, c, rest, groups = (call.given[k] for k in ("N", "C", "HxW", "group"))
    g, x, weight = call["grad_out"], call["input"], call.get("weight")
    mean, r = (call[name].view(n, groups, 1, 1) for name in ("mean", "rstd"))
    hat = (_by_groups(call, x) - mean) * r
    head = g.view(n, c, rest)
    scaled = head if weight is None else head * weight.view(1, -1, 1)
    found = [
        _back(_by_groups(call, scaled), hat, r, [2, 3]).view(*x.shape),
        (head * hat.view(n, c, rest)).sum([0, 2]),
        head.sum([0, 2]),
    ]
    return [p for p, asked in zip(found, call.given["output_mask"], strict=True) if asked]


_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training")


def _of_channels(p: Polynomial, rank: int) -> Polynomial:
    return p.view(-1, *(1,) * (rank - 2))


def _statistics(call: Call, rank: int) -> tuple[Polynomial, Polynomial]:
    """The mean that ran before, and r; in evaluation alone."""
    if _trains(call) or call.get("running_var") is None:
        raise NoMeaning
    mean, var = (_of_channels(call[f"running_{k}"], rank) for k in ("mean", "var"))
    return mean, _inverse(call, _root(call, var + call.constant(call.given["eps"])))


def _trains(call: Call) -> bool:
    return bool(call.given.get("training") or call.given.get("train"))


def _of_batch(call: Call, x: Polynomial) -> Any:
    """By the statistics of the batch, where nobody keeps them."""
    if call.get("running_mean") is not None:
        raise NoMeaning
    apart, mean, r = _normed(call, x, [0, *range(2, len(x.shape))])
    own = [
        p if p is None else _of_channels(p, len(x.shape))
        for p in (call.get("weight"), call.get("bias"))
    ]
    return [_scaled(apart * r, *own), mean.view(-1), r.view(-1)]


@means(*_NORMS, given="weight bias running_mean running_var training momentum eps")
def _batch_norm(call: Call) -> Any:
    x = call["input"]
    if _trains(call):
        return _of_batch(call, x)
    mean, r = _statistics(call, len(x.shape))
    own = [
        p if p is None else _of_channels(p, len(x.shape))
        for p in (call.get("weight"), call.get("bias"))
    ]
    return [_scaled((x - mean) * r, *own), *call.rest()]


@means(
    "native_batch_norm_backward",
    given="weight save_mean save_invstd train eps output_mask running_mean running_var",
)
def _batch_norm_backward(call: Call) -> Any:
    g, x, weight = call["grad_out"], call["input"], call.get("weight")
    rank = len(x.shape)
    outer = [0, *range(2, rank)]
    scaled = g if weight is None else g * _of_channels(weight, rank)
    if _trains(call):
        mean, r = (_of_channels(call[name], rank) for name in ("save_mean", "save_invstd"))
    else:
        mean, r = _statistics(call, rank)
    found = [
        _back(scaled, (x - mean) * r, r, outer) if _trains(call) else scaled * r,
        (g * (x - mean) * r).sum(outer),
        g.sum(outer),
    ]
    return [p for p, asked in zip(found, call.given["output_mask"], strict=True) if asked]


# -- parts of images -------------------------------------------------------------------------------


@means(
    "diagonal_backward", "unfold_backward", "col2im", "upsample_nearest1d_backward",
    "upsample_nearest2d_backward",
    given="input_sizes dim size step offset dim1 dim2 kernel_size dilation padding stride "
    "output_size input_size scales scales_h scales_w",
)  # fmt: skip
def _parts(call: Call) -> Any:
    again, (only,) = call.node.call, call.tensors.values()
    if again is None:
        raise NoMeaning
    return [only.added_up(again)]


_WINDOWS = "kernel_size stride padding ceil_mode count_include_pad divisor_override"


def _divisors(call: Call, size: Sequence[int]) -> Tensor:
    """By what a mean of windows divides the sum of each."""
    ones, pool = torch.ones(1, *size[-2:], dtype=torch.float64), torch.ops.aten.avg_pool2d.default
    share, there = pool(ones, **call.given), pool(ones, **call.given | {"divisor_override": 1})
    divisors: Tensor = (there / share).round().long()
    if not bool((divisors > 0).all()):
        raise NoMeaning
    return divisors


@means("avg_pool2d", given=_WINDOWS)
def _avg_pool(call: Call) -> Any:
    x, pool = call["self"], torch.ops.aten.avg_pool2d.default
    sums = x.added_up(lambda t: pool(t, **call.given | {"divisor_override": 1}))
    return [sums * call.points.fractions(_divisors(call, x.shape))]


@means("avg_pool2d_backward", given=_WINDOWS)
def _avg_pool_backward(call: Call) -> Any:
    g, size = call["grad_output"], call["self"].shape
    zeros, back = torch.zeros(size, dtype=torch.float64), torch.ops.aten.avg_pool2d_backward.default
    shares = g * call.points.fractions(_divisors(call, size))
    named = {"padding": 0, "ceil_mode": False, "count_include_pad": True} | call.given
    return [shares.added_up(lambda t: back(t, zeros, **named | {"divisor_override": 1}))]


def _windows(
    size: Sequence[int], output_size: Sequence[int]
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Which rows and which columns each mean is of, (means, pixels), and of how many pixels."""
    within, counts = list[Tensor](), list[Tensor]()
    for n, m in zip(size, output_size, strict=True):
        place = torch.arange(n)
        ends = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        within.append(torch.stack([(a <= place) & (place < b) for a, b in ends]).double())
        counts.append(torch.tensor([b - a for a, b in ends]))
    return (within[0], within[1]), counts[0][:, None] * counts[1]


@means("_adaptive_avg_pool2d", given="output_size")
def _adaptive(call: Call) -> Any:
    x = call["self"]
    (high, wide), counts = _windows(x.shape[-2:], call.given["output_size"])
    return [x.added_up(lambda t: high @ t @ wide.T) * call.points.fractions(counts)]


@means("_adaptive_avg_pool2d_backward")
def _adaptive_backward(call: Call) -> Any:
    g = call["grad_output"]
    (high, wide), counts = _windows(call["self"].shape[-2:], g.shape[-2:])
    return [(g * call.points.fractions(counts)).added_up(lambda t: high.T @ t @ wide)]
