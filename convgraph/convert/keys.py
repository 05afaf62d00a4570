"""What the tensor needs of torch's dispatcher: the private names, all of them, in one file.

An operator of torch is called through a row of keys. Below those for autograd, autocast and
torch.func, each ATen operator arrives whole at a subclass, under its own name; above them, as the
caller has set them, its meaning on rows is computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from convgraph import autocast
from convgraph.errors import ConversionError

NAMES = (
    "DispatchKey", "DispatchKeySet", "DisableTorchFunctionSubclass", "_ForceDispatchKeyGuard",
    "_dispatch_tls_local_exclude_set", "_dispatch_tls_local_include_set",
    "_len_torch_dispatch_stack", "_dispatch_has_kernel_for_dispatch_key", "_is_tracing",
    "_is_any_autocast_enabled",
)  # fmt: skip
"""Names of `torch._C` that this file, and no other of the package, asks for."""

_PASSED = (
    "PreDispatch", "AutogradFunctionality", "ADInplaceOrView", "FuncTorchDynamicLayerFrontMode",
    "FuncTorchDynamicLayerBackMode", "FuncTorchGradWrapper", "FuncTorchBatched",
    "FuncTorchBatchedDecomposition", "FuncTorchVmapMode",
    "AutocastCPU", "AutocastCUDA", "AutocastXPU", "AutocastMPS",
    "AutogradOther", "AutogradCPU", "AutogradCUDA", "AutogradMPS", "AutogradXPU", "AutogradMeta",
)  # fmt: skip
"""Keys above the subclass; an older torch may lack some of a device."""


def missing(library: Any = torch._C) -> list[str]:
    """Return the names that a torch lacks.

    Example:
        >>> missing()
        []
    """
    return [name for name in NAMES if not hasattr(library, name)]


if missing():
    raise ConversionError(
        f"this torch ({torch.__version__}) lacks {', '.join(missing())}, which tensors whose "
        "pixels are nodes are built on; use a torch that convgraph's pyproject names"
    )

DisableTorchFunction = torch._C.DisableTorchFunctionSubclass
Guard = torch._C._ForceDispatchKeyGuard
excluded = torch._C._dispatch_tls_local_exclude_set
included = torch._C._dispatch_tls_local_include_set
modes = torch._C._len_torch_dispatch_stack
is_tracing = torch._C._is_tracing
is_autocast = torch._C._is_any_autocast_enabled
Mode: Any = TorchDispatchMode

_K = torch._C.DispatchKey

PASSED = _ABOVE = torch._C.DispatchKeySet(_K.ADInplaceOrView)
for _name in _PASSED:
    if _name in _K.__members__:
        PASSED = PASSED | torch._C.DispatchKeySet(_K.__members__[_name])
        if not _name.startswith("Autocast"):
            _ABOVE = _ABOVE | torch._C.DispatchKeySet(_K.__members__[_name])

AUTOGRAD: Any = torch._C.DispatchKeySet(_K.AutogradFunctionality)
"""What keeps rows out of autograd, where an operator comes past the protocol."""


def is_composite(operator: Any) -> bool:
    """Whether torch defines an operator by others, so that it can be taken apart."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(has(operator.name(), "CompositeImplicitAutograd"))


@contextmanager
def compiling() -> Iterator[None]:
    """Let `torch.compiler.is_compiling` say so in a block."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


class _Asked(Mode):  # type: ignore[misc]
    """Hear in which dtypes an operator arrives, and answer nothing."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is self.target:
            leaves = pytree.tree_leaves((args, kwargs))
            self.dtypes = [one.dtype for one in leaves if isinstance(one, Tensor)]
            raise RuntimeError("it was heard")
        return func(*args, **kwargs)  # what autocast casts by


_CASTS: dict[Any, list[torch.dtype]] = {}


def cast(target: Any, args: Any, kwargs: Any, to: Any) -> tuple[Any, Any]:
    """Return arguments, by to(argument, dtype), as the caller's autocast gives them.

    It stands above autograd, where no operator may be met: torch is asked by blank tensors, once an
    operator and dtypes.
    """
    leaves, tree = pytree.tree_flatten((args, kwargs or {}))
    kinds = [(one.device, one.dtype) for one in leaves if isinstance(one, Tensor)]
    lower = {device.type: autocast.lower(device) for device, _ in kinds}
    key = (target, *kinds, *lower.items())
    if key not in _CASTS:
        blank = (torch.empty(0, dtype=dtype, device=device) for device, dtype in kinds)
        asked = [next(blank) if isinstance(one, Tensor) else one for one in leaves]
        positional, named = pytree.tree_unflatten(asked, tree)
        with (
            _disable_current_modes(), _Asked(target) as ask, suppress(RuntimeError, IndexError),
            Guard(included(), excluded() | _ABOVE),
        ):  # fmt: skip
            target(*positional, **named)
        _CASTS[key] = ask.dtypes or [dtype for _, dtype in kinds]  # some become another operator
    dtypes = iter(_CASTS[key])
    moved = [to(one, next(dtypes)) if isinstance(one, Tensor) else one for one in leaves]
    found: tuple[Any, Any] = pytree.tree_unflatten(moved, tree)
    return found
