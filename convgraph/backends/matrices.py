"""What backends make of a layer's weight: a matrix a tap, 0 where no tap is, half types widened."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.problem import Problem, kernel_of
from convgraph.backends.rows import HALF
from convgraph.graph.edges import Edges

Conv = Callable[[Tensor, Tensor, Tensor | None, Any, Problem], Tensor]
"""conv(x, weight, bias, edges, problem) -> y: what every backend of a convolution has."""


def of_taps(weight: Tensor, groups: int, *, transposed: bool) -> Tensor:
    """Return (K, G, C_in / G, C_out / G): one matrix per edge type and group, a view of weight.

    Args:
        weight: (C_out, C_in / G, *kernel) or, transposed, (C_in, C_out / G, *kernel).
        groups: G.
        transposed: which of the two layouts.
    """
    flat = weight.flatten(2)
    blocks = flat.view(groups, flat.shape[0] // groups, *flat.shape[1:])
    return blocks.permute(3, 0, 1, 2) if transposed else blocks.permute(3, 0, 2, 1)


def there(weight: Tensor, edges: Edges) -> Tensor:
    """Return the weight with 0 at the taps that the kernel's footprint leaves out."""
    if edges.footprint is None:
        return weight
    mask = edges.memo_of(_footprint).view(edges.relation.kernel_size)  # type: ignore[attr-defined]
    return torch.where(mask, weight, 0)


def _footprint(edges: Edges) -> Tensor:
    """(taps,) bool on the device of the sites."""
    return torch.tensor(kernel_of(edges).footprint, device=edges.source.device)


def widened(conv: Conv) -> Conv:
    """Let a backend compute half types in float32, and round once at the end."""

    @wraps(conv)
    def wide(
        x: Tensor, weight: Tensor, bias: Tensor | None, edges: Any, problem: Problem
    ) -> Tensor:
        if x.dtype not in HALF:
            return conv(x, weight, bias, edges, problem)
        bias = None if bias is None else bias.float()
        return conv(x.float(), weight.float(), bias, edges, problem).to(x.dtype)

    return wide
