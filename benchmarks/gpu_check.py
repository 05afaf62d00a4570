"""Each backend on a device against the CPU, bit for bit on integers, forward and backward.

Float32 products of small integers are exact whatever the order of the sum, in TF32 and half types
too while the operands stay within their bits, so nothing here needs a tolerance. What the vendor's
own kernels multiply by fractions rounds to the integers, and is counted apart. Certificates of all
layers on the device end it.

    python benchmarks/gpu_check.py [--device cuda] [--json FILE]
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convgraph as cg

SHAPES: dict[str, Callable[[], torch.nn.Module]] = {
    "3x3 16-24": lambda: cg.nn.GraphConv2d(16, 24, 3, padding=1),
    "3x3/2 24-16": lambda: cg.nn.GraphConv2d(24, 16, 3, stride=2, padding=1),
    "3x3 4 groups": lambda: cg.nn.GraphConv2d(16, 32, 3, padding=1, groups=4),
    "3x3 replicate": lambda: cg.nn.GraphConv2d(8, 8, 3, padding=2, padding_mode="replicate"),
    "depthwise 7x7": lambda: cg.nn.GraphConv2d(48, 48, 7, padding=3, groups=48),
    "1x1 32-64": lambda: cg.nn.GraphConv2d(32, 64, 1),
    "transposed 3x3/2": lambda: cg.nn.GraphConvTranspose2d(16, 8, 3, stride=2, padding=1),
}
NEAR = "rounds to exact"
VENDORS = ("dense", "tiles", "masked")
"""Backends whose sums are the vendor's convolutions."""
SIZE, BATCH = (37, 41), 3
KINDS = {
    "float32": (torch.float32, False), "TF32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False), "float16": (torch.float16, False),
    "float64": (torch.float64, False),
}  # fmt: skip


def main() -> int:
    """Compare everything, go on after a difference, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device, rows = torch.device(args.device), []
    for row in found(device):
        rows.append(row)
        if row["says"] != "equal":
            print(f"{row['case']}: {row['says']}", flush=True)
    for shape, make in SHAPES.items():
        rows += [
            certificate(shape, make, dtype, device) for dtype in (torch.float32, torch.float64)
        ]
    # Beside the integers by less than a half, in a sum that torch's own kernel makes.
    beside = [row for row in rows if row["says"].startswith(NEAR) and row["backend"] in VENDORS]
    bad = [r for r in rows if r["says"] not in ("equal", "proven") and r not in beside]
    lines = [
        f"check: {len(rows) - len(bad) - len(beside)} of {len(rows)} equal or proven on "
        f"{args.device}, {len(beside)} round to exact (a kernel of the vendor's)"
    ]
    lines += [f"check: {row['case']}: {row['says'].splitlines()[0][:160]}" for row in bad[:20]]
    if args.json:
        text = json.dumps({"lines": lines, "rows": rows}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    print("\n".join(lines))
    return int(bool(bad))


def found(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield one comparison after the other."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(BATCH, *SIZE, generator=generator) < 0.6
    for shape, make in SHAPES.items():
        for kind, (dtype, tf32) in KINDS.items():
            torch.backends.cudnn.allow_tf32 = tf32
            for where in (None, mask):
                yield from _one(shape, make, kind, dtype, where, device, generator)
    torch.backends.cudnn.allow_tf32 = False


def _one(
    shape: str, make: Any, kind: str, dtype: torch.dtype, mask: Tensor | None,
    device: torch.device, generator: torch.Generator,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    layer = make()
    for parameter in layer.parameters():
        drawn = torch.randint(-2, 3, parameter.shape, generator=generator)
        parameter.data = drawn.to(parameter.dtype)
    channels = layer.in_channels
    image = torch.randint(-2, 3, (BATCH, channels, *SIZE), generator=generator).double()
    truth = _numbers(layer.double(), cg.PixelGraph.from_image(image, mask))
    moved = layer.to(device, dtype)
    there = None if mask is None else mask.to(device)
    graph = cg.PixelGraph.from_image(image.to(device, dtype), there)
    for option in cg.backends.options(moved.problem(graph)):
        if option.refusal is not None:
            continue
        case = f"{shape}, {kind}, {'full' if mask is None else 'mask'}, {option.name}"
        try:
            with cg.backend(option.name):
                here = _numbers(moved, graph)
            says = _difference(here, truth, dtype)
        except Exception as error:  # noqa: BLE001 - the next case is to be seen as well
            traceback.print_exc()
            says = f"raised {type(error).__name__}: {error}"
        yield {"case": case, "backend": option.name, "says": says}


def _numbers(layer: Any, graph: cg.PixelGraph) -> dict[str, Tensor]:
    x = graph.x.detach().requires_grad_()
    y = layer(graph.with_x(x)).x
    # A sum of the weight's gradient stays below 2^11: few sites say more than nothing.
    g = (torch.arange(y.numel(), device=y.device) % 97 == 0).view_as(y).to(y.dtype)
    names = [name for name, _ in layer.named_parameters()]
    grads = torch.autograd.grad(y, [x, *layer.parameters()], g)
    return dict(zip(("y", "grad_x", *names), (y.detach(), *grads), strict=True))


def _difference(here: dict[str, Tensor], truth: dict[str, Tensor], dtype: torch.dtype) -> str:
    """Say "equal", or how many entries of what differ; the truth is rounded once to the dtype."""
    said, near = [], True
    for name, exact in truth.items():
        got, rounded = here[name].double().cpu(), exact.to(dtype).double()
        wrong = int((got != rounded).sum())
        if wrong:
            most = (got - rounded).abs().max().item()
            said.append(f"{name}: {wrong} of {got.numel()} differ, by up to {most:g}")
            near = near and bool((got.round() == rounded).all())
    text = "; ".join(said)
    return (f"{NEAR}: {text}" if near else text) if said else "equal"


def certificate(shape: str, make: Any, dtype: torch.dtype, device: torch.device) -> dict[str, str]:
    """Prove one layer on the device."""
    case = f"certificate, {shape}, {dtype}"
    try:
        layer = make().to(device, dtype)
        found = cg.prove(layer, layer.to_dense(), size=(16, 17))
        says = found.verdict if found.verdict == "proven" else f"{found.verdict}: {found.reason}"
        return {"case": case, "backend": "", "says": says, "record": str(found)}
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return {"case": case, "backend": "", "says": f"raised {type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.exit(main())
