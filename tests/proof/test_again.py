"""Records of plans are judged anew from their text, and what was changed in one is found."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.cli import main
from convgraph.errors import ProofError
from convgraph.proof.again import LARGEST, verify
from convgraph.proof.parts import PartsCertificate, verdict_of
from convgraph.proof.plan import PlanCertificate, judge_plan
from convgraph.proof.record.sealed import seal
from convgraph.scale.plan import plan
from convgraph.scale.tiling import claim, tiling
from tests.scale.nets import networks, whole


def made(name: str = "skips", tile: int = 16):
    net, x = whole(*networks()[name])
    return tiling(plan(net, tuple(x.shape)), tile)


@pytest.mark.parametrize("name", networks())
def test_a_plan_is_proven_again_from_its_text(name: str, tmp_path) -> None:
    found = made(name, 5).prove()
    text = found.to_json(tmp_path / "plan.json")
    assert verify(text) == (0, ["the record holds: proven"])
    back = PlanCertificate.from_json((tmp_path / "plan.json").read_text())
    assert str(back) == str(found)
    assert back.to_json() == text


def test_the_command_line_judges_plans_too(tmp_path, capsys) -> None:
    path = tmp_path / "plan.json"
    path.write_text(made().prove().to_json())
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr().out == "verified\n  the record holds: proven\n"
    path.write_text(path.read_text().replace('"edges": ', '"edges": 1'))
    assert main(["verify", str(path)]) == 1
    assert "it was changed after it was written" in capsys.readouterr().out


def test_a_slide_of_eight_gigapixels_is_a_short_record() -> None:
    net, _ = whole(*networks()["3x3"])
    found = tiling(plan(net, (1, 2, 102400, 81920)), 8192).prove()
    text = found.to_json()
    assert len(text) < 2**15
    assert verify(text)[0] == 0


def test_a_refuted_plan_stays_refuted() -> None:
    said = claim(made("3x3", 5))
    last = said.operators[-1]
    parts = list(said.axes[0])
    table = parts[0].reads[last.result].copy()
    table[-1, -1] = -1
    parts[0] = replace(parts[0], reads={**parts[0].reads, last.result: table})
    found = judge_plan(replace(said, axes=(tuple(parts), said.axes[1])))
    assert found.verdict == "refuted"
    code, lines = verify(found.to_json())
    assert (code, lines[0]) == (1, "the record holds: refuted")
    assert "read other positions" in lines[1]


def change(record, path, value) -> None:
    """Put a value into nested lists and dictionaries."""
    for step in path[:-1]:
        record = record[step]
    record[path[-1]] = value(record[path[-1]]) if callable(value) else value


CLAIM = ("claims", 0)
PART = (*CLAIM, "axes", 0, 1)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((*PART, "have", "0"), lambda runs: [[runs[0][0] + 1, runs[0][1]]], "does not hold"),
        ((*PART, "out"), lambda runs: [[runs[0][0], runs[0][1] + 1]], "exactly one part"),
        ((*CLAIM, "operators", 0, "arguments", "stride"), [1, 1], "other positions"),
        ((*CLAIM, "operators", 0, "arguments", "dilation"), [1, 2], "other positions"),
        ((*CLAIM, "heard"), "0" * 64, "other positions"),
        (("edges",), 7, "edges: not as its claims demand"),
        (("operators",), 1, "operators: not as its claims demand"),
        (("parts",), [9, 9], "parts: not as its claims demand"),
        (("size",), [45, 39], "size: not as its claims demand"),
        (("claims",), [], "expected what was judged"),
        (("verdict",), "certain", "field verdict"),
        (("faults",), ["none"], "faults: not as its claims demand"),
        ((*CLAIM, "operators", 0, "name"), "__import__", "no definition"),
        ((*CLAIM, "operators", 0, "out"), [LARGEST, 3], "tables of at most"),
        ((*CLAIM, "size"), [2**60, 3], "expected sizes of 1 to"),
        ((*CLAIM, "out"), "x", "expected a whole number"),
        ((*PART, "have", "0"), [[0, 10**9]], "expected runs in order"),
        ((*PART, "have"), None, "cannot be judged"),
        ((*CLAIM, "operators", 0, "arguments"), [], "expected an operator with arguments"),
        ((*CLAIM, "extra"), 1, "expected a claim with the fields"),
    ],
)
def test_what_was_changed_and_sealed_again_is_found(path, value, said: str) -> None:
    record = json.loads(made().prove().to_json())
    if path[-1] == "extra":
        record["claims"][0]["extra"] = 1
    else:
        change(record, path, value)
    record["digest"] = seal(record)
    code, lines = verify(json.dumps(record))
    assert code == 1
    assert any(said in line for line in lines), lines


@pytest.mark.parametrize(
    ("change_of", "said"),
    [
        ({"array": [2**24, 2**24]}, "as many cells as their maps"),
        ({"array_out": [6, 2**20]}, "as many cells as their maps"),
        ({"kernel": [2**12, 2**12]}, "tables of at most"),
    ],
)
def test_a_record_in_a_space_asks_for_no_more_memory_than_another(change_of, said: str) -> None:
    net, x = whole(torch.nn.Conv2d(2, 2, 3, padding=1), (6, 8))
    record = json.loads(tiling(plan(net, tuple(x.shape), on=cg.Torus()), 4).prove().to_json())
    assert verify(json.dumps(record))[0] == 0
    record["claims"][0]["operators"][0]["arguments"] |= change_of
    record["digest"] = seal(record)
    code, lines = verify(json.dumps(record))
    assert code == 1
    assert any(said in line for line in lines), lines


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10**5, '{"kind": "plan"}', "NaN"])
def test_what_is_no_record_is_refused(text: str) -> None:
    assert verify(text)[0] == 1
    with pytest.raises(ProofError, match="expected the record of a plan"):
        PlanCertificate.from_json(text)


def test_parts_keep_their_plan_and_their_seed() -> None:
    found = verdict_of((2,), made().prove(), (), "", 3, [(10, -120.0)], 5)
    back = PartsCertificate.from_json(found.to_json())
    assert str(back) == str(found)
    assert back.seed == 5
    code, lines = verify(found.to_json())
    assert code == 2
    assert lines[0] == "plan: proven again"
    assert "seed=5" in lines[1]
    record = json.loads(found.to_json())
    record["entries"] = "10"
    record["digest"] = seal(record)
    with pytest.raises(ProofError, match="field entries"):
        PartsCertificate.from_json(json.dumps(record))
    record = json.loads(found.to_json())
    record["plan"]["edges"] += 1
    record["digest"] = seal(record)
    assert verify(json.dumps(record)) == (1, ["edges: not as its claims demand"])


def test_heard_is_the_hash_of_what_parts_read() -> None:
    found = claim(made("3x3", 5))
    other = replace(found, axes=(found.axes[0][::-1], found.axes[1]))
    one, two = judge_plan(found), judge_plan(other)
    assert (one.verdict, two.verdict) == ("proven", "proven")
    assert one.claims[0]["heard"] != two.claims[0]["heard"]
    assert np.array_equal(one.claims[0]["size"], two.claims[0]["size"])
