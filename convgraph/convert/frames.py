"""Where in a network something happened, read off the frames of the calls in progress.

Asked only when an error is made.
"""

import sys
from typing import Any

import torch


def path() -> str | None:
    """Return the path of the innermost module whose forward runs, "" for the outermost itself."""
    found: list[Any] = []
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, torch.nn.Module) and (not found or found[-1] is not module):
            found.append(module)
        frame = frame.f_back  # type: ignore[assignment]
    for outer in reversed(found):  # the network itself, or one whose method asked for its run
        names = {id(module): name for name, module in outer.named_modules()}
        if id(found[0]) in names:
            return names[id(found[0])]
    return None


def where() -> str:
    """Return "in module 'layer1.0'", for error texts.

    Example:
        >>> where()
        'outside of a module'
    """
    name = path()
    if name is None:
        return "outside of a module"
    return f"in module {name!r}" if name else "in the network itself"
