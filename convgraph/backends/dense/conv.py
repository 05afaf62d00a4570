"""Backend `dense`: a full grid is an image, so torch's own convolution computes the sum.

    x (B*H*W, C)  --view-->  (B, C, H, W) channels-last  --torch-->  (B, C', H', W')  --view-->  y

No copy on the way in, and none on the way out where torch answers channels-last.

When: full grids and kernels with all their taps.
"""

from collections.abc import Sequence
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.backends import matrices, onednn
from convgraph.backends.problem import TAPPED, Problem
from convgraph.backends.rows import HALF, as_image, as_rows
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import Edges

NAME = "dense"


def refuses(problem: Problem) -> str | None:
    """Say why this backend cannot serve, or None."""
    if problem.tapped:
        return TAPPED
    edges = problem.edges
    if not isinstance(edges, Edges):
        return "a typed graph given by its edge list is no full grid"
    if not edges.is_grid:
        return "not every pixel is a node at both ends, or the images differ in size"
    return None


def window_refuses(relation: object) -> str | None:
    """Say why torch's pools and folds, which pad evenly with nothing, cannot serve, or None."""
    if not isinstance(relation, KernelGeometry):
        return None
    if relation.footprint is not None:
        return "torch's pools and folds know whole windows, this one has a footprint"
    if relation.folds:
        return "torch's pools and folds know no padding mode, this window has one"
    if any(before != after for before, after in relation.padding):
        return "torch's pools and folds pad both ends of an axis alike, this window does not"
    return None


def work(problem: Problem) -> tuple[float, float]:
    """Multiply-adds and elements moved: each image read once, each output written once."""
    edges = problem.edges
    macs = edges.num_targets * edges.num_taps * problem.macs_per_edge
    moved = edges.num_sources * problem.in_channels + edges.num_targets * problem.out_channels
    return float(macs), float(moved)


def convolution(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    groups: int,
) -> Tensor:
    """Return y (num_targets, C_out), bias included, by torch's own operator."""
    geometry = edges.relation
    if not isinstance(geometry, KernelGeometry):
        raise TypeError(f"a convolution needs a KernelGeometry, got {type(geometry).__name__}")
    if x.dtype in HALF and (geometry.folds or x.device.type == "cpu"):
        # torch's kernels for the CPU round a half-precision sum more than once (fp16 sums its
        # gradients in fp16, transposed kernels add the bias afterwards), and so do the folds of
        # padding anywhere. Products and sums in fp32, one rounding at the end.
        parts = [None if t is None else t.float() for t in (x, weight, bias)]
        return convolution(parts[0], parts[1], parts[2], edges, groups).to(x.dtype)  # type: ignore[arg-type]
    image = as_image(x, edges)
    if geometry.transposed:
        return as_rows(_transposed(image, weight, bias, geometry, groups))
    image, padding = padded(image, geometry)
    g = geometry
    size = tuple([index(n) for n in image.shape[2:]])
    run = onednn.convolution(size, g.kernel_size, g.stride, padding, g.dilation, image.device)
    return as_rows(run(image, weight, bias, g.stride, padding, g.dilation, groups))


def conv(
    x: Tensor,  # (N, C_in)
    weight: Tensor,  # as the torch twin keeps it
    bias: Tensor | None,  # (C_out,)
    edges: Edges,
    problem: Problem,
) -> Tensor:
    """Return y (num_targets, C_out), bias included."""
    return convolution(x, matrices.there(weight, edges), bias, edges, problem.groups)


def padded(image: Tensor, geometry: KernelGeometry) -> tuple[Tensor, tuple[int, ...]]:
    """Return the image and what is left for torch to pad: nothing, if it had to be done here."""
    if geometry.padding_mode == "zeros" and all([a == b for a, b in geometry.padding]):  # noqa: C419 - a list is faster
        return image, tuple([a for a, _ in geometry.padding])
    for mode in dict.fromkeys(geometry.modes):  # in whatever order: each fills its own axes
        own = [
            pair if one == mode else (0, 0)
            for one, pair in zip(geometry.modes, geometry.padding, strict=True)
        ]
        if image.is_cuda and mode in ("reflect", "replicate"):
            image = folded(image, own, mode)
        else:
            pads = [n for pair in reversed(own) for n in pair]
            image = F.pad(image, pads, mode="constant" if mode == "zeros" else mode)
    return image, (0,) * geometry.d


def folded(image: Tensor, padding: Sequence[tuple[int, int]], mode: str) -> Tensor:
    """Return F.pad of an image by "reflect" or "replicate", axis by axis, from slices.

    On CUDA the gradients of torch's own are added by atomics, in another order at every run: seen
    on an H200, where a layer with replicated margins did not repeat bit for bit.

    Args:
        image: (B, C, *size).
        padding: pixels before and after, for each axis of the lattice.
        mode: "reflect" or "replicate".

    Example:
        >>> folded(torch.arange(3.0).view(1, 1, 3), [(2, 1)], "reflect").flatten().tolist()
        [2.0, 1.0, 0.0, 1.0, 2.0, 1.0]
    """
    for axis, (before, after) in enumerate(padding, start=2):
        size = image.shape[axis]
        if mode == "reflect":
            first = image.narrow(axis, 1, before).flip(axis)
            last = image.narrow(axis, size - 1 - after, after).flip(axis)
        else:
            shapes = [[*image.shape[:axis], n, *image.shape[axis + 1 :]] for n in (before, after)]
            first = image.narrow(axis, 0, 1).expand(shapes[0])
            last = image.narrow(axis, size - 1, 1).expand(shapes[1])
        image = torch.cat([first, image, last], axis)
    return image


def _transposed(
    image: Tensor, weight: Tensor, bias: Tensor | None, geometry: KernelGeometry, groups: int
) -> Tensor:
    pairs = geometry.padding
    if all(a == b for a, b in pairs):
        padding: tuple[int, ...] = tuple(a for a, _ in pairs)
        crop = None
    else:  # torch knows one number an axis: compute all of it and cut
        padding, crop = (0,) * geometry.d, pairs
    extra = geometry.output_padding if crop is None else (0,) * geometry.d
    out = onednn.transposed(
        image, weight, bias, geometry.stride, padding, extra, groups, geometry.dilation
    )
    if crop is None:
        return out
    size = geometry.output_size(tuple(image.shape[2:]))
    for axis, ((before, _), n) in enumerate(zip(crop, size, strict=True), start=2):
        missing = before + n - out.shape[axis]
        if missing > 0:  # output_padding beyond the last message: sites where no message arrives
            out = _extend(out, bias, axis, missing)
        out = out.narrow(axis, before, n)
    return out


def _extend(out: Tensor, bias: Tensor | None, axis: int, missing: int) -> Tensor:
    """Append sites that no message reaches; they carry the bias."""
    shape = [*out.shape[:axis], missing, *out.shape[axis + 1 :]]
    if bias is None:
        return torch.cat([out, out.new_zeros(shape)], dim=axis)
    silent = bias.view(1, -1, *(1,) * (out.dim() - 2)).expand(shape)
    return torch.cat([out, silent], dim=axis)
