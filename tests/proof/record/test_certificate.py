"""The numbers and the record of a certificate: epsilon, bounds, JSON, width, TF32."""

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convgraph.errors import ProofError
from convgraph.proof import (
    Certificate,
    ConvSpec,
    Oracle,
    bounds,
    dot_bound,
    precision,
    prove_convolution,
    prove_linear,
    unit_roundoff,
)
from convgraph.proof.draws import ENTROPY_BITS, budget

SPEC = ConvSpec(3, 4, (3, 3), (6, 6), padding=((1, 1), (1, 1)))


def same(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, w, b, 1, 1)


@pytest.fixture(scope="module")
def proven() -> Certificate:
    return prove_convolution(same, same, SPEC, seed=7)


def test_the_default_leaves_2_to_the_minus_100(proven: Certificate) -> None:
    assert proven.verdict == "proven"
    assert proven.log2_epsilon <= -100
    assert proven.a**2 * Oracle(SPEC).terms() <= 2**53


@pytest.mark.parametrize(("a", "variables"), [(1, 2), (2, 2), (3, 2), (1, 3)])
def test_the_chance_of_a_miss_is_at_most_two_mu(a: int, variables: int) -> None:
    """Every nonzero form with small coefficients, on every point of a tiny field, counted."""
    points = range(-a, a + 1)
    worst = Fraction(0)
    coefficients = itertools.product((-1, 0, 1, 2), repeat=variables)
    for chosen in coefficients:
        if not any(chosen):
            continue
        zeros = total = 0
        for x in itertools.product(points, repeat=variables):
            for w in points:
                total += 1
                zeros += sum(c * v for c, v in zip(chosen, x, strict=True)) * w == 0
        worst = max(worst, Fraction(zeros, total))
    mu = Fraction(1, 2 * a + 1)
    assert worst <= 1 - (1 - mu) ** 2 <= 2 * mu


def test_a_seed_replays_and_entropy_is_wide(proven: Certificate) -> None:
    again = prove_convolution(same, same, SPEC, seed=7)
    assert again.rho_exact == proven.rho_exact
    seeds = {budget(10, "float64").seed for _ in range(8)}
    assert len(seeds) == 8
    assert max(seeds).bit_length() > ENTROPY_BITS - 8


def test_no_room_for_integers_is_undecided() -> None:
    with pytest.raises(ProofError, match="no room for integers"):
        budget(2**25, "float32")
    spec = ConvSpec(1, 1, (1, 1), (4, 4))
    found = prove_convolution(F.conv2d, F.conv2d, spec, dtype=torch.float32)
    assert found.verdict == "proven"
    with pytest.raises(ProofError, match="epsilon"):
        prove_convolution(F.conv2d, F.conv2d, spec, epsilon=0)


def test_every_sum_stays_below_its_bound_and_a_bound_of_zero_is_zero() -> None:
    """Against exact fractions: products of float32 are exact in float64, fsum rounds once."""
    rng = np.random.default_rng(3)
    for terms in (1, 7, 500):
        x = rng.standard_normal(terms).astype(np.float32)
        w = rng.standard_normal(terms).astype(np.float32)
        products = [float(a) * float(b) for a, b in zip(x, w, strict=True)]
        got = np.float32(0)
        for a, b in zip(x, w, strict=True):
            got = np.float32(got + np.float32(a * b))
        off = abs(float(got) - math.fsum(products))
        assert off <= float(dot_bound(terms, torch.float32, math.fsum(map(abs, products))))
    assert float(dot_bound(0, torch.float64, 0.0)) == 0
    assert math.isinf(float(dot_bound(2**24, torch.float32, 1.0)))
    assert unit_roundoff(torch.bfloat16) == 2.0**-8


def test_bounds_have_the_shapes_of_what_they_bound() -> None:
    oracle = Oracle(SPEC)
    x, w, b, g = (np.ones(s) for s in (SPEC.x_shape, SPEC.w_shape, (4,), oracle.y_shape))
    found = bounds(oracle, x, w, b, g, torch.float64)
    assert found.y.shape == oracle.y_shape
    assert found.grad_x.shape == SPEC.x_shape
    assert found.grad_w.shape == SPEC.w_shape
    assert found.grad_b is not None
    # A corner hears 4 taps of 3 channels and the bias; 13 terms of 1 each.
    assert found.y[0, 0, 0, 0] == dot_bound(13, torch.float64, 13.0)


def test_it_prints_in_100_columns_and_goes_to_json_and_back(
    proven: Certificate, tmp_path: object
) -> None:
    lines = str(proven).splitlines()
    assert max(map(len, lines)) <= 100
    assert "S2 identity" in str(proven)
    path = f"{tmp_path}/certificate.json"
    text = proven.to_json(path)
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == json.loads(text)
    assert Certificate.from_json(text).to_json() == text
    with pytest.raises(ProofError, match="expected the JSON of a certificate"):
        Certificate.from_json("{}")


def test_a_certificate_is_no_bool(proven: Certificate) -> None:
    with pytest.raises(ProofError, match="undecided"):
        bool(proven)


def test_linear_operators_are_proven_and_refuted() -> None:
    shape = (2, 3, 4, 6)
    right = lambda x: F.avg_pool2d(x, 2)  # noqa: E731
    found = prove_linear(right, right, shape, terms=4, scale=4)
    assert found.verdict == "proven"
    assert found.log2_epsilon <= -100
    for wrong in (
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 2) * 4,
        lambda x: F.avg_pool2d(x.flip(-1), 2),
        lambda x: F.avg_pool2d(x.detach(), 2),
        lambda x: F.avg_pool2d(x, 2, ceil_mode=True)[..., 1:],
        lambda x: F.avg_pool2d(x[:1].expand_as(x), 2),
    ):
        assert prove_linear(wrong, right, shape, terms=4, scale=4).verdict == "refuted"
    with pytest.raises(ProofError, match="half types"):
        prove_linear(right, right, shape, terms=4, dtype=torch.float16)


def test_tf32_is_stated() -> None:
    assert precision.state("cpu") == {"tf32": "not applicable on cpu"}


def test_tf32_is_set_and_restored() -> None:
    before = precision.state("cuda")
    with precision.ieee_float32("cuda"):
        inside = precision.state("cuda")
        assert not torch.backends.cudnn.allow_tf32, "old and new switches agree"
        with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):  # reads old ones
            pass
    assert all(value in ("ieee", "False") for value in inside.values())
    assert precision.state("cuda") == before


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cuda_is_proven(dtype: torch.dtype) -> None:
    found = prove_convolution(same, same, SPEC, dtype=dtype, device="cuda")
    assert found.verdict == "proven", str(found)


def test_no_text_of_a_side_moves_the_cursor(proven: Certificate) -> None:
    """What is raised, a name and a file's name are the candidate's own words: a terminal obeys."""
    text = "\x1b[1A\x1b[2Kproven \u202e\r\n\a"

    def raises(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise ValueError(text)

    found = replace(prove_convolution(raises, same, SPEC), name=text, layers=(proven,))
    assert found.verdict == "undecided"
    assert "ValueError: \\x1b[1A" in found.reason
    back = Certificate.from_json(found.to_json())
    for shown in (found.reason, found.parts[1].facts, str(found), found.to_html(), str(back)):
        assert all(one.isprintable() for one in shown.replace("\n", "")), repr(shown)
    assert "\n" not in found.reason
    assert found.digest == back.digest
