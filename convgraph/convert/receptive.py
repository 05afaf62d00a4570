"""Receptive fields: the k-hop neighbourhood of an output site, walked back along the edges.

    reach(p) = union over edges q --t--> p of reach(q)

Node transforms do not travel; readouts, norms with statistics of the image and attention hear every
node of it.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.network import check_converted
from convgraph.convert.recording import OperatorRun, Recording, key
from convgraph.convert.tensor import GraphTensor
from convgraph.convert.value import Spatial
from convgraph.errors import GraphError
from convgraph.graph.edges import Edges
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites


def in_words(self: Any) -> str:
    """How many pixels an output hears and in which box, which tell more than a mask or tables."""
    words = f"{self.num_pixels} pixels, box={self.box}, pixel={self.pixel}, exact={self.exact}"
    return f"{type(self).__name__}({words})"


@final
@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that an output site can hear.

    Attributes:
        mask: (H, W) bool, or the lattice's own number of axes.
        pixel: the output site.
        exact: whether every operator on the way has a rule, and none sends values where other
            values say (an unpool of maxima) or by numbers; otherwise the mask is an upper bound.
    """

    mask: Tensor
    pixel: tuple[int, ...]
    exact: bool = True

    @property
    def box(self) -> tuple[tuple[int, int], ...]:
        """First and last pixel along each axis; () where nothing is heard."""
        places = self.mask.nonzero().T
        return tuple((int(at.min()), int(at.max())) for at in places if len(at))

    @property
    def size(self) -> tuple[int, ...]:
        """Extent along each axis (pixels)."""
        return tuple(last - first + 1 for first, last in self.box)

    @property
    def num_pixels(self) -> int:
        """How many pixels can be heard."""
        return int(self.mask.sum())

    __repr__ = in_words


def receptive_field(
    net: Any,
    pixel: int | tuple[int, ...],
    graph: PixelGraph | None = None,
    *others: Any,
    input: int = 0,
    output: int | None = None,
    **named: Any,
) -> Any:
    """Return the input pixels from which a path of edges leads to an output site.

    Args:
        net: what `to_graph` returned.
        pixel: a position on the lattice of an output, or () for one that is a readout.
        graph: of which image size and mask; None takes a full grid of the latest call's shapes.
        others: further inputs of the network.
        input: of which graph among the inputs the pixels are asked, counted from 0.
        output: which of the flat outputs is meant; None takes the first map, or the first output
            where there is none.
        named: further inputs of the network by keyword.

    Returns:
        A ReceptiveField of the first image.

    Raises:
        ConversionError: no converted network, or nothing was called yet and no graph given.
        GraphError: the pixel is no site of the output, or there is no such input or output.

    Example:
        >>> from convgraph.convert.network import to_graph
        >>> net = to_graph(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3)))
        >>> receptive_field(net, (0, 0), PixelGraph.from_image(torch.ones(1, 1, 8, 8))).size
        (5, 5)
    """
    check_converted(net, "receptive_field")
    recorded = net.recorded() if graph is None else net.recorded(graph, *others, named=named)
    where = (pixel,) if isinstance(pixel, int) else tuple(pixel)
    target = _target(recorded, output)
    if not 0 <= input < len(recorded.inputs):
        raise GraphError(
            f"receptive_field: expected input as one of {len(recorded.inputs)} graphs, got {input}"
        )
    source = recorded.graphs[input]
    wanted = _start(target, where)
    heard, exact = _back(recorded, key(target), wanted, recorded.inputs[input], source)
    cells = torch.zeros(source.sites.num_cells, dtype=torch.bool, device=source.device)
    cells[source.sites.nodes] = heard
    mask = cells.view(source.batch_size, *(source.sites.size or ()))[0].cpu()
    return ReceptiveField(mask, where, exact)


def _target(recorded: Recording, output: int | None) -> Any:
    """The output that is asked about."""
    found = [one for one in recorded.outputs if isinstance(one, Tensor)]
    if output is None:
        maps = [one for one in found if isinstance(one, GraphTensor)]
        if not found:
            raise GraphError("receptive_field: the network returns no tensor")
        return (maps or found)[0]
    if not 0 <= output < len(found):
        raise GraphError(
            f"receptive_field: expected output as one of {len(found)} tensors, got {output}"
        )
    return found[output]


def _start(target: Any, pixel: tuple[int, ...]) -> Tensor:
    """(P,) bool: the output site, or every node where the output is a readout."""
    if not isinstance(target, GraphTensor):
        return torch.ones(1, dtype=torch.bool)
    sites = target.value.sites
    size = sites.size or ()
    inside = len(pixel) == len(size) and all(0 <= a < n for a, n in zip(pixel, size, strict=True))
    if not inside:
        raise GraphError(f"receptive_field: expected a pixel of the lattice {size}, got {pixel}")
    same = sites.pos == torch.tensor(pixel, device=sites.device)
    here: Tensor = same.all(1) & (sites.batch == 0)
    if not bool(here.any()):
        raise GraphError(f"receptive_field: {pixel} is no site of the output, it is masked out")
    return here


