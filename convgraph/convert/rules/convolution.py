"""Convolutions: y[p] = b + sum over edges (q, p, t) of W[:, :, t] x[q]."""

from math import prod
from typing import Any

from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Name, NoRuleError
from convgraph.convert.owners import called
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial
from convgraph.functional import graph_conv
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect
from convgraph.graph.pixel_graph import PixelGraph


def _tuple(value: Any, d: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * d
    return tuple(value) * d if len(value) == 1 else tuple(value)


@rule("conv1d", "conv2d", "conv3d", hop="edges")
def conv(
    run: Any,
    step: Any,
    x: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """The node's own graph layer, or the same sum with parameters by name."""
    d = run.root.d
    if int(step.operator[4]) != d:
        raise NoRuleError(f"a {step.operator} on a lattice of {d} axes")
    pads = padding if isinstance(padding, str) else _tuple(padding, d)
    geometry = KernelGeometry(
        tuple(weight.shape[2:]), _tuple(stride, d), pads, _tuple(dilation, d), d=d
    )
    return _send(run, step, x, weight, bias, geometry, groups)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", hop="edges")
def conv_transpose(
    run: Any,
    step: Any,
    x: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The same edges with the arrows reversed."""
    d = run.root.d
    if int(step.operator[14]) != d:
        raise NoRuleError(f"a {step.operator} on a lattice of {d} axes")
    geometry = KernelGeometry(
        tuple(weight.shape[2:]),
        _tuple(stride, d),
        _tuple(padding, d),
        _tuple(dilation, d),
        transposed=True,
        output_padding=_tuple(output_padding, d),
        d=d,
    )
    return _send(run, step, x, weight, bias, geometry, groups)


def _send(
    run: Any, step: Any, x: Any, weight: Any, bias: Any, geometry: KernelGeometry, groups: int
) -> Any:
    if not isinstance(x, Spatial) or isinstance(weight, Spatial):
        raise NoRuleError("its weight is a map")
    if not x.is_image() and _looks_at_itself(geometry, x):
        run.travelled("node")
        return _mixed(x, weight, bias, groups)
    graph = x.graph()
    if run.planning:  # torch.export has tried the operator; what is asked for is where it arrives
        target = connect(geometry, graph.sites, "network").target
        channels = weight.shape[1] * groups if geometry.transposed else weight.shape[0]
        return run.result(PixelGraph(graph.x.new_empty(target.num_nodes, channels), target))
    layer = run.owner(step)
    if run.listen is not None:
        run.travelled(connect(geometry, graph.sites, "network"))
    if layer is not None:
        return run.result(called(layer, graph))
    if bias is not None and bias.dtype != weight.dtype:
        raise NoRuleError("weight and bias differ in dtype")
    return run.result(
        graph_conv(
            graph, weight, bias, geometry=geometry, groups=groups, sites="network",
            who=step.path or step.operator,
        )
    )  # fmt: skip


def _looks_at_itself(geometry: KernelGeometry, x: Spatial) -> bool:
    """Whether a kernel of one pixel meets channels that are plain, whatever the other axes are."""
    return (
        not geometry.transposed
        and prod(geometry.kernel_size) == prod(geometry.stride) == 1
        and not any(map(any, geometry.padding))
        and names.is_plain(x.axes[1])
    )


def _mixed(x: Spatial, weight: Tensor, bias: Any, groups: int) -> Spatial:
    """Channels of every row mixed: pairs of nodes have channels too, one a head."""
    value = x.merged(1)
    slot = value.slot(1)
    rows = value.x.movedim(slot, -1).unflatten(-1, (groups, -1)).unsqueeze(-1)
    mixed = (weight.view(groups, -1, weight.shape[1]) @ rows).flatten(-3)
    mixed = (mixed if bias is None else mixed + bias).movedim(-1, slot)
    axes = (value.axes[0], (Name("plain", mixed.shape[slot]),), *value.axes[2:])
    return Spatial(mixed, x.sites, axes)
