"""Small networks in which every sum and product is exact, and the roots they are tried on."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import convgraph as cg
from tests.cases import integers

EPS = 2.0**-10
"""Of batch norms: newer torch refuses 0. A variance of 4^k - EPS has a root that is exact."""


def exact(net: Any) -> Any:
    """In float64 with whole parameters and running statistics whose roots are powers of two.

    In evaluation every sum and product of such a network is then exact, in any order, so that two
    ways of computing it agree bit for bit or differ in meaning.
    """
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(integers(*parameter.shape))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(integers(*buffer.shape))
            if name.endswith("running_var"):
                buffer.copy_(4.0 ** torch.randint(-1, 2, buffer.shape) - EPS)
    return net


def separable(inside: int, outside: int, stride: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=nn.Conv2d(inside, outside, 1)))


NETS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Sequential]]] = {
    "classifier": (
        (8, 6),
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, eps=EPS), nn.ReLU(),
            separable(4, 3, 2), nn.BatchNorm2d(3, eps=EPS), nn.ReLU(),
            nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5, eps=EPS),
        ),
    ),
    "down and up": (
        (8, 8),
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, 2, 1), nn.MaxPool2d(2), nn.BatchNorm2d(4, eps=EPS),
            nn.Upsample(scale_factor=2), nn.Conv2d(4, 8, 3, padding=1), nn.PixelShuffle(2),
            nn.ConvTranspose2d(2, 3, 3, padding=1), nn.BatchNorm2d(3, eps=EPS),
        ),
    ),
    "odd sizes": (
        (7, 5),
        lambda: nn.Sequential(
            nn.BatchNorm2d(2, eps=EPS), nn.Conv2d(2, 3, 2, dilation=2), nn.LeakyReLU(0.5),
            nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 3, 3, padding=2), nn.PReLU(3),
        ),
    ),
    "readout": (
        (8, 8),
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, eps=EPS), nn.ReLU(),
            nn.AvgPool2d(2), nn.BatchNorm2d(4, eps=EPS), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(4, 3),
        ),
    ),
    "signal": (
        (9,),
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3, eps=EPS), nn.MaxPool1d(3, 2, 1),
            nn.ConvTranspose1d(3, 2, 2, 2), nn.ReLU(), nn.Conv1d(2, 2, 3, dilation=2),
        ),
    ),
    "volume": (
        (4, 2, 4),
        lambda: nn.Sequential(
            nn.Conv3d(2, 2, 3, padding=1), nn.BatchNorm3d(2, eps=EPS), nn.ReLU(), nn.AvgPool3d(2),
            nn.Flatten(), nn.Linear(8, 3),
        ),
    ),
}  # fmt: skip


def build(name: str) -> tuple[tuple[int, ...], Any, Any]:
    size, make = NETS[name]
    dense = exact(make())
    return size, dense, cg.nn.Sequential.from_dense(dense)


def masks(name: str, size: tuple[int, ...]) -> Tensor:
    """Three roots; for means, halves of the image, so that a division by their number is exact."""
    root = torch.rand(3, *size) > 0.6
    if name == "readout":
        root[:] = False
        root[0, :, :4], root[1, :4], root[2, 2:6] = True, True, True
    return root


class OwnSites(nn.Module):
    """The fault of calling a layer by the rule for single layers inside a network."""

    takes_graph = True

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, graph: cg.PixelGraph, *, sites: Any = None) -> cg.PixelGraph:
        return self.layer(graph)
