"""Where numbers leave torch without an operator: for NumPy, lists, pointers, storages, pickles.

None of these reaches a dispatch mode, and the methods of a subclass are passed by whoever takes the
base class's. A function mode sees every one of them, on whatever tensor it is called.
"""

from collections.abc import Callable
from typing import Any, final

from torch import Tensor
from torch.overrides import TorchFunctionMode

WAYS = frozenset({
    "numpy", "__array__", "tolist", "data_ptr", "const_data_ptr", "mutable_data_ptr", "_to_dlpack",
    "untyped_storage", "storage", "_typed_storage", "__dlpack__", "__reduce_ex__", "apply_", "map_",
    "map2_", "share_memory_", "__cuda_array_interface__",
})  # fmt: skip
"""Methods of a tensor that hand out its entries, or the memory that they lie in."""


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
        return func(*args, **(kwargs or {}))
