"""Norm layers: torch's own norms, over the pixels that exist.

Each layer is torch's module with its parameters, buffers and arguments; only `forward` differs. On
a full grid it runs torch's own operator on the channels-last view. On a mask or a ragged batch the
statistics run over the nodes: of all images for batch norm, of each image for the others. May
import errors, graph, backends and functional.
"""

from operator import index
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from convgraph.backends.compiled import backward_alone
from convgraph.backends.rows import as_rows
from convgraph.errors import UnsupportedError
from convgraph.functional import norm as functional
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import twin
from convgraph.nn.loading import FromFile


def _image(graph: PixelGraph) -> Tensor | None:
    """(B, C, *size) view where every pixel is a node, or None."""
    sites = graph.sites
    if sites.size is None or not sites.is_array:
        return None
    # index() keeps sizes constants under torch.compile(dynamic=True), as in backends.dense.
    sizes = [index(n) for n in (sites.batch_size, *sites.size)]
    return graph.x.view(*sizes, graph.num_channels).movedim(-1, 1)


def _check(layer: Any, channels: int, graph: PixelGraph) -> None:
    """Refuse a graph that does not fit the layer's channels, parameters or buffers."""
    named = {name: getattr(layer, name, None) for name in ("weight", "bias", "running_mean")}
    functional.check_features(graph, channels, type(layer).__name__, named)


def _batch_norm(layer: Any, kind: Any, graph: PixelGraph, d: int) -> PixelGraph:
    """Run torch's batch norm on the image, or on the nodes as a batch of one-pixel images."""
    _check(layer, layer.num_features, graph)
    if d != 1:
        functional.check_dimension(graph, d, type(layer).__name__)
    # What torch calls BatchNorm1d is also the norm of rows (N, C), whatever lattice they came from.
    image = _image(graph) if d == graph.sites.d else None
    if image is None:
        image = graph.x.view(*graph.x.shape, *(1,) * (0 if d == 1 else d))
    return graph.with_x(as_rows(kind.forward(layer, image)))


def _instance_norm(layer: Any, kind: Any, graph: PixelGraph, d: int) -> PixelGraph:
    """Run torch's instance norm on the image, or the same sums on the nodes of each image."""
    _check(layer, layer.num_features, graph)
    functional.check_dimension(graph, d, type(layer).__name__)
    image = _image(graph)
    # torch takes the gradient of a single image for batch-first when it arrives channels-last, as
    # it does from rows, and answers with a wrong one; our own sums are right for any batch.
    if image is not None and graph.num_nodes and graph.batch_size > 1:
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


class _Norm(FromFile):
    """What every norm layer shares: it takes graphs, keeps their sites, and has a torch twin."""

    takes_graph: ClassVar[bool] = True

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

    On lattices of more axes it reads rows (N, C), as torch's does after a flatten.

    Raises:
        ValueError: in training, one value per channel; torch's own words.

    Example:
        >>> GraphBatchNorm1d(2)(PixelGraph.from_image(torch.rand(1, 2, 8), d=1)).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _batch_norm(self, torch.nn.BatchNorm1d, graph, 1)


@final
class GraphBatchNorm2d(_Norm, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d over all nodes of the batch; arguments, parameters and buffers as there.

    On a mask only nodes count: the statistics are those of the pixels that exist.

    Raises:
        GeometryError: the graph has no two lattice axes.
        ValueError: in training, one value per channel; torch's own words.

    Example:
        >>> norm = GraphBatchNorm2d(3)
        >>> norm(PixelGraph.from_image(torch.rand(2, 3, 4, 4))).x.mean().abs().item() < 1e-6
        True

    Source: https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _batch_norm(self, torch.nn.BatchNorm2d, graph, 2)


@final
class GraphBatchNorm3d(_Norm, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d over all nodes of the batch; arguments, parameters and buffers as there.

    Example:
        >>> GraphBatchNorm3d(2)(PixelGraph.from_image(torch.rand(1, 2, 2, 2, 2), d=3)).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm3d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _batch_norm(self, torch.nn.BatchNorm3d, graph, 3)


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
        return _instance_norm(self, torch.nn.InstanceNorm1d, graph, 1)


@final
class GraphInstanceNorm2d(_Norm, torch.nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d over the nodes of each image; arguments as there.

    Running statistics, if tracked, are means over the images that have nodes. Where an image has
    only one node left, its variance is 0 and the node becomes the bias.

    Raises:
        GeometryError: the graph has no two lattice axes.
        ShapeError, ValueError: with input statistics, an image of one pixel.

    Example:
        >>> GraphInstanceNorm2d(2)(PixelGraph.from_image(torch.rand(1, 2, 4, 4))).num_nodes
        16

    Source: https://pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        return _instance_norm(self, torch.nn.InstanceNorm2d, graph, 2)


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
        return _instance_norm(self, torch.nn.InstanceNorm3d, graph, 3)


@final
class GraphGroupNorm(_Norm, torch.nn.GroupNorm):
    """torch.nn.GroupNorm over the nodes of each image; arguments as there.

    Raises:
        ShapeError, DtypeError, DeviceError: the graph does not fit the layer.

    Example:
        >>> GraphGroupNorm(2, 4)(PixelGraph.from_image(torch.rand(1, 4, 4, 4))).num_channels
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        _check(self, self.num_channels, graph)
        image = _image(graph)
        # torch's own knows no forward mode, and no vmap, of images that lie channels-last.
        if image is not None and (torch.compiler.is_compiling() or backward_alone()):
            image = functional.heard(image, self.weight, self.bias)
            return graph.with_x(as_rows(torch.nn.GroupNorm.forward(self, image)))
        y = functional.group_norm(graph, self.num_groups, self.weight, self.bias, self.eps)
        return graph.with_x(y)


@final
class GraphLayerNorm(_Norm, torch.nn.LayerNorm):
    """torch.nn.LayerNorm, per node or per image.

    With normalized_shape (C,), each node is normalized over its channels, as ConvNeXt does; with
    (C, *size), each image over its channels and nodes, with one weight a channel and pixel. (On an
    image, torch's LayerNorm(C) would read the last axis, which is no channel; here it is rows.)

    Raises:
        UnsupportedError: normalized_shape has some lattice axes and lacks others.
        ShapeError: an image has another size than normalized_shape names.

    Example:
        >>> GraphLayerNorm(4)(PixelGraph.from_image(torch.rand(1, 4, 2, 2))).num_channels
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Normalize; the sites stay what they are."""
        shape = tuple(self.normalized_shape)
        _check(self, shape[0], graph)
        if len(shape) == 1:
            return graph.with_x(torch.nn.LayerNorm.forward(self, graph.x))
        if len(shape) != graph.sites.d + 1:
            raise UnsupportedError(
                f"GraphLayerNorm: normalized_shape={shape} is neither (C,) nor (C, *size) with "
                f"{graph.sites.d} lattice axes; name the channels and all of them, or only channels"
            )
        image = _image(graph)
        if image is not None and graph.sites.size == shape[1:]:
            return graph.with_x(as_rows(torch.nn.LayerNorm.forward(self, image)))
        y = functional.layer_norm_images(graph, shape, self.weight, self.bias, self.eps)
        return graph.with_x(y)
