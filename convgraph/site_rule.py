"""The sites of a network: one set per size, a function of the root mask and of the size alone.

Along each axis from size S to S' <= S, pixel p belongs to the one cell floor(p S' / S); for S' > S
site p' copies pixel floor(p' S / S'). A site is active when a pixel of its cell is. So maps of one
size always live on the same sites and can be added and concatenated, whatever path led to them. A
map of one site is a readout and has no mask.

May import lattice and sites.
"""

from math import prod

import torch
from torch import Tensor

from convgraph.lattice import Size
from convgraph.sites import Sites


def network_sites(source: Sites, sizes: tuple[Size, ...]) -> Sites:
    """Return the sites that a network starting at `source.root` uses at these sizes.

    Args:
        source: any record of the network; only its root is read.
        sizes: one size per image.

    Returns:
        The same record for the same root and sizes; the root itself at its own size.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[0, 0, 0] = True
        >>> network_sites(Sites.from_mask(mask), ((2, 2),)).mask.tolist()
        [True, False, False, False]
    """
    root = source.root
    if sizes == root.sizes:
        return root

    def make() -> Sites:
        if root.is_full:
            return root.derived(sizes, None)
        parts = [
            torch.ones(size, dtype=torch.bool, device=root.device)
            if prod(size) == 1
            else _resized(mask, size)
            for mask, size in zip(root.mask_images(), sizes, strict=True)
        ]
        return root.derived(sizes, torch.cat([part.reshape(-1) for part in parts]))

    return root.kin(("network", sizes), make)


def _resized(mask: Tensor, size: Size) -> Tensor:
    """The mask at another size, one axis at a time."""
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        if new > old:
            copied = torch.arange(new, device=mask.device) * old // new
            mask = mask.index_select(axis, copied)
        elif new < old:
            cell = torch.arange(old, device=mask.device) * new // old
            shape = [*mask.shape[:axis], new, *mask.shape[axis + 1 :]]
            total = torch.zeros(shape, dtype=torch.int32, device=mask.device)
            mask = total.index_add(axis, cell, mask.int()) > 0
    return mask
