"""Time and memory against the size of an image and against density; slopes in log-log.

One 3x3 convolution of 16 channels, one image, patches of 8 x 8: from 64 x 64 to 4096 x 4096 on a
full grid and at density .4, and at 1024 x 1024 from density .05 to 1. Forward without gradients;
medians. "map" is the first call on a new mask less a later one. A slope of 1 means that twice the
nodes cost twice. Writes benchmarks/results/scale-DEVICE.json and a picture beside it.

    python benchmarks/scale.py [--device cuda] [--largest 4096] [--force]
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import machine

if not machine.ready():
    machine.restart()

import torch
from cases import Case, mask
from rich.console import Console
from rich.table import Table
from run import inference, peak_bytes, settle

import convgraph as cg

CHANNELS = 16
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
DENSITIES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
FIXED = 1024
"""Pixels along each axis where density varies."""
SECONDS = 1.0
"""For the repeats of one point; at least three."""
LARGE = 256
"""Pixels along each axis from which slopes are taken: below, the start of a kernel weighs most."""


def main() -> int:
    """Measure every point and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    console, device = Console(), torch.device(args.device)
    busy = machine.quiet(force=args.force)
    machine.keep_pages(6)
    sizes = [n for n in SIZES if n <= args.largest]
    series = {
        "full": [point(n, 1.0, device) for n in sizes],
        "density 0.4": [point(n, 0.4, device) for n in sizes],
        "by density": [point(min(FIXED, args.largest), d, device) for d in DENSITIES],
    }
    record = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "busy": round(busy, 2), "forced": args.force, "channels": CHANNELS, "series": series,
        "slopes": {name: slopes(name, points) for name, points in series.items()},
    }  # fmt: skip
    for name, points in series.items():
        console.print(table(name, points, record["slopes"][name]))
    path = Path(__file__).parent / "results" / f"scale-{device.type}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot(series, path.with_suffix(".png"))
    console.print(f"figures: benchmarks/results/{path.name}")
    return 0


def point(size: int, density: float, device: torch.device) -> dict[str, Any]:
    """Return nodes, milliseconds of a later and of a first call, and the peak in bytes."""
    case = Case("scale", CHANNELS, CHANNELS, 3, 1, 1, size, 1, density)
    holes = mask(case, torch.Generator().manual_seed(0))
    layer = cg.nn.GraphConv2d(CHANNELS, CHANNELS, 3, padding=1, device=device)
    image = torch.randn(1, CHANNELS, size, size, device=device)
    image = image.to(memory_format=torch.channels_last)
    graph = cg.PixelGraph.from_image(image, None if holes is None else holes.to(device))
    del image
    run = inference((lambda: layer(graph).x, []))
    first = timed(run, device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1e3 * SECONDS and len(times) < 200):
        times.append(timed(run, device))
    later = statistics.median(times)
    return {
        "size": size, "density": density, "nodes": graph.num_nodes, "ms": later,
        "map_ms": max(0.0, first - later), "peak_bytes": peak_bytes(run, device),
        "backend": cg.explain(layer, graph).backend,
    }  # fmt: skip


def timed(run: Any, device: torch.device) -> float:
    """Milliseconds of one call."""
    settle(device)
    start = time.perf_counter()
    run()
    settle(device)
    return (time.perf_counter() - start) * 1e3


def slopes(name: str, points: list[dict[str, Any]]) -> dict[str, float]:
    """Least-squares slope of log(figure) against log(nodes)."""
    used = points if name == "by density" else [p for p in points if p["size"] >= LARGE]
    found = {}
    for figure in ("ms", "peak_bytes", "map_ms"):
        pairs = [(math.log(p["nodes"]), math.log(p[figure])) for p in used if p[figure] > 0]
        if len(pairs) < 2 or (figure == "map_ms" and name == "full"):
            continue
        (slope, _) = statistics.linear_regression(*zip(*pairs, strict=True))
        found[figure] = round(slope, 3)
    return found


def table(name: str, points: list[dict[str, Any]], found: dict[str, float]) -> Table:
    """Return one series as a table."""
    figures = ", ".join(f"{figure} {slope:.2f}" for figure, slope in found.items())
    made = Table(title=f"{name}: slopes {figures}", title_justify="left")
    for column in ("size", "density", "nodes", "backend", "ms", "ns a node", "map ms", "peak MB"):
        made.add_column(column, justify="right")
    for p in points:
        made.add_row(
            str(p["size"]), f"{p['density']:g}", f"{p['nodes']:,}", p["backend"],
            f"{p['ms']:.2f}", f"{1e6 * p['ms'] / p['nodes']:.0f}", f"{p['map_ms']:.1f}",
            f"{p['peak_bytes'] / 1e6:.1f}",
        )  # fmt: skip
    return made


def plot(series: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw time and memory against nodes, log-log, beside a line of slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    for axis, (key, label, scale) in zip(
        axes, (("ms", "milliseconds", 1.0), ("peak_bytes", "peak megabytes", 1e-6)), strict=True
    ):
        for name, points in series.items():
            x = [p["nodes"] for p in points]
            axis.loglog(x, [p[key] * scale for p in points], "o-", label=name)
        last = series["full"][-1]
        ends = [series["full"][0]["nodes"], last["nodes"]]
        line = [last[key] * scale * n / ends[1] for n in ends]
        axis.loglog(ends, line, color="grey", lw=0.8, label="slope 1")
        axis.set(xlabel="nodes", ylabel=label)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
