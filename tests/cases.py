"""Truths for tests: edges by looping over windows of plain ints, operators by torch alone.

Nothing here reads the package's geometry, sites or edges. A padded lattice is made by `F.pad` of an
image whose pixels hold their own numbers, so that every padding mode is torch's, not a formula's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.backends.fused import cpp_build


def cpp_compiles() -> bool:
    """Whether the CPU's fused kernels can be had; they are compiled the first time."""
    try:
        cpp_build.compile_kernels()
    except cg.errors.BackendError:
        return False
    return not cpp_build.lacks()


def _serving(mask: Tensor | None) -> tuple[str, ...]:
    """The backends of a convolution that serve a small image on this machine's CPU."""
    layer = cg.nn.GraphConv2d(1, 1, 3, padding=1)
    problem = layer.problem(cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4), mask))
    return tuple(o.name for o in cg.backends.options(problem) if o.refusal is None)


CPP = ("cpp",) if cpp_compiles() else ()
CONV_BACKENDS = _serving(None)
"""Those that a convolution has."""
CONV_OFF_GRID = _serving(torch.eye(4).bool())
BACKENDS = tuple(n for n in CONV_BACKENDS if all(n in t for t in cg.backends.TABLES.values()))
"""Those that every operator has."""
OFF_GRID = tuple(name for name in BACKENDS if name in CONV_OFF_GRID)


@contextmanager
def ran(name: str) -> Iterator[None]:
    """Require that a backend's convolution is called in the block."""
    module, calls = cg.backends.TABLES["conv"][name], []
    real = module.conv

    def counted(*args: Any) -> Tensor:
        calls.append(args)
        return real(*args)

    module.conv = counted
    try:
        yield
    finally:
        module.conv = real
    assert calls, f"backend {name!r} was asked for and never called"


CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

Pairs = tuple[tuple[int, int], ...]
Triple = tuple[int, int, int]
"""(tap, target cell, source cell), the order in which edges are listed."""


# Edges


def padded_cells(size: tuple[int, ...], padding: Pairs, mode: str) -> Tensor:
    """Return the lattice of cell numbers, padded by torch; -1 where padding holds nothing."""
    cells = torch.arange(prod(size), dtype=torch.float64).view(1, 1, *size)
    pads = [n for pair in reversed(padding) for n in pair]
    if mode == "zeros":
        return F.pad(cells, pads, value=-1)[0, 0].long()
    return F.pad(cells, pads, mode=mode)[0, 0].long()


def window_starts(padded: int, reach: int, stride: int, *, ceil: bool, image_end: int) -> list[int]:
    """Return where windows start on a padded axis, one after the other.

    With ceil a last window may overhang the end, if it starts before the image has ended.
    """
    starts, start = [], 0
    while start + reach <= padded or (
        ceil and start + reach < padded + stride and start < image_end
    ):
        starts.append(start)
        start += stride
    return starts


def forward_edges(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...],
    mode: str = "zeros",
    *,
    ceil: bool = False,
) -> tuple[tuple[int, ...], list[Triple]]:
    """Return the output size and the sorted edges of one image, window by window."""
    cells = padded_cells(size, padding, mode)
    starts = [
        window_starts(n, dil * (k - 1) + 1, s, ceil=ceil, image_end=before + image)
        for n, k, s, (before, _), dil, image in zip(
            cells.shape, kernel, stride, padding, dilation, size, strict=True
        )
    ]
    found = []
    for target, corner in enumerate(product(*starts)):
        for tap, offset in enumerate(product(*map(range, kernel))):
            at = tuple(c + o * dil for c, o, dil in zip(corner, offset, dilation, strict=True))
            inside = all(a < n for a, n in zip(at, cells.shape, strict=True))
            source = int(cells[at]) if inside else -1
            if source >= 0:
                found.append((tap, target, source))
    return tuple(map(len, starts)), sorted(found)


def transposed_edges(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...],
    extra: tuple[int, ...],
) -> tuple[tuple[int, ...], list[Triple]]:
    """Return the output size and the sorted edges: every source is thrown through every tap."""
    axes = list(zip(size, kernel, stride, padding, dilation, extra, strict=True))
    out = tuple(
        (n - 1) * s + dil * (k - 1) + 1 + e - before - after
        for n, k, s, (before, after), dil, e in axes
    )
    found = []
    for source, pixel in enumerate(product(*map(range, size))):
        for tap, offset in enumerate(product(*map(range, kernel))):
            target = 0
            for q, t, n, (_, _, s, (before, _), dil, _) in zip(
                pixel, offset, out, axes, strict=True
            ):
                p = q * s + t * dil - before
                if not 0 <= p < n:
                    break
                target = target * n + p
            else:
                found.append((tap, target, source))
    return out, sorted(found)


