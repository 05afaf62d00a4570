"""A photograph: six convolutions with meaning, dense and as graphs, with a bound under each.

    luminance, red minus green   1x1: self-loops only, no pixel sees another
    vertical contours            3x3: eight neighbours and oneself
    dilated, strided, transposed longer edges, fewer targets, reversed arrows

Both sides compute in float32, and the graph side on `gather`, which sums in another order than
torch's kernel: the difference is honest rounding, and |graph - dense| <= 2 n u (|w| * |x|) must
hold at every pixel. Uses the public API only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import convgraph as cg
from convgraph.proof import ConvSpec, Oracle, dot_bound

CORNER = (95, 197)
"""Row and column of the 12 x 12 crop whose graph is drawn: an eye of the astronaut."""


@dataclass(frozen=True)
class Filtered:
    """One operator on the photograph.

    Attributes:
        name: what it does.
        note: its edges, in words.
        dense: (C, H, W) by torch.
        graph: (C, H, W) by message passing.
        edges: length of the edge list.
        gap: largest |graph - dense|.
        bound: largest derived bound of a pixel.
        rho: largest |graph - dense| / bound over all pixels.
    """

    name: str
    note: str
    dense: Tensor
    graph: Tensor
    edges: int
    gap: float
    bound: float
    rho: float


def load(size: int) -> Tensor:
    """Return scikit-image's astronaut as (3, size, size) float32 in [0, 1].

    A pixel is the mean of those it stands for; to leave them out would make a jagged picture.

    Raises:
        ValueError: `size` does not divide 512, the photograph's own.
    """
    from skimage import data

    pixels: Any = data.astronaut()  # type: ignore[no-untyped-call]
    image = torch.from_numpy(pixels).float().movedim(-1, 0) / 255
    if size < 1 or image.shape[1] % size:
        raise ValueError(f"load: expected a size that divides {image.shape[1]}, got {size}")
    return torch.nn.functional.avg_pool2d(image, image.shape[1] // size)


def operators() -> list[tuple[str, str, torch.nn.Module, bool]]:
    """Return name, note, the dense layer, and whether it looks at the luminance only."""
    nn = torch.nn
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    made = [
        ("luminance", "1x1: self-loops only", nn.Conv2d(3, 1, 1, bias=False),
         torch.tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1), False),
        ("red minus green", "1x1: self-loops only", nn.Conv2d(3, 1, 1, bias=False),
         torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1), False),
        ("vertical contours", "3x3: eight neighbours", nn.Conv2d(1, 1, 3, padding=1, bias=False),
         sobel.view(1, 1, 3, 3), True),
        ("dilated by 4", "3x3: longer edges",
         nn.Conv2d(1, 1, 3, padding=4, dilation=4, bias=False), laplace.view(1, 1, 3, 3), True),
        ("stride 4", "4x4: fewer targets", nn.Conv2d(1, 1, 4, stride=4, bias=False),
         torch.full((1, 1, 4, 4), 1 / 16), True),
        ("transposed, stride 2", "4x4: arrows reversed",
         nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False),
         torch.outer(tent, tent).view(1, 1, 4, 4), True),
    ]  # fmt: skip
    found: list[tuple[str, str, torch.nn.Module, bool]] = []
    for name, note, layer, weight, grey in made:
        with torch.no_grad():
            layer.weight.copy_(weight)
        found.append((name, note, layer, grey))
    return found


@torch.no_grad()
def filter_all(size: int) -> list[Filtered]:
    """Run every operator in both forms on the photograph.

    Args:
        size: height and width in pixels, a divisor of 512.
    """
    photo = load(size)
    grey = torch.einsum("c,chw->hw", torch.tensor([0.3, 0.59, 0.11]), photo).unsqueeze(0)
    return [
        _filter(name, note, layer, grey if only_grey else photo)
        for name, note, layer, only_grey in operators()
    ]


def _filter(name: str, note: str, dense: torch.nn.Module, image: Tensor) -> Filtered:
    layer_type = (
        cg.nn.GraphConvTranspose2d
        if isinstance(dense, torch.nn.ConvTranspose2d)
        else cg.nn.GraphConv2d
    )
    layer = layer_type.from_dense(dense)
    layer.backend = "gather"
    pixels = cg.PixelGraph.from_image(image)
    expected, found = dense(image), layer(pixels).to_image()
    bound = _bound(layer, image)
    gap = (found - expected).abs()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = torch.where(gap == 0, 0, gap / bound)
    return Filtered(
        name, note, expected, found, layer.edges(pixels).num_edges, float(gap.max()),
        float(bound.max()), float(ratio.max()),
    )  # fmt: skip


def _bound(layer: cg.nn.GraphConvNd, image: Tensor) -> Tensor:
    """(C, H, W): twice n u (|w| * |x|), per pixel, by the oracle."""
    g = layer.geometry
    oracle = Oracle(
        ConvSpec(
            layer.in_channels, layer.out_channels, g.kernel_size, tuple(image.shape[1:]), batch=1,
            stride=g.stride, padding=g.padding, dilation=g.dilation, transposed=g.transposed,
            output_padding=g.output_padding, bias=False,
        )
    )  # fmt: skip
    size = oracle.convolve(
        image.abs().double().unsqueeze(0).numpy(), layer.weight.detach().abs().double().numpy()
    )
    terms = oracle.in_degree().reshape(1, 1, *oracle.out_size) * layer.in_channels
    return 2 * torch.as_tensor(dot_bound(terms, torch.float32, size)).squeeze(0)


def checks(filtered: list[Filtered]) -> dict[str, bool]:
    """Return what was claimed and whether it held."""
    return {
        f"photograph, {f.name}: largest difference {f.gap:.1e} within its bound": f.rho <= 1
        for f in filtered
    }
