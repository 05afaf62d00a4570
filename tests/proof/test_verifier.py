"""The verifier: what holds is found again, and a record tampered with in any field is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.comparison.named import ADAPTERS, certify, replay
from convgraph.errors import ProofError
from convgraph.proof import Certificate, ConvSpec, Oracle, verifier
from convgraph.proof.record.certificate import digest
from convgraph.proof.verifier import resolve
from tests import odd_twins, twins

FILE = Path(str(verifier.__file__))
TRUSTED = [*ADAPTERS, "tests.twins", "tests.odd_twins", "no_such_module"]


def verify(text: str) -> tuple[int, list[str]]:
    """Verify as somebody who knows the tests' own layers."""
    return verifier.verify(text, trust=TRUSTED)


@pytest.fixture(scope="module")
def proven() -> Certificate:
    return certify("tests.twins:graph", "tests.twins:dense", size=(6, 5), seed=2**127 + 9)


@pytest.fixture(scope="module")
def refuted() -> Certificate:
    return certify("tests.twins:scaled", "tests.twins:dense", size=(6, 5), seed=3)


@pytest.fixture(scope="module")
def network() -> Certificate:
    return certify(None, "tests.twins:network", size=(9, 8), seed=11)


@pytest.fixture(scope="module")
def linear() -> Certificate:
    return certify("tests.twins:graph_pool", "tests.twins:pool", size=(6, 5), seed=12)


def forged(found: Certificate, field: str, value: Any, *, sealed: bool) -> str:
    """Return the record with one field changed; sealed: by somebody who knows how digests go."""
    record = json.loads(found.to_json())
    record[field] = value
    if sealed and field != "digest":
        record["digest"] = digest(record)
    return json.dumps(record, indent=2)


def part(found: Certificate, name: str, **change: str) -> list[dict[str, str]]:
    parts = json.loads(found.to_json())["parts"]
    return [{**one, **change} if one["name"] == name else one for one in parts]


FORGERIES: dict[str, list[Callable[[Certificate], Any]]] = {
    "schema": [lambda c: 1],
    "name": [lambda c: "the best layer"],
    "verdict": [lambda c: "refuted", lambda c: "undecided"],
    "reason": [lambda c: "because"],
    "parts": [
        lambda c: part(c, "S2 identity", status="undecided"),
        lambda c: [p for p in json.loads(c.to_json())["parts"] if p["name"] != "S3 rounding"],
        lambda c: json.loads(c.to_json())["parts"] * 2,
    ],
    "spec": [
        lambda c: {**c.spec, "stride": [2, 2]},
        lambda c: {**c.spec, "size": [7, 5]},
        lambda c: {**c.spec, "batch": 3},
        lambda c: {**c.spec, "in_channels": 6},
        lambda c: {**c.spec, "padding_mode": "reflect"},
        lambda c: {**c.spec, "dilation": [2, 1]},
        lambda c: {**c.spec, "bias": False},
        lambda c: {**c.spec, "transposed": True},
    ],
    "dtype": [lambda c: "float64", lambda c: "bfloat16", lambda c: "int8"],
    "device": [lambda c: "cuda:7 (a card)", lambda c: "nowhere"],
    "seed": [lambda c: c.seed + 1],
    "a": [lambda c: c.a + 1],
    "trials": [lambda c: c.trials + 1],
    "log2_epsilon": [lambda c: c.log2_epsilon - 1],
    "epsilon": [lambda c: c.epsilon**2],
    "rho": [lambda c: {k: v / 2 for k, v in c.rho.items()}, lambda c: {}],
    "counterexample": [lambda c: {"side": "candidate"}],
    "versions": [lambda c: {**c.versions, "torch": "1.0"}, lambda c: {}],
    "flags": [lambda c: {**c.flags, "tf32": "on"}, lambda c: {**c.flags, "cpu": "a faster one"}],
    "assumed": [lambda c: [], lambda c: list(c.assumed[:1])],
    "not_covered": [lambda c: list(c.not_covered[1:])],
    "kind": [lambda c: "linear", lambda c: "network"],
    "candidate": [lambda c: "tests.twins:scaled", lambda c: "tests.twins:nobody"],
    "reference": [lambda c: "tests.twins:strided"],
    "adapter": [lambda c: {**c.adapter, "candidate": "function"}],
    "cause": [lambda c: "the kernel is flipped"],
    "trace": [lambda c: ""],  # then vendors' kernels are not all that is assumed
    "excluded": [lambda c: ["negative inputs"]],
    "layers": [lambda c: [json.loads(c.to_json())]],
    "digest": [lambda c: "0" * 64],
}

