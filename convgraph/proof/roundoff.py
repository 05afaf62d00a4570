"""The unit roundoff, and the bound on a sum of products in any order."""

from typing import Any

import numpy as np
import torch

from convgraph.door import door

HALF = (torch.float16, torch.bfloat16)
LONG_LIMIT = 30_000_000
"""Multiply-adds up to which a float64 result is also held against extended precision."""


@door
def unit_roundoff(dtype: torch.dtype) -> float:
    """Return u of a dtype: half the distance from 1 to the next number.

    Example:
        >>> unit_roundoff(torch.float64) == 2.0**-53
        True
    """
    return torch.finfo(dtype).eps / 2


U11 = 2.0**-11
"""Unit roundoff of TF32's operands, which keep 11 bits."""


@door
def dot_bound(
    terms: Any, dtype: torch.dtype, magnitude: Any, *, tf32: bool = False, within: bool = False
) -> Any:
    """Bound the error of a sum of products, or of a sum, in any order.

    Args:
        terms: n, products plus one if something is added to them; a number or an array.
        dtype: of operands and result.
        magnitude: the sum of the absolute values of the exact products, (...) float64.
        tf32: whether both operands of each product are first rounded to 11 bits, which adds
            2 u11 + u11^2 and enlarges what is summed by (1 + u11)^2; u11 = 2^-11. Conditional: on
            rounding to nearest, and on sums in float32.
        within: whether half types are summed in themselves, as much torch code does.

    Returns:
        (...) float64, the most by which the computed sum can be off. Infinite where n u >= 1.

    Example:
        >>> float(dot_bound(10, torch.float64, 1.0)) < 1.2e-15
        True
    """
    inner = torch.float32 if dtype in HALF and not within else dtype
    u, tiny = unit_roundoff(inner), torch.finfo(inner).smallest_normal * torch.finfo(inner).eps
    size = np.asarray(magnitude, dtype=np.float64)
    count = np.asarray(terms, dtype=np.float64)
    operands, grown = (2 * U11 + U11**2, (1 + U11) ** 2) if tf32 else (0.0, 1.0)
    relative = operands + count * u * grown
    error = np.where(count * u < 1, relative * size + count * tiny, np.inf)
    if dtype in HALF:
        least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        error = error + unit_roundoff(dtype) * (size + error) + least
    # `magnitude` was itself summed in float64, of positive terms: off by a factor n u at most.
    return error * (1 + (count + 8) * unit_roundoff(torch.float64))
