"""Autocast: the dtypes that torch's convolutions take, in nested blocks, backward and a proof."""

import copy
from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph import autocast
from tests.cases import BACKENDS, holes

CPU = torch.device("cpu")


def cast(**how: Any) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, **how)


def test_what_it_asks_for() -> None:
    assert not autocast.enabled(CPU)
    with cast():
        assert autocast.enabled(CPU)
        assert not autocast.enabled(torch.device("meta"))
        assert autocast.wanted(torch.ones(1)) == torch.bfloat16
        assert autocast.wanted(torch.ones(1).double()) == torch.float64
        assert autocast.wanted(torch.ones(1, device="meta")) == torch.float32
        with autocast.off(CPU):
            assert not autocast.enabled(CPU)
            assert autocast.wanted(torch.ones(1)) == torch.float32
        assert autocast.enabled(CPU), "what was on is on again"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_blocks_nest_as_torchs_do(backend: str, dtype: torch.dtype) -> None:
    conv = torch.nn.Conv2d(3, 4, 3, padding=1, dtype=dtype)
    layer = cg.nn.GraphConv2d.from_dense(conv)
    layer.backend = backend
    image = torch.rand(1, 3, 5, 6, dtype=dtype)
    graph = cg.PixelGraph.from_image(image)
    with cast():
        assert layer(graph).dtype == conv(image).dtype
        with cast(enabled=False):
            assert layer(graph).dtype == conv(image).dtype == dtype
        assert layer(graph).dtype == conv(image).dtype
    assert layer(graph).dtype == dtype


def test_float64_stays_and_mixing_it_is_refused() -> None:
    """As torch: its convolutions cast no float64, so a float32 weight beside it does not fit."""
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 5, 6).double())
    layer = cg.nn.GraphConv2d(3, 4, 3)
    with cast(), pytest.raises(cg.errors.DtypeError, match=r"x has dtype torch.float64 but weight"):
        layer(graph)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inside", [True, False])
def test_backward_is_the_same_within_the_block(backend: str, inside: bool) -> None:
    """A backward that runs within the block casts nothing a second time."""
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1, groups=1, backend=backend)
    mask = None if backend == "dense" else holes(2, (5, 6))
    graph = cg.PixelGraph.from_image(torch.rand(2, 3, 5, 6), mask)
    half = copy.deepcopy(layer).bfloat16()
    g = torch.rand(layer(graph).x.shape).bfloat16()
    y = half(graph.to(torch.bfloat16)).x
    truth = torch.autograd.grad(y, list(half.parameters()), g)
    with cast():
        y = layer(graph).x
        if inside:
            found = torch.autograd.grad(y, list(layer.parameters()), g)
    if not inside:
        found = torch.autograd.grad(y, list(layer.parameters()), g)
    assert all(torch.equal(a, b.float()) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize(
    "context", [cast, torch.no_grad, torch.inference_mode], ids=["autocast", "no_grad", "inference"]
)
def test_a_proof_runs_in_its_own_precision(context: Any) -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1)
    layer = cg.nn.GraphConv2d.from_dense(conv)
    plain = cg.prove(layer, conv, size=(5, 6), seed=3)
    with context():
        found = cg.prove(layer, conv, size=(5, 6), seed=3)
    assert found.verdict == plain.verdict == "proven"
    assert found.dtype == plain.dtype
