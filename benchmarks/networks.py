"""Converted networks on a full grid beside the dense ones: conversion, forward, and with backward.

Batch 8 at 224 x 224, float32, both channels-last, eager. Conversion is `to_graph` with an example,
beside `torch.export.export` alone, batch dynamic as `to_graph` asks for. Arms take turns, and who
goes first changes; medians and their ratio, the median of the ratios of neighbours, the ratio of
the least times, and that of processor time, which other work on the machine disturbs least. Writes
benchmarks/results/networks.json.

    python benchmarks/networks.py [--networks resnet50 mobilenet_v2 convnext_tiny] [--rounds 9]
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

if not machine.ready():
    machine.restart()

import torch
from rich.console import Console
from rich.table import Table

import convgraph as cg

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.zoo import models

Run = Callable[[], Any]


def take_turns(one: Run, two: Run, rounds: int) -> dict[str, float]:
    """Milliseconds of both, in turns, and ratios; the first round of each warms up."""
    wall: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for which in ((0, 1), (1, 0))[turn % 2]:
            gc.collect()  # what an export leaves behind is not paid for by the next run
            start, used = time.perf_counter(), time.process_time()
            (one, two)[which]()
            if turn:
                wall[which].append(time.perf_counter() - start)
                cpu[which].append(time.process_time() - used)
    first, second = map(statistics.median, wall)
    return {
        "dense_ms": first * 1e3, "graph_ms": second * 1e3, "ratio": second / first,
        "neighbours": statistics.median(b / a for a, b in zip(*wall, strict=True)),
        "least": min(wall[1]) / min(wall[0]),
        "processor": statistics.median(cpu[1]) / statistics.median(cpu[0]),
    }  # fmt: skip


def measure(name: str, batch: int, side: int, rounds: int) -> dict[str, Any]:
    """Time one network."""
    torch.manual_seed(0)
    dense = models().get_model(name, weights=None).to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    found: dict[str, Any] = {"network": name, "batch": batch, "side": side}
    dense.eval()
    shapes = ({0: torch.export.Dim.AUTO},)
    found["convert"] = take_turns(
        lambda: torch.export.export(dense, (x,), strict=False, dynamic_shapes=shapes),
        lambda: cg.to_graph(dense, x),
        max(3, rounds // 2),
    )
    net = cg.to_graph(dense, x)
    with torch.no_grad():
        found["same_bits"] = bool(torch.equal(net(x), dense(x)))
        found["forward"] = take_turns(lambda: dense(x), lambda: net(x), rounds)
    dense.train(), net.train()

    def both(module: Any) -> Run:
        parameters = list(module.parameters())

        def run() -> None:
            torch.manual_seed(1)  # stochastic depth drops the same branches
            torch.autograd.grad(module(x).square().sum(), parameters)

        return run

    found["with backward"] = take_turns(both(dense), both(net), rounds)
    return found


def table(row: dict[str, Any]) -> Table:
    """Return a network's row as a table."""
    made = Table(title=row["network"], title_justify="left")
    figures = list(row["forward"])
    for name in ("what", *figures):
        made.add_column(name, justify="left" if name == "what" else "right")
    for what in ("convert", "forward", "with backward"):
        texts = [f"{row[what][n]:.0f}" if "_ms" in n else f"{row[what][n]:.3f}" for n in figures]
        made.add_row(what, *texts)
    return made


def main() -> None:
    """Measure each network and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="+", default=["resnet50", "mobilenet_v2", "convnext_tiny"]
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    busy = machine.quiet(force=args.force)
    machine.keep_pages()
    path = Path(__file__).parent / "results" / "networks.json"
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in args.networks:
        row = measure(name, args.batch, args.side, args.rounds)
        Console().print(table(row))
        kept[name] = row | {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "busy": round(busy, 2),
        }
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
