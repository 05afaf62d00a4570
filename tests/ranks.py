"""Processes of a test: how they are started, join each other and end."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.multiprocessing import get_context, start_processes

PRELOADED = ["tests.scale.ranks", "tests.convert.ranks"]


def processes(what: Callable[..., None], world: int, *more: object) -> None:
    """Call what(rank, *more) in `world` new processes; the first error of one is raised.

    They are forked from one that has imported what they need, and has computed nothing.
    """
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    start_processes(_called, (what, more), nprocs=world, start_method="forkserver")


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
