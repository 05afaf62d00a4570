"""Many suppositions side by side: what is known of entries under each, along a leading axis.

    held[k]         what is known under supposition k, as if it were alone

A rule is written of one; it runs on all of them at once by `torch.vmap`. Where it asks whether
anything is so, it asks of all: what is so under one alone may cost the others what they know, and
never adds to it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, _functorch

from convgraph.proof import trees

_SHUT_OUT = (
    DispatchKey.FuncTorchBatched,
    DispatchKey.FuncTorchVmapMode,
    DispatchKey.FuncTorchDynamicLayerFrontMode,
    DispatchKey.FuncTorchDynamicLayerBackMode,
)
"""What `vmap` is made of; torch keeps it out where operators are dispatched, as here."""


def under_each(run: Callable[..., Any], held: Sequence[Tensor]) -> Any:
    """Run what is written of one supposition under each of them.

    Args:
        run: of tensors, or trees of them, without the leading axis; to the same.
        held: tensors with it, all of one length.

    Example:
        >>> under_each(lambda a, b: a.sum() * b, [torch.ones(3, 2), torch.ones(3, 4)]).shape
        torch.Size([3, 4])
    """
    if len(held[0]) == 1:
        return trees.mapped(lambda made: made[None], run(*[tensor[0] for tensor in held]))
    shut_out = torch._C._dispatch_tls_local_exclude_set()
    for key in _SHUT_OUT:
        shut_out = shut_out.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), shut_out):
        return torch.vmap(run)(*held)


def anywhere(said: Tensor) -> bool:
    """Return whether it is so of any entry under any supposition."""
    return bool(_of_all(said).any())


def everywhere(said: Tensor) -> bool:
    """Return whether it is so of all entries under all suppositions."""
    return bool(_of_all(said).all())


def alike(held: Tensor) -> bool:
    """Return whether the same is known under all of them, of tensors with the leading axis."""
    return len(held) == 1 or bool((held == held[:1]).all())


def _of_all(said: Tensor) -> Tensor:
    while _functorch.is_batchedtensor(said):
        said = _functorch.get_unwrapped(said)
    return said
