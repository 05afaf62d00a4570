"""Whole networks: a CNN becomes a graph network with the same parameters, and back.

    net = to_graph(cnn)      net(images) == cnn(images)      net(graph) on holes too

The graph network is a copy of the original with graph layers where its convolutions were; its class
is a mixin over the original's. What it does follows from a capture at each image size, dtype and
set of training flags, made when first needed.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph import backends
from convgraph.convert import capture, codegen, owners, plan
from convgraph.convert.report import Conversion
from convgraph.convert.run import Run
from convgraph.convert.value import from_graph
from convgraph.errors import ConversionError, GraphError
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites


class _Captured:
    """One capture with what follows from it."""

    def __init__(
        self, program: capture.Program, forward: Any, planned: plan.Plan, channels: int
    ) -> None:
        self.program = program
        self.channels = channels
        self.forward = forward
        self.plan = planned


class Wiring:
    """The captures of a network; not a part of its state, and never saved."""

    def __init__(self, *, strict: bool) -> None:
        """Start without any."""
        self.strict = strict
        self.captured: dict[Any, _Captured] = {}
        self.last: _Captured | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Wiring":
        """A copy of the network captures anew."""
        return Wiring(strict=self.strict)


class GraphNetwork(torch.nn.Module):
    """What every converted network is: the original's class behind a forward on graphs."""

    _wiring: Wiring

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Args:
            args: what the original takes; a PixelGraph may stand for an image batch.
            kwargs: likewise.

        Returns:
            The original's own output for images; for graphs the same structure with PixelGraphs
            where the network returns maps.

        Raises:
            ConversionError: the network cannot be captured on such input, or an operator has no
                meaning on the graph's mask.
            GraphError: images of several sizes in one graph.
        """
        flat, spec = pytree.tree_flatten((args, kwargs), is_leaf=_is_graph)
        graphs = [value for value in flat if isinstance(value, PixelGraph)]
        if graphs:
            return self._on_graphs(flat, spec, graphs)
        found = self._captured(flat, spec)
        outputs = self._dense(found, flat)
        return pytree.tree_unflatten(outputs, found.program.out_spec)

    @property
    def conversion(self) -> Conversion:
        """The report of the latest capture: each operator with its rule and module.

        Raises:
            ConversionError: nothing has been captured yet.
        """
        if self._wiring.last is None:
            raise ConversionError(
                f"{type(self).__name__}: nothing captured yet; call the network once, or give "
                "example inputs to to_graph"
            )
        return self._wiring.last.plan.conversion

    # -- the two ways of running ------------------------------------------------------------------

    def _dense(self, found: _Captured, flat: list[Any]) -> list[Any]:
        """Run the generated code on channels-last views."""
        inputs = []
        for name, value in zip(found.program.inputs, flat, strict=True):
            inputs.append(_channels_last(value) if name in found.program.images else value)
        device = next(value.device for value in flat if isinstance(value, Tensor))
        outputs: list[Any] = found.forward(self, device, *inputs)
        return outputs

    def _on_graphs(self, flat: list[Any], spec: Any, graphs: list[PixelGraph]) -> Any:
        root = graphs[0].sites
        for graph in graphs:
            if graph.sites.size is None:
                raise GraphError(
                    f"{type(self).__name__}: expected images of one size, got "
                    f"{graph.sites.sizes[:3]}; run them one size at a time"
                )
            if graph.sites is not root:
                raise GraphError(
                    f"{type(self).__name__}: its input graphs live on different sites; give them "
                    "the same mask, by PixelGraph.with_x"
                )
        examples = [_example(value) for value in flat]
        found = self._captured(examples, spec)
        if root.is_full and not backends.forced(None):
            images = [v.to_image() if isinstance(v, PixelGraph) else v for v in flat]
            images = [
                v if g is v or v.dim() == root.d + 2 else v.unsqueeze(0)
                for v, g in zip(images, flat, strict=True)
            ]
            outputs = plan.as_returned(self._dense(found, images), found.plan, root)
        else:
            outputs = [plan.returned(value) for value in self.interpret(found, flat, root)]
        return pytree.tree_unflatten(outputs, found.program.out_spec)

    def interpret(
        self, found: _Captured, flat: list[Any], root: Sites, listen: Any = None
    ) -> list[Any]:
        """Run the rules over rows; return flat values."""
        run = Run(self, found.program, root, strict=self._wiring.strict, listen=listen)
        return run([from_graph(v) if isinstance(v, PixelGraph) else v for v in flat])

    def captured(self, *inputs: Any) -> "_Captured":
        """Find or make the capture for a call with these inputs."""
        flat, spec = pytree.tree_flatten((inputs, {}), is_leaf=_is_graph)
        return self._captured([_example(value) for value in flat], spec)

    def blank(self) -> PixelGraph:
        """Return an empty image of the latest capture's size, as a graph."""
        size, found = self.conversion.size, self._wiring.last
        first = next(iter(self.parameters()), torch.empty(0))
        channels = 1 if found is None else found.channels
        return PixelGraph.from_image(
            torch.zeros(1, channels, *size, dtype=first.dtype, device=first.device), d=len(size)
        )

    def _captured(self, flat: list[Any], spec: Any) -> _Captured:
        """Find or make the capture for such inputs."""
        first = capture.first_image(flat, type(self).__name__)
        key: tuple[Any, ...] = (_key(flat, first.shape[0]), str(spec), _flags(self))
        found = self._wiring.captured.get(key)
        if found is not None and not found.program.dynamic:
            key = (*key, first.shape[0])
            found = self._wiring.captured.get(key)
        if found is None:
            found = self._capture(flat, spec, first)
            kept = self._wiring.captured
            if not found.program.dynamic:
                kept.setdefault(key[:3], found)
                key = (*key[:3], first.shape[0])
            kept[key] = found
        self._wiring.last = found
        return found

    @torch.compiler.disable(  # type: ignore[untyped-decorator]
        reason="a capture is no part of a compiled program; call the network once before compiling"
    )
    def _capture(self, flat: list[Any], spec: Any, first: Tensor) -> _Captured:
        original = type(self).__mro__[2]
        dense = owners.dense_form(self, original, share=True)
        args, kwargs = pytree.tree_unflatten(flat, spec)
        program = capture.capture(dense, args, kwargs)
        forward, _ = codegen.generate(program, self)
        size = tuple(first.shape[2:])
        planned = plan.make(self, program, flat, size, strict=self._wiring.strict)
        return _Captured(program, forward, planned, first.shape[1])

    # -- saving ----------------------------------------------------------------------------------

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the original's class and the state; captures are made anew."""
        state = {key: value for key, value in self.__dict__.items() if key != "_wiring"}
        return _rebuilt, (type(self).__mro__[2], self._wiring.strict), state


