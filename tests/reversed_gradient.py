"""A user's function whose forward is right and whose backward is reversed."""

from typing import Any

import torch
from torch import Tensor


class Reversed(torch.autograd.Function):
    """y = x; the gradient is that of -x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad
