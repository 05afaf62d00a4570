"""The numbered graph convolutions: torch's names, torch's arguments in torch's order.

Each class only fixes the dimension; what happens is in `convgraph.nn.conv`.
"""

from typing import Any, ClassVar, final

import torch

from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.pixel_graph import PixelGraph  # noqa: F401 - the examples below use it
from convgraph.nn.conv import GraphConvNd


class _Forward(GraphConvNd):
    """What GraphConv1d, GraphConv2d and GraphConv3d share: torch.nn.Conv's arguments."""

    d: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str | tuple[str, ...] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str | None = None,
        flow: str = "source_to_target",
        footprint: Any = None,
    ) -> None:
        """See the class; arguments are torch's, in torch's order."""
        geometry = KernelGeometry(
            kernel_size, stride, padding, dilation, padding_mode, d=self.d, footprint=footprint
        )
        super().__init__(
            in_channels, out_channels, geometry, groups, bias, device, dtype,
            backend=backend, flow=flow,
        )  # fmt: skip
        self.padding_name = padding if isinstance(padding, str) else None


class _Transposed(GraphConvNd):
    """What GraphConvTranspose1d/2d/3d share: torch.nn.ConvTranspose's arguments."""

    d: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str | tuple[str, ...] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str | None = None,
        flow: str = "source_to_target",
        footprint: Any = None,
    ) -> None:
        """See the class; arguments are torch's, in torch's order."""
        geometry = KernelGeometry(
            kernel_size, stride, padding, dilation, padding_mode,
            transposed=True, output_padding=output_padding, d=self.d, footprint=footprint,
        )  # fmt: skip
        super().__init__(
            in_channels, out_channels, geometry, groups, bias, device, dtype,
            backend=backend, flow=flow,
        )  # fmt: skip


@final
class GraphConv1d(_Forward):
    """torch.nn.Conv1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> layer = GraphConv1d(2, 4, 3, padding=1)
        >>> layer(PixelGraph.from_image(torch.ones(1, 2, 8), d=1)).to_image().shape
        torch.Size([1, 4, 8])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Conv1d.html
    """

    d = 1


@final
class GraphConv2d(_Forward):
    """torch.nn.Conv2d on a pixel graph; arguments as there, and asymmetric padding besides.

    Example:
        >>> conv = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        >>> layer = GraphConv2d.from_dense(conv)
        >>> image = torch.rand(1, 3, 8, 8)
        >>> layer(PixelGraph.from_image(image)).to_image().shape == conv(image).shape
        True

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Conv2d.html
    """

    d = 2


@final
class GraphConv3d(_Forward):
    """torch.nn.Conv3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> layer = GraphConv3d(1, 2, 3)
        >>> layer(PixelGraph.from_image(torch.ones(1, 1, 4, 4, 4), d=3)).to_image().shape
        torch.Size([1, 2, 2, 2, 2])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Conv3d.html
    """

    d = 3


@final
class GraphConvTranspose1d(_Transposed):
    """torch.nn.ConvTranspose1d: the same edges with the arrows reversed.

    Example:
        >>> layer = GraphConvTranspose1d(1, 1, 2, stride=2)
        >>> layer(PixelGraph.from_image(torch.ones(1, 1, 4), d=1)).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.ConvTranspose1d.html
    """

    d = 1


@final
class GraphConvTranspose2d(_Transposed):
    """torch.nn.ConvTranspose2d: the same edges with the arrows reversed.

    Example:
        >>> layer = GraphConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)
        >>> layer(PixelGraph.from_image(torch.ones(1, 4, 5, 5))).to_image().shape
        torch.Size([1, 2, 10, 10])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html
    """

    d = 2


@final
class GraphConvTranspose3d(_Transposed):
    """torch.nn.ConvTranspose3d: the same edges with the arrows reversed.

    Example:
        >>> layer = GraphConvTranspose3d(1, 1, 2, stride=2)
        >>> layer(PixelGraph.from_image(torch.ones(1, 1, 2, 2, 2), d=3)).num_nodes
        64

    Source: https://pytorch.org/docs/stable/generated/torch.nn.ConvTranspose3d.html
    """

    d = 3
