"""Fit a device's row of the cost table, `convgraph.backends.cost`, to this machine.

    nanoseconds = multiply-adds * mac + elements moved * moved + kernels started * call

Convolutions on masks, each backend that serves and each size of tile, medians of rounds that take
turns. What is fitted is the mean of a forward without gradients and of a third of a training step,
for one choice serves both; bounded least squares over the relative errors. Prints one rate a
backend, and how much slower the choice by the fitted rates, and by those that the table has, is
than the best of each case, the dense convolution of an image times its mask among them.

On CUDA each case is measured with TF32 and without, which have a rate each, in an order that tells
most when the time is cut short.

    python benchmarks/rates.py [--device cuda] [--rounds 7] [--seconds 40] [--json FILE] [--force]
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import machine

if not machine.ready():
    machine.restart()

import numpy as np
import torch
from cases import LAYERS, Case, mask
from scipy.optimize import lsq_linear

import convgraph as cg
from convgraph.backends import cost, matrices, site_tiles
from convgraph.backends.fused import cpp_build, triton_conv
from convgraph.backends.fused import cpp_conv as cpp
from convgraph.backends.gather import edges as gather
from convgraph.backends.masked import conv as masked
from convgraph.backends.tiles import conv as tiles

MORE = (
    Case("3x3 16-16", 16, 16, 3, 1, 1, 56, 8),
    Case("3x3 32-32", 32, 32, 3, 1, 1, 56, 8),
    Case("dw 3x3 96", 96, 96, 3, 1, 96, 56, 8),
    Case("dw 5x5 64", 64, 64, 5, 1, 64, 56, 8),
)
MASKS = (
    ("patch8", 0.8), ("patch8", 0.6), ("patch8", 0.4), ("patch8", 0.1), ("patch32", 0.4),
    ("blob", 0.4), ("pixel", 0.4), ("pixel", 0.1), ("pixel", 0.02),
)  # fmt: skip


def main() -> int:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=inf, help="stop measuring after them")
    parser.add_argument("--json", type=Path, help="write rows and rates into this file")
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cpu":
        machine.quiet(force=args.force)
        machine.keep_pages()
        cpp_build.compile_kernels()
    layers = [c for c in LAYERS if c.size == 56 and c.kernel > 1 and c.channels < 256]
    todo = [
        replace(layer, kind=kind, density=density)
        for layer, (kind, density) in product((*layers, *MORE), MASKS)
    ]
    if device.type != "cpu":  # large enough for a GPU, and a cut run has seen something of all
        todo = [replace(case, batch=64) for case in todo]
        random.Random(0).shuffle(todo)
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    end = time.perf_counter() + args.seconds
    try:
        for case in todo:
            if time.perf_counter() > end:
                break
            holes, start = mask(case, generator), time.perf_counter()
            for ieee in (False, True) if device.type == "cuda" else (False,):
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not ieee
                rows += measured(case, holes, args.rounds, device, ieee=ieee)
            print(f"{time.perf_counter() - start:6.1f} s  {case.name}", flush=True)
    except KeyboardInterrupt:
        print("cut short: what has been measured is fitted")
    seen = len({row["case"].removesuffix(", ieee") for row in rows})
    if seen < len(todo):
        print(f"{seen} of {len(todo)} cases in the time given")
    serving, table = SERVING[device.type], cost.RATES[device.type]
    rates: dict[str, list[float]] = {}
    for name in serving:  # none of torch's multiplies faster than its whole convolution
        least = rates["masked"][0] if rates and name not in OWN else 0.0
        own = [row for row in rows if row["backend"] == name]
        if not own:
            continue
        rates[name] = fitted(own, least)
        numbers = ", ".join(f"{n}={v:.4g}" for n, v in zip(NUMBERS, rates[name], strict=True))
        print(f"{name:8s} {numbers}")
    kept = {name: [getattr(table[name], n) for n in NUMBERS] for name in rates}
    for label, by in (("fitted", rates), ("kept in the table", kept)):
        print(f"by the rates {label}:")
        for what in ("forward", "step"):
            judge(rows, by, what)
    if args.json:
        text = json.dumps({"rates": rates, "numbers": NUMBERS, "rows": rows}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


NUMBERS = ("mac", "depthwise", "moved", "call", "ieee")
SERVING = {
    "cpu": ("masked", "tiles", "gather", "slots", "cpp"),
    "cuda": ("masked", "tiles", "gather", "slots", "triton"),
}
OWN = ("cpp", "triton")
"""Backends whose products are not torch's."""

IMAGE = "dense x mask"


