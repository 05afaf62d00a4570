"""One image over processes equals the image in one: values and every gradient."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import DeviceError, GeometryError
from convgraph.scale.plan import plan
from convgraph.scale.sharded import equal_nodes
from convgraph.scale.traffic import traffic
from tests.ranks import processes, torchrun
from tests.scale import ranks, trained

Found = Callable[..., list[Any]]


def results(folder: Path, what: str, world: int) -> list[Any]:
    return [json.loads((folder / f"{what}{rank}").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """(what, shape, ...) -> what every rank wrote; two ranks are asked everything at once."""
    of_two: dict[str, tuple[Any, ...]] = {
        "compare": ((2,),), "elsewhere": (), "refuse": (), "prove": ((2,),)
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("ranks")

    def ask(what: str, world: int, *more: object) -> list[Any]:
        if world != 2 or of_two.get(what) != more:
            alone = tmp_path_factory.mktemp(what)
            processes(ranks.spawned, world, what, world, str(alone), *more)
            return results(alone, what, world)
        if not any(folder.iterdir()):
            processes(ranks.spawned, 2, "one_after_the_other", 2, str(folder), of_two)
        return results(folder / what, what, 2)

    return ask


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [(2,), *(pytest.param(one, marks=pytest.mark.ci) for one in [(1,), (3,), (4,), (2, 2)])],
)
def test_every_rank_has_its_part_of_the_whole(shape: tuple[int, ...], found: Found) -> None:
    world = int(np.prod(shape))
    assert found("compare", world, shape) == [[]] * world


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.ci)])
def test_spaces_masks_and_whole_maps_equal_the_whole(world: int, found: Found) -> None:
    assert found("elsewhere", world) == [[]] * world


@pytest.mark.slow
def test_norms_hear_all_ranks_and_mistakes_are_said_on_every_one(found: Found) -> None:
    for said in found("refuse", 2):
        assert said["norm"]
        assert said["buffers"]
        assert "expected parts of [3, 2] positions along axis 0" in said["part"]
        assert said["part"].startswith("ShapeError")
        for name in ("dtype", "width"):
            assert "expected parts of one dtype on all ranks, their shapes alike" in said[name]
        assert "none negative and not all 0, got [0.0, 0.0]" in said["zeros"]
        assert "(group_norm) hears the whole map; say statistics='passes'" in said["group_norm"]
        assert "expected shares as [2] numbers" in said["shares"]
        assert "expected mesh as a DeviceMesh" in said["mesh"]
        assert said["nodes"] == [0.25] * 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2,), pytest.param((2, 2), marks=pytest.mark.ci)])
def test_parts_are_proven_and_planted_faults_refuted(shape: tuple[int, ...], found: Found) -> None:
    every = found("prove", int(np.prod(shape)), shape)
    said = {
        "a weight of one rank": "mid.weight differs from",
        "another dilation": "the part's network runs 'one' (conv2d)",
        "rows off by one": "is read and not there",
        "a share of the gradient": "the gradient of input 0 is",
        "gradients of one rank": "the gradient of weight",
    }
    for rank in every:
        for name, (verdict, operators, text) in rank.items():
            if name in said:
                assert verdict == "refuted", (name, text)
                assert said[name] in text, text
            elif name == "norm in training":
                assert verdict == "undecided"
                assert "(batch_norm) computes with real numbers" in text
            else:
                assert verdict == "proven", text
                assert operators >= 2
    assert every[0].keys() == every[-1].keys()


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_the_traffic_model_counts_every_byte(shape: tuple[int, ...], found: Found) -> None:
    every = found("weigh", int(np.prod(shape)), shape)
    for name, (_, _, sent, messages) in every[0].items():
        assert max(rank[name][0] for rank in every) == sent > 0
        assert {rank[name][1] for rank in every} == {messages}


@pytest.mark.parametrize("workers", [(), (0,), (2, 2, 2), (1.5,)])
def test_workers_that_there_are_none_of_are_refused(workers) -> None:
    found = plan(nn.Conv2d(1, 1, 3), (1, 1, 9, 9))
    with pytest.raises(GeometryError, match="expected workers as one or two counts"):
        traffic(found, workers)


def test_there_is_no_traffic_model_of_a_space() -> None:
    with pytest.raises(GeometryError, match="expected a plan in the plane"):
        traffic(plan(nn.Conv2d(1, 1, 1), (1, 1, 48, 4), on=cg.HEALPix()), (2,))


@pytest.mark.slow
@pytest.mark.ci
def test_data_beside_space_under_torchrun_is_the_step_of_the_whole_batch(tmp_path) -> None:
    torchrun(trained.compare, 4, str(tmp_path))
    for rank in range(4):
        wrong, same, said = json.loads((tmp_path / f"trained{rank}").read_text())
        assert wrong == []
        assert not same
        assert "give fully_shard the module that cg.sharded returned" in said


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
