"""Flatten: every node of an image talks to one readout node.

    y[image] = the features of all its pixels side by side, channel by channel, as torch lays them

An absent pixel says 0.
"""

from typing import Any, ClassVar, Self, final

import torch

from convgraph.errors import ConversionError, GraphError
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.nn import twin
from convgraph.nn.loading import FromFile


@final
class GraphFlatten(FromFile, torch.nn.Module):
    """torch.nn.Flatten() on a pixel graph: one node per image with C * pixels features.

    The features of a readout node are in torch's order, C outermost, so that the `torch.nn.Linear`
    of a dense network can follow as it is; `net(graph).x` then holds one row of logits per image.

    Example:
        >>> GraphFlatten()(PixelGraph.from_image(torch.ones(2, 3, 4, 5))).x.shape
        torch.Size([2, 60])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Flatten.html
    """

    takes_graph: ClassVar[bool] = True

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return a graph of one readout node per image.

        Args:
            graph: (N, C) on lattices of one size; a graph without batch dimension is a batch of 1.
            sites: ignored; a map of one pixel has no mask.

        Returns:
            Features (B, C * pixels), one node per image, on lattices of one pixel.

        Raises:
            GraphError: no graph, or images of different sizes, whose rows differ in length.
        """
        check_graph(graph, "GraphFlatten")
        if graph.sites.size is None:
            raise GraphError(
                f"GraphFlatten: expected images of one size, got {graph.sites.sizes[:3]}, which "
                "give rows of different lengths; use a global pool instead"
            )
        image = graph.to_image()
        batch = image if graph.sites.batched else image.unsqueeze(0)
        return PixelGraph(batch.flatten(1), graph.sites.readout())

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch.nn.Flatten of everything but the batch.

        Raises:
            ConversionError: another module, or a Flatten of other axes.
        """
        twin.check_twin(cls, dense, torch.nn.Flatten)
        if (getattr(dense, "start_dim", 1), getattr(dense, "end_dim", -1)) != (1, -1):
            raise ConversionError(f"GraphFlatten.from_dense: expected Flatten(1, -1), got {dense}")
        return cls().train(dense.training)

    def to_dense(self) -> torch.nn.Flatten:
        """Return torch.nn.Flatten()."""
        return torch.nn.Flatten().train(self.training)
