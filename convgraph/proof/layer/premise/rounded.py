"""How often entries are rounded to a half type on their way.

    y_hat = sum over terms t of t (1 + d_1) ... (1 + d_k),   |d_i| <= u of the half type

The bound of S3 has k = 1: operators of torch add up in float32 and round once. A program that
casts in between, or adds up operator by operator in the half type, has more, and random numbers
leave the bound in some draws and not in others. So every operator that computes counts one where
its result is of the half type; moves count none, nor do products with powers of two, sums with
zeros, as of the gradients of two slices, and float32. What torch adds up one by one in the dtype
itself counts as often as it does.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convgraph.proof.layer.premise import linear_rules
from convgraph.proof.layer.premise.call import RULES, Call

HALF = (torch.float16, torch.bfloat16)


class Rounded(NamedTuple):
    """What is known of the entries of one memory.

    Attributes:
        times: the most often that any of them was rounded to a half type.
        short: whether each is a number of the half type.
    """

    times: int = 0
    short: bool = True


NEVER = Rounded()
"""Numbers of the half type that nobody has rounded yet."""


def either(some: Iterable[Rounded]) -> Rounded:
    """What is known where entries are of any of some memories.

    Example:
        >>> either([Rounded(2, True), Rounded(1, False)])
        Rounded(times=2, short=False)
    """
    found = [NEVER, *some]
    return Rounded(max(one.times for one in found), all(one.short for one in found))


def roundings(name: str, call: Call, is_data: Callable[[Tensor], bool]) -> int:
    """How often an operator rounds what it adds up or multiplies; 0 if it makes no other numbers.

    Args:
        name: of the operator, without overload.
        call: before it is run.
        is_data: says of a tensor whether it is data.
    """
    rule = RULES.get(name)
    if rule is None or rule in linear_rules.MOVES:
        return 0
    others = [v for v in map(call.get, ("self", "other")) if v is not None]
    others = [v for v in others if not (isinstance(v, Tensor) and is_data(v))]
    if name in {"mul", "div"} and len(others) == 1:
        mantissa = torch.frexp(torch.as_tensor(others[0]).double())[0].abs()
        return int(not bool(((mantissa == 0.5) | (mantissa == 0)).all()))
    if name in {"add", "sub"} and abs(call.get("alpha", 1)) == 1:
        one, two = (torch.as_tensor(call[side]) for side in ("self", "other"))
        return int(bool(((one != 0) & (two != 0)).any()))
    most = linear_rules.ONE_BY_ONE.get(name)
    if most is None:
        return 1
    return max(0, most(call) - int("self" not in call.named or _is_zero(call["self"], is_data)))


def _is_zero(value: Any, is_data: Callable[[Tensor], bool]) -> bool:
    return isinstance(value, Tensor) and not is_data(value) and not bool(value.count_nonzero())


def after(times: int, given: Rounded, dtype: torch.dtype) -> Rounded:
    """What is known of a result.

    Args:
        times: how often its operator rounds.
        given: of what it is given.
        dtype: of the result.
    """
    if dtype not in HALF:
        return Rounded(given.times, given.short and not times)
    return Rounded(given.times + max(times, int(not given.short)), True)
