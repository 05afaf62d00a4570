"""Products with parameters: one matrix for every node."""

from typing import Any

from convgraph.convert import names
from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules.channels import resized
from convgraph.convert.value import Spatial


@rule("linear")
def linear(run: Any, step: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """The last axis is plain: y[n] = W x[n] + b."""
    if not isinstance(x, Spatial) or isinstance(weight, Spatial):
        raise NoRuleError("its weight is a map")
    last = len(x.axes) - 1
    if last == 1 and len(x.axes[0]) == 1 and not names.is_plain(x.axes[1]):
        run.travelled("all")  # every node talks to one readout
        return step.target(x.tensor(), weight, bias)
    value = x.merged(last)
    return resized(value, last, step.target(value.x, weight, bias))
