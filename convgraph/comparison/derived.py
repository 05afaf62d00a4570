"""What is made of maps, by whatever way: marked below the functions of torch.

A mode of functions sees what Python calls. A map that goes on through a loop of C++ (`vmap`, a
script), a buffer that it is written to or an alias that autograd makes comes back as a tensor that
no function gave. Operators are seen all the same, and what one makes of marked memory is marked.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from convgraph.proof import aten
from convgraph.proof.ways_out import storage_of

SWEEP = 1024
"""Marks beyond which memory that is gone is forgotten."""


class Derived(TorchDispatchMode):
    """Marks the memory that operators make of marked memory.

    Example:
        >>> x, other, marks = torch.ones(2), torch.zeros(2), Derived()
        >>> marks.mark(x)
        >>> with marks:
        ...     y = other.add_(x).view(1, 2)
        >>> other in marks, y in marks, torch.ones(2) in marks
        (True, True, False)
    """

    def __init__(self) -> None:
        """Start with none marked."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._marked: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = torch._C._disabled_torch_dispatch_impl
        if any(kind.__torch_dispatch__ not in (own, Tensor.__torch_dispatch__) for kind in types):
            return NotImplemented  # what it runs itself is met again
        out = func(*args, **kwargs)
        if any(t in self for t in aten.tensors_in(args, kwargs)):
            self.mark(*aten.tensors_in(out), *aten.written(func, args, kwargs))
        return out

    def __contains__(self, tensor: Tensor) -> bool:
        """Say whether a tensor is made of maps, as far as its memory says; a layer of vmap is."""
        if _functorch.is_functorch_wrapped_tensor(tensor):
            return self.__contains__(_functorch.get_unwrapped(tensor))
        key = _key(tensor)
        return key is not None and key in self._marked

    def mark(self, *tensors: Tensor) -> None:
        """Take tensors for made of maps."""
        with torch._C.DisableTorchFunction():
            for tensor in tensors:
                key = _key(tensor)
                if key is not None:
                    self._marked[key] = StorageWeakRef(storage_of(tensor))
        if len(self._marked) > SWEEP:
            self._marked = {k: one for k, one in self._marked.items() if not one.expired()}

    def clear(self, *tensors: Tensor) -> None:
        """Take tensors for no longer so: of who was there they say one thing, as a mean does."""
        for tensor in tensors:
            self._marked.pop(_key(tensor) or 0, None)


def one_memory(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors lie in one memory."""
    return _key(one) is not None and _key(one) == _key(two)


def _key(tensor: Tensor) -> int | None:
    """Which memory a tensor lies in; None for what has none of its own."""
    with torch._C.DisableTorchFunction():
        if tensor.layout != torch.strided or _functorch.is_functorch_wrapped_tensor(tensor):
            return None
        try:
            return int(storage_of(tensor)._cdata)
        except (NotImplementedError, RuntimeError):
            return None
