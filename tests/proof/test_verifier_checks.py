"""Each check of the verifier by itself, shown by what only this one refuses."""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from convgraph.cli import main
from convgraph.comparison import named
from convgraph.comparison.named import ADAPTERS, certify
from convgraph.proof import Certificate, verifier
from convgraph.proof.layer.trial import manners_of
from convgraph.proof.record.certificate import digest
from convgraph.proof.verifier import NOT_COVERED, Refused, Truth, evaluate, identity, rounding
from convgraph.proof.verifier_operators import checked
from tests import odd_twins

SIDES = ("candidate", "reference")


@pytest.fixture(scope="module")
def proven() -> Certificate:
    return certify("tests.twins:graph", "tests.twins:dense", size=(6, 5), seed=7)


def sealed(found: Certificate, **change: Any) -> str:
    record = {**json.loads(found.to_json()), **change}
    record["digest"] = digest(record)
    return json.dumps(record, indent=2)


def verify(found: Certificate, **change: Any) -> tuple[int, list[str]]:
    """What becomes of a record that somebody changed who knows how digests go."""
    return verifier.verify(
        sealed(found, **change), trust=[*ADAPTERS, "tests.twins", "tests.odd_twins"]
    )


def refused(check: Callable[..., object], *what: Any) -> list[str]:
    """What a check says when it refuses; nothing where it does not."""
    try:
        check(*what)
    except Refused as error:
        return [*error.args]
    return []


def form(found: Certificate, **change: Any) -> list[str]:
    text = sealed(found, **change)
    return refused(verifier.form, json.loads(text), text)


# form


def test_a_reason_is_a_part_of_the_verdict_itself() -> None:
    refuted = certify("tests.twins:scaled", "tests.twins:dense", size=(6, 5), seed=3)
    other = next(part.facts for part in refuted.parts if part.status == "proven")
    assert form(refuted, reason=other) == ["reason: not as the rest demands"]


def test_nothing_beside_what_is_never_covered_has_to_be_named(proven: Certificate) -> None:
    assert form(proven, not_covered=[*NOT_COVERED]) == []


