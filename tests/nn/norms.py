"""Norms to test, and the truth of a norm on the pixels that exist: values and gradients.

A norm is a partition of the entries of the images into columns that share their statistics; which
one is all that tells batch, instance, group and layer norm apart. The truth is plain torch and
reads nothing of the package.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import convgraph as cg
from tests.running import Bounded

SIZES = {1: (7,), 2: (4, 5), 3: (3, 2, 4)}
LAYERS: dict[str, tuple[int, Callable[[], torch.nn.Module]]] = {
    **{
        f"BatchNorm{d}d": (d, lambda d=d: getattr(torch.nn, f"BatchNorm{d}d")(4)) for d in (1, 2, 3)
    },
    "BatchNorm2d, momentum None": (2, lambda: torch.nn.BatchNorm2d(4, momentum=None)),
    "BatchNorm2d, no statistics": (2, lambda: torch.nn.BatchNorm2d(4, track_running_stats=False)),
    "BatchNorm2d, no affine": (2, lambda: torch.nn.BatchNorm2d(4, affine=False, eps=1e-3)),
    **{
        f"InstanceNorm{d}d": (
            d,
            lambda d=d: getattr(torch.nn, f"InstanceNorm{d}d")(
                4, affine=True, track_running_stats=True
            ),
        )
        for d in (1, 2, 3)
    },
    "InstanceNorm2d, plain": (2, lambda: torch.nn.InstanceNorm2d(4)),
    "GroupNorm": (2, lambda: torch.nn.GroupNorm(2, 4)),
    "GroupNorm of one": (1, lambda: torch.nn.GroupNorm(1, 4, affine=False)),
    "LayerNorm over images": (2, lambda: torch.nn.LayerNorm((4, 4, 5))),
}
PER_IMAGE = [name for name in LAYERS if "Batch" not in name]
TRACKED = [name for name, (_, make) in LAYERS.items() if "running_mean" in make().state_dict()]
DTYPES = (torch.float32, torch.float64)


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[int, Any, Any]:
    d, make = LAYERS[name]
    dense = make().to(dtype)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    return d, dense, getattr(cg.nn, f"Graph{type(dense).__name__}").from_dense(dense)


def rows_in_memory(image: Tensor) -> Tensor:
    """The same image, channels last in memory, as nodes are."""
    return image.movedim(1, -1).contiguous().movedim(-1, 1).detach()


def some(d: int, dtype: torch.dtype = torch.float64, batch: int = 3) -> tuple[Tensor, Tensor]:
    """An image, and a mask that leaves the last image without nodes."""
    torch.manual_seed(3)
    image = torch.rand(batch, 4, *SIZES[d]).to(dtype) - 0.5
    mask = torch.rand(batch, *SIZES[d]) > 0.4
    mask[-1] = False
    return image, mask


# The truth


def columns(kind: str, dense: Any, mask: Tensor, channels: int) -> list[Tensor]:
    """Return (n, k) positions in the flat image (B, C, *size): k statistics over n entries."""
    batch, size = mask.shape[0], mask.shape[1:]
    at = torch.arange(batch * channels * size.numel()).view(batch, channels, *size)
    if "Batch" in kind:
        return [at.movedim(1, -1)[mask]]
    alone = [at[b][:, mask[b]] for b in range(batch)]  # (C, n) each
    groups = {"Group": getattr(dense, "num_groups", 0), "Layer": 1}.get(kind[:5], channels)
    return [a.reshape(groups, -1).t() for a in alone if a.numel()]


def spread(parameter: Tensor | None, shape: torch.Size, default: float) -> Tensor:
    """A parameter (C,) or (C, *size) as a flat image (B, C, *size)."""
    if parameter is None:
        return torch.full(shape, default, dtype=torch.float64).flatten()
    trail = (1,) * (len(shape) - 1 - parameter.dim())
    return parameter.detach().double().view(1, *parameter.shape, *trail).expand(shape).flatten()


def norm(kind: str, dense: Any, image: Tensor, mask: Tensor, g: Tensor, u: float) -> dict[str, Any]:
    """Return y, grad_x, grad_weight, grad_bias as Bounded, and per column mean and biased variance.

    The gradients are the chain rule read backwards through

        mean = sum x / n,  c = x - mean,  var = sum c^2 / n,  r = 1 / sqrt(var + eps),  h = c r

    one step after the other, as automatic differentiation takes them. torch's batch norm computes
    instead y = x a + (bias - mean a) with a = r weight, and its gradient in closed form; each of
    its steps is bounded in its place.
    """
    shape = image.shape
    flat = {name: t.detach().double().flatten() for name, t in (("x", image), ("g", g))}
    flat["w"] = spread(getattr(dense, "weight", None), shape, 1)
    flat["b"] = spread(getattr(dense, "bias", None), shape, 0)
    nothing = torch.zeros(shape.numel(), dtype=torch.float64)
    out = {name: Bounded(nothing.clone(), nothing.clone(), u) for name in ("y", "x", "w", "b")}
    means, variances = [], []
    eps = Bounded(*torch.tensor([dense.eps, u * dense.eps], dtype=torch.float64), u)
    for at in columns(kind, dense, mask, shape[1]):
        n = at.shape[0]
        x, g_, w, b = (Bounded.exactly(flat[name][at], u) for name in ("x", "g", "w", "b"))
        mean = x.sum(0).over(n)
        c = x - mean
        var = (c * c).sum(0).over(n)
        r = (var + eps).rsqrt()
        h = c * r
        if "Batch" in kind:
            a = r * w
            y = x * a + (b - mean * a)
            k = (g_ * c).sum(0) * r * r
            grad_x = (g_ - g_.sum(0).over(n) - c * k.over(n)) * r * w
        else:
            y = h * w + b
            grad_h = g_ * w
            grad_r = (grad_h * c).sum(0)
            cube = r * r * r
            grad_var = (grad_r * cube).times(-0.5)
            grad_c = grad_h * r + (grad_var * c).times(2).over(n)
            grad_x = grad_c - grad_c.sum(0).over(n)
        for name, part in (("y", y), ("x", grad_x), ("w", g_ * h), ("b", g_)):
            out[name].value[at], out[name].error[at] = part.value, part.error
        means.append(mean)
        variances.append(var)
    images = {name: part.map(lambda t: t.view(shape)) for name, part in out.items()}
    over = [0] if "Layer" in kind else [0, *range(2, len(shape))]
    return {
        "y": images["y"],
        "x": images["x"],
        "weight": images["w"].sum(*over),
        "bias": images["b"].sum(*over),
        "mean": means,
        "var": variances,
    }
