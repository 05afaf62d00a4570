"""Published networks equal the whole on integers: values and all gradients, by tiles and ranks.

Tiles from a single pixel to more than the image, 1 to 4 processes; a classifier to its last answer.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.scale.partial import run
from convgraph.scale.passes import passes
from convgraph.scale.plan import plan
from tests import zoo
from tests.ranks import processes
from tests.scale import published, ranks
from tests.scale.published import BY_TILES, FEW, NAMES, SEGMENTATION, equal, exact, gradients, whole

pytestmark = pytest.mark.slow


def alone(names: Iterable[str]) -> list[Any]:
    """Networks whose operators the small ones of `nets` have too."""
    return [pytest.param(name, marks=pytest.mark.published) for name in names]


def test_there_are_more_than_forty() -> None:
    assert len(set(NAMES)) >= 40


@pytest.mark.parametrize("name", [*FEW, *alone(n for n in BY_TILES if n not in FEW)])
def test_tiles_equal_the_whole_with_all_gradients(name: str) -> None:
    net, x, y, head, want = whole(name)
    assert y.unique().numel() > 2
    assert all(bool((one != 0).any()) for one in (y, want[-1]))
    pixels = name in SEGMENTATION  # as many tiles of one pixel as the image has: some of them
    for tile in (16, 1000) if pixels else (1, 1000):
        again = x.detach().clone().requires_grad_()
        got = cg.streamed(net, tile=tile)(again)
        assert torch.equal(got.detach(), y), tile
        assert equal(gradients(net, (got * head).sum(), again), want), tile
    if pixels:
        single(net, x, y)


def single(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Tiles of one pixel of the output, at corners and within, and the gradients that they give."""
    made = plan(net, tuple(x.shape), x.dtype)
    places = [(0, 0), (y.shape[2] - 1, y.shape[3] - 1), (17, 21)]
    head, loss = torch.zeros_like(y), x.new_zeros(())
    for k, place in enumerate(places):
        head[(..., *place)] = k + 1
        ask = made.asks(made.out, tuple(np.array([p]) for p in place))
        part = x[np.ix_([0], range(3), *ask[0])]
        got = run(made, part, ask, made.out)
        assert torch.equal(got[..., 0, 0].detach(), y[(..., *place)])
        loss = loss + got.sum() * (k + 1)
    assert equal(gradients(net, loss, x), gradients(net, (net(x) * head).sum(), x))


@pytest.mark.parametrize("name", [*FEW, *alone(["densenet121", "mnasnet0_5"])])
def test_classifiers_equal_the_whole_to_their_last_answer(name: str) -> None:
    net = exact(getattr(zoo.models(), name)(weights=None))
    x = published.image(name)
    assert len(passes(plan(net, tuple(x.shape)))) == 1
    with torch.no_grad():
        want = net(x)[0]
    out = cg.tiled(net, x[0].numpy(), tile=2, statistics="passes")
    assert np.array_equal(out.compute(scheduler="synchronous"), want.numpy())
    assert want.unique().numel() > 2


@pytest.mark.published
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_equal_the_whole_with_all_gradients(world: int, tmp_path: Path) -> None:
    zoo.models()
    processes(ranks.spawned, world, "published", world, str(tmp_path))
    found = [json.loads((tmp_path / f"published{rank}").read_text()) for rank in range(world)]
    assert [wrong for _, wrong in found] == [[]] * world
    assert min(len(names) for names, _ in found) >= (10 if os.environ.get("CI") else 40)
