"""Faults of the value: the kernel, the window, the padding, the scale."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import ConvSpec
from tests.proof.faults.operators import (
    CIRCULAR,
    DILATED,
    PLAIN,
    REFLECT,
    REPLICATE,
    STRIDED,
    TRANSPOSED,
    UNEVEN,
    UNPADDED,
    honest,
    plain,
)

SKEWED = replace(PLAIN, padding=((2, 0), (0, 2)))
GAPS = replace(UNPADDED, stride=(2, 2))
WIDE = replace(PLAIN, stride=(1, 2), dilation=(2, 1), padding=((2, 2), (1, 1)))
UPWARD = replace(TRANSPOSED, stride=(1, 1), output_padding=(0, 0))


def changed(y: Tensor, index: tuple[Any, ...], by: float = 1.0) -> Tensor:
    """Return y with a number added to some entries."""
    wrong = y.clone()
    wrong[index] = wrong[index] + by
    return wrong


def heard(x: Tensor) -> Tensor:
    """How many pixels each site of PLAIN hears."""
    return F.conv2d(torch.ones_like(x[:, :1]), x.new_ones(1, 1, 3, 3), None, 1, 1)


def swap_taps(w: Tensor) -> Tensor:
    order = torch.tensor([0, 1, 2, 3, 5, 4, 6, 7, 8])
    return w.flatten(2)[:, :, order].view_as(w)


def drop_tap(w: Tensor) -> Tensor:
    keep = torch.ones(9, dtype=w.dtype)
    keep[7] = 0
    return w * keep.view(1, 1, 3, 3)


def own(x: Tensor) -> Tensor:
    """A weight of one's own for the node itself, which nobody asked for."""
    root = torch.arange(16, dtype=x.dtype).reshape(4, 4, 1, 1) / 8 - 1
    return F.conv2d(x, root)


def by_place(w: Tensor, place: tuple[int, int], factor: float) -> Tensor:
    scale = torch.ones(3, 3, dtype=w.dtype)
    scale[place] = factor
    return w * scale


