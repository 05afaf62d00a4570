"""Layers: parameters plus one call of `convgraph.functional`."""

from convgraph.nn.conv import GraphConv
from convgraph.nn.convs import (
    GraphConv1d,
    GraphConv2d,
    GraphConv3d,
    GraphConvTranspose1d,
    GraphConvTranspose2d,
    GraphConvTranspose3d,
)
from convgraph.nn.flatten import GraphFlatten
from convgraph.nn.norm import (
    GraphBatchNorm1d,
    GraphBatchNorm2d,
    GraphBatchNorm3d,
    GraphGroupNorm,
    GraphInstanceNorm1d,
    GraphInstanceNorm2d,
    GraphInstanceNorm3d,
    GraphLayerNorm,
)
from convgraph.nn.pixel_shuffle import GraphPixelShuffle, GraphPixelUnshuffle
from convgraph.nn.rearrange import GraphFold, GraphUnfold
from convgraph.nn.resize import GraphUpsample
from convgraph.nn.separable import DepthwiseConv, DepthwiseSeparableConv, PointwiseConv
from convgraph.nn.sequential import Sequential

__all__ = [
    "DepthwiseConv",
    "DepthwiseSeparableConv",
    "GraphBatchNorm1d",
    "GraphBatchNorm2d",
    "GraphBatchNorm3d",
    "GraphConv",
    "GraphConv1d",
    "GraphConv2d",
    "GraphConv3d",
    "GraphConvTranspose1d",
    "GraphConvTranspose2d",
    "GraphConvTranspose3d",
    "GraphFlatten",
    "GraphFold",
    "GraphGroupNorm",
    "GraphInstanceNorm1d",
    "GraphInstanceNorm2d",
    "GraphInstanceNorm3d",
    "GraphLayerNorm",
    "GraphPixelShuffle",
    "GraphPixelUnshuffle",
    "GraphUnfold",
    "GraphUpsample",
    "PointwiseConv",
    "Sequential",
]
