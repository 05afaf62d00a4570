"""What a GPU is asked, in one command: is it right, tested, fast, and what should the table say.

Runs from the tree as it is: nothing is installed, fetched or compiled but Triton's own kernels.
Each step is a process with a limit of its own, writes a log and its figures, and does not stop the
next one when it fails. The summary comes last and is a file too.

    python benchmarks/gpu.py [--device cuda] [--out DIR] [--only check,tests] [--scale 1]

`--device cpu` rehearses the steps on a machine without a GPU. A run that finds no device says so
and ends with 0: there is nothing to fail.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Question:
    """One question, as a command.

    Attributes:
        name: of the step, its log and its figures.
        asks: what it finds out.
        seconds: the most it may take.
        command: what is run, after the interpreter.
    """

    name: str
    asks: str
    seconds: int
    command: tuple[str, ...]


def steps(device: str, out: Path, scale: float) -> list[Question]:
    """Return the steps, what is most worth knowing first."""
    own = lambda name: str(ROOT / "benchmarks" / name)  # noqa: E731
    figures = lambda name: ("--json", str(out / f"{name}.json"))  # noqa: E731
    within = lambda seconds: ("--seconds", str(round(seconds * scale)))  # noqa: E731
    return [
        Question(
            "check", "each backend bit for bit against the CPU, a certificate", 60,
            (own("gpu_check.py"), "--device", device, *figures("check")),
        ),
        Question("tests", "pytest -m gpu", 150, ("-m", "pytest", *_pytest(device, out))),
        Question(
            "speed", "beside cuDNN and PyG, forward and training", 150,
            (own("gpu_speed.py"), "--device", device, *within(130), *figures("speed")),
        ),
        Question(
            "rates", "the row of the cost table", 40,
            (own("rates.py"), "--device", device, "--force", *within(30), *figures("rates")),
        ),
        Question(
            "classes", "which of the vendor's kernels are exact on integers", 60,
            (own("vendor_classes.py"), "--device", device, "--trials", "1", *figures("classes")),
        ),
    ]  # fmt: skip


def _pytest(device: str, out: Path) -> list[str]:
    """What pytest is asked: only files that speak of a GPU; collecting the others takes long."""
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in path.read_text(encoding="utf-8")
    ]
    chosen = ["-m", "gpu"] if device == "cuda" else ["-k", "bit_for_bit and not cuda"]
    if device != "cuda":  # a share, to rehearse
        files = [name for name in files if name.endswith("test_gpu.py")]
    # Warnings of another torch than CI's are no failures of ours.
    options = ["-q", "-ra", "--maxfail=40", "--tb=short", "-p", "no:cacheprovider", "-W", "default"]
    workers = ["-n", "4"] if find_spec("xdist") else []
    return [*files, *chosen, *options, *workers, f"--junit-xml={out / 'tests.xml'}"]


def main() -> int:
    """Run the steps and write the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--only", default="", help="steps, by name, with commas between")
    parser.add_argument("--scale", type=float, default=1.0, help="of every step's limit")
    args = parser.parse_args()
    here = found(args.device)
    if here is None:
        print("no CUDA device here: nothing was run (--device cpu rehearses the steps)")
        return 0
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in args.only.split(",") if name]
    todo = [
        step for step in steps(args.device, out, args.scale) if not wanted or step.name in wanted
    ]
    unknown = set(wanted) - {step.name for step in todo}
    if unknown:
        parser.error(f"no step is called {', '.join(sorted(unknown))}")
    print(json.dumps(here), flush=True)
    done = [run(step, out, args.scale) for step in todo]
    record = {"machine": here, "steps": done}
    (out / "summary.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = summary(done, out)
    (out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(any(one["exit"] != 0 for one in done))


def found(device: str) -> dict[str, Any] | None:
    """Return what the machine is, or None where there is no such device."""
    import torch

    versions: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__}
    for name in ("torch_geometric", "triton"):
        if find_spec(name):
            versions[name] = __import__(name).__version__
    if device == "cpu":
        return versions | {"device": "cpu", "cores": os.cpu_count()}
    if not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_properties(0)
    return versions | {
        "device": card.name,
        "capability": f"{card.major}.{card.minor}",
        "memory": card.total_memory,
        "multiprocessors": card.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cores": os.cpu_count(),
    }


def run(step: Question, out: Path, scale: float) -> dict[str, Any]:
    """Run one step within its limit; all of its processes end with it."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        "PYTHONUNBUFFERED": "1",
    }
    log, start = out / f"{step.name}.log", time.perf_counter()
    (out / f"{step.name}.json").unlink(missing_ok=True)
    print(f"== {step.name}: {step.asks} (at most {step.seconds * scale:.0f} s)", flush=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *step.command], cwd=ROOT, env=environment, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(step.seconds * scale)
        except subprocess.TimeoutExpired:
            # An interrupt first: pytest then says what it has found.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            code = 124
    took = time.perf_counter() - start
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines[-12:]), flush=True)
    print(f"-- {step.name}: exit {code}, {took:.0f} s", flush=True)
    return {"name": step.name, "exit": code, "seconds": round(took, 1), "last": lines[-1:]}


def summary(done: list[dict[str, Any]], out: Path) -> str:
    """A line a step, and then what each of them holds most worth reading."""
    lines = ["", "== summary"]
    for one in done:
        what = {0: "done", 124: "cut off by its limit"}.get(one["exit"], f"exit {one['exit']}")
        last = one["last"][0].strip() if one["last"] else ""
        lines.append(f"{one['name']:8s} {what:22s} {one['seconds']:6.1f} s  {last[:120]}")
    for one in done:
        figures = out / f"{one['name']}.json"
        if figures.exists():
            lines += json.loads(figures.read_text(encoding="utf-8")).get("lines", [])
        if one["name"] == "tests":
            lines += failures(out / "tests.log")
    return "\n".join(lines)


def failures(log: Path, most: int = 12) -> list[str]:
    """The lines of pytest's own summary that name what failed."""
    if not log.exists():
        return []
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    bad = [line for line in text if line.startswith(("FAILED", "ERROR"))]
    more = [f"... and {len(bad) - most} more in {log.name}"] if len(bad) > most else []
    return [line[:200] for line in bad[:most]] + more


if __name__ == "__main__":
    sys.exit(main())
