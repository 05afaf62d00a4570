"""What every test runs under: few threads, one seed, repeatable examples, no GPU where none is.

One browser serves all of them, for a second one would not start beside it.

The same examples are drawn in CI every time (a red build is then about the change, not about luck);
on a developer's machine hypothesis goes on looking for new ones.
"""

import gc
import os
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import convgraph
from tests.browser import browser

__all__ = ["browser"]

# The fused kernels of the CPU lie beside the other things that are made here, not in the home.
os.environ.setdefault(
    "CONVGRAPH_CACHE", str(Path(__file__).resolve().parents[1] / ".cache/convgraph")
)

pytest_plugins = ["pytester"]  # runs a suite within a test, for the plugin

THREADS = 2
"""CPU threads that torch may use: what the smallest machine of CI has, so that timings compare."""

# The first example pays for torch's kernels being loaded; that says nothing about the strategy.
_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", **_COMMON)
settings.register_profile("ci", derandomize=True, **_COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    threads = max(1, min(THREADS, os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    # Of processes that tests start too: threads that wait for a core spin, and keep it from others.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if find_spec("triton") is None:  # doctests would import the one module that is written in it
        kernels = Path(convgraph.__file__).parent / "backends" / "fused" / "triton_kernels.py"
        config.option.ignore = [*(config.option.ignore or []), str(kernels)]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the collector of circles walk no more through what lives as long as the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries say what leaks when the process ends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):  # a folder of that name is a keyword too
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random state, whatever ran before it."""
    torch.manual_seed(0)
