"""Write the measured ratios of the last runs into docs/benchmarks.md, between its two marks.

python benchmarks/page.py [--device cpu]
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: {} -->", "<!-- end of measured: {} -->"
DENSE, OURS = "nn.Conv2d x mask", "convgraph"
MODES = ("inference", "training")


def main() -> int:
    """Replace what stands between the marks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    parts = [layers(device), scale(device)]
    begin, end = BEGIN.format(device), END.format(device)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        print(f"docs/benchmarks.md has no {begin!r} before {end!r}")
        return 1
    body = "\n\n".join(part for part in parts if part)
    PAGE.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")
    return 0


def layers(device: str) -> str:
    """Return the table of layers, or nothing where none were measured."""
    path = HERE / "results" / f"run-{device}.json"
    if not path.exists():
        return ""
    record = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        f"{where(record)}. Inference / training; time and memory as a share of "
        "`nn.Conv2d` channels-last times the mask, and `RGCNConv`'s time and memory as a multiple "
        "of ours.",
        "",
        "| case | chosen | dense, ms | ours / dense | least of our backends / dense "
        "| memory / dense | RGCNConv / ours | its memory / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in record["cases"]:
        modes = [case["modes"][mode] for mode in MODES]
        least = [
            min((arm["over_dense"] for name, arm in m.items() if "backend" in name), default=None)
            for m in modes
        ]
        lines.append(
            "| "
            + " | ".join(
                (
                    case["name"], case["backend"],
                    pair([m[DENSE]["ms"] for m in modes]),
                    pair([m[OURS]["over_dense"] for m in modes]),
                    pair(least),
                    pair([m[OURS]["peak_bytes"] / m[DENSE]["peak_bytes"] for m in modes]),
                    pair([share(m, "ms") for m in modes]),
                    pair([share(m, "peak_bytes") for m in modes]),
                )
            )
            + " |"
        )  # fmt: skip
    return "\n".join(lines)


def share(mode: dict[str, Any], figure: str) -> float | None:
    """RGCNConv's figure over ours, where it ran."""
    return mode["RGCNConv"][figure] / mode[OURS][figure] if "RGCNConv" in mode else None


def pair(numbers: list[float | None]) -> str:
    """Write a figure of either mode."""
    return "" if None in numbers else " / ".join(f"{n:.2f}" for n in numbers)


def where(record: dict[str, Any]) -> str:
    """Say on what the figures were taken, and how quiet it was."""
    device = f"{record['cores']} CPU cores, {record['threads']} threads"
    if record["device"] != "cpu":
        device = record["device"]
    return f"{device}, torch {record['torch']}; others kept {record['busy']:.2f} of the cores busy"


def scale(device: str) -> str:
    """Return the slopes and the picture, or nothing where none were measured."""
    path = HERE / "results" / f"scale-{device}.json"
    if not path.exists():
        return ""
    record = json.loads(path.read_text(encoding="utf-8"))
    picture = PAGE.parent / "images" / f"scale-{device}.png"
    shutil.copyfile(path.with_suffix(".png"), picture)
    lines = [
        f"Scale ({where(record)}): slopes in log-log against nodes, by `benchmarks/scale.py`.",
        "",
        "| series | nodes | time | memory | building the map |",
        "|---|---|---|---|---|",
    ]
    for name, points in record["series"].items():
        nodes = [p["nodes"] for p in points]
        slopes = record["slopes"][name]
        told = [f"{slopes[f]:.2f}" if f in slopes else "" for f in ("ms", "peak_bytes", "map_ms")]
        lines.append(f"| {name} | {min(nodes):,} to {max(nodes):,} | {' | '.join(told)} |")
    lines += ["", f"![Time and memory against nodes](images/{picture.name})"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
