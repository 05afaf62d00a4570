"""Shapes: names are regrouped, permuted, added; no node moves."""

from typing import Any

import torch

from convgraph.convert import names
from convgraph.convert.align import in_places
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial


def shape_after(call: Any, shape: Any, *args: Any, **kwargs: Any) -> tuple[int, ...]:
    """Return the shape that an operator makes of one; it is asked about shapes alone."""
    (made,) = call.laid(tuple(shape), None, args, kwargs)
    found: tuple[int, ...] = made[0]
    return found


@rule(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze",
    "_reshape_alias",
)  # fmt: skip
def regroup(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Group the names anew, in their order; no node moves."""
    if args and isinstance(args[0], torch.dtype):
        raise NoRuleError("it reads numbers as another dtype")
    return x.regrouped(shape_after(call, x.shape, *args, **kwargs))


@rule("permute", "transpose", "t", "movedim", "swapaxes", "mT")
def permute(call: Any, x: Spatial, *args: Any) -> Any:
    """Axes change places: as those of a shape do whose sizes tell them apart."""
    numbered = range(1, len(x.axes) + 1)
    return x.permuted([size - 1 for size in shape_after(call, numbered, *args)])


@rule("expand")
def expand(call: Any, x: Spatial, size: Any, **_: Any) -> Any:
    """An axis of size 1 says the same under a new name."""
    shape = shape_after(call, x.shape, size)
    x = x.thin()
    rank = len(shape)
    axes = [*((),) * (rank - len(x.axes)), *x.axes]
    d = getattr(x.sites, "d", 0)
    rows, slot = x.x, 1
    for dim, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        if not axis and size > 1:
            if rank == len(x.axes) == d + 2 and x.is_line(dim):
                return in_places(x, shape)
            rows = rows.unsqueeze(slot).expand(*rows.shape[:slot], size, *rows.shape[slot:])
            axes[dim] = (Name("plain", size),)
        slot += len(names.plain((axes[dim],)))
    return Spatial(rows, x.sites, tuple(axes))


@rule("view_as_real", "view_as_complex")
def pairs(call: Any, x: Spatial) -> Any:
    """Two real numbers on a last plain axis, or one complex one."""
    if call.name == "view_as_real":
        return Spatial(call.target(x.x), x.sites, (*x.axes, (Name("plain", 2),)))
    last = len(x.axes) - 1
    return Spatial(call.target(x.merged(last).x), x.sites, x.axes[:last])


@rule("new_zeros", "new_ones", "new_full", "new_empty", hop="nothing")
def new(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """A tensor of its own; only the dtype and the device are the map's."""
    return call.target(x.x, *args, **kwargs)
