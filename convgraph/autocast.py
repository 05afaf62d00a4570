"""Autocast: which dtype it asks for, and how it is kept out of what has its dtype already.

Autocast casts what torch's convolutions are given, but never float64; it acts on single calls, so
an operator that is put together from several casts once at its door and keeps autocast out behind
it, in its backward too.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_KNOWN = frozenset(
    kind
    for kind in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla")
    if torch.amp.is_autocast_available(kind)  # asked once: not every compiler may ask
)


def enabled(device: torch.device) -> bool:
    """Whether autocast is on for tensors of this device; some, like meta, know no autocast."""
    return device.type in _KNOWN and torch.is_autocast_enabled(device.type)


def lower(device: torch.device) -> torch.dtype | None:
    """Return the dtype in which torch's convolutions take tensors of this device, None for all."""
    return torch.get_autocast_dtype(device.type) if enabled(device) else None


def wanted(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which torch's convolutions would take this tensor now."""
    return tensor.dtype if tensor.dtype == torch.float64 else lower(tensor.device) or tensor.dtype


def off(device: torch.device) -> AbstractContextManager[object]:
    """Keep autocast out of a block."""
    if not enabled(device):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
