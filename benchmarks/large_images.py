"""Memory of one image by tiles and whole, each in a process of its own, on an image that it makes.

python benchmarks/large_images.py 4096 8192 16384      peak memory of tiled, streamed and whole
python benchmarks/large_images.py --work               work over ideal, from integers
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import convgraph as cg
from convgraph.scale.plan import plan
from convgraph.scale.tiling import tiling

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
    import dask.array as da
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
        da.store(out, goal, lock=False, scheduler="threads", num_workers=2)
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


def work() -> None:
    """Work over ideal of published networks, if they are installed."""
    from tests.zoo import models

    body = models().resnet18()
    trunk = nn.Sequential(*list(body.children())[:-2]).eval()
    found = plan(trunk, (1, 3, 20480, 16384))
    for side in (512, 1024, 2048, 4096):
        made = tiling(found, side // 32)
        print(f"resnet18 trunk, tile {side}: {made.work:.2f}", flush=True)
    print(tiling(found, 64).prove())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--tile", type=int, default=128, help="pixels of the output in a tile")
    parser.add_argument("--whole", type=int, default=4096, help="largest size run whole")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true")
    asked = parser.parse_args()
    if asked.work:
        work()
    if asked.one:
        measure(asked.one[0], Path(asked.one[1]), asked.sizes[0], asked.tile)
        return
    for n in asked.sizes:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / f"image{n}.zarr", n)
            for kind in ("tiled", "streamed", *(["whole"] if n <= asked.whole else [])):
                line = [sys.executable, __file__, str(n), "--tile", str(asked.tile)]
                subprocess.run([*line, "--one", kind, folder], check=True)


if __name__ == "__main__":
    main()
