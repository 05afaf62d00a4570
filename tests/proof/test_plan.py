"""The judge of a plan: right ones are proven, planted faults are refuted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.errors import GeometryError, ProofError
from convgraph.graph import places
from convgraph.proof.again import verify
from convgraph.proof.placed_maps import Mask
from convgraph.proof.plan import AxisPart, judge_plan, judge_sites
from convgraph.scale.plan import plan
from convgraph.scale.sites import sites_of
from convgraph.scale.tiling import claim, tiling
from tests.scale import moving
from tests.scale.nets import networks, whole


def made(name: str, tile=5):
    net, x = whole(*networks()[name])
    return tiling(plan(net, tuple(x.shape)), tile)


@pytest.mark.parametrize("name", networks())
def test_right_plans_are_proven(name: str) -> None:
    found = made(name).prove()
    assert found.verdict == "proven", found
    assert found.edges > 10


def test_a_tiled_array_carries_its_plan_to_the_judge() -> None:
    pytest.importorskip("dask")
    net, _ = whole(*networks()["skips"])
    out = cg.tiled(net, np.ones((2, 45, 38), np.float32), tile=7)
    found = cg.prove(out.plan)
    assert found.verdict == "proven"
    assert found.parts == (7, 6)
    with pytest.raises(ProofError, match="or a plan alone"):
        cg.prove(net)


def altered(found, axis: int, number: int, change):
    """The claim with one part changed."""
    parts = list(found.axes[axis])
    parts[number] = change(parts[number])
    axes = list(found.axes)
    axes[axis] = tuple(parts)
    return replace(found, axes=tuple(axes))


def pool_of(found):
    return next(o for o in found.operators if o.name == "max_pool2d")


def test_a_halo_one_pixel_short_is_refuted() -> None:
    found = claim(made("skips", 16))
    pool = pool_of(found)

    def short(part: AxisPart) -> AxisPart:
        have = part.have[pool.sources[0]][:-1]
        reads = {
            k: np.where(r >= len(have), -1, r) if k == pool.result else r
            for k, r in part.reads.items()
        }
        return replace(part, have={**part.have, pool.sources[0]: have}, reads=reads)

    verdict = judge_plan(altered(found, 0, 0, short))
    assert verdict.verdict == "refuted"
    assert any("'pool'" in fault for fault in verdict.faults)


def test_a_start_off_the_grid_is_refuted() -> None:
    found = claim(made("strides 2 and 3", 2))
    first = found.operators[0]

    def shifted(part: AxisPart) -> AxisPart:
        return replace(part, have={**part.have, 0: part.have[0] + 1}, reads=part.reads)

    verdict = judge_plan(altered(found, 1, 0, shifted))
    assert "its definition says" in verdict.faults[0]
    assert first.title in verdict.faults[0]


def test_a_pad_at_a_cut_is_refuted() -> None:
    found = claim(made("3x3"))
    last = found.operators[-1]

    def padded(part: AxisPart) -> AxisPart:
        table = part.reads[last.result].copy()
        table[-1, -1] = -1
        return replace(part, reads={**part.reads, last.result: table})

    verdict = judge_plan(altered(found, 0, 0, padded))
    assert verdict.faults[0].startswith("part 0 of axis 0: output 4 of '2' (conv2d) reads nothing")


@pytest.mark.parametrize(("out", "said"), [(np.arange(4), "0 parts"), (np.arange(6), "2 parts")])
def test_an_output_in_no_part_or_in_two_is_refuted(out, said: str) -> None:
    found = claim(made("3x3"))
    verdict = judge_plan(altered(found, 0, 0, lambda part: replace(part, out=out)))
    assert any(said in fault for fault in verdict.faults)


def test_a_value_that_nobody_made_is_refuted() -> None:
    found = claim(made("3x3"))
    verdict = judge_plan(replace(found, operators=found.operators[1:]))
    assert any("which is not there" in fault for fault in verdict.faults)


def test_another_stride_than_the_network_has_is_refuted() -> None:
    found = claim(made("strides 2 and 3"))
    last = found.operators[-1]
    other = replace(last, arguments={**last.arguments, "stride": [2, 3]})
    assert judge_plan(replace(found, operators=(*found.operators[:-1], other))).verdict == "refuted"


def test_what_the_judge_has_no_definition_of_it_says() -> None:
    found = claim(made("3x3"))
    last = replace(found.operators[-1], name="median_pool2d")
    with pytest.raises(ProofError, match="no definition of '2'"):
        judge_plan(replace(found, operators=(*found.operators[:-1], last)))


def test_the_mask_rule_of_a_crop_is_refuted() -> None:
    mask = np.random.default_rng(0).random((100, 97)) < 0.1
    size, part = (50, 33), (np.arange(20, 30), np.arange(20, 30))

    def rule(size, part):
        cell = [
            [np.arange(-(-p * n // s), -(-(p + 1) * n // s)) for p in ps]
            for n, s, ps in zip(mask.shape, size, part, strict=True)
        ]
        return np.array([[mask[np.ix_(a, b)].any() for b in cell[1]] for a in cell[0]])

    def crops(size, part):  # three columns a site, as a crop from column 60 on has them
        return np.array(
            [[mask[2 * p : 2 * p + 2, 3 * q : 3 * q + 3].any() for q in part[1]] for p in part[0]]
        )

    assert judge_sites(rule, mask, size, part) == []
    assert "of the map of size (50, 33)" in judge_sites(crops, mask, size, part)[0]


def on_a_mask(name: str, tile=3):
    net, size = moving.networks()[name]
    net, x = whole(net, size)
    found = plan(net, tuple(x.shape))
    mask = np.random.default_rng(4).random(size) < 0.4
    return tiling(found, tile, sites=sites_of(found, mask))


@pytest.mark.parametrize("name", moving.networks())
def test_a_plan_with_a_mask_is_proven_and_proven_again_from_its_text(name: str) -> None:
    found = on_a_mask(name).prove()
    assert found.verdict == "proven", found
    text = found.to_json()
    assert verify(text) == (0, ["the record holds: proven"])


def test_a_record_of_a_mask_that_is_none_is_refused() -> None:
    found = on_a_mask("places that meet").prove()
    said = found.claims[0]
    none = Mask(np.zeros((2, 1), bool), (12, 11), ((0, 5), (0,))).to_fields()
    for mask, text in (
        (none, "the parts read other positions"),  # each map has all sites of the other
        (none | {"size": [12, 13]}, "expected a mask of the image's size"),
        (none | {"size": [12, 2**40]}, "expected a mask of at most"),
        (none | {"starts": [[0, 5], list(range(11))]}, "expected as many bits"),
        (none | {"starts": [[0, 12], [0]]}, "that start in order within 12 pixels"),
        ({"bits": ""}, "expected a mask with the fields"),
    ):
        changed = replace(found, claims=({**said, "mask": mask},))
        code, lines = verify(changed.to_json())
        assert code == 1
        assert text in lines[0]


def test_a_plan_in_a_space_with_a_mask_is_proven() -> None:
    body = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, padding=1), torch.nn.MaxPool2d(2))
    found = plan(body, (1, 2, 48, 4), on=cg.HEALPix())
    made = tiling(found, 2, sites=sites_of(found, np.random.default_rng(1).random((48, 4)) < 0.4))
    assert (cert := made.prove()).verdict == "proven"
    assert verify(cert.to_json())[0] == 0


THROUGH = places.through

RULES = {
    "no kernel moves": lambda span, relation, axis, n: places.scaled(span, n),
    "a crop's own cells": lambda span, relation, axis, n: places.moved(
        places.whole(span.cells), [min(2 * p, span.cells - 1) for p in range(n)]
    ),
    "one pixel further": lambda span, relation, axis, n: replace(
        THROUGH(span, relation, axis, n), origin=span.origin + 1
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["unpadded", "padded beyond", "wide pads, stride"])
def test_another_rule_of_masks_is_refuted(rule: str, name: str, monkeypatch) -> None:
    made = on_a_mask(name)
    monkeypatch.setattr("convgraph.scale.sites.places.through", RULES[rule])
    wrong = replace(made, sites=sites_of(made.plan, made.sites.mask.here))
    monkeypatch.undo()
    found = wrong.prove()
    assert found.verdict == "refuted"
    assert "the rule of masks says" in found.faults[0]
    assert verify(found.to_json())[0] == 1


def test_a_site_of_a_tile_that_stands_for_another_pixel_is_refuted() -> None:
    found = claim(on_a_mask("reflect"))
    last = found.operators[-1]

    def moved(part: AxisPart) -> AxisPart:
        return replace(part, stands={**part.stands, last.result: part.stands[last.result] + 1})

    verdict = judge_plan(altered(found, 1, 1, moved))
    assert verdict.faults[0].startswith("part 1 of axis 1: position 3 of '2' (conv2d) stands for")


def test_a_tile_by_memory_fits_and_the_smallest_is_named() -> None:
    net, _ = whole(*networks()["skips"])
    found = plan(net, (1, 2, 4096, 4096))
    small, large = tiling(found, "1 MiB"), tiling(found, "64 MiB")
    assert small.memory <= 2**20 < large.memory <= 2**26
    assert small.tile[0] < large.tile[0]
    with pytest.raises(GeometryError, match="the smallest tile of one output pixel"):
        tiling(plan(net, (1, 2, 256, 256)), "1 KiB")
    with pytest.raises(GeometryError, match="expected memory as a number"):
        tiling(found, "much")
    with pytest.raises(GeometryError, match="a positive integer or 2"):
        tiling(found, 0)


def test_the_memory_of_a_tile_is_what_a_run_holds() -> None:
    net = torch.nn.Conv2d(2, 3, 3, padding=1)
    found = tiling(plan(net, (1, 2, 64, 64)), 64)
    assert found.memory == 4 * 64 * 64 * (2 + 2 + 3)
    assert found.work == 1.0
