"""Backend `dense`: what it does to an image before torch sees it."""

import pytest
import torch
from torch.nn import functional as F

from convgraph.backends.dense.conv import folded
from tests.cases import integers


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize(
    ("size", "padding"),
    [((5,), [(2, 1)]), ((4, 6), [(0, 3), (2, 2)]), ((3, 4, 5), [(1, 2), (3, 0), (0, 0)])],
)
def test_margins_from_slices_are_torchs(
    size: tuple[int, ...], padding: list[tuple[int, int]], mode: str
) -> None:
    image = integers(2, 3, *size).requires_grad_()
    pads = [n for pair in reversed(padding) for n in pair]
    ours, theirs = folded(image, padding, mode), F.pad(image, pads, mode=mode)
    assert torch.equal(ours, theirs)
    g = torch.arange(ours.numel(), dtype=ours.dtype).view_as(ours) % 11 - 5
    assert torch.equal(*(torch.autograd.grad(y, image, g)[0] for y in (ours, theirs)))
