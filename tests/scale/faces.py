"""Networks on images in spaces, and the truth: the converted network on all of one."""

from typing import Any

import torch
from torch import Tensor, nn

import convgraph as cg
from tests.scale.nets import Stay
from tests.spaces.cases import integers
from tests.spaces.cases import whole as numbered


class Short(nn.Module):
    """Down and up: fewer sums, where each tap is a fraction of a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.stay = nn.Conv2d(2, 4, 3, stride=2, padding=1), Stay()
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.stay(self.down(x)))


class Pools(nn.Module):
    """Maxima and averages over edges, counted and not, and linear resizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool = nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.mean = nn.AvgPool2d(3, 1, 1, count_include_pad=False, divisor_override=8)
        self.other = nn.AvgPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        low = self.mean(self.pool(self.first(x)))
        return nn.functional.interpolate(low, scale_factor=2.0, mode=self.mode) + x - (
            nn.functional.interpolate(self.other(x), scale_factor=2.0)
        )  # fmt: skip

    mode = "bilinear"


class Net(nn.Module):
    """A stride, a max pool, a transposed step up, a resize, a skip, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.stay = nn.Conv2d(2, 4, 3, padding=1), Stay()
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.last = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.stay(self.first(x))
        two = self.stay(self.down(one))
        low = nn.functional.interpolate(nn.functional.avg_pool2d(one, 2), scale_factor=2.0)
        return self.last(torch.cat([low + self.up(two), one], 1))


def truth(net: nn.Module, x: Tensor, space: Any, head: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The converted network on the whole, and all its gradients."""
    image = x.clone().requires_grad_()
    graph = cg.to_graph(net)
    y = graph(cg.PixelGraph.from_image(image, on=space)).to_image()
    return y.detach(), derived(y, head, image, graph)


def derived(y: Tensor, head: Tensor, image: Tensor, net: nn.Module) -> list[Tensor]:
    """All gradients of a loss."""
    return list(torch.autograd.grad((y * head).sum(), [image, *net.parameters()]))


def given(space: Any, size: Any, kind: Any = Net) -> tuple[nn.Module, Tensor, Tensor]:
    net = numbered(kind().double().eval())
    for one in net.parameters():
        one.data.clamp_(-1, 1)
    return net, integers(1, 2, *size) * 4 * 2**16, integers(1, 2, *size, seed=7)


HEXAGONS = (cg.Hexagonal(), (8, 10))


SPHERE = cg.HEALPix()
