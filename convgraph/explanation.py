"""Explanations: which backends could compute a layer on a graph, at what cost, and which one does.

The figures are the ones that the choice itself reads, see `convgraph.backends`: multiply-adds and
elements moved, predicted from static facts. Nothing is run. May import backends, graph and errors.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.errors import ConversionError
from convgraph.graph import PixelGraph


@final
@dataclass(frozen=True)
class Explanation:
    """What `explain` found for one layer on one graph.

    Attributes:
        layer: the layer, as it prints itself.
        edges: its edges on the graph, as they print themselves.
        backend: the name of the backend that runs.
        reason: why that one.
        options: every backend with its predicted cost, or why it cannot serve.
    """

    layer: str
    edges: str
    backend: str
    reason: str
    options: tuple[backends.Option, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table, one row a backend."""
        table = Table(title=f"{self.layer}\n{self.edges}", title_justify="left")
        for name in ("backend", "runs", "multiply-adds", "elements moved", "why"):
            table.add_column(name, justify="right" if name in _NUMBERS else "left")
        for option in self.options:
            runs = option.name == self.backend
            why = self.reason if runs else (option.refusal or "")
            numbers = ("", "") if option.refusal else (_si(option.macs), _si(option.moved))
            table.add_row(option.name, "yes" if runs else "", *numbers, why)
        yield table

    def __str__(self) -> str:
        """Render as plain text of at most 100 columns."""
        console = Console(width=100, color_system=None, file=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


_NUMBERS = ("multiply-adds", "elements moved")


def explain(layer: torch.nn.Module, graph: PixelGraph, sites: Any = None) -> Explanation:
    """Say which backend computes a layer on a graph, what each would cost, and why.

    Args:
        layer: a graph layer that sends messages (a convolution, a pool, a resize).
        graph: the graph it would be called on.
        sites: names the output sites; see `convgraph.connect`.

    Returns:
        An Explanation; print it, or read its fields.

    Raises:
        ConversionError: the layer sends no messages.
        BackendError: a forced backend cannot serve; the text says why.

    Example:
        >>> import torch, convgraph as cg
        >>> layer = cg.nn.GraphConv2d(3, 16, 3, padding=1)
        >>> found = cg.explain(layer, cg.PixelGraph.from_image(torch.ones(1, 3, 8, 8)))
        >>> found.backend
        'dense'
    """
    ask = getattr(layer, "problem", None)
    if ask is None:
        raise ConversionError(
            f"explain: {type(layer).__name__} chooses no backend; expected a graph layer that "
            "sends messages, such as cg.nn.GraphConv2d (for a network, explain its layers)"
        )
    problem: Problem = ask(graph, sites)
    own = getattr(layer, "backend", None)
    chosen = backends.choose(problem, own)
    found = tuple(backends.options(problem))
    return Explanation(
        layer=repr(layer),
        edges=repr(problem.edges),
        backend=chosen,
        reason=_reason(chosen, found, forced=backends.forced(own) is not None),
        options=found,
    )


def _reason(chosen: str, found: tuple[backends.Option, ...], *, forced: bool) -> str:
    if forced:
        return "forced by the layer or by `with cg.backend(...)`"
    if chosen == "dense":
        return "a full grid is an image: torch's own kernel, no edge is built"
    serving = [option.name for option in found if option.refusal is None]
    if chosen == "messages" and serving == ["messages"]:
        return "the only one that serves"
    return "least multiply-adds + BALANCE * elements moved among those that serve"


def _si(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}P"