REPLAYED: dict[str, Callable[[Certificate], Any]] = {
    "trace": lambda c: "0" * 64,
    "rho_exact": lambda c: {k: v / 2 for k, v in c.rho_exact.items()},
    "parts": lambda c: part(c, "S0 structure", facts="9999 typed edges, every one"),
}
"""What the verifier leaves to the prover, which must come to the same record again."""


def test_every_field_is_tried(proven: Certificate) -> None:
    every = {entry.name for entry in fields(Certificate)}
    assert FORGERIES.keys() | REPLAYED.keys() == every == {*verifier.FIELDS.split()}


def test_what_holds_is_found_again(proven: Certificate, refuted: Certificate) -> None:
    assert verify(proven.to_json()) == (0, ["the record holds: proven"])
    assert replay(proven) == []
    assert verify(refuted.to_json()) == (1, ["the record holds: refuted"])


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    ("field", "number"),
    [(field, n) for field, list_ in FORGERIES.items() for n in range(len(list_))],
)
def test_a_record_tampered_with_is_refused(
    field: str, number: int, sealed: bool, proven: Certificate
) -> None:
    code, lines = verify(forged(proven, field, FORGERIES[field][number](proven), sealed=sealed))
    assert code in (1, 2)
    told = field if sealed or field == "schema" else "digest"  # what is not sealed is not run
    assert any(told in line for line in lines), lines


@pytest.mark.parametrize("field", REPLAYED)
def test_what_the_verifier_leaves_alone_the_prover_finds(field: str, proven: Certificate) -> None:
    text = forged(proven, field, REPLAYED[field](proven), sealed=True)
    assert replay(Certificate.from_json(text)) == [field]


@pytest.mark.parametrize("field", ["found", "expected", "index", "quantity", "side", "trial"])
def test_a_counterexample_must_be_one(field: str, refuted: Certificate) -> None:
    other: dict[str, Any] = {"found": 1.0, "expected": 2.0, "index": [0, 0, 0, 1]}
    other |= {"quantity": "grad_w", "side": "reference", "trial": 1}
    shown = {**refuted.counterexample, field: other[field]}
    code, lines = verify(forged(refuted, "counterexample", shown, sealed=True))
    assert code == 1
    assert lines != ["the record holds: refuted"]


LINEAR: dict[str, list[Callable[[Certificate], Any]]] = {
    "spec": [
        lambda c: {**c.spec, "terms": 2 * c.spec["terms"]},
        lambda c: {**c.spec, "scale": 8},
        lambda c: {**c.spec, "scale": 2},
        lambda c: {**c.spec, "scale": 0},
        lambda c: {**c.spec, "out": [2, 4, 4, 4]},
        lambda c: {**c.spec, "shape": [2, 4, 8, 5]},
    ],
    "name": [lambda c: "a better pool"],
    "candidate": [lambda c: "tests.twins:twice_pool"],
    "reference": [lambda c: "tests.twins:twice_pool"],
    "adapter": [lambda c: {**c.adapter, "candidate": "convgraph.comparison.callers:nodes"}],
    "a": [lambda c: c.a - 1],
    "trials": [lambda c: c.trials + 1],
    "epsilon": [lambda c: c.epsilon**2],
    "kind": [lambda c: "convolution", lambda c: "network"],
    "parts": [lambda c: part(c, "S2 identity", status="not asked")],
    "dtype": [lambda c: "float64"],
}


@pytest.mark.parametrize(
    ("field", "number"), [(field, n) for field, list_ in LINEAR.items() for n in range(len(list_))]
)
def test_a_linear_record_is_run_again_or_refused(
    field: str, number: int, linear: Certificate
) -> None:
    assert linear.verdict == "proven"
    assert verify(linear.to_json()) == (0, ["the record holds: proven"])
    assert replay(linear) == []
    code, lines = verify(forged(linear, field, LINEAR[field][number](linear), sealed=True))
    assert code == 1
    assert any(field in line for line in lines), lines


