"""Topology is a constant of a program: what follows from it is computed outside of every trace.

Sites and edges are integers that no feature and no parameter touches, and they are kept for reuse.
Whoever calls first may be tracing (torch.compile, torch.export, make_fx), transforming (torch.func)
or running in inference mode; what is kept must be plain tensors all the same, or the next caller
would find a placeholder of somebody else's trace.

May import nothing of convgraph.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def outside() -> Iterator[None]:
    """Leave inference mode, autograd, tracing modes and functional transforms for a block."""
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        _disable_current_modes(),
        torch._C.DisableTorchFunction(),
        torch._C._DisableFuncTorch(),
    ):
        yield


class Shelf:
    """A place to keep a result where there is no record to keep it on."""


def put(record: Any, value: object) -> str:
    """Keep a value as an attribute of a record and return its name.

    A compiler follows attributes of what it knows, but not objects that are handed to it; so a
    function that it takes as a constant puts its result where the compiler can look it up.
    """
    name = f"_kept_{id(value)}"
    setattr(record, name, value)
    return name


def result(record: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Return function(*args), called outside of a compiler's trace and kept on the record.

    Args:
        record: where a compiler finds the result again.
        function: a class or a function of a module.
        args: records and plain values.
    """
    return getattr(record, _put_result(record, function, *args)[0])


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _put_result(record: Any, function: Callable[..., Any], *args: Any) -> tuple[str]:
    return (put(record, function(*args)),)


def read(record: Any, name: str) -> Any:
    """Return an attribute of a record; a compiler takes it as a constant and looks no further."""
    return _boxed(record, name)[0]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _boxed(record: Any, name: str) -> tuple[Any]:
    return (getattr(record, name),)
