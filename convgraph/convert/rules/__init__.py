"""Rules: what each operator means on node features, one file a family."""

from convgraph.convert.rules import (
    attention,
    channels,
    convolution,
    linear,
    losses,
    moves,
    norms,
    pointwise,
    pooling,
    positions,
    products,
    reductions,
    resize,
    shapes,
    writes,
)

FAMILIES = tuple(
    module.__name__.rpartition(".")[2]
    for module in (
        attention,
        channels,
        convolution,
        linear,
        losses,
        moves,
        norms,
        pointwise,
        pooling,
        positions,
        products,
        reductions,
        resize,
        shapes,
        writes,
    )
)
"""Names of the families; importing this package registers all of their rules."""
