"""How many corrupted convolutions show in a network's output, fresh and after `cg.excite`.

    python benchmarks/excite.py [--faults 6] [--size 64]

A fault rolls the output channels of one convolution by one, a fault as large as any. It shows when
an output differs in a bit, or by more than 1e-4 of the largest output, which is about what sampled
checks ask. Networks of torchvision and timm, randomly initialised; nothing is downloaded.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import convgraph as cg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TORCHVISION = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
    "convnext_tiny", "densenet121", "shufflenet_v2_x0_5", "regnet_y_400mf", "squeezenet1_0",
)  # fmt: skip
TIMM = (
    "resnet18", "resnet26d", "seresnext26d_32x4d", "ecaresnet26t", "resnetv2_50", "convnext_atto",
    "convnextv2_atto", "regnetz_005", "nf_regnet_b0", "efficientnet_b0", "mobileone_s0",
    "repvgg_a0",
)  # fmt: skip


def networks() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each network with what makes it."""
    from tests.zoo import models

    made = models()
    import timm

    for name in TORCHVISION:
        yield f"torchvision {name}", lambda name=name: getattr(made, name)()
    for name in TIMM:
        yield f"timm {name}", lambda name=name: timm.create_model(name)


def shown(net: Any, x: torch.Tensor, places: list[str]) -> tuple[int, int]:
    """Return how many faults change a bit of the output, and how many change it much."""
    with torch.no_grad():
        true = net(x)
        bits = much = 0
        for place in places:
            wrong = copy.deepcopy(net)
            weight = wrong.get_submodule(place).weight
            weight.copy_(weight.roll(1, 0))
            gap = (wrong(x) - true).abs().max()
            bits += bool(gap > 0)
            much += bool(gap > 1e-4 * true.abs().max())
    return bits, much


def main() -> None:
    """Print one line a network and the sums."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=6)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    total = [0] * 5
    print(f"{'network':34} faults | fresh: a bit, 1e-4 | excited: a bit, 1e-4")
    for name, make in networks():
        torch.manual_seed(0)
        net = make().eval()
        x = torch.randn(2, 3, args.size, args.size)
        convs = [p for p, m in net.named_modules() if isinstance(m, torch.nn.Conv2d)]
        order = torch.randperm(len(convs))[: args.faults].tolist()
        places = [convs[k] for k in order]
        row = (len(places), *shown(net, x, places), *shown(cg.excite(net, x), x, places))
        total = [a + b for a, b in zip(total, row, strict=True)]
        print(f"{name:34} {row[0]:6} | {row[1]:12} {row[2]:5} | {row[3]:14} {row[4]:5}", flush=True)
    print(f"{'all':34} {total[0]:6} | {total[1]:12} {total[2]:5} | {total[3]:14} {total[4]:5}")


if __name__ == "__main__":
    main()
