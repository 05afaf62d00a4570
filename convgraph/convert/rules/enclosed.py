"""Graphs that a context manager encloses: their own operators, in its context."""

from typing import Any

import torch

from convgraph.convert.capture import NESTED
from convgraph.convert.registry import rule


@rule("wrap_with_autocast", hop="all")
def autocast(
    run: Any, step: Any, device: str, dtype: Any, enabled: bool, cache: Any, inner: Any, *args: Any
) -> Any:
    """What autocast encloses, or is kept out of."""
    with torch.autocast(device, dtype, enabled, cache):
        return run.enclosed(inner.meta[NESTED], args)


@rule("wrap_with_set_grad_enabled", hop="all")
def set_grad_enabled(run: Any, step: Any, enabled: bool, inner: Any, *args: Any) -> Any:
    """What runs with gradients or without."""
    with torch.set_grad_enabled(enabled):
        return run.enclosed(inner.meta[NESTED], args)
