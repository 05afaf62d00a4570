"""Operators that work on one element at a time, whatever its axes are called: y[n] = f(x[n], ...).

Operands are broadcast by names: a gate (B, C, 1, 1) is a readout node that talks back, a weight
(C, 1, 1) speaks to every node alike. In-place operators write into the rows.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.backends.compiled import memory
from convgraph.convert import names
from convgraph.convert.align import align, expanded
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.node_pairs import PairSites
from convgraph.convert.operators import operator
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial

NAMES = (
    "abs", "acos", "acosh", "add", "addcdiv", "addcmul", "alias", "angle", "asin", "asinh", "atan",
    "atan2", "atanh", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "celu",
    "clamp", "clamp_max", "clamp_min", "clip", "clone", "contiguous", "copysign", "cos", "cosh",
    "detach", "div", "elu", "eq", "erf", "erfc", "exp", "exp2", "expm1", "fill", "float_power",
    "floor", "floor_divide", "fmax", "fmin", "fmod", "frac", "ge", "gelu", "gt", "hardshrink",
    "hardsigmoid", "hardswish", "hardtanh", "heaviside", "hypot", "isfinite", "isinf", "isnan",
    "le", "leaky_relu", "lerp", "lgamma", "log", "log10", "log1p", "log2", "log_sigmoid",
    "logaddexp", "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "lt",
    "masked_fill", "maximum", "minimum", "mish", "mul", "nan_to_num", "ne", "neg", "pow",
    "reciprocal", "relu", "relu6", "remainder", "round", "rsqrt", "rsub", "selu", "sigmoid", "sign",
    "silu", "sin", "sinc", "sinh", "softplus", "softshrink", "sqrt", "square", "sub",
    "tan", "tanh", "threshold", "trunc", "where", "xlogy", "zero", "lift_fresh_copy", "sgn",
    "positive", "resolve_conj", "resolve_neg", "conj", "__and__", "__or__", "__xor__", "logaddexp2",
    "i0", "digamma", "erfinv", "special_logit", "special_expit", "special_erf", "special_log1p",
    "lift_fresh", "fake_quantize_per_tensor_affine", "quantize_per_tensor",
    "isclose", "isposinf", "isneginf", "nextafter", "ldexp", "signbit", "deg2rad", "rad2deg",
    "detach_copy", "bitwise_left_shift", "bitwise_right_shift", "__lshift__", "__rshift__",
    "conj_physical", "dequantize", "frexp", "gcd", "lcm", "igamma", "igammac", "mvlgamma",
    "polygamma", "special_entr", "special_erfcx", "special_i0e", "special_i1", "special_i1e",
    "special_ndtri", "special_log_ndtr", "special_xlog1py", "special_zeta", "special_bessel_j0",
    "special_bessel_j1", "true_divide", "complex", "polar", "_conj", "_neg_view", "_conj_physical",
    "_prelu_kernel",
)  # fmt: skip

DRAWN = (
    "bernoulli", "normal", "uniform", "exponential", "random", "cauchy", "geometric", "log_normal",
    "rrelu", "dropout", "alpha_dropout", "native_dropout",
)  # fmt: skip
"""Those that draw random numbers, or may."""

IN_PLACE = (
    *(f"{name}_" for name in (*NAMES, *DRAWN) if not name.startswith("_")),
    "__ilshift__", "__irshift__", "copy_",
)  # fmt: skip

_LIKE = (
    "ones_like", "zeros_like", "full_like", "empty_like", "rand_like", "randn_like",
    "randint_like",
)  # fmt: skip
"""New maps of the same nodes, at which no message arrives."""


@rule(*NAMES, *DRAWN)
def pointwise(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Broadcast by names and call the operator."""
    x = args[0]
    if call.name == "where" and len(args) == 1:
        return call.target(x.tensor())  # as nonzero
    alone = isinstance(x, Spatial) and not kwargs
    if alone and all(not isinstance(one, (Spatial, Tensor)) for one in args[1:]):
        return _wrapped(call.target(x.x, *map(_no_format, args[1:])), x.sites, x.axes)
    moved, named, sites, axes = _aligned(args, kwargs)
    if isinstance(sites, PairSites) and any(_is_of_nodes(one) for one in args):
        call.travelled("all")
    return _wrapped(call.target(*moved, **named), sites, axes)