def test_what_was_asked_in_another_way_is_asked_so_again() -> None:
    """Channels, scale, premise, basis and spec are the record's, and not what is usual."""
    conv, spec = ("torch:conv2d",) * 2, ConvSpec(1, 1, (2, 2), (3, 3))
    small = {"premise": False, "identity": "probabilistic"}
    pools = "tests.twins:graph_pool", "tests.twins:pool"
    for found in (
        certify(*conv, spec=spec, **small),
        certify(*pools, images=torch.ones(2, 1, 6, 5), scale=8, seed=1),
    ):
        assert found.verdict == "proven", str(found)
        assert verify(found.to_json()) == (0, ["the record holds: proven"])
        assert replay(found) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_record_of_a_maximum_is_run_again_or_refused(dtype: torch.dtype) -> None:
    """Of a half type its integers are such as float32 holds, and no others."""
    how: dict[str, Any] = {"size": (5, 4), "seed": 5, "dtype": dtype}
    found = certify("tests.twins:graph_max_pool", "tests.twins:max_pool", **how)
    assert (found.verdict, found.kind) == ("proven", "maximum"), str(found)
    assert verify(found.to_json()) == (0, ["the record holds: proven"])
    assert replay(found) == []
    forgeries: dict[str, Any] = {
        "candidate": "tests.twins:other_max_pool",
        "kind": "linear",
        "parts": part(found, "S1 premise", status="not asked"),
        "a": found.a - 1,
        "dtype": "float64",
    }
    for field, value in forgeries.items():
        code, lines = verify(forged(found, field, value, sealed=True))
        assert code == 1
        assert any(field in line for line in lines), lines
    wrong = certify("tests.twins:other_max_pool", "tests.twins:max_pool", **how)
    assert wrong.verdict == "refuted"
    assert verify(wrong.to_json()) == (1, ["the record holds: refuted"])


