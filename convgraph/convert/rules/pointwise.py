"""Operators that work on one element at a time, whatever its axes are called: y[n] = f(x[n], ...).

Operands are broadcast by names: a gate (B, C, 1, 1) is a readout node that talks back, a weight
(C, 1, 1) speaks to every node alike. In-place operators write into the rows.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert.align import align
from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial

_NAMES = (
    "abs", "acos", "acosh", "add", "addcdiv", "addcmul", "alias", "asin", "atan", "atan2",
    "bitwise_and", "bitwise_not", "bitwise_or", "ceil", "celu", "clamp", "clamp_max",
    "clamp_min", "clone", "contiguous", "cos", "cosh", "detach", "div", "dropout", "elu", "eq",
    "erf", "exp", "expm1", "fill", "fmod", "floor", "floor_divide", "frac", "ge", "gelu", "gt",
    "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "le", "leaky_relu", "lerp", "log",
    "log10", "log1p", "log2", "log_sigmoid", "logical_and", "logical_not", "logical_or",
    "logit", "lt", "maximum", "minimum", "masked_fill", "mish", "mul", "nan_to_num", "ne",
    "neg", "ones_like", "pow", "reciprocal", "relu", "relu6", "remainder", "round", "rsqrt",
    "rsub", "rrelu", "selu", "sigmoid", "sign", "silu", "sin", "sinh", "softplus", "softshrink",
    "softsign", "sqrt", "square", "sub", "tan", "tanh", "threshold", "to", "trunc", "where",
    "xlogy", "zero", "zeros_like", "full_like", "empty_like", "alpha_dropout", "bernoulli",
    "rand_like", "randn_like", "_to_copy", "type_as", "lift_fresh_copy", "isnan", "isinf",
    "native_dropout", "copy",
)  # fmt: skip

IN_PLACE = tuple(f"{name}_" for name in _NAMES)


@rule(*_NAMES)
def pointwise(run: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
    """Broadcast by names and call the operator."""
    keys = list(kwargs)
    moved, sites, axes = align([*args, *kwargs.values()], run.root)
    kwargs = dict(zip(keys, moved[len(args) :], strict=True))
    out = step.target(*moved[: len(args)], **kwargs)
    if isinstance(out, (tuple, list)):
        return tuple(_wrapped(one, sites, axes) for one in out)
    return _wrapped(out, sites, axes)


def _wrapped(out: Tensor, sites: Any, axes: Any) -> Spatial:
    if out.dim() and out.shape[0] != sites.num_nodes:
        out = out.expand(sites.num_nodes, *out.shape[1:])
    return Spatial(out, sites, axes)


@rule(*IN_PLACE)
def in_place(run: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
    """Write into the rows of the first operand."""
    if not isinstance(args[0], Spatial):
        raise NoRuleError("a map is written into an ordinary tensor")
    before = args[0].x
    keys = list(kwargs)
    moved, sites, axes = align([*args, *kwargs.values()], run.root)
    if not run.planning and moved[0].data_ptr() != before.data_ptr():
        raise NoRuleError("a map is written into one of another size")
    kwargs = dict(zip(keys, moved[len(args) :], strict=True))
    return Spatial(step.target(*moved[: len(args)], **kwargs), sites, axes)


@rule("prelu")
def prelu(run: Any, step: Any, x: Spatial, weight: Tensor) -> Any:
    """Slope by channel, axis 1."""
    if weight.numel() > 1:
        weight = weight.view(-1, *(1,) * (len(x.axes) - 2))
        (rows, slope), sites, axes = align([x, weight], run.root)
        return Spatial(rows.where(rows > 0, slope * rows), sites, axes)
    return x.with_x(step.target(x.x, weight))


@rule("feature_dropout", "feature_alpha_dropout", "feature_dropout_", "feature_alpha_dropout_")
def feature_dropout(run: Any, step: Any, x: Spatial, p: float, train: bool) -> Any:
    """Whole channels of an image at once: drawn for (B, C, 1, ...), heard by every node."""
    if not train or p == 0:
        return x
    if "alpha" in step.operator or not x.is_image():
        raise NoRuleError("it drops channels that are not an image's")
    shape = (x.sites.batch_size, x.x.flatten(1).shape[1], *(1,) * run.root.d)
    drawn = torch.feature_dropout(x.x.new_ones(shape), p, True)
    (rows, gate), sites, axes = align([x, drawn], run.root)
    return Spatial(rows.mul_(gate) if step.operator.endswith("_") else rows * gate, sites, axes)
