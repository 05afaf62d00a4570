"""Resizes for tests: dyadic ones, and the same resize by torch and by the graph.

The truth on a mask is `F.interpolate` of the image whose absent pixels are 0, at the output sites.
"""

import pytest
import torch
import torch.nn.functional as F

import convgraph as cg
from convgraph.functional import graph_resize
from tests.cases import integers

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
SIZE = {1: (9,), 2: (5, 9), 3: (3, 5, 5)}


def dyadic(d: int) -> list[dict]:
    """Return resizes whose weights are dyadic numbers, so that integers stay exact."""
    up, down = SIZE[d], tuple((n + 1) // 2 for n in SIZE[d])
    finer = tuple(2 * n - 1 for n in up)
    nearest = [
        {"mode": mode, **how}
        for mode in ("nearest", "nearest-exact")
        for how in ({"scale_factor": 2}, {"size": down}, {"size": finer}, {"scale_factor": 0.7})
    ]
    weighted = [
        {"mode": mode, **how}
        for mode in (LINEAR[d], *(["bicubic"] if d == 2 else []))
        for how in (
            {"scale_factor": 2.0},
            {"scale_factor": 0.5},
            {"scale_factor": 0.5, "recompute_scale_factor": False, "align_corners": False},
            {"size": finer, "align_corners": True},
            {"size": down, "align_corners": True},
            {"size": (1,) * d, "align_corners": True},
            {"size": up},
        )
    ]
    return nearest + weighted


CASES = [(d, how) for d in (1, 2, 3) for how in dyadic(d)]
NAMED = [pytest.param(d, how, id=f"{d}d-{list(how.values())}") for d, how in CASES]


def torchs(
    image: torch.Tensor, how: dict, mask: torch.Tensor | None = None, weight=None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return y, integers g and dg(y)/dimage of torch's own resize of the zero-filled image."""
    image = image.clone().requires_grad_()
    filled = image if mask is None else torch.where(mask.unsqueeze(1), image, 0)
    y = F.interpolate(filled, **how)
    g = integers(*y.shape, dtype=y.dtype) if weight is None else weight(y)
    y.backward(g)
    return y.detach(), g, image.grad


def ours(
    image: torch.Tensor, how: dict, g: torch.Tensor, backend: str | None, mask=None, sites=None
) -> tuple[cg.PixelGraph, torch.Tensor]:
    """Return the resized graph and dg(y)/dimage, the same numbers from the graph."""
    image = image.clone().requires_grad_()
    graph = cg.PixelGraph.from_image(image, mask, d=image.dim() - 2)
    out = graph_resize(graph, **how, sites=sites, backend=backend)
    out.to_image().backward(g)
    return out, image.grad


def agrees(image: torch.Tensor, how: dict, backend: str | None, mask=None) -> bool:
    """Whether y at the output sites and the gradient equal torch's, bit for bit."""
    y, g, grad = torchs(image, how, mask)
    out, got = ours(image, how, g, backend, mask)
    if mask is not None:  # what torch computes where we have no site is not compared
        y = torch.where(out.mask.unsqueeze(1), y, 0)
        g = torch.where(out.mask.unsqueeze(1), g, 0)
        _, _, grad = torchs(image, how, mask, weight=lambda _: g)
    return torch.equal(out.to_image(), y) and torch.equal(got, grad)
