"""Every element of every value of a network carries a number that says where it comes from.

An operator that computes makes new numbers; one that only moves values (view, permute, cat, pad,
index, ...) is run on the numbers themselves. Two tensors with the same numbers hold the same values
whatever their layout is, so layouts, orders of concatenation and skipped connections are compared
exactly and without a rule for any of them. Number 0 is the constant 0.

Numbers live with the memory of a tensor, not with the tensor: views and writes in place need no
bookkeeping of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Shape = tuple[int, ...]


class Undecided(Exception):  # noqa: N818  # a verdict, not an error
    """What was seen cannot be followed; the text says what and where."""


class Random(Undecided):
    """Two runs of this are two functions: not even outputs may be compared."""


class Unordered(Undecided):
    """The same elements in an order that no rule covers; the text says where."""


@final
@dataclass(frozen=True)
class Progression:
    """Numbers in arithmetic progression: base + sum over axes of stride * index.

    Attributes:
        base: the first number.
        shape: of the tensor.
        stride: steps between numbers along each axis; 0 where the axis has one entry.
    """

    base: int
    shape: Shape
    stride: Shape

    def tensor(self) -> Tensor:
        """The numbers, int64."""
        found = torch.full(self.shape, self.base, dtype=torch.int64)
        for axis, (n, step) in enumerate(zip(self.shape, self.stride, strict=True)):
            if step and n > 1:
                found += (torch.arange(n) * step).view(-1, *(1,) * (len(self.shape) - axis - 1))
        return found


Numbers = Progression | Tensor
"""The numbers of one tensor: a Progression, or int64 of its shape."""


def progression(base: int, shape: Shape) -> Progression:
    """Return consecutive numbers in raster order.

    Example:
        >>> progression(5, (2, 3)).tensor().tolist()
        [[5, 6, 7], [8, 9, 10]]
    """
    return Progression(base, tuple(shape), _strides(shape))


def _strides(shape: Any) -> Shape:
    found, step = [], 1
    for n in reversed(tuple(shape)):
        found.append(step if n > 1 else 0)
        step *= n
    return tuple(reversed(found))


def as_tensor(numbers: Numbers) -> Tensor:
    """Return numbers as int64 of their shape."""
    return numbers.tensor() if isinstance(numbers, Progression) else numbers


def tidy(numbers: Tensor) -> Numbers:
    """Return consecutive numbers as a Progression, others as they are."""
    count = numbers.numel()
    if not count:
        return progression(0, tuple(numbers.shape))
    flat = numbers.reshape(-1)
    first, last = int(flat[0]), int(flat[-1])
    if last - first == count - 1 and bool((flat == torch.arange(first, last + 1)).all()):
        return progression(first, tuple(numbers.shape))
    return numbers


def flat(numbers: Numbers) -> Numbers:
    """Return numbers as one line."""
    return tidy(as_tensor(numbers).reshape(-1))


def same(one: Numbers, two: Numbers) -> bool:
    """Say whether two tensors hold the same numbers at the same places.

    Example:
        >>> same(progression(0, (2, 2)), torch.tensor([[0, 1], [2, 3]]))
        True
        >>> same(progression(0, (2, 2)), torch.tensor([[0, 2], [1, 3]]))
        False
    """
    if tuple(one.shape) != tuple(two.shape):
        return False
    if isinstance(one, Progression) and isinstance(two, Progression):
        return one == two or (0 in one.shape)
    return bool(torch.equal(as_tensor(one), as_tensor(two)))


@final
class Numbering:
    """Hands numbers out; one for both sides of a comparison.

    Attributes:
        names: (first number, shape) of each parameter, buffer and input, by name.
        told: hears of every name and constant: its first number and shape, a constant's values.
    """

    def __init__(self) -> None:
        """Start behind 0, the constant 0."""
        self.next = 1
        self.names: dict[str, tuple[int, Shape]] = {}
        self.told: Callable[[int, Shape, Tensor | None], None] | None = None
        self._literals: dict[Any, int] = {}

    def take(self, shape: Shape) -> Progression:
        """New numbers for a tensor of a shape."""
        found = progression(self.next, shape)
        self.next += max(torch.Size(shape).numel(), 1)
        return found

    def named(self, name: str, shape: Shape) -> Progression:
        """The numbers of what both sides have under one name, row by row, in whatever shape."""
        count = torch.Size(shape).numel()
        if name not in self.names or torch.Size(self.names[name][1]).numel() != count:
            self.names[name] = (self.take(shape).base, shape)
            if self.told is not None:
                self.told(self.names[name][0], shape, None)
        return progression(self.names[name][0], shape)

    def literal(self, tensor: Tensor) -> Numbers:
        """The numbers of a constant: equal bits are equal constants."""
        held = tensor.detach().cpu().contiguous()
        if held.numel() == 0:
            return progression(0, tuple(held.shape))
        values, places = torch.unique(held, return_inverse=True)
        if values.numel() <= 64:  # masks and fills: number by value, whatever the shape is
            table = torch.tensor([self.constant(v, held.dtype) for v in values.tolist()])
            return tidy(table[places].reshape(held.shape))
        key = (sha256(held.view(torch.uint8).numpy().tobytes()).digest(), held.dtype, held.shape)
        if key not in self._literals:
            self._literals[key] = self.take(tuple(held.shape)).base
            if self.told is not None:
                self.told(self._literals[key], tuple(held.shape), held)
        return progression(self._literals[key], tuple(held.shape))

    def constant(self, value: Any, dtype: torch.dtype) -> int:
        """The number of one constant; any kind of 0 is 0."""
        if value == 0:
            return 0
        key = (repr(value), dtype.is_floating_point)
        if key not in self._literals:
            self._literals[key] = self.take((1,)).base
            if self.told is not None:
                exact = torch.float64 if isinstance(value, float) else None  # as any dtype has it
                self.told(self._literals[key], (1,), torch.tensor([value], dtype=exact))
        return self._literals[key]


@dataclass
class _Cell:
    """What is known of one piece of memory."""

    kept: StorageWeakRef  # keeps the address from being used again, not the memory
    itemsize: int
    whole: tuple[Numbers, Shape, Shape, int] | None = None
    flat: Tensor | None = None
    switches: frozenset[str] = frozenset()


@final
class Memory:
    """The numbers of whatever lies in memory on one side.

    Args:
        numbering: shared by both sides.
    """

    def __init__(self, numbering: Numbering) -> None:
        """Start without any."""
        self.numbering = numbering
        self._cells: dict[int, _Cell] = {}
        self._handed: dict[int, tuple[StorageWeakRef, str]] = {}

    def knows(self, tensor: Tensor) -> bool:
        """Say whether this memory holds data or parameters, rather than a constant."""
        return tensor.untyped_storage()._cdata in self._cells

    def read(self, tensor: Tensor) -> Numbers:
        """Return the numbers of a tensor; those of a constant if nothing is known of it."""
        storage = tensor.untyped_storage()
        cell = self._cells.get(storage._cdata)
        shape = tuple(tensor.shape)
        if cell is None:
            return self.numbering.literal(tensor)
        if cell.itemsize != tensor.element_size():
            raise Undecided("a view of another dtype")
        if cell.whole is not None:
            numbers, size, stride, offset = cell.whole
            if (shape, _plain(tensor)) == (size, stride) and tensor.storage_offset() == offset:
                return numbers
            if isinstance(numbers, Progression) and stride == numbers.stride == _strides(size):
                return Progression(
                    numbers.base + int(tensor.storage_offset()) - offset, shape, _plain(tensor)
                )
            self._spread(cell, storage.nbytes() // cell.itemsize)
        flat: Any = cell.flat
        found = flat.as_strided(shape, tensor.stride(), tensor.storage_offset())
        if bool((found < 0).any()):
            raise Undecided("memory is read that nothing was written to")
        return tidy(found.contiguous())

    def write(self, tensor: Tensor, numbers: Numbers) -> None:
        """Say what a tensor now holds."""
        storage = tensor.untyped_storage()
        count = storage.nbytes() // tensor.element_size()
        cell = self._cells.get(storage._cdata)
        if cell is None:
            cell = _Cell(StorageWeakRef(storage), tensor.element_size())
            self._cells[storage._cdata] = cell
            if tensor.numel() < count:  # e.g. one column of a fresh buffer: the rest is unknown
                cell.flat = torch.full((count,), -1, dtype=torch.int64)
        cell.switches = frozenset()
        if tensor.numel() == count and _dense(tensor):
            place = int(tensor.storage_offset())
            cell.whole = (numbers, tuple(tensor.shape), _plain(tensor), place)
            cell.flat = None
            return
        self._spread(cell, count)
        cell.whole = None
        flat: Any = cell.flat
        view = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        view.copy_(as_tensor(numbers))

    def switches(self, tensors: Sequence[Tensor]) -> frozenset[str]:
        """The switches that some tensors are made of, where all that is known of is made of them.

        A switch is one whole number that a side holds, such as whether an observer is on.
        """
        cells = [self._cells.get(t.untyped_storage()._cdata) for t in tensors]
        found = [cell.switches for cell in cells if cell is not None]
        return frozenset().union(*found) if all(found) else frozenset()

    def is_switch(self, tensor: Tensor, names: frozenset[str]) -> None:
        """Say that a tensor whose numbers are known is made of switches alone."""
        self._cells[tensor.untyped_storage()._cdata].switches = names

    def hand_out(self, tensor: Tensor, way: str) -> None:
        """Keep in mind by which way the memory of a constant is known outside of torch."""
        storage = tensor.untyped_storage()
        self._handed[storage._cdata] = StorageWeakRef(storage), way

    def adopt(self, tensor: Tensor) -> None:
        """Take a constant that is about to be written to for memory of its own.

        Raises:
            Undecided: whoever holds that memory outside of torch can read and change it.
        """
        if self.knows(tensor):
            return
        storage = tensor.untyped_storage()
        _, way = self._handed.get(storage._cdata, (None, ""))
        if way or not storage.resizable():  # torch leaves memory as it is that NumPy has a share in
            by = f"Tensor.{way}" if way else "NumPy or a file"
            raise Undecided(
                f"data are written to memory that is known outside of torch, by {by}; whoever "
                "holds it can read and change them"
            )
        base = tensor if tensor._base is None else tensor._base
        self.write(base, self.numbering.literal(base))

    def sweep(self) -> None:
        """Forget memory that is gone."""
        self._cells = {key: cell for key, cell in self._cells.items() if not cell.kept.expired()}
        self._handed = {key: one for key, one in self._handed.items() if not one[0].expired()}

    @staticmethod
    def _spread(cell: _Cell, count: int) -> None:
        if cell.flat is None:
            cell.flat = torch.full((count,), -1, dtype=torch.int64)
            if cell.whole is not None:
                numbers, size, stride, offset = cell.whole
                cell.flat.as_strided(size, stride, offset).copy_(as_tensor(numbers))


def _plain(tensor: Tensor) -> Shape:
    """Strides, 0 where there is nothing to step over."""
    return tuple(s if n > 1 else 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _dense(tensor: Tensor) -> bool:
    """Say whether no two entries share memory and none is left out."""
    pairs = sorted((s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1)
    step = 1
    for stride, n in pairs:
        if stride != step:
            return False
        step *= n
    return True
