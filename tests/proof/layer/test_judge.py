"""The judge on honest operators of every kind and dtype, on nothing, and on a faulty reference.

The planted faults themselves stand in `tests/proof/faults`, and `test_gate.py` holds the judge to
every one of them.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import Certificate, ConvSpec, Oracle, prove_convolution
from convgraph.proof.draws import Budget
from convgraph.proof.layer.identity import check_identity
from convgraph.proof.layer.trial import Run
from tests.proof.faults import FAULTS
from tests.proof.faults.operators import (
    PLAIN,
    honest,
    plain,
)
from tests.proof.honest import HONEST


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_implementation_is_not_refuted(name: str, dtype: torch.dtype) -> None:
    spec, candidate = HONEST[name]
    found = prove_convolution(candidate, honest(spec), spec, dtype=dtype)
    assert _status(found, "S2 identity") == "proven", str(found)
    if dtype in (torch.float64, torch.float32):
        assert found.verdict == "proven", str(found)


def test_a_faulty_reference_is_refuted_by_the_oracle() -> None:
    """Two that share a fault agree with each other; the oracle does not agree with them."""
    flipped = FAULTS["kernel is flipped"].run
    found = prove_convolution(flipped, flipped, PLAIN)
    assert found.verdict == "refuted"


def test_the_right_edges_in_another_order_are_proven() -> None:
    e = Oracle(PLAIN).edges
    order = np.random.default_rng(1).permutation(len(e.tap))
    lists = (e.source[order], e.target[order], e.tap[order])
    found = prove_convolution(plain, plain, PLAIN, edges=lambda: lists)
    assert _status(found, "S0 structure") == "proven"


@pytest.mark.parametrize("explain", [True, False])
def test_edges_refute_only_with_a_number(explain: bool) -> None:
    """A list that lacks an edge, shown by a side that has it and by one that has a fault."""
    e = Oracle(PLAIN).edges
    lists = (e.source[1:], e.target[1:], e.tap[1:])
    for run, verdict in ((plain, "undecided"), (FAULTS["kernel is flipped"].run, "refuted")):
        found = prove_convolution(run, plain, PLAIN, edges=lambda: lists, explain=explain)
        assert (found.verdict, _status(found, "S0 structure")) == (verdict, verdict), str(found)
        assert bool(found.counterexample) == (verdict == "refuted")


def test_a_comparison_of_nothing_is_undecided() -> None:
    nobody = np.zeros((2, 6, 7), dtype=bool)
    empty = replace(PLAIN, source_mask=nobody, target_mask=nobody)
    found = prove_convolution(
        lambda x, w, b: 0 * plain(x, w, b), lambda x, w, b: 0 * plain(x, w, b), empty
    )
    assert found.verdict == "undecided"
    assert "nothing to compare" in found.reason


def test_a_run_of_mostly_zeros_is_undecided() -> None:
    spec = ConvSpec(1, 1, (1, 1), (8, 8), bias=False)
    run = lambda x, w, b: F.conv2d(x, w)  # noqa: E731
    poor = Budget(terms=1, bits=53, a=1, trials=20, seed=1)
    found = check_identity(run, run, Oracle(spec), poor, dtype=torch.float64)
    assert found.status == "undecided"
    assert "zero" in found.reason


def test_parameters_that_differ_are_refuted() -> None:
    one = {"weight": torch.ones(2)}
    two = {"weight": torch.tensor([1.0, 1.0000001])}
    found = prove_convolution(plain, plain, PLAIN, parameters=(one, two))
    assert found.verdict == "refuted"
    assert "'weight' differs" in found.reason


def test_wrong_rounding_is_refuted_by_s3_alone() -> None:
    """Exact on every integer probe, but three digits short on real numbers."""

    def short(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        whole = (x == x.round()).all()
        return plain(x if whole else x + (x.float().double() - x).detach(), w, b)

    found = prove_convolution(short, plain, PLAIN)
    assert _status(found, "S2 identity") == "proven"
    assert _status(found, "S3 rounding") == "refuted"
    assert found.verdict == "refuted"


def _status(found: Certificate, part: str) -> str:
    return next(p.status for p in found.parts if p.name == part)


def test_no_probe_is_proven_beside_a_basis_that_is_refuted() -> None:
    """Right at the size that is probed, wrong at a smaller one: by luck, or by what memory held."""
    spec = ConvSpec(1, 2, (3, 3), (5, 5))
    cert = prove_convolution(
        honest(spec), honest(spec), spec,
        small=lambda little: (lambda x, w, b: honest(little)(x, w.flip(-1), b), honest(little)),
    )  # fmt: skip
    parts = {part.name: part for part in cert.parts}
    assert cert.verdict == "refuted"
    assert parts["S2 basis"].status == "refuted"
    assert parts["S2 identity"].status == "undecided"
    assert "not on the basis" in parts["S2 identity"].facts


def _lost(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return plain(x, w.detach(), b)


def _overwrites(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y = plain(x, w, b)
    with torch.no_grad():
        return y if x.is_leaf else y + 0 * x.mul_(2).sum()


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (lambda *sent: (plain(*sent),), "returned tuple, not a tensor"),
        (lambda *sent: None, "returned NoneType, not a tensor"),
        (lambda *sent: {"y": plain(*sent)}, "returned dict, not a tensor"),
        (lambda *sent: plain(*sent)[..., 1:], "returned y of shape"),
        (_lost, "grad_w has no gradient"),
        (_overwrites, "where that is no leaf: x[0, 0, 0, 0] was"),
    ],
)
def test_what_is_no_such_tensor_is_refuted_by_an_entry_it_lacks(candidate: Run, says: str) -> None:
    found = prove_convolution(candidate, honest(PLAIN), PLAIN, explain=False, premise=False)
    assert found.verdict == "refuted", found.reason
    assert says in found.reason
    shown = found.counterexample
    assert shown["expected"]
    assert f"{shown['quantity']}{list(shown['at'])} is to be {shown['expected']!r}" in found.reason


def test_what_is_no_tensor_once_alone_is_not_refuted() -> None:
    calls: list[int] = []

    def sometimes(*sent: Tensor) -> Tensor:
        calls.append(0)
        y = plain(*sent)
        return (y,) if len(calls) == 1 else y  # type: ignore[return-value]

    found = prove_convolution(sometimes, honest(PLAIN), PLAIN, explain=False, premise=False)
    assert found.verdict == "undecided"
    assert "returned tuple, not a tensor, and not so in the next call" in found.reason
