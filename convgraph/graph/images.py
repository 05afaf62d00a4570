"""Image tensors at the door: what is accepted, and how pixels lie in memory."""

from math import prod

import torch
from torch import Tensor

from convgraph.errors import DeviceError, DtypeError, GraphError


def rows_of(rows: Tensor, channels: int) -> Tensor:
    """(..., C) as (N, C) with strides (C, 1), also where a size-1 axis hides another stride."""
    count = prod(rows.shape[:-1])
    return rows.reshape(count * channels).view(count, channels)


def check_floating(dtype: torch.dtype) -> None:
    """Refuse integer features by name."""
    if not dtype.is_floating_point:
        raise DtypeError(
            f"PixelGraph: expected floating features, got {dtype}; convert with image.float()"
        )


def check_image(image: object, d: int) -> Tensor:
    """Return the image; refuse what is no floating tensor with d lattice axes and 1 or 2 more."""
    if not isinstance(image, Tensor):
        raise GraphError(
            f"PixelGraph.from_image: expected a tensor, got {type(image).__name__}; of an array "
            "(H, W, C): torch.from_numpy(array).movedim(-1, 0).float()"
        )
    check_floating(image.dtype)
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
    raise GraphError(
        f"PixelGraph.from_image: expected a mask of shape (B, *size) = {full} or {full[1:]}, "
        f"got {shape}"
    )
