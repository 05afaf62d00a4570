"""Time the layers beside dense convolutions and other libraries; every figure is of one run.

Arms take turns, medians are quoted, and what counts are the ratios to `nn.Conv2d` (channels-last,
times the mask before and after where there is one). Refuses a busy machine. Writes
benchmarks/results/run-DEVICE[-threads-N].json and a picture beside it.

    python benchmarks/run.py [--device cuda] [--dtype float32] [--minutes 5] [--threads 1] [--full]
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine

if not machine.ready():
    machine.restart()

import torch
from cases import Case, mask, selected
from peers import DENSE, OURS, Arm, arms
from rich.console import Console
from rich.table import Table
from torch import Tensor

import convgraph as cg

LEAST, MOST = 3, 30
"""Rounds of a case, whatever the time allows."""


def main() -> int:
    """Run every case and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all cases together")
    parser.add_argument("--full", action="store_true", help="all cases instead of two dozen")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; torch's choice if 0")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--stock", action="store_true", help="leave the allocator as it is")
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    console, device = Console(), torch.device(args.device)
    busy = machine.quiet(force=args.force)
    machine.keep_pages()
    if args.threads:
        torch.set_num_threads(args.threads)
    cases = [case for case in selected(full=args.full) if args.only in case.name]
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "dtype": args.dtype,
        "busy": round(busy, 2), "forced": args.force, "torch": torch.__version__,
        "convgraph": cg.__version__, "cases": [],
    }  # fmt: skip
    seconds = 60 * args.minutes / max(1, len(cases))
    name = f"run-{device.type}" + (f"-threads-{args.threads}" if args.threads else "")
    name += "-stock" if args.stock else ""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for case in cases:
        record["cases"].append(
            measured(case, device, getattr(torch, args.dtype), seconds, generator)
        )
        console.print(table(record["cases"][-1]))
        # After each case, so that a run that is cut off is not lost.
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot(record, path.with_suffix(".png"))
    console.print(
        f"others kept {busy:.2f} of the cores busy; figures: benchmarks/results/{path.name}"
    )
    return 0


def measured(
    case: Case, device: torch.device, dtype: torch.dtype, seconds: float, generator: Any
) -> dict[str, Any]:
    """Return medians in milliseconds, ratios and peaks in bytes of every arm of a case."""
    holes = mask(case, generator)
    cold, warm, backend = map_times(case, holes, device, dtype)
    found: dict[str, Any] = {
        "name": case.name, "case": vars(case), "backend": backend,
        "first_call_ms": cold, "warm_call_ms": warm, "modes": {},
    }  # fmt: skip
    everybody = arms(case, holes, device, dtype)
    for mode, step in (("inference", inference), ("training", training)):
        # Who has no leaves cannot be trained.
        steps = {name: step(arm) for name, arm in everybody.items() if arm[1] or mode != "training"}
        times = take_turns(steps, device, seconds / 2)
        peaks = {name: peak_bytes(run, device) for name, run in steps.items()}
        base = statistics.median(times[DENSE])
        found["modes"][mode] = {
            name: {
                "ms": statistics.median(turns), "least_ms": min(turns), "rounds": len(turns),
                "over_dense": statistics.median(turns) / base, "peak_bytes": peaks[name],
            }
            for name, turns in times.items()
        }  # fmt: skip
    return found


def inference(arm: Arm) -> Callable[[], None]:
    """One forward without gradients."""
    forward, _ = arm

    def run() -> None:
        with torch.no_grad():
            forward()

    return run


def training(arm: Arm) -> Callable[[], None]:
    """One forward and the gradients of input and parameters."""
    forward, leaves = arm
    head: list[Tensor] = []

    def run() -> None:
        y = forward()
        if not head:
            head.append(torch.randn_like(y))
        used = [leaf for leaf in leaves if leaf.requires_grad]
        torch.autograd.grad(y, used, head[0])

    return run


def take_turns(
    steps: dict[str, Callable[[], None]], device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of every arm, round after round; the first round warms up.

    Each round has an order of its own: who follows an arm on the same rows finds them in the cache.
    An arm so slow that it would leave no time to the others sits out after the least rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    end, order, shuffled = time.perf_counter() + seconds, list(steps), random.Random(0)
    for turn in range(MOST + 1):
        if turn > LEAST and time.perf_counter() > end:
            break
        shuffled.shuffle(order)
        for name in order:
            if len(times[name]) >= LEAST and sum(times[name]) > 1e3 * seconds / 3:
                continue
            settle(device)
            start = time.perf_counter()
            steps[name]()
            settle(device)
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def settle(device: torch.device) -> None:
    """Wait for a device that works behind our back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes that one call held at a time beyond what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with quiet(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the profiler's own lines off the screen; they come from C++."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def map_times(
    case: Case, holes: Tensor | None, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, str]:
    """Milliseconds of a first call on new masks, of a later one, and the backend chosen."""
    layer = cg.nn.GraphConv2d(
        case.channels, case.out, case.kernel, case.stride, (case.kernel - 1) // 2,
        groups=case.groups, device=device, dtype=dtype,
    )  # fmt: skip
    image = torch.randn(case.batch, case.channels, case.size, case.size, device=device, dtype=dtype)
    image = image.to(memory_format=torch.channels_last)
    where = None if holes is None else holes.to(device)
    times = []
    with torch.no_grad():
        layer(cg.PixelGraph.from_image(image, where))  # everything that is not the map
        for _ in range(LEAST):
            graph = cg.PixelGraph.from_image(image, where)
            pair = []
            for _ in range(2):
                settle(device)
                start = time.perf_counter()
                layer(graph)
                settle(device)
                pair.append((time.perf_counter() - start) * 1e3)
            times.append(pair)
    cold, warm = (statistics.median(column) for column in zip(*times, strict=True))
    return cold, warm, cg.explain(layer, graph).backend


def table(found: dict[str, Any]) -> Table:
    """Return one case as a table."""
    title = (
        f"{found['name']}: chose {found['backend']}, first call {found['first_call_ms']:.2f} ms, "
        f"later {found['warm_call_ms']:.2f} ms"
    )
    made = Table(title=title, title_justify="left")
    made.add_column("arm", no_wrap=True)
    for mode in found["modes"]:
        for column in (f"{mode} ms", "/ dense", "peak MB"):
            made.add_column(column, justify="right")
    for name in next(iter(found["modes"].values())):
        row = [name]
        for figures in found["modes"].values():
            if name not in figures:
                row += ["", "", ""]
                continue
            one = figures[name]
            row += [f"{one['ms']:.3f}", f"{one['over_dense']:.3f}"]
            row += [f"{one['peak_bytes'] / 1e6:.1f}"]
        made.add_row(*row, style="bold" if name == OURS else None)
    return made


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw our time over the dense one against density, a line a layer and kind of mask."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines: dict[tuple[str, str], list[tuple[float, list[float]]]] = {}
    for found in record["cases"]:
        case = found["case"]
        ratios = [figures[OURS]["over_dense"] for figures in found["modes"].values()]
        lines.setdefault((case["layer"], case["kind"]), []).append((case["density"], ratios))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, (number, mode) in zip(axes, enumerate(("inference", "training")), strict=True):
        for (layer, kind), points in lines.items():
            if len(points) > 1:
                points.sort()
                x = [density for density, _ in points]
                axis.plot(x, [r[number] for _, r in points], "o-", label=f"{layer}, {kind}")
        axis.plot([0, 1], [0, 1], color="grey", lw=0.8)
        axis.set(title=mode, xlabel="density", ylabel="time / (conv x mask)", ylim=(0, None))
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
