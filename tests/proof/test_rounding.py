"""The derived bounds: TF32's is kept and nearly reached; a bound that says nothing is none."""

from typing import Any

import numpy as np
import pytest
import torch

from convgraph.proof import Oracle, rounding
from convgraph.proof.rounding import U11, bounds, check_rounding, dot_bound
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
    monkeypatch.setattr(rounding, "unit_roundoff", lambda dtype: 2.0**-6)
    found = checked(plain, tf32=False)
    assert found.status == "undecided"
    assert "the bound of grad_w says nothing" in found.reason
