"""A whole ConvNeXt block on a mask, dense and as messages, with the same parameters.

    y = x + W2 gelu(W1 norm(depthwise 7x7(x)))

The dense one computes every pixel and masks before whatever moves values between pixels and at the
end, as masked autoencoders do; ours has rows for the nodes only.
"""

from collections.abc import Callable

import torch
from cases import Case
from torch import Tensor, nn
from torch.nn import functional as F

import convgraph as cg

Arm = tuple[Callable[[], Tensor], list[Tensor]]


def arms(case: Case, mask: Tensor, device: torch.device, dtype: torch.dtype) -> tuple[Arm, Arm]:
    """Return the dense block and ours, each with what a training step differentiates."""
    channels = case.channels
    conv = nn.Conv2d(channels, channels, case.kernel, padding=case.kernel // 2, groups=channels)
    conv = conv.to(device, dtype).to(memory_format=torch.channels_last)
    norm, wide, narrow = (
        part.to(device, dtype)
        for part in (
            nn.LayerNorm(channels), nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )
    )  # fmt: skip
    shared = [p for part in (norm, wide, narrow) for p in part.parameters()]

    def nodewise(rows: Tensor) -> Tensor:  # (..., C)
        return narrow(F.gelu(wide(norm(rows))))

    image = torch.randn(case.batch, channels, case.size, case.size, device=device, dtype=dtype)
    image = image.to(memory_format=torch.channels_last).requires_grad_()
    there = mask.to(device).unsqueeze(1).to(dtype)

    def dense() -> Tensor:
        x = image * there
        return (x + nodewise(conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) * there

    layer = cg.nn.GraphConv2d.from_dense(conv).to(device, dtype)
    graph = cg.PixelGraph.from_image(image.detach(), mask.to(device))
    graph = graph.with_x(graph.x.clone().requires_grad_())

    def ours() -> Tensor:
        return graph.x + nodewise(layer(graph).x)

    return (
        (dense, [image, *conv.parameters(), *shared]),
        (ours, [graph.x, *layer.parameters(), *shared]),
    )
