"""Spaces, sizes and kernels that the tests of spaces share; a tiling is the truth of a torus."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg

SPACES: list[tuple[Any, tuple[int, int]]] = [
    (cg.Torus(), (8, 12)),
    (cg.Torus(rows=False), (6, 8)),
    (cg.Torus(columns=False), (8, 6)),
    (cg.Hexagonal(), (7, 9)),
    (cg.HEALPix(), (48, 4)),
    (cg.HEALPix(corner="mean"), (48, 4)),
    (cg.HEALPix(corner="absent"), (48, 4)),
    (cg.Equirectangular(taps="wrap"), (8, 16)),
    (cg.Equirectangular(), (8, 16)),
]
"""Every space with its settings, and the size of an array that lies in it."""

KERNELS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 5, "padding": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": (1, 3), "padding": (0, 1)},
    {"kernel_size": 3, "padding": 1, "groups": 2},
]
"""Arguments of convolutions that fit all of them."""


class UNet(torch.nn.Module):
    """A small one: max pool, bilinear up, skip, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.down = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.deep = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.up = torch.nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1)
        self.last = torch.nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x).relu()
        two = self.down(F.max_pool2d(one, 3, 2, 1)).relu()
        two = two + self.up(self.deep(two))
        wide = F.interpolate(two, scale_factor=2, mode="bilinear")
        return self.last(torch.cat([one, wide], dim=1))


def integers(*shape: int, seed: int = 0, most: int = 4) -> Tensor:
    """Return whole numbers in float64, so that sums of them are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator).double()


def whole(module: Any, seed: int = 0) -> Any:
    """Give a module whole numbers for parameters."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = integers(*parameter.shape, seed=seed + number)
    return module


def tiled(image: Tensor, times: int = 5) -> Tensor:
    """Repeat images along both axes."""
    return image.repeat(1, 1, times, times)


def middle(image: Tensor, times: int = 5) -> Tensor:
    """Return the tile in the middle."""
    height, width = image.shape[2] // times, image.shape[3] // times
    first = times // 2
    return image[:, :, first * height : (first + 1) * height, first * width : (first + 1) * width]
