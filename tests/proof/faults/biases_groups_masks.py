"""Faults of the bias, of the blocks of channels, and of absent pixels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import ConvSpec
from tests.proof.faults.forward import heard
from tests.proof.faults.operators import GROUPED, HOLES, MASKED, PLAIN, honest, plain

DEPTHWISE = replace(PLAIN, groups=4)
SIX = replace(GROUPED, in_channels=6)
grouped = honest(GROUPED)
masked = honest(MASKED)


def bias(b: Tensor) -> Tensor:
    return b.view(-1, 1, 1)


def shuffle(y: Tensor) -> Tensor:
    return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def present(x: Tensor) -> Tensor:
    """How many pixels of MASKED each site hears, at least 1."""
    return F.conv2d(HOLES.to(x.dtype), x.new_ones(1, 1, 3, 3), None, 1, 1).clamp(min=1)


def ring(x: Tensor) -> Tensor:
    """1 in the interior, 0 on the border."""
    return F.pad(torch.ones_like(x[..., 1:-1, 1:-1]), (1, 1, 1, 1))


FAULTS: dict[str, tuple[ConvSpec, Callable[..., Any]]] = {
    # the bias
    "bias is lost": (PLAIN, lambda x, w, b: plain(x, w, None) + 0 * b.sum()),
    "bias is added twice": (PLAIN, lambda x, w, b: plain(x, w, 2 * b)),
    "bias is subtracted": (PLAIN, lambda x, w, b: plain(x, w, -b)),
    "bias is added per edge": (PLAIN, lambda x, w, b: plain(x, w, None) + bias(b) * heard(x)),
    "bias is added to the first image only": (
        PLAIN,
        lambda x, w, b: plain(x, w, None) + bias(b) * x.new_tensor([1, 0]).view(2, 1, 1, 1),
    ),
    "bias is added in the interior only": (
        PLAIN,
        lambda x, w, b: plain(x, w, None) + bias(b) * ring(x[:1, :1]),
    ),
    "bias of channel 0 is added to all": (PLAIN, lambda x, w, b: plain(x, w, b[:1].expand(4))),
    "bias is averaged over channels": (PLAIN, lambda x, w, b: plain(x, w, b.mean().expand(4))),
    "bias goes to the next channel": (PLAIN, lambda x, w, b: plain(x, w, b.roll(1))),
    "bias is added before the kernel": (PLAIN, lambda x, w, b: plain(x + bias(b), w, None)),
    "bias is squared": (PLAIN, lambda x, w, b: plain(x, w, b * b)),
    "bias counts when it is positive only": (PLAIN, lambda x, w, b: plain(x, w, b.relu())),
    # groups
    "groups are transposed": (GROUPED, lambda x, w, b: shuffle(grouped(x, w, b))),
    "groups read each other's input": (GROUPED, lambda x, w, b: grouped(x.roll(2, 1), w, b)),
    "groups read one channel too far": (GROUPED, lambda x, w, b: grouped(x.roll(1, 1), w, b)),
    "input channels are shuffled by group": (
        SIX,
        lambda x, w, b: grouped(x[:, [0, 3, 1, 4, 2, 5]], w, b),
    ),
    "groups are ignored": (GROUPED, lambda x, w, b: plain(x, w.repeat(1, 2, 1, 1), b)),
    "all groups share the first one's weight": (
        GROUPED,
        lambda x, w, b: grouped(x, w[:2].repeat(2, 1, 1, 1), b),
    ),
    "the second group is left out": (
        GROUPED,
        lambda x, w, b: F.pad(plain(x[:, :2], w[:2], None), (0, 0, 0, 0, 0, 2)) + bias(b),
    ),
    "depthwise channels are shifted": (
        DEPTHWISE,
        lambda x, w, b: honest(DEPTHWISE)(x, w.roll(1, 0), b),
    ),
    "depthwise taps are the first channel's": (
        DEPTHWISE,
        lambda x, w, b: honest(DEPTHWISE)(x, w[:1].expand_as(w), b),
    ),
    "depthwise is summed over channels": (
        DEPTHWISE,
        lambda x, w, b: plain(x, w.expand(4, 4, 3, 3), b),
    ),
    # masks
    "mask is ignored": (MASKED, plain),
    "mask is applied after, not before": (
        MASKED,
        lambda x, w, b: torch.where(HOLES, plain(x, w, b), 0),
    ),
    "mask is turned round": (
        MASKED,
        lambda x, w, b: torch.where(HOLES, plain(torch.where(HOLES, 0, x), w, b), 0),
    ),
    "bias is added where nothing listens": (
        MASKED,
        lambda x, w, b: plain(torch.where(HOLES, x, 0), w, b),
    ),
    "mask of the first image is used for all": (
        MASKED,
        lambda x, w, b: torch.where(HOLES[:1], plain(torch.where(HOLES[:1], x, 0), w, b), 0),
    ),
    "mask is shifted by a pixel": (
        MASKED,
        lambda x, w, b: torch.where(HOLES, plain(torch.where(HOLES.roll(1, 3), x, 0), w, b), 0),
    ),
    "masked sums are renormalised": (
        MASKED,
        lambda x, w, b: torch.where(
            HOLES,
            plain(torch.where(HOLES, x, 0), w, None) * (9 / present(x)) + bias(b),
            0,
        ),
    ),
    "bias is lost at masked borders": (
        MASKED,
        lambda x, w, b: masked(x, w, None) + torch.where(HOLES, bias(b) * ring(x[:1, :1]), 0),
    ),
    "absent pixels are taken from non-zeros": (
        MASKED,
        lambda x, w, b: torch.where(
            (x != 0).any(1, keepdim=True), plain(torch.where(HOLES, x, 0), w, b), 0
        ),
    ),
}  # fmt: skip
"""Name -> the operator, and what is computed instead."""
