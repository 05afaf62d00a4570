"""Copies of networks: with graph layers where convolutions were, and the way back.

A converted network calls its layers with images, pixel graphs or tensors whose pixels are nodes;
on an image such a layer is torch's own operator with its parameters. Only what is exactly one of
torch's convolutions changes (no subclass, no reparametrization, no hooks that a copy would lose).
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from convgraph import backends
from convgraph.backends.rows import HALF
from convgraph.convert.tensor import GraphTensor, given
from convgraph.convert.value import result
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import convs, traced, twin
from convgraph.nn.conv import GraphConvNd


def _on_map(layer: Any, forward: Any, x: GraphTensor, *args: Any, **kwargs: Any) -> Any:
    """Any graph layer within a network of torch, on a map."""
    out: Any = forward(layer, x.graph, *args, **{"sites": "network", **kwargs})
    return given(result(out)) if isinstance(out, PixelGraph) else out


traced.MAPS[GraphTensor] = _on_map


def wants_nodes(net: torch.nn.Module) -> bool:
    """Whether a network has layers that take graphs, or maps, and no images."""
    return any(
        getattr(one, "takes_graph", False) and not isinstance(one, _InNetwork)
        for one in net.modules()
    )


class _InNetwork(GraphConvNd):
    """A graph layer that takes what a network hands on."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Send the messages; on an image, call torch's operator unless a backend is forced."""
        d = self.geometry.d
        if isinstance(x, torch.fx.Proxy) and self._is_torchs():
            return _directly(self, x)
        if not isinstance(x, Tensor) or args or kwargs or x.dim() not in (d + 1, d + 2):
            return super().forward(x, *args, **kwargs)
        on_nodes = isinstance(x, GraphTensor)
        if on_nodes and self._is_torchs() and not self._tapped():
            if self.backend is None:
                return _directly(self, x)
            with backends.backend(self.backend):
                return _directly(self, x)
        if not on_nodes and not self._is_forced(x):
            return _directly(self, x)
        graph = x.graph if isinstance(x, GraphTensor) else PixelGraph.from_image(x, d=d)
        out: Any = super().forward(graph, sites="network")
        return given(result(out)) if on_nodes else out.to_image()

    def _is_forced(self, like: Tensor) -> bool:
        """Whether an image goes through messages too, as a backend or its dtype asks."""
        half = like.dtype in HALF and like.device.type == "cpu"
        named = backends.forced(self.backend) is not None
        return half or named or self._tapped() or not self._is_torchs()

    def _is_torchs(self) -> bool:
        """Whether torch's operator is all of the layer; other pads may have been assigned."""
        g = self.geometry
        even = all(before == after for before, after in g.padding)
        return not g.folds and (even or self.padding_name is not None)

    def _get_name(self) -> str:
        return type(self).__name__


def _directly(layer: Any, x: Any) -> Tensor:
    """The layer's operator of torch on an image, or on a map."""
    g = layer.geometry
    pads: Any = layer.padding_name or tuple(before for before, _ in g.padding)
    operator = getattr(F, f"conv_transpose{g.d}d" if g.transposed else f"conv{g.d}d")
    more = (g.output_padding, layer.groups, g.dilation) if g.transposed else (
        g.dilation, layer.groups
    )  # fmt: skip
    out: Tensor = operator(x, layer.weight, layer.bias, g.stride, pads, *more)
    return out


def _in_network(kind: type[GraphConvNd]) -> type[GraphConvNd]:
    made = type(
        kind.__name__, (_InNetwork, kind), {"__doc__": kind.__doc__, "__module__": __name__}
    )
    globals()[kind.__name__] = made  # pickles find it here
    return made


_TWINS: dict[type, type[GraphConvNd]] = {
    dense: _in_network(getattr(convs, f"Graph{dense.__name__}"))
    for dense in (*twin.CONV.values(), *twin.TRANSPOSED.values())
}
"""torch.nn.ConvXd -> the graph layer of that name in a network, transposed ones included."""

torch.serialization.add_safe_globals([*_TWINS.values()])

_DENSE = {graph: dense for dense, graph in _TWINS.items()}
_DENSE |= {graph.__mro__[2]: dense for graph, dense in list(_DENSE.items())}


