"""Which class torch's own convolutions are of, here: exact, rounds to exact, or inexact.

A direct sum of integer products is exact as long as every sum fits the accumulator; so is
Winograd's F(2 x 2, 3 x 3). F(4 x 4) and Fourier transforms multiply by fractions: their results lie
beside the integers, near them or not. So integers are drawn small enough for operands and sums of
the dtype, and what comes out is held against the integer oracle, rounded once to the dtype:

    exact             every entry is the integer
    rounds to exact   every entry's nearest integer is it, but not every entry is one
    inexact           neither; such a kernel is outside of the bound of a certificate

Writes benchmarks/results/classes-DEVICE.json or --json, with --page the table of a page.

    python benchmarks/vendor_classes.py [--device cuda] [--trials 3] [--json FILE] [--page FILE]
"""

import argparse
import json
import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.precision import allows_tf32, ieee_float32

GEOMETRIES: dict[str, ConvSpec] = {
    "1x1, 64-128, 28": ConvSpec(64, 128, (1, 1), (28, 28)),
    "3x3, 64-64, 56": ConvSpec(64, 64, (3, 3), (56, 56), padding=((1, 1),) * 2),
    "3x3, 256-256, 14": ConvSpec(256, 256, (3, 3), (14, 14), padding=((1, 1),) * 2),
    "3x3/2, 64-128, 56": ConvSpec(64, 128, (3, 3), (56, 56), padding=((1, 1),) * 2, stride=(2, 2)),
    "3x3 dilated, 64-64, 28": ConvSpec(
        64, 64, (3, 3), (28, 28), padding=((2, 2),) * 2, dilation=(2, 2)
    ),
    "5x5, 32-32, 28": ConvSpec(32, 32, (5, 5), (28, 28), padding=((2, 2),) * 2),
    "7x7/2, 3-64, 112": ConvSpec(3, 64, (7, 7), (112, 112), padding=((3, 3),) * 2, stride=(2, 2)),
    "depthwise 3x3, 96, 56": ConvSpec(96, 96, (3, 3), (56, 56), padding=((1, 1),) * 2, groups=96),
    "depthwise 7x7, 96, 28": ConvSpec(96, 96, (7, 7), (28, 28), padding=((3, 3),) * 2, groups=96),
    "3x3 of 4 groups, 64-64, 28": ConvSpec(
        64, 64, (3, 3), (28, 28), padding=((1, 1),) * 2, groups=4
    ),
}
KINDS: dict[str, tuple[torch.dtype, int, int]] = {
    "float64": (torch.float64, 53, 53),
    "float32": (torch.float32, 24, 24),
    "TF32": (torch.float32, 11, 24),
    "float16": (torch.float16, 11, 15),
    "bfloat16": (torch.bfloat16, 8, 24),
}
"""Dtype, bits of an operand, bits of a sum; more than 15 would overflow float16."""
CLASSES = ("exact", "rounds to exact", "inexact")
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
QUANTITIES = ("y", "grad_x", "grad_w")
MARKS = ("<!-- measured: {} -->", "<!-- end: {} -->")


def classed(found: Tensor, exact: Any, dtype: torch.dtype) -> int:
    """The place in CLASSES of one result, given the integers.

    Example:
        >>> exact = np.array([3.0, 4.0])
        >>> classed(torch.tensor([3.0, 4.0]), exact, torch.float32)
        0
        >>> classed(torch.tensor([3.0, 4.001]), exact, torch.float32)
        1
        >>> classed(torch.tensor([3.0, 4.6]), exact, torch.float32)
        2
    """
    rounded = torch.from_numpy(exact).to(dtype).double().numpy()
    got = found.double().cpu().numpy()
    if np.array_equal(got, rounded):
        return 0
    return 1 if np.array_equal(np.rint(got), rounded) else 2


