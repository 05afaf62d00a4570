"""Fit the CPU's row of the cost table, `convgraph.backends.cost`, to this machine.

    nanoseconds = multiply-adds * mac + elements moved * moved + kernels started * call

Forward passes of convolutions on masks, each backend that serves and each size of tile, medians of
rounds that take turns; bounded least squares over the relative errors. Prints one rate a
backend, and how much slower the choice by the fitted table is than the best of each case.

    python benchmarks/rates.py [--rounds 7] [--force]
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import machine

if not machine.ready():
    machine.restart()

import numpy as np
import torch
from cases import LAYERS, Case, mask
from scipy.optimize import lsq_linear

import convgraph as cg
from convgraph.backends import gather, masked, tiles, tiling
from convgraph.functional.conv import tap_matrices

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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    machine.quiet(force=args.force)
    layers = [c for c in LAYERS if c.size == 56 and c.kernel > 1 and c.channels < 256]
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for layer in (*layers, *MORE):
            for kind, density in MASKS:
                case = replace(layer, kind=kind, density=density)
                rows += measured(case, mask(case, generator), args.rounds)
    rates: dict[str, list[float]] = {}
    for name in SERVING:  # nobody multiplies faster than torch's whole convolution
        least = rates["masked"][0] if rates else 0.0
        rates[name] = fitted([r for r in rows if r["backend"] == name], least)
    for name, rate in rates.items():
        told = ", ".join(f"{n}={v:.4g}" for n, v in zip(NUMBERS, rate, strict=True))
        print(f"{name:8s} {told}")
    judge(rows, rates)
    return 0


NUMBERS = ("mac", "depthwise", "moved", "call")
SERVING = ("masked", "tiles", "gather")


def measured(case: Case, holes: Any, rounds: int) -> list[dict[str, Any]]:
    """Return every way of computing a case, with its work and its median nanoseconds."""
    layer = cg.nn.GraphConv2d(
        case.channels, case.out, case.kernel, case.stride, case.kernel // 2, groups=case.groups
    )
    image = torch.randn(case.batch, case.channels, case.size, case.size)
    graph = cg.PixelGraph.from_image(image, holes)
    problem, edges, x = layer.problem(graph), layer.edges(graph), graph.x
    w, b, groups = layer.weight, layer.bias, case.groups
    ways: dict[tuple[str, Any], tuple[Callable[[], Any], tuple[float, float]]] = {}
    for tile, count in edges.form(tiling.occupancy):
        run = lambda tile=tile: tiles.conv(x, w, b, edges, groups, tile)  # noqa: E731
        ways["tiles", tile] = run, tiles._work(problem, tile, count)
    ways["masked", 0] = (lambda: masked.conv(x, w, b, edges, groups)), masked.work(problem)
    if not 1 < groups == case.channels or case.density <= 0.1:
        taps = lambda: tap_matrices(w, groups, transposed=False)  # noqa: E731
        run = lambda: gather.conv(x, taps(), edges) + b  # noqa: E731
        ways["gather", 0] = run, gather.work(problem)
    times: dict[tuple[str, Any], list[float]] = {way: [] for way in ways}
    order, shuffled = list(ways), random.Random(0)
    for turn in range(rounds + 1):
        shuffled.shuffle(order)
        for way in order:
            start = time.perf_counter()
            ways[way][0]()
            if turn:
                times[way].append((time.perf_counter() - start) * 1e9)
    single = 1 < groups == case.channels == case.out
    return [
        {
            "case": case.name, "backend": way[0], "tile": way[1],
            "terms": (
                0.0 if single else work[0], work[0] if single else 0.0, work[1],
                float(case.kernel**2 if way[0] == "gather" else 1),
            ),
            "ns": statistics.median(times[way]),
        }
        for way, (_, work) in ways.items()
    ]  # fmt: skip


def fitted(rows: list[dict[str, Any]], least: float) -> list[float]:
    """Rates with the least relative errors, none negative, and a multiply-add at least so dear."""
    terms = np.array([row["terms"] for row in rows]) / np.array([[row["ns"]] for row in rows])
    # A rate that no case speaks of has to stay within its bounds all the same.
    low = np.array([least, 0.0, 0.0, 0.0])
    found = lsq_linear(terms, np.ones(len(rows)), bounds=(low, np.inf)).x
    return [float(n) for n in found]


def judge(rows: list[dict[str, Any]], rates: dict[str, list[float]]) -> None:
    """Print how the choice by these rates fares, case by case, worst first."""
    found = []
    for name in dict.fromkeys(row["case"] for row in rows):
        ways = [row for row in rows if row["case"] == name]
        said = [float(np.dot(row["terms"], rates[row["backend"]])) for row in ways]
        chosen, best = ways[said.index(min(said))], min(ways, key=lambda row: row["ns"])
        found.append((chosen["ns"] / best["ns"], name, chosen, best))
    found.sort(key=lambda one: -one[0])
    print(f"{sum(one[0] <= 1.1 for one in found)} of {len(found)} within 1.10 of the best")
    for ratio, name, chosen, best in found[:25]:
        print(
            f"  {ratio:.2f}  {name}: {chosen['backend']} {chosen['tile']} "
            f"{chosen['ns'] / 1e6:.2f} ms, best {best['backend']} {best['tile']} "
            f"{best['ns'] / 1e6:.2f} ms"
        )


if __name__ == "__main__":
    sys.exit(main())
