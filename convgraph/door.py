"""The one door of public calls: what leaves them raw is said in words, with who, expected and got.

A call runs first. Only where it raises an error that is not ours are its arguments held against the
kinds that its signature names, and the first that is of another is named; where all fit, they do
not go together, and all are named. So a call that succeeds pays nothing, and none needs a check for
each of its arguments. An error of the caller's own code, a network or a function that was handed
over, stays what it is.
"""

import inspect
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, wraps
from typing import Any, TypeVar, Union

import numpy as np
import torch

from convgraph.errors import ArgumentError

F = TypeVar("F", bound=Callable[..., Any])

RAW = (
    TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, MemoryError,
    AssertionError,
)  # fmt: skip
"""What Python and torch raise about arguments."""

OURS = sys.stdlib_module_names | {"convgraph", "torch", "torch_geometric", "numpy", "z3"}
"""Packages whose errors are about what they were given, not about themselves."""

SHOWN = 60
"""Characters of a value that are shown."""

BY_NAME: dict[str, Any] = {
    "device": torch.device | str | int | None,
    "dtype": torch.dtype | None,
    "bias": bool,
    "affine": bool,
    "elementwise_affine": bool,
    "track_running_stats": bool,
}
"""Parameter that torch's own signatures leave without a kind -> its kind."""


def door(call: F) -> F:
    """Wrap a public function, or a class's `__init__`.

    What is raised derives from `ArgumentError` and from what was raised without words.

    Args:
        call: the function. A compiler that follows it sees nothing but the function.

    Example:
        >>> @door
        ... def twice(n: int) -> int:
        ...     return n.bit_length() * 2
        >>> twice(5)
        6
        >>> twice("x")
        Traceback (most recent call last):
            ...
        convgraph.errors.ArgumentError: twice: expected n as int, got 'x' (str); see help(twice)
    """
    function: Any = call

    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except RAW as error:
            said = worded(function, args, kwargs, error)
            if said is None:
                raise
            raise said from first(error)

    # A code object of its own: compilers count by it how often a function was met.
    made: Any = asked
    made.__code__ = made.__code__.replace(co_name=function.__name__)
    return typing.cast(F, made)


def doors(kind: type, *methods: str) -> None:
    """Put the door before a class's `__init__`, inherited or its own, and before methods.

    Args:
        kind: the class.
        methods: names; those that the class lacks, or has from elsewhere, are passed over.
    """
    if not hasattr(kind.__init__, "__wrapped__"):  # type: ignore[misc]
        kind.__init__ = door(kind.__init__)  # type: ignore[misc]
    for name in methods:
        owner = next((base for base in kind.__mro__ if name in vars(base)), object)
        found = vars(owner).get(name)
        if found is None or not owner.__module__.startswith("convgraph."):
            continue
        bare = found.__func__ if isinstance(found, classmethod) else found
        if not hasattr(bare, "__wrapped__"):
            made: Any = door(bare)
            setattr(owner, name, classmethod(made) if bare is not found else made)


