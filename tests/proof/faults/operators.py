"""The operators that the planted faults are faults of: small, and one of each kind.

May import the judge's spec only: what is planted is written with torch and nothing of ours.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import ConvSpec

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
APART = replace(PLAIN, stride=(3, 3))
_SEEN = np.random.default_rng(0).random((2, 6, 7)) < 0.6
MASKED = replace(PLAIN, source_mask=_SEEN, target_mask=_SEEN)
HOLES = torch.from_numpy(_SEEN).unsqueeze(1)
"""(2, 1, 6, 7) bool: which pixels of MASKED are there."""


def honest(spec: ConvSpec) -> Callable[..., Tensor]:
    """The dense operator of a spec, by torch."""

    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if spec.source_mask is not None:
            x = torch.where(HOLES, x, 0)
        if spec.transposed:
            pads = tuple(a for a, _ in spec.padding)
            y = F.conv_transpose2d(
                x, w, b, spec.stride, pads, spec.output_padding, spec.groups, spec.dilation
            )
        else:
            mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
            x = F.pad(x, [n for pair in reversed(spec.padding) for n in pair], mode=mode)
            y = F.conv2d(x, w, b, spec.stride, 0, spec.dilation, spec.groups)
        return y if spec.target_mask is None else torch.where(HOLES, y, 0)

    return run


plain = honest(PLAIN)


def patches(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """APART, or one of its groups, as a matrix product over windows, which do not meet.

    So every sum is one product's. Where a CPU knows no half types, torch's convolutions add up in
    them, over windows and over images, and leave the bound.
    """
    columns = F.unfold(x, 3, padding=1, stride=3)
    y = F.linear(columns.mT.flatten(0, 1), w.flatten(1), b)
    size = [(n + 2) // 3 for n in x.shape[2:]]
    return y.view(len(x), *size, -1).movedim(-1, 1)


def unfolded(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """PLAIN as one matrix product over the columns of unfold."""
    columns = F.unfold(x, 3, padding=1)
    return (w.flatten(1) @ columns + b.view(1, -1, 1)).view(x.shape[0], -1, *x.shape[2:])


def shifted(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """PLAIN as a sum over taps of shifted slices."""
    wide = F.pad(x, (1, 1, 1, 1))
    height, width = x.shape[2:]
    total = b.view(1, -1, 1, 1).expand(x.shape[0], -1, height, width)
    for i in range(3):
        for j in range(3):
            part = wide[:, :, i : i + height, j : j + width]
            total = total + torch.einsum("bchw,oc->bohw", part, w[:, :, i, j])
    return total


def windows(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """PLAIN as one sum over a strided view of its windows."""
    seen = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    return torch.einsum("bchwij,ocij->bohw", seen, w) + b.view(1, -1, 1, 1)
