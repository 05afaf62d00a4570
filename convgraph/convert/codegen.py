"""The full grid: a program becomes Python that runs torch's operators on channels-last views.

    def forward(net, device, x):
        conv2d = on_image(net.conv1, x, operator, ...)
        relu_ = operator(conv2d)
        return [relu_]

Parameters are read from the live modules, so `.to()`, training and new weights need no new capture.
"""

from collections.abc import Callable
from keyword import iskeyword
from math import inf, nan
from typing import Any

import torch

from convgraph.convert.capture import Program, Ref, Step, getitem
from convgraph.convert.owners import on_image, owner

Forward = Callable[..., list[Any]]

_AS_RESHAPE = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def generate(program: Program, net: torch.nn.Module) -> tuple[Forward, str]:
    """Return the function and its source.

    Args:
        program: of the network.
        net: to see which steps a graph layer answers for.

    Returns:
        forward(net, device, *inputs) -> flat outputs.
    """
    writer = _Writer(program)
    inputs = [name or f"unused_{k}" for k, name in enumerate(program.inputs)]
    lines = [f"def forward(_net, _device, {', '.join(inputs)}):"]
    for step in program.steps:
        lines.append(f"    {step.name} = {writer.call(step, net)}")
        if step.last_of:
            lines.append(f"    del {', '.join(step.last_of)}")
    returned = ", ".join(writer.text(value) for value in program.outputs)
    lines.append(f"    return [{returned}]")
    source = "\n".join(lines)
    scope = dict(writer.scope)
    exec(compile(source, "<convgraph full grid>", "exec"), scope)
    made: Forward = scope["forward"]
    return made, source


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.scope: dict[str, Any] = {"on_image": on_image, "inf": inf, "nan": nan}
        self.named: dict[int, str] = {}

    def call(self, step: Step, net: torch.nn.Module) -> str:
        """The right-hand side of a step."""
        if getitem(step):
            return f"{self.text(step.args[0])}[{self.text(step.args[1])}]"
        layer = owner(net, step, self.program)
        target: Any = torch.ops.aten.reshape.default if step.target in _AS_RESHAPE else step.target
        args = [self.text(argument) for argument in step.args]
        if layer is not None:
            rest = [*args[3:], *(f"{k}={self.text(v)}" for k, v in step.kwargs.items())]
            return (
                f"on_image({_module(step.path)}, {', '.join([args[0], self.keep(target), *rest])})"
            )
        args += [f"{key}={self.text(value)}" for key, value in step.kwargs.items()]
        return f"{self.keep(target)}({', '.join(args)})"

    def text(self, value: Any) -> str:
        """An argument as source."""
        if isinstance(value, Ref):
            return self.read(value.name)
        if isinstance(value, list):
            return f"[{', '.join(self.text(part) for part in value)}]"
        if isinstance(value, slice):
            return (
                f"slice({', '.join(self.text(p) for p in (value.start, value.stop, value.step))})"
            )
        if isinstance(value, dict):
            return f"{{{', '.join(f'{k!r}: {self.text(v)}' for k, v in value.items())}}}"
        if isinstance(value, torch.device) and value == self.program.device:
            return "_device"
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        return self.keep(value)

    def read(self, name: str) -> str:
        """A value by name: local, or of the live module, or a constant of the capture."""
        state = self.program.state.get(name)
        if state is not None:
            path, _, leaf = state.rpartition(".")
            return f"{_module(path)}{_attribute(leaf)}"
        if name in self.program.constants:
            constant = self.program.constants[name]
            kept = self.keep(constant)
            return f"{kept}.to(_device)" if isinstance(constant, torch.Tensor) else kept
        return name

    def keep(self, value: Any) -> str:
        """A name for an object of the scope."""
        if id(value) not in self.named:
            self.named[id(value)] = f"_c{len(self.named)}"
            self.scope[self.named[id(value)]] = value
        return self.named[id(value)]


def _module(path: str) -> str:
    """The live module at a path, as source."""
    text = "_net"
    for part in path.split(".") if path else ():
        text += f".{part}" if _is_word(part) else f"._modules[{part!r}]"
    return text


def _attribute(leaf: str) -> str:
    """The end of an expression that reads a parameter or buffer of that name."""
    return f".{leaf}" if _is_word(leaf) else f".__getattr__({leaf!r})"


def _is_word(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)
