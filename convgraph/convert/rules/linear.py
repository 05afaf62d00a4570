"""Products with parameters: one matrix for every node."""

from typing import Any

from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules import attention
from convgraph.convert.rules.channels import resized
from convgraph.convert.value import Spatial


@rule("linear")
def linear(run: Any, step: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """The last axis is plain: y[n] = W x[n] + b."""
    if not isinstance(x, Spatial) or isinstance(weight, Spatial):
        raise NoRuleError("its weight is a map")
    value = x.merged(len(x.axes) - 1)
    return resized(value, len(x.axes) - 1, step.target(value.x, weight, bias))


@rule("matmul", "bmm", "mm", "baddbmm", hop="all")
def matmul(run: Any, step: Any, x: Any, other: Any) -> Any:
    """Node features times a matrix that all nodes share; maps times maps are attention."""
    if isinstance(x, Spatial) and isinstance(other, Tensor) and other.dim() == 2:
        run.travelled("node")
        value = x.merged(len(x.axes) - 1)
        return resized(value, len(x.axes) - 1, value.x @ other)
    return attention.product(run, x, other)


def last(x: Spatial) -> int:
    """Return the size of the last axis."""
    return names.sizes(x.axes)[-1]
