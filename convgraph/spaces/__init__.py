"""Spaces: where the pixels of an array lie, so that ordinary weights serve other worlds."""

from collections.abc import Mapping
from typing import Any

import torch

from convgraph.door import doors
from convgraph.errors import GeometryError
from convgraph.geometry.space import Space
from convgraph.spaces.equirectangular import Equirectangular
from convgraph.spaces.healpix import HEALPix
from convgraph.spaces.hexagonal import Hexagonal
from convgraph.spaces.torus import Torus

__all__ = ["Equirectangular", "HEALPix", "Hexagonal", "Torus"]

KINDS: dict[str, Any] = {
    "torus": Torus,
    "hexagonal": Hexagonal,
    "healpix": HEALPix,
    "equirectangular": Equirectangular,
}
"""What a record calls a space -> its class."""

for _kind in KINDS.values():
    doors(_kind)

torch.serialization.add_safe_globals([*KINDS.values()])


def from_dict(settings: Mapping[str, Any] | None) -> Space | None:
    """Return the space of the settings that `Space.to_dict` gives; the way back.

    Example:
        >>> from_dict(Torus(columns=False).to_dict())
        Torus(rows=True, columns=False)
    """
    if settings is None:
        return None
    if settings.get("kind") not in KINDS:
        raise GeometryError(f"expected a space of a kind in {tuple(KINDS)}, got {settings!r}")
    found: Space = KINDS[settings["kind"]](**{k: v for k, v in settings.items() if k != "kind"})
    return found