def _is_of_nodes(one: Any) -> bool:
    """Whether rows are nodes, no pairs of them."""
    return isinstance(one, Spatial) and not isinstance(one.sites, PairSites)


def _aligned(args: Any, kwargs: Any) -> Any:
    """Operands by place and by name, broadcast by names, and where they live."""
    moved, sites, axes = align([*args, *map(_no_format, kwargs.values())])
    named = dict(zip(kwargs, moved[len(args) :], strict=True))
    return moved[: len(args)], named, sites, axes


@rule("tril", "triu")
def triangle(call: Any, x: Spatial, diagonal: int = 0) -> Any:
    """What lies on one side of a diagonal of the last two axes; all else says 0."""
    kept = call.target(torch.ones(x.shape[-2:], dtype=torch.bool, device=x.x.device), diagonal)
    return pointwise(operator(torch.ops.aten.where.self), kept, x, x.x.new_zeros(()))


@rule("bucketize", "searchsorted", "isin")
def bins(call: Any, x: Any, other: Any, **more: Any) -> Any:
    """In which bin of one line of boundaries each entry lies, or whether it is one of a line."""
    found, line = (other, x) if call.name == "searchsorted" else (x, other)
    if isinstance(line, Spatial) or not isinstance(line, Tensor) or line.dim() != 1:
        raise NoRuleError("its boundaries are no single line")
    pair = (line, found.x) if call.name == "searchsorted" else (found.x, line)
    return found.with_x(call.target(*pair, **more))


