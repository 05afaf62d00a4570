"""What each torch.nn module does to an image and to rows of nodes, by name: the one such table.

Rows are x (N, C), images (B, C, *size). A module that reads positions would take nodes for channels
or for pixels without a word, so whoever is given one looks it up here.
"""

ELEMENTWISE = frozenset({
    "AlphaDropout", "CELU", "Dropout", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish",
    "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6",
    "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
    "Threshold",
})  # fmt: skip
"""The same on rows and on an image (PReLU by channel)."""

ALONG_A_DIMENSION = frozenset({"GLU", "LogSoftmax", "Softmax", "Softmin"})
"""With `dim`: node transforms along channels, dimension 1 of rows and of an image."""

LAST_AXIS = frozenset({"Linear", "RMSNorm"})
"""Read the last axis: channels of a row, columns of an image."""

READS_ROWS = ("BatchNorm1d", "LayerNorm", "GroupNorm", "Flatten")
"""Have a graph twin and still mean the same after a Flatten, on rows (B, F)."""

BY_CHANNEL = frozenset({"SyncBatchNorm"})
"""Normalize channel by channel over everything else, rows or pixels alike."""

READS_POSITIONS = (
    "Adaptive", "AvgPool", "BatchNorm2d", "BatchNorm3d", "ChannelShuffle", "CircularPad",
    "ConstantPad", "Conv", "CrossMapLRN", "Dropout1d", "Dropout2d", "Dropout3d", "Feature",
    "Flatten", "Fold", "FractionalMaxPool", "GRU", "GroupNorm", "InstanceNorm", "LPPool", "LSTM",
    "LazyBatchNorm2d", "LazyBatchNorm3d", "LazyConv", "LazyInstanceNorm", "LocalResponseNorm",
    "MaxPool", "MaxUnpool", "MultiheadAttention", "Pixel", "RNN", "ReflectionPad",
    "ReplicationPad", "Softmax2d", "Transformer", "Unflatten", "Unfold",
    "Upsampl", "ZeroPad",
)  # fmt: skip
"""Read positions of an image or of a sequence; by the start of their names."""

SENDS = tuple(
    f"torch.nn.modules.{kind}"
    for kind in ("conv", "pooling", "upsampling", "fold", "pixelshuffle", "padding")
)
"""Files of torch whose modules send values from pixel to pixel."""

ONLY_MOVES = frozenset({
    "Unfold", "Fold", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "Flatten", "Identity",
    "Unflatten", *(f"{kind}Pad{d}d" for kind in ("Zero", "Reflection", "Replication", "Circular")
    for d in (1, 2, 3)),
})  # fmt: skip
"""Whose outputs are sums of inputs: linear, with entries 0 and 1."""
