"""The derived bounds: TF32's is kept and nearly reached; a bound that says nothing is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.proof import Oracle, precision, prove_convolution, roundoff
from convgraph.proof.layer import rounding
from convgraph.proof.layer.rounding import bounds, check_rounding
from convgraph.proof.roundoff import U11, dot_bound
from tests.proof.faults.dtypes import kept_to
from tests.proof.faults.operators import PLAIN, plain


def short(bits: int) -> Any:
    """PLAIN on operands of so many bits, as a tensor core takes them."""
    keep = kept_to(bits)
    return lambda x, w, b: plain(keep(x), keep(w), b)


def checked(run: Any, *, tf32: bool) -> rounding.Rounding:
    generator = np.random.Generator(np.random.Philox(7))
    return check_rounding(run, plain, Oracle(PLAIN), generator, dtype=torch.float32, tf32=tf32)


def test_operands_of_11_bits_are_within_the_bound_of_tf32_only() -> None:
    found = checked(short(11), tf32=True)
    assert found.status == "proven", found
    assert "under TF32" in found.reference
    assert checked(short(11), tf32=False).status == "refuted"
    assert checked(short(5), tf32=True).status == "refuted"


def test_the_bound_of_tf32_is_nearly_reached() -> None:
    """Every operand lies just above a tie and is rounded up: half the bound would be exceeded."""
    oracle = Oracle(PLAIN)
    value = 1 + U11 + 2.0**-22
    x, w = np.full(PLAIN.x_shape, value), np.full(PLAIN.w_shape, value)
    b, g = np.zeros(4), np.ones(oracle.y_shape)
    sent = [torch.from_numpy(v).float() for v in (x, w, b)]
    assert all((t.double().numpy() == v).all() for t, v in zip(sent, (x, w, b), strict=True))
    error = np.abs(short(11)(*sent).double().numpy() - oracle.convolve(x, w, b))
    bound = bounds(oracle, x, w, b, g, torch.float32, tf32=True).y
    ratio = (error / bound).max()
    assert 0.99 < ratio <= 1


@pytest.mark.parametrize("n", [1, 37, 2**20])
def test_the_bound_of_tf32_is_the_written_one(n: int) -> None:
    u = 2.0**-24
    written = 2 * U11 + U11**2 + n * u * (1 + U11) ** 2
    found = float(dot_bound(n, torch.float32, 1.0, tf32=True))
    assert written <= found <= written * (1 + 2.0**-20)
    assert np.isinf(dot_bound(2**24, torch.float32, 1.0, tf32=True))


def test_a_bound_that_says_nothing_of_a_gradient_is_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """84 products in an entry of grad_w, 37 in one of y: between them lies 1 / u."""
    for module in (roundoff, rounding):
        monkeypatch.setattr(module, "unit_roundoff", lambda dtype: 2.0**-6)
    found = checked(plain, tf32=False)
    assert found.status == "undecided"
    assert "the bound of grad_w says nothing" in found.reason


# -- the judge, where TF32 is on: emulated, as a device whose products round while nobody asks for
# -- IEEE float32


class Device:
    """Rounds operands to so many bits unless a proof has switched that off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ieee = False
        monkeypatch.setattr(precision, "allows_tf32", lambda device: True)
        monkeypatch.setattr(precision, "ieee_float32", self.off)

    @contextmanager
    def off(self, device: Any) -> Iterator[None]:
        before, self.ieee = self.ieee, True
        yield
        self.ieee = before

    def products(self, bits: int) -> Any:
        def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return plain(x, w, b) if self.ieee else short(bits)(x, w, b)

        return run


def test_where_tf32_is_on_rounding_is_judged_under_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    run = device.products(11)
    found = prove_convolution(run, run, PLAIN, dtype=torch.float32, seed=3)
    parts = {part.name: part for part in found.parts}
    assert found.verdict == "proven", found.reason
    assert parts["S3 rounding"].status == parts["S3 under TF32"].status == "proven"
    assert "if operands are rounded to nearest" in parts["S3 under TF32"].facts
    assert rounding.TF32_CONDITION in found.assumed
    assert not device.ieee
    wide = prove_convolution(run, run, PLAIN, dtype=torch.float64, seed=3, premise=False)
    assert "S3 under TF32" not in {part.name for part in wide.parts}


def test_one_side_that_rounds_more_under_tf32_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    found = prove_convolution(device.products(5), device.products(11), PLAIN, dtype=torch.float32)
    assert found.verdict == "undecided"
    assert found.reason.endswith("or its kernel rounds operands otherwise")
    assert rounding.TF32_CONDITION in found.assumed


def test_where_both_round_more_under_tf32_it_is_measured_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Device(monkeypatch).products(5)
    found = prove_convolution(run, run, PLAIN, dtype=torch.float32)
    assert found.verdict == "proven"
    part = next(part for part in found.parts if part.name == "S3 under TF32")
    assert part.status == "measured only"
    assert "as is the reference's" in part.facts


def test_a_fault_in_exact_arithmetic_is_refuted_whatever_tf32_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch)
    run = device.products(11)
    found = prove_convolution(
        lambda x, w, b: run(x, w.flip(-1), b), run, PLAIN, dtype=torch.float32
    )
    assert found.verdict == "refuted"


@pytest.mark.gpu
@pytest.mark.parametrize("allowed", [False, True])
def test_cuda_is_judged_under_tf32_where_that_is_on(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    value: Any
    for path, name, ieee in precision._switches():
        value = ieee if not allowed else ("tf32" if isinstance(ieee, str) else True)
        monkeypatch.setattr(precision._holder(path), name, value)
    assert precision.allows_tf32("cuda") == allowed
    conv = torch.nn.Conv2d(3, 4, 3, padding=1).cuda()
    found = cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(8, 9))
    assert precision.allows_tf32("cuda") == allowed
    under = [part for part in found.parts if part.name == "S3 under TF32"]
    assert len(under) == allowed
    assert (rounding.TF32_CONDITION in found.assumed) == allowed
    assert all(part.status in ("proven", "measured only", "undecided") for part in under)
    assert found.verdict == ("undecided" if "undecided" in [p.status for p in under] else "proven")
