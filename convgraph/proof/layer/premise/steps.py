"""One step of a program: an operator on data, what it made, and the line that called it."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, final

import torch

from convgraph.proof import aten
from convgraph.proof.layer.premise import source_lines

_ABOUT = frozenset({"is_same_size", "is_pinned", "_has_same_storage_numel"})
"""Questions about a tensor that its entries do not answer."""

_INTO = frozenset({"aten::select_backward", "aten::slice_backward"})
"""Operators that put a gradient into zeros of a shape."""

Made = tuple[tuple[tuple[int, ...], torch.dtype], ...]


@final
@dataclass(frozen=True)
class Step:
    """One operator on data.

    Attributes:
        operator: its name with overload, e.g. "aten::add.Tensor".
        made: shape and dtype of each tensor that it returned.
        place: file, line and function of user code that called it, where known.
        given: what it was given, as a number; see `made_of`.
    """

    operator: str
    made: Made
    place: source_lines.Place | None = field(default=None, compare=False)
    given: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """The operator, the shapes, and the line."""
        shapes = ", ".join(f"{str(d)[6:]}{list(s)}" for s, d in self.made)
        where = "" if self.place is None else f" ({source_lines.spell(*self.place)})"
        name = self.operator.replace("aten::", "aten.")
        return f"{name} -> {shapes}{where}"


def made_by(outputs: Any) -> Made:
    """Shape and dtype of every tensor of numbers among what an operator returned."""
    return tuple(
        (tuple(t.shape), t.dtype) for t in aten.tensors_in(outputs) if t.is_floating_point()
    )


def asks_only(func: Any, name: str) -> bool:
    """Whether an operator says what a tensor is like, not what it holds."""
    return func.namespace == "prim" or name in _ABOUT


def reshapes(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a gradient is put into zeros of its own size: all of it, under another shape."""
    return func.name() in _INTO and args[0].numel() == prod(args[1])


def is_step(func: Any) -> bool:
    """Whether an operator is one by which programs are compared: views come and go."""
    moves = torch.Tag.inplace_view in func.tags  # strides alone
    return not (func.is_view or moves or func.name() in ("aten::lift_fresh", "aten::detach_"))
