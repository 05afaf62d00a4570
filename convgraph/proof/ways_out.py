"""Where numbers leave torch without an operator: for NumPy, lists, pointers, storages, pickles.

None of these reaches a dispatch mode, and the methods of a subclass are passed by whoever takes the
base class's. A function mode sees every one of them, on whatever tensor it is called; but
`torch.overrides.has_torch_function` tells of it. So the methods of torch.Tensor may be watched by
name instead, of which nothing tells that asks for modes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import local
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convgraph.proof.stand_ins import StandIns

WAYS = frozenset({
    "numpy", "__array__", "tolist", "data_ptr", "const_data_ptr", "mutable_data_ptr", "_to_dlpack",
    "untyped_storage", "storage", "_typed_storage", "__dlpack__", "__reduce_ex__", "apply_", "map_",
    "map2_", "share_memory_", "__cuda_array_interface__", "__repr__",
})  # fmt: skip
"""Methods of a tensor that hand out its entries, or the memory that they lie in."""

storage_of: Callable[[Tensor], Any] = torch._C.TensorBase.untyped_storage
"""A tensor's memory, for the judge: nobody is told."""

SAYS = ("tolist", "__repr__", "tensor_split")
"""Ways by which numbers leave, and no memory; the last reads by a pointer where parts end."""


@final
class WaysOut(TorchFunctionMode):
    """Tells of every call of one of these ways.

    Args:
        leave: given the tensor and the way, returns the tensor to hand out in its place.
    """

    def __init__(self, leave: Callable[[Tensor, str], Tensor]) -> None:
        """Tell nobody else."""
        super().__init__()
        self.leave = leave

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAYS and args and isinstance(args[0], Tensor):
            args = (self.leave(args[0], name), *args[1:])
        if name == "tensor_split":
            for ends in (*args[1:2], *(kwargs or {}).values()):
                if isinstance(ends, Tensor):
                    self.leave(ends, name)
        return func(*args, **(kwargs or {}))


_HERE = local()


@contextmanager
def by_name(leave: Callable[[Tensor, str], Tensor]) -> Iterator[None]:
    """Tell of every call of one of these ways in this thread, without a function mode.

    Args:
        leave: as `WaysOut` takes it.

    Example:
        >>> seen = []
        >>> with by_name(lambda tensor, way: seen.append(way) or tensor):
        ...     _ = torch.ones(2).tolist()
        >>> torch.ones(2).tolist(), seen
        ([1.0, 1.0], ['tolist'])
    """
    before = getattr(_HERE, "leave", None)
    _HERE.leave = leave
    try:
        with _TOLD:
            yield
    finally:
        _HERE.leave = before


def _telling(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def tells(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        leave = getattr(_HERE, "leave", None)
        if leave is not None and torch._C._is_torch_function_enabled():
            with torch._C.DisableTorchFunction():
                tensor = leave(tensor, name)
        return method(tensor, *args, **kwargs)

    return tells


_TOLD = StandIns([(Tensor, name) for name in WAYS], _telling)
