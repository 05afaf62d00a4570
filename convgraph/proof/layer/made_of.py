"""What a result is made of: the same number where the same operators made it of the same inputs.

    number(made) = hash(operator, what it was given, which of its results)

Inputs are known by their turn, data by the number of their memory and by how they lie in it, and
constants by their entries. So one list of operators that is put together otherwise, or with other
constants, has other results, and operators that nothing uses have no part in them.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from convgraph.proof import aten, trees
from convgraph.proof.layer.premise.traced_tensor import covers
from convgraph.proof.ways_out import storage_of

Seen = tuple[Any, ...]
"""The number of a memory, and how a tensor lies in it."""

Given = tuple[int, Seen | None]
"""An operator with what it is given, and what it hands on as it is."""

_LEFT_OUT = frozenset({"output_mask"})
"""Arguments that say which results are wanted, not what they are."""

_SMALL = 4096
"""Constants of so many entries are read anew each time."""


@final
class MadeOf:
    """Numbers the memories of one run."""

    def __init__(self) -> None:
        """Start with no input."""
        self._constants: dict[int, dict[Any, int]] = {}
        self._numbers: dict[int, int] = {}
        self._kept: list[StorageWeakRef] = []
        self._alone: dict[Seen, Seen] = {}
        self._inputs = 0

    def enter(self, tensor: Tensor) -> None:
        """Number an input, by its turn."""
        self._number(tensor, hash(("input", self._inputs)))
        self._inputs += 1

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in memory that was numbered."""
        tensor = getattr(tensor, "held", tensor)  # of S1, kept by the program until now
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
            if one is not None and covers(tensor):
                if _lies(tensor) == one[1:]:
                    made = one[0]
                else:
                    self._alone[made, *_lies(tensor)] = one
            self._number(tensor, made)

    def _number(self, tensor: Tensor, number: int) -> None:
        if tensor.layout == torch.strided:  # so that no other memory gets its place
            self._kept.append(StorageWeakRef(storage_of(tensor)))
        self._numbers[_memory(tensor)] = number

    def _handed_on(self, func: Any, args: Any, kwargs: Any) -> Seen | None:
        """What an operator hands on as it is: a copy, or a sum with zeros."""
        name = aten.base_of(func)
        tensors = [t for t in aten.tensors_in(args, kwargs) if t.layout == torch.strided]
        if name == "clone" and tensors:
            return self._known(tensors[0])
        if name == "copy" and len(tensors) > 1 and tensors[0].shape == tensors[1].shape:
            return self._known(tensors[1]) if tensors[0].dtype == tensors[1].dtype else None
        if name != "add" or len(tensors) != 2 or len(args) + len(kwargs) > 2:
            return None
        data = [t for t in tensors if self.knows(t)]
        rest = [t for t in tensors if not self.knows(t)]
        alike = tensors[0].shape == tensors[1].shape and tensors[0].dtype == tensors[1].dtype
        zeros = len(data) == 1 and alike and not bool(rest[0].count_nonzero())
        return self._known(data[0]) if zeros else None

    def _known(self, tensor: Tensor) -> Seen | None:
        return self.result(tensor) if self.knows(tensor) else None

    def _seen(self, tensor: Tensor) -> Seen:
        number = self._numbers.get(_memory(tensor))
        return (self._constant(tensor) if number is None else number, *_lies(tensor))

    def _tell(self, value: Any, *, filled: bool) -> Any:
        """What an argument is; of what is filled to the last entry, nothing that was there."""

        def tell(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return repr(leaf)
            return _lies(leaf) if filled and covers(leaf) else self._seen(leaf)

        return tuple(map(tell, trees.leaves(value)))

    def _constant(self, tensor: Tensor) -> int:
        """The entries of what is no data."""
        if tensor.layout != torch.strided:
            return hash(tuple(map(self._seen, _parts(tensor))))
        if tensor.is_meta:
            return 0
        if tensor.numel() <= _SMALL or tensor.is_inference() or _is_shared(tensor):
            return _entries(tensor)
        known = self._constants.setdefault(_memory(tensor), {})
        key = (tensor._version, *_lies(tensor))
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


def _memory(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        return id(tensor)
    number: int = storage_of(tensor)._cdata
    return number


def _lies(tensor: Tensor) -> Seen:
    if tensor.layout != torch.strided:
        return (tuple(tensor.shape), tensor.dtype)
    at = tensor.storage_offset()
    return (tuple(tensor.shape), tensor.dtype, tensor.stride(), at)


def _entries(tensor: Tensor) -> int:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().cpu().reshape(-1)
    return hash(flat.view(torch.uint8).numpy().tobytes())
