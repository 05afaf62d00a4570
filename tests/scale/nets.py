"""Networks that tests cut into parts: strides that divide nothing, folds, pools, skips, resizes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stay(nn.Module):
    """Keeps integers small, whatever the depth: no sum overflows, no value dies."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.remainder(torch.relu(x), 8.0)


class Turned(nn.Module):
    """Channels that change places."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1).flip(-3) + 1


class Skips(nn.Module):
    """A small U-Net: a strided stem, a pool, a transposed step up, skips, nearest resizes."""

    def __init__(self, c: int = 3, stay: Any = Stay) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(2, c, 7, 2, 3), nn.Conv2d(c, c, 3, padding=1)
        self.two, self.pool = nn.Conv2d(c, c, 3, 2, 1), nn.MaxPool2d(3, 2, 1)
        self.mid, self.up = nn.Conv2d(c, c, 3, padding=1), nn.ConvTranspose2d(c, c, 4, 2, 1)
        self.left, self.right = nn.Conv2d(2 * c, c, 3, padding=1), nn.Conv2d(2 * c, 2, 3, padding=1)
        self.stay = stay()

    def forward(self, x: Tensor) -> Tensor:
        s = self.stay(self.one(self.stay(self.stem(x))))
        t = self.stay(self.two(s))
        m = F.interpolate(self.up(self.stay(self.mid(self.pool(t)))), size=t.shape[2:])
        u = F.interpolate(self.stay(self.left(torch.cat([m, t], 1))), size=s.shape[2:])
        return F.interpolate(self.right(torch.cat([u, s], 1)), size=x.shape[2:])


class Masked(nn.Module):
    """Strides, a pool and steps up: what a masked image goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 3, 3, 2, 1),
            Stay(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(3, 3, 3, padding=1),
            Stay(),
        )
        self.up = nn.Upsample(scale_factor=2.0)
        self.last = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.body(x)))


class Volume(nn.Module):
    """What a masked volume goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.pool = nn.Conv3d(2, 3, 3, 2, 1), nn.MaxPool3d(3, 2, 1)
        self.up, self.last = nn.Upsample(scale_factor=2.0), nn.Conv3d(3, 2, 3, padding=1)
        self.stay = Stay()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.pool(self.stay(self.down(x)))))


class Last(nn.Module):
    """Channels last in the middle, as ConvNeXt has them, and groups that are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.mix, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        y = (self.mix(x.permute(0, 2, 3, 1)) * self.scale).permute(0, 3, 1, 2)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        left, right = (x + y).chunk(2, 1)
        return self.two(torch.cat([right, left], 1))[:, :, 1:, ::2]


