"""Layers on a GPU beside cuDNN and PyG: device time, training steps, peaks, maps, host overhead.

Device times are those of CUDA graphs that are replayed, so that they hold no Python and no launch
gap; an arm that cannot be captured is timed eagerly and says so. Arms take turns, medians are
quoted, and what counts are the ratios to `nn.Conv2d` in channels-last, times the mask before and
after where there is one. Cases come in the order of what is most worth knowing, and the figures
are written after each, for the time is short.

    python benchmarks/gpu_speed.py [--device cuda] [--seconds 130] [--only NAME] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peers
import torch
from cases import BLOCK, Case, mask
from peers import DENSE, OURS
from run import inference, peak_bytes, training
from torch import Tensor

import convgraph as cg

ROUNDS, REPLAYS = 7, 5
SHAPES = {
    "3x3 128": Case("3x3 128-128", 128, 128, 3, 1, 1, 56, 64),
    "block": replace(BLOCK, batch=64),
    "dw 7x7": Case("dw 7x7 96", 96, 96, 7, 1, 96, 56, 64),
    "3x3 256": Case("3x3 256-256", 256, 256, 3, 1, 1, 28, 64),
    "3x3 64": Case("3x3 64-64", 64, 64, 3, 1, 1, 56, 64),
    "1x1": Case("1x1 96-384", 96, 384, 1, 1, 1, 56, 64),
}
PLACES = (("patch8", 0.4), ("full", 1.0), ("patch8", 0.1))
KINDS = {"bf16": (torch.bfloat16, False), "TF32": (torch.float32, True),
         "fp16": (torch.float16, False), "fp32": (torch.float32, False)}  # fmt: skip
ORDER = [
    (shape, place, kind) for kind in KINDS for place in PLACES for shape in SHAPES
]  # what is most worth knowing first


def main() -> int:
    """Measure until the time is over, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=130.0)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device, end = torch.device(args.device), time.perf_counter() + args.seconds
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = True  # the peer at its best
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "torch": torch.__version__, "rounds": ROUNDS, "lines": [], "cases": [],
    }  # fmt: skip
    record["host"] = host(device)
    record["lines"] += [line(one) for one in record["host"]]
    print("\n".join(record["lines"]), flush=True)
    left = 0
    for shape, (place, density), kind in ORDER:
        case = replace(SHAPES[shape], density=density, kind=place)
        if not cuda:
            case = replace(case, batch=1)
        name = f"{kind} {case.name}"
        if args.only not in name:
            continue
        if time.perf_counter() > end:
            left += 1
            continue
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = KINDS[kind][1]
        try:
            one = {"kind": kind} | measured(case, device, KINDS[kind][0])
        except Exception as error:  # noqa: BLE001 - the next case is to be seen as well
            traceback.print_exc()
            one = {"name": case.name, "kind": kind, "error": f"{type(error).__name__}: {error}"}
        record["cases"].append(one)
        record["lines"].append(line(one))
        print(record["lines"][-1], flush=True)
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if cuda:
            torch.cuda.empty_cache()
    record["lines"].append(f"speed: {len(record['cases'])} cases, {left} left for want of time")
    print(record["lines"][-1])
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def measured(case: Case, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return device milliseconds, ratios and peaks of every arm, and what the maps took."""
    holes = mask(case, torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"name": case.name, "case": vars(case), "arms": {}}
    if case.layer != BLOCK.layer:
        found |= maps(case, holes, device, dtype)
    elif holes is None:
        holes = torch.ones(case.batch, case.size, case.size, dtype=torch.bool)
    everybody = peers.arms(case, holes, device, dtype)
    everybody.pop("FastRGCNConv", None)  # slower than the other on every case of a CPU
    for mode, step in (("inference", inference), ("training", training)):
        calls, how = {}, {}
        for name, arm in everybody.items():
            try:
                calls[name], how[name] = replayed(step(arm), device)
            except Exception as error:  # noqa: BLE001 - a peer that fails is a result
                traceback.print_exc()
                found["arms"].setdefault(name, {})[mode] = {"error": repr(error)[:300]}
        times = turns(calls, device)
        base = statistics.median(times[DENSE])
        for name, ms in times.items():
            found["arms"].setdefault(name, {})[mode] = {
                "ms": statistics.median(ms), "least_ms": min(ms), "how": how[name],
                "over_dense": statistics.median(ms) / base,
                "peak_bytes": peak_bytes(step(everybody[name]), device),
            }  # fmt: skip
    return found


def replayed(run: Callable[[], None], device: torch.device) -> tuple[Callable[[], None], str]:
    """Return a call that replays `run` as a CUDA graph, or `run` itself and why."""
    aside = torch.cuda.Stream() if device.type == "cuda" else None
    if aside is None:
        return run, "eager"
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        torch.cuda.synchronize()
        # A capture that failed leaves the random state marked as captured; one that works frees it.
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros(1, device=device)
        return run, f"eager: {str(error).splitlines()[0][:120]}"
    return graph.replay, "graph"


def turns(calls: dict[str, Callable[[], None]], device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of one call of every arm, round after round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            if device.type == "cuda":
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(REPLAYS):
                    call()
                stop.record()
                torch.cuda.synchronize()
                took = start.elapsed_time(stop) / REPLAYS
            else:
                begin = time.perf_counter()
                call()
                took = (time.perf_counter() - begin) * 1e3
            if turn:
                times[name].append(took)
    return times


def maps(
    case: Case, holes: Tensor | None, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Milliseconds of a first forward on new masks and of a later one, what runs, what may."""
    layer: Any = cg.nn.GraphConv2d(
        case.channels, case.out, case.kernel, case.stride, (case.kernel - 1) // 2,
        groups=case.groups, device=device, dtype=dtype,
    )  # fmt: skip
    image = torch.randn(case.batch, case.channels, case.size, case.size, device=device, dtype=dtype)
    image = image.to(memory_format=torch.channels_last)
    where = None if holes is None else holes.to(device)
    pairs = []
    with torch.no_grad():
        layer(cg.PixelGraph.from_image(image, where))
        for _ in range(3):
            graph = cg.PixelGraph.from_image(image, where)
            pairs.append([wall(lambda: layer(graph), device) for _ in range(2)])  # noqa: B023
    first, later = (statistics.median(column) for column in zip(*pairs, strict=True))
    options = [
        {"name": o.name, "macs": o.macs, "moved": o.moved, "predicted_us": o.cost / 1e3}
        for o in cg.backends.options(layer.problem(graph))
        if o.refusal is None
    ]
    return {
        "nodes": graph.num_nodes, "first_ms": first, "later_ms": later, "options": options,
        "backend": cg.explain(layer, graph).backend,
    }  # fmt: skip


def wall(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of a call on the host's clock, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def host(device: torch.device, calls: int = 40) -> list[dict[str, Any]]:
    """Microseconds of Python a call: layers so small that the device always waits for the host."""
    found = []
    for name, share in (("full", None), ("mask", 0.5)):
        holes = None if share is None else torch.rand(1, 8, 8, device=device) < share
        dense = torch.nn.Conv2d(16, 16, 3, padding=1, device=device)
        layer = cg.nn.GraphConv2d.from_dense(dense)
        image = torch.randn(1, 16, 8, 8, device=device)
        graph = cg.PixelGraph.from_image(image, holes)
        arms: dict[str, Callable[[], Tensor]] = {"dense": lambda: dense(image)}  # noqa: B023
        for option in cg.backends.options(layer.problem(graph)):
            if option.refusal is None:
                arms[option.name if option.name != "dense" else "ours"] = _forced(
                    layer, graph, option.name
                )
        row: dict[str, Any] = {
            "name": f"host us, {name}",
            "chosen": cg.explain(layer, graph).backend,
        }
        for who, call in arms.items():
            for mode, grads in (("", False), (" step", True)):
                once = _once(call, grads=grads)
                for _ in range(20):
                    once()
                times = [wall(lambda: [once() for _ in range(calls)], device) for _ in range(5)]  # noqa: B023
                row[who + mode] = statistics.median(times) * 1e3 / calls
        found.append(row)
    return found


def _forced(layer: Any, graph: cg.PixelGraph, backend: str) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with cg.backend(backend):
            y: Tensor = layer(graph).x
        return y

    return call


def _once(call: Callable[[], Tensor], *, grads: bool) -> Callable[[], None]:
    def once() -> None:
        with torch.set_grad_enabled(grads):
            y = call()
        if grads:
            y.sum().backward()

    return once


def line(one: dict[str, Any]) -> str:
    """One case in one line: our ratio to dense, and who among the backends was best."""
    if "error" in one:
        return f"{one['kind']} {one['name']}: {one['error'][:150]}"
    if "arms" not in one:
        return ", ".join(f"{k} {v:.1f}" if isinstance(v, float) else str(v) for k, v in one.items())
    parts = []
    for mode in ("inference", "training"):
        ms = {n: arm[mode]["ms"] for n, arm in one["arms"].items() if "ms" in arm.get(mode, {})}
        own = {n.removeprefix("backend "): v for n, v in ms.items() if n.startswith("backend")}
        best = min(own, key=lambda n: own[n]) if own else ""
        text = f"{mode} {ms[OURS]:.3f} ms = {ms[OURS] / ms[DENSE]:.2f} dense"
        parts.append(text + (f" (best {best} {own[best] / ms[DENSE]:.2f})" if best else ""))
        rest = {
            n: v for n, v in ms.items() if n not in (OURS, DENSE) and not n.startswith("backend")
        }
        parts += [f"{n} {v / ms[DENSE]:.2f}" for n, v in rest.items() if mode == "training"]
    tail = f", {one['backend']}, first {one['first_ms']:.2f} ms" if "backend" in one else ""
    return f"{one['kind']} {one['name']}{tail}: " + "; ".join(parts)


if __name__ == "__main__":
    if not find_spec("convgraph"):
        sys.exit("run from the tree: PYTHONPATH=. python benchmarks/gpu_speed.py")
    sys.exit(main())
