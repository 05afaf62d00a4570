"""Whole networks: a copy whose convolutions are graph layers, and back.

    net = to_graph(cnn)      net(images) == cnn(images)      net(graph) on holes too

The copy runs the model's own Python. Given images it is the model; given graphs with holes, it runs
on tensors whose pixels are nodes (see `convgraph.convert.tensor`).
"""

import copy
import functools
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as everyone
from torch.utils import _pytree as pytree

from convgraph import backends, memo
from convgraph.convert import compiled, copies
from convgraph.convert.recording import Example, Recording, record
from convgraph.convert.report import Conversion
from convgraph.convert.tensor import GraphTensor, from_pixels, settled_map
from convgraph.door import door
from convgraph.errors import ConversionError, GraphError
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import synced


class GraphNetwork(torch.nn.Module):
    """What every converted network is: the original's class, whose methods take graphs too."""

    _seen: Example | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network and its hooks.

        Hooks get what the network gets, a PixelGraph too. Where one of them is for gradients, which
        autograd has of tensors alone, all get tensors whose pixels are nodes.
        """
        call = super().__call__
        traced = torch.compiler.is_compiling()  # whose program says what it cannot hold
        if not traced and _hears_gradients(self) and _graphs(args, kwargs):
            return _called(self, call, args, kwargs)
        return call(*args, **kwargs)

    @door
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Args:
            args: what the original takes; a PixelGraph may stand for an image batch.
            kwargs: likewise.

        Returns:
            The original's own output for images; for graphs the same structure with PixelGraphs
            where the network returns images (B, C, *size). Any other map on nodes, of tokens or
            without channels, stays a tensor of its shape.

        Raises:
            ConversionError: an operator has no meaning on the graph's mask.
            GraphError: images of several sizes in one graph, or graphs on different sites.
        """
        traced = torch.compiler.is_dynamo_compiling()
        traced = traced or (torch.compiler.is_exporting() and memo.lender() is None)
        if traced and _has_holes(args, kwargs):
            return compiled.run(self, args, kwargs)
        forward = super().forward
        return _called(self, forward, args, kwargs)

    @property
    def conversion(self) -> Conversion:
        """The report: each operator on maps with its rule and module, read off a recorded run.

        Raises:
            ConversionError: nothing is known of the network's inputs yet.
        """
        recorded = self.recorded()
        return recorded.report(self._original().__name__)

    def __dir__(self) -> list[str]:
        """List all names but the report's, for torch.jit asks each: it would record a run."""
        names: list[str] = super().__dir__()  # type: ignore[no-untyped-call]
        return [name for name in names if name != "conversion"]

    def recorded(self, *inputs: Any, named: Any = None, **how: Any) -> Recording:
        """Record a run of a copy of this network; state and counters stay as they are.

        Args:
            inputs: what to run on; without any, blanks of the latest call's shapes.
            named: inputs by keyword.
            how: see `recording.record`.

        Raises:
            ConversionError: there was no call yet, and no inputs are given.
        """
        if not inputs:
            if self.__dict__["_seen"] is None:
                raise ConversionError(
                    f"{type(self).__name__}: nothing recorded yet; call the network once, or give "
                    "example inputs to to_graph"
                )
            args, kwargs = self.__dict__["_seen"].blank()
        else:
            args, kwargs = inputs, named or {}
        return record(self, args, kwargs, **how)

    def _original(self) -> type:
        return type(self).__mro__[2]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the original's class and the state."""
        state = {key: value for key, value in self.__dict__.items() if key != "_seen"}
        return _rebuilt, (self._original(),), state


def _hears_gradients(net: torch.nn.Module) -> bool:
    """Whether a module has hooks for gradients, or all modules have."""
    own = net._backward_hooks or net._backward_pre_hooks
    return bool(own or everyone._global_backward_hooks or everyone._global_backward_pre_hooks)


def _has_holes(args: Any, kwargs: Any) -> bool:
    """Whether there is a graph among the arguments, and one with holes or off the plane."""
    graphs = [one for one in (*args, *kwargs.values()) if isinstance(one, PixelGraph)]
    return any(one.sites.mask is not None or one.sites.space is not None for one in graphs)


def _rebuilt(original: type) -> Any:
    """Return an empty network of a class, for pickles.

    Raises:
        ConversionError: a file names what is no class of networks.
    """
    if not isinstance(original, type) or not issubclass(original, torch.nn.Module):
        raise ConversionError(
            f"expected the class of a network in the file, got {original!s:.60}; "
            "the file was not written by torch.save, or was changed"
        )
    kind: Any = graph_class(original)
    if original in torch.serialization.get_safe_globals():  # so is what it was made into
        name = f"{__name__}.{original.__module__}.{original.__qualname__}"
        torch.serialization.add_safe_globals([(kind, name)])
    made = kind.__new__(kind)
    torch.nn.Module.__init__(made)
    made.__dict__["_seen"] = None
    return made


