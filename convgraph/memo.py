"""Computed once: what follows from a record, outside of every trace, as long as the record lives.

Sites and edges are integers that no feature and no parameter touches, and what follows from them is
kept for reuse. Whoever calls first may be tracing (torch.compile, torch.export, make_fx),
transforming (torch.func) or running in inference mode; what is kept must be plain tensors all the
same, or the next caller would find a placeholder of somebody else's trace.

A layer's output sites know the sites at the entrance of their network, and edges know both of their
ends. If the entrance kept such records as they are, each would hold the other, and the edge lists
of every mask of an epoch would wait for Python's collector of circles. So a record keeps the fields
of what is derived from it and only looks after the derived record itself; when nobody holds that
any more it goes at once, and when it is asked for again it is put together from its fields.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import cast as cast_pointer
from ctypes import py_object
from functools import partial
from threading import get_ident
from typing import Any, Generic, Self, TypeVar, cast, final, overload
from weakref import ref

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

MEMO_LIMIT = 512
"""Derived forms kept per record; the one that was not asked for the longest goes first."""

_NOTHING = object()

_FORGETTING: list[Callable[[], None]] = []


def on_forget(clear: Callable[[], None]) -> None:
    """Have `forget` call this, which empties a cache that is found again by its numbers."""
    _FORGETTING.append(clear)


def forget() -> None:
    """Make anew what is asked for next, full grids and the edges between them included.

    What is kept follows from code that does not change while a program runs. Whoever changes it all
    the same, as a test does that plants a fault, forgets before and after. Graphs that are held
    keep what they have.

    Example:
        >>> import torch, convgraph as cg
        >>> one = cg.PixelGraph.from_image(torch.zeros(1, 1, 4, 4)).sites
        >>> one is cg.PixelGraph.from_image(torch.zeros(1, 1, 4, 4)).sites
        True
        >>> forget()
        >>> one is cg.PixelGraph.from_image(torch.zeros(1, 1, 4, 4)).sites
        False
    """
    for clear in _FORGETTING:
        clear()


LENDERS: list[Any] = []
"""Who lends a tracer tensors in place of those that records keep, innermost last; see `lending`."""


@contextmanager
def lending(lender: Any) -> Iterator[None]:
    """Let whoever asks a record in this thread get what a tracer gives for its tensors.

    Args:
        lender: has `tensor(kept)`, what stands for a kept tensor; `count(sites)`, a number of
            nodes; `plain`, whether torch's own operators are wanted; and `thread`. None lends
            nothing, within a block that does.
    """
    LENDERS.append(lender)
    try:
        yield
    finally:
        LENDERS.pop()


def lender() -> Any:
    """Return who lends in this thread, or None."""
    found = LENDERS[-1] if LENDERS else None
    return found if found is not None and found.thread == get_ident() else None


def lent(value: T) -> T:
    """Return a kept value, its tensors as they are lent."""
    by = lender() if LENDERS else None
    return value if by is None else cast("T", _lend(by, value))


def _lend(by: Any, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return by.tensor(value)
    if type(value) in (tuple, list):
        return type(value)(_lend(by, one) for one in value)
    if isinstance(value, tuple):  # a named one
        return type(value)(*(_lend(by, one) for one in value))
    own = getattr(value, "lent", None)  # of whatever else keeps tensors
    return value if own is None else own(by)


@contextmanager
def outside() -> Iterator[None]:
    """Leave inference mode, autograd, tracing modes and functional transforms for a block."""
    with (
        torch._C.DisableTorchFunction(),  # first: a tracer would note what the next two switch
        torch.inference_mode(mode=False),
        torch.no_grad(),
        _disable_current_modes(),
        torch._C._DisableFuncTorch(),
    ):
        if not LENDERS:
            yield
            return
        with lending(None):
            yield


@final
class Memo(OrderedDict[Any, Any]):
    """Values computed from one record. Compared by identity, so it can key a weak dictionary.

    A record that is put together again from its fields has the memo of the first, so a weak key for
    "as long as this record can come back" is its memo.
    """

    def __hash__(self) -> int:  # type: ignore[override]
        """Identity."""
        return id(self)

    def __eq__(self, other: object) -> bool:
        """Identity."""
        return self is other

    def __ne__(self, other: object) -> bool:
        """Identity."""
        return self is not other


def once(memo: Memo, key: Any, make: Callable[[], T]) -> T:
    """Return what `make()` gave the first time for this key, and keep it in `memo`.

    It is made outside of every trace and mode; a compiler may not follow this, see `result`.
    """
    found = memo.get(key, _NOTHING)
    if found is not _NOTHING:
        try:  # noqa: SIM105 - at every call of every layer
            memo.move_to_end(key)
        except KeyError:  # another thread had it evicted
            pass
        return cast("T", found)
    with outside():
        made = memo.setdefault(key, make())
    if len(memo) > MEMO_LIMIT:
        memo.popitem(last=False)
    return cast("T", made)


class Record:
    """A record that never changes and keeps what follows from it."""

    _memo: Memo

    @property
    def memo_key(self) -> Memo:
        """What stays the same when the record goes and is put together again from its fields."""
        return self._memo

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """Return what `make()` gave the first time for this key, and keep it with the record."""
        return lent(once(self._memo, key, make))

    def memo_of(self, make: Callable[..., T], *args: Any) -> T:
        """Return make(self, *args), made once; `make` is a function of a module."""
        if torch.compiler.is_dynamo_compiling():
            return result(self, make, self, *args)
        key = (make, *args) if args else make
        return lent(once(self._memo, key, lambda: make(self, *args)))


class derived(Generic[T]):  # noqa: N801 - it is written like `property`
    """A property of a `Record` that is computed once, outside of every trace.

    A compiler takes it as a constant. The value is kept in the record's memo under the property's
    name. Whoever writes to a tensor that he was given keeps what he wrote, and the record computes
    its own anew: no other graph on the same sites sees it.

    Example:
        >>> class Square(Record):
        ...     def __init__(self, side):
        ...         self.side, self._memo = side, Memo()
        ...
        ...     @derived
        ...     def area(self):
        ...         print("computed")
        ...         return self.side**2
        >>> square = Square(3)
        >>> square.area + square.area
        computed
        18
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        """Keep the function and its docstring."""
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """Know the name to keep the value under."""
        self._name = name

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...
    @overload
    def __get__(self, record: Record, owner: type) -> T: ...
    def __get__(self, record: Record | None, owner: type) -> Self | T:
        """Return the value, or the descriptor itself where a class is asked."""
        if record is None:
            return self
        if torch.compiler.is_dynamo_compiling():
            found: T = read(record, self._name)
            return found
        value = once(record._memo, self._name, partial(_unwritten, self._make, record))
        if _written(value):
            record._memo.pop(self._name, None)
            value = once(record._memo, self._name, partial(_unwritten, self._make, record))
        return lent(value)


