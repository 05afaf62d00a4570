"""A refutation that helps: every known fault is planted, shrunk to its known minimum, and named.

The faults are functions f(x, w, b) on images, written with torch and without the judge's own
model, so that a cause is recognised by its numbers and not by its code.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof import ConvSpec, Counterexample, Oracle, TypedEdge, explain_refutation
from convgraph.proof.record.counterexample import NO_CAUSE
from convgraph.proof.refutation.truth import QUANTITIES, Inputs, measure, operator
from tests.proof.faults import FAULTS
from tests.proof.faults.operators import (
    DILATED,
    GROUPED,
    PLAIN,
    REPLICATE,
    STRIDED,
    TRANSPOSED,
    honest,
    plain,
)
from tests.proof.honest import HONEST

Candidate = Callable[..., Any]
Planted = tuple[ConvSpec, Candidate, str, tuple[int, ...], int]
"""Spec, fault, the cause that must be named, the smallest image and batch that show it."""

WIDE = replace(PLAIN, stride=(1, 2), dilation=(2, 1), padding=((2, 2), (1, 1)))
GAPS = replace(PLAIN, stride=(2, 2), dilation=(1, 1), padding=((0, 0), (0, 0)))
SKEWED = replace(PLAIN, padding=((2, 0), (0, 2)))
SQUARE = replace(PLAIN, size=(5, 5))
TALL = replace(PLAIN, in_channels=2, out_channels=3)


def known(name: str, cause: str, size: tuple[int, ...], batch: int = 1) -> Planted:
    """A fault of the gate."""
    return (FAULTS[name].spec, FAULTS[name].run, cause, size, batch)


def degree(x: Tensor) -> Tensor:
    return F.conv2d(torch.ones_like(x[:, :1]), x.new_ones(1, 1, 3, 3), None, 1, 1)


def rooted(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    own = torch.arange(16, dtype=x.dtype).reshape(4, 4, 1, 1) / 7 - 1
    return plain(x, w, b) + F.conv2d(x, own)


class Scaled(torch.autograd.Function):
    """The identity, with the gradient times a factor that a second derivative does not see."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return w.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.detach() if g.requires_grad else g


