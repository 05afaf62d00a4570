"""The cache of compiled kernels: where it lies, whose it is, and whether a file is whole.

What is loaded runs with importing the package. So a file is loaded only if nobody but its owner,
who is this user or root, may write to it or put another in its place, and if it has the size and
digest that were written beside it when it was made: half a library ends the process.
"""

import json
import os
import re
import shlex
import shutil
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

CACHE = "CONVGRAPH_CACHE"
"""Environment variable that names the folder of the cache; an empty folder has no kernels."""

MOST_FACTS = 10_000
"""Characters that are read of the facts beside a library."""

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
    words = shlex.split(os.environ.get("CXX") or "c++")
    found = [shutil.which(word) for word in words if not word.startswith("-")]
    mine = next((one for one in reversed(found) if one), None)
    return "" if mine is None else os.path.realpath(mine)


def named(of: str) -> Path:
    """Return where a library of these sources and versions lies that is compiled here.

    Args:
        of: what it depends on beside the compiler, whose name follows.
    """
    by = re.sub(r"[^\w.+-]", "_", os.path.basename(compiler())) or "none"
    return folder() / f"kernels-{sha256(of.encode()).hexdigest()[:16]}-{by}.so"


def there(of: str) -> Path:
    """Return the library of this compiler, or else of another: any serves that is whole."""
    mine = named(of)
    if mine.exists():
        return mine
    start = mine.name[: len("kernels-") + 16]
    others = sorted(mine.parent.glob(f"{start}-*.so"))
    return others[0] if others else mine


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
    for one in (file, beside(file)):
        if not one.is_file():  # a pipe is read for ever, and so may a device be
            return f"{one} is {'no file' if one.exists() else 'not there'}"
    try:
        with beside(file).open(encoding="utf-8") as facts:
            record = json.loads(facts.read(MOST_FACTS))
        size, digest = record["size"], record["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{beside(file)} does not tell its size and digest"
    found = file.stat().st_size
    if found != size:
        return f"it has {found} bytes of {size!s:.20}"
    held = file.read_bytes()
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
