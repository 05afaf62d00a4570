"""Rows picked by an index, in bags of one row or of none: what a hole reads costs no copy of x."""

from typing import Any

import torch
from torch import Tensor

Ints = tuple[int, ...]


def packed(
    index: Tensor,  # (cells,) the row in each cell, `none` where none is
    none: int,
) -> Tensor:
    """Append what the CPU reads instead: where each cell's rows begin among those that are there.

    A bag of one row or none is one pass; a row of zeros for the holes would have to be appended to
    x at every call.
    """
    if index.device.type != "cpu":
        return index
    there = index < none
    return torch.cat([index, index.new_zeros(1), there.cumsum(0), index[there]])


def bags(
    x: Tensor,  # (n, C)
    rows: Tensor,  # (picked,)
    ptr: Tensor,  # (bags + 1,) offsets in rows
) -> Tensor:
    """Return (bags, C), the sum of each bag's rows of x in their order; an empty one gives 0."""
    plain: tuple[Any, ...] = (False, 0, False, None, True)
    found: Tensor = torch.ops.aten._embedding_bag_forward_only.default(x, rows, ptr, *plain)[0]
    return found


def with_hole(rows: Tensor) -> Tensor:
    """Append the row of zeros that holes read."""
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