CAUSES: dict[str, Planted] = {
    # the kernel
    "flipped": known("kernel is flipped", "the kernel is flipped", (1, 2)),
    "flipped along the width": known(
        "kernel is flipped along the width", "the kernel is flipped along the width", (1, 2)
    ),
    "flipped along the height": (
        PLAIN,
        lambda x, w, b: plain(x, w.flip(-2), b),
        "the kernel is flipped along the height",
        (2, 1),
        1,
    ),
    "axes of the kernel": known(
        "height and width are swapped", "height and width are swapped in the kernel", (1, 2)
    ),
    "tap lost": known("a tap is dropped", "tap (2, 1) is lost", (2, 1)),
    "taps swapped": known("two taps are swapped", "taps (1, 1) and (1, 2) are swapped", (1, 1)),
    "channels of the weight": known(
        "input and output channels are swapped",
        "input and output channels are swapped in the weight",
        (1, 1),
    ),
    "weight read the other way": (
        TALL,
        lambda x, w, b: plain(x, w.reshape(2, 3, 3, 3).transpose(0, 1), b),
        "the weight is read as (in, out) instead of (out, in)",
        (1, 1),
        1,
    ),
    "negative weights": (
        PLAIN,
        lambda x, w, b: plain(x, w.relu(), b),
        "negative weights are cut off at 0",
        (1, 1),
        1,
    ),
    # the edges
    "source and target": (
        SKEWED,
        lambda x, w, b: F.conv_transpose2d(x, w.transpose(0, 1), b)[:, :, 2:, :-2],
        "source and target are swapped",
        (1, 2),
        1,
    ),
    "padding shifted": known(
        "padding is shifted by one", "padding is shifted by one along the width", (1, 1)
    ),
    "padding turned round": known(
        "padding before and after are swapped", "padding before and after are swapped", (2, 1)
    ),
    "padding lost": (
        PLAIN,
        lambda x, w, b: F.conv2d(x, w, b),
        "padding is ignored",
        (3, 3),
        1,
    ),
    "zeros for reflect": known(
        "zeros are taken for reflect", "padding is zeros, not reflect", (2, 2)
    ),
    "replicate for reflect": known(
        "reflect is taken for replicate", "padding is replicate, not reflect", (2, 2)
    ),
    "circular for replicate": known(
        "replicate is taken for circular", "padding is circular, not replicate", (1, 2)
    ),
    "zeros for circular": known(
        "circular is taken for zeros", "padding is zeros, not circular", (1, 1)
    ),
    "reflect for zeros": (
        PLAIN,
        honest(replace(PLAIN, padding_mode="reflect")),
        "padding is reflect, not zeros",
        (2, 2),
        1,
    ),
    "replicate for zeros": (
        PLAIN,
        honest(REPLICATE),
        "padding is replicate, not zeros",
        (1, 1),
        1,
    ),
    "circular along one axis alone": (
        PLAIN,
        lambda x, w, b: F.conv2d(F.pad(F.pad(x, (1, 1, 0, 0), "circular"), (0, 0, 1, 1)), w, b),
        "padding along the width is circular, not zeros",
        (1, 1),
        1,
    ),
    "replicate along one axis alone": (
        replace(PLAIN, padding_mode="reflect"),
        lambda x, w, b: F.conv2d(
            F.pad(F.pad(x, (0, 0, 1, 1), "replicate"), (1, 1, 0, 0), "reflect"), w, b
        ),
        "padding along the height is replicate, not reflect",
        (2, 2),
        1,
    ),
    "stride and dilation": (
        GAPS,
        lambda x, w, b: F.conv2d(x, w, b, 1, 0, 2),
        "stride and dilation are swapped",
        (6, 6),
        1,
    ),
    "stride of the axes": (
        WIDE,
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (2, 1), (2, 1)),
        "stride of height and width is swapped",
        (1, 2),
        1,
    ),
    "stride lost": (
        STRIDED,
        lambda x, w, b: F.conv2d(x, w, b, 1, 1),
        "stride is ignored",
        (1, 2),
        1,
    ),
    "dilation of the axes": (
        replace(DILATED, dilation=(2, 1), padding=((2, 2), (2, 2))),
        lambda x, w, b: F.conv2d(x, w, b, 1, 2, (1, 2)),
        "dilation of height and width is swapped",
        (1, 1),
        1,
    ),
    "dilation lost": known(
        "dilation is ignored along the height",
        "dilation is ignored along the height, in the padding too",
        (2, 1),
    ),
    "windows late": known(
        "stride starts one pixel late", "windows start one pixel late along every axis", (1, 1)
    ),
    "output too large": known(
        "output is one too large",
        "the output is 1 too large along the width and right otherwise",
        (1, 1),
    ),
    "output too small": known(
        "output is one too small",
        "the output is 1 too small along the width and right otherwise",
        (1, 1),
    ),
    "output padding": known("output padding is ignored", "output_padding is ignored", (1, 1)),
    "forward for transposed": (
        replace(TRANSPOSED, stride=(1, 1), output_padding=(0, 0)),
        lambda x, w, b: F.conv2d(x, w, b, 1, 1),
        "a forward convolution is computed, not a transposed one",
        (1, 1),
        1,
    ),
    "root weight": (
        PLAIN,
        rooted,
        "a root weight is added: each node also hears itself through a weight of its own",
        (1, 1),
        1,
    ),
    "mean": (
        PLAIN,
        lambda x, w, b: plain(x, w, 0 * b) / degree(x) + b.view(1, -1, 1, 1),
        "the mean over the edges is taken, not the sum",
        (1, 2),
        1,
    ),
    "scaled": (PLAIN, lambda x, w, b: 3 * plain(x, w, b), "y is scaled by 3", (1, 1), 1),
    "divided by the taps": (
        PLAIN,
        lambda x, w, b: plain(x, w, 0 * b) / 9 + b.view(1, -1, 1, 1),
        "all but the bias is scaled by 1/9",
        (1, 1),
        1,
    ),
    # the bias
    "bias lost": known("bias is lost", "the bias is lost", (1, 1)),
    "bias twice": known("bias is added twice", "the bias is scaled by 2", (1, 1)),
    "bias per edge": known("bias is added per edge", "the bias is added per edge", (1, 2)),
    "bias of the first image": (
        PLAIN,
        lambda x, w, b: plain(x, w, 0 * b)
        + b.view(1, -1, 1, 1) * torch.eye(len(x), dtype=x.dtype)[0].view(-1, 1, 1, 1),
        "the bias is added to the first image only",
        (1, 1),
        2,
    ),
    # channels and groups
    "groups transposed": known(
        "groups are transposed",
        "groups are transposed: output channels are shuffled by group",
        (1, 1),
    ),
    "groups read each other": known(
        "groups read each other's input", "groups read the input of another group (1 further)",
        (1, 1),
    ),
    "input channels shuffled": (
        replace(GROUPED, in_channels=6),
        lambda x, w, b: honest(GROUPED)(x[:, [0, 3, 1, 4, 2, 5]], w, b),
        "groups are transposed: input channels are shuffled by group",
        (1, 1),
        1,
    ),
    "one weight for all": known(
        "output channels share one weight", "all output channels share the first one's weight",
        (1, 1),
    ),
    "channels summed": known(
        "channels are summed before the kernel", "channels are summed before the kernel", (1, 1)
    ),
    "last channel": known(
        "last channel is wrong", "y is wrong only in channel 3 (the last)", (1, 1)
    ),
    # images, pixels, masks
    "second image": known(
        "second image is wrong", "y is wrong only in image 1 (the last)", (1, 1), 2
    ),
    "second image is the first": known(
        "second image repeats the first", "every image gets the result of the first", (1, 1), 2
    ),
    "image transposed": (
        SQUARE,
        lambda x, w, b: plain(x.mT, w, b),
        "height and width are swapped in the image",
        (2, 2),
        1,
    ),
    "mask ignored": known("mask is ignored", "the mask is ignored", (6, 7), 2),
    "mask too late": known(
        "mask is applied after, not before", "the mask is ignored on the way in", (6, 7), 2
    ),
    "absent sites": known(
        "bias is added where nothing listens", "sites that should be absent carry values", (6, 7), 2
    ),
    # the numbers
    "negative inputs": known(
        "wrong for negative inputs", "negative inputs are cut off at 0", (1, 1)
    ),
    "large inputs": known(
        "wrong for x above 100", "it is wrong only where x is above 100", (1, 1)
    ),
    "large negative inputs": (
        PLAIN,
        lambda x, w, b: plain(x.clamp(min=-7), w, b),
        "it is wrong only where x is below -7",
        (1, 1),
        1,
    ),
    "large either way": (
        PLAIN,
        lambda x, w, b: plain(x.clamp(-30, 30), w, b),
        "it is wrong only where |x| is above 30",
        (1, 1),
        1,
    ),
    "bfloat16 of x": known(
        "rounds x to bfloat16", "x is rounded to bfloat16 inside", (1, 1)
    ),
    "float32": known("computes in float32", "it computes in float32 inside", (1, 1)),
    "float16": (
        PLAIN,
        lambda x, w, b: plain(x.half().double(), w.half().double(), b),
        "the gradient of x is rounded to float16",
        (1, 1),
        1,
    ),
    "another dtype": known("returns another dtype", "y has dtype torch.float32", (1, 1)),
    "a list": known("returns a list", "y is of type list, not a tensor", (1, 1)),
    # gradients
    "gradient of x lost": known(
        "gradient of x is lost", "the gradient of x is lost (detached)", (1, 1)
    ),
    "gradient of w lost": known(
        "gradient of w is lost", "the gradient of w is lost (detached)", (1, 1)
    ),
    "gradient of b lost": known(
        "gradient of b is lost", "the gradient of b is lost (detached)", (1, 1)
    ),
    "gradient of x doubled": known(
        "gradient of x is doubled", "the gradient of x is scaled by 2", (1, 1)
    ),
    "gradient of w halved": known(
        "gradient of w is halved", "the gradient of w is scaled by 1/2", (1, 1)
    ),
    "gradient of another kernel": known(
        "gradient of x is that of another kernel",
        "the gradient of x is that of another operator: the kernel is flipped",
        (1, 2),
    ),
    "second derivative lost": (
        PLAIN,
        lambda x, w, b: plain(x, Scaled.apply(w), b),
        "the second derivative by x is lost (detached)",
        (1, 1),
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSES)
def test_a_planted_fault_is_shrunk_and_its_cause_is_named(name: str) -> None:
    spec, candidate, cause, size, batch = CAUSES[name]
    found = explain_refutation(candidate, honest(spec), spec)
    assert found is not None
    assert cause in (found.cause, *found.also), str(found)
    assert (tuple(found.spec["size"]), found.spec["batch"]) == (size, batch), str(found)
    assert max(len(line) for line in str(found).splitlines()) <= 100
    assert Counterexample.from_dict(json.loads(json.dumps(found.to_dict()))) is not None


