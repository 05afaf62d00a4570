"""A step of masked pretraining: ConvNeXt V2 of timm on a graph, beside its dense form times masks.

60 % of the patches of 32 x 32 pixels are hidden, anew in every step. Forward and backward of the
encoder; the decoder is the same for both and is left out. The dense arm multiplies by the mask
before each convolution that looks further than a pixel, and before each response norm, which is
what a dense network has to do. A ViT hides 75 % of its patches of 16 x 16: beside the dense network
on all tokens stands the gather of masked autoencoders, written by hand, and the network untouched
on a graph. Arms take turns; medians are quoted. Writes benchmarks/results/pretraining.json.

    python benchmarks/pretraining.py [--networks convnextv2_atto vit_small_patch16_224] [--steps 15]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

if not machine.ready():
    machine.restart()

import torch
from torch import Tensor, nn

import convgraph as cg

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.zoo import models

NETWORKS = ["convnextv2_atto", "convnextv2_nano", "vit_small_patch16_224"]

PATCH = 32
HIDDEN = 0.6


def patches(batch: int, rows: int, hidden: float) -> Tensor:
    """(B, rows, rows) bool: the patches that are not hidden, as many in every image."""
    rank = torch.rand(batch, rows * rows).argsort(1)
    return (rank >= round(hidden * rows * rows)).view(batch, rows, rows)


def visible(batch: int, side: int, patch: int = PATCH, hidden: float = HIDDEN) -> Tensor:
    """(B, side, side) bool: the pixels of the patches that are not hidden."""
    there = patches(batch, side // patch, hidden)
    return there.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


class Masked:
    """The dense network, with a hook before each module that would hear or count a hole."""

    def __init__(self, dense: Any) -> None:
        self.dense = dense
        self.masks: dict[int, Tensor] = {}
        for module in dense.modules():
            conv = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
            if conv or type(module).__name__ == "GlobalResponseNorm":
                module.register_forward_pre_hook(self.hide)

    def hide(self, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Multiply a module's input by the mask of its size."""
        (x,) = args
        if getattr(module, "spatial_dim", (2, 3)) == (1, 2):  # of a response norm: (B, H, W, C)
            return (x * self.masks[x.shape[1]].movedim(1, 3),)
        return (x * self.masks[x.shape[2]],)

    def __call__(self, images: Tensor, mask: Tensor) -> Tensor:
        """Run the network on what the mask leaves."""
        side = images.shape[2]
        self.masks = {side // k: mask[:, None, ::k, ::k].float() for k in (1, 4, 8, 16, 32)}
        out: Tensor = self.dense(images)
        return out * self.masks[out.shape[2]]


def step(call: Callable[[], Tensor], parameters: list[Tensor]) -> tuple[float, float, Tensor]:
    """Milliseconds forward and backward, and the output."""
    start = time.perf_counter()
    out = call()
    middle = time.perf_counter()
    torch.autograd.grad(out.square().mean(), parameters)
    return (middle - start) * 1e3, (time.perf_counter() - middle) * 1e3, out.detach()


def measure(name: str, batch: int, side: int, steps: int) -> dict[str, Any]:
    """Time one network."""
    import timm

    torch.manual_seed(0)
    dense = timm.create_model(name, num_classes=0, global_pool="")
    dense = dense.to(memory_format=torch.channels_last)
    for key, parameter in dense.named_parameters():
        if ".grn." in key:
            nn.init.normal_(parameter)  # the response norm starts as nothing
    start = time.perf_counter()
    net = cg.to_graph(dense)
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    net(cg.PixelGraph.from_image(images, visible(batch, side)))
    first = (time.perf_counter() - start) * 1e3
    masked = Masked(dense)
    own = (list(dense.parameters()), list(net.parameters()))
    times: dict[str, list[tuple[float, float]]] = {"dense x mask": [], "graph": [], "same mask": []}
    gap = largest = 0.0
    for turn in range(steps + 2):
        mask = visible(batch, side)

        def on_graph(mask: Tensor = mask) -> Tensor:
            out: Tensor = net(cg.PixelGraph.from_image(images, mask)).to_image()
            return out

        graph = cg.PixelGraph.from_image(images, mask)
        one = step(lambda mask=mask: masked(images, mask), own[0])
        two = step(on_graph, own[1])
        net(graph)
        again = step(lambda graph=graph: net(graph).to_image(), own[1])
        gap = max(gap, float((one[2] - two[2]).abs().max()))
        largest = max(largest, float(one[2].abs().max()))
        if turn >= 2:
            for key, (forward, backward, _) in zip(times, (one, two, again), strict=True):
                times[key].append((forward, backward))
    return {
        "network": name, "batch": batch, "side": side, "arms": medians(times), "steps": steps,
        "conversion_and_first_call_ms": first, "largest_difference": gap, "largest": largest,
    }  # fmt: skip


def gathered(dense: Any, images: Tensor, there: Tensor) -> Tensor:
    """The encoder of a masked autoencoder: tokens of hidden patches are dropped by a gather."""
    x = dense.patch_embed(images)
    number = there.flatten(1).nonzero()[:, 1].view(len(images), -1, 1)
    place = dense.pos_embed
    x = (x + place[:, 1:]).gather(1, number.expand(-1, -1, x.shape[2]))
    first = (dense.cls_token + place[:, :1]).expand(len(x), -1, -1)
    out: Tensor = dense.norm(dense.blocks(torch.cat([first, x], 1)))
    return out


def measure_tokens(name: str, batch: int, side: int, steps: int) -> dict[str, Any]:
    """Time a ViT: all tokens, the visible ones by hand, and the network untouched on a graph."""
    import timm

    torch.manual_seed(0)
    dense = timm.create_model(name, num_classes=0)
    images = torch.randn(batch, 3, side, side)
    own = [p for key, p in dense.named_parameters()]
    times: dict[str, list[tuple[float, float]]] = {
        "dense, all tokens": [], "gather by hand": [], "graph": [],
    }  # fmt: skip
    gap = largest = 0.0
    for turn in range(steps + 2):
        there = patches(batch, side // 16, 0.75)
        mask = there.repeat_interleave(16, 1).repeat_interleave(16, 2)

        def on_graph(mask: Tensor = mask) -> Any:
            found = dense.forward_features(cg.PixelGraph.from_image(images, mask).tensor())
            return found[:, 0]

        calls = (
            lambda: dense.forward_features(images)[:, 0],
            lambda there=there: gathered(dense, images, there)[:, 0],
            on_graph,
        )
        outs = [step(call, own) for call in calls]
        gap = max(gap, float((outs[1][2] - outs[2][2]).abs().max()))
        largest = max(largest, float(outs[1][2].abs().max()))
        if turn >= 2:
            for key, (forward, backward, _) in zip(times, outs, strict=True):
                times[key].append((forward, backward))
    return {
        "network": name, "batch": batch, "side": side, "arms": medians(times), "steps": steps,
        "conversion_and_first_call_ms": 0.0, "largest_difference": gap, "largest": largest,
    }  # fmt: skip


def medians(times: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """The median of each arm's steps."""
    return {
        key: {
            "forward_ms": statistics.median(f for f, _ in turns),
            "backward_ms": statistics.median(b for _, b in turns),
            "step_ms": statistics.median(f + b for f, b in turns),
        }
        for key, turns in times.items()
    }


def main() -> None:
    """Print a table row a network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--force", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    machine.quiet(force=args.force)
    machine.keep_pages()
    models()
    rows = [
        (measure_tokens if name.startswith("vit") else measure)(
            name, args.batch, args.side, args.steps
        )
        for name in args.networks
    ]
    print("| network | arm | forward ms | backward ms | step ms | / first arm |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        base = next(iter(row["arms"].values()))["step_ms"]
        for key, arm in row["arms"].items():
            print(
                f"| {row['network']} | {key} | {arm['forward_ms']:.0f} | {arm['backward_ms']:.0f} "
                f"| {arm['step_ms']:.0f} | {arm['step_ms'] / base:.2f} |"
            )
        print(f"  differ by at most {row['largest_difference']:.1e} of {row['largest']:.1e}")
    record = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
    path = Path(__file__).parent / "results" / "pretraining.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
