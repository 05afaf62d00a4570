"""Products with parameters: one matrix for every node."""

from typing import Any

from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules.products import left
from convgraph.convert.value import Spatial


@rule("linear")
def linear(call: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """The last axis is plain, y[n] = W x[n] + b, or names nodes, who then talk to what is left."""
    if not isinstance(x, Spatial) or isinstance(weight, Spatial):
        raise NoRuleError("its weight is a map")
    last = len(x.axes) - 1
    if names.is_plain(x.axes[last]):
        return x.on_axis(last, lambda rows, slot: call.target(rows, weight, bias))
    call.travelled("all")
    axes = (*x.axes[:last], (Name("plain", weight.shape[0]),))
    return left(call.target(x.tensor(), weight, bias), axes, [x])


@rule("bilinear")
def bilinear(call: Any, x: Any, other: Any, weight: Any, bias: Any = None) -> Any:
    """Two last axes of the same nodes, multiplied through."""
    if not all(isinstance(one, Spatial) and names.is_plain(one.axes[-1]) for one in (x, other)):
        raise NoRuleError("one of its sides is no map with channels last")
    if x.sites is not other.sites or x.axes[:-1] != other.axes[:-1]:
        raise NoRuleError("its sides do not live on the same nodes")
    rows = call.target(x.x, other.x, weight, bias)
    return Spatial(rows, x.sites, (*x.axes[:-1], (Name("plain", rows.shape[-1]),)))


@rule("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", hop="all")
def recurrence(call: Any, x: Any, *args: Any) -> Any:
    """Each step hears one vector: readouts, or images that were flattened, absent pixels 0."""
    if not isinstance(x, Spatial) or names.is_plain(x.axes[-1]) or not _is_flat(x):
        raise NoRuleError(
            "a recurrence runs from position to position, and an absent one says nothing"
        )
    return call.target(x.tensor(), *args)


def _is_flat(x: Spatial) -> bool:
    """Whether all pixels lie on the last axis."""
    return all(name.kind in ("batch", "plain") for name in names.names(x.axes[:-1]))
