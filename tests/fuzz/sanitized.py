"""The C++ kernels under AddressSanitizer and UBSan: malformed and well-formed calls, in a child.

The kernels are compiled once more, with both sanitizers, under a name of their own in the cache.
A child that runs with the sanitizers' libraries in front then makes the calls of `operands`, and
public calls of backend `cpp` beside; a report ends it, and is the finding.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

import convgraph as cg
from convgraph.backends.fused import cpp_build
from tests.fuzz import operands
from tests.fuzz.geometries import Draw, _differs, _head, _made, _truth, draw

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = ("libasan.so", "libubsan.so")
FLAGS = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
"""Nothing optimised away and a report's lines: more than that takes the compiler two minutes."""


def preload() -> str:
    """Where the sanitizers' libraries lie, as LD_PRELOAD takes it; "" where there are none."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None or sys.platform != "linux":
        return ""
    found = []
    for name in LIBRARIES:
        told = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
        )
        path = Path(told.stdout.strip())
        if not path.is_absolute() or not path.exists():  # the name alone where there is none
            return ""
        found.append(str(path))
    return " ".join(found)


def attack(seed: int, seconds: float) -> int:
    """Make the calls, within a process whose kernels are sanitized; return how many err."""
    plain = cpp_build.flags()
    cpp_build.flags = lambda: [*FLAGS, *[one for one in plain if one != "-O3"]]
    cpp_build.compile_kernels()
    if cpp_build.lacks():
        sys.stdout.write(f"not attacked: {cpp_build.lacks()}\n")
        return 1
    done, wrong = operands.search(10**6, seed, seconds / 2)
    for found in wrong[:20]:
        sys.stdout.write(f"{found.what}: {found.draw}\n")
    dice, start, asked, bad = random.Random(seed), time.monotonic(), 0, len(wrong)
    while time.monotonic() - start < seconds / 2:
        one = draw(dice)
        told = _by_kernels(one) if one.density is not None else None
        asked += told is not None
        if told:
            bad += 1
            sys.stdout.write(f"{told}: {one}\n")
    sys.stdout.write(f"{done} malformed and {asked} public calls under sanitizers, {bad} wrong\n")
    return bad


def _by_kernels(one: Draw) -> str | None:
    """What the kernels get wrong, forward and backward; None where they do not serve."""
    twin, image, mask, layer = _made(one)
    leaf = image.clone().requires_grad_()
    graph = cg.PixelGraph.from_image(leaf, mask, d=one.d)
    options = {o.name: o.refusal for o in cg.backends.options(layer.problem(graph, None))}
    if options.get("cpp", "absent") is not None:
        return None
    layer.backend = "cpp"
    out = layer(graph)
    sites = None if out.mask is None else out.mask.unsqueeze(1)
    y = out.to_image()
    head = _head(y, one.seed)
    y.backward(head)
    found = [y, leaf.grad, *(p.grad for p in layer.parameters())]
    return _differs(found, _truth(twin, image, mask, sites, head), one.frozen)


def main() -> int:
    """Print what was found; 1 if anything was, a report of a sanitizer included."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inside", action="store_true", help="this is the child")
    given = parser.parse_args()
    if given.inside:
        torch.set_num_threads(1)
        return bool(attack(given.seed, given.seconds))
    libraries = preload()
    if not libraries:
        sys.stdout.write("no sanitizers here: the compiler has no libasan and libubsan\n")
        return 0
    if cpp_build.lacks():
        sys.stdout.write(f"no kernels to attack: {cpp_build.lacks()}\n")
        return 0
    share = ["--seed", str(given.seed), "--seconds", str(given.seconds)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.sanitized", "--inside", *share],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": libraries,
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:handle_segv=0",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "OMP_NUM_THREADS": "1",
        },
        check=False,
    )
    return bool(run.returncode)


if __name__ == "__main__":
    sys.exit(main())
