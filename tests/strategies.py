"""Random operators and random sites: what the thousand cases are drawn from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import convgraph as cg
from convgraph.geometry.padding import PADDING_MODES
from convgraph.proof import ConvSpec


@dataclass(frozen=True)
class Case:
    """One convolution on one batch of images.

    Attributes:
        options: arguments of the graph layer, which takes all that torch takes and uneven pads.
        d: dimensions.
        transposed: which of the two families.
        sizes: one size per image; several sizes make a ragged batch.
        density: share of pixels that are nodes; None for no mask at all.
        named: whether the output sites are named by a random mask.
        seed: of the numbers.
    """

    options: dict[str, Any]
    d: int
    transposed: bool
    sizes: tuple[tuple[int, ...], ...]
    density: float | None
    named: bool
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw every argument of the layers, sites of several kinds and the seed of the numbers."""
    d = draw(st.integers(1, 3))
    transposed = draw(st.booleans())

    def each(what: st.SearchStrategy[Any]) -> Any:
        """One value for all axes, or one an axis."""
        return draw(what if draw(st.booleans()) else st.tuples(*[what] * d))

    groups = draw(st.sampled_from([1, 1, 2, 4]))
    options: dict[str, Any] = {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": each(st.integers(1, 4 if d < 3 else 3)),
        "stride": each(st.integers(1, 5)),
        "dilation": each(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    pad = st.integers(0, 2)
    if transposed:
        options["padding"] = each(pad)
        options["output_padding"] = each(st.integers(0, 2))
    else:
        kind = draw(st.sampled_from(["numbers", "numbers", "pairs", "same", "valid"]))
        if kind == "numbers":
            options["padding"] = each(pad)
        elif kind == "pairs":
            options["padding"] = draw(st.tuples(*[st.tuples(pad, pad)] * d))
        else:
            options["padding"] = kind
            options["stride"] = 1 if kind == "same" else options["stride"]
        options["padding_mode"] = draw(st.sampled_from(["zeros", *PADDING_MODES]))
    size = st.tuples(*[st.integers(1, 7 if d < 3 else 5)] * d)
    ragged = draw(st.integers(0, 3)) == 0
    sizes = tuple(draw(st.lists(size, min_size=1, max_size=3))) if ragged else (draw(size),) * 2
    density = draw(st.sampled_from([None, None, 0.9, 0.5, 0.2, 0.0]))
    named = len(set(sizes)) == 1 and draw(st.integers(0, 4)) == 0
    return Case(options, d, transposed, sizes, density, named, draw(st.integers(0, 2**32)))


def layer_of(case: Case, dtype: torch.dtype) -> cg.nn.GraphConvNd:
    """Build the graph layer.

    Raises:
        GeometryError: the arguments describe no operator.
    """
    kind = "GraphConvTranspose" if case.transposed else "GraphConv"
    return getattr(cg.nn, f"{kind}{case.d}d")(**case.options, dtype=dtype)


def images_of(case: Case) -> tuple[list[Tensor], list[Tensor] | None]:
    """Draw one integer image (C, *size) per size, and the masks."""
    torch.manual_seed(case.seed)
    channels = case.options["in_channels"]
    images = [torch.randint(-3, 4, (channels, *size)).double() for size in case.sizes]
    if case.density is None:
        return images, None
    return images, [torch.rand(size) < case.density for size in case.sizes]


def spec_of(
    case: Case,
    layer: cg.nn.GraphConvNd,
    size: tuple[int, ...],
    source: Tensor | None,
    target: Tensor | None,
) -> ConvSpec:
    """Write one image's operator down for the oracle, from the arguments alone.

    Args:
        case: what was drawn.
        layer: only for the normalized tuples of its arguments.
        size: of the image.
        source: (*size) bool or None.
        target: (*out) bool or None.
    """
    g = layer.geometry

    def array(mask: Tensor | None) -> np.ndarray[Any, Any] | None:
        return None if mask is None else mask.unsqueeze(0).numpy()

    return ConvSpec(
        case.options["in_channels"],
        case.options["out_channels"],
        g.kernel_size,
        size,
        batch=1,
        stride=g.stride,
        padding=g.padding,
        dilation=g.dilation,
        padding_mode=g.padding_mode,
        transposed=case.transposed,
        output_padding=g.output_padding,
        groups=case.options["groups"],
        bias=case.options["bias"],
        source_mask=array(source),
        target_mask=array(target),
    )
