"""Known networks, proven node by node at 224 x 224: the verdict, and the time on this machine.

Weights are random and excited (`cg.excite`), so that no constant hides a fault; two images, float32
and channels-last. Every network runs in a process of its own. Each line is printed as it comes and
kept in benchmarks/results/prove-networks.json; --table writes the kept lines into a page.

    python benchmarks/prove_networks.py [NAME ...] [--size 224] [--table docs/design/networks.md]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "prove-networks.json"
sys.path.insert(0, str(ROOT))


def torchvision(name: str, **more: Any) -> Callable[[], Any]:
    """What makes a network of torchvision."""

    def make() -> Any:
        from tests.zoo import models

        return models().get_model(name, weights=None, **more)

    return make


def timm(name: str) -> Callable[[], Any]:
    """What makes a network of timm."""

    def make() -> Any:
        from tests.zoo import models

        models()
        from timm import create_model

        return create_model(name)

    return make


def unet() -> Any:
    """Return the U-Net of segmentation-models-pytorch on a ResNet-18."""
    from tests.zoo import models

    models()
    from segmentation_models_pytorch import Unet

    return Unet("resnet18", encoder_weights=None)


NETWORKS: dict[str, Callable[[], Any]] = {
    "mobilenetv1_100 (timm)": timm("mobilenetv1_100"),
    "mobilenet_v2": torchvision("mobilenet_v2"),
    "mobilenet_v3_large": torchvision("mobilenet_v3_large"),
    "efficientnet_b0": torchvision("efficientnet_b0"),
    "resnet18": torchvision("resnet18"),
    "resnet50": torchvision("resnet50"),
    "convnext_tiny": torchvision("convnext_tiny"),
    "convnextv2_tiny (timm)": timm("convnextv2_tiny"),
    "Unet resnet18 (smp)": unet,
    "deeplabv3_mobilenet_v3_large": torchvision(
        "deeplabv3_mobilenet_v3_large", weights_backbone=None
    ),
    "regnet_y_400mf": torchvision("regnet_y_400mf"),
    "shufflenet_v2_x1_0": torchvision("shufflenet_v2_x1_0"),
    "densenet121": torchvision("densenet121"),
    "squeezenet1_1": torchvision("squeezenet1_1"),
    "inception_v3": torchvision("inception_v3", init_weights=True),
}


def measure(name: str, size: int) -> dict[str, Any]:
    """Prove one network, in this process."""
    import convgraph as cg

    torch.manual_seed(0)
    dense = NETWORKS[name]().eval()
    x = torch.randn(2, 3, size, size).to(memory_format=torch.channels_last)
    dense = cg.excite(dense, x).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    net = cg.to_graph(dense, x)
    converted = time.perf_counter()
    cert = cg.prove(net, dense, x)
    end = time.perf_counter()
    return {
        "network": name, "size": size, "verdict": cert.verdict, "reason": cert.reason,
        "operators": cert.spec["operators"], "layers": len(cert.layers),
        "configurations": len({json.dumps(one.spec, sort_keys=True) for one in cert.layers}),
        "parameters": sum(p.numel() for p in dense.parameters()),
        "rho": cert.rho.get("y", 0.0),
        "parts": {part.name: f"{part.status}: {part.facts}" for part in cert.parts},
        "convert_s": converted - start, "prove_s": end - converted,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip


def kept() -> dict[str, dict[str, Any]]:
    """Return the lines of earlier runs."""
    if not RESULTS.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


BEGIN, END = "<!-- proven networks -->", "<!-- end -->"


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the lines as a table in Markdown."""
    rows = [
        "| network | verdict | operators | layers | parameters | rho |",
        "|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        if name in found:
            one = found[name]
            rows.append(
                f"| {name} | {one['verdict']} | {one['operators']} | {one['layers']} "
                f"| {one['parameters'] / 1e6:.1f} M | {one['rho']:.1e} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Run each network in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--here", action="store_true", help="one network, in this process")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.networks[0], args.size)))
        return
    if args.table is not None:
        text = args.table.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        text = f"{head}{BEGIN}\n\n{table(kept())}\n\n{END}{rest.split(END)[1]}"
        args.table.write_text(text, encoding="utf-8")
        return
    for name in args.networks or NETWORKS:
        command = [sys.executable, __file__, name, "--here", "--size", str(args.size)]
        # Two threads on a shared machine stall in steps of 8 ms unless waiting threads sleep.
        env = os.environ | {"OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        found = kept() | {name: row}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(
            f"{name:30} {row['verdict']:10} {row['operators']:4} operators, "
            f"{row['layers']:3} layers, convert {row['convert_s']:5.1f} s, "
            f"prove {row['prove_s']:6.1f} s, {row['peak_gb']:.1f} GB {row['reason']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
