"""Products with parameters: one matrix for every node."""

from typing import Any

from convgraph.convert import names
from convgraph.convert.names import NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial


@rule("linear")
def linear(call: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """The last axis is plain, y[n] = W x[n] + b, or names nodes, who then all talk to readouts."""
    if not isinstance(x, Spatial) or isinstance(weight, Spatial):
        raise NoRuleError("its weight is a map")
    last = len(x.axes) - 1
    if not names.is_plain(x.axes[last]):
        if any(name.kind not in ("batch", "plain") for name in names.names(x.axes[:last])):
            raise NoRuleError(f"it sums over a part of {names.describe(x.axes)}")
        call.travelled("all")
        return call.target(x.tensor(), weight, bias)
    return x.on_axis(last, lambda rows, slot: call.target(rows, weight, bias))
