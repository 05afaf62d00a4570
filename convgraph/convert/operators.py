"""Operators of torch, as a rule is given them, and who else matters while one is computed."""

import threading
from functools import lru_cache
from typing import Any

import torch

from convgraph.convert import registry

INTO_TENSOR = (
    "a map is written into an ordinary tensor; make it of the map, by zeros_like or by cat"
)
"""Why nothing is written that only a map could keep."""


class _State(threading.local):
    """The dispatch keys as the caller of the operator in progress has set them; who else matters.

    Attributes:
        keys: those keys.
        listener: who records what is run.
        into: the map that is being written into by indices.
    """

    keys: Any = None
    listener: Any = None
    into: Any = None


_STATE = _State()


class Operator:
    """One of torch's operators, as a rule is given it.

    Attributes:
        target: what to call on ordinary tensors.
        name: that rules are registered under.
        out: the argument into which its result is to be written, None where there is none.
        writes: whether it writes into its first operand.
        others: the arguments that it writes into beside that, by name; lists among them.
        views: whether its result shares memory with its first operand.
    """

    __slots__ = ("name", "others", "out", "target", "views", "writes")

    def __init__(self, target: Any) -> None:
        """Read what the operator says of itself."""
        self.target = target
        self.name = str(target._schema.name).removeprefix("aten::")
        given = target._schema.arguments
        alias = given[0].alias_info if given else None
        self.writes = alias is not None and alias.is_write
        written = [one for one in given if one.alias_info is not None and one.alias_info.is_write]
        self.out = next((one.name for one in written if one.is_out), None)
        single = self.writes and "List" not in str(given[0].type)
        self.others = {one.name for one in written[single:]}
        self.views = (alias is not None and not alias.is_write) or self.name in IDLE

    @property
    def rule(self) -> Any:
        """Its rule, or None."""
        return registry.find(self.name)

    @property
    def meant(self) -> "Operator":
        """What gives the numbers to write, where writing them has no rule of its own."""
        plain = getattr(torch.ops.aten, self.name.removesuffix("_"), None)
        found = getattr(plain, self.target._overloadname, None) if self.rule is None else None
        other = self if found is None else operator(found)
        return self if other.rule is None or other.rule.family == "shapes" else other

    def named(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of a call by their names, defaults among them."""
        schema = self.target._schema.arguments
        given = {one.name: one.default_value for one in schema if one.has_default_value()}
        return given | dict(zip((one.name for one in schema), args, strict=False)) | kwargs

    def laid(self, shape: Any, strides: Any, args: Any, kwargs: Any) -> Any:
        """Shape, strides and whether it is a view, of each result for a tensor so laid."""
        given = tuple(tuple(one) if isinstance(one, list) else one for one in args)
        return _laid(self.target, shape, strides, given, tuple(kwargs.items()))

    @property
    def listening(self) -> bool:
        """Whether somebody asks how far values travel."""
        return _STATE.listener is not None

    @property
    def moved(self) -> Any:
        """How values came: as was noted last, see `travelled`, or as the rule says."""
        noted = getattr(_STATE.listener, "moved", None)
        return self.rule.hop if noted is None else noted

    def travelled(self, how: Any) -> None:
        """Note along which edges (or picked rows) the values came, result by result in a tuple."""
        if _STATE.listener is not None:
            _STATE.listener.moved = how


def asked(target: Any, shape: Any, strides: Any, args: Any, kwargs: Any) -> Any:
    """Ask torch about shapes alone; see `Operator.laid`."""
    blank = torch.empty(shape, device="meta")
    if strides is not None:
        blank = torch.empty_strided(shape, strides, device="meta")
    made = target(blank, *args, **dict(kwargs))
    kept = blank.untyped_storage()._cdata
    return [
        (tuple(one.shape), one.stride(), one.untyped_storage()._cdata == kept)
        for one in (made if isinstance(made, (list, tuple)) else (made,))
    ]


_laid = lru_cache(maxsize=4096)(asked)

IDLE = ("dropout", "alpha_dropout", "type_as", "to")
"""What gives the very tensor that it was given, where there is nothing to do."""

_OPERATORS: dict[Any, Operator] = {}


def operator(target: Any) -> Operator:
    """Return the one record of an operator."""
    found = _OPERATORS.get(target)
    if found is None:
        found = _OPERATORS.setdefault(target, Operator(target))
    return found
