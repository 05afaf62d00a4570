"""The front end: a module becomes a program, a list of steps in the operators of torch.

`torch.export` in its non-strict mode sees through Python, keeps operators whole (no
decompositions) and knows the module that every node came from. The batch is captured as a symbol,
at 2 or more: at 1 an axis would lose its meaning.
"""

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from convgraph.convert.names import BATCH
from convgraph.errors import ConversionError

_DROPPED = ("_assert_async", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range")


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of another step, an input or a parameter."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call of an operator.

    Attributes:
        name: of its value.
        target: the operator.
        args: positional arguments, `Ref` where another value stands.
        kwargs: likewise.
        path: of the module that called it, "" for the network itself.
        shape: of the value, the batch as `BATCH`; None where it is no tensor.
        last_of: values that nobody reads after this step.
    """

    name: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    path: str
    shape: tuple[int, ...] | None
    last_of: tuple[str, ...] = ()

    @property
    def operator(self) -> str:
        """The name that rules are registered under."""
        schema = getattr(self.target, "_schema", None)
        if schema is None:
            return getattr(self.target, "__name__", str(self.target))
        return str(schema.name).removeprefix("aten::")


@dataclass(frozen=True)
class Nested:
    """What a context manager encloses: a graph of its own, called like an operator.

    Attributes:
        steps: in order.
        inputs: names of its operands.
        constants: name -> tensor or module.
        outputs: what is returned, flat.
    """

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    constants: Mapping[str, Any]
    outputs: tuple[Any, ...]


NESTED = "convgraph"
"""The key of a nested graph among a graph module's notes."""


@dataclass(frozen=True)
class Program:
    """What a network does at one image size, dtype and set of training flags.

    Attributes:
        steps: in order.
        inputs: names of the user's inputs in their flat order, None for what is no tensor.
        images: which of them are images.
        state: name -> path of a parameter or buffer.
        constants: name -> tensor or module that belongs to the capture.
        outputs: what is returned, flat.
        out_spec: how the flat outputs are put together.
        in_spec: how the inputs were taken apart.
        device: on which constants were made.
        dynamic: whether any batch size will do.
        batch: the batch size of the capture.
    """

    steps: tuple[Step, ...]
    inputs: tuple[str | None, ...]
    images: tuple[str, ...]
    state: Mapping[str, str]
    constants: Mapping[str, Any]
    outputs: tuple[Any, ...]
    out_spec: Any
    in_spec: Any
    device: torch.device
    dynamic: bool
    batch: int
    cache: dict[Any, Any] = field(default_factory=dict)


def capture(dense: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    """Export a dense network.

    Args:
        dense: made of torch's own modules.
        args: example inputs; the first tensor of 3 to 5 axes is the image and tells the batch.
        kwargs: likewise.

    Raises:
        ConversionError: there is no image among the inputs, or torch.export cannot capture the
            network; the text names the module where it stopped.
    """
    who = type(dense).__name__
    if isinstance(dense, torch.fx.GraphModule):
        who = "fx.GraphModule"
    flat, in_spec = pytree.tree_flatten((args, kwargs))
    first = first_image(flat, who)
    batch = first.shape[0]
    wide = [_batched(value, batch) for value in flat]
    shapes = [_dynamic(value, max(batch, 2)) for value in wide]
    exported, reached = _export(dense, wide, shapes, in_spec, who)
    return _program(exported, reached, wide, in_spec, first)


def first_image(flat: Sequence[Any], who: str) -> Tensor:
    """Return the first floating tensor of 3 to 5 axes."""
    for value in flat:
        if isinstance(value, Tensor) and value.is_floating_point() and 3 <= value.dim() <= 5:
            return value
    raise ConversionError(
        f"{who}: expected an image (B, C, *size) among the example inputs, got "
        f"{[tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for v in flat]}"
    )


def _batched(value: Any, batch: int) -> Any:
    """An input as an example of at least two images; never the caller's own tensor."""
    if not isinstance(value, Tensor):
        return value
    if batch == 1 and value.dim() and value.shape[0] == 1:
        return value.detach().repeat(2, *(1,) * (value.dim() - 1))
    return value.detach().clone()


def _dynamic(value: Any, batch: int) -> Any:
    """Which axes of an input are symbols."""
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == batch:
        return {0: torch.export.Dim.AUTO}
    return None


class _Path:
    """Notes which module was entered last, for the error text."""

    def __init__(self, root: torch.nn.Module) -> None:
        self.paths = {id(module): path for path, module in root.named_modules()}
        self.last = ""

    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        self.last = self.paths.get(id(module), self.last)


def _export(
    dense: torch.nn.Module, flat: list[Any], shapes: list[Any], in_spec: Any, who: str
) -> tuple[Any, bool]:
    """Export; return the program and whether the batch stayed a symbol."""
    args, kwargs = pytree.tree_unflatten(flat, in_spec)
    arg_shapes, kwarg_shapes = pytree.tree_unflatten(shapes, in_spec)
    path = _Path(dense)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(path)
    tries = ((False, True), (False, False), (True, True))
    first: Exception | None = None
    where = ""
    try:
        for strict, dynamic in tries:
            given: Any = {"dynamic_shapes": (arg_shapes, kwarg_shapes)} if dynamic else {}
            if dynamic and kwargs:
                given = {"dynamic_shapes": _by_name(dense, arg_shapes, kwarg_shapes)}
            elif dynamic:
                given = {"dynamic_shapes": arg_shapes}
            try:
                return torch.export.export(dense, args, kwargs, strict=strict, **given), dynamic
            except Exception as error:  # noqa: BLE001 - whatever a network does wrong
                if first is None:
                    first, where = error, path.last
    finally:
        hook.remove()
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    reason = lines[0] if lines else type(first).__name__
    raise ConversionError(
        f"{who}: torch.export could not capture it; it stopped in module {where!r} "
        f"({_kind(dense, where)}): {type(first).__name__}: {reason}"
    ) from first


def _kind(dense: torch.nn.Module, path: str) -> str:
    try:
        return type(dense.get_submodule(path)).__name__
    except AttributeError:
        return "unknown"


def _by_name(dense: torch.nn.Module, arg_shapes: Any, kwarg_shapes: Any) -> dict[str, Any]:
    """Dynamic shapes by the names of forward's parameters."""
    names = list(inspect.signature(dense.forward).parameters)
    return {**dict(zip(names, arg_shapes, strict=False)), **kwarg_shapes}


def _program(exported: Any, reached: bool, flat: list[Any], in_spec: Any, first: Tensor) -> Program:
    state: dict[str, str] = {}
    constants: dict[str, Any] = {}
    inputs: list[str | None] = []
    for spec in exported.graph_signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            state[spec.arg.name] = spec.target
        elif spec.kind == InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
        else:
            constants[spec.arg.name] = exported.constants[spec.target]
    symbols = _symbols(exported, inputs)
    steps: list[Step] = []
    outputs: tuple[Any, ...] = ()
    for node in exported.graph.nodes:
        if node.op == "get_attr":
            constants[node.name] = getattr(exported.graph_module, str(node.target))
            _nest(constants[node.name], symbols)
        elif node.op == "call_function":
            if _is_check(node):
                continue
            steps.append(_step(node, symbols))
        elif node.op == "output":
            outputs = tuple(_plain(value) for value in node.args[0])
    mutated = len(exported.graph_signature.user_outputs)
    outputs = outputs[len(outputs) - mutated :]
    images = tuple(
        name
        for name, value in zip(inputs, flat, strict=True)
        if name is not None
        and isinstance(value, Tensor)
        and value.dim() == first.dim()
        and value.shape[2:] == first.shape[2:]
        and value.is_floating_point()
    )
    return Program(
        steps=_with_last(steps, outputs),
        inputs=tuple(inputs),
        images=images,
        state=state,
        constants=constants,
        outputs=outputs,
        out_spec=exported.call_spec.out_spec,
        in_spec=in_spec,
        device=first.device,
        dynamic=bool(symbols) and reached,
        batch=max(first.shape[0], 2),
    )


def _is_check(node: Any) -> bool:
    """Whether a node computes nothing."""
    return getattr(node.target, "__name__", "").partition(".")[0] in _DROPPED


def _nest(inner: Any, symbols: list[Any]) -> None:
    """Note the steps of a nested graph beside it."""
    if not isinstance(inner, torch.fx.GraphModule):
        return
    nodes = list(inner.graph.nodes)
    constants = {n.name: getattr(inner, str(n.target)) for n in nodes if n.op == "get_attr"}
    for one in constants.values():
        _nest(one, symbols)
    calls = [node for node in nodes if node.op == "call_function" and not _is_check(node)]
    steps = [_step(node, symbols) for node in calls]
    (last,) = (node for node in nodes if node.op == "output")
    found = last.args[0] if isinstance(last.args[0], (list, tuple)) else (last.args[0],)
    outputs = tuple(_plain(value) for value in found)
    inputs = tuple(node.name for node in nodes if node.op == "placeholder")
    inner.meta[NESTED] = Nested(_with_last(steps, outputs), inputs, constants, outputs)


def _symbols(exported: Any, inputs: list[str | None]) -> list[Any]:
    """The symbols of the inputs' batch axes."""
    found = []
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            value = node.meta.get("val")
            for size in getattr(value, "shape", ())[:1]:
                if isinstance(size, torch.SymInt):
                    found.extend(size.node.expr.free_symbols)
    return found


def _step(node: Any, symbols: list[Any]) -> Step:
    value = node.meta.get("val")
    shape = None
    if isinstance(value, Tensor):
        known = [_nominal(size, symbols) for size in value.shape]
        shape = tuple(known) if all(size >= 0 for size in known) else None
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = stack[-1] if stack and not stack[-1].startswith("_empty") else ""
    args = tuple(_plain(argument) for argument in node.args)
    kwargs = {key: _plain(argument) for key, argument in node.kwargs.items()}
    return Step(node.name, node.target, args, kwargs, path.split("@")[0], shape)


def _nominal(size: Any, symbols: list[Any]) -> int:
    """A size with the batch as `BATCH`; -1 where it depends on something else."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr.subs(dict.fromkeys(symbols, BATCH))
    return int(expression) if expression.is_Integer else -1


def _plain(argument: Any) -> Any:
    """An argument with `Ref` for nodes and tuples for lists."""
    if isinstance(argument, torch.fx.Node):
        return Ref(argument.name)
    if isinstance(argument, (list, tuple)):
        return [_plain(part) for part in argument]
    if isinstance(argument, slice):
        return slice(_plain(argument.start), _plain(argument.stop), _plain(argument.step))
    if isinstance(argument, dict):
        return {key: _plain(part) for key, part in argument.items()}
    return argument


def refs(argument: Any) -> list[str]:
    """Return the names that an argument reads."""
    if isinstance(argument, Ref):
        return [argument.name]
    if isinstance(argument, (list, tuple)):
        return [name for part in argument for name in refs(part)]
    if isinstance(argument, slice):
        return refs([argument.start, argument.stop, argument.step])
    if isinstance(argument, dict):
        return refs(list(argument.values()))
    return []


def _with_last(steps: list[Step], outputs: tuple[Any, ...]) -> tuple[Step, ...]:
    """Steps that know which values nobody reads after them."""
    own = {step.name for step in steps}
    seen = set(refs(list(outputs)))
    done = []
    for step in reversed(steps):
        read = set(refs([list(step.args), dict(step.kwargs)]))
        over = tuple(sorted(name for name in read - seen if name in own))
        seen |= read
        done.append(
            Step(step.name, step.target, step.args, step.kwargs, step.path, step.shape, over)
        )
    return tuple(reversed(done))


def substitute(argument: Any, read: Callable[[str], Any]) -> Any:
    """Return an argument with every `Ref` replaced by its value."""
    if isinstance(argument, Ref):
        return read(argument.name)
    if isinstance(argument, list):
        return [substitute(part, read) for part in argument]
    if isinstance(argument, slice):
        parts = (argument.start, argument.stop, argument.step)
        return slice(*(substitute(part, read) for part in parts))
    if isinstance(argument, dict):
        return {key: substitute(part, read) for key, part in argument.items()}
    return argument


def getitem(step: Step) -> bool:
    """Whether a step takes one of several results."""
    return step.target is operator.getitem
