"""A recording: what a network did in one run, operator by operator.

    who called (a module's path), what (an operator and its rule), on which maps, along which edges

It is read for the report, `summary` and `receptive_field`. The run is one of a copy, in evaluation
or training as the network is, without gradients.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from convgraph.convert import copies, frames, keys, names
from convgraph.convert.operators import _STATE, Operator, operator
from convgraph.convert.report import Conversion, Line
from convgraph.convert.tensor import GraphTensor, from_pixels, leaves, settled_map
from convgraph.convert.value import Spatial
from convgraph.convert.views import contents
from convgraph.errors import ConversionError
from convgraph.graph.pixel_graph import PixelGraph


@dataclass
class OperatorRun:
    """One operator of a run.

    Attributes:
        path: of the module that called it, "" for the network itself.
        operator: its name.
        family: of its rule, "" for torch's own on ordinary tensors, None where it has no rule.
        reason: why it has none.
        moved: how values came: Edges, (P,) numbers of nodes, "node", "all" or "nothing"; a tuple
            of such, one a result, where they differ.
        sources: what it read, by `key`.
        results: what it made, likewise.
        wholes: whose part it has written into, likewise.
        inputs: the maps that it read.
        out: the first map that it made, or the tensor.
        tensors: the ordinary tensors that it read.
        flops: floating-point operations, as torch counts those of what ran.
    """

    path: str
    operator: str
    family: str | None
    reason: str = ""
    moved: Any = "node"
    sources: tuple[Any, ...] = ()
    results: tuple[Any, ...] = ()
    wholes: tuple[Any, ...] = ()
    inputs: tuple[Spatial, ...] = ()
    out: Any = None
    tensors: tuple[Tensor, ...] = ()
    flops: int = 0


@dataclass
class Recording:
    """A run.

    Attributes:
        size: of the first image (pixels).
        steps: in order.
        inputs: keys of the graphs that went in.
        outputs: the flat outputs.
        graphs: what went in.
        network: the copy that ran.
        kept: what keeps names from being given twice.
    """

    size: tuple[int, ...]
    steps: list[OperatorRun] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    graphs: list[PixelGraph] = field(default_factory=list)
    network: Any = None
    kept: list[Any] = field(default_factory=list)

    def report(self, network: str) -> Conversion:
        """Return what was done with each operator on maps."""
        lines = tuple(
            Line(step.path, step.operator, step.family, step.reason)
            for step in self.steps
            if step.family != ""
        )
        outputs = tuple(
            names.describe(one.value.axes) if isinstance(one, GraphTensor) else ""
            for one in self.outputs
        )
        return Conversion(network, self.size, lines, outputs)


def key(tensor: Any) -> Any:
    """Return what tells a value of a run from others: a map itself, a plain tensor's memory."""
    if isinstance(tensor, GraphTensor):
        return id(tensor)
    return ("memory", tensor.untyped_storage().data_ptr())


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(q.shape, k.shape, v.shape)
    return count


_COUNTS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Formulas that torch's own table lacks."""


class Listener(keys.Mode):  # type: ignore[misc]
    """Listens to every operator, on maps and on ordinary tensors."""

    def __init__(self, recording: Recording, *, strict: bool = False) -> None:
        """Write into a recording."""
        super().__init__()
        self.recording = recording
        self.strict = strict
        self.moved: Any = None
        self.depth = 0
        self.flops = 0

    def begin(self, call: Operator) -> None:
        """An operator on maps begins."""
        self.depth += 1
        self.moved = None
        self.flops = 0

    def dropped(self) -> None:
        """It is taken apart instead; its parts will be heard."""
        self.depth -= 1

    def end(self, call: Operator, args: Any, kwargs: Any, made: Any, reason: Any) -> None:
        """It has ended."""
        self.depth -= 1
        moved = self.moved if self.moved is not None else getattr(call.rule, "hop", "all")
        if reason is not None or moved == "edges":
            moved = "all"
        family = None if reason is not None else call.rule.family
        self._note(call.name, family, str(reason or ""), moved, (args, kwargs or {}), made)
        self.flops = 0

    def again(self, call: Operator, args: Any, kwargs: Any, view: Any, number: int) -> None:
        """A view is read anew, after a write into whose view it is; one from before is of all."""
        made = (step.moved for step in self.recording.steps if key(view) in step.results)
        first = next(made, "all")
        moved = first[number] if isinstance(first, tuple) else first
        self._note(call.name, call.rule.family, "", moved, (args, kwargs or {}), view)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operator on ordinary tensors, or within a rule."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket) or _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=out))
        if not self.depth:
            self._note(operator(func).name, "", "", "all", (args, kwargs or {}), out)
            self.flops = 0
        return out

    def _note(
        self, name: str, family: str | None, reason: str, moved: Any, given: Any, made: Any
    ) -> None:
        read = [one for one in pytree.tree_leaves(given) if isinstance(one, Tensor)]
        wrote = [one for one in pytree.tree_leaves(made) if isinstance(one, Tensor)]
        self.recording.kept += [read, wrote]  # no name is given twice
        values = tuple(one.value for one in read if isinstance(one, GraphTensor))
        out = wrote[0] if wrote else None
        wholes, view = [], out if any(out is one for one in read) else None
        while getattr(view, "base", None) is not None:
            view = view.base[0][0]  # type: ignore[union-attr]
            wholes.append(key(view))
        self.recording.steps.append(
            OperatorRun(
                frames.path() or "", name, family, reason, moved,
                tuple(map(key, read)), tuple(map(key, wrote)), tuple(wholes), values,
                out.value if isinstance(out, GraphTensor) else out,
                tuple(one for one in read if not isinstance(one, GraphTensor)), self.flops,
            )
        )  # fmt: skip


