"""The page of the documentation: what was asked of every network, and what came out."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.convert.zoo.catalogue import catalogue
from tests.convert.zoo.run import read

HEAD = """# Networks that convert

Published networks, without trained weights, taken through `cg.to_graph` by `make zoo`. `make
zoo-page` writes this page; its numbers are counted.

Each network is made by its library, at its published width, in float64 and evaluation.
`cg.excite` opens what a fresh network hides: constants that start at zero are drawn, batch norms
calibrated. Images are two, square, and mostly the smallest that the network takes; the size
stands behind its name. Networks of transformers, MONAI and diffusers are made from small
configurations instead; `-3d` are networks on volumes. Then, in this order:

- **captured**: `torch.export` made a program of it.
- **equal**: images in, the converted network returns the dense network's bits (channels-last).
- **back**: `to_dense` returns every parameter and buffer bit for bit, under its own name.
- **strict**: `to_graph(..., strict=True)` takes it; every operator has a rule.
- **masked**: with a mask of patches in one image and of scattered pixels in the other, the
  converted network equals the dense network whose holes are refilled, and the mask changes the
  answer.
- **gradients**: asked of every third network that is not large: of what is asked, how many
  return the truth's gradients of the image and of every parameter on that mask.

The masked truth is an interpreter that reads what `torch.export` captured and nothing of the
package; for each element of each tensor it keeps the pixel that it belongs to. Both sides round
every operator's result to 20 bits below its largest entry, so that the order of a sum says
nothing, and their answers are compared bit for bit: more than a millionth of a map's largest
entry, gained or lost at any operator, stays. A cast to float32 inside a network is left out.
If they part by less than a thousandth, the images are drawn once more, since two roundings may part
by chance; a difference in meaning stays. Gradients are compared without rounding on the way: they
may differ by 20 bits below the largest entry. Training is not compared here.
"""

STAGES: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("tried", lambda r: True),
    ("built", lambda r: r["built"]),
    ("captured", lambda r: r["captured"]),
    ("equal", lambda r: bool(r["equal"])),
    ("back", lambda r: bool(r["back"])),
    ("strict", lambda r: bool(r["strict"])),
    ("masked", lambda r: bool(r["masked"])),
)

LIBRARIES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "pytorchcv": "pytorchcv",
    "smp": "segmentation-models-pytorch (architecture-encoder)",
    "facenet": "facenet-pytorch",
    "transformers": "transformers (from small configurations)",
    "monai": "MONAI (from small configurations; 3d: volumes)",
    "diffusers": "diffusers (from small configurations)",
}


def answers(folder: Path) -> list[dict[str, Any]]:
    """The answers that are there, in the order of the catalogue."""
    found = [read(folder, entry) for entry in catalogue()]
    return [one for one in found if one is not None]


def page(records: list[dict[str, Any]]) -> str:
    """The whole page."""
    parts = [HEAD, *_counts(records), "", *_said(records), "", "## On grids and on masks", ""]
    for library, words in LIBRARIES.items():
        mine = [r for r in records if r["masked"] and _library(r) == library]
        if mine:
            parts += [f"**{words}**: {', '.join(map(_named, mine))}.", ""]
    parts += [
        "## On grids only", "",
        "The dense bits, but no mask: an operator has no rule, which `strict=True` and a masked "
        "graph say with the module's path; or the interpreter has no answer of its own, and "
        "nothing was compared.", "",
        "| network | reason |", "|---|---|",
    ]  # fmt: skip
    parts += [_row(r) for r in records if r["equal"] and not r["masked"]]
    parts += ["", "## Neither", "", "| network | reached | reason |", "|---|---|---|"]
    for r in records:
        if not r["equal"]:
            name, reason = _row(r).strip("| ").split(" | ", 1)
            parts.append(f"| {name} | {_reached(r)} | {reason} |")
    asked = {r["name"] for r in records}
    open_ = [e.name for e in catalogue() if e.name not in asked]
    if open_:
        names = ", ".join(open_).replace("_", r"\_")
        parts += ["", "## Listed, not asked yet", "", f"{len(open_)} networks: {names}."]
    return "\n".join(parts).rstrip() + "\n"


def _said(records: list[dict[str, Any]]) -> list[str]:
    """How many were asked, how many are equal, and which state of the code answered."""
    asked, equal = len(records), sum(bool(r["masked"]) for r in records)
    by = Counter(str(r.get("commit", "")) or "an unknown commit" for r in records)
    states = ", ".join(f"{name} ({count})" for name, count in by.items())
    listed = len(list(catalogue()))
    return [
        f"Asked: {asked} of the {listed} networks that are listed. Equal on their mask: {equal}, "
        f"{equal / max(asked, 1):.1%} of those asked.",
        f"Answers by the commit of the code that gave them: {states}; what is equal is not asked "
        "again when the code changes, unless all is (`make zoo ZOO=--again`).",
    ]


def _counts(records: list[dict[str, Any]]) -> list[str]:
    names = [*(name for name, _ in STAGES), "gradients"]
    lines = [f"| library | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for library in (*LIBRARIES, ""):
        mine = [r for r in records if library in ("", _library(r))]
        counts = [str(sum(call(r) for r in mine)) for _, call in STAGES]
        asked = [r["gradients"] for r in mine if r.get("gradients") is not None]
        counts.append(f"{sum(asked)} of {len(asked)}")
        lines.append(f"| {library or 'all'} | {' | '.join(counts)} |")
    return lines


def _library(record: dict[str, Any]) -> str:
    return str(record["name"]).partition("/")[0]


def _named(record: dict[str, Any]) -> str:
    return f"{str(record['name']).partition('/')[2]} {record['size']}"


def _row(record: dict[str, Any]) -> str:
    reason = str(record["reason"]).partition("; with strict=False")[0].partition("While exec")[0]
    reason = _sentence(record, reason)
    reason = " ".join(reason.split()).replace("|", "\\|").replace("<", "&lt;").replace("_", r"\_")
    reason = reason.replace("*", r"\*").replace("[", r"\[")
    name = f"{record['name']} {record['size']}".replace("_", r"\_")
    return f"| {name} | {reason} |"


def _sentence(record: dict[str, Any], reason: str) -> str:
    """What an error of torch's means here, around its first sentence."""
    kind = reason.partition(":")[0]
    if kind == "ConversionError" or not kind.endswith(("Error", "SymNode")):
        return reason
    said = reason.partition(". ")[0]
    if not record["built"]:
        return f"the network itself does not run on these images ({said})"
    if not record["captured"]:
        return (
            "nothing was compared on a mask: torch.export, whose capture the truth reads, does not "
            f"take the network ({said})"
        )
    return reason


def _reached(record: dict[str, Any]) -> str:
    reached = [name for name, call in STAGES if call(record)]
    return reached[-1]


def write(folder: Path, path: Path) -> None:
    """Write the page from the answers in a folder."""
    path.write_text(page(answers(folder)), "utf-8")
