"""The kernels of `cpp`: compiled once a machine by torch's own tool, found and loaded from then on.

Compiling asks for a C++ compiler and ninja and takes about half a minute, so it happens when
somebody says so, `convgraph compile`, and never in the middle of a forward. What is compiled lies
in a cache (`cpp_cache`) under a name that says what it depends on: the source, torch, Python, the
processor's registers, the C++ library of this process, and the compiler.
It is loaded with this module, so that what was exported elsewhere finds its operators.
"""

import os
import platform
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.fused import cpp_cache, triton_launch
from convgraph.backends.fused import operators as fused_operators
from convgraph.errors import BackendError

SOURCE = Path(__file__).with_name("cpp_kernels.cpp")

CHILD = """
import shlex, sys, torch.utils.cpp_extension as tool
tool.TORCH_LIB_PATH = shlex.quote(tool.TORCH_LIB_PATH)  # the one path that torch does not quote
tool.load(
    "kernels", [sys.argv[1]], extra_cflags=sys.argv[3:], build_directory=sys.argv[2],
    is_python_module=False,
)
"""
"""What compiles: a process of its own, for it also loads what it has compiled."""


def flags() -> list[str]:
    """Return the compiler's flags: registers as wide as those that torch itself uses here."""
    found = ["-O3"]
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        found += [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")]
        found += ["-mavx2", "-mfma", "-mprefer-vector-width=512"]
    elif capability == "AVX2":
        found += ["-mavx2", "-mfma"]
    if platform.machine() in ("x86_64", "AMD64"):
        found.append("-mtune=native")
    if sys.platform == "linux":
        found.append("-fopenmp")
    return found


def _of() -> str:
    """What compiled kernels depend on, beside the compiler."""
    of = [SOURCE.read_text("utf-8"), *flags(), torch.__version__, sys.version, cpp_cache.runtime()]
    return repr(of)


def path() -> Path:
    """Return where the compiled kernels lie, or will."""
    return cpp_cache.there(_of())


def compile_kernels() -> Path:
    """Compile the kernels, unless that has been done, load them, and return where they lie.

    Raises:
        BackendError: no compiler, no ninja, or the compiler's own complaint.

    Source: https://docs.pytorch.org/docs/stable/cpp_extension.html
    """
    try:
        target = cpp_cache.named(_of())
        if not target.exists() or cpp_cache.damage(target):
            _compile(target)
    except BackendError:
        raise
    except (OSError, RuntimeError) as error:
        raise BackendError(
            f"the folder of the C++ kernels is no use ({error}); set {cpp_cache.CACHE}"
        ) from error
    if _trouble():  # what was missing is there now
        _trouble.cache_clear()
        _trouble()
    return target


def _compile(target: Path) -> None:
    """Compile into a file of that name."""
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(mode=0o755, exist_ok=True)
    # A folder of its own: a process that is cut off leaves a lock behind.
    with tempfile.TemporaryDirectory() as folder:
        # ninja of this environment is found whether or not the environment is activated.
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        run = subprocess.run(
            # From the folder, and without what lies in it: no module of the caller's is imported.
            [sys.executable, "-P", "-c", CHILD, str(SOURCE), folder, *flags()],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": beside},
        )
        made = Path(folder) / "kernels.so"
        if run.returncode != 0 or not made.exists():
            last = "\n".join((run.stdout + run.stderr).strip().splitlines()[-12:])
            raise BackendError(
                "the C++ kernels did not compile; they need a C++ compiler (gcc or clang) and "
                f"ninja (pip install ninja). What was said last:\n{last}"
            )
        cpp_cache.keep(made, target)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def lacks() -> str:
    """Say what is missing for the kernels to run; "" if nothing."""
    return _trouble()


_STAND_IN: list[torch.library.Library] = []
"""What answers for the kernels while there are none; a program exported elsewhere may call them."""


@cache
def _trouble() -> str:
    if triton_launch.interpreted():
        return "Triton's interpreter stands in for the kernels of the CPU (TRITON_INTERPRET=1)"
    try:
        place = path()
        there = place.exists()
    except (OSError, RuntimeError) as error:
        problem = f"the folder of its kernels cannot be looked at ({error})"
        return f"{problem}; set {cpp_cache.CACHE} to another"
    if not there:
        return "its kernels are not compiled; `convgraph compile` does that, once a machine"
    try:
        if stranger := cpp_cache.stranger(place):
            return f"its kernels are not loaded: {stranger}, or set {cpp_cache.CACHE} to another"
        damage = cpp_cache.damage(place)
    except OSError as error:
        damage = str(error)
    if damage:
        return f"its kernels are damaged ({damage}); `convgraph compile` makes them anew"
    while _STAND_IN:
        _STAND_IN.pop()._destroy()  # torch has no public way to take an implementation back
    try:
        torch.ops.load_library(str(place))
    except OSError as error:
        return f"its kernels could not be loaded ({error}); delete {place} and compile them again"
    return "" if _registered() else f"{place} holds no kernels; delete it and compile them again"


def _registered() -> bool:
    return all(
        torch._C._dispatch_has_kernel_for_dispatch_key(f"convgraph::{operator}", "CPU")
        for operator in fused_operators.NAMES
    )


def _stand_in() -> None:
    """An error with the way out for whoever calls the operators without kernels."""
    if triton_launch.interpreted() or not _trouble():
        return

    def none(*_: Any) -> Tensor:
        raise BackendError(f"backend 'cpp' cannot serve this case: {_trouble()}")

    _STAND_IN.append(torch.library.Library("convgraph", "IMPL"))
    for operator in fused_operators.NAMES:
        _STAND_IN[0].impl(operator, none, "CPU")


_stand_in()