def _back(
    recorded: Recording, start: Any, wanted: Tensor, goal: Any, graph: PixelGraph
) -> tuple[Tensor, bool]:
    """(N,) bool: the input nodes that reach the wanted sites, and whether that is exact."""
    reach: dict[Any, Tensor] = {start: wanted}
    exact = True
    for step in reversed(recorded.steps):
        hows = step.moved if isinstance(step.moved, tuple) else (step.moved,)
        each = [step.results] if len(hows) == 1 else [(made,) for made in step.results]
        asked = [reduce(_either, map(reach.get, results), None) for results in each]
        if any(one in reach and bool(reach[one].any()) for one in step.wholes):
            exact, asked = False, [torch.ones(1, dtype=torch.bool)]  # of a part, any may be it
        for made in step.results:
            if made not in step.sources:
                reach.pop(made, None)
        for mine, how in zip(asked, hows, strict=True):
            if mine is not None and bool(mine.any()) and how != "nothing":
                exact &= _step(recorded, reach, step, mine, how)
    found = reach.get(goal, torch.zeros(1, dtype=torch.bool))
    whole = len(found) == graph.num_nodes
    return (found if whole else found.any().expand(graph.num_nodes)), exact


def _step(recorded: Recording, reach: Any, step: OperatorRun, mine: Tensor, how: Any) -> bool:
    """Note what a step has heard for some of its results; whether that is exact."""
    unpooled = step.operator.startswith("max_unpool")
    pooled = _pooled_by(recorded, step) if unpooled else None
    if pooled is not None:  # a maximum that stands where it was is that pixel itself
        reach[pooled] = _either(reach.get(pooled), mine)
        return True
    values, exact = iter(step.inputs), step.family is not None and not unpooled
    for source in step.sources:
        value = None if isinstance(source, tuple) else next(values)
        found = _heard(step, mine, value, how)
        if found is None:  # everybody, if anybody
            assert value is not None
            found = mine.any().expand(value.sites.num_nodes).clone()
            exact = exact and how == "all" and _hears_everybody(step, value)
        reach[source] = _either(reach.get(source), found)
    return exact


def _pooled_by(recorded: Recording, step: OperatorRun) -> Any:
    """The map whose maxima an unpool puts back unchanged, onto the sites of that map; or None.

    Where others changed the maxima on the way, what a pixel hears is known by a bound only.
    """
    for one in recorded.steps:
        if len(one.results) > 1 and step.sources[:2] == one.results[:2]:
            same = one.inputs[0].sites is getattr(step.out, "sites", None)
            return one.sources[0] if same else None
    return None


_BY_NUMBER = ("positions", "channels", "moves")
"""Families that pick or write some nodes, by numbers that are not noted where "all" is."""


def _hears_everybody(step: OperatorRun, value: Spatial) -> bool:
    """Whether each result is known to hear all nodes, and not its row, window or past alone."""
    if step.family in _BY_NUMBER or "cum" in step.operator:
        return False
    whole = step.family == "norms" and "layer" not in step.operator
    along = [axis for axis in value.axes if "site" in names.kinds(axis)]
    return isinstance(step.out, Tensor) or whole or len(along) <= 1


def _heard(step: OperatorRun, mine: Tensor, value: Spatial | None, how: Any) -> Tensor | None:
    """The nodes of one source that some of a step's results have heard; None where not known."""
    if value is None:  # a tensor: one for all
        return mine.any().view(1)
    if isinstance(how, Edges) and how.source is value.sites:
        source, target = how.edge_index
        found = mine.new_zeros(how.num_sources)
        found[source[mine.expand(how.num_targets)[target]]] = True
        return found
    if isinstance(how, Tensor):
        found = mine.new_zeros(value.sites.num_nodes)
        picked = how[mine.expand(len(how))]
        found[picked[picked >= 0]] = True
        return found
    if isinstance(how, str) and how == "node":
        return _same_place(step, mine, value)
    return None


def _same_place(step: OperatorRun, mine: Tensor, value: Spatial) -> Tensor | None:
    """The nodes of a value where the result's are: itself, or where its axes are shorter."""
    sites: Any = value.sites
    out: Any = step.out.sites if isinstance(step.out, Spatial) else None
    if out is sites and len(mine) == sites.num_nodes:
        return mine
    lattices = isinstance(out, Sites) and isinstance(sites, Sites)
    if not lattices or len(mine) != out.num_nodes or len(out.size or ()) != len(sites.size or ()):
        return None
    cell = out.batch[mine]
    for axis, (old, new) in enumerate(zip(sites.size or (), out.size or (), strict=True)):
        place = out.pos[mine][:, axis]
        cell = cell * old + (place if old == new else place * 0)
    node = sites.node_at(cell)
    found = mine.new_zeros(sites.num_nodes)
    found[node[node >= 0]] = True
    return found


def _either(first: Tensor | None, other: Tensor | None) -> Tensor | None:
    if first is None or other is None:
        return other if first is None else first
    shorter, longer = sorted((first, other), key=len)
    return longer | (shorter if len(shorter) == len(longer) else shorter.any())
