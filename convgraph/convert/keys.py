"""What the tensor needs of torch's dispatcher: the private names, all of them, in one file.

An operator of torch is called through a row of keys. Below those for autograd, autocast and
torch.func, each ATen operator arrives whole at a subclass, under its own name; above them, as the
caller has set them, its meaning on rows is computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convgraph.errors import ConversionError

NAMES = (
    "DispatchKey", "DispatchKeySet", "DisableTorchFunctionSubclass", "_ForceDispatchKeyGuard",
    "_dispatch_tls_local_exclude_set", "_dispatch_tls_local_include_set",
    "_len_torch_dispatch_stack", "_dispatch_has_kernel_for_dispatch_key", "_is_tracing",
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
Mode: Any = TorchDispatchMode

_K = torch._C.DispatchKey

PASSED = torch._C.DispatchKeySet(_K.ADInplaceOrView)
for _name in _PASSED:
    if _name in _K.__members__:
        PASSED = PASSED | torch._C.DispatchKeySet(_K.__members__[_name])


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