def test_as_much_as_there_may_be_is_not_too_much(
    proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert form(proven, flags={**proven.flags, "threads": "1024"}) == []
    assert form(proven, flags={**proven.flags, "threads": "1025"}) != []
    assert form(proven, flags={**proven.flags, "threads": "0"}) != []
    large = 2 * 7 * (6 + 3 + 2) * (5 + 3 + 2)  # images, channels, pixels and whatever reaches them
    taps = 2 * (6 + 3 + 2) * (5 + 3 + 2) * 9
    monkeypatch.setattr(verifier, "LIMIT", max(large, taps))
    assert form(proven) == []
    monkeypatch.setattr(verifier, "LIMIT", max(large, taps) - 1)
    assert len(form(proven)) == 1


def test_negative_inputs_may_be_left_out_of_a_network_alone(proven: Certificate) -> None:
    assert form(proven, excluded=["negative inputs"]) == ["excluded: not as the rest demands"]
    network = {"kind": "network", "spec": {"images": []}, "excluded": ["negative inputs"]}
    assert form(proven, **network) == []


def test_layers_are_of_networks_alone_and_numbers_real(proven: Certificate) -> None:
    """Nobody would look at the layers, or at imaginary parts."""
    layers = [json.loads(proven.to_json())]
    told = form(proven, layers=layers, spec={**proven.spec, "layers": 1})
    assert told == ["layers: not as the rest demands"]
    assert form(proven, dtype="complex128") == ["dtype: not as the rest demands"]
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        assert form(proven, dtype=dtype) == []


def test_what_nobody_could_decide_is_not_run(proven: Certificate) -> None:
    found = certify("tests.twins:raising", "tests.twins:dense", size=(6, 5))
    assert found.verdict == "undecided"
    assert verify(found) == (2, ["the record holds: undecided"])


def test_whoever_stops_it_stops_it(proven: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(record: Any, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verifier, "form", stop)
    with pytest.raises(KeyboardInterrupt):
        verify(proven)


# figures


def test_no_trial_shows_nothing(proven: Certificate) -> None:
    code, lines = verify(proven, epsilon=1.0, trials=0, log2_epsilon=0.0)
    assert code == 1
    assert any(line.startswith("trials") for line in lines), lines


def test_smaller_draws_are_for_whom_the_premise_asked(proven: Certificate) -> None:
    def figures(a: int) -> dict[str, Any]:
        trials = int(np.ceil(100 / np.log2((2 * a + 1) / 2)))
        return {"a": a, "trials": trials, "log2_epsilon": trials * float(np.log2(2 / (2 * a + 1)))}

    assert verify(proven, **figures(proven.a - 1))[0] == 0
    code, lines = verify(proven, **figures(proven.a + 1))  # nobody may ask for larger ones
    assert code == 1
    assert lines[0].startswith("a: ")
    assumed = [*proven.assumed, verifier.ASSUMED]
    code, lines = verify(proven, trace="", assumed=assumed, **figures(proven.a - 1))
    assert code == 1
    assert lines[0].startswith("a: ")


def test_draws_are_no_larger_than_their_generator() -> None:
    a = 2**31 - 1
    figures = {"a": a, "trials": 4, "log2_epsilon": 4 * float(np.log2(2 / (2 * a + 1)))}
    assert verifier.budget({**figures, "epsilon": 2.0**-100, "name": ""}, 2**40, "") == 4


@pytest.mark.parametrize("name", ["y", "grad_x"])
def test_rho_is_held_to_the_last_digits(name: str, proven: Certificate) -> None:
    assert proven.rho[name] > 0
    for by in (1 + 1e-12, 1 - 1e-12):
        code, lines = verify(proven, rho={**proven.rho, name: proven.rho[name] * by})
        assert code == 1
        assert lines[0].startswith(f"rho: {name}")


def test_edges_are_counted(proven: Certificate) -> None:
    parts = json.loads(proven.to_json())["parts"]
    parts[0]["facts"] = parts[0]["facts"].replace("typed", "9 typed", 1)
    code, lines = verify(proven, parts=parts)
    assert code == 1
    assert lines[0].startswith("parts: S0 structure")


def right_number(found: Certificate, at: tuple[int, ...], trial: int) -> float:
    """What y is there, in a trial of a record that holds."""
    record = json.loads(found.to_json())
    truth = verifier.truth_of(record, lambda *_: {})
    return float(truth.says(verifier.drawn(record, truth.shapes, trial))["y"][at])


def refuting(certificate: Certificate, **shown: Any) -> tuple[int, list[str]]:
    """What becomes of a record that holds, if S2 is said to refute it by this."""
    parts = json.loads(certificate.to_json())["parts"]
    for part in parts:
        if part["name"] == "S2 identity":
            part |= {"status": "refuted", "facts": "it differs"}
    change = {"parts": parts, "verdict": "refuted", "reason": "it differs"}
    return verify(certificate, **change, counterexample=shown)


def test_a_number_that_is_right_is_no_counterexample(proven: Certificate) -> None:
    right = right_number(proven, (1, 0, 2, 1), 2)
    shown = {"side": "candidate", "quantity": "y", "index": [1, 0, 2, 1], "trial": 2}
    for found, expected in ((right, right), (right, right + 1), (right + 1, right)):
        code, lines = refuting(proven, **shown, found=found, expected=expected)
        assert (code, lines[0][:23]) == (1, "verdict, counterexample"), lines
    lacks = {"side": "candidate", "quantity": "y", "at": [1, 0, 2, 1], "trial": 2}
    code, lines = refuting(proven, **lacks, problem="returned a list", expected=right)
    assert (code, lines[0][:23]) == (1, "verdict, counterexample"), lines


def test_a_gradient_that_nobody_asked_for_is_no_counterexample(proven: Certificate) -> None:
    """Where x is frozen it has no gradient, on a right side too."""
    record = json.loads(proven.to_json())
    truth = verifier.truth_of(record, lambda *_: {})
    right = float(truth.says(verifier.drawn(record, truth.shapes, 0))["grad_x"][0, 0, 0, 0])
    lacks = {"side": "candidate", "quantity": "grad_x", "at": [0, 0, 0, 0], "trial": 0}
    lacks |= {"problem": "has no gradient", "expected": right}
    for manner in ("plain", "frozen x", "frozen x, w"):
        code, lines = refuting(proven, **lacks, manner=manner)
        assert (code, lines[0][:23]) == (1, "verdict, counterexample"), lines


def test_a_gradient_that_is_missing_is_found_missing_again() -> None:
    """No bound tells how far what is not there lies from the right number."""
    found = certify("tests.odd_twins:convolution blind", "tests.twins:dense", size=(6, 5), seed=7)
    assert found.counterexample["problem"] == "has no gradient"
    assert verify(found) == (1, ["the record holds: refuted"])


def test_words_of_a_record_excuse_nothing(proven: Certificate) -> None:
    """Only second derivatives, by name, are the prover's alone."""
    shown = {"side": "candidate", "index": [0, 0, 0, 0], "trial": 0, "found": 1.0, "expected": 2.0}
    for quantity in ("y (double)", "double", "double_y", "double_b"):
        code, lines = refuting(proven, **shown, quantity=quantity)
        assert code == 1, lines


def test_an_entry_that_is_right_is_no_counterexample_beside_one_that_is_wrong() -> None:
    """A side that is wrong in one place is not shown so by another."""
    found = certify("tests.odd_twins:convolution corner", "tests.twins:dense", size=(6, 5), seed=7)
    assert found.verdict == "refuted"
    assert verify(found) == (1, ["the record holds: refuted"])
    right = right_number(found, (1, 0, 2, 1), 0)
    other = {**found.counterexample, "index": [1, 0, 2, 1], "found": right, "expected": right}
    assert verify(found, counterexample=other)[1][0].startswith("verdict, counterexample")


def test_parts_that_are_said_to_be_proven_are_run_beside_one_that_refutes(
    proven: Certificate,
) -> None:
    """What the prover alone can run again hides nothing that the verifier can."""
    found = certify("tests.twins:scaled", "tests.twins:dense", size=(6, 5), seed=3)
    own = {**found.counterexample, "manner": "own"}
    code, lines = verify(found, counterexample=own)
    assert (code, lines[0][:28]) == (1, "verdict: the candidate's y d")
    parts = json.loads(proven.to_json())["parts"]
    for part in parts:
        part |= {"status": "refuted", "facts": "so"} if part["name"] == "S1 premise" else {}
    change = {"parts": parts, "verdict": "refuted", "reason": "so"}
    change["assumed"] = [*proven.assumed, verifier.ASSUMED]
    assert verify(proven, **change)[0] == 2
    other = {"candidate": found.candidate, "name": found.name}
    assert verify(proven, **change, **other)[1][0].startswith("verdict: the candidate's y differs")
    less = dict.fromkeys(proven.rho, 0.0)
    assert verify(proven, **change, rho=less)[1][0].startswith("rho: y 0.0, but")


def test_what_equal_numbers_leave_open_is_no_counterexample() -> None:
    """Both choices of a maximum are right, and one entry shows that they are two."""
    truth = truth_of(first, [[2, 2, 6], [2, 2, 3]])
    sides = {"candidate": last, "reference": first}
    runs: Any = {name: partial(evaluate, run, reuse=[]) for name, run in sides.items()}
    record = TINY | {"kind": "maximum", "a": 2}
    sent = verifier.drawn(record, truth.shapes, 0)
    have, want = (runs[name](sent, truth.probe)["grad_x"] for name in SIDES)
    at = [int(i) for i in np.argwhere(have != want)[0]]
    shown = {"side": "candidate", "quantity": "grad_x", "trial": 0, "index": at}
    shown |= {"found": float(have[*at]), "expected": float(want[*at])}
    for kind, wrong in (("maximum", 1), ("linear", 0)):
        told = record | {"kind": kind, "counterexample": shown}
        assert len(refused(verifier.refutation, told, runs, truth)) == wrong


NINE = [[2, 1, 9], [2, 1, 1]]


def ninth(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True) / 9


def ninths(x: Tensor) -> Tensor:
    return (x.flip(-1) * (1 / 9)).sum(-1, keepdim=True)


def mixed(x: Tensor) -> Tensor:
    """Of both signs: what comes out may be much smaller than what is added up."""
    return x[..., :1] - (x[..., 1:] * 0.125).sum(-1, keepdim=True)


def mixed_back(x: Tensor) -> Tensor:
    return x[..., :1] - (x[..., 1:].flip(-1) * 0.125).sum(-1, keepdim=True)


def spread(x: Tensor) -> Tensor:
    return x.expand(2, 1, 9) / 9


def spread_back(x: Tensor) -> Tensor:
    return torch.cat([x * (1 / 9)] * 9, -1)


def refuted_by(
    one: Callable[[Tensor], Tensor], two: Callable[[Tensor], Tensor], record: dict[str, Any],
    shapes: list[list[int]], quantity: str,
) -> set[bool]:  # fmt: skip
    """What becomes of counterexamples of one quantity that ten trials hold."""
    runs = {name: partial(evaluate, f, reuse=[]) for name, f in zip(SIDES, (one, two), strict=True)}
    truth, answers = truth_of(two, shapes, 1), set[bool]()
    for trial in range(10):
        sent = verifier.drawn(record, shapes, trial)
        have, want = (runs[name](sent, truth.probe)[quantity] for name in SIDES)
        for at in np.argwhere(have != want).tolist()[:3]:
            shown = {"side": "candidate", "quantity": quantity, "trial": trial, "index": at}
            shown |= {"found": float(have[*at]), "expected": float(want[*at])}
            answers.add(verifier.refutation(record | {"counterexample": shown}, runs, truth))
    return answers


@pytest.mark.parametrize(
    ("one", "two", "shapes", "quantity"),
    [(ninths, ninth, NINE, "y"), (mixed_back, mixed, NINE, "y"),
     (spread_back, spread, NINE[::-1], "grad_x")],
)  # fmt: skip
def test_sums_that_round_refute_nobody(
    one: Callable[[Tensor], Tensor], two: Callable[[Tensor], Tensor], shapes: Any, quantity: str
) -> None:
    """A record that says too few terms draws integers that are too large to be exact.

    Nor do real numbers, by a bound of as few terms, or of an output whose entries cancel.
    """
    record = TINY | {"kind": "linear", "a": 2**20, "spec": {"scale": 9 * 3**20}}
    assert refuted_by(one, two, record, shapes, quantity) == {False}
    wrong = lambda x: one(x) * (1 + 2.0**-45)  # noqa: E731
    assert True in refuted_by(wrong, two, record, shapes, quantity)
    for seed in range(20):
        runs = {name: partial(evaluate, f) for name, f in zip(SIDES, (one, two), strict=True)}
        real = REAL | {"seed": seed, "rho": {}}
        assert not rounding(real, runs, truth_of(two, shapes, 1), "refuted")
    runs["candidate"] = partial(evaluate, wrong)
    assert rounding(real, runs, truth_of(two, shapes, 1), "refuted")


def test_whoever_transforms_what_it_adds_up_is_not_refuted_by_its_rounding() -> None:
    """Integers are exact for direct sums alone, and a record may say that it saw one."""

    def transformed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        lines, kernel = torch.fft.rfft(x, n=8), torch.fft.rfft(w.flip(-1), n=8)
        y = torch.fft.irfft((lines[:, None] * kernel).sum(2), n=8)
        return y[..., 2:4] + b[:, None]

    record = TINY | {"a": 2**24}
    for run, answers in ((transformed, {False}), (lambda *s: transformed(*s) * 1.001, {True})):
        runs = {"candidate": partial(evaluate, run), "reference": partial(evaluate, tiny)}
        truth = truth_of(tiny, SHAPES)
        sent = verifier.drawn(record, SHAPES, 0)
        have, want = (runs[name](sent, truth.probe)["y"] for name in SIDES)
        at = [int(i) for i in np.argwhere(have != want)[0]]
        shown = {"side": "candidate", "quantity": "y", "trial": 0, "index": at}
        shown |= {"found": float(have[*at]), "expected": float(want[*at])}
        found = verifier.refutation(record | {"counterexample": shown}, runs, truth)
        assert {found} == answers


def test_what_hangs_on_x_is_not_refuted_as_a_linear_operator() -> None:
    """Else a maximum would be, by a choice between equal numbers; nor is its rounding proven."""
    record, shapes = TINY | {"kind": "linear", "a": 1}, [[2, 2, 6], [2, 2, 3]]
    assert refuted_by(last, first, record, shapes, "grad_x") == {False}
    runs = {name: partial(evaluate, first) for name in SIDES}
    told = refused(
        rounding, REAL | {"rho": {"y": 0.0, "grad_x": 0.0}}, runs, truth_of(first, shapes)
    )
    assert told[0].startswith("rho: y leaves its bound")


def test_second_derivatives_are_the_provers(proven: Certificate) -> None:
    """A record that claims them has to be run again there."""
    less = [line for line in proven.not_covered if line != verifier.NO_SECOND]
    assert len(less) == len(proven.not_covered) - 1
    assert verify(proven, not_covered=less) == (2, [verifier.SECOND])


def test_the_command_line_lets_the_prover_find_second_derivatives_again(
    proven: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to be asked for them, or it says that nobody did, and no such record is verified."""
    less = tuple(line for line in proven.not_covered if line != verifier.NO_SECOND)
    text = sealed(proven, not_covered=less)
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    for comes_out, code in ((Certificate.from_json(text), 0), (proven, 1)):
        prover = Mock(return_value=comes_out)
        monkeypatch.setattr(named, "certify", prover)
        assert main(["verify", str(tmp_path / "c.json"), "--trust", "tests.twins"]) == code
        assert prover.call_args.kwargs["second"]


@pytest.mark.parametrize("kind", odd_twins.OPERATORS)
def test_real_numbers_beyond_their_bound_are_found_again(kind: str) -> None:
    """On integers nothing differs; a record that only says so is not believed."""
    found = certify(
        f"tests.odd_twins:{kind} coarse", odd_twins.REFERENCES[kind], size=(6, 5), seed=3
    )
    status = {part.name: part.status for part in found.parts}
    assert (found.verdict, status["S2 identity"]) == ("refuted", "proven")
    assert status["S3 rounding"] == "refuted"
    assert verify(found) == (1, ["the record holds: refuted"])
    right = odd_twins.REFERENCES[kind]
    made = certify(right, right, size=(6, 5), seed=3)
    names = {"candidate": right, "adapter": made.adapter, "name": made.name}
    names["assumed"] = [*found.assumed, *made.assumed]
    alone = ["parts: S1 premise, S3 rounding: the prover alone can run it"]
    assert verify(found, **names) == (2, alone)


def test_what_nobody_followed_is_run_again(proven: Certificate) -> None:
    """S1 was not asked: S2 alone is proven."""
    found = certify("tests.twins:graph", "tests.twins:dense", size=(6, 5), seed=7, premise=False)
    assert (found.verdict, found.trace) == ("proven", ""), found.reason
    assert verify(found) == (0, ["the record holds: proven"])
    other = certify("tests.twins:scaled", "tests.twins:dense", size=(6, 5), seed=3)
    code, lines = verify(found, candidate=other.candidate, name=other.name)
    assert (code, lines[0][:9]) == (1, "verdict: ")


def test_all_entries_of_an_image_may_add_up_where_nobody_counted() -> None:
    def asked(terms: int, trace: str) -> list[str]:
        spec = {"shape": [2, 6], "out": [2, 3], "scale": 1, "terms": terms}
        says = partial(evaluate, sums, dtype=torch.float64)
        record = {"kind": "linear", "spec": spec, "trace": trace, "dtype": "float64"}
        return refused(checked, record, says, torch.float64, verifier.demand)

    assert asked(6, "") == asked(1, "0" * 64) == []
    assert asked(5, "")[0].startswith("spec: more terms")


def test_equal_entries_may_share_the_gradient_of_a_maximum_and_no_others_may() -> None:
    """A reference that does, as torch's amax and the judge's in spaces, leaves fractions there."""

    def shared(x: Tensor) -> Tensor:
        return x.unflatten(-1, (30, 2)).amax(-1)

    spec = {"shape": [2, 2, 60], "out": [2, 2, 30], "scale": 1, "terms": 1}
    cases: Any = (
        ("maximum", shared, 0),
        ("linear", shared, 1),
        ("maximum", lambda x: shared(x) / 3, 1),
    )
    for kind, run, wrong in cases:
        record = {"kind": kind, "spec": spec, "trace": "0" * 64, "dtype": "float64"}
        says = partial(evaluate, run, dtype=torch.float64)
        assert len(refused(checked, record, says, torch.float64, verifier.demand)) == wrong


def test_integers_are_such_as_float32_holds_where_a_half_type_takes_a_maximum() -> None:
    """Its program may go there and back; of sums it is followed, and of wider types it is none."""
    says = partial(evaluate, lambda x: x.clone(), dtype=torch.float64)
    cases = (
        ("maximum", "bfloat16", 1, 24),
        ("maximum", "float16", 4, 51),
        ("maximum", "float64", 1, 53),
        ("linear", "float16", 1, 53),
    )
    for kind, dtype, scale, bits in cases:
        spec = {"shape": [2, 1, 3], "out": [2, 1, 3], "scale": scale, "terms": 1}
        record = {"kind": kind, "spec": spec, "trace": "0" * 64, "dtype": dtype}
        assert checked(record, says, torch.float64, verifier.demand)[2] == 2**bits


def test_a_reference_without_a_gradient_is_no_truth() -> None:
    """Else nothing would be compared with the candidate's."""
    found = certify("tests.odd_twins:linear corner", "tests.twins:pool", size=(6, 5), seed=12)
    right = odd_twins.REFERENCES["linear"]
    made = certify(right, right, size=(6, 5), seed=12)
    how = {"candidate": "tests.odd_twins:linear blind", "name": "tests.odd_twins:linear blind"}
    how |= {"reference": how["candidate"], "adapter": found.adapter | {"reference": "function"}}
    rho = {"y": made.rho["y"]}
    code, lines = verify(made, **how, rho=rho, assumed=[*found.assumed, *made.assumed])
    assert (code, lines[0][:11]) == (1, "reference: ")


@pytest.mark.parametrize("change", [{"trial": 99}, {"trial": -1}, {"manner": "upside down"}])
def test_a_counterexample_is_of_one_of_the_calls_that_are_made(change: dict[str, Any]) -> None:
    found = certify("tests.twins:scaled", "tests.twins:dense", size=(6, 5), seed=3)
    assert verify(found, counterexample={**found.counterexample, **change})[0] == 1
    assert verify(found, counterexample={**found.counterexample, **change}) != (
        1, ["the record holds: refuted"],
    )  # fmt: skip


def test_a_refutation_shows_a_number_and_runs_with_the_threads_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = certify("tests.twins:scaled", "tests.twins:dense", size=(6, 5), seed=3)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert verify(found) == (1, ["the record holds: refuted"])
    assert asked == [int(found.flags["threads"])]
    for name in found.counterexample.keys() - {"wrong", "of", "smallest"}:
        less = {key: value for key, value in found.counterexample.items() if key != name}
        code, lines = verify(found, counterexample=less)
        assert code == 1
        assert lines != ["the record holds: refuted"], name


def test_as_small_as_draws_may_be_is_not_too_small() -> None:
    figures = {"a": 1, "trials": 2, "log2_epsilon": 2 * float(np.log2(2 / 3))}
    assert verifier.budget({**figures, "epsilon": 0.5, "name": ""}, 1, "") == 2
    with pytest.raises(verifier.Refused, match="no integers are left"):
        verifier.budget({**figures, "a": 0, "epsilon": 0.5, "name": ""}, 0, "")


def test_all_parts_that_refute_are_named_in_order(proven: Certificate) -> None:
    parts = json.loads(proven.to_json())["parts"]
    names = [part["name"] for part in parts if part["name"] != "S2 identity"]
    assert len(names) > 3
    for part in parts:
        part |= {"status": "refuted", "facts": "it differs"} if part["name"] in names else {}
    change = {"parts": parts[::-1], "verdict": "refuted", "reason": "it differs"}
    code, lines = verify(proven, **change, assumed=[*proven.assumed, verifier.ASSUMED])
    assert (code, lines) == (
        2, [f"parts: {', '.join(sorted(names))}: the prover alone can run it"],
    )  # fmt: skip


# elsewhere


@pytest.mark.parametrize(
    ("where", "here"),
    [("cuda:1 (card 1)", True), ("cuda:1 (card 0)", False), ("cuda:2 (card 2)", False),
     ("cuda (card 0)", True), ("cpu", True), ("cpu (a fast one)", False)],
)  # fmt: skip
def test_a_card_is_known_by_its_place_and_name(
    where: str, here: bool, proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: f"card {at.index or 0}")
    lines = verifier.elsewhere({**json.loads(proven.to_json()), "device": where})
    assert any(line.startswith("device: ") for line in lines) != here


def test_a_card_without_a_number_is_the_first(
    proven: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: f"card {at.index or 0}")
    lines = verifier.elsewhere({**json.loads(proven.to_json()), "device": "cuda (card 0)"})
    assert not any(line.startswith("device: ") for line in lines)


@pytest.mark.parametrize("name", ["numpy", "torch", "python"])
def test_every_version_is_looked_at(name: str, proven: Certificate) -> None:
    record = json.loads(proven.to_json())
    assert verifier.elsewhere(record) == []
    lines = verifier.elsewhere({**record, "versions": {**record["versions"], name: "1.0"}})
    assert [line[:8] for line in lines] == ["versions"]


# a side that behaves otherwise in one manner alone

SHAPES = [[2, 1, 4], [2, 1, 3], [2], [2, 2, 2]]
TINY: dict[str, Any] = {"kind": "convolution", "seed": 1, "a": 50, "spec": {}}


def tiny(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return functional.conv1d(x, w, b)


class _Worse(torch.autograd.Function):
    """Its second backward through one graph is twice as large."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.calls = 0
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        ctx.calls += 1
        return g * ctx.calls


class _Latest(torch.autograd.Function):
    """Its backward is that of the last call of which a gradient is wanted."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        _Latest.calls += ctx.needs_input_grad[0]
        ctx.mine = _Latest.calls
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * (1 if ctx.mine == _Latest.calls else 2)


def by_object() -> Callable[..., Tensor]:
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if id(x) not in kept:
            kept[id(x)] = x, x.detach() * 1
        return tiny(x, w, b) + tiny(kept[id(x)][1] - x.detach(), w, b * 0)

    return run


def unlike(told: Callable[..., bool]) -> Callable[..., Tensor]:
    return lambda x, w, b: tiny(x, w, b) * (2 if told(x, w, b) else 1)


def hooked(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    def twice(p: Tensor) -> None:
        p.grad = None if p.grad is None else p.grad * 2

    if w.requires_grad and w.is_leaf:
        w.register_post_accumulate_grad_hook(twice)
    return tiny(x, w, b)


def held_before(x: Tensor, w: Tensor, b: Tensor) -> bool:
    return w.is_leaf and w.grad is not None


def between(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return _Latest.apply(tiny(x, w, b))  # type: ignore[no-untyped-call,no-any-return]


def unlike_without(frozen: str) -> Callable[..., Tensor]:
    return unlike(lambda *sent: [t.requires_grad for t in sent] == [n not in frozen for n in "xwb"])


ODD: dict[str, Callable[[], Callable[..., Tensor]]] = {
    **{f"frozen {some}": partial(unlike_without, some) for some in odd_twins.SETS},
    "between": lambda: between,
    "refilled": by_object,
    "inner": lambda: unlike(lambda x, w, b: not x.is_leaf),
    "again": lambda: lambda x, w, b: _Worse.apply(tiny(x, w, b)),  # type: ignore[no-untyped-call]
    "backward": lambda: hooked,
}


def seen_of(
    run: Callable[..., Tensor], record: dict[str, Any], truth: Truth, trials: int = 6
) -> dict[str, str]:
    """Which side differs first, in what, and how it was called."""
    sides = (run, tiny) if record["kind"] == "convolution" else (run, truth.says.args[0])  # type: ignore[attr-defined]
    runs = {n: partial(evaluate, f, reuse=[]) for n, f in zip(SIDES, sides, strict=True)}
    return seen(record, runs, truth, trials)


def seen(record: dict[str, Any], runs: dict[str, Any], truth: Truth, trials: int) -> dict[str, str]:
    try:
        identity(record, runs, truth, trials)
    except Refused as error:
        found = re.match(r"verdict: the (\w+)'s (\w+) differs, (.*); it", error.args[0])
        if found is None:
            raise
        return dict(zip(("side", "quantity", "manner"), found.groups(), strict=True))
    return {}


def truth_of(run: Callable[..., Tensor], shapes: list[list[int]], n: int = 4) -> Truth:
    counts = dict.fromkeys(("y", "grad_x", "grad_w", "grad_b"), n)
    says = partial(evaluate, run, dtype=torch.float64)
    return Truth(says, shapes, counts, 50, torch.float64, 0.0)


@pytest.mark.parametrize("manner", ODD)
def test_every_manner_of_calling_is_tried(manner: str) -> None:
    truth = truth_of(tiny, SHAPES)
    assert seen_of(tiny, TINY, truth) == {}
    found = seen_of(ODD[manner](), TINY, truth)
    assert (found["side"], found["manner"]) == ("candidate", manner)


def test_backward_adds_to_what_is_there() -> None:
    found = seen_of(unlike(held_before), TINY, truth_of(tiny, SHAPES))
    assert (found["side"], found["manner"]) == ("candidate", "backward")


def test_backward_adds_to_parameters() -> None:
    run = unlike(lambda x, w, b: isinstance(w, torch.nn.Parameter))
    found = seen_of(run, TINY, truth_of(tiny, SHAPES))
    assert (found["side"], found["manner"]) == ("candidate", "backward")


def test_gradients_that_come_in_are_views_too() -> None:
    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = tiny(x, w, b)
        if y.requires_grad:
            y.register_hook(lambda g: g if g.is_contiguous() else g * 2)
        return y

    found = seen_of(run, TINY, truth_of(tiny, SHAPES))
    assert (found["quantity"][:4], found["manner"]) == ("grad", "inner")


def test_nothing_is_frozen_that_is_not_sent() -> None:
    assert [one for one in verifier.manners_of(1) if "frozen" in one] == ["frozen x"]
    assert len(verifier.manners_of(2)) == len(verifier.manners_of(1)) + 2


def test_what_is_no_such_tensor_is_nothing_and_no_error() -> None:
    """So a refutation by what a side lacks is found again."""
    sent = [np.ones((2, 4)), np.ones((2, 4))]
    for manner in ("plain", "again", "backward", "between"):
        found = evaluate(lambda x: x.detach() * 2, sent, torch.float64, manner=manner)
        assert {*found} == {"y"}, manner
        for wrong in (torch.Tensor.to_sparse, torch.Tensor.sum, list):
            assert evaluate(wrong, sent, torch.float64, manner=manner) == {}, (manner, wrong)


def test_nothing_is_asked_of_what_is_frozen_though_something_else_learns() -> None:
    own = torch.ones(4, dtype=torch.float64, requires_grad=True)
    sent = [np.ones((2, 4)), np.ones((2, 4))]
    assert {*evaluate(lambda x: x * own, sent, torch.float64, manner="frozen x")} == {"y"}


def test_tensors_that_come_back_are_refilled_in_the_first_trial_too() -> None:
    """Of one trial alone: whoever sees an image for the second time is called so again."""

    def second() -> Callable[..., Tensor]:
        kept: list[Tensor] = []

        def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            y = tiny(x, w, b) * (2 if any(x is one for one in kept) else 1)
            kept.append(x)
            return y

        return run

    truth = truth_of(tiny, SHAPES)
    sent = verifier.drawn(TINY, truth.shapes, 0)
    right = float(truth.says(sent)["y"][0, 0, 0])
    shown = {"side": "candidate", "quantity": "y", "trial": 0, "manner": "refilled"}
    shown |= {"index": [0, 0, 0], "found": 2 * right, "expected": right}
    for run, wrong in ((second(), 0), (tiny, 1)):
        runs = {"candidate": partial(evaluate, run, reuse=[])}
        told = TINY | {"counterexample": shown}
        assert len(refused(verifier.refutation, told, runs, truth)) == wrong


def test_whoever_refuses_views_is_sent_copies_instead() -> None:
    """Of another layout nothing is said; of what is no leaf, it is."""

    def picky(x: Tensor, w: Tensor, b: Tensor, wrong: int = 1) -> Tensor:
        if not x.is_contiguous():
            raise RuntimeError("no views")
        return tiny(x, w, b) * (1 if x.is_leaf else wrong)

    def leaving(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return tiny(x, w, b) if x.is_contiguous() else sys.exit()

    def leaves_alone(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if not x.is_leaf:
            raise RuntimeError("leaves alone")
        return tiny(x, w, b)

    truth = truth_of(tiny, SHAPES)
    assert seen_of(picky, TINY, truth, 9) == {}
    found = seen_of(partial(picky, wrong=2), TINY, truth, 9)
    assert (found["side"], found["manner"]) == ("candidate", "inner")
    with pytest.raises(RuntimeError, match="leaves alone"):
        seen_of(leaves_alone, TINY, truth, 9)
    with pytest.raises(SystemExit):
        seen_of(leaving, TINY, truth, 9)


@pytest.mark.parametrize("sent", ["x", "xw", "xwb"])
def test_every_trial_calls_plainly_and_all_of_them_in_every_manner(sent: str) -> None:
    """However few they are, and as the prover does."""
    shapes = [[1, 1, 4], *[[1, 1, 1], [1]][: len(sent) - 1], [1, 1, 4]]
    exact = {"y": np.ones((1, 1, 4))}
    truth = Truth(lambda sent: exact, shapes, {"y": 1}, 50, torch.float64, 0.0)
    for trials in range(1, 20):
        calls: dict[str, list[str]] = {side: [] for side in SIDES}

        def run(side: str, sent: Any, probe: Any, *, manner: str, calls: Any = calls) -> Any:
            calls[side].append(manner)
            return exact

        runs: Any = {side: partial(run, side) for side in SIDES}
        identity(TINY, runs, truth, trials)
        asked = {one for at in range(trials) for one in manners_of(at, trials, sent)}
        assert calls["reference"] == ["plain"] * trials == [
            one for one in calls["candidate"] if one == "plain"
        ]  # fmt: skip
        assert {*calls["candidate"]} == {"plain", *verifier.manners_of(len(sent))}
        assert asked <= {*calls["candidate"]}
        assert len(calls["candidate"]) >= 2 * trials
        assert trials == 1 or calls["candidate"].index("refilled") > calls["candidate"].index(
            "plain"
        )


@pytest.mark.parametrize("name", ["x", "w", "g"])
@pytest.mark.parametrize("up", [True, False])
def test_every_number_is_moved_up_and_down(name: str, up: bool) -> None:
    """Right near the integers alone."""

    def moved(t: Tensor) -> bool:
        size = float(t.detach().abs().max())
        return size > 2**9 if up else size < 2**-3

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = tiny(x, w, b) * (2 if name != "g" and moved(x if name == "x" else w) else 1)
        if name == "g" and y.requires_grad:
            y.register_hook(lambda g: g * (2 if moved(g) else 1))
        return y

    assert seen_of(run, TINY, truth_of(tiny, SHAPES))["side"] == "candidate"


def test_numbers_of_another_dtype_are_none() -> None:
    found = seen_of(lambda x, w, b: tiny(x, w, b).float(), TINY, truth_of(tiny, SHAPES))
    assert (found["side"], found["quantity"]) == ("candidate", "y")


def test_a_reference_that_is_another_operator_is_named() -> None:
    runs = {"candidate": partial(evaluate, tiny, reuse=[])}
    runs["reference"] = partial(evaluate, lambda x, w, b: tiny(x, w, b) * 2, reuse=[])
    assert seen(TINY, runs, truth_of(tiny, SHAPES), 1)["side"] == "reference"


@pytest.mark.parametrize("side", SIDES)
def test_a_side_that_raises_is_not_equal(side: str) -> None:
    def raising(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise ValueError("out of luck")

    runs = {one: partial(evaluate, raising if one == side else tiny, reuse=[]) for one in SIDES}
    with pytest.raises(ValueError, match="out of luck"):
        identity(TINY, runs, truth_of(tiny, SHAPES), 1)


# operators without parameters


def first(x: Tensor) -> Tensor:
    return functional.max_pool1d(x, 2)


def last(x: Tensor) -> Tensor:
    return first(x.flip(-1)).flip(-1)


def doubled(x: Tensor) -> Tensor:
    y = first(x)
    y.register_hook(lambda g: g * 2)
    return y


def corner_doubled(x: Tensor) -> Tensor:
    y = first(x)
    y.register_hook(lambda g: torch.cat([g[..., :1] * 2, g[..., 1:]], -1))
    return y


def test_equal_numbers_of_a_maximum_leave_the_gradient_open_and_no_others_do() -> None:
    shapes = [[2, 2, 6], [2, 2, 3]]
    ties = TINY | {"kind": "maximum", "a": 2}
    assert seen_of(last, ties, truth_of(first, shapes)) == {}
    assert seen_of(last, {**ties, "kind": "linear"}, truth_of(first, shapes)) != {}
    apart = ties | {"a": 2**30}
    assert seen_of(last, apart, truth_of(first, shapes)) == {}
    assert seen_of(doubled, apart, truth_of(first, shapes))["quantity"] == "grad_x"
    some = ties | {"a": 8}  # whose numbers are there once, is held to its gradient all the same
    assert seen_of(doubled, some, truth_of(first, shapes))["quantity"] == "grad_x"
    assert seen_of(last, some, truth_of(first, shapes)) == {}


def test_zeros_show_nothing() -> None:
    """Step 10: half of what is compared has to be something."""

    def some(n: int) -> Callable[[Tensor], Tensor]:
        there = torch.arange(6) < n
        return lambda x: x * there

    shapes, whole = [[2, 1, 6], [2, 1, 6]], TINY | {"kind": "linear", "a": 2**30}
    assert seen_of(some(3), whole, truth_of(some(3), shapes)) == {}
    with pytest.raises(verifier.Refused, match="nothing to compare"):
        seen_of(some(2), whole, truth_of(some(2), shapes))
    silent = truth_of(some(2), shapes)
    silent.counts["y"] = np.array([1, 1, 0, 0, 0, 0])  # of whom nobody is heard
    assert seen_of(some(2), whole, silent) == {}
    silent.counts["y"] = np.zeros(6)
    with pytest.raises(verifier.Refused, match="nothing to compare"):
        seen_of(some(2), whole, silent)


def test_sparse_gradients_are_gradients() -> None:
    rows = torch.tensor([0, 2])
    found = evaluate(
        lambda x: functional.embedding(rows, x, sparse=True),
        [np.ones((3, 2)), np.ones((2, 2))], torch.float64,
    )  # fmt: skip
    assert found["grad_x"].tolist() == [[1, 1], [0, 0], [1, 1]]


# real numbers

REAL = {"kind": "linear", "dtype": "float64", "seed": 1}


def held(
    one: Callable[[Tensor], Tensor],
    two: Callable[[Tensor], Tensor],
    rho: dict[str, float],
    n: int = 2,
    kind: str = "linear",
) -> list[str]:
    """What is wrong with rho, where sums of two are the truth."""
    runs = {name: partial(evaluate, f) for name, f in zip(SIDES, (one, two), strict=True)}
    truth = truth_of(sums, [[2, 6], [2, 3]], n)
    return refused(rounding, REAL | {"rho": rho, "kind": kind}, runs, truth)


def sums(x: Tensor) -> Tensor:
    return x[:, ::2] + x[:, 1::2]


def differences(x: Tensor) -> Tensor:
    return x[:, ::2] - x[:, 1::2]


def test_bounds_are_those_of_sums_of_one_sign() -> None:
    nothing = {"y": 0.0, "grad_x": 0.0}
    assert held(sums, sums, nothing) == []
    assert held(sums, sums, {})[0].startswith("rho: y inf, but 0.0")
    assert held(sums, sums, {"y": 0.0})[0].startswith("rho: grad_x inf, but 0.0")
    runs = {name: partial(evaluate, differences) for name in SIDES}
    both = truth_of(differences, [[2, 6], [2, 3]])
    signs = REAL | {"rho": {"grad_x": 0.0}}  # of an output of both signs no figure is known
    assert refused(rounding, signs, runs, both) == []
    more = REAL | {"rho": nothing | {"grad_w": 0.0}}
    assert refused(rounding, more, runs, both) == ["rho: of more than y, grad_x"]


def test_real_numbers_are_looked_at_where_entries_of_both_signs_have_no_bound() -> None:
    """Right on integers alone, in a record that says it was followed."""
    truth = truth_of(differences, [[2, 6], [2, 3]])
    for by, left in ((2.0**-40, True), (2.0**-53, False)):
        runs = {"candidate": partial(evaluate, lambda x, by=by: differences(x) * (1 + by))}
        runs["reference"] = partial(evaluate, differences)
        wrong = refused(rounding, REAL | {"rho": {"grad_x": 0.0}}, runs, truth)
        assert any(line.startswith("rho: y leaves its bound") for line in wrong) == left


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_real_numbers_show_the_gradient_of_a_maximum_where_integers_are_all_equal(
    dtype: str,
) -> None:
    """A record that asks for many terms leaves few integers, and between equal ones none is wrong.

    Real numbers of few bits are equal here and there: there either choice is right.
    """
    truth = truth_of(first, [[2, 2, 64], [2, 2, 32]])
    maximum = REAL | {"kind": "maximum", "dtype": dtype, "rho": {"y": 0.0, "grad_x": 0.0}}
    ones = {"scale": 1}, {"scale": 2**16}  # whose values lie on pixels, and between them
    for run, wrong in ((first, False), (last, False), (doubled, True)):
        runs = {name: partial(evaluate, f) for name, f in zip(SIDES, (run, first), strict=True)}
        for spec in ones:
            found = refused(rounding, maximum | {"spec": spec}, runs, truth)
            assert (found != []) == wrong, (run, spec, found)
    runs["candidate"] = partial(evaluate, corner_doubled)
    found = [refused(rounding, maximum | {"spec": spec}, runs, truth) for spec in ones]
    assert found[0][0].startswith("rho: grad_x leaves its bound")
    assert found[1] == []  # between pixels some may change places


@pytest.mark.parametrize("far", [True, False])
def test_real_numbers_are_normal_ones_and_of_spread_size(far: bool) -> None:
    """Right on one of them alone; by little, it is within its bound and not what was recorded."""

    def off(x: Tensor, by: float) -> Tensor:
        return sums(x) * (1 + by * ((x.abs().max() > 2**4) == far).double())

    for by, line in ((2.0**-40, "rho: y leaves its bound"), (2.0**-52, "rho: y 0.0, but")):
        wrong = held(partial(off, by=by), sums, {"y": 0.0, "grad_x": 0.0}, kind="convolution")
        assert wrong[0].startswith(line), wrong


def test_real_numbers_refute_if_those_of_the_candidate_alone_leave_a_bound() -> None:
    def by(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda x: sums(x) * factor

    def refutes(one: Callable[[Tensor], Tensor], two: Callable[[Tensor], Tensor], n: int) -> bool:
        runs = {name: partial(evaluate, f) for name, f in zip(SIDES, (one, two), strict=True)}
        truth = truth_of(sums, [[2, 6], [2, 3]], n)
        return rounding(REAL | {"rho": {}, "kind": "convolution"}, runs, truth, "refuted")

    off, nan, infinite = by(1 + 2.0**-40), by(float("nan")), by(float("inf"))
    assert refutes(off, sums, 2)
    assert refutes(nan, sums, 2)
    assert not refutes(sums, off, 2)  # the reference's fault
    assert not refutes(off, off, 2)  # no less
    assert not refutes(infinite, sums, 2)  # overflow is not covered
    assert not refutes(off, sums, 2**53)  # the bound says nothing


def test_a_sum_too_long_for_a_bound_is_not_proven() -> None:
    nothing = {"y": 0.0, "grad_x": 0.0}
    assert held(sums, sums, nothing, n=2**53)[0].startswith("rho: y leaves its bound, or n u >= 1")
    assert held(sums, sums, nothing, n=2**53 - 1) == []


def test_whoever_wipes_out_what_it_is_sent_spoils_nobody_elses_numbers() -> None:
    """Zeros for zeros on both sides would be within any bound."""

    def wiped(x: Tensor) -> Tensor:
        x.data.zero_()
        return sums(x)

    wrong = held(wiped, sums, {"y": 0.0, "grad_x": 0.0})
    assert any("y leaves its bound" in line for line in wrong), wrong
    sent = [np.ones((2, 6)), np.ones((2, 3))]
    assert not evaluate(wiped, sent, torch.float64)["y"].any()
    assert sent[0].all()


def test_a_reference_may_leave_the_bound_and_a_candidate_may_not() -> None:
    def off(x: Tensor) -> Tensor:
        return sums(x) * (1 + 2.0**-40)

    def low(x: Tensor) -> Tensor:
        y = sums(x)
        return y - y.detach().abs() * 2.0**-40

    def behind(x: Tensor) -> Tensor:
        y = sums(x)
        y.register_hook(lambda g: g * (1 + 2.0**-40))
        return y

    def lost(x: Tensor) -> Tensor:
        return sums(x) * float("nan")

    right = ((sums, off, ""), (sums, lost, ""))
    cases = (*right, (off, sums, "y"), (low, sums, "y"), (behind, sums, "grad_x"))
    for one, two, leaves in cases:
        line = held(one, two, {"y": 0.0}, kind="convolution")[0]
        assert line.startswith(f"rho: {leaves} leaves its bound" if leaves else "rho: y 0.0, but")
