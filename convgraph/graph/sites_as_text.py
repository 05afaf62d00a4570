"""Sites as trees of torch name them: equal where the same pixels are nodes, and written as text.

torch.export compares the structure of what a program is called with to what it was exported with,
maybe in another process, and writes it to a file.
"""

import base64
from typing import Any, final

import numpy as np
import torch

from convgraph.errors import GraphError
from convgraph.graph.sites import Sites


@final
class Where:
    """Sites, compared by what they say.

    Example:
        >>> Where(Sites.ragged([(2, 3), (1, 1)])) == Where(Sites.ragged([(2, 3), (1, 1)]))
        True
    """

    __slots__ = ("sites",)

    def __init__(self, sites: Sites) -> None:
        """Hold sites."""
        self.sites = sites

    def __eq__(self, other: object) -> bool:
        """Whether the same pixels of the same lattices are nodes."""
        if not isinstance(other, Where):
            return False
        one, two = self.sites, other.sites
        if one is two:
            return True
        same = one.sizes == two.sizes and one.space == two.space and one.batched == two.batched
        if not same or one.device != two.device or (one.mask is None) != (two.mask is None):
            return False
        return one.mask is None or two.mask is None or torch.equal(one.mask, two.mask)

    def __hash__(self) -> int:
        """Of the sizes."""
        return hash(self.sites.sizes)

    def __repr__(self) -> str:
        """As the sites."""
        return repr(self.sites)


def to_text(where: Where) -> Any:
    """Return sites as JSON takes them.

    Raises:
        GraphError: they lie in a space, which has no text.
    """
    sites = where.sites
    if sites.space is not None:
        raise GraphError(
            f"a program that takes graphs on {sites.space} has no file; export a function of rows"
        )
    mask = None
    if sites.mask is not None:
        packed = np.packbits(sites.mask.cpu().numpy())
        mask = base64.b64encode(packed.tobytes()).decode()
    return {
        "sizes": [list(size) for size in sites.sizes], "mask": mask, "d": sites.d,
        "batched": sites.batched, "device": str(sites.device),
    }  # fmt: skip


def from_text(text: Any) -> Where:
    """Return the sites of `to_text`.

    Raises:
        GraphError: the text is none of those.
    """
    try:
        sizes = tuple(tuple(int(n) for n in size) for size in text["sizes"])
        cells = sum(int(np.prod(size)) for size in sizes)
        masks = None
        if text["mask"] is not None:
            packed = np.frombuffer(base64.b64decode(text["mask"]), dtype=np.uint8)
            bits = torch.from_numpy(np.unpackbits(packed, count=cells).astype(bool))
            parts = bits.split([int(np.prod(size)) for size in sizes])
            masks = [part.view(size) for part, size in zip(parts, sizes, strict=True)]
        return Where(
            Sites.ragged(sizes, masks, device=text["device"], batched=bool(text["batched"]))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise GraphError(f"sites in a file: expected sizes and a mask, got {error}") from error
