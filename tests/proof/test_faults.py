"""Planted faults: each is a convolution with one mistake, and each must be caught by its part.

A judge that has never been seen to refute proves nothing. The faults are functions f(x, w, b) on
images, written with torch; honest implementations in other styles stand beside them and must pass.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import Certificate, ConvSpec, Oracle, prove_convolution
from convgraph.proof.draws import Plan
from convgraph.proof.identity import check_identity

PLAIN = ConvSpec(4, 4, (3, 3), (6, 7), batch=2, padding=((1, 1), (1, 1)))
STRIDED = replace(PLAIN, stride=(2, 2))
GROUPED = replace(PLAIN, groups=2)
DILATED = replace(PLAIN, dilation=(2, 2), padding=((2, 2), (2, 2)))
UNPADDED = replace(PLAIN, padding=((0, 0), (0, 0)))
REFLECT = replace(PLAIN, padding_mode="reflect")
REPLICATE = replace(PLAIN, padding_mode="replicate")
CIRCULAR = replace(PLAIN, padding_mode="circular")
UNEVEN = replace(PLAIN, padding=((1, 0), (0, 2)))
TRANSPOSED = replace(PLAIN, transposed=True, stride=(2, 2), output_padding=(1, 1))
_HOLES = np.random.default_rng(0).random((2, 6, 7)) < 0.6
MASKED = replace(PLAIN, source_mask=_HOLES, target_mask=_HOLES)
_HOLES_IMAGE = torch.from_numpy(_HOLES).unsqueeze(1)


def honest(spec: ConvSpec) -> Callable[..., Tensor]:
    """The dense operator of a spec, by torch."""

    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if spec.source_mask is not None:
            x = torch.where(_HOLES_IMAGE, x, 0)
        if spec.transposed:
            pads = tuple(a for a, _ in spec.padding)
            y = F.conv_transpose2d(
                x, w, b, spec.stride, pads, spec.output_padding, spec.groups, spec.dilation
            )
        else:
            mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
            x = F.pad(x, [n for pair in reversed(spec.padding) for n in pair], mode=mode)
            y = F.conv2d(x, w, b, spec.stride, 0, spec.dilation, spec.groups)
        return y if spec.target_mask is None else torch.where(_HOLES_IMAGE, y, 0)

    return run


plain = honest(PLAIN)


class _WrongGradient(torch.autograd.Function):
    """The right value, and for x the gradient of the kernel turned by 180 degrees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.conv2d(x, w, b, 1, 1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        wrong = torch.nn.grad.conv2d_input(x.shape, w.flip(-1, -2), g, 1, 1)
        return wrong, torch.nn.grad.conv2d_weight(x, w.shape, g, 1, 1), g.sum((0, 2, 3))


def _changed(y: Tensor, index: tuple[Any, ...]) -> Tensor:
    wrong = y.clone()
    wrong[index] = wrong[index] + 1
    return wrong


def _per_edge(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    heard = F.conv2d(torch.ones_like(x[:, :1]), torch.ones_like(w[:1, :1]), None, 1, 1)
    return F.conv2d(x, w, None, 1, 1) + b.view(1, -1, 1, 1) * heard


def _swap_taps(w: Tensor) -> Tensor:
    order = torch.tensor([0, 1, 2, 3, 5, 4, 6, 7, 8])
    return w.flatten(2)[:, :, order].view_as(w)


def _drop_tap(w: Tensor) -> Tensor:
    keep = torch.ones(9, dtype=w.dtype)
    keep[7] = 0
    return w * keep.view(1, 1, 3, 3)


def _shuffle(y: Tensor) -> Tensor:
    return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


FAULTS: dict[str, tuple[ConvSpec, Callable[..., Tensor]]] = {
    "kernel is flipped": (PLAIN, lambda x, w, b: plain(x, w.flip(-1, -2), b)),
    "kernel is flipped along the width": (PLAIN, lambda x, w, b: plain(x, w.flip(-1), b)),
    "height and width are swapped": (PLAIN, lambda x, w, b: plain(x, w.mT, b)),
    "input and output channels are swapped": (
        PLAIN,
        lambda x, w, b: plain(x, w.transpose(0, 1), b),
    ),
    "padding is shifted by one": (
        PLAIN,
        lambda x, w, b: F.conv2d(F.pad(x, (2, 0, 1, 1)), w, b),
    ),
    "padding before and after are swapped": (
        UNEVEN,
        lambda x, w, b: F.conv2d(F.pad(x, (2, 0, 0, 1)), w, b),
    ),
    "zeros are taken for reflect": (REFLECT, plain),
    "reflect is taken for replicate": (REFLECT, honest(REPLICATE)),
    "replicate is taken for circular": (REPLICATE, honest(CIRCULAR)),
    "circular is taken for zeros": (CIRCULAR, plain),
    "bias is lost": (PLAIN, lambda x, w, b: plain(x, w, None) + 0 * b.sum()),
    "bias is added twice": (PLAIN, lambda x, w, b: plain(x, w, 2 * b)),
    "bias is added per edge": (PLAIN, _per_edge),
    "bias is added where nothing listens": (
        MASKED,
        lambda x, w, b: plain(torch.where(_HOLES_IMAGE, x, 0), w, b),
    ),
    "groups are transposed": (GROUPED, lambda x, w, b: _shuffle(honest(GROUPED)(x, w, b))),
    "groups read each other's input": (
        GROUPED,
        lambda x, w, b: honest(GROUPED)(x.roll(2, 1), w, b),
    ),
    "dilation is ignored along the height": (
        DILATED,
        lambda x, w, b: F.conv2d(x, w, b, 1, (1, 2), (1, 2)),
    ),
    "stride starts one pixel late": (
        STRIDED,
        lambda x, w, b: F.conv2d(F.pad(x, (0, 2, 0, 2)), w, b, 2),
    ),
    "output is one too large": (PLAIN, lambda x, w, b: F.pad(plain(x, w, b), (0, 1))),
    "output is one too small": (PLAIN, lambda x, w, b: plain(x, w, b)[..., :-1]),
    "output padding is ignored": (
        TRANSPOSED,
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1),
    ),
    "transposed kernel is flipped": (
        TRANSPOSED,
        lambda x, w, b: honest(TRANSPOSED)(x, w.flip(-1, -2), b),
    ),
    "gradient of x is lost": (PLAIN, lambda x, w, b: plain(x.detach(), w, b)),
    "gradient of w is lost": (PLAIN, lambda x, w, b: plain(x, w.detach(), b)),
    "gradient of b is lost": (PLAIN, lambda x, w, b: plain(x, w, b.detach())),
    "gradient of x is doubled": (PLAIN, lambda x, w, b: plain(2 * x - x.detach(), w, b)),
    "gradient of w is halved": (PLAIN, lambda x, w, b: plain(x, (w + w.detach()) / 2, b)),
    "gradient of x is that of another kernel": (PLAIN, _WrongGradient.apply),
    "mask is ignored": (MASKED, plain),
    "mask is applied after, not before": (
        MASKED,
        lambda x, w, b: torch.where(_HOLES_IMAGE, plain(x, w, b), 0),
    ),
    "second image is wrong": (PLAIN, lambda x, w, b: _changed(plain(x, w, b), (1,))),
    "second image repeats the first": (
        PLAIN,
        lambda x, w, b: plain(x[:1].expand_as(x), w, b),
    ),
    "last channel is wrong": (
        PLAIN,
        lambda x, w, b: _changed(plain(x, w, b), (slice(None), -1)),
    ),
    "one pixel is wrong": (PLAIN, lambda x, w, b: _changed(plain(x, w, b), (0, 2, 5, 6))),
    "wrong for negative inputs": (PLAIN, lambda x, w, b: plain(x.relu(), w, b)),
    "wrong for x above 100": (PLAIN, lambda x, w, b: plain(x.clamp(max=100), w, b)),
    "a tap is dropped": (PLAIN, lambda x, w, b: plain(x, _drop_tap(w), b)),
    "two taps are swapped": (PLAIN, lambda x, w, b: plain(x, _swap_taps(w), b)),
    "output channels share one weight": (
        PLAIN,
        lambda x, w, b: plain(x, w[:1].expand_as(w), b),
    ),
    "computes in float32": (
        PLAIN,
        lambda x, w, b: plain(x.float(), w.float(), b.float()).double(),
    ),
    "rounds x to bfloat16": (PLAIN, lambda x, w, b: plain(x.bfloat16().double(), w, b)),
    "returns another dtype": (PLAIN, lambda x, w, b: plain(x, w, b).float()),
    "returns a list": (PLAIN, lambda x, w, b: [plain(x, w, b)]),
    "channels are summed before the kernel": (
        PLAIN,
        lambda x, w, b: plain(x.sum(1, keepdim=True).expand_as(x), w, b),
    ),
}  # fmt: skip

HONEST: dict[str, tuple[ConvSpec, Callable[..., Tensor]]] = {
    f"torch, {name}": (spec, honest(spec))
    for name, spec in {
        "plain": PLAIN,
        "strided": STRIDED,
        "grouped": GROUPED,
        "dilated": DILATED,
        "reflect": REFLECT,
        "replicate": REPLICATE,
        "circular": CIRCULAR,
        "uneven": UNEVEN,
        "transposed": TRANSPOSED,
        "masked": MASKED,
    }.items()
}


def _unfolded(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    columns = F.unfold(x, 3, padding=1)
    return (w.flatten(1) @ columns + b.view(1, -1, 1)).view(x.shape[0], -1, *x.shape[2:])


def _shifted(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = F.pad(x, (1, 1, 1, 1))
    height, width = x.shape[2:]
    total = b.view(1, -1, 1, 1).expand(x.shape[0], -1, height, width)
    for i in range(3):
        for j in range(3):
            part = wide[:, :, i : i + height, j : j + width]
            total = total + torch.einsum("bchw,oc->bohw", part, w[:, :, i, j])
    return total


def _strided_view(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    windows = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    return torch.einsum("bchwij,ocij->bohw", windows, w) + b.view(1, -1, 1, 1)


HONEST |= {
    "unfold and a matrix product": (PLAIN, _unfolded),
    "shifted slices": (PLAIN, _shifted),
    "einsum over windows": (PLAIN, _strided_view),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_refuted(name: str) -> None:
    spec, candidate = FAULTS[name]
    found = prove_convolution(candidate, honest(spec), spec)
    assert found.verdict == "refuted", f"{name} was not caught: {found}"
    assert _status(found, "S2 identity") == "refuted"
    assert "candidate" in found.reason


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
    flipped = FAULTS["kernel is flipped"][1]
    found = prove_convolution(flipped, flipped, PLAIN)
    assert found.verdict == "refuted"


EDGE_FAULTS: dict[str, Callable[[Any, Any, Any], tuple[Any, Any, Any]]] = {
    "source and target are swapped": lambda q, p, t: (p, q, t),
    "an edge is missing": lambda q, p, t: (q[1:], p[1:], t[1:]),
    "an edge is there twice": lambda q, p, t: tuple(np.append(a, a[3]) for a in (q, p, t)),
    "taps are numbered backwards": lambda q, p, t: (q, p, t.max() - t),
    "taps run along the columns first": lambda q, p, t: (q, p, t % 3 * 3 + t // 3),
    "an edge points outside": lambda q, p, t: (np.append(q, 84), np.append(p, 0), np.append(t, 0)),
    "all edges are self-loops": lambda q, p, t: (p, p, t),
    "images are mixed up": lambda q, p, t: ((q + 42) % 84, p, t),
}


@pytest.mark.parametrize("name", EDGE_FAULTS)
def test_a_planted_structural_fault_is_refuted(name: str) -> None:
    e = Oracle(PLAIN).edges
    lists = EDGE_FAULTS[name](e.source, e.target, e.tap)
    found = prove_convolution(plain, plain, PLAIN, edges=lambda: lists)
    assert found.verdict == "refuted"
    assert _status(found, "S0 structure") == "refuted"


def test_the_right_edges_in_another_order_are_proven() -> None:
    e = Oracle(PLAIN).edges
    order = np.random.default_rng(1).permutation(len(e.tap))
    lists = (e.source[order], e.target[order], e.tap[order])
    found = prove_convolution(plain, plain, PLAIN, edges=lambda: lists)
    assert _status(found, "S0 structure") == "proven"


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
    poor = Plan(terms=1, bits=53, a=1, trials=20, seed=1)
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