@rule("fake_quantize_per_channel_affine", "fused_moving_avg_obs_fake_quant", hop="all")
def quantized(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Rounded to a few levels, each channel to its own; an observer sees the nodes."""
    if not isinstance(x, Spatial):
        raise NoRuleError("its levels are a map's, and what it rounds is none")
    given = call.named(x, *args, **kwargs)
    axis = "ch_axis" if "ch_axis" in given else "axis"
    if given.get("per_row_fake_quant", True):
        dim = names.place(given[axis], len(x.axes))
        x = x.merged(dim)
        given[axis] = x.slot(dim)
    return x.with_x(call.target(**given | {"self": x.x}))


@rule("equal")
def equal(call: Any, x: Any, other: Any) -> bool:
    """Whether two say the same at every node, of which maps have the same."""
    if tuple(x.shape) != tuple(other.shape):
        return False
    (a, b), sites, axes = align([x, other])
    alike = all(one.sites is sites for one in (x, other) if isinstance(one, Spatial))
    return alike and bool(call.target(expanded(a, sites, axes), expanded(b, sites, axes)))


@rule("allclose")
def near(call: Any, x: Any, other: Any, *more: Any, **named: Any) -> bool:
    """Whether two maps say nearly the same; what one of them lacks says 0."""
    (a, b), sites, axes = align([x, other])
    close: bool = call.target(expanded(a, sites, axes), expanded(b, sites, axes), *more, **named)
    return close


@rule("linalg_cross", "cross")
def cross(call: Any, x: Any, other: Any, *, dim: int | None = -1) -> Any:
    """Of the vectors that each node holds along one plain axis."""
    (a, b), sites, axes = align([x, other])
    dim = names.place(-1 if dim is None else dim, len(axes))
    if len(axes[dim]) != 1 or axes[dim][0].kind != "plain":
        raise NoRuleError("its vectors lie along no plain axis")
    slot = names.slots(axes)[dim].start
    rows = torch.linalg.cross(expanded(a, sites, axes), expanded(b, sites, axes), dim=slot)
    return Spatial(rows, sites, axes)


@rule(
    "linalg_inv_ex", "linalg_cholesky_ex", "linalg_qr", "linalg_matrix_exp", "linalg_eig",
    "_linalg_det", "_linalg_slogdet", "_linalg_eigh", "_linalg_eigvals", "_linalg_svd",
)  # fmt: skip
def matrices(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """Of the matrix that each node holds: its inverse, determinant, values, vectors, factors."""
    *lead, high, wide = x.axes
    if not (names.is_plain(high) and names.is_plain(wide)):
        raise NoRuleError("its matrices are made of pixels")
    x = x.merged(len(lead)).merged(len(lead) + 1)
    out, count = call.target(x.x, *args, **kwargs), x.slot(len(lead))
    parts = [out] if isinstance(out, Tensor) else out
    found = [
        Spatial(one, x.sites, (*lead, *((Name("plain", n),) for n in one.shape[count:])))
        for one in parts
    ]
    return found[0] if isinstance(out, Tensor) else tuple(found)


@rule("_linalg_check_errors")
def checked(call: Any, info: Spatial, *args: Any, **kwargs: Any) -> None:
    """Let torch refuse a matrix of a node that has no inverse, or no factor."""
    call.target(info.x.flatten(), *args, **kwargs | {"is_matrix": False})


@rule("diag_embed")
def on_diagonal(call: Any, x: Spatial, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Spatial:
    """The matrix of every node whose diagonal is a plain last axis."""
    if (dim1, dim2) != (-2, -1) or not names.is_plain(x.axes[-1]):
        raise NoRuleError("its diagonals are made of pixels, or no last axes")
    x = x.merged(len(x.axes) - 1)
    rows = call.target(x.x, offset)
    return Spatial(rows, x.sites, (*x.axes[:-1], *[(Name("plain", rows.shape[-1]),)] * 2))


@rule(*_LIKE, hop="nothing")
def like(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """New rows for the same nodes."""
    kwargs = {key: _no_format(one) for key, one in kwargs.items()}
    return _wrapped(call.target(x.x, *map(_no_format, args), **kwargs), x.sites, x.axes)


def _no_format(one: Any) -> Any:
    """Memory formats are an image's; rows have one way to lie."""
    return torch.contiguous_format if isinstance(one, torch.memory_format) else one


def _wrapped(out: Any, sites: Any, axes: Any) -> Any:
    if isinstance(out, (tuple, list)):
        return tuple(_wrapped(one, sites, axes) for one in out)
    return Spatial(expanded(out, sites, axes), sites, axes)


@rule("to", "_to_copy", "type_as")
def to(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Another dtype or device; of a second map nothing else is asked."""
    args = tuple(map(_like_rows, args))
    kwargs = {key: _like_rows(one) for key, one in kwargs.items()}
    if not isinstance(x, Spatial):
        call.travelled("nothing")
        return call.target(x, *args, **kwargs)
    out = call.target(x.x, *args, **kwargs)
    sites = x.sites if out.device == x.x.device else x.sites.to(out.device)
    return Spatial(out, sites, x.axes)


def _like_rows(one: Any) -> Any:
    """Rows where a map is asked for its dtype and device."""
    return one.x if isinstance(one, Spatial) else _no_format(one)


@rule(*IN_PLACE)
def in_place(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Write into the rows of the first operand; where others live on more sites, on all of them."""
    x = args[0]
    (mine, *others), named, sites, axes = _aligned(args, kwargs)
    shape = expanded(mine, sites, axes).shape
    held = mine.shape == shape and memory(mine) == memory(x.x)
    if not held:
        mine = expanded(mine, sites, axes).clone()
    out = call.target(mine, *others, **named)
    if held:
        return x.with_x(x.x)  # the rows themselves: without grad, a view of them has no history
    rows = out if sites is not x.sites else out.reshape(x.x.shape)
    return Spatial(rows, sites, axes if sites is not x.sites else x.axes)
