"""Pairs that a record can name: a dense convolution, its graph twin, and twins that are none."""

import sys

import torch
from torch import Tensor

import convgraph as cg


def dense() -> torch.nn.Conv2d:
    return torch.nn.Conv2d(3, 4, 3, padding=1)


def graph() -> cg.nn.GraphConv2d:
    """Its sums run in another order than the twin's, so that rho is not 0."""
    return cg.nn.GraphConv2d(3, 4, 3, padding=1, backend="gather")


def strided() -> torch.nn.Conv2d:
    return torch.nn.Conv2d(3, 4, 3, padding=1, stride=2)


def pool() -> torch.nn.AvgPool2d:
    return torch.nn.AvgPool2d(2, padding=1)


def graph_pool() -> cg.nn.GraphAvgPool2d:
    return cg.nn.GraphAvgPool2d(2, padding=1)


def crossed() -> cg.nn.GraphConv2d:
    return cg.nn.GraphConv2d(3, 4, 3, padding=1, footprint="cross")


def max_pool() -> torch.nn.MaxPool2d:
    return torch.nn.MaxPool2d((3, 2), 2, (1, 0))


def graph_max_pool() -> cg.nn.GraphMaxPool2d:
    return cg.nn.GraphMaxPool2d.from_dense(max_pool())


def other_max_pool() -> torch.nn.MaxPool2d:
    return torch.nn.MaxPool2d((3, 1), 2, (1, 0))


def dense_wide_pool() -> torch.nn.AvgPool2d:
    """Its windows reach beyond a border."""
    return torch.nn.AvgPool2d(4, stride=2, padding=1)


def wide_pool() -> cg.nn.GraphAvgPool2d:
    return cg.nn.GraphAvgPool2d(4, stride=2, padding=1)


def twice_pool() -> torch.nn.Module:
    return torch.nn.AvgPool2d(2, padding=1, divisor_override=2)


class Network(torch.nn.Sequential):
    """Two convolutions, and a linear map that is called as a function."""

    def __init__(self) -> None:
        torch.manual_seed(4)
        super().__init__(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(4, 4, 3, stride=2, groups=2),
        )  # fmt: skip
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self[2](self[1](self[0](x)))
        return torch.nn.functional.linear(y.mean((2, 3)), self.fc.weight, self.fc.bias)


def network() -> Network:
    return Network()


class Around(torch.nn.Module):
    """The same under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


def renamed() -> Around:
    return Around()


class Inferring(Network):
    """Twice as large in inference mode."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return 2 * y if torch.is_inference_mode_enabled() else y


def inferring() -> Inferring:
    return Inferring()


def raise_twice(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    raise RuntimeError("out of luck")


def scaled() -> torch.nn.Module:
    """Typed edges and parameters of the twin, and outputs that are twice as large."""
    layer = graph()
    forward = layer.forward
    layer.forward = lambda *args, **how: _twice(forward(*args, **how))  # type: ignore[method-assign]
    return layer


class _Exits(torch.nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        sys.exit(1)


def exits() -> torch.nn.Module:
    return _Exits(3, 4, 3, padding=1)


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


class Sparse(torch.nn.Conv2d):
    """Right numbers, in another layout than asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to_sparse()


def sparse() -> torch.nn.Conv2d:
    return Sparse(3, 4, 3, padding=1)
