"""Building the 3 x 3 pixel graph: ours, with the tap of every edge, beside four libraries without.

Arms are interleaved and repeated, medians are quoted, and every figure is a ratio within this run.
Each of our repeats starts from a fresh record of sites, so that nothing is found in a cache. Writes
benchmarks/results/build_edges.json.

    python benchmarks/build_edges.py [--repeats 15] [--sizes 224 1024] [--force]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import machine

if not machine.ready():
    machine.restart()

import networkx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from skimage.graph import pixel_graph
from sklearn.feature_extraction.image import grid_to_graph
from torch_geometric.utils import grid

import convgraph as cg

OURS, PYG = "convgraph (with taps)", "torch_geometric.utils.grid"
NETWORKX_LIMIT = 224
"""networkx takes microseconds an edge; above this size it would take most of the run."""


def ours(n: int) -> int:
    """The typed edges of a fresh full grid: edge_index and edge_type."""
    sites = cg.Sites(((n, n),), None, d=2, device=torch.device("cpu"))
    edges = cg.connect(cg.KernelGeometry(3, padding=1), sites)
    return edges.edge_index.shape[1] + 0 * len(edges.edge_type)


def pyg(n: int) -> int:
    """3 x 3 neighbours with self-loops, without types."""
    return grid(n, n)[0].shape[1]


def sklearn(n: int) -> int:
    """4 neighbours with self-loops, as a sparse matrix."""
    return grid_to_graph(n, n).nnz


def skimage(n: int) -> int:
    """8 neighbours, as a sparse matrix with distances."""
    return pixel_graph(np.ones((n, n), dtype=bool), connectivity=2)[0].nnz


def nx(n: int) -> int:
    """4 neighbours, as a dictionary of dictionaries; each edge counts for both directions."""
    return 2 * networkx.grid_2d_graph(n, n).number_of_edges()


def main() -> int:
    """Run every arm at every size and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 1024])
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    console = Console()
    cores = os.cpu_count() or 1
    busy = machine.quiet(force=args.force)
    record: dict[str, object] = {
        "cores": cores, "threads": torch.get_num_threads(), "busy": round(busy, 2),
        "torch": torch.__version__, "repeats": args.repeats, "sizes": {},
    }  # fmt: skip
    for n in args.sizes:
        record["sizes"][str(n)] = measure(console, n, args.repeats)  # type: ignore[index]
    path = Path(__file__).parent / "results" / "build_edges.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(
        f"others kept {busy:.2f} of the cores busy; figures: benchmarks/results/{path.name}"
    )
    return 0


def measure(console: Console, n: int, repeats: int) -> dict[str, dict[str, float]]:
    """Time every arm at one size, interleaved."""
    arms: dict[str, Callable[[int], int]] = {
        OURS: ours,
        PYG: pyg,
        "sklearn grid_to_graph": sklearn,
        "skimage pixel_graph": skimage,
    }
    if n <= NETWORKX_LIMIT:
        arms["networkx grid_2d_graph"] = nx
    times: dict[str, list[float]] = {name: [] for name in arms}
    edges = {name: arm(n) for name, arm in arms.items()}  # warms up as well
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm(n)
            times[name].append((time.perf_counter() - start) / edges[name] * 1e9)
    mine = statistics.median(times[OURS])
    table = Table(title=f"{n} x {n}, median of {repeats}", title_justify="left")
    for column in ("library", "edges", "ns per edge", "ours / it"):
        table.add_column(column, justify="left" if column == "library" else "right")
    found = {}
    for name in arms:
        median = statistics.median(times[name])
        table.add_row(name, f"{edges[name]:,}", f"{median:.1f}", f"{mine / median:.2f}")
        found[name] = {"edges": edges[name], "ns_per_edge": median, "ours_over_it": mine / median}
    console.print(table)
    return found


if __name__ == "__main__":
    sys.exit(main())
