"""What a figure asks of a machine: sleeping threads, an allocator that keeps pages, and quiet.

May import the standard library only: it comes before torch, which reads the environment.
"""

import os
import sys
import time
from pathlib import Path

ENVIRONMENT = {
    # Two threads on a shared machine stall in steps of 8 ms unless waiting threads sleep.
    "OMP_WAIT_POLICY": "passive",
    # Else glibc hands large blocks back as they are freed, or not, by what was freed before: the
    # time of an arm would depend on the arms before it. These are its own limits once a block of
    # 32 MB has been freed, and no trimming.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
BUSY = 0.25
"""Share of the cores that others may keep busy; above it the figures mean little."""


def ready() -> bool:
    """Whether this program was started in the environment that figures ask for.

    With `--stock` among its arguments, which `run.py` takes, the allocator stays as it is.
    """
    names = ("OMP_WAIT_POLICY",) if "--stock" in sys.argv else ENVIRONMENT
    return all(os.environ.get(name) == ENVIRONMENT[name] for name in names)


def restart() -> None:
    """Start this program again in that environment, which libraries read as they are loaded."""
    os.environ["OMP_WAIT_POLICY"] = ENVIRONMENT["OMP_WAIT_POLICY"]
    if "--stock" not in sys.argv:
        os.environ.update(ENVIRONMENT)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def keep_pages(gib: float = 2.0) -> None:
    """Let the heap own so much memory from now on, for blocks of any size.

    A block above the limit is asked of the system only while none that was freed is large enough;
    so without this the time of large layers would depend on whether larger ones came before.

    Args:
        gib: GiB that the program may come to hold at a time.
    """
    if "--stock" in sys.argv:
        return
    blocks = [bytearray(2**24) for _ in range(round(gib * 2**6))]
    blocks.clear()


def quiet(*, force: bool) -> float:
    """Return the share of the cores that others keep busy; a busy machine ends the program.

    Args:
        force: measure all the same.
    """
    busy = others()
    if busy > BUSY and not force:
        problem = f"busy: others keep {busy:.2f} of the cores, more than {BUSY}; not measured"
        print(f"{problem} (--force measures all the same)")
        sys.exit(1)
    return busy


def others(seconds: float = 1.0) -> float:
    """Return the share of the cores that is busy while this process sleeps.

    The load average would still remember the program that ran before, our own among them.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return os.getloadavg()[0] / (os.cpu_count() or 1)

    def ticks() -> tuple[int, int]:
        user, nice, system, idle, wait, *rest = map(
            int, stat.read_text().split("\n", 1)[0].split()[1:9]
        )
        busy = user + nice + system + sum(rest)
        return busy, busy + idle + wait

    before = ticks()
    time.sleep(seconds)
    after = ticks()
    return (after[0] - before[0]) / max(1, after[1] - before[1])