def _called(net: Any, method: Any, args: Any, kwargs: Any) -> Any:
    """Call a method of a network: as it is, or with graphs as tensors."""
    graphs = _graphs(args, kwargs)
    _see(net, args, kwargs)
    if not graphs:
        return method(*args, **kwargs)
    root = graphs[0].sites
    for graph in graphs:
        if graph.sites.sizes != root.sizes and graph.sites.batch_size != root.batch_size:
            raise GraphError(
                f"{type(net).__name__}: its input graphs are batches of different numbers of images"
            )
    dense = all(graph.sites.is_full and graph.sites.size is not None for graph in graphs)
    dense = dense and not backends.forced(None)
    # Of a batch without holes another process may have the part with holes.
    dense = dense and not (synced.asks_others() and _is_synced(net))
    dense = dense and not copies.wants_nodes(net)
    channels_last = dense and _is_channels_last(net)

    def given(one: Any) -> Any:
        if not isinstance(one, PixelGraph):
            return one
        return _image(one, channels_last) if dense else from_pixels(one)

    args, kwargs = _each(given, (args, kwargs))
    out = method(*args, **kwargs)
    return _each(lambda one: returned(one, root if dense else None), out)


def _graphs(args: Any, kwargs: Any) -> list[PixelGraph]:
    """The graphs among the arguments, those within lists, mappings and dataclasses too."""
    flat = (*args, *kwargs.values())
    found = [one for one in flat if isinstance(one, PixelGraph)]
    if any(isinstance(one, (list, tuple, dict)) or is_dataclass(one) for one in flat):
        found = []
        _each(lambda one: found.append(one) if isinstance(one, PixelGraph) else None, flat)
    return found


def _each(call: Any, tree: Any) -> Any:
    """A nested structure of what is called with each leaf; dataclasses are copied."""

    def leaf(one: Any) -> Any:
        if not is_dataclass(one) or isinstance(one, (type, PixelGraph, Tensor)):
            return call(one)
        made = copy.copy(one)
        for field in fields(one):
            if hasattr(one, field.name):
                object.__setattr__(made, field.name, _each(call, getattr(one, field.name)))
        return made

    return pytree.tree_map(leaf, tree, is_leaf=lambda one: isinstance(one, PixelGraph))


def _see(net: Any, args: Any, kwargs: Any) -> None:
    """Keep the shapes of a call, for reports."""
    plain = not any(isinstance(one, torch.fx.Proxy) for one in (*args, *kwargs.values()))
    if plain and not torch.compiler.is_compiling():
        net.__dict__["_seen"] = Example(args, kwargs)


def returned(value: Any, full: Any = None) -> Any:
    """Return what the caller of a network gets: a PixelGraph for an image.

    Args:
        value: a leaf of its output.
        full: the sites of the input, where the network ran on the images of full grids.
    """
    if isinstance(value, GraphTensor):
        found = settled_map(value)
        return found.value.graph() if found.value.is_image() else found
    if full is None or not isinstance(value, Tensor):
        return value
    is_image = value.dim() == full.d + 2 and value.shape[0] == full.batch_size
    if not is_image or set(value.shape[2:]) == {1}:
        return value
    return PixelGraph.from_image(value, d=full.d)


def _is_channels_last(net: torch.nn.Module) -> bool:
    """Whether a network was laid out for channels-last images."""
    return any(
        p.dim() == 4
        and not p.is_contiguous()
        and p.is_contiguous(memory_format=torch.channels_last)
        for p in net.parameters()
    )


def _image(graph: PixelGraph, channels_last: bool) -> Tensor:
    """The images of a full grid, in the memory order that the network's weights ask for."""
    image = graph.to_image()
    image = image if graph.sites.batched else image.unsqueeze(0)
    return image if channels_last or image.dim() != 4 else image.contiguous()


def _is_synced(net: torch.nn.Module) -> bool:
    return any(
        isinstance(one, torch.nn.SyncBatchNorm) and synced.runs(one) for one in net.modules()
    )


_CLASSES: dict[type, type] = {}


def graph_class(original: type) -> type:
    """Return the class of the graph networks of a class; its public methods take graphs."""
    if original not in _CLASSES:
        own: dict[str, Any] = {"__module__": __name__, "__doc__": original.__doc__}
        for kind in reversed(original.__mro__):
            if kind.__module__.partition(".")[0] == "torch" or not issubclass(
                kind, torch.nn.Module
            ):
                continue
            for name, value in vars(kind).items():
                if callable(value) and not name.startswith("_") and name != "forward":
                    own[name] = _method(value) if isinstance(value, _FUNCTION) else value
        own["forward"] = _signed(original)
        _CLASSES[original] = type(f"Graph{original.__name__}", (GraphNetwork, original), own)
    return _CLASSES[original]


