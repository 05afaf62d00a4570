"""Receptive fields: the k-hop neighbourhood of an output site, walked back along the edges.

    reach(p) = union over edges q --t--> p of reach(q)

Node transforms do not travel; readouts, norms with statistics of the image and attention hear every
node of it.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from convgraph.convert.capture import Step, refs
from convgraph.convert.network import GraphNetwork
from convgraph.convert.value import Spatial
from convgraph.errors import ConversionError, GraphError
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph


@final
@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that an output site can hear.

    Attributes:
        mask: (H, W) bool, or the lattice's own number of axes.
        pixel: the output site.
    """

    mask: Tensor
    pixel: tuple[int, ...]

    @property
    def box(self) -> tuple[tuple[int, int], ...]:
        """First and last pixel along each axis."""
        found = self.mask.nonzero()
        if not len(found):
            return ()
        low, high = found.min(0).values.tolist(), found.max(0).values.tolist()
        return tuple(zip(low, high, strict=True))

    @property
    def size(self) -> tuple[int, ...]:
        """Extent along each axis (pixels)."""
        return tuple(last - first + 1 for first, last in self.box)

    @property
    def num_pixels(self) -> int:
        """How many pixels can be heard."""
        return int(self.mask.sum())


def receptive_field(net: Any, pixel: tuple[int, ...], graph: PixelGraph | None = None) -> Any:
    """Return the input pixels from which a path of edges leads to an output site.

    Args:
        net: what `to_graph` returned.
        pixel: a position on the lattice of the network's first map, or () for a network whose
            output is a readout.
        graph: of which image size and mask; None takes a full grid of the latest capture's size.

    Returns:
        A ReceptiveField of the first image.

    Raises:
        ConversionError: no converted network, or nothing captured yet and no graph given.
        GraphError: the pixel is no site of the output.

    Example:
        >>> from convgraph.convert.network import to_graph
        >>> net = to_graph(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3)))
        >>> receptive_field(net, (0, 0), PixelGraph.from_image(torch.ones(1, 1, 8, 8))).size
        (5, 5)
    """
    if not isinstance(net, GraphNetwork):
        raise ConversionError(
            f"receptive_field: expected a network that to_graph made, got {type(net).__name__}"
        )
    graph = net.blank() if graph is None else graph
    found = net.captured(graph)
    walk = _Walk(graph)
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with torch.random.fork_rng(), torch.no_grad():
        try:
            outputs = net.interpret(found, [graph], graph.sites, walk.note)
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
    names = refs(list(found.program.outputs))
    maps = [value for value in outputs if isinstance(value, Spatial)]
    values = [value for value in outputs if isinstance(value, (Spatial, Tensor))]
    target = maps[0] if maps else values[0]
    name = next(n for n, v in zip(names, values, strict=False) if v is target)
    wanted = _start(target, tuple(pixel), graph)
    heard = walk.back(name, wanted, found.program)
    cells = torch.zeros(graph.sites.num_cells, dtype=torch.bool, device=graph.device)
    cells[graph.sites.nodes] = heard
    size = graph.sites.size or ()
    return ReceptiveField(cells.view(graph.batch_size, *size)[0].cpu(), tuple(pixel))


def _start(target: Any, pixel: tuple[int, ...], graph: PixelGraph) -> Tensor:
    """(P,) bool: the output site, or every node where the output is a readout."""
    if not isinstance(target, Spatial):
        return torch.ones(1, dtype=torch.bool, device=graph.device)
    size = target.sites.size or ()
    inside = len(pixel) == len(size) and all(0 <= a < n for a, n in zip(pixel, size, strict=True))
    here = (target.sites.pos == torch.tensor(pixel or (-1,) * len(size))).all(1) if inside else None
    if here is None:
        raise GraphError(f"receptive_field: expected a pixel of the lattice {size}, got {pixel}")
    here &= target.sites.batch == 0
    if not bool(here.any()):
        raise GraphError(f"receptive_field: {pixel} is no site of the output, it is masked out")
    return here


class _Walk:
    """Which values each step heard, and along which edges."""

    def __init__(self, graph: PixelGraph) -> None:
        self.graph = graph
        self.how: dict[str, Any] = {}
        self.nodes: dict[str, int] = {}

    def note(self, step: Step, spatial: list[Spatial], moved: Any, out: Any) -> None:
        """Listen to a run."""
        self.how[step.name] = moved
        value = out[0] if isinstance(out, (tuple, list)) and out else out
        self.nodes[step.name] = value.sites.num_nodes if isinstance(value, Spatial) else -1

    def back(self, name: str, wanted: Tensor, program: Any) -> Tensor:
        """(N,) bool: the input nodes that reach the wanted sites."""
        count = self.graph.num_nodes
        reach: dict[str, Tensor] = {name: wanted}
        heard = torch.zeros(count, dtype=torch.bool, device=self.graph.device)
        for step in reversed(program.steps):
            mine = reach.pop(step.name, None)
            if mine is None:
                continue
            for source in refs([list(step.args), dict(step.kwargs)]):
                if source in program.state or source in program.constants:
                    continue
                size = count if source in program.images else self.nodes.get(source)
                before = self._one(self.how.get(step.name, "node"), mine, size)
                reach[source] = _either(reach.get(source), before)
        for image in program.images:
            if image in reach:
                found = reach[image]
                heard |= found if len(found) == count else bool(found.any())
        return heard

    def _one(self, how: Any, mine: Tensor, size: int | None) -> Tensor:
        """The source nodes of one step."""
        if not bool(mine.any()):
            return mine.new_zeros(max(size or 1, 1))
        if size is None or size < 0:  # a step on tensors, or a readout: one for all
            return mine.new_ones(1)
        if isinstance(how, Edges):
            source, target = how.edge_index
            found = mine.new_zeros(how.num_sources)
            here = mine if len(mine) == how.num_targets else mine.expand(how.num_targets)
            found[source[here[target]]] = True
            return found
        if isinstance(how, Tensor):
            found = mine.new_zeros(size)
            picked = how[mine.expand(len(how))] if len(mine) == 1 else how[mine]
            found[picked[picked >= 0]] = True
            return found
        if how == "node" and len(mine) == size:
            return mine
        return mine.new_ones(size)


def _either(first: Tensor | None, other: Tensor) -> Tensor:
    if first is None:
        return other
    if len(first) != len(other):
        return torch.ones_like(first if len(first) > len(other) else other)
    return first | other
