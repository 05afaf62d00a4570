"""Networks that hear their whole map, on numbers whose statistics are whole."""

import torch
from torch import nn

from tests.scale.nets import Stay, whole


class Gated(nn.Module):
    """Two gates of whole numbers: a mean over the map, two linear maps, a product."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.gate, self.again = nn.Linear(4, 4), nn.Conv2d(4, 4, 1)
        self.stay = Stay()

    def forward(self, x):
        x = self.stay(self.one(x)) * 64  # so that means over 64 pixels are whole
        x = x * self.stay(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = self.stay(self.two(x)) * 64
        return x + self.again(nn.functional.adaptive_avg_pool2d(x, 1))


class Tokens(nn.Module):
    """Patches are tokens, which attend to each other; a readout, and a map at full size."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.stem, self.patch = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last, self.stay, self.dense = nn.Conv2d(12, 3, 3, padding=1), Stay(), dense

    def forward(self, x):
        x = self.stay(self.stem(x))
        p = self.stay(self.patch(x))
        t = p.flatten(2).transpose(1, 2)
        t = torch.round(self.attention(t, t, t)[0])  # whole numbers go on
        if not self.dense:
            return t.amax(1)
        up = nn.functional.interpolate(t.transpose(1, 2).reshape(p.shape), scale_factor=4.0)
        return self.last(torch.cat([x, up], 1))


def classifier():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), Stay(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    return whole(net, (16, 8))


def signed(norm):
    """A norm whose statistics are whole, behind a convolution, before another."""
    norm.eps = 1e-30
    net = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), norm, nn.Conv2d(4, 2, 3, padding=1))
    net, x = whole(net, (8, 8))
    net[0].weight.data.zero_()
    net[0].weight.data[:, 0] = 2
    x[:, 0] = torch.tensor([1.0, -1.0]).double().repeat(32).view(8, 8)
    return net, x


def attending():
    """Every token hears all alike, so that sums are whole."""
    net, x = whole(Tokens(dense=True), (16, 24))
    net.attention.in_proj_weight.data.zero_()
    net.attention.in_proj_weight.data[16:] = 2.0**-3
    net.stay = nn.Identity()
    for name in ("patch", "last", "stem"):
        getattr(net, name).weight.data *= 4
    return net, x[..., :16]  # sixteen tokens
