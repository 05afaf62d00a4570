"""Arguments at the door: one check a kind, whoever is called, in one kind of words."""

from typing import Any

import torch
from torch import Tensor

from convgraph.errors import DtypeError, GraphError, ProofError


def tensor(who: str, name: str, value: Any, *, shape: str, real: bool = True) -> Tensor:
    """Return a strided tensor of numbers, or say what it is instead.

    Args:
        who: the caller's name.
        name: of the argument.
        value: anything.
        shape: which one is expected, in words.
        real: whether complex numbers are refused.

    Raises:
        GraphError: no tensor, or a sparse or nested one.
        DtypeError: complex numbers.
    """
    if not isinstance(value, Tensor):
        raise GraphError(
            f"{who}: expected {name} as a tensor, got {type(value).__name__}; "
            f"pass one of shape {shape}, of an array torch.from_numpy(array)"
        )
    if value.layout != torch.strided or value.is_nested:
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise GraphError(
            f"{who}: expected {name} as a dense tensor {shape}, got a {layout} one; "
            "use .to_dense(), or a mask or an edge list for what is not there"
        )
    if real and value.is_complex():
        raise DtypeError(
            f"{who}: expected real {name}, got {value.dtype}; split it: torch.view_as_real"
        )
    return value


def added(who: str, dtype: torch.dtype, *, whole: bool) -> None:
    """Refuse features whose sum may not fit their dtype, or whose mean would be cut off.

    Args:
        who: the caller's name.
        dtype: of the features.
        whole: whether int64 serves: where nothing is divided, or torch divides it as C does.

    Raises:
        DtypeError: other integers, or bools.
    """
    if dtype.is_floating_point or dtype.is_complex or (whole and dtype == torch.int64):
        return
    raise DtypeError(
        f"{who}: expected features of a floating dtype{' or int64' * whole}, which are added up, "
        f"got {dtype}; convert the graph with .to(dtype)"
    )


def number(who: str, name: str, value: Any, *, whole: bool = False) -> None:
    """Refuse what is no number.

    Raises:
        ProofError: a string, a tensor, a bool; a negative one where it has to be whole.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "an integer" if whole else "a number"
        raise ProofError(f"{who}: expected {name} as {kind}, got {value!s:.60}")
    if whole and value < 0:
        raise ProofError(f"{who}: expected {name} of at least 0, got {value}")
