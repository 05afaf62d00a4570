"""Graph layers where convolutions were: which modules change, and who may be called for a node.

A module answers for a node only if it is exactly one of torch's convolutions (no subclass, no
reparametrization, no hooks that a copy would lose) and the node's arguments are its own.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from convgraph import backends
from convgraph.backends.rows import HALF
from convgraph.convert.capture import Program, Ref, Step
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import convs, twin
from convgraph.nn.conv import GraphConvNd

_TWINS: dict[type, type[GraphConvNd]] = {
    getattr(torch.nn, name.removeprefix("Graph")): value
    for name, value in vars(convs).items()
    if isinstance(value, type) and issubclass(value, GraphConvNd) and name.startswith("GraphConv")
    and name != "GraphConvNd"
}  # fmt: skip
"""torch.nn.ConvXd -> GraphConvXd, transposed ones included."""

_DENSE = {graph: dense for dense, graph in _TWINS.items()}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain_conv(module: torch.nn.Module) -> bool:
    """Whether a module is exactly a torch convolution with nothing added."""
    if type(module) not in _TWINS or getattr(module, "padding_mode", "") != "zeros":
        return False
    if "forward" in vars(module) or any(getattr(module, name) for name in _HOOKS):
        return False
    own: Any = module._parameters
    return set(own) == {"weight", "bias"} and not isinstance(
        own["weight"], torch.nn.parameter.UninitializedParameter
    )


def graph_copy(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a network with graph layers where its convolutions were."""
    memo: dict[int, Any] = {}
    parameters: dict[int, Any] = {}
    for module in model.modules():
        if module is not model and is_plain_conv(module):
            memo[id(module)] = _graph_layer(module, parameters)
    memo.update(parameters)
    made: torch.nn.Module = copy.deepcopy(model, memo)
    return made


def _graph_layer(dense: Any, copies: dict[int, Any]) -> GraphConvNd:
    """The graph layer of a convolution, with copied parameters that keep their memory layout."""
    shared = twin.conv_arguments(dense)
    shared["device"] = "meta"
    kind: Any = _TWINS[type(dense)]
    layer = kind(
        dense.in_channels, dense.out_channels, dense.kernel_size, groups=dense.groups, **shared
    )
    for name, parameter in dense._parameters.items():
        if parameter is None:
            continue
        if id(parameter) not in copies:
            made = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            if parameter.grad is not None:
                made.grad = parameter.grad.detach().clone()
            copies[id(parameter)] = made
        layer._parameters[name] = copies[id(parameter)]
    done: GraphConvNd = layer.train(dense.training)
    return done


def dense_form(net: torch.nn.Module, original: type, *, share: bool) -> torch.nn.Module:
    """Return a network as torch's modules again.

    Args:
        net: with graph layers.
        original: the class of the dense network.
        share: use the same parameters and buffers instead of copies.
    """
    memo: dict[int, Any] = {}
    copies: dict[int, Any] = {}
    for tensor in (*net.parameters(), *net.buffers()):
        if share:
            copies[id(tensor)] = tensor
    for module in net.modules():
        if type(module) in _DENSE:
            memo[id(module)] = _torch_layer(module, copies)
    memo.update(copies)
    made: Any = copy.deepcopy(net, memo)
    made.__class__ = original
    dense: torch.nn.Module = made
    return dense


def _torch_layer(layer: Any, copies: dict[int, Any]) -> torch.nn.Module:
    g = layer.geometry
    shared: dict[str, Any] = {
        "stride": g.stride,
        "padding": layer.padding_name or tuple(a for a, _ in g.padding),
        "dilation": g.dilation,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "padding_mode": g.padding_mode,
        "dtype": layer.weight.dtype,
        "device": "meta",
    }
    if g.transposed:
        shared["output_padding"] = g.output_padding
    kind: Any = _DENSE[type(layer)]
    made = kind(layer.in_channels, layer.out_channels, g.kernel_size, **shared)
    for name, parameter in layer._parameters.items():
        if parameter is None:
            continue
        if id(parameter) not in copies:
            fresh = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            if parameter.grad is not None:
                fresh.grad = parameter.grad.detach().clone()
            copies[id(parameter)] = fresh
        made._parameters[name] = copies[id(parameter)]
    dense: torch.nn.Module = made.train(layer.training)
    return dense


def owner(net: torch.nn.Module, step: Step, program: Program) -> GraphConvNd | None:
    """Return the graph layer whose arguments are exactly this step's, or None."""
    if not step.operator.startswith(("conv1d", "conv2d", "conv3d", "conv_transpose")):
        return None
    try:
        layer: Any = net.get_submodule(step.path)
    except AttributeError:
        return None
    if type(layer) not in _DENSE:
        return None
    names = [argument.name.replace(".default", "") for argument in _schema(step)]
    given = dict(zip(names, step.args, strict=False)) | dict(step.kwargs)
    g = layer.geometry
    pads = given.get("padding", 0)
    d = g.d
    same = (
        _is(net, program, given.get("weight"), layer.weight)
        and _is(net, program, given.get("bias"), layer.bias)
        and _full(given.get("stride", 1), d) == g.stride
        and _full(given.get("dilation", 1), d) == g.dilation
        and given.get("groups", 1) == layer.groups
        and (
            pads == layer.padding_name
            if isinstance(pads, str)
            else tuple((n, n) for n in _full(pads, d)) == g.padding
        )
        and (not g.transposed or _full(given.get("output_padding", 0), d) == g.output_padding)
    )
    return layer if same else None


def _schema(step: Step) -> Any:
    schema = getattr(step.target, "_schema", None)
    return () if schema is None else schema.arguments


def _is(net: torch.nn.Module, program: Program, given: Any, own: Tensor | None) -> bool:
    """Whether an argument is this very parameter."""
    if given is None or own is None:
        return given is None and own is None
    if not isinstance(given, Ref) or given.name not in program.state:
        return False
    path, _, leaf = program.state[given.name].rpartition(".")
    return getattr(net.get_submodule(path), leaf, None) is own


def _full(value: Any, d: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * d
    return tuple(value) * d if len(value) == 1 else tuple(value)


def on_image(layer: Any, image: Tensor, direct: Any, *args: Any) -> Tensor:
    """Call a graph layer on an image of a full grid.

    Where nobody listens to the layer and no backend is forced, that is torch's own operator with
    the layer's parameters; otherwise the layer is called on the graph.
    """
    quiet = not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )
    plain = image.dtype not in HALF or image.device.type != "cpu"
    if quiet and plain and backends.forced(layer.backend) is None and not layer._tapped():
        out: Tensor = direct(image, layer.weight, layer.bias, *args)
        return out
    return called(layer, PixelGraph.from_image(image, d=layer.geometry.d)).to_image()


def called(layer: Any, graph: PixelGraph) -> PixelGraph:
    """Call a graph layer within a network."""
    out: PixelGraph = layer(graph, sites="network")
    return out
