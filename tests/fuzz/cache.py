"""A damaged cache of kernels: cut, spoilt, swapped, given away, or no file at all; and full disks.

Whatever lies there is either whole, and then loaded, or said to be damaged in words; nothing else
is ever loaded, nothing raw is raised, and what is compiled next makes it good. A disk that is full
leaves nothing behind. Each attack runs in a process that has no kernels yet.
"""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from convgraph.backends.fused import cpp_build, cpp_cache
from convgraph.errors import ConvgraphError
from tests.fuzz import children
from tests.fuzz.campaign import campaign, options
from tests.fuzz.children import Found

ROOT = Path(__file__).parent.parent.parent
OTHER = b"no library at all" * 100
"""What stands in for a file of somebody else's."""


def _cut(file: Path, dice: random.Random) -> None:
    os.truncate(file, dice.choice([0, 1, 64, 4096, dice.randrange(file.stat().st_size)]))


def _grown(file: Path, dice: random.Random) -> None:
    with file.open("ab") as end:
        end.write(dice.randbytes(dice.choice([1, 4096])))


def _flipped(file: Path, dice: random.Random) -> None:
    held = bytearray(file.read_bytes())
    for _ in range(dice.choice([1, 1, 8, 1000])):
        held[dice.randrange(len(held))] ^= 1 << dice.randrange(8)
    file.write_bytes(held)


def _zeros(file: Path, dice: random.Random) -> None:
    """A page that never reached the disk."""
    held = bytearray(file.read_bytes())
    at = dice.randrange(len(held))
    held[at : at + 4096] = bytes(len(held[at : at + 4096]))
    file.write_bytes(held)


def _swapped(file: Path, dice: random.Random) -> None:
    beside = cpp_cache.beside(file)
    one, two = file.read_bytes(), beside.read_bytes()
    file.write_bytes(two)
    beside.write_bytes(one)


def _exchanged(file: Path, dice: random.Random) -> None:
    file.write_bytes(OTHER)


def _no_file(file: Path, dice: random.Random) -> None:
    victim = dice.choice([file, cpp_cache.beside(file)])
    victim.unlink()
    how = dice.randrange(5)
    if how == 0:
        victim.mkdir()
    elif how == 1:
        os.mkfifo(victim)
    elif how == 2:
        victim.symlink_to(victim)
    elif how == 3:
        victim.symlink_to(dice.choice(["/dev/zero", "/dev/null", "/nowhere"]))


def _facts(file: Path, dice: random.Random) -> None:
    beside = cpp_cache.beside(file)
    facts: Any = json.loads(beside.read_text("utf-8"))
    key = dice.choice(list(facts))
    facts[key] = dice.choice([None, -1, 1.5, "x", [], {}, True, 2**70, facts[key]])
    texts = ["", "{", "[1]", "null", "[" * 100_000, "\udcff", "9" * 5000, json.dumps(facts)]
    beside.write_bytes(dice.choice([*texts, json.dumps(facts)]).encode("utf-8", "surrogateescape"))


def _open_to_all(file: Path, dice: random.Random) -> None:
    victim = dice.choice([file, cpp_cache.beside(file), file.parent, file.parent.parent])
    victim.chmod(victim.stat().st_mode | (0o020 if victim != file.parent.parent else 0) | 0o002)


def _given_away(file: Path, dice: random.Random) -> None:
    victim = dice.choice([file, cpp_cache.beside(file), file.parent])
    if os.getuid() == 0:
        os.chown(victim, 12345, 12345)
    else:
        victim.chmod(0o666)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "cut": _cut, "grown": _grown, "flipped": _flipped, "zeros": _zeros, "swapped": _swapped,
    "exchanged": _exchanged, "no file": _no_file, "facts": _facts, "open to all": _open_to_all,
    "given away": _given_away, "full disk": lambda file, dice: None,
    "nothing": lambda file, dice: None,
}  # fmt: skip

STRANGE = ("open to all", "given away")


