"""Networks whose masks move: pads, crops, unpadded kernels, skips between maps of other places."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.scale.nets import Stay, conv


class Of(nn.Module):
    """A function of an image, between two convolutions that a mask stays under."""

    def __init__(self, call: Callable[[Tensor], Tensor], channels: int = 2) -> None:
        super().__init__()
        self.call = call
        self.one = nn.Conv2d(2, 2, 3, padding=1)
        self.two = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.call(self.one(x)))


class Valid(nn.Module):
    """The first U-Net: no pads, and skips that are cropped to what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(2, 3, 3), conv(3, 3, 3)
        self.up, self.last = nn.ConvTranspose2d(3, 3, 2, 2), conv(6, 2, 3)
        self.stay = Stay()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stay(self.one(x))
        y = self.up(self.stay(self.two(F.max_pool2d(x, 2))))
        top, left = ((a - b) // 2 for a, b in zip(x.shape[2:], y.shape[2:], strict=True))
        x = x[:, :, top : top + y.shape[2], left : left + y.shape[3]]
        return self.last(torch.cat([x, y], 1))


def sums(x: Tensor) -> Tensor:
    """Maps of one size and other places, one of them upside down the other."""
    left, right = x[:, :, :-2, 1:], x[:, :, 2:, :-1]
    return torch.cat([left + right, left * right], 1)


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return networks of two channels, each with a size."""
    seq = nn.Sequential
    return {
        "unpadded": (seq(conv(2, 3, 3), Stay(), conv(3, 2, (1, 4))), (12, 13)),
        "padded beyond": (seq(conv(2, 3, 3, padding=3), Stay(), conv(3, 2, 3)), (11, 12)),
        "even": (seq(conv(2, 3, 4, padding=1), Stay(), conv(3, 2, 3, padding="same")), (12, 9)),
        "dilated": (seq(conv(2, 3, 3, dilation=2), conv(3, 2, 3, 2, 3)), (15, 14)),
        "wide pads, stride": (seq(conv(2, 3, 3, 2, 3), Stay(), conv(3, 2, 3, 3, 5)), (14, 15)),
        "reflect": (
            seq(conv(2, 3, 5, padding=2, padding_mode="reflect"), Stay(), conv(3, 2, 3)),
            (11, 9),
        ),
        "replicate": (
            seq(conv(2, 3, 5, padding=2, padding_mode="replicate"), Stay(), conv(3, 2, 3)),
            (11, 9),
        ),
        "circular": (
            seq(conv(2, 3, 3, padding=1, padding_mode="circular"), Stay(), conv(3, 2, 3)),
            (9, 12),
        ),
        "folded, then a stride": (
            seq(conv(2, 3, 3, 2, 1, padding_mode="reflect"), nn.Upsample(scale_factor=2.0)),
            (12, 10),
        ),
        "circular, a stride, back": (
            seq(
                conv(2, 3, 3, 3, 2, padding_mode="circular"),
                nn.ConvTranspose2d(3, 3, 3, 3),
                conv(3, 2, 3),
            ),
            (12, 15),
        ),
        "pads of numbers": (
            Of(lambda x: F.pad(F.pad(x, (1, 2, 0, 1), value=2.0), (0, 1, 1, 0))),
            (9, 8),
        ),
        "a pad of nothing": (
            Of(lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 2)),
            (12, 11),
        ),
        "crops": (Of(lambda x: F.pad(x, (-2, 1, 0, -3))[:, :, 1:]), (13, 12)),
        "every second": (Of(lambda x: x[:, :, 1::2, ::3]), (15, 13)),
        "every second, then a stride": (
            Of(lambda x: F.avg_pool2d(x[:, :, ::2] * 4, 2)),
            (16, 9),
        ),
        "shuffles": (
            seq(conv(2, 8, 3), nn.PixelShuffle(2), nn.PixelUnshuffle(4), conv(32, 2, 3)),
            (14, 10),
        ),
        "a pool that moves": (
            seq(nn.MaxPool2d(3, 1), conv(2, 2, 3, padding=1), nn.MaxPool2d(2, 2, 1)),
            (12, 13),
        ),
        "transposed": (
            seq(conv(2, 3, 3, 2, 1), nn.ConvTranspose2d(3, 2, 5, 2, 1, output_padding=1)),
            (12, 9),
        ),
        "transposed, stride 1": (
            seq(nn.ConvTranspose2d(2, 3, 4, padding=1), conv(3, 2, 3)),
            (9, 9),
        ),
        "own counts": (
            seq(conv(2, 2, 3), nn.AvgPool2d(2, 1, 1, count_include_pad=False)),
            (10, 11),
        ),
        "valid U-Net": (Valid(), (22, 18)),
        "places that meet": (Of(sums, 4), (12, 11)),
        "meeting, then a stride": (
            Of(lambda x: F.interpolate(F.max_pool2d(sums(x), 2), scale_factor=2.0), 4),
            (12, 11),
        ),
        "a signal": (nn.Sequential(nn.Conv1d(2, 3, 4), Stay(), nn.Conv1d(3, 2, 3, 2, 3)), (19,)),
        "a volume": (
            nn.Sequential(nn.Conv3d(2, 2, 3), Stay(), nn.ReflectionPad3d(1), nn.Conv3d(2, 2, 2)),
            (6, 7, 5),
        ),
    }
