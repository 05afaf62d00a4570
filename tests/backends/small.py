"""Small layers with integer weights, on small images of every kind."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import convgraph as cg
from tests.cases import integer_weights, integers

LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (cg.nn.GraphConv2d, {"padding": 1}),
    "even": (cg.nn.GraphConv2d, {"kernel_size": 2}),
    "strided": (cg.nn.GraphConv2d, {"stride": 2, "padding": 1}),
    "dilated": (cg.nn.GraphConv2d, {"dilation": 3, "padding": 3}),
    "grouped": (cg.nn.GraphConv2d, {"padding": 1, "groups": 2}),
    "depthwise": (cg.nn.GraphConv2d, {"padding": 1, "groups": 4}),
    "doubling": (cg.nn.GraphConv2d, {"padding": 1, "groups": 4, "out_channels": 8}),
    "reflect": (cg.nn.GraphConv2d, {"padding": 2, "padding_mode": "reflect"}),
    "circular": (cg.nn.GraphConv2d, {"padding": 2, "padding_mode": "circular"}),
    "transposed": (cg.nn.GraphConvTranspose2d, {"stride": 2}),
}


MASKS = {
    "full": lambda: torch.ones(2, 7, 9, dtype=torch.bool),
    "scattered": lambda: torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(3)) < 0.3,
    "an empty image": lambda: torch.arange(2 * 7 * 9).view(2, 7, 9) < 40,
    "one pixel": lambda: torch.arange(2 * 7 * 9).view(2, 7, 9) == 31,
}


def layer_of(name: str, backend: str) -> Any:
    """A layer of 4 channels with integer weights."""
    kind, options = LAYERS[name]
    own = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "backend": backend} | options
    return integer_weights(kind(**own))


def found(layer: Any, graph: cg.PixelGraph) -> list[Tensor]:
    """Output, gradients, and gradients of a function of the gradients."""
    x = graph.x.clone().requires_grad_()
    y = layer(graph.with_x(x)).x
    leaves = [x, *layer.parameters()]
    head = torch.arange(y.numel(), dtype=y.dtype).view_as(y) % 7 - 3
    first = torch.autograd.grad((y * y * head).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), leaves)
    return [y, *first, *second]


def on(d: int) -> tuple[Any, cg.PixelGraph]:
    """A layer on two images of d axes, a third of whose pixels are nodes."""
    kind = {1: cg.nn.GraphConv1d, 3: cg.nn.GraphConv3d}[d]
    size = {1: (23,), 3: (4, 5, 6)}[d]
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(3)) < 0.3
    return kind(4, 4, 3, padding=1), cg.PixelGraph.from_image(integers(2, 4, *size), mask, d=d)


def ragged() -> tuple[Any, cg.PixelGraph]:
    """The same on images of two sizes."""
    sizes = [(6, 7), (9, 4)]
    masks = [torch.rand(n, generator=torch.Generator().manual_seed(3)) < 0.3 for n in sizes]
    images = [integers(4, *n) for n in sizes]
    return cg.nn.GraphConv2d(4, 4, 3, padding=1), cg.PixelGraph.from_image(images, list(masks))


SHAPES: dict[str, Callable[[], tuple[Any, cg.PixelGraph]]] = {
    "line": lambda: on(1),
    "space": lambda: on(3),
    "ragged": ragged,
}
