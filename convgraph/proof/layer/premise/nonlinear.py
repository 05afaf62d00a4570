"""Operators that are not linear in data, by name; what is in no table is unknown."""

from typing import Any

import torch

from convgraph.proof.layer.premise.degrees import Bound

_NOT_LINEAR = frozenset({
    "abs", "relu", "clamp", "clamp_min", "clamp_max", "clip", "round", "floor", "ceil", "trunc",
    "frac", "sign", "sgn", "sqrt", "rsqrt", "square", "pow", "exp", "log", "sigmoid", "tanh",
    "max", "min", "amax", "amin", "aminmax", "argmax", "argmin", "maximum", "minimum", "fmax",
    "fmin", "sort", "argsort", "topk", "kthvalue", "median", "nanmedian", "mode", "msort",
    "searchsorted", "bucketize", "cummax", "cummin", "cumprod", "prod", "logsumexp",
    "logcumsumexp", "softmax", "_softmax", "log_softmax", "_log_softmax", "std", "var",
    "std_mean", "var_mean", "norm", "linalg_vector_norm", "native_norm", "renorm", "dist",
    "cdist", "_cdist_forward", "_pdist_forward", "native_batch_norm", "_native_batch_norm_legit",
    "_batch_norm_with_update", "cudnn_batch_norm", "native_layer_norm", "native_group_norm",
    "_fused_rms_norm", "native_batch_norm_backward", "native_layer_norm_backward",
    "native_group_norm_backward", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "fractional_max_pool2d", "fractional_max_pool3d", "any", "all", "isin", "gelu", "silu",
    "elu", "leaky_relu", "hardtanh", "hardsigmoid", "hardswish", "softplus", "softshrink",
    "hardshrink", "threshold", "threshold_backward", "_prelu_kernel", "nan_to_num", "nansum",
    "isnan", "isinf", "isposinf", "isneginf", "eq", "ne", "lt", "le", "gt", "ge", "logical_not",
    "logical_and", "logical_or", "logical_xor", "remainder", "fmod", "floor_divide",
    "reciprocal", "copysign", "heaviside", "nextafter", "bernoulli", "multinomial",
    "index_reduce", "det", "_linalg_det", "linalg_inv_ex", "view_dtype",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
    "fake_quantize_per_tensor_affine",
})  # fmt: skip

_POINTWISE_LINEAR = frozenset({"lerp", "addcdiv"})
"""Tagged as elementwise, and linear in some of their arguments."""


def why_not(func: Any, name: str, bounds: list[Bound | None]) -> tuple[str, str]:
    """Return the status and the reason for an operator without a rule."""
    degrees = [", ".join(b.spelled()) for b in bounds if b is not None and b.terms]
    of = f"data of degree {' and '.join(degrees)}" if degrees else "data"
    if name in _NOT_LINEAR or (torch.Tag.pointwise in func.tags and name not in _POINTWISE_LINEAR):
        return "refuted", f"{name} of {of} is not linear"
    return "undecided", (
        f"{name} of {of} is an operator that the judge has no rule for; write it with products, "
        "sums and gathers, or wrap it as a custom operator and name that in trust="
    )
