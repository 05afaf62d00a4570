"""Spaces beside the dense operator, and beside other people's packages where they are installed.

Arms are called in turn, each once a round, on one thread; a figure is the median of its CPU time
(`time.process_time`, what other processes do to the clock leaves it alone) divided by the median of
the first arm of its group. A layer stands within a network: graph layers are given rows, dense ones
the image in the layout (channels last) that rows have. 3 x 3 kernels, float32. Writes
benchmarks/results/spaces.json.

    python benchmarks/spaces.py [--rounds 15]
"""

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import convgraph as cg
from tests.spaces import referees

Arm = Callable[[], Any]


def taken(run: Any, x: torch.Tensor, backward: bool) -> Arm:
    """Return a call of one arm, with its gradients or without."""
    if isinstance(run, On):
        graph = cg.PixelGraph.from_image(x, on=run.space)
        layer, x = run.layer, graph.x.detach().clone()

        def run(rows: torch.Tensor) -> Any:
            return layer(graph.with_x(rows))
    else:
        x = x.contiguous(memory_format=torch.channels_last)

    def forward() -> Any:
        with torch.no_grad():
            return run(x)

    def both() -> None:
        x.grad = None
        y = run(x.requires_grad_())
        y = getattr(y, "x", y)
        y.sum().backward()

    return both if backward else forward


def medians(arms: dict[str, Arm], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of every arm, called in turn."""
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 2):
        for name, call in arms.items():
            start = time.process_time()
            call()
            if number > 1:
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


class On(NamedTuple):
    """A graph layer, and the space in which it is called."""

    space: Any
    layer: torch.nn.Module


def pair(channels: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return a dense convolution and its graph layer."""
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1)
    return conv, cg.nn.GraphConv2d.from_dense(conv)


class Sampled(torch.nn.Module):
    """SphereNet's way: read nine places a pixel with `grid_sample`, convolve them with stride 3.

    Args:
        conv: 3 x 3.
        height: of the panorama, half its width.

    Source: Coors et al., SphereNet, ECCV 2018, equations 1 to 4
    """

    def __init__(self, conv: torch.nn.Conv2d, height: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=3)
        self.conv.load_state_dict(conv.state_dict())
        step = torch.tensor(torch.pi / height)
        latitude = (torch.pi / 2 - (torch.arange(height) + 0.5) * step).view(-1, 1, 1, 1)
        longitude = ((torch.arange(2 * height) + 0.5) * step - torch.pi).view(1, 1, -1, 1)
        tap = torch.arange(-1, 2) * step.tan()
        x, y = tap.view(1, 1, 1, 3), -tap.view(1, 3, 1, 1)
        s = (1 + x * x + y * y).sqrt()
        north = ((latitude.sin() + y * latitude.cos()) / s).asin()
        east = longitude + torch.atan2(x, latitude.cos() - y * latitude.sin())
        east = (east + torch.pi) % (2 * torch.pi) - torch.pi
        shape = (height, 3, 2 * height, 3)
        places = (east / torch.pi).expand(shape), (-2 * north / torch.pi).expand(shape)
        self.grid = torch.stack(places, -1).reshape(1, 3 * height, 6 * height, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C_out, H, W)."""
        grid = self.grid.expand(len(x), -1, -1, -1)
        read = torch.nn.functional.grid_sample(x, grid, align_corners=False)
        y: torch.Tensor = self.conv(read)
        return y


def groups() -> dict[str, tuple[dict[str, Callable[[Any], Any]], torch.Tensor]]:
    """Return arms and the image that they are called on, the dense one first."""
    conv64, layer64 = pair(64)
    conv32, layer32 = pair(32)
    sphere: dict[str, Any] = {"dense": conv32, "HEALPix": On(cg.HEALPix(), layer32)}
    try:
        padding = referees.physicsnemo_padding().HEALPixPadding(1)
    except BaseException:  # noqa: BLE001 - a skip of pytest's is none of Exception
        padding = None
    if padding is not None:
        inner = torch.nn.Conv2d(32, 32, 3)

        def padded(x: torch.Tensor) -> Any:
            return inner(padding(x.unflatten(2, (12, -1)).transpose(1, 2).flatten(0, 1)))

        sphere["physicsnemo's padding"] = padded
        last = padded

        def channels_first(x: torch.Tensor) -> Any:
            return last(x.contiguous())

        sphere["physicsnemo's padding, channels first"] = channels_first
    hexagons: dict[str, Any] = {"dense": conv32, "Hexagonal": On(cg.Hexagonal(), layer32)}
    try:
        theirs = importlib.import_module("hexagdly").Conv2d(32, 32, kernel_size=1, bias=True)
        hexagons["hexagdly"] = theirs
    except ImportError:
        pass
    tangent = cg.Equirectangular()
    return {
        "torus, 64 channels, 64 x 64": (
            {"dense": conv64, "Torus": On(cg.Torus(), layer64)}, torch.randn(2, 64, 64, 64)
        ),
        "HEALPix, 32 channels, nside 32": (sphere, torch.randn(1, 32, 384, 32)),
        "hexagons, 32 channels, 48 x 48": (hexagons, torch.randn(8, 32, 48, 48)),
        "panorama, 64 channels, 64 x 128": (
            {
                "dense": conv64,
                "tangent": On(tangent, layer64),
                "SphereNet's way": Sampled(conv64, 64),
            },
            torch.randn(1, 64, 64, 128),
        ),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"torch": torch.__version__, "rounds": args.rounds}
    for name, (arms, x) in groups().items():
        found[name] = {}
        for how in ("forward", "forward and backward"):
            called = {arm: taken(run, x.clone(), how != "forward") for arm, run in arms.items()}
            times = medians(called, args.rounds)
            found[name][how] = {arm: t / times["dense"] for arm, t in times.items()}
            print(name, how, {a: round(r, 2) for a, r in found[name][how].items()}, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "spaces.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