def _unwritten(make: Callable[[Any], T], record: Any) -> T:
    """What was made, its tensors as nobody has written to them since."""
    made: Any = make(record)
    if isinstance(made, tuple):
        return cast("T", tuple(one.data if isinstance(one, torch.Tensor) else one for one in made))
    return cast("T", made.data if isinstance(made, torch.Tensor) else made)


def _written(value: Any) -> bool:
    """Whether somebody has written to a kept tensor in place."""
    if isinstance(value, torch.Tensor):
        return value._version > 0
    return isinstance(value, tuple) and any(map(_written, value))


@final
class Kept(Generic[T]):
    """A record by its fields, all but those that point back.

    Args:
        record: an object whose fields are in its `__dict__`.
        back: names of the fields that point back to whoever keeps it.

    Example:
        >>> class Node:
        ...     pass
        >>> root, leaf = Node(), Node()
        >>> leaf.size, leaf.root = 3, root
        >>> root.leaf = Kept(leaf, "root")
        >>> root.leaf.record(root=root) is leaf
        True
        >>> del leaf
        >>> root.leaf.record(root=root).size
        3
    """

    def __init__(self, record: T, *back: str) -> None:
        """Keep the fields."""
        self._kind = type(record)
        self._fields = {name: value for name, value in vars(record).items() if name not in back}
        self._back = back
        self._record = ref(record)

    def record(self, **back: Any) -> T:
        """Return the record, the same one as long as somebody holds it.

        Args:
            back: values of the fields that were left out; others are not looked at.
        """
        found = self._record()
        if found is None:
            found = object.__new__(self._kind)
            vars(found).update(self._fields, **{name: back[name] for name in self._back})
            self._record = ref(found)
        return found


class Shelf:
    """A place to keep a result where there is no record to keep it on."""


def put(record: Any, value: object) -> str:
    """Keep a value as an attribute of a record and return its name.

    A compiler follows attributes of what it knows, but not objects that are handed to it; so a
    function that it takes as a constant puts its result where the compiler can look it up.
    """
    name = f"_kept_{id(value)}"
    setattr(record, name, value)
    return name


def result(record: Any, function: Callable[..., T], *args: Any) -> T:
    """Return function(*args); a compiler takes it as a constant that is kept on the record.

    Args:
        record: where a compiler finds the result again.
        function: a class or a function of a module.
        args: records and plain values.
    """
    if not torch.compiler.is_dynamo_compiling():
        return function(*args)
    name, plain = constant(_put_result, record, function, *args)
    found: T = constant(getattr, record, name) if plain else getattr(record, name)
    return found


def _put_result(record: Any, function: Callable[..., Any], *args: Any) -> tuple[str, bool]:
    """Where the result is, and whether it is tensors for an exporter.

    To that of torch 2.8 the tensors that it finds on a record would be inputs of the program.
    """
    made = function(*args)
    plain = torch.compiler.is_exporting() and isinstance(made, (torch.Tensor, tuple))
    data = (torch.Tensor, int, float)
    return put(record, made), plain and all(isinstance(one, data) for one in tree_leaves(made))


def read(record: Any, name: str) -> Any:
    """Return an attribute of a record; a compiler takes it as a constant and looks no further."""
    return constant(getattr, record, name)


def constant(function: Callable[..., Any], *args: Any) -> Any:
    """Return function(*args); a compiler takes it as a constant and does not follow the function.

    Not every compiler takes an object for a constant (torch 2.8 and 2.11 do not), but each takes
    its number, and looks at the next call whether it is the same object.

    Args:
        function: a class or a function of a module.
        args: records, modules and plain values.
    """
    if not torch.compiler.is_dynamo_compiling():
        return function(*args)
    by_number = tuple([isinstance(arg, _OBJECTS) for arg in args])
    given = [id(arg) if isinstance(arg, _OBJECTS) else arg for arg in args]
    return _boxed(function, by_number, *given)[0]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _boxed(function: Callable[..., Any], by_number: tuple[bool, ...], *given: Any) -> tuple[Any]:
    args = [
        cast_pointer(arg, py_object).value if numbered else arg
        for numbered, arg in zip(by_number, given, strict=True)
    ]
    return (function(*args),)


_OBJECTS = (Record, Shelf, torch.nn.Module)
"""What a compiler hands over by its number; it holds them as long as it compiles."""
