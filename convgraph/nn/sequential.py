"""Sequential: pixel graphs through graph layers, node features through everything else.

A network has one site set per size (see `convgraph.site_rule`), so every graph layer is called with
`sites="network"`. A torch module that works row by row (ReLU, Linear, Dropout, ...) is a node
transform and gets x (N, C); one that expects an image would misread rows and is refused. May import
errors, graph and nn's other files.
"""

import copy
from typing import Any, ClassVar, Self, final

import torch

from convgraph.errors import ConversionError, UnsupportedError
from convgraph.graph import PixelGraph
from convgraph.nn import (
    adaptive,
    convs,
    flatten,
    norm,
    pixel_shuffle,
    pools,
    rearrange,
    resize,
    unpool,
)

_TWINS: dict[str, Any] = {
    name: value
    for module in (
        adaptive,
        convs,
        flatten,
        norm,
        pixel_shuffle,
        pools,
        rearrange,
        resize,
        unpool,
    )
    for name, value in vars(module).items()
    if name.startswith("Graph") and isinstance(value, type)
}
"""GraphX -> the layer, for every torch.nn.X that has a graph twin."""

_SPATIAL_PREFIXES = (
    "Conv", "LazyConv", "MaxPool", "AvgPool", "LPPool", "AdaptiveAvgPool", "AdaptiveMaxPool",
    "MaxUnpool", "FractionalMaxPool", "BatchNorm", "LazyBatchNorm", "SyncBatchNorm", "InstanceNorm",
    "LazyInstanceNorm", "GroupNorm", "LocalResponseNorm", "Dropout1d", "Dropout2d", "Dropout3d",
    "FeatureAlphaDropout", "Flatten", "Unflatten", "Upsample", "Unfold", "Fold", "Pixel",
    "Softmax2d", "ReflectionPad", "ReplicationPad", "ZeroPad", "ConstantPad", "CircularPad",
    "ChannelShuffle",
)  # fmt: skip
"""torch modules that read positions of an image, by the start of their names."""


@final
class Sequential(torch.nn.Sequential):
    """torch.nn.Sequential for pixel graphs; indexing, names and state_dict keys are torch's.

    After a global pool or a flatten there is one node per image and x is (B, C): a
    `torch.nn.Linear` then gives one row of logits per image, to be read as `net(graph).x`.

    Args:
        args: modules, or one OrderedDict of named modules, as torch takes them.

    Raises:
        UnsupportedError: a torch module that expects an image; the text names its graph twin.

    Example:
        >>> net = Sequential(convs.GraphConv2d(1, 4, 3, padding=1), torch.nn.ReLU())
        >>> net(PixelGraph.from_image(torch.ones(1, 1, 5, 5)))
        PixelGraph(25 nodes, 1 x 5x5, 4 channels, torch.float32, cpu)

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Sequential.html
    """

    takes_graph: ClassVar[bool] = True

    def add_module(self, name: str, module: torch.nn.Module | None) -> None:
        """Add a child, refusing one that would misread rows."""
        _check(name, module)
        super().add_module(name, module)

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Send the graph through.

        Args:
            graph: the input; its root mask decides the sites at every size.
            sites: None or "network"; a network's sites cannot be named one by one.

        Returns:
            A PixelGraph on the sites that the network's rule gives.
        """
        if sites is not None and sites != "network":
            raise UnsupportedError(
                "Sequential: sites= names the output of one layer; a network has one site set per "
                "size, which follows from the mask of its input"
            )
        for name, module in self.named_children():
            if getattr(module, "takes_graph", False):
                graph = module(graph, sites="network")
            else:
                _check(name, module)
                graph = graph.map(module)
        return graph

    @classmethod
    def from_dense(cls, dense: torch.nn.Sequential) -> Self:
        """Return the graph form of a torch.nn.Sequential, parameters copied bit for bit.

        Raises:
            ConversionError: a child has no graph twin.
        """
        if not isinstance(dense, torch.nn.Sequential):
            raise ConversionError(
                f"Sequential.from_dense: expected a torch.nn.Sequential, got {type(dense).__name__}"
            )
        made = cls()
        for name, module in dense.named_children():
            made.add_module(name, _to_graph(name, module))
        return made.train(dense.training)

    def to_dense(self) -> torch.nn.Sequential:
        """Return the torch.nn.Sequential of the same children, parameters copied bit for bit."""
        made = torch.nn.Sequential()
        for name, module in self.named_children():
            back = getattr(module, "to_dense", None)
            made.add_module(name, copy.deepcopy(module) if back is None else back())
        return made.train(self.training)


def _to_graph(name: str, module: torch.nn.Module) -> torch.nn.Module:
    kind = type(module)
    if isinstance(module, torch.nn.Sequential) and kind is torch.nn.Sequential:
        return Sequential.from_dense(module)
    if kind.__module__.startswith("torch.nn."):
        twin = _TWINS.get(f"Graph{kind.__name__}")
        if twin is not None:
            made: torch.nn.Module = twin.from_dense(module)
            return made
    try:
        _check(name, module)
    except UnsupportedError as error:
        raise ConversionError(f"Sequential.from_dense: {error}") from error
    return copy.deepcopy(module)


def _check(name: str, module: torch.nn.Module | None) -> None:
    kind = type(module)
    if getattr(module, "takes_graph", False) or not kind.__module__.startswith("torch.nn."):
        return
    if kind.__name__.startswith(_SPATIAL_PREFIXES):
        twin = f"Graph{kind.__name__}"
        way_out = f"use cg.nn.{twin}" if twin in _TWINS else "it has no graph twin in convgraph"
        raise UnsupportedError(
            f"Sequential: child {name!r} is a torch.nn.{kind.__name__}, which reads images "
            f"(B, C, *size) and would misread node features (N, C); {way_out}"
        )
