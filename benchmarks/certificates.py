"""What a certificate costs: time and memory of three layers, y and all gradients, in float32.

Every figure comes from a process of its own. Time: `cg.prove` of a graph layer against its dense
twin, two images a batch, epsilon <= 2^-100, warm, median of the repeats; the premise (S1) of the
candidate alone stands beside it. Memory: how far the process' peak rises over what it was before,
for one certificate, and for the dense layer's own forward and backward in float64. The threads are
torch's; NumPy's BLAS has one, since the oracle runs beside the layers and a second thread of its
spins where a core is not free. Writes benchmarks/results/certificates.json.

    python benchmarks/certificates.py [--repeats 7] [--threads 1 2] [--force]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call

import convgraph as cg
from convgraph.proof import check_premise

BATCH = 2
LAYERS: dict[str, tuple[Callable[[], nn.Conv2d], tuple[int, int]]] = {
    "192 -> 384, 3x3, 14x14": (lambda: nn.Conv2d(192, 384, 3, padding=1), (14, 14)),
    "64 -> 64, 3x3, 56x56": (lambda: nn.Conv2d(64, 64, 3, padding=1), (56, 56)),
    "depthwise 96, 7x7, 56x56": (lambda: nn.Conv2d(96, 96, 7, padding=3, groups=96), (56, 56)),
}
MEASURES = ("time", "proof", "layer")


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds of wall clock and of the process, warm."""
    run(), run()
    wall, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return {"wall": statistics.median(wall), "cpu": statistics.median(cpu), "least": min(wall)}


def measure_time(name: str, repeats: int) -> dict[str, Any]:
    """Time the certificate, and the premise of its candidate alone."""
    build, size = LAYERS[name]
    dense = build()
    graph = cg.nn.GraphConv2d.from_dense(dense)
    found = cg.prove(graph, dense, size=size, batch=BATCH)

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        out: cg.PixelGraph = functional_call(
            graph, {"weight": w, "bias": b}, (cg.PixelGraph.from_image(x),)
        )
        return out.to_image()

    x_shape = (BATCH, dense.in_channels, *size)
    shapes = {"x": x_shape, "w": tuple(dense.weight.shape), "b": (dense.out_channels,)}
    return {
        "verdict": found.verdict,
        "trials": found.trials,
        "log2_epsilon": found.log2_epsilon,
        "parts": [part.name for part in found.parts if part.status == "proven"],
        "whole": timed(lambda: cg.prove(graph, dense, size=size, batch=BATCH), repeats),
        "premise": timed(lambda: check_premise(run, shapes, dtype=torch.float32), repeats),
    }


def measure_memory(name: str, proof: bool) -> dict[str, Any]:
    """MiB by which the peak rises; libraries are loaded and warm on a small layer first."""
    build, size = LAYERS[name]
    dense, little = build(), nn.Conv2d(4, 4, 3, padding=1)
    both = cg.nn.GraphConv2d.from_dense(dense)
    cg.prove(cg.nn.GraphConv2d.from_dense(little), little, size=(8, 8), batch=BATCH)
    layer = dense.double() if not proof else dense
    torch.nn.functional.conv2d(torch.ones(1, 4, 8, 8).double(), little.weight.detach().double())
    before = peak()
    if proof:
        cg.prove(both, dense, size=size, batch=BATCH)
    else:
        x = torch.randn(BATCH, dense.in_channels, *size, dtype=torch.float64, requires_grad=True)
        y = layer(x)
        y.backward(torch.randn_like(y))
    return {"mib": peak() - before}


def peak() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(measure: str, name: str, threads: int, repeats: int) -> dict[str, Any]:
    """Run one measurement in a process that has so many threads."""
    # Two threads on a shared machine stall in steps of 8 ms unless waiting threads sleep.
    many = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    many |= {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--child", measure, name, "--repeats", str(repeats)]
    done = subprocess.run(
        command, env=os.environ | many, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Run every layer and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure, name = args.child
        found = (
            measure_time(name, args.repeats)
            if measure == "time"
            else measure_memory(name, measure == "proof")
        )
        sys.stdout.write(json.dumps(found))
        return 0
    console = Console()
    busy = machine.quiet(force=args.force)
    layers: dict[str, Any] = {}
    table = Table(title="certificates in float32, epsilon <= 2^-100", title_justify="left")
    columns = ("layer", "threads", "wall s", "CPU s", "of it S1", "trials", "MiB", "of layer")
    for column in columns:
        table.add_column(column, justify="left" if column == "layer" else "right")
    for name in LAYERS:
        memory = {what: child(what, name, 1, 0)["mib"] for what in MEASURES[1:]}
        ratio = memory["proof"] / memory["layer"]
        layers[name] = {"mib": memory, "ratio": ratio, "threads": {}}
        for threads in args.threads:
            found = child("time", name, threads, args.repeats)
            layers[name]["threads"][str(threads)] = found
            whole = found["whole"]
            table.add_row(
                name, str(threads), f"{whole['wall']:.2f}", f"{whole['cpu']:.2f}",
                f"{found['premise']['wall']:.2f}", str(found["trials"]),
                f"{memory['proof']:.0f}", f"{ratio:.1f}",
            )  # fmt: skip
    console.print(table)
    record = {
        "cores": os.cpu_count(), "busy": round(busy, 2), "forced": args.force,
        "torch": torch.__version__, "repeats": args.repeats, "batch": BATCH, "layers": layers,
    }  # fmt: skip
    path = Path(__file__).parent / "results" / "certificates.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(
        f"others kept {busy:.2f} of the cores busy; figures: benchmarks/results/{path.name}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
