"""Masks for small networks, and what they answer as images."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import convgraph as cg


def patches(batch: int, size: tuple[int, ...]) -> Tensor:
    """Most of the patches of 8 x 8 pixels are away, as in masked pretraining."""
    coarse = torch.rand(batch, *(-(-n // 8) for n in size)) > 0.6
    coarse[:, 0, 0] = True
    fine = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return fine[:, : size[0], : size[1]].contiguous()


def scattered(batch: int, size: tuple[int, ...]) -> Tensor:
    return torch.rand(batch, *size) > 0.9


def single(batch: int, size: tuple[int, ...]) -> Tensor:
    """One pixel in the first image, another in the second; the last image is empty."""
    mask = torch.zeros(batch, *size, dtype=torch.bool)
    mask[0, size[0] - 1, size[1] - 1] = True
    mask[1, size[0] // 2, 3] = True
    return mask


MASKS = {"patches": patches, "scattered": scattered, "single": single}


def images(out: Any) -> list[Tensor]:
    """Return every output as a tensor, holes 0."""
    flat, _ = pytree.tree_flatten(out, is_leaf=lambda one: isinstance(one, cg.PixelGraph))
    return [one.to_image() if isinstance(one, cg.PixelGraph) else one for one in flat]
