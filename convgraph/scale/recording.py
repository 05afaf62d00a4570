"""A recording of a dense network: every operator of one run on tensors without numbers.

The run takes place in inference mode, in which torch hands operators over as they were called
(`conv2d`, `pad`, `batch_norm`), and on a copy on `meta`: nothing of the image's size is
made, a slide is free. (`convgraph.convert.recording` hears a converted network on the nodes of a
graph and keeps what people ask about; here operators are kept with all their arguments, to be
called again on parts.)
"""

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from convgraph.errors import ConversionError


@dataclass(frozen=True)
class Ref:
    """A value of the run, by number; 0 is the image."""

    index: int


@dataclass(frozen=True)
class State:
    """A parameter or a buffer, by name."""

    name: str


@dataclass(frozen=True)
class RecordedCall:
    """One operator of the run.

    Attributes:
        path: of the module that called it, "" for the network itself.
        call: the operator.
        args: its arguments by the names of its schema, defaults included; tensors are Ref or State.
        results: numbers of the values that it made.
        writes: why its writing in place has another meaning by parts, or "".
    """

    path: str
    call: Any
    args: dict[str, Any]
    results: tuple[int, ...]
    writes: str = ""

    @cached_property
    def operator(self) -> str:
        """Its name, without the mark of what writes in place."""
        name = self.call._schema.name.partition("::")[2]
        return str(name[:-1] if name.endswith("_") and not name.endswith("__") else name)

    @cached_property  # every tile asks
    def sources(self) -> tuple[int, ...]:
        """Numbers of the values that it reads."""
        return tuple(one.index for one in leaves(self.args) if isinstance(one, Ref))

    @property
    def title(self) -> str:
        """Where it is, for people: 'encoder.norm1' (group_norm)."""
        return f"{self.path or 'the network itself'!r} ({self.operator})"


@dataclass
class Recording:
    """A run: the steps in order, the shape of each value, and which value came out.

    `states` are the shapes of parameters and buffers.
    """

    steps: list[RecordedCall] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    out: int = 0
    states: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def reads(self, value: int) -> bool:
        """Whether somebody reads a value, or it is what comes out."""
        return self.out == value or any(value in step.sources for step in self.steps)


def leaves(tree: Any) -> list[Any]:
    """Return what lies in nested arguments."""
    return pytree.tree_leaves(tree)


def record(net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Recording:
    """Record a run on an image of this shape, of which nothing is allocated.

    Args:
        net: a dense network on images; its state is not touched.
        shape: (B, C, *size).
        dtype: of the image.

    Raises:
        ConversionError: the run needs the numbers of the image, or does not return one tensor.
    """
    state = [
        *net.named_parameters(remove_duplicate=False),
        *net.named_buffers(remove_duplicate=False),
    ]
    blank: dict[int, Any] = {}
    for _, one in state:
        if id(one) not in blank:
            ghost = torch.empty_like(one, device="meta")
            blank[id(one)] = (
                nn.Parameter(ghost, one.requires_grad) if isinstance(one, nn.Parameter) else ghost
            )
    names = {id(blank[id(one)]): name for name, one in reversed(state)}
    run = copy.deepcopy(net, dict(blank))
    path: list[str] = [""]
    for name, module in run.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: path.append(name))
        module.register_forward_hook(lambda *_: _leave(path), always_call=True)
    found = Recording(states={name: tuple(one.shape) for name, one in state})
    with torch.inference_mode():
        image = torch.empty(shape, device="meta", dtype=dtype)
        listener = _Listener(found, names, path, image)
        listener.own = {one.untyped_storage()._cdata for one in blank.values()}
        try:
            with listener:
                out = run(image)
        except ConversionError:
            raise
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            why = "what depends on the values of the image cannot be planned"
            raise ConversionError(
                f"scale: no plan at {path[-1] or 'the network itself'!r}: the network does not run "
                f"on an image of shape {shape} without its numbers ({error}); "
                f"{_misread(net, shape) or why}"
            ) from error
    alone = any(len(shape) - 1 == _axes(step) for step in found.steps if 0 in step.sources)
    if alone and (said := _misread(net, shape)):  # torch took it for one image without a batch
        raise ConversionError(f"scale: {said}")
    if not isinstance(out, Tensor) or id(out) not in listener.index:
        raise ConversionError(
            f"scale: expected the network to return one tensor, got {type(out).__name__}; wrap it "
            "in a module that returns the one that you need"
        )
    found.out = listener.index[id(out)]
    for k, others in listener.written.items():  # nobody hears what was written elsewhere
        heard = {found.out, *(s for step in found.steps[k + 1 :] for s in step.sources)}
        if others.isdisjoint(heard):
            found.steps[k] = replace(found.steps[k], writes="")
    return found


