"""The driver: workers take networks one at a time, and each answer is a file.

A worker is a process of its own with a limit on memory; the driver ends one that takes too long and
starts another, so that one network costs at most its own answer. Answers that are there already are
kept, so that a run that was cut off goes on where it was.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)  # fmt: skip

from tests.convert.zoo.catalogue import Entry, catalogue

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / ".cache" / "zoo"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make zoo", description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name contains this, by comma")
    parser.add_argument("--library", default="", help="networks of one library")
    parser.add_argument("--limit", type=int, default=0, help="at most so many networks")
    parser.add_argument("--share", default="", help="K/N: every N-th network, from the K-th")
    parser.add_argument("--minutes", type=float, default=0, help="start no network after this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workers at once")
    parser.add_argument("--seconds", type=float, default=900, help="limit for one network")
    parser.add_argument("--memory", type=float, default=8, help="limit for one worker, GiB")
    parser.add_argument("--again", action="store_true", help="ignore the answers that are there")
    parser.add_argument("--failed", action="store_true", help="ask again where something failed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the answers")
    parser.add_argument("--commit", default=commit(), help="of the code, noted with each answer")
    parser.add_argument("--table", type=Path, help="write the page of the answers; ask nothing")
    return parser.parse_args()


def commit() -> str:
    """The commit of this checkout, or "" where there is none."""
    call = ["git", "rev-parse", "--short", "HEAD"]
    said = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip()


def path_of(folder: Path, entry: Entry) -> Path:
    return folder / f"{entry.name.replace('/', '--')}.json"


def read(folder: Path, entry: Entry) -> dict[str, Any] | None:
    """The answer for a network, if it was asked."""
    path = path_of(folder, entry)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def chosen(args: argparse.Namespace) -> list[Entry]:
    """The networks that are asked for and have no answer."""
    entries = list(catalogue())
    if args.library:
        entries = [e for e in entries if e.name.startswith(f"{args.library}/")]
    if args.only:
        parts = args.only.split(",")
        entries = [e for e in entries if any(part in e.name for part in parts)]
    if args.share:
        first, step = map(int, args.share.split("/"))
        entries = entries[first::step]
    if not args.again:
        entries = [e for e in entries if _is_open(read(args.results, e), args.failed)]
    return entries[: args.limit] if args.limit else entries


def _is_open(found: dict[str, Any] | None, failed: bool) -> bool:
    return found is None or (failed and found["masked"] is not True)


class Worker:
    """A process that answers for one network after another."""

    def __init__(self, memory: float) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.convert.zoo.worker", str(memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, entry: Entry, seconds: float) -> dict[str, Any]:
        """Ask for one network; a worker that is late or dead is ended and says so."""
        process = self.process
        late = threading.Timer(seconds, process.kill)
        start = time.perf_counter()
        late.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([entry.name, entry.size, entry.channels]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        took = time.perf_counter() - start
        code = process.wait()
        what = f"no answer in {seconds:.0f} s" if took >= seconds else f"the process ended ({code})"
        return {"name": entry.name, "size": entry.size, "reason": what, "unfinished": True}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def work(tasks: "queue.Queue[Entry]", args: argparse.Namespace, ends: float, done: Any) -> None:
    """One thread: a worker for as long as there are networks and minutes."""
    worker = Worker(args.memory)
    while time.monotonic() < ends:
        try:
            entry = tasks.get_nowait()
        except queue.Empty:
            break
        found = worker.ask(entry, args.seconds)
        if found.pop("unfinished", False):
            worker.close()
            worker = Worker(args.memory)
            found = {**EMPTY, **found}
        found["commit"] = args.commit
        path = path_of(args.results, entry)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1), "utf-8")
        part.replace(path)
        done(found)
    worker.close()


EMPTY: dict[str, Any] = {
    "parameters": 0.0, "built": False, "captured": False, "equal": None, "back": None,
    "strict": None, "masked": None, "mask_matters": None, "gradients": None, "again": False,
    "fallbacks": {}, "seconds": {},
}  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Ask for every chosen network."""
    args.results.mkdir(parents=True, exist_ok=True)
    tasks: queue.Queue[Entry] = queue.Queue()
    entries = chosen(args)
    for entry in entries:
        tasks.put(entry)
    ends = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        bar = progress.add_task("zoo", total=len(entries))

        def done(found: dict[str, Any]) -> None:
            mark = "masked" if found["masked"] else "equal" if found["equal"] else "no"
            took = sum(found["seconds"].values())
            progress.console.print(
                f"{mark:7}{found['name']:45}{took:6.1f} s  {found['reason'][:120]}", markup=False,
                highlight=False, soft_wrap=True,
            )  # fmt: skip
            progress.advance(bar)

        threads = [
            threading.Thread(target=work, args=(tasks, args, ends, done)) for _ in range(args.jobs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
