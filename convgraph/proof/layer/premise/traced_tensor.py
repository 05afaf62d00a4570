"""Tensors that carry the degrees of their entries.

A `Traced` wraps a tensor that holds real numbers; each operator on it is run on what it wraps, and
its rule says which monomials come out. What is known belongs to memory, not to views: a `Memory` is
shared by all tensors of one storage, so that a write through any of them is known to all. Tensors
that depend on no input stay constants, whose numbers may be read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.utils.dlpack
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.layer.premise.degrees import Bound, union
from convgraph.proof.layer.premise.rounded import NEVER, Rounded


@final
@dataclass(frozen=True)
class Origin:
    """An operator and the line of user code that called it."""

    operator: str = ""
    line: str = ""


@final
@dataclass
class Memory:
    """What is known of one piece of memory.

    Attributes:
        base: a tensor on all of it.
        bound: of its entries; None for a constant, whose entries are read when they matter.
        frozen: an input, which a program may not write to.
        hollow: NaN stands for what nothing has written yet.
        handed: by which way its memory has left torch, "" if by none.
        pieces: (first, behind the last, bound) of runs of entries of which more is known.
        random: where a constant was drawn that another call would not draw again.
        origin: where its monomials came together.
        rounded: how often its entries were rounded to a half type.
    """

    base: Tensor
    bound: Bound | None = None
    frozen: bool = False
    hollow: bool = False
    handed: str = ""
    pieces: tuple[tuple[int, int, Bound], ...] = ()
    random: Origin | None = None
    origin: Origin = Origin()
    rounded: Rounded = NEVER


class Traced(Tensor):
    """A tensor whose entries are followed; see the module."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    held: Tensor
    memory: Memory
    follower: Any
    number: int

    @staticmethod
    def __new__(  # noqa: D102
        cls, inner: Tensor, memory: Memory, follower: Any, requires_grad: bool = False
    ) -> "Traced":
        made: Traced = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=inner.device,
            requires_grad=requires_grad,
        )
        made.held, made.memory, made.follower, made.number = inner, memory, follower, -1
        return made

    @property
    def bound(self) -> Bound | None:
        """What is known of the entries of this view; None for a constant."""
        pieces = self.memory.pieces
        if self.memory.bound is None or not pieces or not self.numel():
            return self.memory.bound
        first = self.storage_offset()
        sizes = zip(self.shape, self.stride(), strict=True)
        last = first + sum((n - 1) * step for n, step in sizes)
        return union(b for start, end, b in pieces if start <= last and first < end)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # noqa: D105 - torch's own is no classmethod
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        (follower, *_) = (t.follower for t in trees.leaves((args, kwargs)) if isinstance(t, Traced))
        with torch._C.DisableTorchFunction():
            return follower.call(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Shape and monomials; no numbers, which would be a way out for them."""
        known = "constant" if self.memory.bound is None else ", ".join(self.memory.bound.spelled())
        return f"Traced({tuple(self.shape)}, {self.dtype}, {known})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        """A copy that is followed too."""
        return self.detach().clone().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles hold numbers."""
        self.follower.escape(self, "pickle")
        return self.held.__reduce_ex__(protocol)

    # What gives numbers away without an operator. A constant may; data may not.

    def numpy(self, **how: Any) -> Any:
        """The numbers of a constant."""
        return self.follower.escape(self, "numpy").numpy(**how)

    def __array__(self, *how: Any, **more: Any) -> Any:
        """The numbers of a constant."""
        return self.follower.escape(self, "numpy").__array__(*how, **more)

    def tolist(self) -> Any:
        """The numbers of a constant."""
        return self.follower.escape(self, "tolist").tolist()

    def apply_(self, function: Any) -> Any:
        """The numbers of a constant, one after the other in Python."""
        self.follower.escape(self, "apply_").apply_(function)
        return self

    def data_ptr(self) -> Any:
        """Where the numbers of a constant are."""
        return self.follower.escape(self, "data_ptr").data_ptr()

    def const_data_ptr(self) -> Any:
        """Where the numbers of a constant are."""
        return self.follower.escape(self, "data_ptr").data_ptr()

    def mutable_data_ptr(self) -> Any:
        """Where the numbers of a constant are."""
        return self.follower.escape(self, "data_ptr").data_ptr()

    def untyped_storage(self) -> Any:
        """Memory of a constant."""
        return self.follower.escape(self, "untyped_storage").untyped_storage()

    def storage(self) -> Any:
        """Memory of a constant."""
        return self.follower.escape(self, "storage").storage()

    def __dlpack__(self, *how: Any, **more: Any) -> Any:
        """Memory of a constant."""
        return self.follower.escape(self, "dlpack").__dlpack__(*how, **more)

    def __dlpack_device__(self) -> Any:
        """Where it is."""
        return self.held.__dlpack_device__()

    @property
    def data(self) -> Tensor:
        """The same entries without a history."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        """Swap what a tensor holds, as modules do where they are moved to another dtype."""
        if self.memory.bound is not None:
            self.follower.refuse("refuted", "Tensor.data", "assigning .data swaps what data are")
        if not isinstance(value, Traced):
            self.follower.refuse(
                "undecided", "Tensor.data", "assigning .data brings unknown memory in"
            )
        other: Any = value
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held, self.memory = other.held, other.memory


@contextmanager
def guarded() -> Iterator[None]:
    """Keep torch's oldest door to DLPack from reading memory that a `Traced` does not have."""
    doors = [(torch, "to_dlpack"), (torch.utils.dlpack, "to_dlpack"), (torch._C, "_to_dlpack")]
    before = [(module, name, getattr(module, name)) for module, name in doors]

    def careful(tensor: Tensor) -> Any:
        return tensor.__dlpack__() if isinstance(tensor, Traced) else before[-1][2](tensor)

    try:
        for module, name in doors:
            setattr(module, name, careful)
        yield
    finally:
        for module, name, found in before:
            setattr(module, name, found)


def address(tensor: Tensor) -> int:
    """What two tensors that share memory have in common."""
    if tensor.layout != torch.strided:
        return id(tensor)
    place: int = tensor.untyped_storage()._cdata
    return place


def covers(tensor: Tensor, entries: int | None = None) -> bool:
    """Whether a tensor is all of its memory, which may be said to have so many, each once."""
    if entries is None:
        entries = tensor.untyped_storage().nbytes() // tensor.element_size()
    if entries != tensor.numel():
        return False
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
