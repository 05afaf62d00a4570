"""The numbered pools: torch's names, torch's arguments in torch's order.

Each class only fixes the dimension. May import graph and the base classes it names.
"""

from typing import final

import torch  # noqa: F401 - the examples below use it

from convgraph.graph import PixelGraph  # noqa: F401 - the examples below use it
from convgraph.nn.pool import _AvgPool, _LPPool, _MaxPool


@final
class GraphMaxPool1d(_MaxPool):
    """torch.nn.MaxPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphMaxPool1d(2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxPool1d.html
    """

    d = 1


@final
class GraphMaxPool2d(_MaxPool):
    """torch.nn.MaxPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphMaxPool2d(2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxPool2d.html
    """

    d = 2


@final
class GraphMaxPool3d(_MaxPool):
    """torch.nn.MaxPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphMaxPool3d(2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.MaxPool3d.html
    """

    d = 3


@final
class GraphAvgPool1d(_AvgPool):
    """torch.nn.AvgPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphAvgPool1d(2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AvgPool1d.html
    """

    d = 1


@final
class GraphAvgPool2d(_AvgPool):
    """torch.nn.AvgPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphAvgPool2d(2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AvgPool2d.html
    """

    d = 2


@final
class GraphAvgPool3d(_AvgPool):
    """torch.nn.AvgPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphAvgPool3d(2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.AvgPool3d.html
    """

    d = 3


@final
class GraphLPPool1d(_LPPool):
    """torch.nn.LPPool1d on the pixel graph of a signal; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4), d=1)
        >>> GraphLPPool1d(2, 2)(graph).num_nodes
        2

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LPPool1d.html
    """

    d = 1


@final
class GraphLPPool2d(_LPPool):
    """torch.nn.LPPool2d on the pixel graph of an image; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4), d=2)
        >>> GraphLPPool2d(2, 2)(graph).num_nodes
        4

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LPPool2d.html
    """

    d = 2


@final
class GraphLPPool3d(_LPPool):
    """torch.nn.LPPool3d on the pixel graph of a volume; arguments as there.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 2, 4, 4, 4), d=3)
        >>> GraphLPPool3d(2, 2)(graph).num_nodes
        8

    Source: https://pytorch.org/docs/stable/generated/torch.nn.LPPool3d.html
    """

    d = 3
