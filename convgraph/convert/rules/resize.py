"""Resizes: y[p] = sum over edges (q, p, t) of w(p, t) x[q], not renormalised."""

from typing import Any

from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial, result
from convgraph.functional import resize


@rule(
    *(f"{name}{d}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for d in (1, 2, 3)),
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
    hop="edges",
)  # fmt: skip
def interpolate(call: Any, x: Spatial, size: Any, *args: Any) -> Any:
    """As `torch.nn.functional.interpolate`, by mode."""
    mode = call.name.strip("_").removeprefix("upsample_")[:-2].replace("_", "-")
    rest = list(args)
    corners = None if "nearest" in mode else rest.pop(0)
    factors = rest.pop(0) if rest else None
    if rest or (factors is not None and not isinstance(factors, (list, tuple))):
        raise NoRuleError("it names sizes and scales at once")
    graph = x.graph()
    lengths, scales = (None if one is None else tuple(one) for one in (size, factors))
    edges = resize.resize_edges(graph, lengths, scales, mode, corners, sites="network")
    call.travelled(edges)
    return result(type(graph)(resize.resize(graph.x, edges), edges.target))
