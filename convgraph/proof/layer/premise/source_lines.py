"""Where in the user's code an operator was called: "file:line in function".

Forward, and backward of a custom function or a hook, stand on Python's stack. Backward of torch's
own functions does not; there autograd's anomaly mode knows where the function was called forward.
"""

import re
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch

_TORCH = f"{Path(torch.__file__).parent}/"
_STDLIB = sysconfig.get_path("stdlib")
_OWN = f"{Path(__file__).parents[2]}/"
DOORS = frozenset({"_attempt", "evaluate", "_evaluate"})
"""Functions of the judge that call the user's code; frames beyond them are the caller's own."""
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


Place = tuple[str, int, str]
"""File, line and function."""


@lru_cache(maxsize=4096)
def _is_user(path: str) -> bool:
    if "site-packages" not in path and path.startswith(_STDLIB):
        return False
    return not path.startswith((_TORCH, _OWN, "<frozen"))


def shorten(path: str) -> str:
    """Return a path from where it is imported, as far as that is known."""
    roots = [root for root in (str(Path.cwd()), *sys.path) if root and path.startswith(root + "/")]
    return path[max(map(len, roots)) + 1 :] if roots else path


def spell(path: str, line: int, function: str) -> str:
    """Return "file:line in function"."""
    return f"{shorten(path)}:{line} in {function}"


def here() -> str:
    """Return the innermost line of user code on the stack, or ""; see `place`."""
    found = place()
    return "" if found is None else spell(*found)


def place() -> Place | None:
    """Return the innermost place of user code on the stack, not yet spelled."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name in DOORS and code.co_filename.startswith(_OWN):
            break
        if _is_user(code.co_filename):
            return code.co_filename, frame.f_lineno, code.co_name
        frame = frame.f_back
    return _of_node()


def function_here() -> str:
    """Return the autograd function whose forward or backward is on the stack, or ""."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name in DOORS and code.co_filename.startswith(_OWN):
            break
        owner, _, method = code.co_qualname.rpartition(".")
        if method in {"forward", "backward"} and "ctx" in code.co_varnames[:1]:
            return owner.rpartition("<locals>.")[2]
        frame = frame.f_back
    return ""


def of_error(error: BaseException) -> str:
    """Return the innermost line of user code that an error passed through, or ""."""
    found, step = "", error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if _is_user(code.co_filename):
            found = spell(code.co_filename, step.tb_lineno, code.co_name)
        step = step.tb_next
    return found


def _of_node() -> Place | None:
    """The line that made the autograd node that runs now, if anomaly mode wrote it down."""
    node: Any = torch._C._current_autograd_node()
    lines = [] if node is None else node.metadata.get("traceback_", [])
    for entry in reversed(lines):
        match = _FRAME.search(entry)
        if match is None:
            continue
        path, number, function = match.groups()
        if path.startswith(_OWN) and function in DOORS:
            break
        if _is_user(path):
            return path, int(number), function
    return None
