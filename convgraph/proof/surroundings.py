"""What surrounds a run: compilers, which stand aside, random states, which must stay, and memory.

Under a dispatch mode torch.compile gives a function up for good. While a program is followed or
written down, whatever is compiled runs as it is written, and is noticed.
"""

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

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


def keep_what_is_freed() -> None:
    """Have the C library keep 64 MiB of what is freed, where that is glibc.

    A trial takes and frees megabytes, which the system would zero anew, page by page. glibc learns
    from the largest block that was freed: one of half as much, which nobody touches, will do.
    """
    np.empty(2**25 - 2**16, dtype=np.uint8)


def random_states() -> tuple[Any, ...]:
    """Where Python's and NumPy's own generators stand."""
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002  # the accused may
    kind, keys, *rest = state
    return random.getstate(), kind, bytes(keys), *rest