class Clipped(nn.Module):
    """In place, dropout, a parametrised weight, means over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, stride=2)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.two = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.one(x)))
        x = F.conv2d(
            x, self.two.weight * 2 - self.two.weight.sum((1, 2, 3), keepdim=True), padding=1
        )
        x += 1
        return torch.cat([x.amax(1, keepdim=True), x.sum(1, keepdim=True)], 1)


def conv(*args: Any, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(*args, **kwargs)


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return networks of two channels, each with a size."""
    seq = nn.Sequential
    return {
        "3x3": (seq(conv(2, 3, 3, padding=1), Stay(), conv(3, 2, 3, padding=1)), (13, 11)),
        "strides 2 and 3": (
            seq(conv(2, 3, 7, 2, 3), nn.MaxPool2d(3, 2, 1), conv(3, 2, 3, 3, 1)),
            (37, 29),
        ),
        "1x1 stride 2": (seq(conv(2, 3, 1, 2)), (9, 18)),
        "dilated": (
            seq(conv(2, 3, 3, padding=4, dilation=4), Stay(), conv(3, 2, 3, padding=1)),
            (17, 15),
        ),
        "even": (seq(conv(2, 3, 4, padding=1), Stay(), conv(3, 2, 2, 2)), (16, 13)),
        "padding beyond reach": (seq(conv(2, 3, 3, padding=4), Stay(), conv(3, 2, 3, 2)), (9, 8)),
        "reflect": (
            seq(conv(2, 3, 5, padding=2, padding_mode="reflect"), Stay(), conv(3, 2, 3, 2)),
            (15, 12),
        ),
        "replicate": (
            seq(conv(2, 3, 5, padding=2, padding_mode="replicate"), Stay(), conv(3, 2, 3)),
            (15, 12),
        ),
        "circular": (
            seq(
                conv(2, 3, 3, padding=1), Stay(), conv(3, 2, 5, padding=2, padding_mode="circular")
            ),
            (14, 11),
        ),
        "transposed": (
            seq(
                conv(2, 3, 3, 2, 1),
                Stay(),
                nn.ConvTranspose2d(3, 2, 4, 2, 1),
                conv(2, 2, 5, padding=2),
            ),
            (18, 15),
        ),
        "silent sites": (
            seq(nn.ConvTranspose2d(2, 3, 2, 5, 1, output_padding=2), conv(3, 2, 3, padding=1)),
            (5, 4),
        ),
        "ceil": (
            seq(
                conv(2, 3, 1),
                nn.MaxPool2d(3, 2, ceil_mode=True),
                nn.AvgPool2d(2, 2, 1, ceil_mode=True),
            ),
            (20, 14),
        ),
        "average, own count": (
            seq(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(2, 2, 3)),
            (12, 9),
        ),
        "bilinear by 2": (
            seq(conv(2, 3, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"), conv(3, 2, 3)),
            (16, 12),
        ),
        "shuffles": (
            seq(
                conv(2, 8, 3, padding=1),
                nn.PixelShuffle(2),
                nn.PixelUnshuffle(4),
                conv(32, 2, 3, padding=1),
            ),
            (12, 8),
        ),
        "groups": (
            seq(
                conv(2, 4, 3, padding=1, groups=2),
                nn.BatchNorm2d(4, eps=2.0**-60),  # lost beside 1; not every torch takes 0
                Stay(),
                conv(4, 2, 3, padding=1),
            ),
            (12, 9),
        ),
        "turned channels": (seq(conv(2, 4, 3, padding=1), Turned(), conv(4, 2, 3, 2)), (12, 9)),
        "skips": (Skips(), (45, 38)),
        "channels last": (Last(), (11, 10)),
        "in place": (Clipped(), (15, 14)),
        "volume": (
            nn.Sequential(
                nn.Conv3d(2, 3, 3, padding=1), Stay(), nn.MaxPool3d(2), nn.Conv3d(3, 2, 3, 2, 1)
            ),
            (9, 8, 7),
        ),
        "signal": (
            nn.Sequential(
                nn.Conv1d(2, 3, 5, padding=2), Stay(), nn.AvgPool1d(2), nn.Conv1d(3, 2, 3)
            ),
            (23,),
        ),
    }


def blocks(size: Sequence[int], above: float) -> tuple[Tensor, Tensor]:
    """A mask of blocks of four pixels an axis, a number a block and a number a pixel."""
    drawn = torch.rand([n // 4 for n in size], generator=torch.Generator().manual_seed(1))
    coarse = mask = drawn > above
    for axis in range(len(size)):
        mask = mask.repeat_interleave(4, axis)
    return coarse, mask


def whole(net: nn.Module, size: tuple[int, ...], seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return a network of small whole numbers in float64 and an image of them, (1, 2, *size)."""
    draw = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = torch.randint(-2, 3, p.shape, generator=draw).double()
    x = torch.randint(-3, 4, (1, 2, *size), generator=draw).double()
    return net.double().eval(), x * counted(net)


def counted(net: nn.Module) -> int:
    """Return what every count of an average pool here divides, so that averages are whole."""
    return 36 if any("AvgPool" in type(m).__name__ for m in net.modules()) else 1
