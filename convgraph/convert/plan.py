"""The plan: every rule tried once on fake tensors, before any image is seen.

It finds the operators without a meaning on graphs and the names of the outputs' axes; nothing is
computed and no parameter is touched.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from convgraph.convert import names
from convgraph.convert.capture import Program
from convgraph.convert.report import Conversion
from convgraph.convert.run import Run
from convgraph.convert.value import Spatial, lift
from convgraph.graph.output_sites import network_sites
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites


@dataclass(frozen=True)
class Plan:
    """What the rules say of a program.

    Attributes:
        conversion: the report.
        outputs: the axes and lattice size of each output that is a map, else None.
    """

    conversion: Conversion
    outputs: tuple[tuple[names.Axes, tuple[int, ...]] | None, ...]


def make(
    net: torch.nn.Module,
    program: Program,
    inputs: list[Any],
    size: tuple[int, ...],
    *,
    strict: bool,
) -> Plan:
    """Try every rule.

    Args:
        net: the graph network.
        program: its capture.
        inputs: flat inputs; only shapes and dtypes are read.
        size: of the images.
        strict: raise at the first operator without a rule.

    Raises:
        ConversionError: with strict, an operator has no rule; the text names its module.
    """
    batch = program.batch
    sites = Sites.full(batch, size, device=program.device)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[Any, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        """One stand-in for all parameters of a kind: a plan reads no numbers."""
        kind = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if kind not in made:
            made[kind] = mode.from_tensor(tensor, static_shapes=True)
        return made[kind]

    with mode:
        run = Run(net, program, sites, strict=strict, planning=True, fake=fake)
        values: list[Any] = []
        for name, value in zip(program.inputs, inputs, strict=True):
            if name in program.images:
                rows = torch.empty(
                    sites.num_nodes, value.shape[1], dtype=value.dtype, device=program.device
                )
                values.append(Spatial(rows, sites, names.image_axes(value.shape[1], size)))
            elif isinstance(value, Tensor):
                values.append(_fake_like(value, batch, inputs))
            else:
                values.append(value)
        with torch.no_grad():
            found = run(values)
    outputs = tuple(
        (one.axes, one.sites.size) if isinstance(one, Spatial) and one.sites.size else None
        for one in found
    )
    words = tuple(names.describe(one[0]) if one is not None else "" for one in outputs)
    network = type(net).__mro__[2].__name__ if len(type(net).__mro__) > 2 else type(net).__name__
    return Plan(Conversion(network, size, tuple(run.lines), words), outputs)


def _fake_like(value: Tensor, batch: int, inputs: list[Any]) -> Tensor:
    """An input that is no image, at the batch of the capture."""
    own = next(v.shape[0] for v in inputs if isinstance(v, Tensor) and v.dim() >= 3)
    shape = [batch if value.dim() and value.shape[0] == own else n for n in value.shape[:1]]
    return torch.empty((*shape, *value.shape[1:]), dtype=value.dtype, device=value.device)


def returned(value: Any) -> Any:
    """Return what the caller of a network gets for a value: a PixelGraph for a map."""
    if not isinstance(value, Spatial):
        return value
    if value.is_image():
        return value.graph()
    plain = [number for number, axis in enumerate(value.axes) if axis and names.is_plain(axis)]
    rows = [name for axis in value.axes for name in axis if name.kind != "plain"]
    order = sorted(rows, key=lambda name: (name.axis, -name.stride))
    if len(plain) <= 1 and rows == order and all(name.stride == 1 for name in rows):
        return PixelGraph(value.x.flatten(1), value.sites)
    return value.tensor()


def as_returned(outputs: list[Any], plan: Plan, root: Sites) -> list[Any]:
    """Return the tensors of a full grid as the values that the plan names."""
    done = []
    for value, planned in zip(outputs, plan.outputs, strict=True):
        if planned is None:
            done.append(value)
            continue
        axes, size = planned
        sites = network_sites(root, (size,) * root.batch_size)
        rows = lift(value, axes, sites)
        done.append(returned(Spatial(rows, sites, axes)))
    return done
