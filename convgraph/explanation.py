"""Explanations: which backends could compute a layer on a graph, at what cost, and which one does.

The figures are the ones that the choice itself reads, see `convgraph.backends.cost`: multiply-adds
and elements moved, and the time predicted from them. Nothing is run unless `measure` asks for it,
and what is measured never enters the choice.
"""

from dataclasses import dataclass, is_dataclass
from math import inf
from statistics import median
from time import perf_counter
from typing import Any, final

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from convgraph import backends
from convgraph.backends.problem import Problem
from convgraph.door import door
from convgraph.errors import ConversionError
from convgraph.graph.pixel_graph import PixelGraph, check_graph


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
        measured: backend -> seconds of one forward, the median of several; empty unless asked for.
        kept: bytes of what has been derived from these edges and is kept with them.
    """

    layer: str
    edges: str
    backend: str
    reason: str
    options: tuple[backends.Option, ...]
    measured: dict[str, float]
    kept: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table, one row a backend."""
        table = Table(
            title=f"{self.layer}\n{self.edges}",
            title_justify="left",
            caption=(
                "predicted: a constant of each call, and the work; a full image whose kernel has "
                f"all taps runs dense whatever is predicted\nkept with the edges: {_si(self.kept)}B"
            ),
            caption_justify="left",
        )
        numbers = (*_NUMBERS, "measured") if self.measured else _NUMBERS
        for name in ("backend", "runs", *numbers, "why"):
            table.add_column(name, justify="right" if name in numbers else "left")
        for option in self.options:
            runs = option.name == self.backend
            why = self.reason if runs else (option.refusal or "")
            cells = [""] * len(numbers)
            if option.refusal is None:
                cells[:3] = _si(option.macs), _si(option.moved), _seconds(option.cost / 1e9)
                if option.name in self.measured:
                    cells[3] = _seconds(self.measured[option.name])
            table.add_row(option.name, "yes" if runs else "", *cells, why)
        yield table

    def __str__(self) -> str:
        """Render as plain text of at most 100 columns."""
        console = Console(width=100, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


_NUMBERS = ("multiply-adds", "moved", "predicted")

REPEATS = 7
"""Turns of each backend when it is measured; the first one, which builds what is kept, is extra."""


@door
def explain(
    layer: torch.nn.Module, graph: PixelGraph, sites: Any = None, *, measure: bool = False
) -> Explanation:
    """Say which backend computes a layer on a graph, what each would cost, and why.

    Args:
        layer: a graph layer that sends messages (a convolution, a pool, a resize).
        graph: the graph it would be called on.
        sites: names the output sites; see `convgraph.connect`.
        measure: also time one forward of each backend that serves, without gradients.

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
    check_graph(graph, "explain")
    problem: Problem = ask(graph, sites)
    own = getattr(layer, "backend", None)
    chosen = backends.choose(problem, own)
    found = tuple(backends.options(problem))
    names = [option.name for option in found if option.refusal is None]
    measured = _measured(layer, graph, sites, names) if measure else {}
    return Explanation(
        layer=repr(layer),
        edges=repr(problem.edges),
        backend=chosen,
        reason=_reason(
            chosen,
            found,
            forced=backends.forced(own) is not None,
            self_loops=problem.edges.is_self_loops,
        ),
        options=found,
        measured=measured,
        kept=_bytes_kept(problem.edges),
    )


def _measured(layer: Any, graph: PixelGraph, sites: Any, names: list[str]) -> dict[str, float]:
    """Backend -> median seconds of one forward; the backends take turns."""
    times: dict[str, list[float]] = {name: [] for name in names}
    named = {} if sites is None else {"sites": sites}
    own, layer.backend = layer.backend, None
    try:
        with torch.no_grad():
            for turn in range(REPEATS + 1):
                for name in names:
                    with backends.backend(name):
                        start = perf_counter()
                        layer(graph, **named)
                        if graph.x.device.type == "cuda":
                            torch.cuda.synchronize(graph.x.device)
                        if turn:
                            times[name].append(perf_counter() - start)
    finally:
        layer.backend = own
    return {name: median(seconds) for name, seconds in times.items()}


def _bytes_kept(edges: Any) -> int:
    """Bytes of the tensors that have been derived from edges, each storage once."""
    seen: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, (tuple, list)):
            for part in value:
                visit(part)
        elif is_dataclass(value) and not isinstance(value, type):
            for name in value.__dataclass_fields__:
                visit(getattr(value, name))

    for value in list(getattr(edges, "_memo", {}).values()):
        visit(value)
    return sum(seen.values())


def _reason(
    chosen: str, found: tuple[backends.Option, ...], *, forced: bool, self_loops: bool
) -> str:
    if forced:
        return "forced by the layer or by `with cg.backend(...)`"
    if chosen == "dense":
        return "a full grid is an image: torch's own kernel, no edge is built"
    if chosen == "gather" and self_loops:
        return "self-loops: one product over the rows as they lie"
    serving = [option.name for option in found if option.refusal is None]
    if chosen == "messages" and serving == ["messages"]:
        return "the only one that serves"
    return "least predicted time among those that serve"


def _seconds(seconds: float) -> str:
    if seconds == inf:
        return "by name only"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us"


def _si(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}P"