def _signed(original: type) -> Any:
    """`GraphNetwork.forward` with the parameters of the original's, for tools that read them."""

    @functools.wraps(original.forward)  # type: ignore[attr-defined]
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return GraphNetwork.forward(self, *args, **kwargs)

    return forward


_FUNCTION = type(lambda: None)


def _method(function: Any) -> Any:
    """A method that takes graphs; without any in its arguments it is the original's."""

    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _graphs(args, kwargs):
            return function(self, *args, **kwargs)
        return _called(self, functools.partial(function, self), args, kwargs)

    return method


def check_converted(net: Any, who: str) -> None:
    """Refuse what is no converted network."""
    if not isinstance(net, GraphNetwork):
        raise ConversionError(
            f"{who}: expected what cg.to_graph(network) returns, got {type(net).__name__}"
        )


@door
def to_graph(
    model: torch.nn.Module, *example_inputs: Any, strict: bool = False, **example_kwargs: Any
) -> Any:
    """Return a graph network with the parameters of a dense one, copied bit for bit.

    Args:
        model: any network. It is not touched.
        example_inputs: what the model takes, e.g. one image batch (B, C, *size), for reports; with
            `strict` the network is tried on them.
        strict: raise where an operator has no rule for graphs, instead of running it on the image
            view of a full grid. On a mask it always raises.
        example_kwargs: keyword arguments of the model's forward.

    Returns:
        A copy of the model with graph layers where its convolutions were and the same `state_dict`
        keys. Images in give the model's own output; a PixelGraph in gives PixelGraphs where the
        model returns images, and may have holes.

    Raises:
        ConversionError: the model is no module, has uninitialized parameters, was converted
            before, or is a compiled or scripted program; with strict, an operator has no rule. The
            text names the module.

    Example:
        >>> cnn = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU())
        >>> net = to_graph(cnn)
        >>> net(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
        >>> hole = torch.ones(8, 8, dtype=torch.bool)
        >>> hole[2:4, 2:4] = False
        >>> net(PixelGraph.from_image(torch.ones(2, 3, 8, 8), mask=hole)).num_nodes
        120
    """
    _check(model)
    try:
        net: Any = copies.graph_copy(model)
    except Exception as error:
        raise ConversionError(
            f"to_graph: {type(model).__name__} cannot be copied: {error}; "
            "run the network itself on graph.tensor(), which needs no copy"
        ) from error
    own = net.__dict__.pop("forward", None)
    if own is not None:
        kind = type(net)
        net.__class__ = type(
            kind.__name__, (kind,), {"forward": lambda self, *a, **k: own(*a, **k)}
        )
    net.__class__ = graph_class(type(net))
    net.__dict__["_seen"] = None
    if example_inputs or example_kwargs:
        example = Example(example_inputs, example_kwargs)
        example.check(type(model).__name__)
        net.__dict__["_seen"] = example
        if strict:
            net.recorded(strict=True)
    return net


def _check(model: Any) -> None:
    """Refuse what is no network, or one already."""
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise ConversionError(
            f"to_graph: expected a torch.nn.Module, got the class {model.__name__}; make one of it"
        )
    if not isinstance(model, torch.nn.Module):
        raise ConversionError(f"to_graph: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, GraphNetwork):
        raise ConversionError(
            f"to_graph: {type(model).__name__} is a graph network already; to_dense gives the "
            "dense one back"
        )
    for path, module in model.named_modules():
        where = f"its module {path!r}" if path else "it"
        if isinstance(module, torch.jit.ScriptModule):
            raise ConversionError(
                f"to_graph: {where} is TorchScript, a compiled program; give the module that it "
                "was made of"
            )
        if type(module).__name__ == "OptimizedModule":
            raise ConversionError(
                f"to_graph: {where} was compiled by torch.compile; give its _orig_mod, and compile "
                "what comes back"
            )
    for path, parameter in model.named_parameters():
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
            raise ConversionError(
                f"to_graph: parameter {path!r} is not initialized; call the model once first"
            )


@door
def to_dense(net: torch.nn.Module) -> Any:
    """Return the dense network of a graph network, parameters and buffers copied bit for bit.

    Args:
        net: what `to_graph` returned, a graph layer, or a module with such parts.

    Raises:
        ConversionError: nothing of it is a graph network or a graph layer.

    Example:
        >>> cnn = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
        >>> to_dense(to_graph(cnn))
        Sequential(
          (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    parts = isinstance(net, torch.nn.Module) and any(
        isinstance(module, GraphNetwork) for module in net.modules()
    )
    if not parts:
        own = getattr(net, "to_dense", None)
        if own is not None:
            return own()
        check_converted(net, "to_dense")
    dense = copies.dense_copy(net)
    for module in dense.modules():
        if isinstance(module, GraphNetwork):
            original = module._original()
            module.__dict__.pop("_seen", None)
            module.__class__ = original
    return dense


torch.serialization.add_safe_globals([_rebuilt])
