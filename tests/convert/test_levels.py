"""Nodes of several lattices as one sequence, as detectors end: each level is what it is alone.

The truth is the same head on the levels as images with 0 in their holes; an absent token is 0, is
not attended to and is no part of a mean. Entries are whole numbers, and attention keeps 20 bits.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from convgraph.convert import tokens
from convgraph.errors import ConversionError
from tests.convert.zoo.snap import snap

BATCH, CHANNELS = 2, 6


def pyramid() -> tuple[list[Any], list[Tensor], list[Tensor]]:
    """Three levels of a masked image, as maps and as images, and who is there."""
    torch.manual_seed(0)
    mask = torch.rand(BATCH, 8, 12) > 0.3
    mask[:, :5, :7] = False
    x = torch.randint(-3, 4, (BATCH, CHANNELS, 8, 12)).double()
    maps = [cg.PixelGraph.from_image(x, mask=mask).tensor()]
    for _ in range(2):
        kernel = torch.randint(-1, 2, (CHANNELS, CHANNELS, 3, 3)).double()
        maps.append(nn.functional.conv2d(maps[-1], kernel, stride=2, padding=1).detach())
    there = [one.graph.mask.view(BATCH, *one.shape[2:]) for one in maps]
    maps = [one.detach().requires_grad_() for one in maps]
    return maps, [one.to_dense().detach().requires_grad_() for one in maps], there


def by_anchor(levels: Any) -> Any:
    """Two anchors a pixel side by side, as in RetinaNet, and the best class of each."""
    out = []
    for x in levels:
        b, _, h, w = x.shape
        out.append(x.view(b, 2, -1, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, 3))
    joined = torch.cat(out, 1)
    return joined, joined.amax(-1)


def by_distance(levels: Any) -> Any:
    """Boxes around fixed points, channels mixed by a kernel of one, classes beside, as in YOLO."""
    joined = torch.cat([x.flatten(2) for x in levels], 2)
    boxes, classes = joined.split((4, 2), 1)
    count = joined.shape[2]
    points, strides = torch.arange(2 * count).view(1, 2, count), torch.arange(count).view(1, -1)
    mixed = nn.functional.conv2d(
        boxes.view(-1, 2, 2, count).transpose(2, 1), torch.tensor([[[[2.0]], [[-1.0]]]]).double()
    ).view(-1, 2, count)
    return torch.cat((points - mixed, (mixed + points) * strides, classes), 1)


def apart_again(levels: Any) -> Any:
    """Levels that are split again are maps, and convolved as such."""
    joined = torch.cat([x.flatten(2) for x in levels], 2) * 2
    parts = joined.split([x.shape[2] * x.shape[3] for x in levels], 2)
    kernel = torch.ones(1, CHANNELS, 3, 3).double()
    return [
        nn.functional.conv2d(part.view(x.shape), kernel, padding=1)
        for part, x in zip(parts, levels, strict=True)
    ]


HEADS: dict[str, Callable[[Any], Any]] = {
    "by_anchor": by_anchor,
    "by_distance": by_distance,
    "apart_again": apart_again,
}


def absent(out: Tensor, there: list[Tensor]) -> Tensor:
    """What a head says of images, 0 where no node is."""
    for part in there:
        if out.dim() == 4 and out.shape[2:] == part.shape[1:]:
            return out * part.unsqueeze(1)
    joined = torch.cat([part.flatten(1) for part in there], 1)
    (dim,) = (d for d, n in enumerate(out.shape) if n % joined.shape[1] == 0)
    joined = joined.repeat_interleave(out.shape[dim] // joined.shape[1], 1)
    return out * joined.view(BATCH, *(n if d == dim else 1 for d, n in enumerate(out.shape) if d))


def differ(name: str) -> bool:
    """Whether a head on maps and its truth differ in an entry or in a gradient."""
    maps, images, there = pyramid()
    seen = []
    for levels in (maps, images):
        out = HEADS[name](levels)
        outs = [out] if isinstance(out, Tensor) else list(out)
        if levels is maps:
            outs = [one.to_dense() for one in outs]
        else:
            outs = [absent(one, there) for one in outs]
        weights = [torch.arange(one.numel()).view_as(one) % 7 for one in outs]
        sum((one * w).sum() for one, w in zip(outs, weights, strict=True)).backward()
        grads = [x.grad.to_dense() if levels is maps else x.grad for x in levels]
        seen.append([*outs, *grads])
    parts = [part.unsqueeze(1) for part in there]
    seen[1][-3:] = [grad * part for grad, part in zip(seen[1][-3:], parts, strict=True)]
    return any(not torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_over_levels_is_the_one_over_images(name: str) -> None:
    assert not differ(name)


def test_attention_and_means_are_over_whom_all_levels_have() -> None:
    maps, images, there = pyramid()
    layer = nn.TransformerEncoderLayer(CHANNELS, 2, 8, 0.0, batch_first=True).double()
    joined, whole = (torch.cat([x.flatten(2) for x in one], 2).mT for one in (maps, images))
    present = torch.cat([part.flatten(1) for part in there], 1)
    got = layer(joined)
    want = layer(whole, src_key_padding_mask=~present) * present.unsqueeze(2)
    assert torch.equal(snap(got.to_dense().detach(), None), snap(want.detach(), None))
    mean = want.sum(1) / present.sum(1, keepdim=True)
    assert torch.equal(snap(got.mean(1).detach(), None), snap(mean.detach(), None))


def test_a_kernel_does_not_reach_from_one_level_to_the_next() -> None:
    maps, _, _ = pyramid()
    joined = torch.cat([x.flatten(2) for x in maps], 2)
    with pytest.raises(ConversionError, match="reaches from one token beside nodes to another"):
        nn.Conv1d(CHANNELS, 2, 3, padding=1).double()(joined)


def test_numbers_of_another_level_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    digit = tokens.TokenSites.digit

    def planted(self: Any, name: Any) -> Tensor:
        found = digit(self, name)
        return found if name.axis >= 0 or name.kind != "site" else (found + 1) % name.size

    monkeypatch.setattr(tokens.TokenSites, "digit", planted)  # each hears its neighbour's number
    assert differ("by_distance")
