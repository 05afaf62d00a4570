"""What surrounds a run: compilers, which stand aside, states and flags, which stay, and memory.

Under a dispatch mode torch.compile gives a function up for good. While a program is followed or
written down, whatever is compiled runs as it is written, and is noticed.
"""

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from multiprocessing.pool import Pool
from threading import Thread, local
from typing import Any

import numpy as np
import torch
from torch.utils import checkpoint

from convgraph.proof.stand_ins import StandIns

COMPILERS = "torch.compile"
"""Under this name in `trust=` compilers are taken for granted."""


@contextmanager
def as_written() -> Iterator[list[str]]:
    """Run what is compiled as it is written; yields a list that fills when something is.

    Example:
        >>> with as_written() as seen:
        ...     torch.ones(1) + 1
        tensor([2.])
        >>> seen
        []
    """
    seen: list[str] = []
    frames: Any = sys.modules.get("torch._dynamo.eval_frame")
    if frames is None:
        yield seen
        return
    before = getattr(frames, "_callback_from_stance", None)

    def noted(callback: Any) -> Any:
        if callback is not None and callback is not False:
            seen.append(COMPILERS)
        return before(callback)  # type: ignore[misc]

    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # Hooks of the judge, which see every module, the compiled one among them.
        warnings.filterwarnings("ignore", "Using `torch.compile")
        if before is not None:
            frames._callback_from_stance = noted
        try:
            yield seen
        finally:
            if before is not None:
                frames._callback_from_stance = before


ELSEWHERE = (
    "it hands work to another thread, where nothing sees which operators run; compute in the "
    "thread that calls"
)


@contextmanager
def handed_on() -> Iterator[list[str]]:
    """Run a block; yields a list that fills when this thread hands work to another.

    Example:
        >>> with handed_on() as seen, ThreadPoolExecutor(1) as pool:
        ...     pool.submit(torch.ones, 1).result()
        tensor([1.])
        >>> set(seen) == {ELSEWHERE}
        True
    """
    before, seen = getattr(_HERE, "handed", ()), list[str]()
    _HERE.handed = (*before, seen)
    try:
        with _NOTED:
            yield seen
    finally:
        _HERE.handed = before


_HERE = local()


def _noting(_: str, way: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(way)
    def notes(*args: Any, **kwargs: Any) -> Any:
        for seen in getattr(_HERE, "handed", ()):
            seen.append(ELSEWHERE)
        return way(*args, **kwargs)

    return notes


_NOTED = StandIns(
    [(Thread, "start"), (ThreadPoolExecutor, "submit"), (Pool, "apply_async")], _noting
)


class _Once:
    """In place of what computes a function once more in its backward."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


def _nothing_around(*given: Any, **more: Any) -> Iterator[None]:
    yield


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Run what is checkpointed once, within a block: as the function that it is.

    Backward would compute it anew where the modes that say what operators mean are gone.
    """
    plain = {
        "CheckpointFunction": _Once,
        "_checkpoint_without_reentrant_generator": _nothing_around,
    }
    before = {name: vars(checkpoint)[name] for name in plain}
    vars(checkpoint).update(plain)
    try:
        yield
    finally:
        vars(checkpoint).update(before)


def keep_what_is_freed() -> None:
    """Have the C library keep 64 MiB of what is freed, where that is glibc.

    A trial takes and frees megabytes, which the system would zero anew, page by page. glibc learns
    from the largest block that was freed: one of half as much, which nobody touches, will do.
    """
    np.empty(2**25 - 2**16, dtype=np.uint8)


def random_states() -> tuple[Any, ...]:
    """Where Python's and NumPy's own generators stand, and from which seed torch's began.

    Torch's is followed: what is drawn from it and used is seen, and what is not used is innocent.
    """
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002  # the accused may
    kind, keys, *rest = state
    return random.getstate(), kind, bytes(keys), *rest, torch.initial_seed()


def _flushes() -> bool:
    """Whether the processor takes subnormal numbers for 0; torch sets that and cannot say it."""
    least = 5e-324
    return least * 1 == 0


def _matmul_precision() -> str:
    """For all backends at once, or that it is set for each alone: then torch refuses to say."""
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:
        return "by backend"


def settings() -> dict[str, Any]:
    """What all code of a process shares: torch's flags, by how each is read."""
    return {
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.get_deterministic_debug_mode()": torch.get_deterministic_debug_mode(),
        "torch.is_autocast_enabled('cpu')": torch.is_autocast_enabled("cpu"),
        "torch.get_float32_matmul_precision()": _matmul_precision(),
        "torch.backends.mkldnn.enabled": torch._C._get_mkldnn_enabled(),
        "torch.backends.cudnn.enabled": torch._C._get_cudnn_enabled(),
        "torch.backends.cudnn.benchmark": torch._C._get_cudnn_benchmark(),
        "torch.backends.cudnn.deterministic": torch._C._get_cudnn_deterministic(),
        "torch.set_flush_denormal": _flushes(),
    }


_SETTERS: dict[str, Callable[[Any], Any]] = {
    "torch.is_grad_enabled()": torch._C._set_grad_enabled,
    "torch.get_default_dtype()": torch.set_default_dtype,
    "torch.get_num_threads()": torch.set_num_threads,
    "torch.get_deterministic_debug_mode()": torch.set_deterministic_debug_mode,
    "torch.is_autocast_enabled('cpu')": lambda on: torch.set_autocast_enabled("cpu", on),
    "torch.get_float32_matmul_precision()": torch.set_float32_matmul_precision,
    "torch.backends.mkldnn.enabled": torch._C._set_mkldnn_enabled,
    "torch.backends.cudnn.enabled": torch._C._set_cudnn_enabled,
    "torch.backends.cudnn.benchmark": torch._C._set_cudnn_benchmark,
    "torch.backends.cudnn.deterministic": torch._C._set_cudnn_deterministic,
    "torch.set_flush_denormal": torch.set_flush_denormal,
}


@contextmanager
def watched() -> Iterator[list[str]]:
    """Run a block and put flags back; yields a list that then holds what it moved, in words.

    Example:
        >>> with watched() as moved:
        ...     torch.set_default_dtype(torch.float64)
        >>> moved, torch.get_default_dtype()
        (['it leaves torch.get_default_dtype() at torch.float64, not torch.float32'], torch.float32)
    """
    drawn, before, moved = random_states(), settings(), list[str]()
    try:
        yield moved
    finally:
        for name, value in settings().items():
            if value != before[name]:
                _SETTERS[name](before[name])
                moved.append(f"it leaves {name} at {value}, not {before[name]}")
        if random_states() != drawn:
            moved.append(
                "random numbers of Python or NumPy are drawn, or torch's are seeded: two calls are "
                "two functions"
            )
