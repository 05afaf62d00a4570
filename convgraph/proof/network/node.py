"""The records of a run: a node, a layer that is one node, and a node with its values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof.network.value_numbers import Numbers

CONVOLUTION = "convolution"
"""Name of a node that is one, operator or layer."""

BACKWARD = "_backward"
"""What stands behind the name of a layer that is one node, for its backward."""


@final
@dataclass
class Node:
    """One operator or layer of a run.

    Attributes:
        name: of the operator, "convolution" for a layer that is one.
        arguments: everything but tensors, as text.
        inputs: numbers of its tensors.
        path: of the module that it ran in, "" for the network itself.
        shapes: of its outputs.
        outputs: their numbers, once known.
        elementwise: whether each output entry depends on its own place alone.
        layer: path of the layer that ran it as a whole; None for a bare operator.
        call: runs the operator, or a layer that holds no parameters on what it was sent, again on
            tensors in place of its inputs; None for a layer that holds its own.
        given: the arguments by name, tensors left out.
        folded: whether it is a convolution and the norm behind it at once.
        alone: calls a layer by itself, and says how that differs from what it ran within its
            network; "" where it does not.
    """

    name: str
    arguments: str
    inputs: list[Numbers]
    path: str
    shapes: list[tuple[int, ...]]
    outputs: list[Numbers] = field(default_factory=list)
    elementwise: bool = False
    layer: str | None = None
    call: Callable[..., Any] | None = None
    given: dict[str, Any] = field(default_factory=dict)
    folded: bool = False
    alone: Callable[[], str] | None = None

    def __str__(self) -> str:
        """Name the operator and where it stands."""
        return f"{self.name} at {self.path or 'the network itself'!r}"


Settle = Callable[[Node], None]
"""Gives a node its outputs' numbers: new ones on the reference, matched ones on the candidate."""


@final
@dataclass(frozen=True)
class Layer:
    """A module that is one node.

    Attributes:
        path: where it stands.
        image: what it takes or returns -> an image (B, C, *size), a view wherever that can be.
        values: what it takes or returns -> the tensor in it.
        put: (what it takes or returns, another tensor) -> the same with that tensor in it.
        rows: (what it takes or returns, an image) -> that image's values, as `values` holds them.
        there: what it takes or returns -> which pixels of its image are there, None for all.
        bare: the operator of torch that a layer without parameters is where everybody is there;
            None for a convolution.
        given: its arguments by name.
    """

    path: str
    image: Callable[[Any], Tensor]
    values: Callable[[Any], Tensor]
    put: Callable[[Any, Tensor], Any]
    rows: Callable[[Any, Tensor], Tensor]
    there: Callable[[Any], Tensor | None]
    bare: Any = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its nodes."""
        return CONVOLUTION if self.bare is None else str(self.bare._schema.name).partition("::")[2]


@final
class FunctionLayer(torch.nn.Module):
    """A call of a function as a module, so that it is one node.

    Args:
        layer: how it takes and returns images.
        run: the function, of what it takes and of weight and bias where it is a convolution.

    Attributes:
        as_one: calls it as one function of autograd, while a run is differentiated where it is one.
    """

    def __init__(self, layer: Layer, run: Callable[..., Any]) -> None:
        """Keep both."""
        super().__init__()
        self.layer, self.run = layer, run
        self.as_one: Callable[..., Any] | None = None

    def forward(self, x: Any, *weights: Tensor) -> Any:
        """Call the function."""
        return (self.as_one or self.run)(x, *weights)


@final
@dataclass(frozen=True)
class NodeCall:
    """A node with its values, for whoever looks on while it runs.

    Attributes:
        node: with its numbers.
        func: the operator, out of place.
        given: its arguments by name, tensors as they were before the call.
        outputs: its values, what it writes to first.
        first: which of them it returns first.
    """

    node: Node
    func: Any
    given: Mapping[str, Any]
    outputs: list[Tensor]
    first: int = 0


Observe = Callable[[NodeCall], None]
