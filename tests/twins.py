"""Pairs that a record can name: a dense convolution, its graph twin, and twins that are none."""

import torch
from torch import Tensor

import convgraph as cg


def dense() -> torch.nn.Conv2d:
    return torch.nn.Conv2d(3, 4, 3, padding=1)


def graph() -> cg.nn.GraphConv2d:
    return cg.nn.GraphConv2d(3, 4, 3, padding=1)


def strided() -> torch.nn.Conv2d:
    return torch.nn.Conv2d(3, 4, 3, padding=1, stride=2)


def scaled() -> torch.nn.Module:
    """Typed edges and parameters of the twin, and outputs that are twice as large."""
    layer = graph()
    forward = layer.forward
    layer.forward = lambda *args, **how: _twice(forward(*args, **how))  # type: ignore[method-assign]
    return layer


def raising() -> torch.nn.Module:
    layer = graph()

    def forward(*args: object, **how: object) -> None:
        raise RuntimeError("out of luck")

    layer.forward = forward  # type: ignore[method-assign]
    return layer


def _twice(found: cg.PixelGraph) -> cg.PixelGraph:
    return found.with_x(2 * found.x)


def spoil(y: Tensor) -> Tensor:
    return y


class Spoiled(torch.nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3, padding=1)

    def forward(self, x: object) -> object:
        if isinstance(x, cg.PixelGraph):
            y = spoil(super().forward(x.to_image()))
            return cg.PixelGraph.from_image(y)
        return super().forward(x)