def worst(
    spec: ConvSpec, kind: str, layout: torch.memory_format, device: torch.device, trials: int
) -> dict[str, str] | str:
    """The worst class of each quantity over some trials, or why there is none."""
    dtype, operand, total = KINDS[kind]
    oracle = Oracle(spec)
    # Entries of [-a, a] fit an operand, and sums of their products a sum.
    a = min(math.isqrt(2**total // oracle.terms()), 2**operand)
    if a < 1:
        return "no integers fit"
    ranks = dict.fromkeys(QUANTITIES, 0)
    generator = np.random.default_rng(0)
    padding = tuple(before for before, _ in spec.padding)
    for _ in range(trials):
        shapes = (spec.x_shape, spec.w_shape, oracle.y_shape)
        x, w, g = (generator.integers(-a, a, s, endpoint=True).astype(np.float64) for s in shapes)
        truth = (oracle.convolve(x, w, None), oracle.grad_x(w, g), oracle.grad_w(x, g))
        sent = [
            torch.from_numpy(v).to(device, dtype).contiguous(memory_format=layout)
            for v in (x, w, g)
        ]
        leaves = [v.requires_grad_() for v in sent[:2]]
        try:
            y = F.conv2d(*leaves, None, spec.stride, padding, spec.dilation, spec.groups)
            found = (y, *torch.autograd.grad(y, leaves, sent[2]))
        except RuntimeError as error:
            return str(error).splitlines()[0]
        for name, value, exact in zip(QUANTITIES, found, truth, strict=True):
            ranks[name] = max(ranks[name], classed(value.detach(), exact, dtype))
    return {name: CLASSES[rank] for name, rank in ranks.items()}


@contextmanager
def arithmetic(kind: str, device: torch.device) -> Iterator[None]:
    """Float32 as IEEE has it, or TF32 in cuDNN where it is asked for; put back behind the block."""
    with ieee_float32(device):
        if kind == "TF32":
            conv: Any = getattr(torch.backends.cudnn, "conv", None)
            if hasattr(conv, "fp32_precision"):
                conv.fp32_precision = "tf32"
            else:
                torch.backends.cudnn.allow_tf32 = True
        yield


def main() -> int:
    """Find every class and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the record into this file")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    args = parser.parse_args()
    device, rows = torch.device(args.device), []
    kinds = [kind for kind in KINDS if kind != "TF32" or device.type == "cuda"]
    todo = [(g, kind, layout) for g in GEOMETRIES for kind in kinds for layout in LAYOUTS]
    try:
        for geometry, kind, layout in track(todo, description="classes"):
            with arithmetic(kind, device):
                held = allows_tf32(device)
                found = worst(GEOMETRIES[geometry], kind, LAYOUTS[layout], device, args.trials)
            rows.append({"geometry": geometry, "kind": kind, "layout": layout, "tf32": held})
            rows[-1]["classes"] = found
    except KeyboardInterrupt:
        print(f"cut short: {len(rows)} of {len(todo)} in the time given")
    cuda = device.type == "cuda"
    record = {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {platform.machine()}",
        "vector units": torch.backends.cpu.get_cpu_capability(),
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "torch": torch.__version__, "trials": args.trials, "rows": rows,
    }  # fmt: skip
    path = args.json or Path(__file__).parent / "results" / f"classes-{device.type}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = table(record, kinds)
    shown = Table(*lines[0])
    for line in lines[1:]:
        shown.add_row(*line)
    Console().print(shown)
    if args.page:
        write(args.page, device.type, record, lines)
    return 0


def table(record: dict[str, Any], kinds: list[str]) -> list[list[str]]:
    """A row a geometry and layout, a column a kind; a quantity is named only if it differs."""
    said: dict[tuple[str, str], dict[str, str]] = {}
    for row in record["rows"]:
        found = row["classes"]
        if isinstance(found, dict):
            same = len(set(found.values())) == 1
            each = ", ".join(f"{name} {what}" for name, what in found.items())
            found = found["y"] if same else each
        said.setdefault((row["geometry"], row["layout"]), {})[row["kind"]] = found
    body = [
        [*ends, *(values.get(kind, "not asked") for kind in kinds)] for ends, values in said.items()
    ]
    return [["convolution", "layout", *kinds], *body]


def write(page: Path, device: str, record: dict[str, Any], lines: list[list[str]]) -> None:
    """Put the table between the marks of the device in a page."""
    begin, end = (mark.format(device) for mark in MARKS)
    where = f"{record['device']}, vector units {record['vector units']}, torch {record['torch']}"
    if record["cudnn"]:
        where += f", cuDNN {record['cudnn']}"
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    grid = "\n".join([head, "|" + "---|" * len(lines[0]), *body])
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    text = f"{before}{begin}\n{where}; trials of each: {record['trials']}\n\n{grid}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
