"""Pointwise, depthwise and depthwise-separable convolutions.

    pointwise   y[p, o] = b[o] + sum over c of  w[o, c] x[p, c]            one self-loop per node
    depthwise   y[p, c] = b[c] + sum over edges (q, p, t) of  w[c, t] x[q, c]     diagonal W
    separable   pointwise(depthwise(x)): first messages within a channel, then a mix at every node

Source: A. G. Howard et al., "MobileNets", https://arxiv.org/abs/1704.04861.
"""

from collections import OrderedDict
from typing import Any, ClassVar, Self, final

import torch

from convgraph.errors import ConversionError
from convgraph.geometry.kernel import KernelGeometry, as_int
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import twin
from convgraph.nn.conv import GraphConvNd
from convgraph.nn.loading import FromFile


@final
class PointwiseConv(GraphConvNd):
    """A 1x1 convolution: the graph of self-loops, one per node and nothing else.

    Args:
        in_channels: features per node.
        out_channels: features per node of the result.
        groups: blocks of channels that do not mix.
        bias: whether a bias is added.
        device: of the parameters.
        dtype: of the parameters.
        d: dimensions of the lattice; the weight has d trailing axes of size 1, as torch's.
        backend: forces one backend.

    Example:
        >>> layer = PointwiseConv(3, 8)
        >>> graph = PixelGraph.from_image(torch.ones(1, 3, 4, 5))
        >>> layer.edges(graph).num_edges == graph.num_nodes
        True

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Conv2d.html with kernel_size=1
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        d: int = 2,
        backend: str | None = None,
    ) -> None:
        """See the class."""
        super().__init__(
            in_channels, out_channels, KernelGeometry(1, d=d), groups, bias, device, dtype,
            backend=backend,
        )  # fmt: skip

    @classmethod
    def from_dense(cls, dense: Any) -> Self:
        """Return the layer of a 1x1 torch convolution, parameters copied bit for bit.

        Its dilation and its padding_mode say nothing where one tap is not padded; they are dropped.

        Raises:
            ConversionError: no torch convolution, or not of one tap, stride 1 and no padding.
        """
        d = _dimension(cls, dense)
        geometry = KernelGeometry(dense.kernel_size, dense.stride, dense.padding, d=d)
        if not geometry.is_pointwise:
            raise ConversionError(
                "PointwiseConv.from_dense: expected kernel_size 1, stride 1 and no padding, "
                f"got {dense}; use GraphConv{d}d"
            )
        layer = twin.build(
            cls, dense.in_channels, dense.out_channels, dense.groups, dense.bias is not None,
            device=dense.weight.device, dtype=dense.weight.dtype, d=d,
        )  # fmt: skip
        layer.padding_name = dense.padding if isinstance(dense.padding, str) else None
        copied: Self = twin.copy_state(dense, layer)
        return copied


@final
class DepthwiseConv(GraphConvNd):
    """A depthwise convolution: every channel sends its own messages, none mix.

    Args:
        in_channels: features per node; also the number of groups.
        kernel_size: taps along each axis.
        stride: as in GraphConv2d.
        padding: as in GraphConv2d.
        dilation: as in GraphConv2d.
        bias: whether a bias is added.
        padding_mode: as in GraphConv2d.
        device: of the parameters.
        dtype: of the parameters.
        multiplier: output channels per input channel.
        d: dimensions of the lattice.
        backend: forces one backend.

    Raises:
        GeometryError: a number is not an integer or out of range.

    Example:
        >>> layer = DepthwiseConv(8, 3, padding=1)
        >>> tuple(layer.weight.shape), layer.groups
        ((8, 1, 3, 3), 8)

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Conv2d.html with groups=in_channels
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        padding_mode: str | tuple[str, ...] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        multiplier: int = 1,
        d: int = 2,
        backend: str | None = None,
    ) -> None:
        """See the class."""
        geometry = KernelGeometry(kernel_size, stride, padding, dilation, padding_mode, d=d)
        channels = as_int("DepthwiseConv: in_channels", in_channels, least=1)
        times = as_int("DepthwiseConv: multiplier", multiplier, least=1)
        super().__init__(
            channels, channels * times, geometry, channels, bias, device, dtype, backend=backend
        )
        self.padding_name = padding if isinstance(padding, str) else None

    @classmethod
    def from_dense(cls, dense: Any) -> Self:
        """Return the layer of a torch convolution with groups=in_channels.

        Raises:
            ConversionError: no torch convolution, or one whose channels mix.
        """
        d = _dimension(cls, dense)
        if dense.groups != dense.in_channels:
            raise ConversionError(
                f"DepthwiseConv.from_dense: expected groups=in_channels={dense.in_channels}, "
                f"got groups={dense.groups}; use GraphConv{d}d"
            )
        layer = twin.build(
            cls, dense.in_channels, dense.kernel_size, d=d,
            multiplier=dense.out_channels // dense.in_channels, **twin.conv_arguments(dense),
        )  # fmt: skip
        copied: Self = twin.copy_state(dense, layer)
        return copied


