"""Whether code runs otherwise where the judge does not look as it did where it was followed.

`torch.overrides.has_torch_function` tells code that there is a function mode, and code may have a
fast path without. So two plain runs of a network are listed, one with such a mode and one without,
and have to be the same operators on the same shapes. A layer that is one node is proven by itself,
and code may know whether its network calls it: the two lists of such a layer have to be one too.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convgraph.proof import aten, trees
from convgraph.proof.ways_out import WaysOut

Listed = Counter[tuple[str, tuple[tuple[int, ...], ...]]]
"""How often an operator made these shapes."""


@final
class Lister(TorchDispatchMode):
    """Lists what runs, views left out.

    Attributes:
        found: what ran so far.
    """

    def __init__(self) -> None:
        """Start with nothing listed."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Listed = Counter()

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            outputs = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = [tuple(t.shape) for t in trees.leaves(outputs) if isinstance(t, Tensor)]
            self.found[aten.base_of(func), tuple(made)] += 1
        return outputs


def otherwise(run: Callable[[], Any]) -> str:
    """Say how a run differs where nothing watches it; "" where it does not.

    Args:
        run: one call of the network; called twice.
    """
    with torch.no_grad(), _listing(watched=True) as one:
        run()
    with torch.no_grad(), _listing(watched=False) as two:
        run()
    return _differing("behaves otherwise when it is followed", one, two)


def apart(within: Listed, run: Callable[[], Any]) -> str:
    """Say how a layer that is called by itself differs from what it ran within its network.

    Args:
        within: what it ran there, watched.
        run: calls it once more on the same values.
    """
    with _listing(watched=True) as alone:
        run()
    return _differing("within the network it behaves otherwise than by itself", alone, within)


def _differing(what: str, one: Listed, two: Listed) -> str:
    """Say what a second list has and the one that was followed has not; "" for one list."""
    if one == two:
        return ""
    more = [f"it runs {name}" for name, _ in two - one]
    less = [f"what was followed has {name}" for name, _ in one - two]
    return f"{what}: " + "; ".join([*more[:1], *less[:1]])


@contextmanager
def _listing(*, watched: bool) -> Iterator[Listed]:
    lister = Lister()
    mode = WaysOut(lambda tensor, way: tensor) if watched else nullcontext()
    with mode, lister:
        yield lister.found
