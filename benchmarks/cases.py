"""What is measured: convolutions of known networks, and masks of several kinds and densities."""

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

DENSITIES = (1.0, 0.8, 0.6, 0.4, 0.25, 0.1, 0.05)
KINDS = ("patch8", "patch32", "blob", "pixel")


@dataclass(frozen=True)
class Case:
    """One convolution on one batch of masks; channels, pixels, and the share of nodes."""

    layer: str
    channels: int
    out: int
    kernel: int
    stride: int
    groups: int
    size: int
    batch: int
    density: float = 1.0
    kind: str = "patch8"

    @property
    def name(self) -> str:
        """Write it in one line."""
        where = "full" if self.density == 1 else f"{self.kind} {self.density:g}"
        return f"{self.layer}, {self.batch} x {self.size}, {where}"


BLOCK = Case("convnext block 96", 96, 96, 7, 1, 96, 56, 8)
"""Depthwise 7x7, norm, 1x1 to four times the channels, GELU, 1x1 back; see `blocks`."""

LAYERS = (
    # ResNet-50: stem, and the 3x3 and 1x1 of its stages
    Case("resnet stem 7x7/2 3-64", 3, 64, 7, 2, 1, 224, 1),
    Case("resnet 3x3 64-64", 64, 64, 3, 1, 1, 56, 8),
    Case("resnet 3x3 128-128", 128, 128, 3, 1, 1, 56, 8),
    Case("resnet 3x3/2 128-128", 128, 128, 3, 2, 1, 56, 8),
    Case("resnet 1x1 64-256", 64, 256, 1, 1, 1, 56, 8),
    # MobileNetV2
    Case("mobilenet dw 3x3 32", 32, 32, 3, 1, 32, 112, 1),
    Case("mobilenet dw 3x3/2 96", 96, 96, 3, 2, 96, 56, 8),
    Case("mobilenet 1x1 96-24", 96, 24, 1, 1, 1, 56, 8),
    # ConvNeXt-T
    Case("convnext dw 7x7 96", 96, 96, 7, 1, 96, 56, 8),
    Case("convnext 1x1 96-384", 96, 384, 1, 1, 1, 56, 8),
    Case("convnext 2x2/2 96-192", 96, 192, 2, 2, 1, 56, 8),
    # U-Net
    Case("unet 3x3 3-64", 3, 64, 3, 1, 1, 224, 1),
    Case("unet 3x3 64-64", 64, 64, 3, 1, 1, 224, 1),
    Case("unet 3x3 256-128", 256, 128, 3, 1, 1, 56, 8),
)


def selected(*, full: bool) -> list[Case]:
    """Return the cases: about two dozen, or all of them."""
    if full:
        every = []
        for layer, kind, density in product(LAYERS, KINDS, DENSITIES):
            if density == 1 and kind != KINDS[0]:
                continue
            sizes = {layer.size, *((56, 224) if layer.size in (56, 224) else ())}
            for size, batch in product(sorted(sizes), (1, 8)):
                every.append(replace(layer, size=size, batch=batch, density=density, kind=kind))
        return every
    by_name = {layer.layer: layer for layer in LAYERS}
    found = [replace(layer, density=1.0) for layer in LAYERS]
    for name in ("resnet 3x3 64-64", "resnet 3x3 128-128"):
        found += [replace(by_name[name], density=density) for density in (0.8, 0.4, 0.25, 0.1)]
        found.append(replace(by_name[name], density=0.1, kind="pixel"))
    dw = by_name["convnext dw 7x7 96"]
    found += [replace(dw, density=density) for density in (0.8, 0.6, 0.4, 0.1)]
    found.append(replace(by_name["convnext 1x1 96-384"], density=0.4))
    found.append(replace(BLOCK, density=0.4))
    found.append(replace(by_name["mobilenet dw 3x3/2 96"], density=0.4))
    found.append(replace(by_name["resnet 3x3/2 128-128"], density=0.4, kind="blob"))
    return found


def mask(case: Case, generator: torch.Generator) -> Tensor | None:
    """Return (B, size, size) bool with exactly the share of patches or pixels, None when full."""
    if case.density == 1:
        return None
    if case.kind.startswith("patch"):
        side = int(case.kind.removeprefix("patch"))
        cells = -(-case.size // side)
        chosen = _share(torch.rand(case.batch, cells * cells, generator=generator), case.density)
        chosen = chosen.view(case.batch, cells, cells)
        large = chosen.repeat_interleave(side, 1).repeat_interleave(side, 2)
        return large[:, : case.size, : case.size].contiguous()
    noise = torch.rand(case.batch, 1, case.size, case.size, generator=generator)
    if case.kind == "blob":  # smooth noise above its own quantile
        width = case.size // 8 * 2 + 1
        for _ in range(2):
            noise = F.avg_pool2d(noise, width, 1, width // 2, count_include_pad=False)
    return _share(noise.flatten(1), case.density).view(case.batch, case.size, case.size)


def _share(values: Tensor, density: float) -> Tensor:
    """(B, n) bool: True at the round(density * n) largest values of each row."""
    count = max(1, round(density * values.shape[1]))
    top = values.topk(count, dim=1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, top, True)