FAULTS: dict[str, tuple[ConvSpec, Callable[..., Any]]] = {
    # the kernel
    "kernel is flipped": (PLAIN, lambda x, w, b: plain(x, w.flip(-1, -2), b)),
    "kernel is flipped along the width": (PLAIN, lambda x, w, b: plain(x, w.flip(-1), b)),
    "kernel is flipped along the height": (PLAIN, lambda x, w, b: plain(x, w.flip(-2), b)),
    "kernel is turned by 90 degrees": (PLAIN, lambda x, w, b: plain(x, w.rot90(1, (2, 3)), b)),
    "kernel is rolled by a tap": (PLAIN, lambda x, w, b: plain(x, w.roll(1, -1), b)),
    "kernel is made symmetric": (PLAIN, lambda x, w, b: plain(x, (w + w.flip(-1)) / 2, b)),
    "height and width are swapped": (PLAIN, lambda x, w, b: plain(x, w.mT, b)),
    "input and output channels are swapped": (
        PLAIN,
        lambda x, w, b: plain(x, w.transpose(0, 1), b),
    ),
    "a tap is dropped": (PLAIN, lambda x, w, b: plain(x, drop_tap(w), b)),
    "two taps are swapped": (PLAIN, lambda x, w, b: plain(x, swap_taps(w), b)),
    "the centre tap counts twice": (PLAIN, lambda x, w, b: plain(x, by_place(w, (1, 1), 2), b)),
    "one tap is off by 2^-30": (
        PLAIN,
        lambda x, w, b: plain(x, by_place(w, (0, 2), 1 + 2.0**-30), b),
    ),
    "only the centre row is used": (
        PLAIN,
        lambda x, w, b: F.conv2d(x, w[:, :, 1:2], b, 1, (0, 1)),
    ),
    "output channels share one weight": (PLAIN, lambda x, w, b: plain(x, w[:1].expand_as(w), b)),
    "output channels are in reverse order": (PLAIN, lambda x, w, b: plain(x, w.flip(0), b.flip(0))),
    "input channels are in reverse order": (PLAIN, lambda x, w, b: plain(x, w.flip(1), b)),
    "the last input channel is not read": (
        PLAIN,
        lambda x, w, b: plain(x[:, :3], w[:, :3], b),
    ),
    "channels are summed before the kernel": (
        PLAIN,
        lambda x, w, b: plain(x.sum(1, keepdim=True).expand_as(x), w, b),
    ),
    # the window
    "padding is shifted by one": (PLAIN, lambda x, w, b: F.conv2d(F.pad(x, (2, 0, 1, 1)), w, b)),
    "padding before and after are swapped": (
        UNEVEN,
        lambda x, w, b: F.conv2d(F.pad(x, (2, 0, 0, 1)), w, b),
    ),
    "padding is ignored": (PLAIN, lambda x, w, b: F.conv2d(x, w, b)),
    "padding of one axis is that of the other": (
        SKEWED,
        lambda x, w, b: F.conv2d(F.pad(x, (2, 0, 0, 2)), w, b),
    ),
    "zeros are taken for reflect": (REFLECT, plain),
    "reflect is taken for replicate": (REFLECT, honest(REPLICATE)),
    "replicate is taken for circular": (REPLICATE, honest(CIRCULAR)),
    "circular is taken for zeros": (CIRCULAR, plain),
    "reflect is taken for zeros": (PLAIN, honest(REFLECT)),
    "replicate is taken for zeros": (PLAIN, honest(REPLICATE)),
    "circular along the width only": (
        CIRCULAR,
        lambda x, w, b: F.conv2d(
            F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1)), w, b
        ),
    ),
    "dilation is ignored": (DILATED, plain),
    "dilation is ignored along the height": (
        DILATED,
        lambda x, w, b: F.conv2d(x, w, b, 1, (1, 2), (1, 2)),
    ),
    "dilation of the axes is swapped": (
        replace(DILATED, dilation=(2, 1)),
        lambda x, w, b: F.conv2d(F.pad(x, (2, 2, 2, 2)), w, b, 1, 0, (1, 2)),
    ),
    "stride starts one pixel late": (
        STRIDED,
        lambda x, w, b: F.conv2d(F.pad(x, (0, 2, 0, 2)), w, b, 2),
    ),
    "stride is ignored": (STRIDED, plain),
    "stride repeats instead of skipping": (
        STRIDED,
        lambda x, w, b: plain(x, w, b)[:, :, :3, :4],
    ),
    "stride of height and width is swapped": (
        WIDE,
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (2, 1), (2, 1)),
    ),
    "stride and dilation are swapped": (GAPS, lambda x, w, b: F.conv2d(x, w, b, 1, 0, 2)),
    "output is one too large": (PLAIN, lambda x, w, b: F.pad(plain(x, w, b), (0, 1))),
    "output is one too small": (PLAIN, lambda x, w, b: plain(x, w, b)[..., :-1]),
    "output has its axes exchanged": (PLAIN, lambda x, w, b: plain(x, w, b).mT),
    "output has channels last": (PLAIN, lambda x, w, b: plain(x, w, b).movedim(1, -1)),
    "output padding is ignored": (TRANSPOSED, lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1)),
    "output padding lies before, not behind": (
        TRANSPOSED,
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 0)[:, :, : 12, : 14],
    ),
    "transposed kernel is flipped": (
        TRANSPOSED,
        lambda x, w, b: honest(TRANSPOSED)(x, w.flip(-1, -2), b),
    ),
    "transposed channels are swapped": (
        TRANSPOSED,
        lambda x, w, b: honest(TRANSPOSED)(x, w.transpose(0, 1), b),
    ),
    "a forward convolution is taken for a transposed one": (
        UPWARD,
        lambda x, w, b: F.conv2d(x, w, b, 1, 1),
    ),
    "a transposed convolution is taken for a forward one": (
        PLAIN,
        lambda x, w, b: F.conv_transpose2d(x, w, b, 1, 1),
    ),
    # the sum
    "the mean is taken, not the sum": (
        PLAIN,
        lambda x, w, b: plain(x, w, None) / heard(x) + b.view(-1, 1, 1),
    ),
    "the sum is divided by the taps": (
        PLAIN,
        lambda x, w, b: plain(x, w, None) / 9 + b.view(-1, 1, 1),
    ),
    "the maximum of two channels is taken": (
        PLAIN,
        lambda x, w, b: torch.maximum(plain(x, w, b), plain(x, w, b).flip(1)),
    ),
    "y is scaled by 2": (PLAIN, lambda x, w, b: 2 * plain(x, w, b)),
    "y has the wrong sign": (PLAIN, lambda x, w, b: -plain(x, w, b)),
    "y is off by a factor of 1 + 2^-25": (PLAIN, lambda x, w, b: plain(x, w, b) * (1 + 2.0**-25)),
    "a constant of 2^-20 is added": (PLAIN, lambda x, w, b: plain(x, w, b) + 2.0**-20),
    "a root weight is added": (PLAIN, lambda x, w, b: plain(x, w, b) + own(x)),
    "the image is added": (PLAIN, lambda x, w, b: plain(x, w, b) + x),
    "the convolution is applied twice": (PLAIN, lambda x, w, b: plain(plain(x, w, None), w, b)),
    # one place
    "second image is wrong": (PLAIN, lambda x, w, b: changed(plain(x, w, b), (1,))),
    "second image repeats the first": (PLAIN, lambda x, w, b: plain(x[:1].expand_as(x), w, b)),
    "second image is added to the first": (PLAIN, lambda x, w, b: plain(x + x.flip(0), w, b)),
    "images are exchanged": (PLAIN, lambda x, w, b: plain(x.flip(0), w, b)),
    "last channel is wrong": (PLAIN, lambda x, w, b: changed(plain(x, w, b), (slice(None), -1))),
    "last channel is the first": (
        PLAIN,
        lambda x, w, b: torch.cat([plain(x, w, b)[:, :3], plain(x, w, b)[:, :1]], 1),
    ),
    "one pixel is wrong": (PLAIN, lambda x, w, b: changed(plain(x, w, b), (0, 2, 5, 6))),
    "one pixel is off by 2^-40": (
        PLAIN,
        lambda x, w, b: changed(plain(x, w, b), (1, 0, 0, 0), 2.0**-40),
    ),
    "the corner is not written": (
        PLAIN,
        lambda x, w, b: torch.where(torch.arange(42).view(6, 7) < 41, plain(x, w, b), 0),
    ),
    "the last row is that above it": (
        PLAIN,
        lambda x, w, b: plain(x, w, b)[:, :, [0, 1, 2, 3, 4, 4]],
    ),
}  # fmt: skip
"""Name -> the operator, and what is computed instead."""
