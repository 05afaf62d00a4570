"""Operators on magnitudes: absolute constants, minus as plus.

Run on ones, a program of products and sums then counts what it puts together: each entry comes out
as the sum of the absolute values of everything that was added to it, terms that cancel included.
Where that is the number of the operator's own products, there is nothing else in it.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from convgraph.proof import trees

_MINUS = {"sub": "add", "subtract": "add"}


def run(func: Any, name: str, args: Any, kwargs: Any, kept: set[int]) -> Any:
    """Run one operator of the premise on magnitudes.

    Args:
        func: the operator's overload.
        name: without namespace, overload and underscore.
        args: positional arguments; data hold no negative entries.
        kwargs: keyword arguments.
        kept: ids of the tensors that are handed on as they are: data, and what is written to.
    """
    if func.is_view:
        return func(*args, **kwargs)
    if name in ("neg", "negative"):
        return args[0] if func._schema.is_mutable else args[0].clone()

    def absolute(value: Any) -> Any:
        constant = isinstance(value, Tensor) and value.dtype.is_floating_point
        return value.abs() if constant and id(value) not in kept else value

    numbers = _numbers(func)
    args = tuple(
        abs(value) if place in numbers and _is_number(value) else trees.mapped(absolute, value)
        for place, value in enumerate(args)
    )
    kwargs = {
        key: abs(value) if key in numbers and _is_number(value) else trees.mapped(absolute, value)
        for key, value in kwargs.items()
    }
    if name == "rsub":
        return torch.add(args[0] * kwargs.get("alpha", (*args[2:], 1)[0]), args[1])
    return _plus(func, name)(*args, **kwargs)


def keep_support(made: Tensor) -> None:
    """Leave 1 of what is not 0: half types cannot count, but say which entries are always 0.

    Example:
        >>> ones = torch.tensor([0.0, 3.0, torch.inf, torch.nan], dtype=torch.float16)
        >>> keep_support(ones)
        >>> ones
        tensor([0., 1., 1., nan], dtype=torch.float16)
    """
    if made.is_floating_point() and made.layout == torch.strided:
        made.masked_fill_((made != 0) & ~made.isnan(), 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@cache
def _numbers(func: Any) -> frozenset[Any]:
    """Places and names of the arguments that are scalars of the computation, no sizes or axes."""
    found: set[Any] = set()
    for place, argument in enumerate(func._schema.arguments):
        if str(argument.type) in ("number", "Optional[number]"):
            found |= {place, argument.name}
    return frozenset(found)


@cache
def _plus(func: Any, name: str) -> Any:
    """The sum of the same overload, where an operator is a difference."""
    if name not in _MINUS:
        return func
    underscore = "_" if func._schema.is_mutable else ""
    packet = getattr(torch.ops.aten, f"{_MINUS[name]}{underscore}")
    return getattr(packet, func._overloadname or "default")
