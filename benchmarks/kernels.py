"""What Triton's kernels take of a card, and the least time that a launch could take; no GPU needed.

Registers, spills and shared memory come from the assembled code for compute capability 8.0 and 9.0,
and with them how many warps a multiprocessor holds. The floor of a launch is the larger of its
bytes over the memory's rate and its operations over the tensor cores', as they were measured on an
H100 (3.0 TB/s, 798 TFLOP/s in bfloat16; half of that is reckoned for TF32). With the figures of
`gpu_speed.py`, each measured time stands beside its floor.

    python benchmarks/kernels.py [--figures FILE]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from cases import Case, mask
from gpu_speed import BLOCK, KINDS, PLACES, SHAPES
from rich.console import Console
from rich.table import Table

import convgraph as cg
from convgraph.backends.edge_count import count_edges
from tests.backends.fused.assembled import CAPABILITIES, assembled, launches

BYTES_A_SECOND = 3.0e12
FLOPS_A_SECOND = {"bf16": 798e12, "fp16": 798e12, "TF32": 399e12}
LAYERS = ((64, 1), (128, 1), (256, 1), (96, 96), (96, 4))
"""Channels and groups."""


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--figures", type=Path, help="JSON that gpu_speed.py has written")
    args = parser.parse_args()
    console = Console(width=120)
    console.print(resources())
    found = json.loads(args.figures.read_text(encoding="utf-8")) if args.figures else None
    console.print(floors(found))
    return 0


def resources() -> Table:
    """Registers, spills, shared memory and occupancy of every kernel."""
    made = Table(title="kernels, as assembled", title_justify="left")
    for column in ("kernel", "dtype", "channels", "groups", "capability"):
        made.add_column(column)
    for column in ("registers", "spilled B", "shared KiB", "blocks", "occupancy"):
        made.add_column(column, justify="right")
    for channels, groups in LAYERS:
        for dtype in ("bf16", "fp32"):
            for name, (constants, warps) in launches(dtype, channels, "tf32", groups).items():
                for capability in CAPABILITIES:
                    one = assembled(name, dtype, capability, constants, warps)
                    made.add_row(
                        name, dtype, str(channels), str(groups), f"{capability / 10:.1f}",
                        str(one.registers), str(one.spilled), f"{one.shared / 1024:.0f}",
                        str(one.blocks), f"{one.occupancy:.2f}",
                    )  # fmt: skip
    return made


def floors(figures: dict[str, Any] | None) -> Table:
    """Bytes, operations and the least time of a forward, and what was measured beside it."""
    made = Table(title="a forward on an H100, at least", title_justify="left")
    made.add_column("case")
    for column in ("MB", "GFLOP", "floor us", "bound by", "measured us", "/ floor"):
        made.add_column(column, justify="right")
    for shape, (place, density), kind in [(s, p, k) for k in KINDS for p in PLACES for s in SHAPES]:
        case = SHAPES[shape]
        if density == 1 or kind not in FLOPS_A_SECOND or case.layer == BLOCK.layer:
            continue
        masked = Case(**{**vars(case), "density": density, "kind": place})
        moved, flops = work(masked, KINDS[kind][0].itemsize)
        times = {
            "memory": moved / BYTES_A_SECOND * 1e6,
            "products": flops / FLOPS_A_SECOND[kind] * 1e6,
        }
        bound = max(times, key=lambda name: times[name])
        took = measured(figures, kind, masked.name)
        made.add_row(
            f"{kind} {masked.name}", f"{moved / 1e6:.1f}", f"{flops / 1e9:.1f}",
            f"{times[bound]:.1f}", bound, f"{took:.0f}" if took else "",
            f"{took / times[bound]:.1f}" if took else "",
        )  # fmt: skip
    return made


def work(case: Case, itemsize: int) -> tuple[float, float]:
    """Return the fewest bytes and the operations of a forward on the masks of a case."""
    holes = mask(case, torch.Generator().manual_seed(0))
    graph = cg.PixelGraph.from_image(torch.empty(case.batch, 1, case.size, case.size), holes)
    geometry = cg.KernelGeometry(case.kernel, padding=(case.kernel - 1) // 2)
    edges = cg.connect(geometry, graph)
    macs = edges.memo_of(count_edges) * case.channels * case.out // case.groups
    rows = edges.num_sources * case.channels + edges.num_targets * case.out
    weights = geometry.num_taps * case.channels * case.out // case.groups
    table = 4 * geometry.num_taps * edges.num_targets if case.kernel > 1 else 0
    return float((rows + weights) * itemsize + table), 2.0 * macs


def measured(figures: dict[str, Any] | None, kind: str, name: str) -> float | None:
    """Microseconds of our forward in the figures, or None."""
    for one in (figures or {}).get("cases", []):
        if (one.get("kind"), one.get("name")) == (kind, name) and "arms" in one:
            return float(one["arms"]["convgraph"]["inference"]["ms"]) * 1e3
    return None


if __name__ == "__main__":
    sys.exit(main())
