"""What hears the whole of a masked map, on numbers whose statistics over the mask are whole."""

from typing import Any

import torch
from torch import Tensor, nn

import convgraph as cg
from tests.scale import hearing
from tests.scale.nets import whole


def masks(size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A mask of blocks of four, half of them there: a number a block, and a number a pixel."""
    coarse = torch.zeros([n // 4 for n in size], dtype=torch.bool)
    order = torch.randperm(coarse.numel(), generator=torch.Generator().manual_seed(5))
    coarse.view(-1)[order[: coarse.numel() // 2]] = True
    mask = coarse
    for axis in range(len(size)):
        mask = mask.repeat_interleave(4, axis)
    return coarse, mask


def cases() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return networks, each with an image."""
    return {
        "gates": whole(hearing.Gated(), (16, 16)),
        "readout": hearing.classifier(),
        "instance norm": hearing.signed(nn.InstanceNorm2d(4, affine=True)),
        "group norm": hearing.signed(nn.GroupNorm(2, 4)),
        "layer norm": hearing.signed(nn.LayerNorm((4, 8, 8))),
        "attention": hearing.attending(),
        "pool over all": averaged(),
    }


def averaged() -> tuple[nn.Module, Tensor]:
    """A pool as large as its map: a mean over the pixels that are there."""
    net, x = whole(nn.Sequential(nn.Conv2d(2, 4, 1), nn.AvgPool2d((8, 16))), (8, 16))
    return net, x * 64


def truth(net: nn.Module, x: Tensor, mask: Tensor, unit: int = 1) -> list[Any]:
    """Return output, weights of a loss, and the loss's gradients of the image and parameters.

    `unit` is what every count of an average divides, so that gradients are whole numbers.
    """
    image = x.clone().requires_grad_()
    graph = cg.to_graph(net)
    y = graph(cg.PixelGraph.from_image(image, mask=mask, d=mask.dim()))
    y = y.to_image() if isinstance(y, cg.PixelGraph) else y
    head = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(3)).double()
    head = head * unit
    return [y.detach(), head, *torch.autograd.grad((y * head).sum(), [image, *graph.parameters()])]