@pytest.mark.parametrize("less", [{"terms": 1}, {"scale": 2}])
def test_a_linear_record_may_not_promise_less_than_there_is(
    less: dict[str, int], linear: Certificate
) -> None:
    """Whoever also works a, r and epsilon out again learns that sums do not stay exact."""
    record = json.loads(linear.to_json())
    record["spec"] |= less
    record["trace"], record["assumed"] = "", [*record["assumed"], verifier.ASSUMED]
    record["a"] = min(2**24 // (record["spec"]["terms"] * record["spec"]["scale"]), 2**31 - 1)
    loss = np.log2((2 * record["a"] + 1) / 2)
    record["trials"] = int(np.ceil(100 / loss))
    record["log2_epsilon"] = record["trials"] * float(np.log2(2 / (2 * record["a"] + 1)))
    record["digest"] = digest(record)
    code, lines = verify(json.dumps(record, indent=2))
    assert code == 1
    assert any(line.startswith("spec: more terms") for line in lines), lines


def test_a_linear_refutation_is_found_again() -> None:
    found = certify("tests.twins:twice_pool", "tests.twins:pool", size=(6, 5))
    assert found.verdict == "refuted"
    assert verify(found.to_json()) == (1, ["the record holds: refuted"])
    other = {**found.counterexample, "found": 3.0}
    assert verify(forged(found, "counterexample", other, sealed=True))[1][0].startswith("verdict")


ODD = [
    *(("convolution", f"frozen {some}") for some in odd_twins.SETS),
    *(("convolution", manner) for manner in odd_twins.WRONG),
    *((kind, "frozen x") for kind in ("linear", "maximum")),
    *(("linear", manner) for manner in odd_twins.WRONG if manner != "inner, rounding"),
    *(("maximum", manner) for manner in odd_twins.WRONG if "ing" not in manner),
]


@pytest.mark.parametrize(("kind", "wrong"), ODD)
def test_what_one_manner_alone_shows_is_found_again_under_its_name(kind: str, wrong: str) -> None:
    found = certify(
        f"tests.odd_twins:{kind} {wrong}", odd_twins.REFERENCES[kind], size=(6, 5), seed=3
    )
    shown = json.loads(found.to_json())["counterexample"]
    manner = wrong if wrong.startswith("frozen") else wrong.partition(",")[0]
    assert (found.verdict, found.kind, shown["manner"]) == ("refuted", kind, manner), str(found)
    assert verify(found.to_json()) == (1, ["the record holds: refuted"])
    for other in {"plain", "again", "between", "frozen x", "frozen x, w", "own"} - {manner}:
        text = forged(found, "counterexample", {**shown, "manner": other}, sealed=True)
        code, lines = verify(text)
        assert (code, lines[0].split(",")[0]) in ((1, "verdict"), (1, "record: cannot be run"))


def test_gradients_of_a_maximum_are_found_wrong_beside_equal_numbers() -> None:
    """So many pixels that some draw one number."""
    how: dict[str, Any] = {"size": (64, 64), "batch": 3, "seed": 3}
    found = certify("tests.odd_twins:maximum between", "tests.twins:max_pool", **how)
    assert found.counterexample["quantity"] == "grad_x"
    assert verify(found.to_json()) == (1, ["the record holds: refuted"])


@pytest.mark.parametrize(("name", "verdict"), [("renamed", "proven"), ("inferring", "refuted")])
def test_layers_hold_of_a_network_with_other_names_or_wrong_in_one_manner(
    name: str, verdict: str
) -> None:
    found = certify(f"tests.twins:{name}", "tests.twins:network", size=(9, 8), seed=11)
    assert (found.verdict, "names" in found.spec) == (verdict, name == "renamed"), found.reason
    code, lines = verify(found.to_json())
    assert (code, lines[0].partition(":")[0]) == (2, "kind")
    assert lines[1:] == [f"layers: {k}: the record holds: proven" for k in ("0", "2", "fc")]
    for other in {"proven", "refuted", "undecided"} - {verdict}:
        assert verify(forged(found, "verdict", other, sealed=True))[0] == 1


def test_a_network_is_verified_layer_by_layer(network: Certificate) -> None:
    assert network.verdict == "proven", network.reason
    code, lines = verify(network.to_json())
    assert code == 2
    assert lines[0].startswith("kind: network is recorded; here only its layers can be run again")
    assert lines[1:] == [f"layers: {k}: the record holds: proven" for k in ("0", "2", "fc")]
    assert [layer.candidate for layer in network.layers] == [
        *["convgraph:to_graph(tests.twins:network)"] * 2, "torch:addmm",
    ]  # fmt: skip


def _within(found: Certificate, number: int, **change: Any) -> list[dict[str, Any]]:
    """The layers of a record, one of them changed and sealed."""
    layers = json.loads(found.to_json())["layers"]
    layers[number] |= change
    layers[number]["digest"] = digest(layers[number])
    return layers  # type: ignore[no-any-return]


NETWORK: dict[str, list[Callable[[Certificate], Any]]] = {
    "layers": [
        lambda c: [],
        lambda c: json.loads(c.to_json())["layers"][:2],
        lambda c: json.loads(c.to_json())["layers"][::-1],
        lambda c: _within(c, 0, a=1),
        lambda c: _within(c, 0, epsilon=2.0**-50),
        lambda c: _within(c, 1, candidate="tests.twins:graph"),
        lambda c: _within(c, 1, spec={**c.layers[1].spec, "groups": 1}),
        lambda c: _within(c, 2, reference="torch:mm"),
        lambda c: _within(c, 2, rho={**c.layers[2].rho, "y": 0.5}),
        lambda c: _within(c, 0, verdict="undecided", reason=""),
    ],
    "spec": [
        lambda c: {**c.spec, "paths": ["0", "2"]},
        lambda c: {**c.spec, "paths": ["2", "0", "fc"]},
        lambda c: {**c.spec, "layers": 4},
        lambda c: {k: v for k, v in c.spec.items() if k != "images"},
    ],
    "verdict": [lambda c: "refuted", lambda c: "undecided"],
    "reason": [lambda c: "because"],
    "parts": [lambda c: part(c, "wiring", status="refuted")],
    "epsilon": [lambda c: c.epsilon / 2],
    "log2_epsilon": [lambda c: 2 * c.log2_epsilon],
    "assumed": [lambda c: list(c.assumed[:3])],
    "not_covered": [lambda c: []],
    "kind": [lambda c: "convolution", lambda c: "linear"],
    "digest": [lambda c: "0" * 64],
}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    ("field", "number"),
    [(field, n) for field, list_ in NETWORK.items() for n in range(len(list_))],
)
def test_a_network_tampered_with_is_refused(
    field: str, number: int, sealed: bool, network: Certificate
) -> None:
    code, lines = verify(forged(network, field, NETWORK[field][number](network), sealed=sealed))
    assert code == 1, lines


