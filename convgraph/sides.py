"""How one side of a proof is called: anything at all as f(x, w, b) -> y on images.

    "convgraph.sides:image"    a torch module on images; absent pixels are 0, as padding is
    "convgraph.sides:graph"    a graph layer on a PixelGraph, by the rule for output sites
    "convgraph.sides:sites"    the same, with the output sites of the record named

A record keeps these names, so that a verifier can call both sides again without the prover. May
import graph.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from convgraph.graph import PixelGraph

Run = Callable[..., Tensor]
"""f(x, w, b) -> y on images (B, C, *size)."""


def image(
    side: torch.nn.Module,
    spec: Mapping[str, Any],
) -> Run:
    """Call a module on images; what is no pixel is 0 before, what is no output site 0 behind.

    Args:
        side: takes an image (B, C, *size); its parameters are `weight` and `bias`.
        spec: the integers of a record; `source_mask` and `target_mask` are read.

    Example:
        >>> conv = torch.nn.Conv1d(1, 1, 1, bias=False)
        >>> image(conv, {})(torch.ones(1, 1, 2), 3 * torch.ones(1, 1, 1), None).tolist()
        [[[3.0, 3.0]]]
    """

    def run(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        present, wanted = (_mask(spec, end, x) for end in ("source", "target"))
        seen = x if present is None else torch.where(present.unsqueeze(1), x, 0)
        y: Tensor = functional_call(side, _parameters(side, w, b), (seen,))
        return y if wanted is None else torch.where(wanted.unsqueeze(1), y, 0)

    return run


def graph(
    side: torch.nn.Module,
    spec: Mapping[str, Any],
) -> Run:
    """Call a graph layer on the pixel graph of an image.

    Args:
        side: takes a PixelGraph.
        spec: the integers of a record; `source_mask` is read.
    """
    return _on_graph(side, spec, named=False)


def sites(
    side: torch.nn.Module,
    spec: Mapping[str, Any],
) -> Run:
    """Call a graph layer on the pixel graph of an image, with the output sites named.

    Args:
        side: takes a PixelGraph and `sites`.
        spec: the integers of a record; `source_mask` and `target_mask` are read.
    """
    return _on_graph(side, spec, named=True)


def _on_graph(side: torch.nn.Module, spec: Mapping[str, Any], named: bool) -> Run:
    def run(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        nodes = PixelGraph.from_image(x, _mask(spec, "source", x), d=x.ndim - 2)
        more = {"sites": _mask(spec, "target", x)} if named else {}
        out: PixelGraph = functional_call(side, _parameters(side, w, b), (nodes,), more)
        return out.to_image()

    return run


def _parameters(side: torch.nn.Module, w: Tensor | None, b: Tensor | None) -> dict[str, Tensor]:
    """Both parameters; a bias that is not sent is none, whatever the module holds."""
    sent = {"weight": w, "bias": b}
    return {name: value for name, value in sent.items() if value is not None}


def _mask(spec: Mapping[str, Any], end: str, x: Tensor) -> Tensor | None:
    found = spec.get(f"{end}_mask")
    return None if found is None else torch.tensor(found, dtype=torch.bool, device=x.device)
