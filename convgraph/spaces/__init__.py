"""Spaces: where the pixels of an array lie, so that ordinary weights serve other worlds."""

from collections.abc import Mapping
from dataclasses import fields
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


def from_text(text: str) -> Space:
    """Return the space that is written as `kind` or `kind:setting=value,...`, on a command line.

    Raises:
        GeometryError: another kind or setting, or a value that it does not take.

    Example:
        >>> from_text("healpix:corner=mean"), from_text("torus:rows=false")
        (HEALPix(corner='mean'), Torus(rows=False, columns=True))
    """
    kind, _, rest = text.partition(":")
    pairs = [one.partition("=") for one in rest.split(",") if one]
    settings = {name: {"true": True, "false": False}.get(value, value) for name, _, value in pairs}
    if kind not in KINDS:
        raise GeometryError(f"expected a space of a kind in {tuple(KINDS)}, got {text!r}")
    known = tuple(entry.name for entry in fields(KINDS[kind]))
    for name in settings:
        if name not in known:
            raise GeometryError(f"{kind}: expected settings among {known}, got {name!r}")
    found: Space = KINDS[kind](**settings)
    return found
