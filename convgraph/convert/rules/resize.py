"""Resizes: y[p] = sum over edges (q, p, t) of w(p, t) x[q], not renormalised."""

from typing import Any

from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial, result
from convgraph.functional import resize

_MODES = {
    "upsample_nearest1d": "nearest",
    "upsample_nearest2d": "nearest",
    "upsample_nearest3d": "nearest",
    "_upsample_nearest_exact1d": "nearest-exact",
    "_upsample_nearest_exact2d": "nearest-exact",
    "_upsample_nearest_exact3d": "nearest-exact",
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
}


@rule(*_MODES, hop="edges")
def interpolate(call: Any, x: Spatial, size: Any, *args: Any) -> Any:
    """As `torch.nn.functional.interpolate`, by mode."""
    mode = _MODES[call.name]
    corners = None
    rest = list(args)
    if "nearest" not in mode:
        corners = rest.pop(0)
    factors = rest.pop(0) if rest else None
    if rest or (factors is not None and not isinstance(factors, (list, tuple))):
        raise NoRuleError("it names sizes and scales at once")
    graph = x.graph()
    given = {
        "size": None if size is None else tuple(size),
        "scale_factor": None if factors is None else tuple(factors),
    }
    edges = resize.resize_edges(
        graph, given["size"], given["scale_factor"], mode, corners, sites="network"
    )
    call.travelled(edges)
    return result(type(graph)(resize.resize(graph.x, edges), edges.target))
