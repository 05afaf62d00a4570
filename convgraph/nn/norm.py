"""Norm layers: torch's own norms, told which pixels exist.

Each layer is torch's module with its parameters, buffers and arguments; only `forward` differs. On
a full grid it runs torch's own operator on the channels-last view. On a mask or a ragged batch the
statistics run over the nodes: of all images for batch norm, of each image for the others. May
import errors, graph, backends and functional.
"""

from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from convgraph.backends.dense import as_rows
from convgraph.errors import UnsupportedError
from convgraph.functional import norm as functional
from convgraph.graph import PixelGraph
from convgraph.nn import twin


def _image(graph: PixelGraph) -> Tensor | None:
    """(B, C, *size) view of a full grid, or None."""
    sites = graph.sites
    if sites.size is None or not sites.is_full:
        return None
    return graph.x.view(sites.batch_size, *sites.size, graph.num_channels).movedim(-1, 1)


def _batch_norm(layer: Any, kind: Any, graph: PixelGraph) -> PixelGraph:
    """Run torch's batch norm on the image, or on the nodes as a batch of one-pixel images."""
    functional.check_channels(graph, layer.num_features, type(layer).__name__)
    if graph.num_nodes == 0:
        return graph.map(lambda x: functional.affine(x, layer.weight, layer.bias))
    image = _image(graph)
    if image is None:
        image = graph.x.view(graph.num_nodes, -1, *(1,) * max(graph.sites.d, layer.least_axes))
    return graph.with_x(as_rows(kind.forward(layer, image)))


def _instance_norm(layer: Any, kind: Any, graph: PixelGraph) -> PixelGraph:
    functional.check_channels(graph, layer.num_features, type(layer).__name__)
    image = _image(graph)
    if image is not None and graph.num_nodes:
        return graph.with_x(as_rows(kind.forward(layer, image)))
    y = functional.instance_norm(
        graph,
        layer.running_mean,
        layer.running_var,
        layer.weight,
        layer.bias,
        use_input_stats=layer.training or not layer.track_running_stats,
        momentum=layer.momentum if layer.momentum is not None else 0.0,
        eps=layer.eps,
    )
    return graph.with_x(y)


class _Norm:
    """What every norm layer shares: it takes graphs, keeps their sites, and has a torch twin."""

    takes_graph: ClassVar[bool] = True
    least_axes: ClassVar[int] = 0

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch norm, parameters and buffers copied bit for bit.

        Raises:
            ConversionError: another type of module, or a lazy one that was never called.
        """
        twin.check_twin(cls, dense, twin.by_name(cls))
        made: Any = cls.__new__(cls)
        torch.nn.Module.__init__(made)
        made.__dict__.update({k: v for k, v in dense.__dict__.items() if not k.startswith("_")})
        layer: Self = _copied(dense, made)
        return layer

    def to_dense(self) -> Any:
        """Return the torch norm with the same parameters and buffers, copied bit for bit."""
        kind = twin.by_name(type(self))
        made: Any = kind.__new__(kind)
        torch.nn.Module.__init__(made)
        made.__dict__.update({k: v for k, v in self.__dict__.items() if not k.startswith("_")})
        return _copied(self, made)


def _copied(source: Any, made: Any) -> Any:
    """Register copies of the source's parameters and buffers in a module made without __init__."""
    for name, parameter in source._parameters.items():
        copy = None
        if parameter is not None:
            copy = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        made.register_parameter(name, copy)
    for name, buffer in source._buffers.items():
        made.register_buffer(name, None if buffer is None else buffer.detach().clone())
    return made


