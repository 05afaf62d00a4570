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
from convgraph.nn.pixel_shuffle import GraphPixelShuffle, GraphPixelUnshuffle
from convgraph.nn.rearrange import GraphFold, GraphUnfold
from convgraph.nn.resize import GraphUpsample

__all__ = [
    "GraphConv",
    "GraphConv1d",
    "GraphConv2d",
    "GraphConv3d",
    "GraphConvTranspose1d",
    "GraphConvTranspose2d",
    "GraphConvTranspose3d",
    "GraphFold",
    "GraphPixelShuffle",
    "GraphPixelUnshuffle",
    "GraphUnfold",
    "GraphUpsample",
]
