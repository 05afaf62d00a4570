"""Whether a layer runs within its network what it runs by itself.

A layer that is one node is proven by itself, and code may know whether its network calls it. So
what it runs in either place is listed, and the two lists have to be one: the same operators, on the
same shapes.
"""

from collections import Counter
from collections.abc import Callable
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


def apart(within: Listed, run: Callable[[], Any]) -> str:
    """Say how a layer that is called by itself differs from what it ran within its network.

    Args:
        within: what it ran there, followed.
        run: calls it once more on the same values.
    """
    with WaysOut(lambda tensor, way: tensor), Lister() as lister:
        run()
    alone = lister.found
    if within == alone:
        return ""
    more = [f"it runs {name}" for name, _ in within - alone]
    less = [f"what was followed has {name}" for name, _ in alone - within]
    text = "within the network it behaves otherwise than by itself: "
    return text + "; ".join([*more[:1], *less[:1]])
