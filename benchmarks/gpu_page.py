"""Write the figures of a GPU run into the page of benchmarks, between its marks.

    python benchmarks/gpu_page.py FIGURES [--page docs/benchmarks.md]

FIGURES is what gpu_speed.py has written. Shown is the backend that the cost table chooses now,
with the time that it took in that run, whatever was chosen then.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from gpu_speed import KINDS
from peers import DENSE, OURS

from convgraph.backends import cost

MARKS = ("<!-- measured: cuda -->", "<!-- end: cuda -->")


def main() -> int:
    """Read, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("figures", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args()
    record = json.loads(args.figures.read_text(encoding="utf-8"))
    before, _, rest = args.page.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    text = "\n".join([MARKS[0], "", *lines(record), "", MARKS[1]])
    args.page.write_text(before + text + after, encoding="utf-8")
    return 0


def lines(record: dict[str, Any]) -> list[str]:
    """The table, a row a case."""
    made = [
        f"One {record['device']}, torch {record['torch']}; milliseconds of the device, inference / "
        f"training, medians of {record['rounds']} rounds; ratios to `nn.Conv2d` channels-last "
        "(times the mask where there is one), with cuDNN choosing its kernels by trial.",
        "",
        "| case | chosen | dense, ms | ours / dense | RGCNConv / dense | memory / dense |",
        "|---|---|---|---|---|---|",
    ]
    for one in record["cases"]:
        if "arms" not in one:
            continue
        name = chosen(one)
        arm = one["arms"].get(f"backend {name}", one["arms"][OURS])
        dense, peer = one["arms"][DENSE], one["arms"].get("RGCNConv")
        made.append(
            f"| {one['kind']} {one['name']} | {name} | {both(dense, 'ms')} | "
            f"{both(arm, 'over_dense')} | {both(peer, 'over_dense') if peer else ''} | "
            f"{both(arm, 'peak_bytes', dense)} |"
        )
    return made


def chosen(one: dict[str, Any]) -> str:
    """The backend that the table chooses now, by the work that was recorded."""
    if "options" not in one or one["backend"] == "dense":
        return str(one.get("backend", ""))
    dtype, case = KINDS[one["kind"]][0], one["case"]
    facts: Any = SimpleNamespace(
        device=torch.device("cuda"), dtype=dtype, ieee=one["kind"] == "fp32",
        depthwise=case["groups"] > 1,
    )  # fmt: skip
    if case["kernel"] == 1 and facts.dtype.itemsize != 2:
        return "gather"  # a product over the rows as they lie, without asking the table
    taken = {}
    for option in one["options"]:
        calls = case["kernel"] ** 2 if option["name"] == "gather" else 1
        found = cost.nanoseconds(option["name"], facts, option["macs"], option["moved"], calls)
        taken[option["name"]] = found
    taken.pop("messages", None)
    return min(taken, key=lambda name: taken[name])


def both(arm: dict[str, Any], what: str, over: dict[str, Any] | None = None) -> str:
    """A figure of inference and of training."""
    found = []
    for mode in ("inference", "training"):
        value = arm.get(mode, {}).get(what)
        if value is None:
            found.append("-")
            continue
        value = value / over[mode][what] if over else value
        found.append(f"{value:.3f}" if what == "ms" else f"{value:.2f}")
    return " / ".join(found)


if __name__ == "__main__":
    sys.exit(main())
