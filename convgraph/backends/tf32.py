"""TF32: whether torch allows a float32 convolution operands of 11 bits on CUDA.

Newer torch says so through `fp32_precision` (after which reading `allow_tf32` raises), older torch
through `allow_tf32`. What it says of convolutions holds for our own kernels: a graph convolution
is one.
"""

from typing import Any

import torch


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def allowed() -> bool:
    """Whether convolutions may use TF32 now; by default they may, as torch's own do."""
    cudnn: Any = torch.backends.cudnn
    precision = getattr(getattr(cudnn, "conv", None), "fp32_precision", None)
    return bool(cudnn.allow_tf32) if precision is None else precision == "tf32"
