"""Networks in which two orders of summation give the same bits, although they are deep.

Weights are dyadic with few digits and `Snap` rounds every activation to multiples of 2^-20, so that
each sum between two snaps is exact. What two ways of computing such a network may differ by is then
nothing, or a difference in meaning: an error above 2^-21 at any activation stays in the result.
"""

import sys
from collections.abc import Callable
from math import ceil, log2
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 2.0**-10
"""Of batch norms: a variance of 1 - EPS has the root 1."""

GRAIN = 2.0**20


class Snap(nn.Module):
    """Round to multiples of 2^-20, with the gradient of the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.round(x * GRAIN) / GRAIN - x).detach()


INEXACT = (
    nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.GELU, nn.SiLU, nn.Sigmoid,
    nn.Hardswish, nn.Hardsigmoid, nn.AdaptiveAvgPool2d,
)  # fmt: skip
"""Modules whose results have more digits than they were given."""


def snapped(model: Any) -> Any:
    """Put a `Snap` behind every module that makes digits."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, INEXACT) and not isinstance(module, Snapped):
                setattr(module, name, Snapped(child))
    return model


class Snapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.snap = Snap()

    def forward(self, x: Tensor) -> Tensor:
        return self.snap(self.inner(x))


def excite(model: Any) -> Any:
    """In float64 and evaluation, with dyadic parameters of which none is a neutral constant."""
    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eps = EPS
                module.running_mean.copy_(dyadic(module.running_mean.shape, 3))
                module.running_var.fill_(1 - EPS)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan = max(parameter[0].numel(), 1)
                parameter.copy_(dyadic(parameter.shape, 2 + ceil(log2(fan) / 2)))
            else:
                parameter.copy_(1 + dyadic(parameter.shape, 4))
    return model


def dyadic(shape: Any, digits: int) -> Tensor:
    """Whole numbers from -7 to 7 over 2^digits."""
    return torch.randint(-7, 8, tuple(shape)).double() / 2**digits


def image(batch: int, channels: int, *size: int) -> Tensor:
    return dyadic((batch, channels, *size), 2)


# Networks, smallest idea first; each takes two channels unless it says more


class Plain(nn.Sequential):
    """Convolutions, norms, pools, and a classifier behind a readout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6),
            nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
        )  # fmt: skip


class Residual(nn.Module):
    """A stride of 2 beside a 1 x 1 projection, whose kernel is smaller than its stride."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.short = nn.Conv2d(2, 4, 1, 2, bias=False)
        self.norm2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.norm(self.first(x))))
        y += self.norm2(self.short(x))
        return F.relu_(y)


class Depthwise(nn.Module):
    """Two inverted residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inside, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True),
                nn.Conv2d(6, 6, 3, stride, 1, groups=6, bias=False), nn.BatchNorm2d(6),
                nn.ReLU6(inplace=True), nn.Conv2d(6, 3, 1, bias=False), nn.BatchNorm2d(3),
            )
            for inside, stride in ((2, 2), (3, 1))
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        return x + self.blocks[1](x)


class Gate(nn.Module):
    """Squeeze and excitation: a readout node that talks back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(4, 2, 1)
        self.up = nn.Conv2d(2, 4, 1)
        self.open = nn.Sigmoid()
        self.last = nn.Conv2d(4, 2, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(x * self.open(self.up(F.relu(self.down(self.pool(x))))))


class UNet(nn.Module):
    """Skips over two sizes; one resize is bilinear, one nearest, one a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            for n in (2, 4, 4)
        )
        self.back = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1)
        self.mix = nn.Conv2d(8, 4, 3, padding=1)
        self.last = nn.Conv2d(12, 2, 3, padding=1)
        self.snap = Snap()

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        third = self.down[2](F.avg_pool2d(second, 2, ceil_mode=True))
        wide = F.interpolate(third, size=second.shape[2:], mode="bilinear", align_corners=False)
        y = self.mix(torch.cat([self.snap(wide), second], 1))
        far = F.interpolate(y, size=first.shape[2:], mode="nearest")
        back = self.back(y)[..., : first.shape[2], : first.shape[3]]
        back = F.pad(back, (0, first.shape[3] - back.shape[3], 0, first.shape[2] - back.shape[2]))
        return self.snap(self.last(torch.cat([far, back, first], 1)))


class NextBlock(nn.Module):
    """A patched stem and one ConvNeXt block: NHWC, layer norm, GELU, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 4, 4)
        self.depth = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.norm = nn.LayerNorm(4)
        self.wide = nn.Linear(4, 8)
        self.act = nn.GELU()
        self.narrow = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.narrow(self.act(self.wide(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


class ResponseNorm(nn.Module):
    """How large a channel is over the image, beside the mean of all channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.ones(width))
        self.snap = Snap()

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        n = self.snap(size / (size.mean(-1, keepdim=True) + EPS))
        return x + self.weight * (x * n) + self.bias


class Pretrained(nn.Module):
    """A ConvNeXt-V2 block between two patched convolutions, as masked pretraining runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 4, 4)
        self.depth = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.norm = nn.LayerNorm(4)
        self.wide = nn.Linear(4, 8)
        self.act = nn.GELU()
        self.respond = ResponseNorm(8)
        self.snap = Snap()
        self.narrow = nn.Linear(8, 4)
        self.down = nn.Conv2d(4, 6, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.narrow(self.snap(self.respond(self.act(self.wide(y)))))
        return self.down(x + y.permute(0, 3, 1, 2))


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 3, 3, padding=1))
            for n in (2, 5, 8)
        )
        self.pool = nn.AvgPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return self.pool(torch.cat(found, 1))


