"""What going around oneDNN's faults costs on full grids: each layer with its guard and without.

    OMP_WAIT_POLICY=passive python benchmarks/guards.py

One layer on one graph, whose plan is switched between the guarded call and torch's own; the two
take turns, and what is reported is the median of the ratios of one turn. `--beside twin` asks the
dense twin on an ordinary image instead, which does not meet the faults. Times are of this process
on the CPU, one thread, so that other work on the machine counts little. Each case is a process of
its own: where torch's own call errs (`backends.onednn`) it may die, and the row says so.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import convgraph as cg
from convgraph.backends import onednn

CASES: dict[str, tuple[int, tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = {
    "small 3x3 3-16, 1 x 8": (1, (8, 8), (3, 16, 3), {"padding": 1}),
    "3x3 64-64, 1 x 56": (1, (56, 56), (64, 64, 3), {"padding": 1}),
    "stem 7x7/2 3-64, 1 x 112": (1, (112, 112), (3, 64, 7), {"stride": 2, "padding": 3}),
    "1x1 64-256, 1 x 56": (1, (56, 56), (64, 256, 1), {}),
    "dw 3x3 32, 1 x 112": (1, (112, 112), (32, 32, 3), {"padding": 1, "groups": 32}),
    "dw 7x7 96, 1 x 56": (1, (56, 56), (96, 96, 7), {"padding": 3, "groups": 96}),
    "3x3/2 1-8, 8 x 28": (8, (28, 28), (1, 8, 3), {"stride": 2, "padding": 1}),
    "1x1/2 3-16, 8 x 64": (8, (64, 64), (3, 16, 1), {"stride": 2}),
    "1x1/2 4-8, 2 x 8": (2, (8, 8), (4, 8, 1), {"stride": 2}),
    "1x1/2 3-16, 8 x 8": (8, (8, 8), (3, 16, 1), {"stride": 2}),
    "1x1/2 9-16, 8 x 8": (8, (8, 8), (9, 16, 1), {"stride": 2}),
    "1x1/2 4-8, 1 x 8": (1, (8, 8), (4, 8, 1), {"stride": 2}),
    "1x1/2 9-16, 8 x 64": (8, (64, 64), (9, 16, 1), {"stride": 2}),
    "1x1/2 12-24, 8 x 64": (8, (64, 64), (12, 24, 1), {"stride": 2}),
    "1x1/2 4-8, 8 x 32": (8, (32, 32), (4, 8, 1), {"stride": 2}),
    "1x1/2 8-16, 8 x 64": (8, (64, 64), (8, 16, 1), {"stride": 2}),
    "1x1/2 15-32, 8 x 64": (8, (64, 64), (15, 32, 1), {"stride": 2}),
    "1x1/2 16-32, 8 x 64": (8, (64, 64), (16, 32, 1), {"stride": 2}),
    "1x1/2 64-128, 1 x 56": (1, (56, 56), (64, 128, 1), {"stride": 2}),
}
"""Name -> batch, size, and the arguments of a GraphConv2d."""


def measured(name: str, seconds: float, peer: str) -> None:
    """Print one row of the table: forward, and forward with backward."""
    batch, size, arguments, options = CASES[name]
    layer: Any = cg.nn.GraphConv2d(*arguments, **options)
    image = torch.randn(batch, arguments[0], *size)
    graph = cg.PixelGraph.from_image(image)
    layer(graph)
    plan: Any = graph.sites.memo(("plan", layer.geometry.key), lambda: None)
    guarded, plain = plan.call, onednn.CONV[2]
    leaf = cg.PixelGraph(graph.x.clone().requires_grad_(), graph.sites)
    head = torch.ones_like(layer(graph).x)
    twin = layer.to_dense()
    dense, ones = image.clone().requires_grad_(), torch.ones_like(twin(image))

    def forward(call: Any) -> None:
        object.__setattr__(plan, "call", call)
        with torch.no_grad():
            layer(graph)

    def train(call: Any) -> None:
        object.__setattr__(plan, "call", call)
        layer(leaf).x.backward(head)
        layer.zero_grad()
        leaf.x.grad = None

    def twin_forward() -> None:
        with torch.no_grad():
            twin(image)

    def twin_train() -> None:
        twin(dense).backward(ones)
        twin.zero_grad()
        dense.grad = None

    sys.stdout.write(f"{name:22} | {'the same' if guarded is plain else guarded.__name__[1:]:9}")
    for run, theirs in ((forward, twin_forward), (train, twin_train)):
        other = theirs if peer == "twin" else partial(run, plain)
        times = _turns(partial(run, guarded), other, seconds)
        ratio = statistics.median(a / b for a, b in times)
        own = statistics.median(b for _, b in times)
        sys.stdout.write(f" | {ratio:.3f} of {own * 1e6:5.0f} us, {len(times):4} turns")
        sys.stdout.flush()


def _turns(
    ours: Callable[[], None], theirs: Callable[[], None], seconds: float
) -> list[tuple[float, float]]:
    """CPU seconds of a call of each, turn about; who is first changes."""
    ours()
    start = time.process_time()
    ours()
    many = max(1, int(0.004 / max(1e-6, time.process_time() - start)))
    found: list[tuple[float, float]] = []
    begun = time.process_time()
    while time.process_time() - begun < seconds or len(found) < 20:
        took = {}
        for run in (ours, theirs) if len(found) % 2 else (theirs, ours):
            start = time.process_time()
            for _ in range(many):
                run()
            took[run] = (time.process_time() - start) / many
        found.append((took[ours], took[theirs]))
    return found


def main() -> int:
    """Print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of CPU, for each figure")
    parser.add_argument(
        "--beside", choices=("plain", "twin"), default="plain",
        help="torch's own call on the same rows, or the dense twin on an ordinary image",
    )  # fmt: skip
    parser.add_argument("--only", default="", help="cases whose name holds this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in CASES:
        if given.only not in name:
            continue
        child = os.fork()
        if child == 0:
            measured(name, given.seconds, given.beside)
            os._exit(0)
        died = os.waitpid(child, 0)[1]
        sys.stdout.write(" | torch's own died\n" if died else "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
