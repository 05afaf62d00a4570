"""Whether a network runs otherwise where a function mode watches it, as the recorder does.

`torch.overrides.has_torch_function` tells code that there is one, and code may have a fast path
without. So two plain runs are listed, one with such a mode and one without, and have to be the same
operators on the same shapes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convgraph.proof import aten
from convgraph.proof.ways_out import WaysOut

Listed = Counter[tuple[str, tuple[tuple[int, ...], ...]]]
"""How often an operator made these shapes."""


@final
class _Lister(TorchDispatchMode):
    """Lists what runs, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Listed = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            outputs = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = [tuple(t.shape) for t in tree_leaves(outputs) if isinstance(t, Tensor)]
            self.found[aten.base_of(func), tuple(made)] += 1
        return outputs


def otherwise(run: Callable[[], Any]) -> str:
    """Say how a run differs where nothing watches it; "" where it does not.

    Args:
        run: one call of the network; called twice.
    """
    with _listing(watched=True) as one:
        run()
    with _listing(watched=False) as two:
        run()
    if one == two:
        return ""
    more = [f"it runs {name}" for name, _ in two - one]
    less = [f"what was followed has {name}" for name, _ in one - two]
    return "behaves otherwise when it is followed: " + "; ".join([*more[:1], *less[:1]])


@contextmanager
def _listing(*, watched: bool) -> Iterator[Listed]:
    lister = _Lister()
    mode = WaysOut(lambda tensor, way: tensor) if watched else nullcontext()
    with torch.no_grad(), mode, lister:
        yield lister.found
