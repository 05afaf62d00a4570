"""Processes of a test: how they are started, join each other and end."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing import get_context, start_processes

PRELOADED = ["tests.scale.ranks", "tests.scale.trained", "tests.convert.ranks"]


def processes(what: Callable[..., None], world: int, *more: object) -> None:
    """Call what(rank, *more) in `world` new processes; the first error of one is raised.

    They are forked from one that has imported what they need, and has computed nothing.
    """
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    start_processes(_called, (what, more), nprocs=world, start_method="forkserver")


def torchrun(what: Callable[..., None], world: int, *more: object) -> None:
    """Call what(*more) in `world` new processes as `torchrun --standalone` starts them.

    In a thread: in the main one its launcher would put its handlers of signals in pytest's place.

    Source: https://docs.pytorch.org/docs/stable/elastic/run.html
    """
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=world, run_id="standalone", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", start_method="forkserver",
    )  # fmt: skip
    with ThreadPoolExecutor(1) as thread:
        thread.submit(elastic_launch(config, what), *more).result()


def _called(rank: int, what: Callable[..., None], more: tuple[object, ...]) -> None:
    what(rank, *more)
    leave()


def leave() -> NoReturn:
    """End this process at once; what it found is in its file by then.

    Left to itself the interpreter goes while gloo's threads may still let go of Python's tensors,
    and then the process is aborted now and then (pytorch/pytorch, pull request 179291).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def join(rank: int, world: int, folder: str) -> None:
    """Join the group of `world` processes through a file in a folder; one thread each."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