def calls_torch(layer: GraphConvNd) -> bool:
    """Whether a layer, given an image, is torch's own operator: one of a converted network."""
    return isinstance(layer, _InNetwork) and not layer._is_forced(layer.weight)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module keeps hooks."""


def is_plain_conv(module: torch.nn.Module) -> bool:
    """Whether a module is exactly a torch convolution with nothing added."""
    if type(module) not in _TWINS or getattr(module, "padding_mode", "") != "zeros":
        return False
    if "forward" in vars(module) or any(getattr(module, name) for name in HOOKS):
        return False
    own: Any = module._parameters
    return set(own) == {"weight", "bias"} and not isinstance(
        own["weight"], torch.nn.parameter.UninitializedParameter
    )


def copied(net: torch.nn.Module, memo: dict[int, Any] | None = None) -> torch.nn.Module:
    """copy.deepcopy, also where a call has left what it computed: features, masked weights."""
    memo = {} if memo is None else memo
    for module in net.modules():
        for one in pytree.tree_leaves(vars(module)):
            if type(one) is Tensor and not one.is_leaf:
                memo.setdefault(id(one), one.detach().clone())
    made: torch.nn.Module = copy.deepcopy(net, memo)
    if made.training is not net.training:  # torchvision's extractors forget it, and their graph
        made.train(net.training)
        for name, module in net.named_modules():
            made.get_submodule(name).training = module.training
    return made


def graph_copy(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a network with graph layers where its convolutions were."""
    memo: dict[int, Any] = {}
    parameters: dict[int, Any] = {}
    for module in model.modules():
        if module is not model and is_plain_conv(module):
            memo[id(module)] = _graph_layer(module, parameters)
    memo.update(parameters)
    return copied(model, memo)


def _graph_layer(dense: Any, copies: dict[int, Any]) -> GraphConvNd:
    """The graph layer of a convolution, with copied parameters that keep their memory layout."""
    shared = twin.conv_arguments(dense)
    shared["device"] = "meta"
    kind: Any = _TWINS[type(dense)]
    layer = kind(
        dense.in_channels, dense.out_channels, dense.kernel_size, groups=dense.groups, **shared
    )
    _carry(dense, layer, copies)
    done: GraphConvNd = layer.train(dense.training)
    return done


def _carry(source: Any, target: Any, copies: dict[int, Any]) -> None:
    """Give a layer copies of another's parameters, one copy of each."""
    for name, parameter in source._parameters.items():
        if parameter is None:
            target._parameters[name] = None
            continue
        if id(parameter) not in copies:
            made = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            if parameter.grad is not None:
                made.grad = parameter.grad.detach().clone()
            copies[id(parameter)] = made
        target._parameters[name] = copies[id(parameter)]


def dense_copy(net: torch.nn.Module) -> Any:
    """Return a copy of a network with torch's convolutions where its graph layers were."""
    memo: dict[int, Any] = {}
    copies: dict[int, Any] = {}
    for module in net.modules():
        kind = parametrize.type_before_parametrizations(module)
        if kind in _DENSE:
            memo[id(module)] = _torch_layer(module, _DENSE[kind], copies)
    memo.update(copies)
    return copied(net, memo)


def _torch_layer(layer: Any, kind: Any, copies: dict[int, Any]) -> torch.nn.Module:
    """A convolution of torch with a graph layer's parameters, and whatever a tool has added."""
    made = kind(**twin.dense_arguments(layer), device="meta")
    for name in getattr(layer, "parametrizations", ()):
        parametrize.register_parametrization(made, name, torch.nn.Identity(), unsafe=True)
    made._parameters.clear()
    _carry(layer, made, copies)
    memo: dict[int, Any] = {**copies, id(layer): made}
    if "weight" in vars(layer):  # torch's older norms compute it before each call
        made.weight = layer.weight.detach().clone()
    for name in ("_buffers", "_modules", *HOOKS):
        vars(made)[name].update(copy.deepcopy(vars(layer)[name], memo))
    dense: torch.nn.Module = made.train(layer.training)
    return dense