OTHERS = (
    "transposed kernel is flipped",
    "one pixel is wrong",
)
"""Faults whose cause may be named in more than one way; any will do."""


@pytest.mark.parametrize("name", OTHERS)
def test_other_faults_are_shrunk_and_explained(name: str) -> None:
    fault = FAULTS[name]
    found = explain_refutation(fault.run, honest(fault.spec), fault.spec)
    assert found is not None
    assert found.cause, str(found)


@pytest.mark.parametrize("name", HONEST)
def test_what_is_right_is_left_alone(name: str) -> None:
    spec, candidate = HONEST[name]
    assert explain_refutation(candidate, honest(spec), spec) is None


def flipped(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return plain(x, w.flip(-1), b)


def found_in(candidate: Candidate, reference: Candidate, spec: ConvSpec, **how: Any) -> Any:
    found = explain_refutation(candidate, reference, spec, **how)
    assert found is not None
    return found


def test_the_case_names_tap_channels_pixel_numbers_and_edges() -> None:
    found = found_in(flipped, plain, PLAIN)
    assert (found.quantity, found.index, found.found, found.expected) == ("y", (0, 0, 0, 1), 0, 1)
    assert found.sent["x"] == (((0, 0, 0, 0), 1),)
    assert found.sent["w"] == (((0, 0, 1, 0), 1),)
    assert (found.tap, found.channels) == ((1, 0), (0, 0))
    assert found.edges == (TypedEdge(0, (0, 0), (1, 0), (0, 1)),)
    assert "pixel (0, 0) --tap (1, 0)--> site (0, 1)" in str(found)


def test_where_the_message_went_instead_is_told() -> None:
    found = found_in(FAULTS["height and width are swapped"].run, plain, PLAIN)
    assert found.found_edges == (TypedEdge(0, (0, 0), (0, 1), (0, 1)),)


def test_the_value_from_which_on_it_is_wrong_is_found() -> None:
    found = found_in(FAULTS["wrong for x above 100"].run, plain, PLAIN)
    assert found.sent["x"][0][1] == 101


def test_a_faulty_reference_is_blamed() -> None:
    assert found_in(plain, flipped, PLAIN).side == "reference"


def test_one_size_only_is_respected_and_said() -> None:
    def tied(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return flipped(x.view(2, 4, 6, 7), w, b)

    found = found_in(tied, plain, PLAIN)
    assert (found.spec["batch"], tuple(found.spec["size"])) == (2, (6, 7))
    assert "no smaller image shows it" in " ".join(str(found).split())
    assert found.cause == "the kernel is flipped along the width"


def test_what_no_fault_predicts_is_said_to_be_unknown() -> None:
    found = found_in(lambda x, w, b: plain(x, w, b) + plain(x, w, b) ** 2, plain, PLAIN)
    assert found.cause == ""
    assert NO_CAUSE in str(found)


def test_a_candidate_that_raises_is_shrunk_too() -> None:
    def broken(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise KeyError("lost")

    assert "raised KeyError" in str(found_in(broken, plain, PLAIN))


def test_only_the_quantity_that_was_asked_for_is_looked_at() -> None:
    assert found_in(flipped, plain, PLAIN, quantity="grad_w").quantity == "grad_w"
    assert explain_refutation(plain, plain, PLAIN, quantity="grad_w") is None
    with pytest.raises(ProofError, match="expected quantity to be one of"):
        explain_refutation(plain, plain, PLAIN, quantity="grad_z")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda q, p, t: (p, q, t), "source and target are swapped in the edge list"),
        (lambda q, p, t: (q, p, 8 - t), "taps are numbered backwards in the edge list"),
        (
            lambda q, p, t: (q, p, t % 3 * 3 + t // 3),
            "taps are numbered along the columns first in the edge list",
        ),
        (lambda q, p, t: (p, p, t), "all edges are self-loops in the edge list"),
        (lambda q, p, t: ((q + 42) % 84, p, t), "images are mixed up in the edge list"),
    ],
)
def test_the_edges_tell_apart_what_the_numbers_do_not(change: Any, cause: str) -> None:
    e = Oracle(PLAIN).edges
    lists = change(e.source, e.target, e.tap)
    found = found_in(flipped, plain, PLAIN, edges=lambda: lists)
    # (With stride 1 and equal padding, backward taps are the swapped ends, edge by edge.)
    assert cause in (found.cause, *found.also)


@pytest.mark.parametrize("name", HONEST)
def test_the_model_is_torch_s_operator_up_to_second_derivatives(name: str) -> None:
    spec, run = HONEST[name]
    oracle = Oracle(spec)
    inputs = Inputs.random(oracle, np.random.default_rng(0), 1000)
    one, two = measure(operator(spec), inputs, QUANTITIES), measure(run, inputs, QUANTITIES)
    assert set(one) == set(QUANTITIES)
    assert all(np.array_equal(one[quantity], two[quantity]) for quantity in QUANTITIES)


def test_a_record_with_a_field_too_few_is_refused() -> None:
    values = found_in(flipped, plain, PLAIN).to_dict()
    del values["cause"]
    with pytest.raises(ProofError, match="expected a counterexample with the fields"):
        Counterexample.from_dict(values)
