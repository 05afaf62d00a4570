"""Channel dropout: whole channels of an image fall silent, at all of its nodes at once.

    y[p] = x[p] * z[image of p],     z[image, c] = 0 with probability p, else 1 / (1 - p)

One number per image and channel, drawn as torch draws it: the same seed silences the same channels.
"""

from typing import Any, ClassVar, Self, final

import torch
import torch.nn.functional as F

from convgraph.backends.messages.edges import take
from convgraph.functional.norm import check_dimension
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.nn import twin
from convgraph.nn.loading import FromFile


def _drop(layer: Any, graph: PixelGraph, d: int) -> PixelGraph:
    """Silence channels while training; the sites stay what they are."""
    who = type(layer).__name__
    check_graph(graph, who)
    check_dimension(graph, d, who)
    if not layer.training:
        return graph
    ones = graph.x.new_ones(graph.batch_size, graph.num_channels, 1, 1)
    factors = F.dropout2d(ones, layer.p, training=True).flatten(1)
    return graph.with_x(graph.x * take(factors, graph.batch))


class _Twin(FromFile):
    """What the three share: they take graphs, keep their sites, and have torch's arguments."""

    takes_graph: ClassVar[bool] = True
    p: float
    training: bool
    inplace: bool

    @classmethod
    def from_dense(cls, dense: Any) -> Self:
        """Return the layer of the torch module whose name the class carries.

        Raises:
            ConversionError: another type of module.
        """
        twin.check_twin(cls, dense, twin.by_name(cls))
        make: Any = cls
        made: Self = make(dense.p, dense.inplace).train(dense.training)
        return made

    def to_dense(self) -> Any:
        """Return the torch module with the same arguments."""
        make: Any = twin.by_name(type(self))
        return make(self.p, self.inplace).train(self.training)


@final
class GraphDropout1d(_Twin, torch.nn.Dropout1d):
    """torch.nn.Dropout1d on the pixel graph of a signal; x is never written in place.

    Example:
        >>> GraphDropout1d(1.0)(PixelGraph.from_image(torch.ones(1, 2, 3), d=1)).x.sum()
        tensor(0.)

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Dropout1d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Silence channels while training; the sites stay what they are.

        Raises:
            GraphError, GeometryError: no graph, or one of another dimension.
        """
        return _drop(self, graph, 1)


@final
class GraphDropout2d(_Twin, torch.nn.Dropout2d):
    """torch.nn.Dropout2d on a pixel graph; x is never written in place.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 8, 3, 3))
        >>> sorted(set(GraphDropout2d(0.5)(graph).x.sum(0).tolist()))
        [0.0, 18.0]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Dropout2d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Silence channels while training; the sites stay what they are.

        Raises:
            GraphError, GeometryError: no graph, or one of another dimension.
        """
        return _drop(self, graph, 2)


@final
class GraphDropout3d(_Twin, torch.nn.Dropout3d):
    """torch.nn.Dropout3d on the pixel graph of a volume; x is never written in place.

    Example:
        >>> GraphDropout3d(1.0)(PixelGraph.from_image(torch.ones(1, 2, 2, 2, 2), d=3)).x.sum()
        tensor(0.)

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Dropout3d.html
    """

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:  # type: ignore[override]
        """Silence channels while training; the sites stay what they are.

        Raises:
            GraphError, GeometryError: no graph, or one of another dimension.
        """
        return _drop(self, graph, 3)
