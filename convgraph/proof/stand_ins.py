"""Stand-ins: methods that others take the place of, as long as a block of any thread needs them."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from threading import Lock
from typing import Any, final

Method = Callable[..., Any]


@final
class StandIns:
    """A context manager that several threads may be in; the first puts in place, the last away.

    Args:
        ways: classes, and the names of their methods; what a class lacks is left out.
        made: (name, method) -> what stands in for it.

    Example:
        >>> class Counter:
        ...     def add(self):
        ...         return 1
        >>> twice = StandIns([(Counter, "add")], lambda name, add: lambda own: 2 * add(own))
        >>> with twice:
        ...     Counter().add()
        2
        >>> Counter().add()
        1
    """

    def __init__(
        self, ways: Iterable[tuple[type, str]], made: Callable[[str, Method], Method]
    ) -> None:
        """Note what is to be done; nothing is touched yet."""
        self._ways, self._made = tuple(ways), lru_cache(maxsize=256)(made)
        self._lock, self._blocks = Lock(), 0
        self._before: list[tuple[type, str, Any]] = []

    def __enter__(self) -> None:
        """Put them in place, if nobody has."""
        with self._lock:
            self._blocks += 1
            if self._blocks > 1:
                return
            for kind, name in self._ways:
                method = getattr(kind, name, None)
                if callable(method):
                    self._before.append((kind, name, vars(kind).get(name)))
                    setattr(kind, name, self._made(name, method))

    def __exit__(self, *_: object) -> None:
        """Take them away, if nobody else needs them."""
        with self._lock:
            self._blocks -= 1
            if self._blocks:
                return
            for kind, name, own in self._before:
                if own is None:  # it was inherited
                    delattr(kind, name)
                else:
                    setattr(kind, name, own)
            self._before.clear()
