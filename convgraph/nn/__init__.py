"""Layers: parameters plus one call of `convgraph.functional`."""

import torch

from convgraph.door import doors as _doors
from convgraph.geometry.kernel import KernelGeometry
from convgraph.geometry.window import WindowGeometry
from convgraph.nn import loading
from convgraph.nn.adaptive import (
    GraphAdaptiveAvgPool1d,
    GraphAdaptiveAvgPool2d,
    GraphAdaptiveAvgPool3d,
    GraphAdaptiveMaxPool1d,
    GraphAdaptiveMaxPool2d,
    GraphAdaptiveMaxPool3d,
    GraphGlobalAvgPool,
    GraphGlobalMaxPool,
    GraphGlobalSumPool,
)
from convgraph.nn.conv import GraphConvNd
from convgraph.nn.convs import (
    GraphConv1d,
    GraphConv2d,
    GraphConv3d,
    GraphConvTranspose1d,
    GraphConvTranspose2d,
    GraphConvTranspose3d,
)
from convgraph.nn.dropout import GraphDropout1d, GraphDropout2d, GraphDropout3d
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
from convgraph.nn.pool import (
    GraphAvgPool1d,
    GraphAvgPool2d,
    GraphAvgPool3d,
    GraphLPPool1d,
    GraphLPPool2d,
    GraphLPPool3d,
    GraphMaxPool1d,
    GraphMaxPool2d,
    GraphMaxPool3d,
)
from convgraph.nn.rearrange import GraphFold, GraphUnfold
from convgraph.nn.resize import GraphUpsample
from convgraph.nn.separable import DepthwiseConv, DepthwiseSeparableConv, PointwiseConv
from convgraph.nn.sequential import Sequential
from convgraph.nn.traced import met as _met
from convgraph.nn.unpool import GraphMaxUnpool1d, GraphMaxUnpool2d, GraphMaxUnpool3d

__all__ = [
    "DepthwiseConv",
    "DepthwiseSeparableConv",
    "GraphAdaptiveAvgPool1d",
    "GraphAdaptiveAvgPool2d",
    "GraphAdaptiveAvgPool3d",
    "GraphAdaptiveMaxPool1d",
    "GraphAdaptiveMaxPool2d",
    "GraphAdaptiveMaxPool3d",
    "GraphAvgPool1d",
    "GraphAvgPool2d",
    "GraphAvgPool3d",
    "GraphBatchNorm1d",
    "GraphBatchNorm2d",
    "GraphBatchNorm3d",
    "GraphConv1d",
    "GraphConv2d",
    "GraphConv3d",
    "GraphConvNd",
    "GraphConvTranspose1d",
    "GraphConvTranspose2d",
    "GraphConvTranspose3d",
    "GraphDropout1d",
    "GraphDropout2d",
    "GraphDropout3d",
    "GraphFlatten",
    "GraphFold",
    "GraphGlobalAvgPool",
    "GraphGlobalMaxPool",
    "GraphGlobalSumPool",
    "GraphGroupNorm",
    "GraphInstanceNorm1d",
    "GraphInstanceNorm2d",
    "GraphInstanceNorm3d",
    "GraphLPPool1d",
    "GraphLPPool2d",
    "GraphLPPool3d",
    "GraphLayerNorm",
    "GraphMaxPool1d",
    "GraphMaxPool2d",
    "GraphMaxPool3d",
    "GraphMaxUnpool1d",
    "GraphMaxUnpool2d",
    "GraphMaxUnpool3d",
    "GraphPixelShuffle",
    "GraphPixelUnshuffle",
    "GraphUnfold",
    "GraphUpsample",
    "PointwiseConv",
    "Sequential",
]

for _name in __all__:
    _met(globals()[_name])
    _doors(globals()[_name], "edges", "problem", "from_dense", "add_module", "insert")

torch.serialization.add_safe_globals(
    [*[globals()[name] for name in __all__], KernelGeometry, WindowGeometry, *loading.TORCH]
)
