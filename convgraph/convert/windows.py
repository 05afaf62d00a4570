"""Windows: what they hear where they stand at no node, and which of their pixels are absent.

    x.unfold(2, 3, 1).relu().unfold(3, 3, 1)    the second reaches windows whose middle is absent
    x.unfold(2, 2, 2).amax(-1)                  an absent pixel is never the largest

The plain name of windows keeps a lattice axis. As long as one is left, a value remembers what made
it, so that the same can be made of whole images.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Axis, NoRuleError
from convgraph.convert.operators import Operator
from convgraph.convert.value import LOST, Spatial, placed

EXTREMES = ("amax", "amin", "max", "min", "argmax", "argmin")

_BESIDE = ("cat", "concat", "concatenate", "stack")

_MOVES = (
    "unfold", "im2col", "flip", "roll", "rot90", "slice", "select", "index_select", "index",
    "split", "chunk", "split_with_sizes", "unbind", "pad", "constant_pad_nd", "repeat",
    "repeat_interleave", *_BESIDE,
)  # fmt: skip
"""Operators that take entries of maps as they are, beside those of shapes."""


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
    several = call.rule.family == "pointwise" or call.name in _BESIDE
    others = [*kwargs.values()] if several else [*_flat(args[1:]), *kwargs.values()]
    by_maps = any(isinstance(one, Spatial) for one in others)
    again = known and not (drawn or by_maps or call.writes)
    out.cut = Made(call, args, kwargs, number, _versions(args)) if again else LOST


def _flat(args: Any) -> list[Any]:
    return [one for arg in args for one in (arg if isinstance(arg, (list, tuple)) else [arg])]


def _versions(args: Any) -> list[int]:
    rows = [one.x if isinstance(one, Spatial) else one for one in _flat(args)]
    tensors = [one for one in rows if isinstance(one, Tensor) and not one.is_inference()]
    return [] if torch.compiler.is_compiling() else [one._version for one in tensors]


def image(value: Any) -> Any:
    """Return what the network sees of a value, windows that stand at no node among it.

    Raises:
        NoRuleError: that is not kept.
    """
    if isinstance(value, (list, tuple)):
        return [*map(image, value)]
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


def there(value: Spatial) -> Spatial:
    """Return which entries of windows are no absent pixel's.

    Raises:
        NoRuleError: that is not kept.
    """
    return placed(_there(value), value.sites, value.axes)


def _there(value: Spatial) -> Tensor:
    made = value.cut
    if made is None:
        return value.there()
    if made == LOST:
        raise NoRuleError(
            "it takes an extreme of windows that were more than moved, of which absent pixels are "
            "no longer told apart; take it before"
        )
    call, first = made.call, made.args[0]
    if call.rule.family == "pointwise":
        maps = [one for one in made.args if isinstance(one, Spatial) and one.cut is not None]
        return torch.stack([_there(one).expand(value.shape) for one in maps]).all(0)
    given = call.named(*made.args, **made.kwargs)
    if call.name in EXTREMES:
        return _there(first).any(given["dim"], given["keepdim"])
    if call.name in _BESIDE:
        parts = [_present(one) for one in first]
        return call.target(parts, *made.args[1:], **made.kwargs)  # type: ignore[no-any-return]
    if "pad" in given and given.get("mode", "constant") == "constant":
        return _padded(call, first, given)
    found = call.target(_there(first).to(first.x.dtype), *made.args[1:], **made.kwargs)
    return (found if made.number is None else found[made.number]) != 0  # type: ignore[no-any-return]


def _present(one: Any) -> Tensor:
    """Which entries of one of several operands are there; all of a tensor's."""
    return _there(one) if isinstance(one, Spatial) else torch.ones_like(one, dtype=torch.bool)


def _padded(call: Operator, first: Spatial, given: dict[str, Any]) -> Tensor:
    """A pad of lattice axes has absent entries, one of plain axes has some that are there."""
    found, pads = _there(first).to(first.x.dtype), given["pad"]
    axes = [first.axes[-1 - k // 2] for k in range(len(pads))]
    on_plain = [bool(axis) and names.is_plain(axis) for axis in axes]
    for own, value in ((False, 0), (True, 1)):
        some = [n if mine == own else 0 for n, mine in zip(pads, on_plain, strict=True)]
        found = call.target(**given | {"self": found, "pad": some, "value": value})
    return found != 0
