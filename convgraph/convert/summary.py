"""The summary of a network on a graph: who sends how many messages to whom, and at what price.

Figures are those of the run itself: nodes and edges of this mask, multiply-adds of the chosen
backend's sum.
"""

from dataclasses import dataclass
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.convert.network import check_converted
from convgraph.convert.recording import OperatorRun
from convgraph.convert.report import plain_text
from convgraph.door import door
from convgraph.errors import GraphError
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph

_OPS = {
    "conv": "conv", "max_": "pool", "avg_": "pool", "adap": "pool", "upsa": "resize",
    "_ups": "resize",
}  # fmt: skip
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
        return plain_text(self, 120)


@door
def summary(net: Any, graph: PixelGraph, *others: Any, **named: Any) -> Summary:
    """Say what each layer of a converted network does on a graph.

    Args:
        net: what `to_graph` returned.
        graph: an input.
        others: further inputs of the network.
        named: those by keyword.

    Returns:
        A Summary; print it, or read its rows. The network's state is left as it was.

    Raises:
        ConversionError: no converted network.
        GraphError: no PixelGraph.

    Example:
        >>> import torch
        >>> from convgraph.convert.network import to_graph
        >>> net = to_graph(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1)))
        >>> found = summary(net, PixelGraph.from_image(torch.ones(1, 1, 4, 4)))
        >>> found.rows[0].edges, found.rows[0].edge_types, found.parameters
        (100, 9, 20)
    """
    check_converted(net, "summary")
    if not isinstance(graph, PixelGraph):
        raise GraphError(
            f"summary: expected a PixelGraph, got {type(graph).__name__}; "
            "wrap an image with PixelGraph.from_image(image)"
        )
    recorded = net.recorded(graph, *others, named=named)
    paths = {
        parameter.untyped_storage().data_ptr(): parameter.numel()
        for parameter in recorded.network.parameters()
    }
    rows = [row for step in recorded.steps if (row := _row(step, paths)) is not None]
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Summary(type(net).__name__, repr(graph), tuple(rows), parameters)


def _row(step: OperatorRun, parameters: dict[int, int]) -> Row | None:
    """One operator, if it sends messages, multiplies, or has parameters."""
    own = [
        one.numel() for one in step.tensors
        if one.untyped_storage().data_ptr() in parameters and one.numel()
    ]  # fmt: skip
    edges = step.moved if isinstance(step.moved, Edges) else None
    if edges is None and not step.flops and not (own and step.family):
        return None
    value = step.out
    on_nodes = not isinstance(value, Tensor)  # a map, a sequence of tokens, or their scores
    nodes = value.sites.num_nodes if on_nodes else (len(value) if value.dim() else 1)
    layer = f"{step.path or 'itself'}: {step.operator}"
    if edges is None:
        entries = value.x.numel() if on_nodes else value.numel()
        flops = step.flops or 2 * entries
        return Row(layer, nodes, None, None, sum(own), flops, "")
    source = step.inputs[0]
    inside = source.x[0].numel() if len(source.x) else 0
    channels = value.x[0].numel() if on_nodes and nodes else (value[0].numel() if nodes else 0)
    weight = next((one for one in step.tensors if one.dim() > 1), None)
    kind = next((kind for start, kind in _OPS.items() if step.operator.startswith(start)), None)
    per_edge = weight.numel() // edges.num_taps if kind == "conv" and weight is not None else inside
    moves = kind is None  # a rearrangement multiplies nothing
    flops = 0 if moves else 2 * edges.num_edges * per_edge
    backend = ""
    if not moves:
        x, mixed = source.x, kind == "conv" and per_edge
        groups = max(channels * inside // per_edge if mixed else inside, 1)
        backend = backends.choose(
            Problem(str(kind), edges, inside, channels or inside, groups, x.dtype, x.device)
        )
    return Row(layer, nodes, edges.num_edges, edges.num_taps, sum(own), flops, backend)
