"""What a network means on a mask: the dense network, with holes filled before values move.

Absent sites are filled with the identity of the aggregation, 0 for sums and minus infinity for
maxima, *before* every operator that moves values between sites, and with 0 at the end. Between,
they hold whatever they hold: a norm's bias or a sum of messages that nobody will read. Which sites
are absent follows from the mask of the input and from where a map lies. Nothing here reads the
package.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from convgraph.proof.equation import map_positions
from convgraph.proof.equation.map_positions import MapPositions

MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
KERNELS = (
    *MAXIMA, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip
REVERSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MOVES = (*KERNELS, *REVERSED, nn.Upsample, nn.PixelShuffle, nn.Flatten)


def fill(x: Tensor, place: MapPositions | None, identity: float) -> Tensor:
    if place is None or x.dim() != place.root.dim() + 1:  # rows after a flatten have no holes
        return x
    return torch.where(place.there.unsqueeze(1), x, identity)


def leaves(dense: Any) -> list[Any]:
    return [
        leaf
        for module in dense
        for leaf in (leaves(module) if isinstance(module, nn.Sequential) else [module])
    ]


def each(value: Any, axis: int) -> int:
    return value[axis] if isinstance(value, tuple) else value


def after(module: Any, place: MapPositions, size: tuple[int, ...]) -> MapPositions:
    """Where the outputs of a module lie."""
    if isinstance(module, REVERSED):
        return place.step(
            lambda k, e: map_positions.reversed_kernel(
                e, size[k], each(module.kernel_size, k), each(module.stride, k),
                each(module.padding, k), each(module.dilation, k),
            )
        )  # fmt: skip
    if isinstance(module, KERNELS):
        pads = module.padding
        return place.step(
            lambda k, e: map_positions.kernel(
                e, size[k], each(module.kernel_size, k), each(module.stride, k),
                (each(pads, k),) * 2, each(getattr(module, "dilation", 1), k),
            )
        )  # fmt: skip
    return place.scaled(size)


def interpret(dense: nn.Sequential, image: Tensor, root: Tensor) -> Tensor:
    """Return what the network says on an image whose pixels are there where root is True."""
    x, place = image, MapPositions.of(root)
    for module in leaves(dense):
        if isinstance(module, nn.AdaptiveAvgPool2d):  # to one site: a mean over the active ones
            some = place.there.unsqueeze(1)
            count = some.sum((2, 3), keepdim=True).clamp(min=1)
            x = torch.where(some, x, 0).sum((2, 3), keepdim=True) / count
            place = place.scaled((1, 1))
            continue
        maximum = isinstance(module, MAXIMA)
        if isinstance(module, MOVES):
            x = fill(x, place, -torch.inf if maximum else 0)
        x = module(x)
        if isinstance(module, MOVES) and x.dim() == root.dim() + 1:
            place = after(module, place, tuple(x.shape[2:]))
        if maximum:
            x = torch.where(x == -torch.inf, 0, x)  # a maximum over no message
    if x.dim() == root.dim() + 1 and prod(x.shape[2:]) == 1:
        return x
    return fill(x, place, 0)
