"""Windows: what they hear where they stand at no node, and which of their pixels are absent.

    x.unfold(2, 3, 1).relu().unfold(3, 3, 1)    the second reaches windows whose middle is absent
    x.unfold(2, 2, 2).amax(-1)                  an absent pixel is never the largest

The plain name of windows keeps a lattice axis. As long as one is left, a value remembers what made
it, so that the same can be made of whole images.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convgraph.convert.names import Axis, NoRuleError
from convgraph.convert.operators import Operator
from convgraph.convert.value import LOST, Spatial, placed

EXTREMES = ("amax", "amin", "max", "min", "argmax", "argmin")

_MOVES = (
    "unfold", "im2col", "flip", "roll", "slice", "select", "index_select", "split", "chunk",
    "split_with_sizes", "unbind", "pad", "constant_pad_nd",
)  # fmt: skip
"""Operators that take entries of one map as they are, beside those of shapes."""


class Made(NamedTuple):
    """What made a value.

    Attributes:
        call: the operator.
        args: its operands.
        kwargs: those by name.
        number: which of its results the value is; None of a single one.
        versions: how often each operand had been written into.
    """

    call: Operator
    args: Any
    kwargs: dict[str, Any]
    number: int | None
    versions: list[int]


def are_on(axis: Axis) -> bool:
    """Whether an axis holds windows."""
    return any(name.kind == "plain" and name.axis >= 0 for name in axis)


def note(call: Operator, args: Any, kwargs: Any, out: Any, number: int | None = None) -> None:
    """Note what made windows, in the results of an operator."""
    if isinstance(out, (list, tuple)):
        for place, one in enumerate(out):
            note(call, args, kwargs, one, place)
        return
    if not isinstance(out, Spatial) or out.cut is not None or not any(map(are_on, out.axes)):
        return
    known = call.rule.family in ("shapes", "pointwise") or call.name in (*_MOVES, *EXTREMES)
    drawn = torch.Tag.nondeterministic_seeded in call.target.tags
    named = any(isinstance(one, Spatial) for one in kwargs.values())
    again = known and not (drawn or named or call.writes)
    out.cut = Made(call, args, kwargs, number, _versions(args)) if again else LOST


def _versions(args: Any) -> list[int]:
    rows = [one.x if isinstance(one, Spatial) else one for one in args]
    tensors = [one for one in rows if isinstance(one, Tensor) and not one.is_inference()]
    return [] if torch.compiler.is_compiling() else [one._version for one in tensors]


def image(value: Any) -> Any:
    """Return what the network sees of a value, windows that stand at no node among it.

    Raises:
        NoRuleError: that is not kept.
    """
    if not isinstance(value, Spatial):
        return value
    made = value.cut
    if made is None:
        return value.tensor()
    if made == LOST or made.call.name in EXTREMES or made.versions != _versions(made.args):
        raise NoRuleError(
            "it cuts windows out of windows that were more than moved, or written into; cut all of "
            "them first"
        )
    out = made.call.target(*map(image, made.args), **made.kwargs)
    return out if made.number is None else out[made.number]


def there(value: Spatial) -> Spatial | None:
    """Return which entries of windows are no absent pixel's, or None where that is not kept."""
    found = _there(value)
    return None if found is None else placed(found, value.sites, value.axes)


def _there(value: Spatial) -> Tensor | None:
    made = value.cut
    if made is None or made == LOST:
        return None if made else value.there()
    call, first = made.call, made.args[0]
    if call.rule.family == "pointwise":
        maps = [one for one in made.args if isinstance(one, Spatial) and one.cut is not None]
        every = [_there(one) for one in maps]
        known = [one for one in every if one is not None]
        return None if len(known) < len(every) else torch.stack(
            [one.expand(value.shape) for one in known]).all(0)  # fmt: skip
    before = _there(first)
    if before is None:
        return None
    if call.name in EXTREMES:
        given = call.named(*made.args, **made.kwargs)
        return before.any(given["dim"], given["keepdim"])
    found = call.target(before.to(first.x.dtype), *made.args[1:], **made.kwargs)
    return (found if made.number is None else found[made.number]) != 0  # type: ignore[no-any-return]