def draw(dice: random.Random) -> tuple[tuple[str, ...], int]:
    """Draw one or two damages, and a seed."""
    some = tuple(dice.choice(list(DAMAGES)) for _ in range(dice.choice([1, 1, 2])))
    return some, dice.getrandbits(32)


def judge(drawn: tuple[tuple[str, ...], int], whole: Path) -> str:
    """Return "", or what went wrong. The kernels are loaded here, so it is a child's to run."""
    damages, seed = drawn
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as above:
        cache = Path(above) / "above" / "cache"
        cache.mkdir(parents=True)
        os.environ[cpp_cache.CACHE] = str(cache)
        if "full disk" in damages:
            return _on_a_full_disk(whole, cache, dice)
        file = cache / whole.name
        for one in (whole, cpp_cache.beside(whole)):
            shutil.copy(one, cache)
        for damage in damages:
            if file.is_file() and cpp_cache.beside(file).is_file():
                with suppress(ValueError):
                    DAMAGES[damage](file, dice)
        cpp_build._trouble.cache_clear()
        said = cpp_build.lacks()
        if said and len(said) < 20:
            return f"says {said!r}"
        if not said and not _is(file, whole):
            return "loaded what is damaged"
        if not said and set(damages) & set(STRANGE):
            return "loaded what others may write"
        if said and damages == ("nothing",):
            return f"not loaded: {said}"
        return "" if not said or set(damages) & set(STRANGE) else _again(whole, file)


def _is(file: Path, whole: Path) -> bool:
    return file.is_file() and file.read_bytes() == whole.read_bytes()


def _again(whole: Path, file: Path) -> str:
    """Compile where something is damaged; the compiler is not asked, what it made is there."""

    def instead(arguments: list[str], **options: Any) -> Any:
        shutil.copy(whole, Path(options["cwd"]) / "kernels.so")
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    cpp_build.subprocess.run = instead  # type: ignore[assignment]
    try:
        cpp_build.compile_kernels()
    except ConvgraphError as error:
        return "" if len(str(error)) > 20 else f"says {error}"
    if cpp_build.lacks() or not _is(file, whole):
        return f"compiled, and not whole: {cpp_build.lacks()}"
    return ""


def _on_a_full_disk(whole: Path, cache: Path, dice: random.Random) -> str:
    """No file may grow beyond a number of bytes."""
    most = dice.choice([0, 100, dice.randrange(whole.stat().st_size)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        cpp_cache.keep(whole, cache / whole.name)
    except OSError:
        left = sorted(one.name for one in cache.iterdir())
        return f"left {left}" if any(not name.endswith((".so", ".json")) for name in left) else ""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    return f"kept a library on a disk of {most} bytes"


def search(count: int, seed: int, seconds: float, whole: Path) -> tuple[int, list[Found]]:
    """Return how many caches were damaged, and what was wrong."""
    children.PATIENCE = 10.0
    dice = random.Random(seed)
    drawn = (draw(dice) for _ in range(count))
    # One child each: what is loaded stays loaded.
    return campaign(drawn, lambda one: judge(one, whole), seconds, at_once=20, together=1)


def main() -> int:
    """Print what was found; 1 if anything was."""
    parser = options(__doc__, 500)
    parser.add_argument("--whole", type=Path, help="a library that is whole; this is the child")
    given = parser.parse_args()
    if given.whole is None:
        if cpp_build.lacks():
            sys.stdout.write(f"no cache to damage: {cpp_build.lacks()}\n")
            return 0
        share = ["--draws", given.draws, "--seed", given.seed, "--seconds", given.seconds]
        with tempfile.TemporaryDirectory() as empty:
            run = subprocess.run(
                [sys.executable, "-m", "tests.fuzz.cache", "--whole", str(cpp_build.path()),
                 *map(str, share)],
                cwd=ROOT, env={**os.environ, cpp_cache.CACHE: empty}, check=False,
            )  # fmt: skip
        return run.returncode
    done, wrong = search(given.draws, given.seed, given.seconds, given.whole)
    for found in wrong[:20]:
        sys.stdout.write(f"{found.what}: {found.draw}\n")
    sys.stdout.write(f"{done} damaged caches, {len(wrong)} wrong\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