def test_a_refuted_layer_of_a_network_is_found_again(
    network: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It decides nothing of the wiring, and it is no forgery."""
    forward = cg.nn.GraphConv2d.forward
    monkeypatch.setattr(
        cg.nn.GraphConv2d, "forward", lambda self, graph, *a: graph_twice(forward(self, graph, *a))
    )
    found = certify(None, "tests.twins:network", size=(9, 8), seed=11)
    assert found.verdict == "refuted"
    code, lines = verify(found.to_json())
    assert (code, lines[1]) == (2, "layers: 0: the record holds: refuted")
    monkeypatch.undo()
    code, lines = verify(found.to_json())
    assert code == 1
    assert any(line.startswith("layers: 0: verdict, counterexample: not found") for line in lines)
    monkeypatch.setattr(
        cg.nn.GraphConv2d, "forward", lambda self, graph, *a: graph_twice(forward(self, graph, *a))
    )
    assert verify(network.to_json())[0] == 1


def graph_twice(found: cg.PixelGraph) -> cg.PixelGraph:
    return found.with_x(2 * found.x)


def test_fields_are_neither_more_nor_fewer(proven: Certificate) -> None:
    record = json.loads(proven.to_json())
    for name in record:
        short = {key: value for key, value in record.items() if key != name}
        assert verify(json.dumps(short, indent=2))[0] == 1
        assert name in verify(json.dumps(short, indent=2))[1][0]
    assert "colour" in verify(json.dumps({**record, "colour": "red"}, indent=2))[1][0]
    twice = proven.to_json().replace('"seed":', '"seed": 1,\n  "seed":')
    assert verify(twice)[0] == 1
    assert verify("no JSON")[0] == verify("[]")[0] == 1


def test_what_cannot_be_imported_is_not_decided(proven: Certificate) -> None:
    code, lines = verify(forged(proven, "candidate", "no_such_module:layer", sealed=True))
    assert code == 2
    assert "no_such_module" in lines[0]
    assert resolve("torch.nn:ReLU", ["torch.nn"]).__class__ is torch.nn.ReLU


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_and_masks(dtype: torch.dtype) -> None:
    mask = torch.rand(2, 6, 5) > 0.4
    found = certify("tests.twins:graph", "tests.twins:dense", size=(6, 5), mask=mask, dtype=dtype)
    assert found.verdict == "proven", str(found)
    assert verify(found.to_json())[0] == 0, verify(found.to_json())
    named = certify("tests.twins:graph", "tests.twins:dense", size=(6, 5), mask=mask, sites=~mask)
    assert verify(named.to_json())[0] == 0, verify(named.to_json())


def test_a_fault_that_a_record_denies_is_found(
    proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = proven.to_json()
    for fault in (lambda y: y * 1.000001, lambda y: y.detach(), lambda y: y.roll(1, 0)):
        monkeypatch.setattr(twins, "spoil", fault)
        broken = text.replace("tests.twins:graph", "tests.twins:Spoiled")
        record = {**json.loads(broken), "name": repr(twins.Spoiled())}
        record["digest"] = digest(record)
        code, lines = verify(json.dumps(record, indent=2))
        assert code == 1
        assert "verdict" in lines[-1] or "rho" in lines[-1]


def _whole(y: torch.Tensor) -> bool:
    """Whether these are the integers of a trial, or multiples of its powers of two."""
    return bool((y * 2**14 == (y * 2**14).round()).all())


@pytest.mark.parametrize("by", [1.01, float("nan")])
def test_real_numbers_out_of_bounds_are_found_whatever_the_record_says(
    by: float, proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right on integers alone; and words that blame the reference excuse nobody."""
    monkeypatch.setattr(twins, "spoil", lambda y: y if _whole(y) else y * by)
    text = forged(proven, "candidate", "tests.twins:Spoiled", sealed=True)
    record = {
        **json.loads(text),
        "name": repr(twins.Spoiled()),
        "rho": dict.fromkeys(proven.rho, 0.0),
    }
    record["parts"] = part(
        proven, "S3 rounding", facts="the reference's own y is 2 times its bound"
    )
    record["digest"] = digest(record)
    code, lines = verify(json.dumps(record, indent=2))
    assert code == 1
    assert lines[0].startswith("rho: y leaves its bound")


def _budgeted(record: dict[str, Any], a: int) -> str:
    """The record with figures of its draws that fit, by somebody who knows how these go."""
    record["a"], record["trials"] = a, max(1, int(np.ceil(100 / np.log2((2 * a + 1) / 2))))
    record["log2_epsilon"] = record["trials"] * float(np.log2(2 / (2 * a + 1)))
    record["digest"] = digest(record)
    return json.dumps(record, indent=2)


def test_draws_of_zero_alone_show_nothing(linear: Certificate) -> None:
    """So many terms that no integer is left: every operator is 0 there."""
    record = json.loads(linear.to_json())
    record |= {"candidate": "tests.twins:twice_pool", "name": repr(twins.twice_pool())}
    record["spec"]["terms"] = 2**53
    code, lines = verify(_budgeted(record, 0))
    assert (code, lines) == (1, ["spec, a: no integers are left to draw"])


def test_a_comparison_of_nothing_is_none(proven: Certificate) -> None:
    """Step 10: where nobody speaks, or nobody is, both sides are equal."""
    nobody = np.zeros((2, 6, 5), dtype=bool).tolist()
    for change in ({"source_mask": nobody, "target_mask": nobody}, {"batch": 0}):
        record = json.loads(proven.to_json())
        record["spec"] |= change
        code, lines = verify(_budgeted(record, min(4096, record["a"])))
        assert code == 1
        assert "nothing to compare" in lines[-1] or "cannot be run" in lines[-1], lines


def _refuting(certificate: Certificate, name: str, **shown: Any) -> tuple[int, list[str]]:
    """What becomes of a record that holds, if one of its parts is said to refute."""
    record = json.loads(certificate.to_json())
    record["parts"] = part(certificate, name, status="refuted", facts="it differs")
    record |= {"verdict": "refuted", "reason": "it differs", "counterexample": shown}
    record["assumed"].append(verifier.ASSUMED)  # for where S1 refutes
    record["digest"] = digest(record)
    return verify(json.dumps(record, indent=2))


def test_a_refutation_is_not_taken_on_trust(proven: Certificate) -> None:
    alone = "the prover alone can run it"
    shown = {"side": "candidate", "quantity": "y", "trial": 0, "index": [0, 0, 0, 0]}
    code, lines = _refuting(proven, "S2 identity", **shown, found=1.0, expected=2.0)
    assert (code, lines[0][:23]) == (1, "verdict, counterexample")
    assert _refuting(proven, "S2 identity")[0] == 1  # of which nothing is shown
    for beyond in ({"manner": "own"}, {"quantity": "double_x"}):
        assert _refuting(proven, "S2 identity", **beyond) == (2, [f"parts: S2 identity: {alone}"])
    assert _refuting(proven, "S1 premise") == (2, [f"parts: S1 premise: {alone}"])


def test_a_reason_is_what_a_part_says(refuted: Certificate) -> None:
    code, lines = verify(forged(refuted, "reason", "bad luck", sealed=True))
    assert (code, lines) == (1, ["reason: not as the rest demands"])


def test_what_was_not_asked_is_no_verdict(proven: Certificate) -> None:
    record = json.loads(proven.to_json())
    record["parts"] = [{**one, "status": "not asked"} for one in record["parts"]]
    record |= {"verdict": "not asked", "reason": record["parts"][0]["facts"]}
    record["assumed"].append(verifier.ASSUMED)
    record["digest"] = digest(record)
    code, lines = verify(json.dumps(record, indent=2))
    assert (code, lines) == (1, ["verdict: not as the rest demands"])


def test_a_card_that_is_not_here_is_no_lie(
    proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with fewer cards than the record's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: ["a card"][where.index])
    code, lines = verify(forged(proven, "device", "cuda:7 (a card)", sealed=True))
    assert code == 2
    assert lines[0].startswith("device")


SPECS = [
    ConvSpec(2, 4, (3, 2), (5, 6), padding=((1, 2), (0, 1)),
             stride=(2, 1), dilation=(1, 2), groups=2),
    *(ConvSpec(2, 2, (3,), (5,), padding=((1, 2),), padding_mode=mode)
      for mode in ("reflect", "replicate", "circular")),
    ConvSpec(4, 2, (3, 2), (4, 3), padding=((1, 1), (0, 0)), stride=(2, 3), transposed=True,
             output_padding=(1, 2), groups=2, bias=False),
    ConvSpec(1, 2, (2, 2, 1), (3, 2, 2), dilation=(2, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_its_truth_is_the_oracles(spec: ConvSpec) -> None:
    """Two truths, written apart, against each other and every gradient of both."""
    oracle, (truth, shapes) = (
        Oracle(spec),
        verifier.convolution(json.loads(json.dumps(spec.to_dict()))),
    )
    rng = np.random.default_rng(5)
    x, w, *bias, g = (rng.integers(-9, 10, shape).astype(float) for shape in shapes)
    found = verifier.evaluate(truth, [x, w, *bias, g], torch.float64)
    assert len(bias) == spec.bias
    assert np.array_equal(found["y"], oracle.convolve(x, w, *bias))
    assert np.array_equal(found["grad_x"], oracle.grad_x(w, g))
    assert np.array_equal(found["grad_w"], oracle.grad_w(x, g))
    assert spec.bias is False or np.array_equal(found["grad_b"], oracle.grad_b(g))


def test_it_is_short_and_borrows_nothing() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 596
    assert "convgraph" not in text
    beside = FILE.with_name("verifier_operators.py").read_text(encoding="utf-8")
    assert len(beside.splitlines()) < 93
    assert "convgraph" not in beside


def test_operators_without_parameters_need_the_file_beside(
    linear: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify(linear.to_json())[0] == 0
    verifier.beside.cache_clear()
    monkeypatch.setattr(verifier, "__file__", str(tmp_path / "verifier.py"))
    code, lines = verify(linear.to_json())
    assert (code, len(lines)) == (2, 1)
    assert "such a record needs verifier_operators.py beside this file" in lines[0]


def test_a_copy_of_the_file_alone_will_do(tmp_path: Path) -> None:
    """Two plain functions and a record, in a folder where no convgraph can be imported."""
    found = certify("tests.twins:graph", "tests.twins:dense", size=(6, 5))
    record = {**json.loads(found.to_json()), "candidate": "plain:conv", "reference": "plain:conv"}
    record |= {"adapter": {"candidate": "function", "reference": "function"}, "name": "plain:conv"}
    record["rho"] = dict.fromkeys(record["rho"], 0.0)  # one function, twice
    record["digest"] = digest(record)
    (tmp_path / "plain.py").write_text(
        "import torch\n\ndef conv(x, w, b):\n    return torch.nn.functional.conv2d(x, w, b, 1, 1)\n"
    )
    (tmp_path / "convgraph.py").write_text("raise RuntimeError('borrowed')\n")
    (tmp_path / "certificate.json").write_text(json.dumps(record, indent=2))
    shutil.copy(FILE, tmp_path)
    run = subprocess.run(
        [sys.executable, "verifier.py", "certificate.json", "--trust", "plain"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "borrowed" not in run.stderr
    assert (run.returncode, run.stdout) == (0, "the record holds: proven\n"), run.stderr


# What a record may not do


NAMES = [
    "shutil:rmtree(os:curdir)",
    "os:getcwd",
    "convgraph:to_graph(os:curdir)",
    "tests.twins:dense",
    "convgraph:Sites",
    "torch.hub:list",
    "",
    ":",
    "mynets:",
    "(((",
    "antigravity:x",
    "torch:load",
    "somewhere:mm",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["candidate", "reference"])
def test_a_record_imports_and_calls_nothing_that_was_not_asked_for(
    name: str, field: str, proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []
    monkeypatch.setattr(verifier.importlib, "import_module", imported.append)
    code, lines = verifier.verify(forged(proven, field, name, sealed=True), trust=ADAPTERS)
    assert code == 2
    assert "not run" in lines[-1]
    assert imported == []


@pytest.mark.parametrize(
    "name",
    ["shutil:rmtree", "os:curdir", "os.path:join", "tests.twins:torch.hub.list",
     "tests.twins:Tensor", "tests.odd_twins:Counted", "importlib.util:find_spec"],
)  # fmt: skip
def test_trust_does_not_reach_beyond_the_module(name: str) -> None:
    with pytest.raises(ImportError, match=r"no standard module|no function of"):
        resolve(name, ["shutil", "os", "importlib", "tests.twins", "tests.odd_twins"])


def test_trust_is_of_a_module_and_of_those_within() -> None:
    assert isinstance(resolve("tests.twins:dense", ["tests"]), torch.nn.Conv2d)
    with pytest.raises(ImportError, match="not trusted"):
        resolve("tests.twins:dense", ["tests.tw"])


@pytest.mark.parametrize(
    "name",
    [
        "tests.twins:Spoiled(tests.twins:dense)",
        "shutil:rmtree(x:y)",
        "torch:neg(tests.twins:dense)",
    ],
)
def test_only_what_is_trusted_by_name_is_called_with_something(name: str) -> None:
    with pytest.raises(ImportError, match=r"not trusted|no standard module"):
        resolve(name, ["tests.twins", "shutil"])


def test_nothing_is_run_without_trust_and_the_way_out_is_told(proven: Certificate) -> None:
    code, lines = verifier.verify(proven.to_json())
    assert code == 2
    assert "--trust tests.twins runs its code" in lines[-1]


MOST = "at most 268435456 numbers at once, 1024 threads"
GREEDY = [
    ("flags", lambda c: {**c.flags, "threads": "100000"}),
    ("flags", lambda c: {**c.flags, "threads": "-5"}),
    ("spec", lambda c: {**c.spec, "size": [40000, 40000]}),
    ("spec", lambda c: {**c.spec, "batch": 10**9}),
    ("spec", lambda c: {**c.spec, "kernel_size": [10**9, 1]}),
    ("spec", lambda c: {**c.spec, "out_channels": 10**9}),
    ("spec", lambda c: {**c.spec, "batch": -2}),
    ("spec", lambda c: {**c.spec, "in_channels": 10**4, "out_channels": 10**4}),  # weights alone
    ("spec", lambda c: {**c.spec, "in_channels": 10**6, "out_channels": 1, "size": [40, 40]}),
    ("spec", lambda c: {**c.spec, "kernel_size": [200, 200]}),  # edges alone
    ("spec", lambda c: {**c.spec, "padding": [[10**6, 10**6], [10**6, 10**6]]}),
]


@pytest.mark.parametrize("number", range(len(GREEDY)))
def test_a_record_that_asks_for_too_much_is_refused_before_it_gets_it(
    number: int, proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "again", lambda *_: pytest.fail("it was run"))
    monkeypatch.setattr(verifier, "elsewhere", lambda record: [])
    field, change = GREEDY[number]
    code, lines = verify(forged(proven, field, change(proven), sealed=True))
    assert code == 1
    assert lines == [f"spec, flags, {MOST}: not as the rest demands"]


DEEP = ["[" * 200_000, '{"a":' * 50_000, "9" * 5000, '{"a": NaN}', "[1]", "null", "\ud800"]


@pytest.mark.parametrize("text", DEEP, ids=lambda text: text[:6])
def test_a_text_that_is_no_record_is_a_proof_error(text: str) -> None:
    with pytest.raises(ProofError, match="expected the JSON of a certificate"):
        Certificate.from_json(text)
    assert verify(text)[0] == 1
