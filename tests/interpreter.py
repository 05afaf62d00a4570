"""What a network means on a mask: the dense network, with holes filled before values move.

Absent sites are filled with the identity of the aggregation, 0 for sums and minus infinity for
maxima, *before* every operator that moves values between sites, and with 0 at the end. Between,
they hold whatever they hold: a norm's bias or a sum of messages that nobody will read. Which sites
are absent follows from the mask of the input and the size alone. Nothing here reads the package.
"""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MOVES = (
    *MAXIMA,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Upsample, nn.PixelShuffle, nn.Flatten,
)  # fmt: skip


def pixels(cell: int, old: int, new: int) -> list[int]:
    """Return the pixels of the root that speak for one position of another size, on one axis."""
    if new > old:
        return [cell * old // new]
    return [p for p in range(old) if p * new // old == cell]


def active(root: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return (B, *size) bool: a site is active when a pixel of its cell is; one site always is."""
    out = torch.zeros(len(root), *size, dtype=torch.bool)
    for image, *cell in product(range(len(root)), *map(range, size)):
        axes = zip(cell, root.shape[1:], size, strict=True)
        heard = product(*(pixels(c, old, new) for c, old, new in axes))
        some = any(bool(root[(image, *p)]) for p in heard)
        out[(image, *cell)] = some or size == (1,) * len(size)
    return out


def fill(x: Tensor, root: Tensor, identity: float) -> Tensor:
    if x.dim() != root.dim() + 1:  # rows after a flatten have no holes
        return x
    return torch.where(there(root, tuple(x.shape[2:])), x, identity)


def there(root: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return (B, 1, *size) bool; each root and size is looked at once."""
    key = (root.shape, bytes(root.numpy()), size)
    if key not in _FOUND:
        _FOUND[key] = active(root, size).unsqueeze(1)
    return _FOUND[key]


_FOUND: dict[Any, Tensor] = {}


def leaves(dense: Any) -> list[Any]:
    return [
        leaf
        for module in dense
        for leaf in (leaves(module) if isinstance(module, nn.Sequential) else [module])
    ]


def interpret(dense: nn.Sequential, image: Tensor, root: Tensor) -> Tensor:
    """Return what the network says on an image whose pixels are there where root is True."""
    x = image
    for module in leaves(dense):
        if isinstance(module, nn.AdaptiveAvgPool2d):  # to one site: a mean over the active ones
            some = there(root, tuple(x.shape[2:]))
            count = some.sum((2, 3), keepdim=True).clamp(min=1)
            x = torch.where(some, x, 0).sum((2, 3), keepdim=True) / count
            continue
        maximum = isinstance(module, MAXIMA)
        if isinstance(module, MOVES):
            x = fill(x, root, -torch.inf if maximum else 0)
        x = module(x)
        if maximum:
            x = torch.where(x == -torch.inf, 0, x)  # a maximum over no message
    return fill(x, root, 0)