class Attention(nn.Module):
    """The complete graph of an image's nodes, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 5, 5)
        self.norm = nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12)
        self.last = nn.Linear(4, 4)
        self.snap = Snap()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.flatten(2).transpose(1, 2)
        three = self.qkv(self.norm(tokens)).reshape(-1, tokens.shape[1], 3, 2, 2)
        q, k, v = three.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = tokens + self.last(self.snap(y))
        return y.transpose(1, 2).reshape(x.shape)


class Norms(nn.Module):
    """Norms that pool over the sites of each image, and a mean, a maximum and a sum over them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.group = nn.GroupNorm(2, 4)
        self.second = nn.Conv2d(4, 4, 3, 2)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.snap = Snap()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.instance(self.second(self.group(self.conv(x))))
        return y, self.snap(y.mean((2, 3))), y.amax((2, 3)), y.sum((2, 3), keepdim=True)


class Moments(nn.Module):
    """A spread over all sites and their mean, in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, 2)
        self.snap = Snap()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        spread, mean = torch.var_mean(self.conv(x), (2, 3), correction=0)
        return self.snap(spread), self.snap(mean)


class Moves(nn.Module):
    """Pads, crops, rolls, flips and shuffles: every site hears one other, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)
        self.last = nn.Conv2d(2, 3, 3)
        self.snap = Snap()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, (2, 1, 0, 3), mode="reflect"))
        y = F.pad(y, (1, 0, 2, 1), value=0.5).roll((1, -2), (2, 3)).flip(3)
        y = F.max_pool2d(y[:, :, 1:-2, 3:] - 4, 3, 2, 1, ceil_mode=True)
        y = F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
        return self.last(F.pad(F.pixel_shuffle(self.snap(y), 2), (1, 1, 1, 1), mode="replicate"))


NETS: dict[str, Callable[[], Any]] = {
    "plain": Plain, "residual": Residual, "depthwise": Depthwise, "gate": Gate, "unet": UNet,
    "next block": NextBlock, "dense": Dense, "attention": Attention, "norms": Norms,
    "moves": Moves, "moments": Moments, "pretrained": Pretrained,
}  # fmt: skip


def build(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return excite(snapped(NETS[name]()))


# Published networks


def zoo(name: str) -> Any:
    """Return a network of torchvision without trained weights; skip where it is not installed."""
    found = models()
    more = {"weights_backbone": None, "num_classes": 3} if name.startswith("deeplab") else {}
    return excite(snapped(found.get_model(name, weights=None, **more)))


def models() -> Any:
    """Return torchvision.models, beside a torch whose wheel does not match its operators."""
    if "torchvision" not in sys.modules:
        declare()
    return pytest.importorskip("torchvision.models", exc_type=ImportError)


def declare() -> None:
    """Declare the two operators that torchvision's import asks for, unless they are there."""
    for name, signature in (
        ("nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
        ("qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
    ):
        if not hasattr(torch.ops.torchvision, name):
            _LIBRARY.define(f"{name}{signature}")


_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
