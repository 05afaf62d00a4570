"""Operators without parameters: what `cg.prove` has to know of a pool, a resize or a rearrangement.

Such an operator is y = L x with fixed entries k / scale. Inputs are multiplied by `scale`, so that
every result is an integer.
"""

from collections.abc import Mapping
from math import lcm, prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from convgraph.comparison.refilled import Refilled
from convgraph.errors import ProofError
from convgraph.geometry.space import Space
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.proof import ConvSpec
from convgraph.proof.equation import oracle
from convgraph.proof.equation.maximum_windows import (
    Windows,
    adaptive_axis,
    in_space,
    kernel_axis,
    on_mask,
    reached,
    windows,
)
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


def looks_of(dense: torch.nn.Module, spec: Mapping[str, Any]) -> tuple[Windows, ...] | None:
    """Return the windows of a max pool on the images of a spec; None for another module.

    Args:
        dense: torch's pool; its arguments are read.
        spec: `shape` of the images, and `space`, `source_mask` and `target_mask` if there are any.

    Raises:
        ProofError: windows that the judge does not know in this space, or masks that do not fit.
    """
    size, space = tuple(spec["shape"][2:]), spec.get("space")
    found = windows_of(dense, size)
    if found is None:
        return None
    if space is not None:
        found = _in_space(dense, size, space)
    if spec.get("source_mask") is None:
        return (found,)
    mask = np.asarray(spec["source_mask"], dtype=bool)
    sites = spec.get("target_mask")
    if sites is None:
        known = np.asarray(mask) if _keeps(dense, found) else None
        return on_mask(found, mask, known)
    return on_mask(found, mask, np.asarray(sites, dtype=bool))


def _keeps(dense: Any, found: Windows) -> bool:
    """Whether outputs are the pixels: of stride 1, on one lattice."""
    d = len(found.size)
    steps = _each(getattr(dense, "stride", None) or getattr(dense, "kernel_size", 0), d)
    return set(steps) == {1} and found.out_size == found.size


def _in_space(dense: Any, size: tuple[int, ...], space: Mapping[str, Any]) -> Windows:
    """The windows of a max pool whose taps read in a space."""
    kind = type(dense).__name__
    if kind.startswith("Adaptive") or dense.ceil_mode:
        raise ProofError(
            f"prove: {dense}: adaptive and ceil_mode windows are the plane's; the judge has no "
            f"truth for them in a space of kind {space['kind']!r}"
        )
    kernel = _each(dense.kernel_size, 2)
    stride = kernel if dense.stride is None else _each(dense.stride, 2)
    spec = ConvSpec(
        1, 1, kernel, size, 1, stride, tuple((p, p) for p in _each(dense.padding, 2)),
        _each(dense.dilation, 2), space=space, bias=False,
    )  # fmt: skip
    return in_space(size, oracle.edges(spec))


def maximum(side: torch.nn.Module, spec: Mapping[str, Any]) -> Any:
    """Return f(x) -> y on images: a max pool on a mask or in a space, as the judge means it.

    On a mask that is torch's pool on images whose absent pixels are minus infinity, and 0 where
    nobody is looked at; in a space it is the largest of what taps read there.

    Args:
        side: torch's pool.
        spec: of a record; see `looks_of`.

    Example:
        >>> spec = {"shape": [1, 1, 1, 3], "source_mask": [[[False, True, True]]]}
        >>> pool = torch.nn.MaxPool2d((1, 1))
        >>> maximum(pool, spec)(torch.tensor([[[[9.0, -2.0, 1.0]]]])).tolist()
        [[[[0.0, -2.0, 1.0]]]]
    """
    looks = looks_of(side, spec)
    assert looks is not None  # it is a max pool
    some = torch.from_numpy(reached(looks)).view(len(looks), 1, *looks[0].out_size)
    mask = spec.get("source_mask")
    if spec.get("space") is None:
        there = torch.tensor(np.asarray(mask, dtype=bool)).unsqueeze(1)

        def dense(x: Tensor) -> Tensor:
            y = side(x.masked_fill(~there.to(x.device), -torch.inf))
            return torch.where(some.to(y.device), y, 0)

        return dense
    nothing = looks[0].nothing

    def by_windows(x: Tensor) -> Tensor:
        images = []
        for place, seen in enumerate(looks):
            flat = x[place :: len(looks)].flatten(2)
            if seen.values is not None:
                parts = (torch.from_numpy(t) for t in seen.parts())
                said = (
                    flat[..., q.to(x.device)] * share.to(x) for q, share in zip(*parts, strict=True)
                )
                flat = sum(said, torch.zeros((), dtype=x.dtype, device=x.device))
            flat = torch.cat([flat, flat.new_full((*flat.shape[:2], 1), -torch.inf)], 2)
            images.append(flat[..., torch.from_numpy(seen.entries).to(x.device)].amax(-1))
        y = torch.cat(images).unflatten(2, looks[0].out_size)
        return torch.where(some.to(y.device), y, nothing)

    return by_windows


def takes_graph(side: Any) -> bool:
    """Whether a side is a graph layer."""
    return getattr(side, "takes_graph", False) or hasattr(side, "edges")


def graph(side: torch.nn.Module, spec: Mapping[str, Any]) -> Any:
    """Call a graph layer without parameters on the pixel graph of an image, for a record.

    Args:
        side: takes a PixelGraph.
        spec: of a record; `space`, `source_mask` and `target_mask` are read, if there are any.
    """
    masks = (spec.get(f"{end}_mask") for end in ("source", "target"))
    mask, sites = (None if m is None else torch.tensor(np.asarray(m, dtype=bool)) for m in masks)
    return on_graph(side, from_dict(spec.get("space")), mask, sites)


def on_graph(
    layer: torch.nn.Module,
    on: Space | None = None,
    mask: Tensor | None = None,  # (B, *size) bool
    sites: Tensor | None = None,  # (B, *out_size) bool
) -> Any:
    """Return f(x) -> y on images for a graph layer, in a space and on a mask."""
    again = Refilled()

    def run(x: Tensor) -> Tensor:
        axes: dict[str, Any] = {"on": on} if on is not None else {"d": x.dim() - 2}
        there = None if mask is None else mask.to(x.device)
        named: dict[str, Any] = {} if sites is None else {"sites": sites.to(x.device)}
        out = layer(again.of(x, PixelGraph.from_image(x, there, **axes)), **named)
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
