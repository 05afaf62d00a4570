"""What a result is made of: the same number where the same operators made it of the same inputs.

    number(made) = hash(operator, what it was given, which of its results)

Inputs are known by their turn, data by the number of their memory and by how they lie in it, and
constants by their entries. So one list of operators that is put together otherwise, or with other
constants, has other results, and operators that nothing uses have no part in them.
"""

from typing import Any, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from convgraph.proof import aten
from convgraph.proof.layer.premise.traced_tensor import covers

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
    """Numbers the memories of one run.

    Args:
        constants: what large ones were, as long as they are the same memory of the same version.
    """

    def __init__(self, constants: dict[Any, tuple[StorageWeakRef, int]]) -> None:
        """Start with no input."""
        self._constants = constants
        self._numbers: dict[int, int] = {}
        self._kept: list[StorageWeakRef] = []
        self._alone: dict[Seen, Seen] = {}
        self._inputs = 0

    def enter(self, tensor: Tensor) -> None:
        """Number an input, by its turn."""
        self._number(tensor, hash(("input", self._inputs)))
        self._inputs += 1

    def result(self, tensor: Tensor) -> Seen:
        """What a tensor is made of; a sum with zeros of what is no zero alone."""
        seen = self._seen(tensor)
        return self._alone.get(seen, seen)

    def whole(self, operator: str, args: Any) -> Given:
        """What is trusted as one step, and the tensors that it is given."""
        return hash((operator, *(self._seen(tensor) for tensor in aten.tensors_in(args)))), None

    def given(self, func: Any, args: Any, kwargs: Any) -> Given:
        """An operator and what it is given, before it runs."""
        names = [a.name for a in func._schema.arguments if not _is_filled(a)]
        named = {**dict(zip(names, args, strict=False)), **kwargs}
        told = [(n, self._tell(named[n])) for n in names if n in named and n not in _LEFT_OUT]
        return hash((func.name(), *told)), self._handed_on(func, args, kwargs)

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
            self._kept.append(StorageWeakRef(tensor.untyped_storage()))
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
        data = [t for t in tensors if _memory(t) in self._numbers]
        rest = [t for t in tensors if _memory(t) not in self._numbers]
        alike = tensors[0].shape == tensors[1].shape and tensors[0].dtype == tensors[1].dtype
        zeros = len(data) == 1 and alike and not bool(rest[0].count_nonzero())
        return self._known(data[0]) if zeros else None

    def _known(self, tensor: Tensor) -> Seen | None:
        return self.result(tensor) if _memory(tensor) in self._numbers else None

    def _seen(self, tensor: Tensor) -> Seen:
        number = self._numbers.get(_memory(tensor))
        return (self._constant(tensor) if number is None else number, *_lies(tensor))

    def _tell(self, value: Any) -> Any:
        leaves = tree_leaves(value)
        return tuple(self._seen(v) if isinstance(v, Tensor) else repr(v) for v in leaves)

    def _constant(self, tensor: Tensor) -> int:
        """The entries of what is no data."""
        if tensor.is_meta or tensor.layout != torch.strided:
            return hash((str(tensor.layout), tuple(tensor.shape)))
        if tensor.numel() <= _SMALL or tensor.is_inference():
            return _entries(tensor)
        key = (_memory(tensor), tensor._version, *_lies(tensor))
        if key not in self._constants:  # as long as this is known, no other memory gets its place
            self._constants[key] = StorageWeakRef(tensor.untyped_storage()), _entries(tensor)
        return self._constants[key][1]


def _is_filled(argument: Any) -> bool:
    """Whether a result is put there, whatever was there before."""
    return bool(argument.kwarg_only and argument.alias_info and argument.alias_info.is_write)


def _memory(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        return id(tensor)
    number: int = tensor.untyped_storage()._cdata
    return number


def _lies(tensor: Tensor) -> Seen:
    if tensor.layout != torch.strided:
        return (tuple(tensor.shape), tensor.dtype)
    at = tensor.storage_offset()
    return (tuple(tensor.shape), tensor.dtype, tensor.stride(), at)


def _entries(tensor: Tensor) -> int:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().cpu().reshape(-1)
    return hash(flat.view(torch.uint8).numpy().tobytes())
