"""Products with parameters: one matrix for every node, or several and their gates."""

from typing import Any

from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.rules.products import left
from convgraph.convert.value import Spatial, placed


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


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", hop="all")
def cell(call: Any, x: Any, state: Any, *weights: Any) -> Any:
    """One step of every node, which has a state of its own, or of images that were flattened."""
    states = state if isinstance(state, list) else [state]
    like = next((one for one in (x, *states) if isinstance(one, Spatial)), None)
    if like is None or not names.is_plain(like.axes[-1]):
        return recurrence(call, x, state, *weights)

    def rows(one: Any) -> Tensor:
        if not isinstance(one, Spatial):  # states that nobody has set are zeros
            one = placed(one, like.sites, (*like.axes[:-1], (Name("plain", one.shape[-1]),)))
        if one.sites is not like.sites or one.axes[:-1] != like.axes[:-1]:
            raise NoRuleError("its states live on other nodes")
        made: Tensor = one.x
        return made

    call.travelled("node")
    first, *others = map(rows, (x, *states))
    out = call.target(first, others if isinstance(state, list) else others[0], *weights)
    made = [like.along(1, one) for one in (out if isinstance(out, tuple) else (out,))]
    return tuple(made) if len(made) > 1 else made[0]


@rule("lstm", "gru", "rnn_tanh", "rnn_relu", hop="all")
def recurrence(call: Any, x: Any, *args: Any) -> Any:
    """Each step hears one vector: readouts, or images that were flattened, absent pixels 0.

    Or each node has a series of its own.
    """
    series = isinstance(x, Spatial) and len(x.axes) == 3 and len(args) > 6
    if series and all(names.is_plain(x.axes[dim]) for dim in (2, 1 if args[-1] else 0)):
        return _series(call, x, *args)
    flat = isinstance(x, Spatial) and names.no_pixels(x.axes[:-1])
    if not flat or names.is_plain(x.axes[-1]):
        raise NoRuleError(
            "a recurrence runs from position to position, and an absent one says nothing"
        )
    return call.target(x.tensor(), *args)


def _series(call: Any, x: Spatial, state: Any, *args: Any) -> Any:
    """Every node runs along its own plain axis, (batch and pixels) (steps) (c) or steps first."""
    call.travelled("node")
    nodes = 0 if args[-1] else 1
    x = x.merged(1 - nodes).merged(2)

    def rows(one: Any) -> Tensor:
        axes = ((Name("plain", one.shape[0]),), x.axes[nodes], (Name("plain", one.shape[2]),))
        own = one if isinstance(one, Spatial) else placed(one, x.sites, axes)
        if own.sites is not x.sites or own.thin().axes != own.refined(axes).thin().axes:
            raise NoRuleError("its states live on other nodes")
        return own.refined(axes).x.transpose(0, 1).contiguous()

    def said(one: Tensor) -> Spatial:
        layers, wide = ((Name("plain", n),) for n in (one.shape[0], one.shape[2]))
        return Spatial(one.transpose(0, 1), x.sites, (layers, x.axes[nodes], wide))

    states = [rows(one) for one in state] if isinstance(state, list) else rows(state)
    out, *last = call.target(x.x, states, *args[:-1], True)
    return (x.along(2, out), *map(said, last))
