"""Layers: parameters plus one call of `convgraph.functional`."""

from convgraph.nn.conv import (
    GraphConv,
    GraphConv1d,
    GraphConv2d,
    GraphConv3d,
    GraphConvTranspose1d,
    GraphConvTranspose2d,
    GraphConvTranspose3d,
)

__all__ = [
    "GraphConv",
    "GraphConv1d",
    "GraphConv2d",
    "GraphConv3d",
    "GraphConvTranspose1d",
    "GraphConvTranspose2d",
    "GraphConvTranspose3d",
]
