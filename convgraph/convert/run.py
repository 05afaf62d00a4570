"""The interpreter: a program's steps on node features, one rule a step.

    full grid    an operator without a rule runs on the image view, and the report says so
    mask         an operator without a rule raises

Values without sites (parameters, gates, readouts, logits) are ordinary tensors, and every operator
means on them what it means in torch.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph.convert import names, owners, registry, rules
from convgraph.convert.capture import Nested, Program, Step, getitem, substitute
from convgraph.convert.names import NoRuleError
from convgraph.convert.report import Line
from convgraph.convert.settle import settled
from convgraph.convert.value import Spatial, from_graph, spread
from convgraph.errors import ConversionError
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites
from convgraph.nn.conv import GraphConvNd

REGISTERED = rules.FAMILIES
"""The families of rules; importing them registers them."""

_MOVING = (
    "conv", "_conv", "max_pool", "avg_pool", "adaptive", "upsample", "pixel", "im2col", "col2im",
    "pad", "constant_pad", "reflection_pad", "replication_pad", "roll", "flip",
)  # fmt: skip
"""Operators that move values between sites, by the start of their names: a tensor (B, C, *size)
that reaches one of them becomes a map on the network's sites first."""


class Run:
    """One run of a program over node features.

    Attributes:
        net: whose parameters are read.
        program: what is run.
        root: the sites at the entrance.
        planning: whether tensors are fake and nothing is computed.
        strict: whether an operator without a rule raises on a full grid too.
        lines: what was done with each step, for reports.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        program: Program,
        root: Sites,
        *,
        strict: bool,
        planning: bool = False,
        fake: Callable[[Tensor], Tensor] | None = None,
        listen: Callable[[Step, list[Any], Any, Any], None] | None = None,
    ) -> None:
        """Keep what the run needs."""
        self.net = net
        self.program = program
        self.root = root
        self.planning = planning
        self.strict = strict
        self.fake = fake
        self.listen = listen
        self.lines: list[Line] = []
        self.moved: Any = None
        self.env: dict[str, Any] = {}
        self._read: dict[str, Any] = {}

    # -- what rules ask ---------------------------------------------------------------------------

    def owner(self, step: Step) -> GraphConvNd | None:
        """Return the graph layer that answers for a step, unless this is only a plan."""
        return None if self.planning else owners.owner(self.net, step, self.program)

    def result(self, graph: PixelGraph) -> Spatial | Tensor:
        """Return a layer's graph as a value: a map of one site is a readout, so a tensor."""
        size = graph.sites.size or ()
        if prod(size) == 1 and graph.sites.space is None:
            return graph.x.view(*graph.x.shape, *(1,) * graph.sites.d)
        return from_graph(graph)

    def travelled(self, how: Any) -> None:
        """Note along which edges (or picked rows) the values of this step came."""
        self.moved = how

    def enclosed(self, inner: Nested, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Run a nested graph, rule by rule; return its values."""
        outer = self.env
        self.env = dict(zip(inner.inputs, operands, strict=True)) | dict(inner.constants)
        try:
            for step in inner.steps:
                self.env[step.name] = self._step(step)
            return tuple(substitute(value, self._value) for value in inner.outputs)
        finally:
            self.env = outer

    # -- running ----------------------------------------------------------------------------------

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run all steps; return the flat outputs as values."""
        for name, value in zip(self.program.inputs, inputs, strict=True):
            if name is not None:
                self.env[name] = value
        for step in self.program.steps:
            self.env[step.name] = self._step(step)
            for name in step.last_of:
                self.env.pop(name, None)
        return [substitute(value, self._value) for value in self.program.outputs]

    def _value(self, name: str) -> Any:
        if name in self.env:
            return self.env[name]
        if name not in self._read:
            if name in self.program.state:
                path, _, leaf = self.program.state[name].rpartition(".")
                found = getattr(self.net.get_submodule(path), leaf)
            else:
                found = self.program.constants[name]
                if isinstance(found, Tensor):
                    found = found.to(self.root.device)
            if self.fake is not None and isinstance(found, Tensor):
                found = self.fake(found)
            self._read[name] = found
        return self._read[name]

    def _step(self, step: Step) -> Any:
        args = [substitute(argument, self._value) for argument in step.args]
        kwargs = {key: substitute(value, self._value) for key, value in step.kwargs.items()}
        if getitem(step):
            return args[0][args[1]]
        args = [self._device(argument) for argument in args]
        kwargs = {key: self._device(value) for key, value in kwargs.items()}
        spatial = _spatials([args, kwargs])
        if not spatial and self._moves(step, args):
            args[0] = spread(args[0], self.root)
            spatial = [args[0]]
        if not spatial:
            return step.target(*args, **kwargs)
        entry = registry.find(step.operator)
        self.moved = None
        try:
            if entry is None:
                raise NoRuleError("it has no rule")
            out = self._meaning(entry, step, args, kwargs)
        except NoRuleError as reason:
            out = self._fallback(step, args, kwargs, reason)
            self.lines.append(Line(step.path, step.operator, None, str(reason)))
            hop = "all"
        else:
            self.lines.append(Line(step.path, step.operator, entry.family, ""))
            hop = entry.hop
        if self.listen is not None:
            moved = self.moved if self.moved is not None else hop
            if moved == "edges":
                moved = "all"
            self.listen(step, spatial, moved, out)
        return out

    def _meaning(self, entry: registry.Entry, step: Step, args: list[Any], kwargs: Any) -> Any:
        """Call a rule; where it needs an image, on lattices that a reshape only spoke of."""
        try:
            return entry.call(self, step, *args, **kwargs)
        except NoRuleError:
            moved = None if step.operator.endswith("_") else settled(args, self.root)
            if moved is None:
                raise
            out = entry.call(self, step, *moved, **kwargs) if _spatials(moved) else (
                step.target(*moved, **kwargs)
            )  # fmt: skip
            self.moved = "all"
            return out

    def _device(self, argument: Any) -> Any:
        """A device of the capture is the device of the run."""
        if isinstance(argument, torch.device) and argument == self.program.device:
            return self.root.device
        return argument

    def _moves(self, step: Step, args: list[Any]) -> bool:
        """Whether a step moves values of a map that came as a tensor."""
        if not step.operator.startswith(_MOVING) or not args or not isinstance(args[0], Tensor):
            return False
        x = args[0]
        d = self.root.d
        if x.dim() != d + 2 or x.shape[0] != self.root.batch_size or not x.is_floating_point():
            return False
        if step.shape is None or step.shape[0] != names.BATCH or len(step.shape) != d + 2:
            return False
        return prod(x.shape[2:]) > 1 or prod(step.shape[2:]) > 1

    def _fallback(
        self, step: Step, args: list[Any], kwargs: dict[str, Any], reason: NoRuleError
    ) -> Any:
        """Run an operator on the image view of a full grid."""
        where = f"in module {step.path!r}" if step.path else "in the network itself"
        if not self.root.is_full:
            raise ConversionError(
                f"{step.operator} {where} has no meaning on "
                f"{self.root.space or 'a mask'}: {reason}; call the network on "
                "images or full grids, or replace the module"
            ) from None
        if self.strict:
            raise ConversionError(
                f"{step.operator} {where} has no rule for graphs: {reason}; with strict=False it "
                "runs on the image view of a full grid"
            ) from None
        dense = [pytree.tree_map(_tensor, argument, is_leaf=_is_spatial) for argument in args]
        more = {k: pytree.tree_map(_tensor, v, is_leaf=_is_spatial) for k, v in kwargs.items()}
        if step.operator in ("view", "_unsafe_view"):
            return dense[0].reshape(dense[1])
        return step.target(*dense, **more)


def _is_spatial(value: Any) -> bool:
    return isinstance(value, Spatial)


def _tensor(value: Any) -> Any:
    return value.tensor() if isinstance(value, Spatial) else value


def _spatials(values: Any) -> list[Spatial]:
    """All spatial values in nested arguments."""
    if isinstance(values, Spatial):
        return [values]
    if isinstance(values, (list, tuple)):
        return [found for part in values for found in _spatials(part)]
    if isinstance(values, dict):
        return _spatials(list(values.values()))
    return []
