"""What a result is made of: the same number where the same operators made it of the same inputs.

    number(made) = hash(operator, what it was given, which of its results)

Inputs are known by their turn, data by the number of their memory and by how they lie in it, and
constants by their entries. So one list of operators that is put together otherwise, or with other
constants, has other results, and operators that nothing uses have no part in them. What is run is
numbered, and what S1 follows.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from convgraph.proof import aten, trees
from convgraph.proof.layer.premise.steps import is_step, reshapes
from convgraph.proof.layer.premise.traced_tensor import Traced, covers
from convgraph.proof.ways_out import storage_of

Seen = tuple[Any, ...]
"""The number of a memory, and how a tensor lies in it."""

Given = tuple[int, Seen | None]
"""An operator with what it is given, and what it hands on as it is."""

_LEFT_OUT = frozenset({"output_mask"})
"""Arguments that say which results are wanted, not what they are."""

_SMALL = 4096
"""Constants of so many entries are read anew each time."""


NOTHING = aten.FILLS | aten.DRAWS
"""Operators whose results are made of nothing that they are given."""


@final
class MadeOf:
    """Numbers the memories of one run.

    Args:
        casts: whether a cast makes something else, and another dtype or layout is another number.
            Without, entries are known by where they lay in what was made of them first.
    """

    def __init__(self, *, casts: bool = True) -> None:
        """Start with no input."""
        self._casts = casts
        self._constants: dict[int, dict[Any, int]] = {}
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []
        self._alone: dict[Seen, Seen] = {}
        self._first: dict[int, tuple[int, Tensor]] = {}
        self._inputs = 0

    def enter(self, tensor: Tensor) -> None:
        """Number an input, by its turn."""
        self._number(tensor, hash(("input", self._inputs)))  # which is laid out in rows
        self._inputs += 1

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in memory that was numbered."""
        if isinstance(tensor, Traced):  # kept by the program until now
            tensor = tensor.held
        return _memory(tensor) in self._numbers

    def result(self, tensor: Tensor) -> Seen:
        """What a tensor is made of; a sum with zeros of what is no zero alone."""
        seen = self._seen(tensor)
        return self._alone.get(seen, seen)

    def whole(self, operator: str, args: Any) -> Given:
        """What is trusted as one step, and the tensors that it is given."""
        return hash((operator, *(self._seen(tensor) for tensor in aten.tensors_in(args)))), None

    def given(self, func: Any, args: Any, kwargs: Any) -> Given:
        """An operator and what it is given, before it runs."""
        filled = _filled(func)
        named = {**dict(zip(filled, args, strict=False)), **kwargs}
        told = [
            (name, self._tell(named[name], filled=there))
            for name, there in filled.items()
            if name in named and name not in _LEFT_OUT
        ]
        return hash((func.name(), *told)), self._handed_on(func, args, kwargs)

    def forget(self, tensors: Iterable[Tensor]) -> None:
        """Read constants anew that were written to."""
        for tensor in tensors:
            self._constants.pop(_memory(tensor), None)

    def beside(self, func: Any, args: Any, kwargs: Any, written: Any) -> Given | None:
        """The same of an operator on no data; None of constants alone, which are read anew."""
        if not is_step(func) or not any(map(self.knows, aten.tensors_in(args, kwargs))):
            self.forget(written)
            return None
        return None if aten.base_of(func) in NOTHING else self.given(func, args, kwargs)

    def made(self, given: Given, outputs: Any, written: Any = (), sent: Any = ()) -> None:
        """Number the memories that an operator made or wrote; views of what it was sent stay."""
        number, one = given
        there = {_memory(tensor) for tensor in aten.tensors_in(sent)}
        several = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        for place, tensor in enumerate((*written, *several)):
            if not isinstance(tensor, Tensor):
                continue
            if place >= len(written) and _memory(tensor) in there:
                continue
            made = hash((number, place))
            whole = _covers(tensor)
            if one is not None and whole and self._casts:
                if self._lies(tensor) == one[1:]:
                    made = one[0]
                else:
                    self._alone[made, *self._lies(tensor)] = one
            self._number(tensor, made)
            if whole and not self._casts:
                first = (made, torch.arange(tensor.numel())) if one is None else one
                self._put(tensor, *first)

    def same(self, made: Tensor, source: Tensor) -> None:
        """Number a copy as what it is a copy of, where torch has the same memory."""
        if self.knows(source):
            self._number(made, self._numbers[_memory(source)])

    def _put(self, tensor: Tensor, number: int, places: Tensor) -> None:
        """Say where the entries of a memory lay first, in rows as they are indexed."""
        flat = torch.empty(tensor.numel(), dtype=torch.int64)
        laid = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        laid.copy_(places.reshape(tensor.shape))
        self._first[_memory(tensor)] = (number, flat)

    def _lay(self, tensor: Tensor) -> tuple[int, Tensor]:
        """Number of the memory in which entries lay first, and where."""
        memory = _memory(tensor)
        number, flat = self._first.get(memory, (self._numbers[memory], None))
        if flat is None:
            flat = torch.arange(storage_of(tensor).nbytes() // tensor.element_size())
        return number, flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _number(self, tensor: Tensor, number: int) -> None:
        if (memory := _followed(tensor)) is not None:  # so that no other memory gets its place
            self._kept.append(memory)
        elif tensor.layout == torch.strided:
            self._kept.append(StorageWeakRef(storage_of(tensor)))
        self._numbers[_memory(tensor)] = number
        self._first.pop(_memory(tensor), None)

    def _handed_on(self, func: Any, args: Any, kwargs: Any) -> Seen | None:
        """What an operator hands on as it is: a copy, or a sum with zeros."""
        name = aten.base_of(func)
        tensors = [t for t in aten.tensors_in(args, kwargs) if t.layout == torch.strided]
        moved = not self._casts and (name == "_to_copy" or reshapes(func, args))
        if tensors and (name == "clone" or moved):
            return self._known(tensors[0])
        if name == "copy" and len(tensors) > 1 and tensors[0].shape == tensors[1].shape:
            alike = tensors[0].dtype == tensors[1].dtype or not self._casts
            return self._known(tensors[1]) if alike else None
        if name != "add" or len(tensors) != 2 or len(args) + len(kwargs) > 2:
            return None
        data = [t for t in tensors if self.knows(t)]
        rest = [t for t in tensors if not self.knows(t)]
        alike = tensors[0].shape == tensors[1].shape and tensors[0].dtype == tensors[1].dtype
        zeros = len(data) == 1 and alike and not bool(_plain(rest[0]).count_nonzero())
        return self._known(data[0]) if zeros else None

    def _known(self, tensor: Tensor) -> Seen | None:
        if not self.knows(tensor):
            return None
        return self.result(tensor) if self._casts else self._lay(tensor)

    def _seen(self, tensor: Tensor) -> Seen:
        number = self._numbers.get(_memory(tensor))
        if number is None:
            return (self._constant(tensor), *self._lies(tensor))
        if self._casts or tensor.layout != torch.strided:
            return (number, *self._lies(tensor))
        number, places = self._lay(tensor)
        return (number, tuple(tensor.shape), _entries(places))

    def _lies(self, tensor: Tensor) -> Seen:
        """How a tensor lies in its memory; the stride of an axis of one entry says nothing."""
        shape, kind = tuple(tensor.shape), tensor.dtype if self._casts else None
        if tensor.layout != torch.strided or not self._casts or not tensor.numel():
            return (shape, kind)
        steps = [step if n != 1 else 0 for n, step in zip(shape, tensor.stride(), strict=True)]
        return (shape, kind, *steps, tensor.storage_offset())

    def _tell(self, value: Any, *, filled: bool) -> Any:
        """What an argument is; of what is filled to the last entry, nothing that was there."""

        def tell(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                return self._lies(leaf) if filled and _covers(leaf) else self._seen(leaf)
            return repr(leaf) if self._casts or not isinstance(leaf, torch.dtype) else None

        return tuple(map(tell, trees.leaves(value)))

    def _constant(self, tensor: Tensor) -> int:
        """The entries of what is no data."""
        tensor = _plain(tensor)
        if tensor.layout != torch.strided:
            return hash(tuple(map(self._seen, _parts(tensor))))
        if tensor.is_meta:
            return 0
        if not self._casts and tensor.is_floating_point():
            return _entries(tensor.double())
        if tensor.numel() <= _SMALL or tensor.is_inference() or _is_shared(tensor):
            return _entries(tensor)
        known = self._constants.setdefault(_memory(tensor), {})
        key = (tensor._version, *self._lies(tensor))
        if key not in known:  # as long as this is known, no other memory gets its place
            self._kept.append(StorageWeakRef(storage_of(tensor)))
            known[key] = _entries(tensor)
        return known[key]


def _parts(tensor: Tensor) -> list[Tensor]:
    """What a sparse tensor is put together of, or its entries."""
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.to_dense()]


def _is_shared(tensor: Tensor) -> bool:
    """Whether memory is, or was, an array of NumPy's as well, which writes without a version."""
    return not storage_of(tensor).resizable()


@lru_cache(maxsize=1024)
def _filled(func: Any) -> dict[str, bool]:
    """Whether a result is put into an argument, whatever was there before in these entries."""
    return {
        a.name: bool(a.kwarg_only and a.alias_info and a.alias_info.is_write)
        for a in func._schema.arguments
    }


def _followed(tensor: Tensor) -> Any:
    """The memory of a tensor that is followed by order: it has none of torch's."""
    return None if isinstance(tensor, Traced) else getattr(tensor, "memory", None)


def _plain(tensor: Any) -> Tensor:
    """The numbers of a constant."""
    found: Tensor = tensor if _followed(tensor) is None else tensor.held()
    return found


def _covers(tensor: Tensor) -> bool:
    memory = _followed(tensor)
    return covers(tensor, None if memory is None else memory.entries)


def _memory(tensor: Tensor) -> int:
    if (memory := _followed(tensor)) is not None:
        return id(memory)
    if tensor.layout != torch.strided:
        return id(tensor)
    number: int = storage_of(tensor)._cdata
    return number


def _entries(tensor: Tensor) -> int:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().cpu()
    flat = flat.as_strided((flat.numel(),), (1,))  # of one entry any stride is contiguous
    return hash(flat.view(torch.uint8).numpy().tobytes())
