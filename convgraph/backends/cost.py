"""The cost table: how long a backend would take, from static facts alone.

    nanoseconds = multiply-adds * mac + elements moved * moved + kernels started * call

On the CPU they are the mean of a forward and of a third of a training step: a layer has one choice
for both, for what is proven of one kernel says nothing of another. A backend says how many of each
(`work`); this table says how long one takes. Only ratios matter for the choice, so figures of one
machine serve every machine of its kind, and every rank of a job chooses alike.
"""

from dataclasses import dataclass
from math import inf
from typing import final

import torch

from convgraph.backends.problem import Problem


@final
@dataclass(frozen=True)
class Rate:
    """Nanoseconds for one of each.

    Attributes:
        mac: multiply-add of a matrix or of a full or grouped convolution.
        depthwise: multiply-add of a convolution with one channel a group.
        moved: element of four bytes read or written.
        call: start of a kernel; `gather` starts one a tap, or few for all.
        ieee: `mac` of float32 on CUDA without TF32; 0 where that is no other.
        half: `mac` of half types on CUDA; 0 where it is `mac` by the bytes of an operand.
    """

    mac: float
    depthwise: float
    moved: float
    call: float
    ieee: float = 0.0
    half: float = 0.0


RATES: dict[str, dict[str, Rate]] = {
    # Two threads on two cores with AVX-512, torch 2.13, by `benchmarks/rates.py` (9 rounds): least
    # squares over the relative errors of ten convolutions (16 to 192 channels, 2x2 to 7x7, stride 1
    # and 2, full and depthwise) on nine masks of 56 x 56, batch 8; the mean of a forward and of a
    # third of a training step. `call` is what Python, the allocator and waking a second thread
    # take, once, or once a tap in `gather`; `slots` is its way where edges are few. The rates of
    # `dense` are those of `masked`: it serves full grids, where nothing is chosen. Those of `cpp`
    # are of five rounds, later and by themselves; what the choice is worth with them is in
    # docs/benchmarks.md.
    "cpu": {
        "dense": Rate(mac=0.0061, depthwise=0.037, moved=0.074, call=684_000),
        "masked": Rate(mac=0.0061, depthwise=0.037, moved=0.074, call=684_000),
        # Not fitted: products as in `gather`, rows in bags as in `slots`.
        "resample": Rate(mac=0.0065, depthwise=0.2, moved=0.201, call=724_000),
        # Not fitted: those of the dense kernels that it calls, and it serves where they cannot.
        "halo": Rate(mac=0.0061, depthwise=0.037, moved=0.074, call=684_000),
        "tiles": Rate(mac=0.0067, depthwise=0.0242, moved=0.136, call=739_000),
        "gather": Rate(mac=0.0065, depthwise=0.2, moved=0.396, call=505_000),
        "slots": Rate(mac=0.0076, depthwise=0.2, moved=0.201, call=724_000),
        "cpp": Rate(mac=0.00693, depthwise=0.0189, moved=0.158, call=308_000),
        # Not fitted: never chosen for speed.
        "messages": Rate(mac=0.0159, depthwise=0.148, moved=1.8, call=740_000),
        # Not measured: interpreted, to be tested and read, and dearer than anything else here.
        "triton": Rate(mac=10.0, depthwise=10.0, moved=100.0, call=100_000_000),
    },
    # One H200, torch 2.11, cuDNN 9.19, by `benchmarks/gpu_speed.py`: least squares over the
    # relative errors of five convolutions (3x3 with 64 to 256 channels, depthwise 7x7, 1x1) in
    # bfloat16, float16 and TF32, batch 64, on full grids and on patches, density .4 and .1; device
    # time of a replayed CUDA graph, mean of a forward and of a third of a training step. By these
    # rates 23 of 24 masked cases get the best backend, one takes 1.52 times as long. `ieee` was not
    # measured: two thirds of the plain units' 3.3e13 multiply-adds a second for a library's
    # product, a quarter for that of `triton`. Nor was `messages`, which is never chosen for speed.
    "cuda": {
        "dense": Rate(
            mac=4.02e-6, depthwise=4.1e-4, moved=2.87e-3, call=19_500, ieee=4.5e-5, half=2.15e-6
        ),
        # Not measured: those of `dense`, whose kernels it calls.
        "halo": Rate(
            mac=4.02e-6, depthwise=4.1e-4, moved=2.87e-3, call=39_000, ieee=4.5e-5, half=2.15e-6
        ),
        "masked": Rate(
            mac=2.31e-6, depthwise=4.4e-4, moved=2.88e-3, call=43_000, ieee=4.5e-5, half=1.94e-6
        ),
        "tiles": Rate(
            mac=4.51e-6, depthwise=1.16e-3, moved=4.29e-3, call=32_500, ieee=5e-5, half=4.71e-6
        ),
        "triton": Rate(
            mac=5.03e-5, depthwise=9.2e-4, moved=6.2e-4, call=17_200, ieee=1.2e-4, half=8.23e-6
        ),
        "gather": Rate(
            mac=2.77e-5, depthwise=8.6e-3, moved=2.96e-3, call=13_300, ieee=4.5e-5, half=8.77e-5
        ),
        "messages": Rate(mac=2.8e-5, depthwise=8.6e-3, moved=4e-3, call=13_300, ieee=4.5e-5),
    },
}
"""Kind of device -> backend that serves there, or way of one -> rate; others count as "cuda"."""

BYTES = 4
"""Bytes of the element that `Rate.moved` speaks of."""


def nanoseconds(name: str, problem: Problem, macs: float, moved: float, calls: int = 1) -> float:
    """Return the predicted time of a backend's work; infinite where no rate is known.

    Args:
        name: of the backend.
        problem: the operator, for its device, dtype and groups.
        macs: multiply-adds that it would do.
        moved: elements that it would read and write.
        calls: kernels that it would start.
    """
    rate = RATES["cpu" if problem.device.type == "cpu" else "cuda"].get(name)
    if rate is None:
        return inf
    half, cpu = problem.dtype in (torch.float16, torch.bfloat16), problem.device.type == "cpu"
    # Half types are widened on the CPU.
    scale = 1.0 if half and cpu else problem.dtype.itemsize / BYTES
    if problem.depthwise:
        mac = rate.depthwise * scale
    elif half and not cpu and rate.half:
        mac = rate.half
    else:
        mac = (rate.ieee if problem.ieee and rate.ieee else rate.mac) * scale
    return macs * mac + moved * rate.moved * scale + calls * rate.call