def measured(
    case: Case, holes: Any, rounds: int, device: torch.device, *, ieee: bool
) -> list[dict[str, Any]]:
    """Return every way of computing a case, with its work and its median nanoseconds."""
    layer = cg.nn.GraphConv2d(
        case.channels, case.out, case.kernel, case.stride, case.kernel // 2, groups=case.groups
    ).to(device)
    image = torch.randn(case.batch, case.channels, case.size, case.size, device=device)
    graph = cg.PixelGraph.from_image(image, holes.to(device))
    problem, edges, x = layer.problem(graph), layer.edges(graph), graph.x.clone().requires_grad_()
    w, b, groups = layer.weight, layer.bias, case.groups
    ways: dict[tuple[str, Any], tuple[Callable[[], Any], tuple[float, float]]] = {}
    for tile, count in edges.memo_of(site_tiles.occupancy):
        run = lambda tile=tile: tiles.convolution(x, w, b, edges, groups, tile)  # noqa: E731
        ways["tiles", tile] = run, tiles._work(problem, tile, count)
    ways["masked", 0] = (lambda: masked.conv(x, w, b, edges, problem)), masked.work(problem)
    by_tap, starts = gather.priced(problem)
    taps = lambda: matrices.of_taps(w, groups, transposed=False)  # noqa: E731
    if not problem.depthwise or case.density <= 0.1:
        ways[by_tap, 0] = (lambda: gather.summed(x, taps(), edges, b)), gather.work(problem)
    fused = cpp if device.type == "cpu" else triton_conv
    if fused.refuses(problem) is None:
        ways[fused.NAME, 0] = (lambda: fused.conv(x, taps(), b, edges)), fused.work(problem)
    pixels = image.to(memory_format=torch.channels_last).requires_grad_()
    before, after = (_cells(sites) for sites in (edges.source, edges.target))
    dense = layer.to_dense().to(memory_format=torch.channels_last)
    ways[IMAGE, 0] = (lambda: dense(pixels * before) * after), (0.0, 0.0)
    leaves = {way: [x, w, b] for way in ways} | {(IMAGE, 0): [pixels, *dense.parameters()]}
    times: dict[tuple[str, Any], list[tuple[float, float]]] = {way: [] for way in ways}
    order, shuffled = list(ways), random.Random(0)
    for turn in range(rounds + 1):
        shuffled.shuffle(order)
        for way in order:
            taken = took(ways[way][0], leaves[way], device)
            if turn:
                times[way].append(taken)
    found = []
    for way, (_, (macs, moved)) in ways.items():
        forward, step = (statistics.median(column) for column in zip(*times[way], strict=True))
        calls = float(starts if way[0] == by_tap else 1)
        split = (0.0, macs) if problem.depthwise else (0.0 if ieee else macs, 0.0)
        in_ieee = macs if ieee and not problem.depthwise else 0.0
        found.append({
            "case": case.name + (", ieee" if ieee else ""), "backend": way[0], "tile": way[1],
            "terms": (*split, moved, calls, in_ieee), "forward": forward, "step": step,
        })  # fmt: skip
    return found


def took(
    run: Callable[[], Any], leaves: list[torch.Tensor], device: torch.device
) -> tuple[float, float]:
    """Nanoseconds of a forward without gradients, and of a forward with them and a backward."""
    start = now(device)
    with torch.no_grad():
        run()
    between = now(device)
    y = run()
    torch.autograd.grad(y, leaves, torch.ones_like(y))
    return (between - start) * 1e9, (now(device) - between) * 1e9


def now(device: torch.device) -> float:
    """Seconds on the host's clock, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _cells(sites: Any) -> torch.Tensor:
    """(B, 1, H, W): 1 where a node is."""
    there = sites.mask
    cells = torch.ones(sites.num_cells, device=sites.device) if there is None else there.float()
    return cells.view(sites.batch_size, 1, *sites.size)


def fitted(rows: list[dict[str, Any]], least: float) -> list[float]:
    """Rates with the least relative errors, none negative, and a multiply-add at least so dear."""
    measured = np.array([[(row["forward"] + row["step"] / 3) / 2] for row in rows])
    terms = np.array([row["terms"] for row in rows]) / measured
    # A rate that no case speaks of has to stay within its bounds all the same.
    low = np.array([least, 0.0, 0.0, 0.0, 0.0])
    found = lsq_linear(terms, np.ones(len(rows)), bounds=(low, np.inf)).x
    return [float(n) for n in found]


def judge(rows: list[dict[str, Any]], rates: dict[str, list[float]], what: str) -> None:
    """Print how the choice by these rates fares, case by case, worst first."""
    found = []
    for name in dict.fromkeys(row["case"] for row in rows):
        ways = [row for row in rows if row["case"] == name]
        own = [row for row in ways if row["backend"] != IMAGE]
        said = [float(np.dot(row["terms"], rates[row["backend"]])) for row in own]
        chosen, best = own[said.index(min(said))], min(ways, key=lambda row: row[what])
        ratio = chosen[what] / min(row[what] for row in own)
        found.append((chosen[what] / best[what], ratio, name, chosen, best))
    found.sort(key=lambda one: -one[0])
    near, nearer = (sum(one[n] <= 1.1 for one in found) for n in range(2))
    print(f"{what}: {near} of {len(found)} within 1.10 of the best, {nearer} of our own best")
    for ratio, _, name, chosen, best in found[:16]:
        print(
            f"  {ratio:.2f}  {name}: {chosen['backend']} {chosen['tile']} "
            f"{chosen[what] / 1e6:.2f} ms, best {best['backend']} {best['tile']} "
            f"{best[what] / 1e6:.2f} ms"
        )


if __name__ == "__main__":
    sys.exit(main())
