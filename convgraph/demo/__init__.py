"""The demo: a network on digits and filters on a photograph, dense and graph, and where dense ends.

Everything the library claims is done once on real data and checked on the way: the training of a
small network in both forms from one seed, a certificate per layer, the operators of the taxonomy on
a photograph, and the photograph with holes, on hexagons, a torus and a sphere. Uses the public API
only.
"""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from convgraph.demo import digits, photograph, picture, worlds

__all__ = ["run"]


def run(*, out: Path, fast: bool = False) -> int:
    """Run the demo and write its two pictures and its figures.

    Args:
        out: folder to write to; made if it is not there.
        fast: fewer epochs and a smaller photograph.

    Returns:
        0 if every check held, 1 if one did not.
    """
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    console.rule("handwritten digits: one network, two forms, one seed")
    learned = digits.learn(console, epochs=4 if fast else 15)
    console.print(_layers(learned))
    console.rule("a photograph: six operators, two forms")
    filtered = photograph.filter_all(size=128 if fast else 512)
    console.print(_operators(filtered))
    path = out / "demo.png"
    picture.save(path, filtered, learned)
    console.rule("where no dense convolution follows: the same weights in four worlds")
    visited = worlds.visit(side=128 if fast else 512)
    console.print(_worlds(visited))
    beyond = out / "worlds.png"
    worlds.save(beyond, visited)
    checks = {**learned.checks(), **photograph.checks(filtered), **worlds.checks(visited)}
    summary = {
        "checks": checks,
        "test_accuracy": learned.accuracy,
        "largest_loss_difference": learned.loss_gap,
        "largest_logit_difference": learned.logit_gap,
        "logit_bound": learned.logit_bound,
        "certificates": {row.name: row.verdict for row in learned.rows},
        "worlds": {world.name: world.certificate.verdict for world in visited},
        "photograph": {f.name: {"difference": f.gap, "bound": f.bound} for f in filtered},
    }
    record = out / "summary.json"
    record.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print(_summary(checks))
    console.print(f"pictures: {path}\n{beyond}\nfigures: {record}", highlight=False)
    return 0 if all(checks.values()) else 1


def _layers(learned: digits.Learned) -> Table:
    table = Table(title="a certificate per layer (graph side: gather)", title_justify="left")
    for name in ("layer", "verdict", "edges", "epsilon", "error / bound"):
        table.add_column(name, justify="left" if name in ("layer", "verdict") else "right")
    for row in learned.rows:
        table.add_row(row.name, row.verdict, row.edges, row.epsilon, row.rho)
    return table


def _operators(filtered: list[photograph.Filtered]) -> Table:
    table = Table(title="dense against graph (gather), float32", title_justify="left")
    for name in ("operator", "edges", "largest difference", "its bound", "error / bound"):
        table.add_column(name, justify="left" if name == "operator" else "right")
    for f in filtered:
        table.add_row(f.name, f"{f.edges:,}", f"{f.gap:.1e}", f"{f.bound:.1e}", f"{f.rho:.2f}")
    return table


def _worlds(visited: list[worlds.World]) -> Table:
    table = Table(title="a layer beside the dense one's meaning there", title_justify="left")
    for name in ("world", "nodes", "verdict"):
        table.add_column(name, justify="right" if name == "nodes" else "left")
    for world in visited:
        table.add_row(f"{world.name}: {world.note}", f"{world.pixels.num_nodes:,}",
                      world.certificate.verdict)  # fmt: skip
    return table


def _summary(checks: dict[str, bool]) -> Table:
    table = Table(title="what was checked", title_justify="left", show_header=False)
    for what, held in checks.items():
        table.add_row("[green]held[/]" if held else "[red]FAILED[/]", what)
    return table
