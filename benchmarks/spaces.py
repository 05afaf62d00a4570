"""Spaces beside the dense operator, and beside other people's packages where they are installed.

Arms are called each once a round, on one thread; a figure is the median of its CPU time
(`time.process_time`, what other processes do to the clock leaves it alone) divided by the median of
the first arm of its group. A layer stands within a network: graph layers are given a graph, dense
ones the image in the layout (channels last) that its rows have. 3 x 3 kernels, float32. Writes
benchmarks/results/spaces.json.

No arm owes anything to what ran before it: the order is drawn anew each round, for who runs after
another finds that one's caches; and what is freed stays with the process, or an arm would pay for
another's new pages.

    python benchmarks/spaces.py [--rounds 15] [--only hexagons] [--selectionconv FOLDER]

SelectionConv is no package: where FOLDER holds its selectionConv.py (its authors' repository), that
class is timed, without it what it does a selection.
"""

import argparse
import ctypes
import importlib
import json
import random
import statistics
import sys
import time
import types
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
        graph = graph.with_x(x)

        def run(_: torch.Tensor) -> Any:
            return layer(graph)
    elif isinstance(run, OnRows):
        run, x = run.call, x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
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


def keep_memory() -> None:
    """Have glibc give freed memory back to nobody; other C libraries do as they do."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold, much = -1, -3, 2**30
        libc.mallopt(trim_threshold, much)
        libc.mallopt(mmap_threshold, much)


def medians(arms: dict[str, Arm], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of every arm."""
    spent: dict[str, list[float]] = {name: [] for name in arms}
    dice = random.Random(0)
    for number in range(rounds + 2):
        for name in dice.sample(list(arms), len(arms)):
            call = arms[name]
            start = time.process_time()
            call()
            if number > 1:
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


class On(NamedTuple):
    """A graph layer, and the space in which it is called."""

    space: Any
    layer: torch.nn.Module


class OnRows(NamedTuple):
    """What is called on the rows of an image."""

    call: Callable[[torch.Tensor], torch.Tensor]


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


SELECTIONS = (4, 3, 2, 5, 0, 1, 6, 7, 8)
"""The selection that each tap of a 3 x 3 kernel is: the middle first, then from the right upwards.

Source: Hart, Baker, SelectionConv, ECCV 2022, section 3
"""


class Selected(torch.nn.Module):
    """SelectionConv's way: a selection at a time, read rows, multiply, add where they are heard.

    Source: Hart, Baker, SelectionConv, ECCV 2022, equation 3; Hart, Baker, Interpolated
    SelectionConv, WACV 2023, equation 2
    """

    def __init__(self, taps: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(taps), torch.nn.Parameter(bias)

    def forward(
        self, x: torch.Tensor, ends: torch.Tensor, selection: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        """(N, C) -> (N, C_out); `ends` names who hears, then who speaks."""
        y = torch.zeros(len(x), self.bias.numel())
        for number, matrix in enumerate(self.weight):
            (chosen,) = torch.where(selection == number)
            hears, speaks = ends[:, chosen]
            y.index_add_(0, hears, share[chosen].unsqueeze(1) * (x[speaks] @ matrix))
        return y + self.bias


def selection_conv(conv: torch.nn.Conv2d, folder: Path | None) -> tuple[str, Any]:
    """Return SelectionConv's own layer from its file, or what stands in for it, and its name."""
    bias = conv.bias
    assert bias is not None
    taps = conv.weight.detach().flatten(2).permute(2, 1, 0)
    taps = taps[[SELECTIONS.index(number) for number in range(9)]].contiguous()
    if folder is None:
        return "SelectionConv's way", Selected(taps, bias.detach().clone())
    stub = types.ModuleType("torch_sparse")  # imported, and not used
    for member in ("SparseTensor", "matmul"):
        setattr(stub, member, object)
    sys.modules.setdefault(stub.__name__, stub)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("selectionConv")
    theirs = module.SelectionConv(conv.in_channels, conv.out_channels)
    theirs.weight.data, theirs.bias.data = taps, bias.detach().clone()
    return "SelectionConv", theirs


def typed(
    conv: torch.nn.Conv2d, layer: torch.nn.Module, space: Any, folder: Path | None
) -> dict[str, Any]:
    """Return what convolves the edges of a panorama of 64 x 128 by their list."""
    graph = cg.PixelGraph.from_image(torch.zeros(1, 1, 64, 128), on=space)
    edges = cg.connect(cg.KernelGeometry(3, padding=1), graph)
    index, tap, share = edges.edge_index, edges.edge_type, edges.edge_weight
    ours = cg.TypedEdges(index, tap, share, sizes=edges.num_sources)
    name, theirs = selection_conv(conv, folder)
    ends, selection = index.flip(0).contiguous(), torch.tensor(SELECTIONS)[tap]
    weight = torch.ones(len(tap)) if share is None else share.float()
    return {
        "dense": conv,
        "TypedEdges": OnRows(lambda x: layer(x, ours)),
        name: OnRows(lambda x: theirs(x, ends, selection, weight)),
    }


def groups(
    folder: Path | None,
) -> dict[str, tuple[dict[str, Callable[[Any], Any]], torch.Tensor]]:
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
        "edges of that panorama, 32 channels": (
            typed(conv32, layer32, tangent, folder), torch.randn(1, 32, 64, 128)
        ),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="groups whose name has this in it")
    parser.add_argument("--selectionconv", type=Path, help="folder of SelectionConv's own code")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    found: dict[str, Any] = {"torch": torch.__version__, "rounds": args.rounds}
    for name, (arms, x) in groups(args.selectionconv).items():
        if args.only not in name:
            continue
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
