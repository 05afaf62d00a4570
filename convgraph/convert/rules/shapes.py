"""Shapes: names are regrouped, permuted, added; no node moves."""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial, spread


@rule(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as",
    "reshape_as", "squeeze_", "unsqueeze_",
)  # fmt: skip
def regroup(run: Any, step: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Group the names anew, in their order; a flattened image is a readout."""
    if not isinstance(x, Spatial) or step.shape is None:
        raise NoRuleError("its shape depends on more than the batch")
    try:
        value = x.regrouped(step.shape)
        if len(step.shape) == 2 and value.axes[0] == _BATCH and _is_mixed(value.axes[1]):
            run.travelled("all")
            return value.tensor()
        return value
    except NoRuleError:
        if len(step.shape) == 2 and step.shape[0] == names.BATCH and x.axes[0] == _BATCH:
            run.travelled("all")  # every node talks to the one readout, an absent one says 0
            return x.tensor().flatten(1)
        raise


_BATCH = (Name("batch", names.BATCH),)


def _is_mixed(axis: names.Axis) -> bool:
    """Whether an axis names sites and channels at once, as a flattened image does."""
    return len({name.kind for name in axis}) > 1


@rule("permute", "transpose", "t", "movedim", "swapaxes", "adjoint", "mT", "numpy_T")
def permute(run: Any, step: Any, x: Spatial, *args: Any) -> Any:
    """Axes change places."""
    rank = len(x.axes)
    order = list(range(rank))
    if step.operator == "permute":
        order = [int(dim) % rank for dim in args[0]]
    elif step.operator == "movedim":
        source, target = (
            [a % rank for a in ([side] if isinstance(side, int) else side)] for side in args
        )
        order = [dim for dim in order if dim not in source]
        for to, dim in sorted(zip(target, source, strict=True)):
            order.insert(to, dim)
    else:
        a, b = (args[0] % rank, args[1] % rank) if len(args) == 2 else (rank - 2, rank - 1)
        order[a], order[b] = order[b], order[a]
    return x.permuted(order)


@rule("expand", "expand_as")
def expand(run: Any, step: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """An axis of size 1 says the same under a new name."""
    if isinstance(x, Tensor) and args and isinstance(args[0], Spatial):
        return x.expand(args[0].shape)
    if not isinstance(x, Spatial) or step.shape is None:
        raise NoRuleError("its shape depends on more than the batch")
    x = x.thin()
    rank = len(step.shape)
    axes = [*((),) * (rank - len(x.axes)), *x.axes]
    rows, slot, d = x.x, 1, run.root.d
    for dim, (axis, size) in enumerate(zip(axes, step.shape, strict=True)):
        if not axis and size > 1:
            if rank == len(x.axes) == d + 2 and _is_thin(x, dim - 2):
                return spread(x.tensor().expand(x.sites.batch_size, *step.shape[1:]), run.root)
            rows = rows.unsqueeze(slot).expand(*rows.shape[:slot], size, *rows.shape[slot:])
            axes[dim] = (Name("plain", size),)
        slot += len(names.plain((axes[dim],)))
    return Spatial(rows, x.sites, tuple(axes))


def _is_thin(x: Spatial, axis: int) -> bool:
    """Whether a map has one pixel along a lattice axis, which an image may repeat."""
    return x.is_image() and axis >= 0 and (x.sites.size or ())[axis] == 1


@rule("repeat", "repeat_interleave", "tile")
def repeat(run: Any, step: Any, x: Spatial, times: Any, dim: int | None = None, **_: Any) -> Any:
    """Plain axes side by side."""
    if not isinstance(x, Spatial) or step.shape is None:
        raise NoRuleError("its shape depends on more than the batch")
    if step.operator == "repeat_interleave":
        if not isinstance(times, int) or dim is None:
            raise NoRuleError("it repeats by a tensor")
        value = x.merged(dim % len(x.axes))
        rows = value.x.repeat_interleave(times, value.slot(dim % len(x.axes)))
        return _resized(value, dim % len(x.axes), rows)
    counts = list(times)
    axes = ((),) * (len(counts) - len(x.axes)) + x.axes
    value = Spatial(x.x, x.sites, axes)
    for number, count in enumerate(counts):
        if count == 1:
            continue
        if value.axes[number]:
            value = value.merged(number)
            rows = _cat([value.x] * count, value.slot(number))
        else:
            slot = value.slot(number)
            shape = [*value.x.shape[:slot], count, *value.x.shape[slot:]]
            rows = value.x.unsqueeze(slot).expand(shape)
        value = _resized(value, number, rows)
    return value


def _cat(parts: Any, dim: int) -> Any:
    return torch.cat(parts, dim)


def _resized(value: Spatial, dim: int, rows: Any) -> Spatial:
    """The value with other features along one plain axis."""
    size = rows.shape[value.slot(dim)]
    axes = (*value.axes[:dim], (Name("plain", size),), *value.axes[dim + 1 :])
    return Spatial(rows, value.sites, axes)


@rule("sym_size", "dim", "numel", "sym_numel")
def size(run: Any, step: Any, x: Spatial, dim: int | None = None) -> Any:
    """What the exported graph sees, with the batch that is there."""
    if dim is None:
        raise NoRuleError("it asks for all sizes at once")
    return x.shape[dim]


@rule("new_zeros", "new_ones", "new_full", "new_empty")
def new(run: Any, step: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """A tensor of its own; only the dtype and the device are the map's."""
    return step.target(x.x, *args, **kwargs)
