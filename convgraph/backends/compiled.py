"""What a compiler is given in place of what runs: no writes in place, no function within itself.

torch 2.11's dynamo answers a write into the output of an autograd function with gradients of 0, and
takes no autograd function within its own backward. Neither is needed there: compilers turn writes
into copies anyway, and stop at the first derivative. May import nothing of convgraph.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def within_backward(function: Any) -> Callable[..., Tensor]:
    """Return the operator of an autograd function for use in a backward.

    It has a backward of its own, for derivatives of any order; a compiler gets the plain sums.

    Args:
        function: a subclass of torch.autograd.Function with a forward that takes no ctx.
    """
    operator: Callable[..., Tensor] = function.apply
    return function.forward if torch.compiler.is_compiling() else operator


def add_rows(
    total: Tensor,  # (P, C)
    where: Tensor,  # (n,)
    rows: Tensor,  # (n, C)
    *,
    distinct: bool,
) -> Tensor:
    """Return total with rows added at `where`, in place unless a compiler looks on.

    Args:
        total: what the caller has just made.
        where: rows of total.
        rows: what to add.
        distinct: whether no row of total is named twice; else, on CUDA, the additions are sorted,
            where atomics would race.
    """
    compiling = torch.compiler.is_compiling()
    if distinct or total.device.type != "cuda":
        add = total.index_add if compiling else total.index_add_
        return add(0, where, rows)
    put = total.index_put if compiling else total.index_put_
    return put((where,), rows, accumulate=True)
