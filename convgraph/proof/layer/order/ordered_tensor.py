"""Tensors whose entries are known by their order; see `codes`.

What is known belongs to memory, so that a write through any view is known to all. A tensor that no
datum has reached is a constant with plain numbers.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.layer.order import codes


@final
@dataclass
class Memory:
    """One piece of memory.

    Attributes:
        plain: all of it, flat, where it is a constant.
        known: (suppositions, all of it flat) as `codes` says; None where it is a constant.
        dtype: of its entries.
        whose: (suppositions, all of it flat) whose window each follows from, see `whose`; None for
            nobody's.
        data: whether it is made of data, as a plain run would say: what was only decided is not.
        frozen: an input, which a program may not write to.
        decided: whether what was compared decided it.
        sent: whether it is made of a gradient that was sent.
    """

    plain: Tensor | None
    known: Tensor | None
    dtype: torch.dtype
    whose: Tensor | None = None
    data: bool = False
    frozen: bool = False
    decided: bool = False
    sent: bool = False

    @property
    def entries(self) -> int:
        """How many it has."""
        flat = self.plain if self.known is None else self.known[0]
        return 0 if flat is None else flat.numel()


class Ordered(Tensor):
    """A tensor that is followed by order."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    memory: Memory
    follower: Any

    @staticmethod
    def __new__(  # noqa: D102
        cls, like: Tensor, memory: Memory, follower: Any, requires_grad: bool = False
    ) -> "Ordered":
        made: Ordered = torch.Tensor._make_wrapper_subclass(
            cls,
            like.shape,
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=memory.dtype,
            device=like.device,
            requires_grad=requires_grad,
        )
        made.memory, made.follower = memory, follower
        return made

    @property
    def constant(self) -> bool:
        """Whether its numbers may be read."""
        return self.memory.known is None

    def held(self) -> Tensor:
        """Plain numbers of a constant at these places, or what is known under each supposition."""
        flat = self.memory.known
        if flat is not None:
            return self._under_each(flat)
        assert self.memory.plain is not None  # one of them is there
        return self.memory.plain.as_strided(self.shape, self.stride(), self.storage_offset())

    def whose(self) -> Tensor | None:
        """Whose window the entries follow from, under each supposition; None for nobody's."""
        flat = self.memory.whose
        return None if flat is None else self._under_each(flat)

    def _under_each(self, flat: Tensor) -> Tensor:
        shape, strides = (len(flat), *self.shape), (flat.shape[1], *self.stride())
        return flat.as_strided(shape, strides, self.storage_offset())

    def knows(self) -> Tensor:
        """What is known of the entries, under each supposition."""
        if not self.constant:
            return self.held()
        found = known(self.held(), self.memory.dtype)
        return found.expand(self.follower.many, *found.shape)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # noqa: D105 - torch's own is no classmethod
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        (follower, *_) = (
            t.follower for t in trees.leaves((args, kwargs)) if isinstance(t, Ordered)
        )
        with torch._C.DisableTorchFunction():
            return follower.call(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Shape and dtype; no numbers, which would be a way out for them."""
        return f"Ordered({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        """A copy that is followed too."""
        return self.detach().clone().requires_grad_(self.requires_grad)


def known(plain: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is known of plain numbers."""
    return codes.number(plain) if dtype.is_floating_point else codes.whole(plain)
