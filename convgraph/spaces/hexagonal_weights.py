"""Weights of other packages' hexagonal convolutions, as a square kernel in axial coordinates.

    hexagdly, pytorch-hexagdly    kernel0 the middle column, kernel i the two columns i to the left
                                  and right of it, each from the top; odd columns lie lower
    indexedconv                   one weight a pixel of the hexagon, row by row, the other diagonal

Each becomes weight (C_out, C_in, 2 r + 1, 2 r + 1) with 0 at the corners that are no taps.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import ConversionError
from convgraph.geometry.footprint import hexagon


def from_hexagdly(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weight` (and `bias`) of a `state_dict` of hexagdly's Conv2d, pytorch-hexagdly's too.

    Args:
        state: kernel0 (C_out, C_in, 2 r + 1, 1) and kernel1 to kernel r (.., 2 r + 1 - i, 2).

    Raises:
        ConversionError: kernels are missing, or have other shapes.

    Example:
        >>> state = {"kernel0": torch.ones(1, 1, 3, 1), "kernel1": 2 * torch.ones(1, 1, 2, 2)}
        >>> from_hexagdly(state)["weight"][0, 0].int().tolist()
        [[0, 1, 2], [2, 1, 2], [2, 1, 0]]
    """
    if "kernel0" not in state:
        raise ConversionError(
            f"hexagdly: expected kernel0, kernel1, ... of a Conv2d, got {sorted(state)}"
        )
    first = state["kernel0"]
    side, radius = first.shape[2], first.shape[2] // 2
    weight = first.new_zeros(*first.shape[:2], side, side)
    weight[..., radius] = first[..., 0]
    for i in range(1, radius + 1):
        kernel = state.get(f"kernel{i}")
        if kernel is None or tuple(kernel.shape) != (*first.shape[:2], side - i, 2):
            raise ConversionError(
                f"hexagdly: expected kernel{i} of shape {(*first.shape[:2], side - i, 2)}, got "
                f"{None if kernel is None else tuple(kernel.shape)}"
            )
        weight[..., i:, radius - i] = kernel[..., 0]
        weight[..., : side - i, radius + i] = kernel[..., 1]
    found = {"weight": weight}
    for name in ("bias", "bias_tensor"):
        if state.get(name) is not None:
            found["bias"] = state[name]
    return found


def from_indexedconv(state: Mapping[str, Tensor], *, mirrored: bool = True) -> dict[str, Tensor]:
    """Return `weight` (and `bias`) of a `state_dict` of indexedconv's IndexedConv, kernel "Hex".

    Args:
        state: weight (C_out, C_in, 3 r (r + 1) + 1).
        mirrored: whether the axial array is turned left to right, so that its absent corners are
            those of `cg.Hexagonal`; indexedconv's own are the other two.

    Raises:
        ConversionError: the number of weights is no hexagon's.

    Example:
        >>> state = {"weight": torch.arange(7.0).view(1, 1, 7)}
        >>> from_indexedconv(state)["weight"][0, 0].int().tolist()
        [[0, 1, 0], [4, 3, 2], [6, 5, 0]]
    """
    given = state.get("weight")
    count = 0 if given is None else given.shape[-1]
    radius = next((r for r in range(1, 64) if 3 * r * (r + 1) + 1 == count), 0)
    if given is None or not radius:
        raise ConversionError(
            f"indexedconv: expected weight (C_out, C_in, 7), (.., 19), ..., got {sorted(state)} "
            f"with {count} weights"
        )
    side = 2 * radius + 1
    there = np.array(hexagon((side, side))).reshape(side, side)
    taps = torch.from_numpy(np.flatnonzero(there[:, ::-1]))
    weight = given.new_zeros(*given.shape[:2], side * side)
    weight = weight.index_copy(2, taps.to(given.device), given).unflatten(2, (side, side))
    found = {"weight": weight.flip(-1) if mirrored else weight}
    if state.get("bias") is not None:
        found["bias"] = state["bias"]
    return found
