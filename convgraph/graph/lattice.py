"""Sizes, masks and devices at the door of a record of sites: what is accepted, and how it reads."""

from collections.abc import Sequence
from math import prod
from operator import index
from typing import Any

import torch
from torch import Tensor

from convgraph import arguments
from convgraph.errors import DeviceError, DtypeError, GraphError
from convgraph.geometry.kernel import MAX_DIMENSIONS, MOST

Size = tuple[int, ...]
"""Pixels of a lattice along each axis, height before width."""


def named_device(device: torch.device | str) -> torch.device:
    """Return the device with its index, as tensors on it name it."""
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"expected a device such as 'cpu' or 'cuda:0', got {device!s:.60}"
        ) from error
    if named.type == "cpu":  # "cpu:0" is the same place under another name
        return torch.device("cpu")
    if named.index is None and named.type != "meta":
        return torch.empty(0, device=named).device
    return named


def checked_size(size: Sequence[int]) -> Size:
    """Return the size as a tuple of ints.

    Raises:
        GraphError: not 1 to 3 integers, or an axis without pixels.
    """
    try:
        shape = tuple(index(n) for n in size)
    except TypeError:
        raise GraphError(f"expected a lattice size of integers, got {size!r}") from None
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
        raise GraphError(
            f"expected a lattice of 1 to {MAX_DIMENSIONS} axes with at least one pixel each, "
            f"got size {shape}"
        )
    if max(shape) > MOST:
        raise GraphError(f"expected at most {MOST} pixels along an axis, got size {shape}")
    return shape


def check_listable(pixels: int) -> None:
    """Refuse more pixels than a list can hold; only a full grid, which lists none, may have them.

    Raises:
        GraphError: with the way out.
    """
    if pixels > MOST:
        raise GraphError(
            f"expected at most {MOST} pixels where each of them is listed, got {pixels}; "
            "`cg.tiled` runs a network on a larger image part by part"
        )


def check_bool(mask: Tensor) -> None:
    """Refuse a mask that is not boolean, or holds no numbers."""
    arguments.tensor("Sites", "mask", mask, shape="(B, *size)", real=False)
    if mask.is_meta:
        raise DeviceError("Sites: a mask on 'meta' does not say which pixels are nodes")
    if mask.dtype != torch.bool:
        raise DtypeError(
            f"expected a mask of dtype torch.bool, got {mask.dtype}; "
            "a mask is never inferred from zeros: write `mask=values != 0` if that is meant"
        )


def flat_mask(mask: Tensor | None, size: Size, device: torch.device) -> Tensor:
    """Return (num_cells,) bool of one image; None means that every cell is a node.

    Raises:
        GraphError: a mask of another size.
    """
    if mask is None:
        check_listable(prod(size))
        return torch.ones(prod(size), dtype=torch.bool, device=device)
    check_bool(mask)
    if tuple(mask.shape) != size:
        raise GraphError(f"expected a mask of size {size}, got {tuple(mask.shape)}")
    return mask.detach().to(device).reshape(-1)


def positions(
    cells: Tensor,  # (N,) counted from the start of each lattice, or of a stack of equal ones
    size: Sequence[Any],
) -> Tensor:
    """Return (N, d) int64: the pixel of each cell; `size` holds d ints, or (N,) extents an axis."""
    columns: list[Tensor] = []
    for extent in reversed(size):
        columns.append(cells % extent)
        cells = cells // extent
    return torch.stack(columns[::-1], dim=1)


def by(size: Size) -> str:
    """Write a size, as in 4x5."""
    return "x".join(str(n) for n in size)


def several(sizes: tuple[Size, ...]) -> str:
    """Write the first sizes of many."""
    return f"[{', '.join(by(size) for size in sizes[:4])}{', ...' if len(sizes) > 4 else ''}]"
