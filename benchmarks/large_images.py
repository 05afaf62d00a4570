"""Memory of one image by tiles and whole, each in a process of its own, on an image that it makes.

python benchmarks/large_images.py 4096 8192 16384      peak memory of tiled, streamed and whole
python benchmarks/large_images.py --work               work over ideal, from integers
python benchmarks/large_images.py --workers            what a slide over workers sends, from tables
python benchmarks/large_images.py --tissue 8192        a slide of 20 % tissue beside all of it
python benchmarks/large_images.py ... --json FILE      adds what was measured to a file
python benchmarks/large_images.py --plot FILE          draws a file's measures for the docs
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import convgraph as cg
from convgraph.scale.plan import plan
from convgraph.scale.tiled import stored
from convgraph.scale.tiling import tiling
from convgraph.scale.traffic import traffic

BLOCK = 512


def net() -> nn.Module:
    """A strided stem, a pool and steps up: an output reads some 60 pixels along each axis."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(),
    ).eval()  # fmt: skip


def make(path: Path, n: int) -> None:
    """An image of n x n random pixels on disk, block by block."""
    import zarr

    image = zarr.create_array(str(path), shape=(3, n, n), chunks=(3, BLOCK, BLOCK), dtype="u1")
    for y in range(0, n, BLOCK):
        rows = np.random.default_rng(y).integers(0, 8, (3, min(BLOCK, n - y), n), dtype="u1")
        image[:, y : y + BLOCK] = rows