def _axes(step: RecordedCall) -> int:
    """How many axes the lattice of a convolution has; 0 of another operator."""
    names = {f"{name}{d}d": d for name in ("conv", "conv_transpose") for d in (1, 2, 3)}
    return names.get(step.operator, 0)


def _misread(net: nn.Module, shape: tuple[int, ...]) -> str:
    """What the first convolution reads, where the image is another; "" where it is one."""
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            axes, channels = len(module.kernel_size), module.in_channels
            if (channels, axes + 2) == (shape[1], len(shape)):
                return ""
            way = "; of (*size, C) say channels_last=True" if shape[-1] == channels else ""
            return (
                f"{name or 'the network itself'!r} reads images (C, *size) with C = {channels} and "
                f"{axes} axes, got C = {shape[1]} and {len(shape) - 2}{way}"
            )
    return ""


def _leave(path: list[str]) -> None:
    path.pop()


class _Listener(TorchDispatchMode):
    """Writes down every operator that makes a tensor."""

    def __init__(
        self, found: Recording, state: dict[int, str], path: list[str], image: Tensor
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found
        self.state = state
        self.path = path
        self.index: dict[int, int] = {}
        self.kept: list[Tensor] = []  # no name is given twice
        self.shared: dict[int, set[int]] = {}  # memory -> numbers of the values in it
        self.own: set[int] = set()  # memory of parameters and buffers
        self.written: dict[int, set[int]] = {}  # step -> the others in what it writes into
        self.name(image)

    def name(self, tensor: Tensor) -> int:
        """Give a value its number."""
        number = len(self.found.shapes)
        self.index[id(tensor)] = number
        self.kept.append(tensor)
        self.found.shapes.append(tuple(tensor.shape))
        self.found.dtypes.append(tensor.dtype)
        storage = tensor.untyped_storage()._cdata
        self.shared.setdefault(storage, set()).add(number)
        return number

    def known(self, one: Any) -> Any:
        """Return what stands for an argument."""
        if not isinstance(one, Tensor):
            return one
        if id(one) in self.index:
            return Ref(self.index[id(one)])
        return State(self.state[id(one)]) if id(one) in self.state else one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | (kwargs or {})
        full = {
            a.name: given.get(a.name, a.default_value if a.has_default_value() else None)
            for a in schema.arguments
        }
        named = pytree.tree_map(self.known, full)
        writes = ""
        for a in schema.arguments:
            if (
                a.alias_info is not None
                and a.alias_info.is_write
                and isinstance(full[a.name], Tensor)
            ):
                storage = full[a.name].untyped_storage()._cdata  # type: ignore[union-attr]
                others = self.shared.get(storage, set()) - {self.index.get(id(full[a.name]))}
                if storage in self.own and func.namespace == "aten":
                    writes = "writes into a parameter or a buffer"
                elif others:
                    writes = "writes into memory that another value shares"
                    self.written[len(self.found.steps)] = others
        out = func(*args, **(kwargs or {}))
        made = [one for one in pytree.tree_leaves(out) if isinstance(one, Tensor)]
        if made:
            results = tuple(self.name(one) for one in made)
            self.found.steps.append(RecordedCall(self.path[-1], func, named, results, writes))
        return out