def edges_of(size: tuple[int, ...], g: "cg.KernelGeometry") -> tuple[tuple[int, ...], list[Triple]]:
    """Return the truth for the integers of a geometry record (its fields, not its methods)."""
    if g.transposed:
        return transposed_edges(
            size, g.kernel_size, g.stride, g.padding, g.dilation, g.output_padding
        )
    return forward_edges(
        size, g.kernel_size, g.stride, g.padding, g.dilation, g.padding_mode, ceil=g.ceil_mode
    )


def batch_edges(
    sources: list[Tensor], targets: list[Tensor], per_image: list[list[Triple]]
) -> list[Triple]:
    """Return (tap, target node, source node) of a batch, from masks (bool) and cells' edges."""
    found, heard, spoken = [], 0, 0
    for source, target, edges in zip(sources, targets, per_image, strict=True):
        names = {c: spoken + n for n, c in enumerate(source.flatten().nonzero()[:, 0].tolist())}
        places = {c: heard + n for n, c in enumerate(target.flatten().nonzero()[:, 0].tolist())}
        found += [(t, places[p], names[q]) for t, p, q in edges if p in places and q in names]
        spoken, heard = spoken + len(names), heard + len(places)
    return sorted(found)


def listed(edges: "cg.Edges") -> list[Triple]:
    """Return a record's edges as triples, in the order in which it lists them."""
    source, target = edges.edge_index.tolist()
    return list(zip(edges.edge_type.tolist(), target, source, strict=True))


# Numbers


def integers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return small random integers: sums of them are exact in every order."""
    return torch.randint(-4, 5, shape).to(dtype)


def integer_weights(layer: torch.nn.Module) -> Any:
    """Give every parameter of a layer small random integers, in fp64; return the layer."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(integers(*parameter.shape))
    return layer


def holes(batch: int, size: tuple[int, ...], keep: float = 0.6) -> Tensor:
    """Return a random mask (batch, *size) with at least one node and one hole an image."""
    mask = torch.rand(batch, *size) < keep
    first, last = (0,) * len(size), (-1,) * len(size)
    mask[(slice(None), *first)], mask[(slice(None), *last)] = True, False
    return mask


def typed_graph(nodes: int, edges: int, taps: int) -> tuple[Tensor, Tensor]:
    """Return a random edge_index (2, E) and edge_type (E,); parallel edges are likely."""
    source = torch.randint(nodes, (edges,))
    target = torch.randint(nodes, (edges,))
    return torch.stack([source, target]), torch.randint(taps, (edges,))


# Layers that move values between sites


MOVERS: dict[str, Callable[[], torch.nn.Module]] = {
    "max pool": lambda: cg.nn.GraphMaxPool2d(3, 2, 1),
    "average pool": lambda: cg.nn.GraphAvgPool2d(2, divisor_override=4),
    "average of nodes": lambda: cg.nn.GraphAvgPool2d(2, 2, count_include_pad=False),
    "average of windows": lambda: cg.nn.GraphAvgPool2d(2, 2),
    "adaptive average": lambda: cg.nn.GraphAdaptiveAvgPool2d((3, 4)),
    "global average": cg.nn.GraphGlobalAvgPool,
    "adaptive max": lambda: cg.nn.GraphAdaptiveMaxPool2d((2, 3)),
    "global max": cg.nn.GraphGlobalMaxPool,
    "nearest": lambda: cg.nn.GraphUpsample(scale_factor=2, mode="nearest"),
    "bilinear": lambda: cg.nn.GraphUpsample(scale_factor=2, mode="bilinear"),
    "unfold": lambda: cg.nn.GraphUnfold(3, padding=1),
    "fold": lambda: cg.nn.GraphFold((6, 8), 2, stride=1),
    "depthwise": lambda: integer_weights(cg.nn.DepthwiseConv(4, 3, padding=1)),
    "transposed": lambda: integer_weights(cg.nn.GraphConvTranspose2d(4, 2, 3, 2)),
}
