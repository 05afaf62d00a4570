"""Flatten: every node of an image talks to one readout node.

    y[image] = the features of all its pixels side by side, channel by channel, as torch lays them

An absent pixel says 0. May import errors, graph and sites.
"""

from typing import Any, ClassVar, Self, final

import torch

from convgraph.errors import GraphError
from convgraph.graph import PixelGraph
from convgraph.nn import twin


@final
class GraphFlatten(torch.nn.Module):
    """torch.nn.Flatten() on a pixel graph: one node per image with C * pixels features.

    Example:
        >>> GraphFlatten()(PixelGraph.from_image(torch.ones(2, 3, 4, 5))).x.shape
        torch.Size([2, 60])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Flatten.html
    """

    takes_graph: ClassVar[bool] = True

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Return a graph of one readout node per image.

        Raises:
            GraphError: the images differ in size, so that their rows differ in length.
        """
        if graph.sites.size is None:
            raise GraphError(
                "GraphFlatten: images of different sizes give rows of different lengths; "
                "use a global pool instead"
            )
        image = graph.to_image()
        batch = image if graph.sites.batched else image.unsqueeze(0)
        readout = graph.sites.derived(((1,) * graph.sites.d,) * graph.batch_size, None)
        return PixelGraph(batch.flatten(1), readout)

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch.nn.Flatten of everything but the batch."""
        twin.check_twin(cls, dense, torch.nn.Flatten)
        if (getattr(dense, "start_dim", 1), getattr(dense, "end_dim", -1)) != (1, -1):
            raise GraphError(f"GraphFlatten: expected Flatten(1, -1), got {dense}")
        return cls()

    def to_dense(self) -> torch.nn.Flatten:
        """Return torch.nn.Flatten()."""
        return torch.nn.Flatten()
