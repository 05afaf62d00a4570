"""Processes of a test: how each joins the others."""

from datetime import timedelta

import torch
import torch.distributed as dist


def join(rank: int, world: int, folder: str) -> None:
    """Join the group of `world` processes through a file in a folder; one thread each."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