def _rebuilt(original: type, strict: bool) -> Any:
    kind: Any = graph_class(original)
    made = kind.__new__(kind)
    torch.nn.Module.__init__(made)
    made.__dict__["_wiring"] = Wiring(strict=strict)
    return made


_CLASSES: dict[type, type] = {}


def graph_class(original: type) -> type:
    """Return the class of the graph networks of a class."""
    if original not in _CLASSES:
        name = f"Graph{original.__name__}"
        _CLASSES[original] = type(
            name, (GraphNetwork, original), {"__module__": __name__, "__doc__": original.__doc__}
        )
    return _CLASSES[original]


def _is_graph(value: Any) -> bool:
    return isinstance(value, PixelGraph)


def _key(flat: list[Any], batch: int) -> tuple[Any, ...]:
    """What a capture depends on: sizes, dtypes and values of what is no tensor."""
    parts: list[Any] = []
    for value in flat:
        if isinstance(value, Tensor):
            lead = value.shape[:1] if value.dim() and value.shape[0] != batch else ()
            parts.append((tuple(lead), tuple(value.shape[1:]), value.dtype))
        else:
            parts.append(value)
    return tuple(parts)


def _flags(net: torch.nn.Module) -> tuple[Any, ...]:
    """Every module's class and training flag."""
    return tuple((type(module), module.training) for module in net.modules())


def _example(value: Any) -> Any:
    """An image of a graph's shape, for a capture."""
    if not isinstance(value, PixelGraph):
        return value
    size = value.sites.size or ()
    shape = (value.batch_size, value.num_channels, *size)
    return torch.empty(1, dtype=value.dtype, device=value.device).expand(shape)


def _channels_last(image: Tensor) -> Tensor:
    """The image in the memory order of rows."""
    if image.dim() == 4:
        return image.contiguous(memory_format=torch.channels_last)
    if image.dim() == 5:
        return image.contiguous(memory_format=torch.channels_last_3d)
    return image


def to_graph(
    model: torch.nn.Module, *example_inputs: Any, strict: bool = False, **example_kwargs: Any
) -> Any:
    """Return a graph network with the parameters of a dense one, copied bit for bit.

    Args:
        model: any network that `torch.export` can capture, an `fx.GraphModule` included. It is not
            touched.
        example_inputs: what the model takes, e.g. one image batch (B, C, *size); without any, the
            capture happens at the first call.
        strict: raise where an operator has no rule for graphs, instead of running it on the image
            view of a full grid. On a mask it always raises.
        example_kwargs: keyword arguments of the model's forward.

    Returns:
        A copy of the model with graph layers where its convolutions were and the same `state_dict`
        keys. Images in give the model's own output; a PixelGraph in gives PixelGraphs where the
        model returns maps, and may have holes.

    Raises:
        ConversionError: the model is no module, has uninitialized parameters or was converted
            before; it cannot be captured; with strict, an operator has no rule. The text names the
            module.

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
    if not isinstance(model, torch.nn.Module):
        raise ConversionError(f"to_graph: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, GraphNetwork):
        raise ConversionError(
            f"to_graph: {type(model).__name__} is a graph network already; to_dense gives the "
            "dense one back"
        )
    for path, parameter in model.named_parameters():
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
            raise ConversionError(
                f"to_graph: parameter {path!r} is not initialized; call the model once first"
            )
    try:
        net: Any = owners.graph_copy(model)
    except Exception as error:
        raise ConversionError(
            f"to_graph: {type(model).__name__} cannot be copied: {error}"
        ) from error
    net.__class__ = graph_class(type(net))
    net.__dict__["_wiring"] = Wiring(strict=strict)
    if example_inputs or example_kwargs:
        flat, spec = pytree.tree_flatten((example_inputs, example_kwargs), is_leaf=_is_graph)
        net._captured([_example(value) for value in flat], spec)
    return net


def to_dense(net: torch.nn.Module) -> Any:
    """Return the dense network of a graph network, parameters and buffers copied bit for bit.

    Raises:
        ConversionError: it is no converted network.

    Example:
        >>> cnn = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
        >>> to_dense(to_graph(cnn))
        Sequential(
          (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    if not isinstance(net, GraphNetwork):
        own = getattr(net, "to_dense", None)
        if own is not None:
            return own()
        raise ConversionError(
            f"to_dense: expected a network that to_graph made, got {type(net).__name__}"
        )
    dense = owners.dense_form(net, type(net).__mro__[2], share=False)
    dense.__dict__.pop("_wiring", None)
    return dense
