"""Layers that a compiler meets: on a mask it gets a program whose tables are inputs.

A compiler that followed a layer's Python would take what the mask decides for constants, and
compile anew for each mask. Whoever has the better way lies above this room and says so by
`runs_by`.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from convgraph import backends, door, memo
from convgraph.graph.pixel_graph import PixelGraph

MAPS: dict[type, Callable[..., Any]] = {}
"""Tensors whose pixels are nodes -> how a layer's forward is called with one."""

_RUNNERS: list[Callable[..., Any]] = []


def runs_by(runner: Callable[..., Any]) -> None:
    """Say who runs a layer for a compiler: runner(layer, args, kwargs)."""
    _RUNNERS[:] = [runner]


def met(kind: Any) -> None:
    """Let a class of layers be met by compilers, where it takes graphs."""
    if not getattr(kind, "takes_graph", False):
        return
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    own = owner.forward
    if hasattr(own, "__wrapped__") or not owner.__module__.startswith("convgraph."):
        return

    @functools.wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and type(args[0]) in MAPS:
            return MAPS[type(args[0])](self, own, *args, **kwargs)
        traced = torch.compiler.is_dynamo_compiling()
        if (traced or (torch.compiler.is_exporting() and memo.lender() is None)) and _serves(
            self, args, kwargs
        ):
            return _RUNNERS[0](self, args, kwargs)
        if traced or torch.compiler.is_exporting():
            return own(self, *args, **kwargs)
        try:
            return own(self, *args, **kwargs)
        except door.RAW as error:
            said = door.worded(own, (self, *args), kwargs, error)
            if said is None:
                raise
            raise said from door.first(error)

    # A code object of its own: compilers count by it how often a function was met.
    made: Any = forward
    made.__code__ = made.__code__.replace(co_name="forward")
    owner.forward = made


def _serves(layer: Any, args: Any, kwargs: Any) -> bool:
    """One graph with holes, and nothing that names a backend or hears single messages."""
    if len(args) != 1 or not isinstance(args[0], PixelGraph) or not _RUNNERS:
        return False
    graph = args[0]
    free = graph.sites.mask is not None and backends.forced(None) is None
    words = all(one is None or isinstance(one, str) for one in kwargs.values())
    return free and words and all(_is_free(module) for module in layer.modules())


def _is_free(module: Any) -> bool:
    tapped = getattr(module, "_tapped", None)
    return getattr(module, "backend", None) is None and (tapped is None or not tapped())
