"""Operators without parameters: what `cg.prove` has to know of a pool, a resize or a rearrangement.

Such an operator is y = L x with fixed entries k / scale. Inputs are multiplied by `scale`, so that
every result is an integer.
"""

from collections.abc import Mapping
from math import lcm, prod
from typing import Any, cast

import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.geometry.space import Space
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.proof.equation.windows import Windows, adaptive_axis, kernel_axis, windows
from convgraph.spaces import from_dict
from convgraph.torch_modules import ONLY_MOVES


def scale_of(dense: torch.nn.Module, size: tuple[int, ...]) -> int:
    """Return a number that makes every entry of L whole.

    Args:
        dense: an average pool, a resize, or an operator that only moves values; or a max pool,
            whose results are whole all the same.
        size: of the image.

    Raises:
        ProofError: the operator is none of these, or has entries such as 1/3 that are no sums of
            powers of two where a weight is multiplied.

    Example:
        >>> scale_of(torch.nn.AvgPool2d(2), (4, 4))
        4
    """
    kind, d = type(dense).__name__, len(size)
    settings: Any = dense
    if kind in ONLY_MOVES or kind.startswith(("MaxPool", "AdaptiveMaxPool")):
        return 1
    if kind.startswith("AvgPool"):
        kernel = _each(settings.kernel_size, d)
        divisor = getattr(settings, "divisor_override", None)
        if divisor:
            return int(divisor)
        whole = settings.count_include_pad and not settings.ceil_mode
        return prod(kernel) if whole else lcm(*range(1, prod(kernel) + 1))
    if kind.startswith("AdaptiveAvgPool"):
        out = [
            n if m is None else m for n, m in zip(size, _each(settings.output_size, d), strict=True)
        ]
        windows = [
            {-(-(i + 1) * n // m) - i * n // m for i in range(m)}
            for n, m in zip(size, out, strict=True)
        ]
        return prod(lcm(*axis) for axis in windows)
    if kind.startswith(("Upsample", "UpsamplingNearest")) and settings.mode == "nearest":
        return 1
    if kind.startswith("Upsample") and settings.mode in ("linear", "bilinear", "trilinear"):
        return prod(_dyadic(settings, n, axis, d) for axis, n in enumerate(size))
    raise ProofError(
        f"prove: {kind} is no operator with fixed, exact entries that is known; if it is linear, "
        "pass scale= (L has entries k / scale with whole k); what is not linear is compared inside "
        "a network only, by cg.prove(network, dense, images)"
    )


def windows_of(dense: torch.nn.Module, size: tuple[int, ...]) -> Windows | None:
    """Return the windows of a max pool of torch, by its arguments; None for another module.

    Raises:
        ProofError: it returns indices as well, or no window fits.

    Example:
        >>> windows_of(torch.nn.MaxPool2d(2), (4, 4)).out_size
        (2, 2)
    """
    settings, kind = cast(Any, dense), type(dense).__name__
    known = type(dense).__module__ == "torch.nn.modules.pooling"
    if not known or not kind.startswith(("MaxPool", "AdaptiveMaxPool")):
        return None
    if settings.return_indices:
        raise ProofError(f"prove: {dense} returns indices too; compare it without return_indices")
    d = int(kind[-2])
    if len(size) != d:
        raise ProofError(f"prove: expected a size of {d} axes for {dense}, got {size}")
    if kind.startswith("Adaptive"):
        wanted = zip(size, _each(settings.output_size, d), strict=True)
        return windows(size, [adaptive_axis(n, n if m is None else m) for n, m in wanted])
    stride = settings.kernel_size if settings.stride is None else settings.stride
    lists = (settings.kernel_size, stride, settings.padding, settings.dilation)
    each = zip(size, *(_each(v, d) for v in lists), strict=True)
    return windows(
        size, [kernel_axis(n, k, s, p, gap, settings.ceil_mode) for n, k, s, p, gap in each]
    )


def takes_graph(side: Any) -> bool:
    """Whether a side is a graph layer."""
    return getattr(side, "takes_graph", False) or hasattr(side, "edges")


def graph(side: torch.nn.Module, spec: Mapping[str, Any]) -> Any:
    """Call a graph layer without parameters on the pixel graph of an image, for a record.

    Args:
        side: takes a PixelGraph.
        spec: of a record; `space` is read, if there is one.
    """
    return on_graph(side, from_dict(spec.get("space")))


def on_graph(layer: torch.nn.Module, on: Space | None = None) -> Any:
    """Return f(x) -> y on images for a graph layer, in a space."""

    def run(x: Tensor) -> Tensor:
        axes: dict[str, Any] = {"on": on} if on is not None else {"d": x.dim() - 2}
        out = layer(PixelGraph.from_image(x, **axes))
        found: Tensor = out.to_image() if isinstance(out, PixelGraph) else out
        return found

    return run


def _each(value: Any, d: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * d


def _dyadic(settings: Any, n: int, axis: int, d: int) -> int:
    """Twice the factor of an axis, if it is a power of two and corners are not aligned."""
    factor = None if settings.scale_factor is None else _each(settings.scale_factor, d)[axis]
    if factor is None:
        factor = _each(settings.size, d)[axis] / n
    whole = int(factor)
    if settings.align_corners or whole != factor or whole < 1 or whole & (whole - 1):
        raise ProofError(
            f"prove: {settings} has weights that are no sums of powers of two; integers prove a "
            "resize by 2, 4, 8, ... with align_corners=False"
        )
    return 2 * whole