def worded(
    call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> ArgumentError | None:
    """Return an error in words; None where it is no argument's, or an inner call has named it.

    Args:
        call: what was called, a method with its object first.
        args: given by position.
        kwargs: given by name.
        error: what it raised.
    """
    inner = isinstance(error, ArgumentError)
    if not inner and type(error).__module__.partition(".")[0] not in ("builtins", "numpy"):
        return None  # ours, or a class of torch's that says more than its words
    who = call.__qualname__.rpartition(">.")[2]
    if call.__name__ in ("__init__", "forward"):
        who = type(args[0]).__name__
    way = f"see help({who})"
    signature = inspect.signature(call)
    try:
        given = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as unfit:
        return ArgumentError(f"{who}: {unfit}; it takes {signature!s:.400}; {way}")
    given.pop("self", None)
    given.pop("cls", None)
    raw = type(first(error))
    made = _like(next(one for one in raw.__mro__ if one.__module__ == "builtins"))
    for name, value in given.items():
        kind = _hint(call, signature.parameters[name])
        if not fits(value, kind):
            return made(
                f"{who}: expected {name} as {kind_in_words(kind)}, got {described(value)}; {way}"
            )
    if inner or _foreign(error):
        return None
    what = ", ".join(f"{name}={described(value)}" for name, value in given.items())
    said = str(error).strip().partition("\n")[0][:200]
    return made(
        f"{who}: expected arguments that go together, got {what}; "
        f"{type(error).__name__}: {said}; {way}"
    )


def first(error: BaseException) -> BaseException:
    """Return what Python or torch raised, where an inner call has put it in words already."""
    return error.__cause__ or error if isinstance(error, ArgumentError) else error


@cache
def _like(raw: type) -> type[ArgumentError]:
    """An error in words that those who catch the raw one catch."""
    if issubclass(ArgumentError, raw):
        return ArgumentError
    if issubclass(raw, ArgumentError):
        return raw
    body = {"__module__": ArgumentError.__module__, "__reduce__": lambda e: (_again, (raw, e.args))}
    return type("ArgumentError", (ArgumentError, raw), body)


def _again(raw: type, args: tuple[Any, ...]) -> ArgumentError:
    """Where a pickled one is read."""
    return _like(raw)(*args)


def _foreign(error: Exception) -> bool:
    """Whether code of the caller's raised it; what is without a module, a compiler wrote."""
    names = [frame.f_globals.get("__name__", "torch") for frame in _frames(error.__traceback__)]
    return any(name.partition(".")[0] not in OURS for name in names)


def _frames(at: types.TracebackType | None) -> Iterator[types.FrameType]:
    while at is not None:
        yield at.tb_frame
        at = at.tb_next


# Kinds


def _hint(call: Any, parameter: inspect.Parameter) -> Any:
    """The kind that a parameter names; Any where that cannot be known."""
    kind: Any = parameter.annotation
    if kind is parameter.empty:
        return BY_NAME.get(parameter.name, Any)
    if isinstance(kind, str):
        try:
            kind = eval(kind, getattr(inspect.unwrap(call), "__globals__", {}))
        except Exception:  # noqa: BLE001 - imported for the type checker only
            return Any
    if kind is Any and parameter.name in ("device", "dtype"):
        kind = BY_NAME[parameter.name]
    if parameter.kind is parameter.VAR_POSITIONAL:
        return tuple[kind, ...]
    return Mapping[str, kind] if parameter.kind is parameter.VAR_KEYWORD else kind


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; where that cannot be asked, it is.

    Example:
        >>> fits((1, 2), tuple[int, ...]), fits([1, "x"], list[int]), fits(True, int)
        (True, False, False)
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or isinstance(kind, (TypeVar, str)):
        return True
    if kind is None or kind is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if kind in (int, float):
        numbers: Any = (int, np.integer, torch.SymInt)
        numbers += (float, np.floating, torch.SymFloat) if kind is float else ()
        return isinstance(value, numbers) and not isinstance(value, bool)
    if origin is tuple or kind is tuple:
        return isinstance(value, (tuple, list)) and _each(value, inner)
    if origin in (list, Sequence, Collection, Iterable) or kind in (list, Sequence):
        held = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
        held = held and not isinstance(value, (torch.Tensor, np.ndarray))
        return held and _each(list(value), (*inner[:1], ...))
    if origin in (Mapping, dict) or kind in (Mapping, dict):
        return isinstance(value, Mapping)
    if origin is Callable or kind is Callable:
        return callable(value)
    asked = origin or kind
    if getattr(asked, "_is_protocol", False):
        names = [name for name in vars(asked) if not name.startswith("_")]
        return not isinstance(value, type) and all(hasattr(value, name) for name in names)
    return not isinstance(asked, type) or isinstance(value, asked)


def _each(values: Any, inner: Any) -> bool:
    if not inner or inner == (...,):
        return True
    if len(inner) == 2 and inner[1] is ...:
        return all(fits(one, inner[0]) for one in values)
    return len(values) == len(inner) and all(map(fits, values, inner))


def kind_in_words(kind: Any) -> str:
    """A kind in words.

    Example:
        >>> kind_in_words(int | None), kind_in_words(torch.Tensor)
        ('int or None', 'torch.Tensor')
    """
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(kind_in_words(one) for one in typing.get_args(kind))
    if kind is type(None):
        return "None"
    if isinstance(kind, type) and not typing.get_args(kind):
        home = kind.__module__.partition(".")[0]
        return kind.__name__ if home == "builtins" else f"{home}.{kind.__name__}"
    return str(kind).replace("collections.abc.", "").replace("typing.", "")


def described(value: Any) -> str:
    """What came, shortly: its value where that is short, and its type.

    Example:
        >>> described(3), described(torch.ones(2, 3))
        ('3 (int)', 'Tensor of shape (2, 3) and dtype torch.float32')
    """
    kind = type(value).__name__
    if type(value) in (int, float, bool, str, bytes, complex, tuple, list, dict):
        words = reprlib.repr(value)
        return f"{words if len(words) <= SHOWN else words[:SHOWN] + '...'} ({kind})"
    if value is None:
        return "None"
    if isinstance(value, torch.Tensor) and value.is_nested:
        return f"a nested {kind}"
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{kind} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return value.__name__ if isinstance(value, type) else kind