def peak() -> float:
    """Peak memory of this process (MiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(kind: str, folder: Path, n: int, tile: int) -> None:
    """One run in this process: peak memory beyond what the imports and the output take."""
    import zarr

    torch.set_num_threads(1)
    image, model = zarr.open_array(str(folder / f"image{n}.zarr"), mode="r"), net()
    began, before = time.perf_counter(), peak()
    output = 0.0
    if kind == "tiled":
        out = cg.tiled(model, image, tile=tile)
        goal = zarr.create_array(
            str(folder / f"out{n}.zarr"), shape=out.shape, chunks=out.chunksize, dtype=out.dtype
        )
        stored(out, goal).compute(scheduler="threads", num_workers=2)
    elif kind == "streamed":
        y = cg.streamed(model, tile=tile)(image)
        output = 3 * y.numel() * y.element_size() / 2**20  # it, its square and its gradient
        y.square().mean().backward()
    else:
        x = torch.from_numpy(image[:]).float()[None]
        y = model(x)
        y.square().mean().backward()
    took = {"kind": kind, "n": n, "tile": tile, "seconds": round(time.perf_counter() - began, 1)}
    print(
        json.dumps(
            took | {"imports": round(before), "output": round(output), "peak": round(peak())}
        )
    )


def tissue(n: int, cell: int = 128) -> np.ndarray:
    """A thumbnail: three blobs that cover about a fifth."""
    y, x = np.mgrid[: n // cell, : n // cell] * cell / n
    found = np.zeros(y.shape, bool)
    for row, column, radius in ((0.3, 0.35, 0.16), (0.65, 0.6, 0.18), (0.2, 0.8, 0.07)):
        found |= (y - row) ** 2 + (x - column) ** 2 < radius**2
    return found


def masked(n: int, tile: int, turns: int = 2) -> list[dict[str, Any]]:
    """All of a slide and its tissue in turn: tiles that ran, seconds, and those of the CPU."""
    import zarr

    torch.set_num_threads(1)
    model, mask = net(), tissue(n)
    found: dict[str, Any] = {"kind": "tissue", "n": n, "tile": tile}
    found |= {"share": round(float(mask.mean()), 3), "tiles": {}, "seconds": {}, "cpu": {}}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "image.zarr", n)
        image = zarr.open_array(str(Path(folder) / "image.zarr"), mode="r")
        for turn in range(turns):
            for name, given in (("all", None), ("tissue", mask)):
                path = f"{folder}/{name}{turn}.zarr"
                began = time.perf_counter(), time.process_time()
                out = cg.tiled(model, image, tile=tile, mask=given)
                goal = zarr.create_array(
                    path, shape=out.shape, chunks=out.chunksize, dtype=out.dtype
                )
                stored(out, goal).compute(scheduler="threads", num_workers=2)
                took = time.perf_counter() - began[0], time.process_time() - began[1]
                found["seconds"].setdefault(name, []).append(round(took[0], 1))
                found["cpu"].setdefault(name, []).append(round(took[1], 1))
                found["tiles"][name] = goal.nchunks_initialized
    found["ratio"] = round(min(found["cpu"]["tissue"]) / min(found["cpu"]["all"]), 3)
    print(json.dumps(found), flush=True)
    return [found]


def published() -> dict[str, tuple[nn.Module, int]]:
    """Two networks, each with how many pixels of the image an output stands for along an axis."""
    from tests.zoo import models

    body = models().resnet18()
    import segmentation_models_pytorch

    unet = segmentation_models_pytorch.Unet("resnet18", encoder_weights=None)
    trunk = nn.Sequential(*list(body.children())[:-2])
    return {"ResNet-18, trunk": (trunk.eval(), 32), "U-Net, ResNet-18 encoder": (unet.eval(), 1)}


def workers() -> list[dict[str, Any]]:
    """What a slide over workers sends, computes and holds, from tables."""
    rows = []
    for name, (one, _) in published().items():
        found = plan(one, (1, 3, 102400, 81920))
        for mesh in ((1,), (4, 1), (16, 1), (4, 4), (64, 1), (8, 8), (256, 1), (16, 16)):
            made = traffic(found, mesh)
            row = {
                "kind": "workers", "net": name, "mesh": mesh, "sent": made.sent,
                "messages": made.messages, "work": made.work, "held": made.held,
            }  # fmt: skip
            rows.append(row)
            print(f"{name}: {made}", flush=True)
    return rows


def work() -> list[dict[str, Any]]:
    """Work over ideal of published networks, if they are installed."""
    rows = []
    for name, (one, stride) in published().items():
        found = plan(one, (1, 3, 102400, 81920))
        for side in (512, 1024, 2048, 4096):
            made = tiling(found, side // stride)
            row = {"kind": "work", "net": name, "tile": side, "work": round(made.work, 3)}
            rows.append(row)
            print(json.dumps(row), flush=True)
        proven = tiling(plan(one, (1, 3, 20480, 16384)), 2048 // stride).prove()
        print(f"{name}: {proven}", flush=True)
    return rows


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Memory against size, and work over ideal against tile, for the docs."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for kind, mark in (("tiled", "o"), ("streamed", "s"), ("whole", "^")):
        here = sorted((r for r in rows if r["kind"] == kind), key=lambda r: r["n"])
        sides = [r["n"] for r in here]
        memory = [max(1, r["peak"] - r["imports"] - r["output"]) for r in here]
        left.plot(sides, memory, mark + "-", label=kind)
    left.set(
        xscale="log", ylim=(0, None), xlabel="side of the image (pixels)",
        ylabel="peak memory beyond imports and output (MiB)",
    )  # fmt: skip
    sides = sorted({r["n"] for r in rows if r["kind"] == "tiled"})
    left.set_xticks(sides, [str(n) for n in sides])
    left.minorticks_off()
    for name in dict.fromkeys(r["net"] for r in rows if r["kind"] == "work"):
        here = [r for r in rows if r.get("net") == name]
        right.plot([r["tile"] for r in here], [r["work"] for r in here], "o-", label=name)
    right.axhline(1, color="grey", linewidth=1)
    right.set(xscale="log", xlabel="side of a tile (pixels of the image)", ylabel="work over ideal")
    tiles = sorted({r["tile"] for r in rows if r["kind"] == "work"})
    right.set_xticks(tiles, [str(n) for n in tiles])
    right.minorticks_off()
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "large-images.png", dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--tile", type=int, default=128, help="pixels of the output in a tile")
    parser.add_argument("--whole", type=int, default=4096, help="largest size run whole")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true")
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--tissue", type=int, help="side of a slide of which a fifth is tissue")
    parser.add_argument("--json", type=Path, help="a file to add lines to")
    parser.add_argument("--plot", type=Path, help="draw such a file into docs/images")
    asked = parser.parse_args()
    if asked.one:
        measure(asked.one[0], Path(asked.one[1]), asked.sizes[0], asked.tile)
        return
    if asked.plot:
        lines = asked.plot.read_text(encoding="ascii").splitlines()
        draw([json.loads(line) for line in lines], Path("docs/images"))
    rows = work() if asked.work else []
    rows += workers() if asked.workers else []
    rows += masked(asked.tissue, 64) if asked.tissue else []
    for n in asked.sizes:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / f"image{n}.zarr", n)
            for kind in ("tiled", "streamed", *(["whole"] if n <= asked.whole else [])):
                line = [sys.executable, __file__, str(n), "--tile", str(asked.tile)]
                done = subprocess.run(
                    [*line, "--one", kind, folder], check=True, stdout=subprocess.PIPE, text=True
                )
                print(done.stdout, end="", flush=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
    if asked.json:
        with asked.json.open("a", encoding="ascii") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
