"""The summary of a network on a graph: who sends how many messages to whom, and at what price.

Figures are those of the run itself: nodes and edges of this mask, multiply-adds of the chosen
backend's sum.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.convert.capture import Ref, Step
from convgraph.convert.network import GraphNetwork
from convgraph.convert.value import Spatial
from convgraph.errors import ConversionError, GraphError
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph

_OPS = {"conv": "conv", "max_": "pool", "avg_": "pool", "adap": "pool", "upsa": "resize"}
"""Kind of backend problem, by the start of an operator's name."""


@final
@dataclass(frozen=True)
class Row:
    """One operator that sends messages, or that has parameters.

    Attributes:
        layer: module path and operator.
        nodes: sites that receive.
        edges: messages, None where none are sent between sites.
        edge_types: taps, None likewise.
        parameters: numbers in the operator's parameters.
        flops: floating-point operations, two a multiply-add.
        backend: which one computes it, "" where there is no choice.
    """

    layer: str
    nodes: int
    edges: int | None
    edge_types: int | None
    parameters: int
    flops: int
    backend: str


@final
@dataclass(frozen=True)
class Summary:
    """What `summary` found.

    Attributes:
        network: name of the network's class.
        graph: the graph, as it prints itself.
        rows: in the order of the run.
        parameters: of the whole network, each counted once.
    """

    network: str
    graph: str
    rows: tuple[Row, ...]
    parameters: int

    @property
    def edges(self) -> int:
        """Messages in all."""
        return sum(row.edges or 0 for row in self.rows)

    @property
    def flops(self) -> int:
        """Floating-point operations in all."""
        return sum(row.flops for row in self.rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table, one row an operator."""
        table = Table(title=f"{self.network}\n{self.graph}", title_justify="left", show_footer=True)
        foot = ("in all", "", f"{self.edges:,}", "", f"{self.parameters:,}", f"{self.flops:,}", "")
        names = ("layer", "nodes", "edges", "edge types", "parameters", "FLOPs", "backend")
        for name, last in zip(names, foot, strict=True):
            right = name not in ("layer", "backend")
            table.add_column(name, last, justify="right" if right else "left")
        for row in self.rows:
            numbers = (row.nodes, row.edges, row.edge_types, row.parameters, row.flops)
            table.add_row(row.layer, *("" if n is None else f"{n:,}" for n in numbers), row.backend)
        yield table

    def __str__(self) -> str:
        """Render as plain text of at most 120 columns."""
        console = Console(width=120, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def summary(net: Any, graph: PixelGraph, *others: Any) -> Summary:
    """Say what each layer of a converted network does on a graph.

    Args:
        net: what `to_graph` returned.
        graph: an input.
        others: further inputs of the network.

    Returns:
        A Summary; print it, or read its rows. The network's state is left as it was.

    Raises:
        ConversionError: no converted network.
        GraphError: no PixelGraph.

    Example:
        >>> from convgraph.convert.network import to_graph
        >>> net = to_graph(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1)))
        >>> found = summary(net, PixelGraph.from_image(torch.ones(1, 1, 4, 4)))
        >>> found.rows[0].edges, found.rows[0].edge_types, found.parameters
        (100, 9, 20)
    """
    check(net, graph, "summary")
    rows: list[Row] = []

    def listen(step: Step, spatial: list[Spatial], moved: Any, out: Any) -> None:
        made = _row(net, found.program.state, step, spatial, moved, out)
        if made is not None:
            rows.append(made)

    found = net.captured(graph, *others)
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with torch.random.fork_rng(), torch.no_grad():
        try:
            net.interpret(found, [graph, *others], graph.sites, listen)
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Summary(type(net).__name__, repr(graph), tuple(rows), parameters)


def check(net: Any, graph: Any, who: str) -> None:
    """Refuse what is no converted network, or no graph."""
    if not isinstance(net, GraphNetwork):
        raise ConversionError(
            f"{who}: expected a network that to_graph made, got {type(net).__name__}"
        )
    if not isinstance(graph, PixelGraph):
        raise GraphError(
            f"{who}: expected a PixelGraph, got {type(graph).__name__}; "
            "wrap an image with PixelGraph.from_image(image)"
        )


def _row(
    net: torch.nn.Module, state: Any, step: Step, spatial: list[Spatial], moved: Any, out: Any
) -> Row | None:
    names = [one.name for one in (*step.args, *step.kwargs.values()) if isinstance(one, Ref)]
    own = [
        net.get_parameter(state[n]) for n in names if n in state and _is_parameter(net, state[n])
    ]
    parameters = sum(one.numel() for one in own)
    if not isinstance(moved, Edges) and not parameters:
        return None
    value = out[0] if isinstance(out, (tuple, list)) else out
    nodes = value.sites.num_nodes if isinstance(value, Spatial) else len(value)
    layer = f"{step.path or 'itself'}: {step.operator}"
    channels = value.x[0].numel() if isinstance(value, Spatial) and nodes else 0
    if not isinstance(moved, Edges):
        weight = own[0]
        flops = 2 * nodes * weight.numel() if weight.dim() > 1 else 2 * nodes * channels
        return Row(layer, nodes, None, None, parameters, flops, "")
    inside = spatial[0].x[0].numel() if len(spatial[0].x) else 0
    per_edge = own[0].numel() // moved.num_taps if own else inside
    kind = next(kind for start, kind in _OPS.items() if step.operator.startswith(start))
    groups = max(channels * inside // per_edge, 1) if own and per_edge else max(inside, 1)
    problem = Problem(
        kind, moved, inside, channels or inside, groups, spatial[0].x.dtype, spatial[0].x.device
    )
    flops = 2 * moved.num_edges * per_edge
    return Row(
        layer, nodes, moved.num_edges, moved.num_taps, parameters, flops, backends.choose(problem)
    )


def _is_parameter(net: torch.nn.Module, path: str) -> bool:
    owner, _, leaf = path.rpartition(".")
    return isinstance(getattr(net.get_submodule(owner), leaf, None), Tensor) and (
        leaf in net.get_submodule(owner)._parameters
    )
