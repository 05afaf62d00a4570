"""The cache of compiled kernels: where it lies, whose it is, and whether a file is whole.

What is loaded runs with importing the package. So a file is loaded only if nobody but its owner,
who is this user or root, may write to it or put another in its place, and if it has the size and
digest that were written beside it when it was made: half a library ends the process.
"""

import json
import os
import shutil
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

CACHE = "CONVGRAPH_CACHE"
"""Environment variable that names the folder of the cache; an empty folder has no kernels."""

WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def folder() -> Path:
    """Return the folder, which need not exist.

    Raises:
        OSError: a relative path, which would be another folder wherever a program is started.
        RuntimeError: there is no home.
    """
    folder = os.environ.get(CACHE)
    if folder:
        found = Path(folder).expanduser()
        if not found.is_absolute():
            raise OSError(f"{CACHE}={folder} is no absolute path")
        return found
    # The XDG specification says to pass over what is relative.
    home = os.environ.get("XDG_CACHE_HOME") or ""
    return Path(home if os.path.isabs(home) else "~/.cache").expanduser() / "convgraph"


def runtime() -> str:
    """Return the version of the C++ library in this process, "" where it does not say."""
    try:
        maps = Path("/proc/self/maps").read_text("utf-8")
    except OSError:
        return ""
    paths = {line.split()[-1] for line in maps.splitlines() if "libstdc++" in line}
    return ", ".join(sorted(os.path.basename(os.path.realpath(path)) for path in paths))


def compiler() -> str:
    """Return which program compiles here, links followed; "" where none does."""
    return os.path.realpath(shutil.which(os.environ.get("CXX") or "c++") or "")


def beside(file: Path) -> Path:
    """Return where size and digest of a file stand."""
    return file.with_suffix(".json")


def stranger(file: Path) -> str:
    """Say who but its owner could have written a file, or ""."""
    if not hasattr(os, "getuid"):
        return ""
    for one in (file, beside(file), file.parent):
        status = one.stat()
        if status.st_uid not in (os.getuid(), 0):
            return f"{one} belongs to user {status.st_uid}; expected your own or root's"
        if status.st_mode & WRITTEN_BY_OTHERS:
            return (
                f"others may write to {one} (mode {stat.S_IMODE(status.st_mode):o}); chmod go-w it"
            )
    for above in file.resolve().parent.parents:
        status = above.stat()
        others = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if others or status.st_uid not in (os.getuid(), 0):
            return f"others may put a folder in the place of {above / '...'}"
    return ""


def damage(file: Path) -> str:
    """Say what is wrong with a file, or "".

    Raises:
        OSError: it cannot be read.
    """
    try:
        record = json.loads(beside(file).read_text("utf-8"))
        size, digest = record["size"], record["sha256"]
    except FileNotFoundError:
        return f"{beside(file)} is not there"
    except (ValueError, KeyError, TypeError):
        return f"{beside(file)} does not tell its size and digest"
    held = file.read_bytes()
    if len(held) != size:
        return f"it has {len(held)} bytes of {size}"
    return "" if sha256(held).hexdigest() == digest else "its digest is another"


def keep(made: Path, file: Path) -> None:
    """Put a library there as a whole, readable for everybody; nothing is left if that fails.

    Others may do the same at the same time: whoever comes last replaces a whole file.
    """
    held = made.read_bytes()
    facts = {"size": len(held), "sha256": sha256(held).hexdigest(), "compiler": compiler()}
    _write(file, held)
    _write(beside(file), json.dumps(facts).encode())


def _write(file: Path, held: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as whole:
            whole.write(held)
            whole.flush()
            os.fsync(whole.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)
