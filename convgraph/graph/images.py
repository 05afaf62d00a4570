"""Image tensors at the door: what is accepted, and how pixels lie in memory."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph import arguments
from convgraph.errors import DeviceError, DtypeError, GraphError, ShapeError
from convgraph.geometry.space import Space


def rows_of(rows: Tensor, channels: int) -> Tensor:
    """(..., C) as (N, C) with strides (C, 1), also where a size-1 axis hides another stride."""
    count = prod(rows.shape[:-1])
    return rows.reshape(count * channels).view(count, channels)


def as_mask(mask: Any, device: torch.device) -> Any:
    """A mask as a tensor, an array of NumPy brought to the image's device; others as they are."""
    if isinstance(mask, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(mask)).to(device)  # also one that was flipped
    if isinstance(mask, (list, tuple)):
        return [as_mask(one, device) for one in mask]
    return mask


def check_image(image: object, d: int) -> Tensor:
    """Return the image; refuse what is no tensor with d lattice axes and 1 or 2 more."""
    if not isinstance(image, Tensor):
        raise GraphError(
            f"PixelGraph.from_image: expected a tensor, got {type(image).__name__}; of an array "
            "(H, W, C): torch.from_numpy(array).movedim(-1, 0).float()"
        )
    arguments.tensor("PixelGraph.from_image", "image", image, shape="(B, C, *size)", real=False)
    if image.dim() not in (d + 1, d + 2):
        raise GraphError(
            f"PixelGraph.from_image: expected an image (B, C, *size) or (C, *size) with d = {d} "
            f"lattice axes, got shape {tuple(image.shape)}; for signals pass d=1, for volumes d=3"
        )
    return image


def check_same(first: Tensor, other: Tensor) -> None:
    """Refuse two tensors that differ in device or dtype."""
    if first.device != other.device:
        raise DeviceError(f"images on {first.device} and {other.device}; move them together first")
    if first.dtype != other.dtype:
        raise DtypeError(f"images of dtype {first.dtype} and {other.dtype}; convert one of them")


def expand_mask(mask: Tensor, batch: Tensor) -> Tensor:
    """A mask of any accepted shape as (B, *size)."""
    arguments.tensor("PixelGraph.from_image", "mask", mask, shape="(B, *size)", real=False)
    if mask.dtype != torch.bool:
        raise DtypeError(
            f"PixelGraph.from_image: expected a mask of dtype torch.bool, got {mask.dtype}; "
            "a mask is never inferred from zeros: write `mask=values != 0` if that is meant"
        )
    if mask.device != batch.device:
        raise DeviceError(
            f"PixelGraph.from_image: image on {batch.device}, mask on {mask.device}; "
            "move one of them"
        )
    full = (batch.shape[0], *batch.shape[2:])
    shape = tuple(mask.shape)
    if shape == full:
        return mask
    if shape == (full[0], 1, *full[1:]):
        return mask.squeeze(1)
    if shape == full[1:]:
        return mask.expand(full)
    each = "; a node has all channels: mask.all(1)" if shape == tuple(batch.shape) else ""
    raise GraphError(
        f"PixelGraph.from_image: expected a mask of shape (B, *size) = {full} or {full[1:]}, "
        f"got {shape}{each}"
    )


def check_space(on: Space | None, size: Sequence[int]) -> None:
    """Refuse what is no space, and an image that is none of the space's."""
    if on is None:
        return
    if isinstance(on, type) or not hasattr(on, "charts"):
        raise GraphError(
            f"PixelGraph.from_image: expected on= as a space, cg.Torus() or another, got {on!r}"
        )
    on.charts(size)


def check_list(given: list[Tensor], mask: Any, d: int) -> None:
    """Refuse lists of images that differ in more than size, or masks that are not theirs."""
    if not given:
        raise GraphError("PixelGraph.from_image: expected at least one image, got an empty list")
    for image in given:
        check_image(image, d)
        if image.dim() != d + 1:
            raise GraphError(
                "PixelGraph.from_image: images of a list have no batch dimension; expected "
                f"(C, *size) with {d + 1} dimensions, got {tuple(image.shape)}"
            )
    first = given[0]
    for image in given[1:]:
        check_same(first, image)
        if image.shape[0] != first.shape[0]:
            raise ShapeError(
                f"PixelGraph.from_image: expected {first.shape[0]} channels in every image, "
                f"got {image.shape[0]}"
            )
    if mask is not None and not isinstance(mask, (list, tuple)):
        raise GraphError("PixelGraph.from_image: a list of images takes a list of masks")
    for one in mask or ():
        if one is not None and not isinstance(one, Tensor):
            raise GraphError(
                f"PixelGraph.from_image: expected masks or None, got {type(one).__name__}"
            )
        if one is not None and one.device != first.device:
            raise DeviceError(
                f"PixelGraph.from_image: image on {first.device}, mask on {one.device}; "
                "move one of them"
            )
