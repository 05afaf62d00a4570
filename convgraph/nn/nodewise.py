"""Which torch modules are node transforms: functions of one row of x (N, C) at a time.

    y[p] = f(x[p])

An activation is one; a convolution is not, and given rows it would take nodes for channels or for
pixels without a word. So every torch module that reads an image, or mixes nodes, is refused by name
together with whatever holds it.
"""

from collections.abc import Container

import torch

from convgraph.errors import GraphError, UnsupportedError
from convgraph.torch_modules import ALONG_A_DIMENSION, READS_POSITIONS


def check(
    name: str,
    module: torch.nn.Module,
    twins: Container[str],
) -> None:
    """Refuse a module that would misread node features, or holds one that would.

    Args:
        name: of the child, for the error text.
        module: what is to be applied to x (N, C); a layer that takes graphs is always fine.
        twins: names of the graph layers there are.

    Raises:
        GraphError: no module.
        UnsupportedError: the text names the module and the graph layer to use instead.

    Example:
        >>> check("act", torch.nn.ReLU(), ())
    """
    if not isinstance(module, torch.nn.Module):
        raise GraphError(
            f"Sequential: expected child {name!r} as a torch.nn.Module, got "
            f"{module.__name__ if isinstance(module, type) else type(module).__name__}; "
            "pass a layer, such as cg.nn.GraphConv2d(3, 8, 3) or torch.nn.ReLU()"
        )
    if getattr(module, "takes_graph", False):
        return
    for path, part in module.named_modules():
        where = f"child {name!r}" + (f", at {path!r}," if path else "")
        if getattr(part, "takes_graph", False):
            raise UnsupportedError(
                f"Sequential: {where} holds a graph layer, {type(part).__name__}, but would be "
                f"given node features (N, C); use cg.nn.Sequential in place of "
                f"{type(module).__name__}, or give that class `takes_graph = True`"
            )
        kind = type(part).__name__
        if not type(part).__module__.startswith("torch.nn."):
            continue
        if kind.startswith(READS_POSITIONS):
            raise UnsupportedError(
                f"Sequential: {where} is a torch.nn.{kind}, which reads images (B, C, *size) and "
                f"would misread node features (N, C); {_way_out(kind, twins)}"
            )
        if kind in ALONG_A_DIMENSION and getattr(part, "dim", None) not in (None, 1, -1):
            raise UnsupportedError(
                f"Sequential: {where} is {part}; of node features (N, C) only the channels, "
                "dim=1, belong to one node"
            )


def _way_out(kind: str, twins: Container[str]) -> str:
    base = kind.removeprefix("Lazy")
    if f"Graph{base}" in twins:
        return f"use cg.nn.Graph{base}"
    if kind == "Softmax2d":
        return "use torch.nn.Softmax(dim=1)"
    if kind.startswith("Upsampl"):
        return "use cg.nn.GraphUpsample"
    if "Pad" in kind:
        return "give padding= and padding_mode= to the graph layer that follows"
    return "it has no graph twin in convgraph"
