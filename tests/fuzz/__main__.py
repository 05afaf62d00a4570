"""Run every attack for a while: `make fuzz`, `make fuzz FUZZ="--seconds 600 --seed 5"`.

Each runs in a process of its own, since oneDNN chooses its kernels once a process. Those that need
no environment are forked from one that has imported what they need, and has computed nothing.
"""

import argparse
import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from runpy import run_module

ROOT = Path(__file__).parent.parent.parent
ATTACKS: dict[str, tuple[str, dict[str, str]]] = {
    "geometries, every kernel": ("tests.fuzz.geometries", {}),
    "geometries, AVX2 kernels": ("tests.fuzz.geometries", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "malformed calls": ("tests.fuzz.calls", {}),
    "damaged records": ("tests.fuzz.records", {}),
    "operands of the fused kernels": ("tests.fuzz.operands", {}),
    "damaged caches of kernels": ("tests.fuzz.cache", {}),
    "kernels under sanitizers": ("tests.fuzz.sanitized", {}),
}
"""What is run, and under which environment."""


def main() -> int:
    """Return how many attacks found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=140, help="all attacks together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="attacks whose name holds this")
    given = parser.parse_args()
    chosen = {name: how for name, how in ATTACKS.items() if given.only in name}
    context, found = get_context("forkserver"), 0
    context.set_forkserver_preload(["convgraph", "tests.fuzz.campaign"])
    for name, (module, environment) in chosen.items():
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        share = ["--seconds", str(given.seconds / len(chosen)), "--seed", str(given.seed)]
        if environment:
            line = [sys.executable, "-m", module, *share]
            run = subprocess.run(line, cwd=ROOT, env={**os.environ, **environment}, check=False)
            found += run.returncode != 0
        else:
            sys.argv = [module, *share]  # which a process takes over
            process = context.Process(target=run_module, args=(module, None, "__main__"))
            process.start()
            process.join()
            found += process.exitcode != 0
    return found


if __name__ == "__main__":
    sys.exit(main())