def record(net: Any, args: Any, kwargs: Any, *, strict: bool = False) -> Recording:
    """Record a run of a copy of a network.

    Args:
        net: a converted network, or any other.
        args: its inputs; images become graphs.
        kwargs: likewise.
        strict: raise where an operator has no rule.
    """
    flat, spec = leaves((args, kwargs))
    graphs = [one for one in flat if isinstance(one, PixelGraph)]
    given = [from_pixels(one) if isinstance(one, PixelGraph) else one for one in flat]
    found = Recording(graphs[0].sites.size or () if graphs else (), graphs=graphs)
    pairs = zip(flat, given, strict=True)
    found.inputs = [key(tensor) for one, tensor in pairs if isinstance(one, PixelGraph)]
    a, k = pytree.tree_unflatten(given, spec)
    run = copies.copied(net)
    listener = Listener(found, strict=strict)
    outer = _STATE.listener
    _STATE.listener = listener
    try:
        with torch.random.fork_rng(), torch.no_grad(), listener:
            out = run(*a, **k)
            contents(pytree.tree_leaves(out))
    finally:
        _STATE.listener = outer
    found.outputs = pytree.tree_map(_settled, pytree.tree_leaves(out))
    found.network = run
    found.kept += [given, out]
    return found


def _settled(one: Any) -> Any:
    if isinstance(one, GraphTensor):
        one.value = settled_map(one).value
    return one


class Example:
    """The shapes of what a network was called with, as blanks for a recording."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        """Keep shapes and dtypes, no numbers."""
        flat, self.spec = leaves((args, kwargs))
        self.leaves = [_blank(one) for one in flat]

    def check(self, who: str) -> None:
        """Refuse inputs among which there is no image.

        Raises:
            ConversionError: the text says what came.
        """
        if not any(_is_image(one) for one in self.leaves):
            got = [f"{tuple(one.shape)} of {one.dtype}" if isinstance(one, Tensor) else str(one)
                   for one in self.leaves]  # fmt: skip
            raise ConversionError(
                f"{who}: expected an image (B, C, *size) of a floating dtype among the example "
                f"inputs, got {got}"
            )

    def blank(self) -> Any:
        """Return inputs of these shapes: an image as a graph of zeros."""
        size = next((one.shape[2:] for one in self.leaves if _is_image(one)), ())
        made = [torch.zeros_like(one) if isinstance(one, Tensor) else one for one in self.leaves]
        made = [
            PixelGraph.from_image(one, d=len(size))
            if _is_image(one) and one.shape[2:] == size
            else one
            for one in made
        ]
        return pytree.tree_unflatten(made, self.spec)


def _blank(one: Any) -> Any:
    """A tensor of one number that has the shape of an image, or of a tensor."""
    x = one.x if isinstance(one, PixelGraph) else one
    if not isinstance(x, Tensor):
        return one
    graph = isinstance(one, PixelGraph)
    shape = (one.batch_size, one.num_channels, *(one.sites.size or ())) if graph else x.shape
    return torch.empty((), dtype=x.dtype, device=x.device).expand(shape)


def _is_image(one: Any) -> bool:
    return isinstance(one, Tensor) and 3 <= one.dim() <= 5 and one.is_floating_point()
