"""The explorer: one interactive page, in a notebook or as a file.

Move over an output pixel and its incoming edges, taps, weights and messages add up to the number;
change the kernel's integers; erase pixels; split the layer in two. The arithmetic is JavaScript's
(js/), so the page needs no kernel and no network.
"""

from typing import Any

from torch import Tensor

from convgraph.door import door
from convgraph.errors import MissingExtraError
from convgraph.explorer import source, still
from convgraph.explorer.config import state_of
from convgraph.graph.pixel_graph import PixelGraph

__all__ = ["explore", "page", "state_of"]


@door
def explore(layer: Any = None, image: Tensor | PixelGraph | None = None) -> Any:
    """Return a notebook widget that shows a layer on an image, edge by edge.

    Args:
        layer: a 2-D convolution of torch or of convgraph, or a DepthwiseSeparableConv, of at most
            64 channels; None opens the page's own lessons.
        image: (C, H, W), (1, C, H, W) or the PixelGraph of one image, in the plane, on hexagons or
            on a torus, at most 16 x 16 pixels; None draws whole numbers on 8 x 8 pixels.

    Returns:
        An anywidget with the traits `state` (what it opened with) and `seen` (what it shows now).

    Raises:
        MissingExtraError: anywidget is not installed.
        ConversionError, GraphError, ShapeError, GeometryError: of layer and image, as in
            `convgraph.explorer.state_of`.

    Example:
        >>> import pytest, torch
        >>> _ = pytest.importorskip("anywidget")
        >>> explore(torch.nn.Conv2d(1, 2, 3), torch.ones(1, 6, 7)).state["config"]["size"]
        [6, 7]
    """
    state = state_of(layer, image)
    try:
        from convgraph.explorer.widget import Explorer
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "ipywidgets", "traitlets"):
            raise
        raise MissingExtraError(
            "cg.explore: expected the package 'anywidget', which the base install leaves out; "
            "install it with: pip install anywidget, or write a page with: "
            "convgraph explore --out page.html"
        ) from error
    return Explorer(state=state)


@door
def page(
    layer: Any = None, image: Tensor | PixelGraph | None = None, *, language: str = "en"
) -> str:
    """Return the explorer as one HTML page that needs nothing else.

    Args:
        layer: see `state_of`; None opens the page's own lessons.
        image: see `state_of`.
        language: "en" or "zh" (Chinese).

    Raises:
        ConversionError, GraphError, ShapeError, GeometryError: as in `state_of`.

    Example:
        >>> page().startswith("<!doctype html>")
        True
    """
    state = state_of(layer, image)
    return source.page(state, still=still.tables(state), language=language)
