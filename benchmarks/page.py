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
    """Return the tables of layers and the picture, or nothing where none were measured."""
    path = HERE / "results" / f"run-{device}.json"
    if not path.exists():
        return ""
    record = json.loads(path.read_text(encoding="utf-8"))
    alone = path.with_name(f"run-{device}-threads-1.json")
    single = json.loads(alone.read_text(encoding="utf-8"))["cases"] if alone.exists() else []
    by_name = {case["name"]: both(case) for case in single}
    lines = [
        f"{where(record)}. Inference / training; time and memory as a share of "
        "`nn.Conv2d` channels-last times the mask. The column of one thread is a run of its own.",
        "",
        "| case | chosen | dense, ms | ours / dense | one thread | least of our backends / dense "
        "| memory / dense |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in record["cases"]:
        modes, other = both(case), by_name.get(case["name"])
        least = [
            min((arm["over_dense"] for name, arm in m.items() if "backend" in name), default=None)
            for m in modes
        ]
        lines.append(row(
            case["name"], case["backend"],
            pair([m[DENSE]["ms"] for m in modes]),
            pair([m[OURS]["over_dense"] for m in modes]),
            pair([m[OURS]["over_dense"] for m in other]) if other else "",
            pair(least),
            pair([m[OURS]["peak_bytes"] / m[DENSE]["peak_bytes"] for m in modes]),
        ))  # fmt: skip
    shutil.copyfile(path.with_suffix(".png"), PAGE.parent / "images" / f"run-{device}.png")
    lines += [
        "", f"![Time over the dense one against density](images/run-{device}.png)", "",
        "Others' time as a multiple of ours, inference / training, in the same run; `RGCNConv`'s "
        "memory too. spconv's wheel for the CPU has no backward without CUDA. The last column is "
        "ours over `nn.Conv2d`, both from NCHW images, the copy included.",
        "",
        "| case | `RGCNConv` | its memory | `FastRGCNConv` | spconv `SubMConv2d` | from NCHW |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for case in record["cases"]:
        modes = both(case)
        found = [
            pair([share(m, "RGCNConv", "ms") for m in modes]),
            pair([share(m, "RGCNConv", "peak_bytes") for m in modes]),
            pair([share(m, "FastRGCNConv", "ms") for m in modes]),
            pair([share(modes[0], "spconv SubMConv2d", "ms")]),
            pair([share(m, "convgraph from NCHW", "ms", "nn.Conv2d from NCHW") for m in modes]),
        ]
        if any(found):
            lines.append(row(case["name"], *found))
    return "\n".join(lines)


def both(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the arms of a case in either mode."""
    return [case["modes"][mode] for mode in MODES]


def row(*cells: str) -> str:
    """Write a row of a table."""
    return "| " + " | ".join(cells) + " |"


def share(mode: dict[str, Any], arm: str, figure: str, of: str = OURS) -> float | None:
    """Return an arm's figure over another's, where both ran."""
    return mode[arm][figure] / mode[of][figure] if arm in mode and of in mode else None


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
        figures = [
            f"{slopes[f]:.2f}" if f in slopes else "" for f in ("ms", "peak_bytes", "map_ms")
        ]
        lines.append(f"| {name} | {min(nodes):,} to {max(nodes):,} | {' | '.join(figures)} |")
    lines += ["", f"![Time and memory against nodes](images/{picture.name})"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
