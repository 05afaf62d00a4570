"""The same nodes again, where the same image comes again with other numbers.

Whoever keeps what it made of a tensor, and asks by `is` whether that tensor comes again, is found
out by a call in which it does, filled anew in place. A caller lays images out as nodes, and weights
as a layer keeps them, so it has to fill these anew as well.
"""

from collections.abc import Mapping
from typing import TypeVar, cast, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from convgraph.graph.pixel_graph import PixelGraph

Made = TypeVar("Made", Tensor, PixelGraph)


@final
class Refilled:
    """What was made of the last tensor that a caller was given.

    Example:
        >>> again, image = Refilled(), torch.ones(1, 1, 2)
        >>> rows = again.of(image, image * 2)
        >>> again.of(image.fill_(3), image * 2) is rows, rows.tolist()
        (True, [[[6.0, 6.0]]])
    """

    def __init__(self) -> None:
        """Start without any."""
        self._last: tuple[Tensor, Tensor, Tensor | PixelGraph] | None = None
        self._named = dict[str, Refilled]()

    def of(self, given: Tensor, made: Made) -> Made:
        """Return `made`, or what was made of the same tensor before, filled with its numbers.

        Of numbers that did not change, `made` is returned: a backward may have freed the graph of
        the one before. Whoever fills a tensor anew keeps that graph.

        Args:
            given: what a caller was given.
            made: of it.
        """
        if type(given) not in (Tensor, torch.nn.Parameter):  # one that is followed
            return made
        last = self._last
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            other = last is None or last[0] is not given or torch.equal(last[1], given)
            held = made if last is None or other else cast(Made, last[2])
            self._last = given, given.detach().clone(), held
            old, new = _numbers(held), _numbers(made)
            view = old.data_ptr() == new.data_ptr()
        if not view:
            old.data.copy_(new)
        return held

    def all_of(self, given: Tensor, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same of several, by name."""
        named = self._named
        return {name: named.setdefault(name, Refilled()).of(given, t) for name, t in made.items()}


def _numbers(made: Tensor | PixelGraph) -> Tensor:
    return made.x if isinstance(made, PixelGraph) else made