@final
class DepthwiseSeparableConv(FromFile, torch.nn.Module):
    """A depthwise convolution, then a pointwise one: two cheap layers in place of a k x k.

    Its cost is 1 / out_channels + 1 / k^d of the full convolution's. Parameters are those of
    `torch.nn.Sequential(OrderedDict(depthwise=Conv2d(groups=in_channels), pointwise=Conv2d(1x1)))`,
    drawn in that order, so that the same seed gives the same numbers.

    Args:
        in_channels: features per node.
        out_channels: features per node of the result.
        kernel_size: taps of the depthwise stage; stride, padding, dilation and padding_mode too
            belong to it.
        stride: as in GraphConv2d.
        padding: as in GraphConv2d.
        dilation: as in GraphConv2d.
        bias: whether both stages add a bias.
        padding_mode: as in GraphConv2d.
        device: of the parameters.
        dtype: of the parameters.
        d: dimensions of the lattice.
        backend: forces one backend on both stages.

    Example:
        >>> layer = DepthwiseSeparableConv(8, 16, 3, padding=1)
        >>> layer(PixelGraph.from_image(torch.ones(1, 8, 4, 4))).to_image().shape
        torch.Size([1, 16, 4, 4])

    Source: A. G. Howard et al., "MobileNets", https://arxiv.org/abs/1704.04861
    """

    takes_graph: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        padding_mode: str | tuple[str, ...] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        d: int = 2,
        backend: str | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self.depthwise = DepthwiseConv(
            in_channels, kernel_size, stride, padding, dilation, bias, padding_mode, device, dtype,
            d=d, backend=backend,
        )  # fmt: skip
        self.pointwise = PointwiseConv(
            in_channels, out_channels, 1, bias, device, dtype, d=d, backend=backend
        )

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Send the messages of the depthwise stage, then mix the channels at every node.

        Args:
            graph: features (N, in_channels).
            sites: names the output sites of the depthwise stage; the pointwise one keeps them.

        Returns:
            A graph with features (P, out_channels) on the output sites.

        Raises:
            ShapeError, DtypeError, DeviceError, GeometryError, BackendError: as the stages say.
        """
        mixed: PixelGraph = self.pointwise(self.depthwise(graph, sites=sites))
        return mixed

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a Sequential with `depthwise` and `pointwise`, parameters copied.

        Raises:
            ConversionError: the two are not there, or are no such convolutions.
        """
        twin.check_twin(cls, dense, torch.nn.Sequential)
        parts = dict(dense.named_children())
        if list(parts) != ["depthwise", "pointwise"]:
            raise ConversionError(
                "DepthwiseSeparableConv.from_dense: expected children 'depthwise' and 'pointwise' "
                f"in this order, got {list(parts)}"
            )
        first = DepthwiseConv.from_dense(parts["depthwise"])
        second = PointwiseConv.from_dense(parts["pointwise"])
        if (first.out_channels, first.geometry.d) != (second.in_channels, second.geometry.d):
            raise ConversionError(
                "DepthwiseSeparableConv.from_dense: expected a pointwise stage that reads what the "
                f"depthwise one writes, got {dense}"
            )
        layer = cls.__new__(cls)
        torch.nn.Module.__init__(layer)
        layer.depthwise, layer.pointwise = first, second
        return layer.train(dense.training)

    def to_dense(self) -> torch.nn.Sequential:
        """Return the torch Sequential with the same parameters, copied bit for bit."""
        parts = OrderedDict(
            depthwise=self.depthwise.to_dense(), pointwise=self.pointwise.to_dense()
        )
        return torch.nn.Sequential(parts).train(self.training)


def _dimension(cls: type, dense: Any) -> int:
    for d, expected in twin.CONV.items():
        if isinstance(dense, expected):
            twin.check_twin(cls, dense, expected)
            return d
    raise ConversionError(
        f"{cls.__name__}.from_dense: expected a torch.nn.Conv1d, Conv2d or Conv3d, "
        f"got {type(dense).__name__}"
    )
