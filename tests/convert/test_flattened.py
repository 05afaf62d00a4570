"""A flattened map says what the map says: pixels and channels on one axis, absent ones nowhere."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.errors import ConversionError
from tests.cases import integers as whole


def given() -> tuple[Any, Tensor, Tensor]:
    """A map whose numbers are all below zero, (3, 32) of it with 0 at holes, and who is there."""
    torch.manual_seed(4)
    mask = torch.rand(3, 4, 4) > 0.4
    x = whole(3, 2, 4, 4) - 9
    there = mask[:, None].expand_as(x).flatten(1)
    return cg.PixelGraph.from_image(x, mask=mask).tensor(), x.flatten(1) * there, there


PER_IMAGE: dict[str, tuple[Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "mean": (lambda t: t.flatten(1).mean(1), torch.mean),
    "largest": (lambda t: t.flatten(1).amax(1), torch.amax),
    "largest and where": (lambda t: t.flatten(1).max(1).values, torch.amax),
    "smallest and largest": (
        lambda t: sum(t.flatten(1).aminmax(dim=1)),
        lambda v: v.amin() + v.amax(),
    ),
    "norm": (lambda t: t.flatten(1).norm(dim=1), torch.norm),
    "the three largest": (lambda t: t.flatten(1).topk(3, 1).values, lambda v: v.topk(3).values),
    "channels last": (lambda t: t.permute(0, 2, 3, 1).flatten(1).mean(1), torch.mean),
    "after a gain of each position": (
        lambda t: (t.flatten(1) * torch.full((32,), 2.0).double()).mean(1),
        lambda v: 2 * v.mean(),
    ),
}


@pytest.mark.parametrize("name", PER_IMAGE)
def test_reductions_count_who_is_there(name: str) -> None:
    """Of numbers that are all below zero a hole read as 0 would be the largest."""
    run, one = PER_IMAGE[name]
    t, flat, there = given()
    want = torch.stack([one(row[own]) for row, own in zip(flat, there, strict=True)])
    assert torch.equal(run(t), want)


def test_a_class_for_every_position_is_one_of_those_there() -> None:
    """Cross entropy over flattened scores, as keypoints are trained: a hole is no class."""
    t, flat, there = given()
    assert torch.equal(t.flatten(1).argmax(1), flat.masked_fill(~there, -99).argmax(1))
    label = there.double().argmax(1)
    scores = torch.zeros_like(flat).masked_fill(~there, -torch.inf).requires_grad_()
    leaf = (t * 0).detach().requires_grad_()  # equal scores, so that every sum is exact
    loss, want = F.cross_entropy(leaf.flatten(1), label), F.cross_entropy(scores, label)
    assert torch.equal(loss, want)
    loss.backward()
    want.backward()
    assert leaf.grad is not None
    assert scores.grad is not None
    # One side may say exp(-log n), log n rounded, for 1 / n; three more roundings on either side.
    bound = (math.log(32) + 6) * 2.0**-53
    apart = leaf.grad.flatten(1).to_dense() - scores.grad
    assert bool((apart.abs() <= bound * (scores.grad.abs() + there.double())).all())


W = whole(5, 32)
AS_ZERO: dict[str, Callable[[Any], Any]] = {
    "a product": lambda f: F.linear(f, W),
    "with a matrix": lambda f: f @ W.T,
    "by letters": lambda f: torch.einsum("bi,oi->bo", f, W),
    "with itself": lambda f: f @ f.T,
    "beside readouts": lambda f: F.linear(
        torch.cat([W[:3, :7], f], 1), torch.cat([W[:, :7], W], 1)
    ),
    "twice": lambda f: F.linear(torch.cat([f, 2 * f], 1), torch.cat([W, W], 1)),
    "two at once": lambda f: F.bilinear(f, f, torch.ones(2, 32, 32).double()),
    "after a norm in evaluation": lambda f: F.batch_norm(f, W[0], W[1].abs() + 1, eps=0),
}


@pytest.mark.parametrize("name", AS_ZERO)
def test_products_hear_nothing_of_holes(name: str) -> None:
    t, flat, there = given()
    found, want = AS_ZERO[name](t.flatten(1)), AS_ZERO[name](flat)
    if want.shape == flat.shape:
        found, want = found.to_dense(), want * there
    assert torch.equal(found, want)


def test_frames_that_are_flattened_are_steps_of_a_recurrence() -> None:
    """A CNN on frames in the batch, and an LSTM over the flattened frames of each film."""
    torch.manual_seed(0)
    t, flat, _ = given()
    lstm, cell = nn.LSTM(32, 4, batch_first=True).double(), nn.GRUCell(32, 4).double()
    for frames in (1, 3):
        film, want = t.flatten(1).view(-1, frames, 32), flat.view(-1, frames, 32)
        assert torch.equal(lstm(film)[0], lstm(want)[0])
        assert torch.equal(cell(film[:, -1]), cell(want[:, -1]))


def test_a_norm_over_all_of_it_is_that_of_the_image() -> None:
    t, _, _ = given()
    weight, bias = whole(2, 4, 4), whole(2, 4, 4)
    want = F.layer_norm(t, [2, 4, 4], weight, bias)
    found = F.layer_norm(t.flatten(1), [32], weight.flatten(), bias.flatten())
    assert torch.equal(found.view(3, 2, 4, 4).to_dense(), want.to_dense())
    apart = F.layer_norm(t.flatten(2), [16], weight[0].flatten(), bias[0].flatten())
    want = F.layer_norm(t, [4, 4], weight[0], bias[0])
    assert torch.equal(apart.view(3, 2, 4, 4).to_dense(), want.to_dense())


@pytest.mark.parametrize(
    "run",
    [
        lambda f: F.batch_norm(f, None, None, training=True),
        lambda f: F.group_norm(f, 4),
        lambda f: F.conv1d(f[:, None], torch.ones(1, 1, 3).double()),
        lambda f: F.max_pool1d(f[:, None], 2),
    ],
)
def test_statistics_and_neighbours_of_flattened_pixels_are_refused(run: Any) -> None:
    """A hole would be one more sample, or one more neighbour."""
    with pytest.raises(ConversionError, match="no meaning on a mask"):
        run(given()[0].flatten(1))


def test_a_flattened_map_is_a_view() -> None:
    t, _, there = given()
    t = t * 1
    t.flatten(1).neg_()
    assert torch.equal(t.to_dense().flatten(1) > 0, there)
