"""The house in numbers: rooms, floors and arrows, and how often a call changes wing.

python benchmarks/walks.py

A folder of the package is one room, and a file that lies in none is one. A floor is a step of the
longest chain of imports. A walk is the list of rooms that a call passes, there and back.
"""

import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import convgraph as cg

PACKAGE = Path(cg.__file__).parent
sys.path.insert(0, str(PACKAGE.parent))

from tests.test_package import arrows, modules, storey  # noqa: E402


def rooms(wing: str) -> tuple[int, int, int]:
    """Return how many rooms, floors and arrows a wing has; "" is the whole house."""
    inside = f"{PACKAGE.name}.{wing}.".replace("..", ".")
    pairs = {
        (storey(a, wing), storey(b, wing))
        for a, b in arrows(PACKAGE)
        if f"{a}.".startswith(inside) and f"{b}.".startswith(inside)
    }
    pairs = {(a, b) for a, b in pairs if a != b and "." not in (a, b)}
    every = {storey(m, wing) for m in modules(PACKAGE) if f"{m}.".startswith(inside)} - {"."}

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(b) for a, b in pairs if a == room), default=0)

    return len(every), max(map(floor, every)), len(pairs)


def walk(call: Callable[[], Any]) -> tuple[int, int]:
    """Return how many files a call stays in, one after the other, and how often it changes wing."""
    stays: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "return"):
            at = frame if event == "call" else frame.f_back
            name = at.f_code.co_filename if at is not None else ""
            file = name.removeprefix(f"{PACKAGE}/")
            if file != name and stays[-1:] != [file]:
                stays.append(file)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    wings = [file.partition("/")[0] for file in stays]
    return len(stays), sum(a != b for a, b in pairwise(wings))


def main() -> None:
    """Print both tables."""
    for wing in ("", "proof", "backends"):
        count, floors, pairs = rooms(wing)
        print(f"{wing or 'house'}: {count} rooms, {floors} floors, {pairs} arrows", flush=True)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    layer = cg.nn.GraphConv2d.from_dense(conv)
    x, mask = torch.rand(1, 3, 8, 8), torch.rand(1, 8, 8) > 0.5
    full, holes = cg.PixelGraph.from_image(x), cg.PixelGraph.from_image(x, mask=mask)
    calls: dict[str, Callable[[], Any]] = {
        "full grid, first call": lambda: layer(full),
        "full grid, warm call": lambda: layer(full),
        "mask, first call": lambda: layer(holes),
        "mask, warm call": lambda: layer(holes),
        "prove(layer, conv)": lambda: cg.prove(layer, conv, size=(8, 8)),
    }
    for name, call in calls.items():
        stays, changes = walk(call)
        print(f"{name}: {stays} stays, {changes} changes of wing", flush=True)


if __name__ == "__main__":
    main()
