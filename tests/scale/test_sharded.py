"""One image over processes equals the image in one: values and every gradient."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing import spawn

import convgraph as cg
from convgraph.errors import DeviceError
from convgraph.scale.sharded import equal_nodes
from tests.scale import ranks


def results(tmp_path: Path, what: str, world: int, *more: object) -> list[object]:
    spawn(ranks.spawned, (what, world, str(tmp_path), *more), nprocs=world)
    return [json.loads(Path(tmp_path, f"{what}{rank}").read_text()) for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2,), pytest.param((3,), marks=pytest.mark.ci), (2, 2)])
def test_every_rank_has_its_part_of_the_whole(shape: tuple[int, ...], tmp_path: Path) -> None:
    world = int(np.prod(shape))
    assert results(tmp_path, "compare", world, shape) == [[]] * world


@pytest.mark.slow
def test_norms_hear_all_ranks_and_mistakes_are_said_on_every_one(tmp_path: Path) -> None:
    for found in results(tmp_path, "refuse", 2):
        assert found["norm"]
        assert found["buffers"]
        assert "expected parts of [3, 2] positions along axis 0" in found["part"]
        assert found["part"].startswith("ShapeError")
        assert "(group_norm) hears the whole map; only batch norm" in found["group_norm"]
        assert "expected shares as [2] numbers" in found["shares"]
        assert "expected mesh as a DeviceMesh" in found["mesh"]
        assert found["nodes"] == [0.25] * 4


def test_without_a_group_it_says_what_to_start() -> None:
    with pytest.raises(DeviceError, match="run under torchrun"):
        cg.sharded(nn.Conv2d(1, 1, 3))


def test_equal_nodes_share_the_tissue() -> None:
    mask = np.zeros((64, 64), bool)
    mask[8:40, 10:30] = mask[50:54, :] = True
    cuts = np.cumsum([0, *(round(64 * s) for s in equal_nodes(mask, 4))])
    loads = [int(mask[a:b].sum()) for a, b in pairwise(cuts)]
    assert sum(loads) == int(mask.sum())
    assert max(loads) < 1.2 * mask.sum() / 4
    assert max(int(mask[a : a + 16].sum()) for a in range(0, 64, 16)) > 1.4 * mask.sum() / 4
    assert torch.tensor(equal_nodes(mask, 4)).sum() == 1
