"""A campaign: draws are judged until they or the time run out. And what its command is asked."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.children import Found, attacked

ROOT = Path(__file__).parent.parent.parent


def apart(module: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a campaign's command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{module}", *words],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def options(about: str | None, draws: int) -> argparse.ArgumentParser:
    """Return the command of a campaign of at most so many draws."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--draws", type=int, default=draws)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    return parser


def campaign(
    drawn: Iterable[Any], judge: Callable[[Any], str], seconds: float, at_once: int, together: int
) -> tuple[int, list[Found]]:
    """Return how many draws were judged, and what was wrong.

    Args:
        drawn: whatever `judge` takes.
        judge: see `children.attacked`.
        seconds: after which no more are judged.
        at_once: draws between two looks at the clock.
        together: draws that share a child.
    """
    torch.set_num_threads(1)  # a fork of threads that ran would hang
    rest, start, done = iter(drawn), time.monotonic(), 0
    wrong: list[Found] = []
    while time.monotonic() - start < seconds and (draws := list(islice(rest, at_once))):
        wrong += [found for found in attacked(draws, judge, together) if found is not None]
        done += len(draws)
    return done, wrong