@final
class GraphBatchNorm1d(_Norm, torch.nn.BatchNorm1d):
    """torch.nn.BatchNorm1d over all nodes of the batch; arguments, parameters and buffers as there.

    Example:
        >>> GraphBatchNorm1d(2)(PixelGraph.from_image(torch.rand(1, 2, 8), d=1)).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _batch_norm(self, torch.nn.BatchNorm1d, graph)


@final
class GraphBatchNorm2d(_Norm, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d over all nodes of the batch; arguments, parameters and buffers as there.

    On a mask only nodes count: the statistics are those of the pixels that exist.

    Example:
        >>> norm = GraphBatchNorm2d(3)
        >>> norm(PixelGraph.from_image(torch.rand(2, 3, 4, 4))).x.mean().abs().item() < 1e-6
        True

    Source: https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html
    """

    least_axes = 2

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _batch_norm(self, torch.nn.BatchNorm2d, graph)


@final
class GraphBatchNorm3d(_Norm, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d over all nodes of the batch; arguments, parameters and buffers as there.

    Example:
        >>> GraphBatchNorm3d(2)(PixelGraph.from_image(torch.rand(1, 2, 2, 2, 2), d=3)).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm3d.html
    """

    least_axes = 3

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _batch_norm(self, torch.nn.BatchNorm3d, graph)


@final
class GraphInstanceNorm1d(_Norm, torch.nn.InstanceNorm1d):
    """torch.nn.InstanceNorm1d over the nodes of each image; arguments as there.

    Example:
        >>> GraphInstanceNorm1d(2)(PixelGraph.from_image(torch.rand(1, 2, 8), d=1)).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.InstanceNorm1d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _instance_norm(self, torch.nn.InstanceNorm1d, graph)


@final
class GraphInstanceNorm2d(_Norm, torch.nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d over the nodes of each image; arguments as there.

    Running statistics, if tracked, are means over the images that have nodes.

    Example:
        >>> GraphInstanceNorm2d(2)(PixelGraph.from_image(torch.rand(1, 2, 4, 4))).num_nodes
        16

    Source: https://pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _instance_norm(self, torch.nn.InstanceNorm2d, graph)


@final
class GraphInstanceNorm3d(_Norm, torch.nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d over the nodes of each image; arguments as there.

    Example:
        >>> GraphInstanceNorm3d(1)(PixelGraph.from_image(torch.rand(1, 1, 2, 2, 2), d=3)).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.InstanceNorm3d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _instance_norm(self, torch.nn.InstanceNorm3d, graph)


@final
class GraphGroupNorm(_Norm, torch.nn.GroupNorm):
    """torch.nn.GroupNorm over the nodes of each image; arguments as there.

    Example:
        >>> GraphGroupNorm(2, 4)(PixelGraph.from_image(torch.rand(1, 4, 4, 4))).num_channels
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        functional.check_channels(graph, self.num_channels, "GraphGroupNorm")
        image = _image(graph)
        if image is not None:
            return graph.with_x(as_rows(torch.nn.GroupNorm.forward(self, image)))
        y = functional.group_norm(graph, self.num_groups, self.weight, self.bias, self.eps)
        return graph.with_x(y)


@final
class GraphLayerNorm(_Norm, torch.nn.LayerNorm):
    """torch.nn.LayerNorm, per node or per image.

    With normalized_shape (C,), each node is normalized over its channels, as ConvNeXt does; with
    (C, *size), each image over its channels and nodes, with one weight a channel and pixel.

    Example:
        >>> GraphLayerNorm(4)(PixelGraph.from_image(torch.rand(1, 4, 2, 2))).num_channels
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        shape = tuple(self.normalized_shape)
        functional.check_channels(graph, shape[0], f"GraphLayerNorm({shape})")
        if len(shape) == 1:
            return graph.with_x(torch.nn.LayerNorm.forward(self, graph.x))
        if len(shape) != graph.sites.d + 1:
            raise UnsupportedError(
                f"GraphLayerNorm: normalized_shape={shape} is neither (C,) nor (C, *size) with "
                f"{graph.sites.d} lattice axes"
            )
        image = _image(graph)
        if image is not None and graph.sites.size == shape[1:]:
            return graph.with_x(as_rows(torch.nn.LayerNorm.forward(self, image)))
        y = functional.layer_norm_images(graph, shape, self.weight, self.bias, self.eps)
        return graph.with_x(y)
