"""How one side of a proof is called: anything at all as f(x, w, b) -> y on images.

    image    a torch module on images; absent pixels are 0, as padding is
    truth    a torch convolution in a space, or with a footprint, as the judge says
    graph    a graph layer on a PixelGraph, by the rule for output sites
    sites    the same, with the output sites of the record named
    nodes    a layer on nodes and typed edges, as `AsNodes` calls it

A record keeps these names ("convgraph.comparison.callers:image"), so that a verifier can call both
sides again without the prover. Beyond them, `AsNodes` calls a layer on nodes and typed edges, as
PyG does, with parameters of any layout.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.func import functional_call

from convgraph.comparison import spread_out
from convgraph.comparison.refilled import Refilled
from convgraph.errors import ProofError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.proof.equation import spaces
from convgraph.spaces import from_dict

ToParameters = Callable[[Tensor, Tensor | None], dict[str, Tensor]]
"""(w, b) in torch's layout -> the parameters of a layer by name."""

Run = Callable[..., Tensor]
"""f(x, w, b) -> y on images (B, C, *size)."""


def image(
    side: torch.nn.Module,
    spec: Mapping[str, Any],
) -> Run:
    """Call a module on images; what is no pixel is 0 before, what is no output site 0 behind.

    Args:
        side: takes an image (B, C, *size); its parameters are `weight` and `bias`.
        spec: the integers of a record; `source_mask` and `target_mask` are read.

    Example:
        >>> conv = torch.nn.Conv1d(1, 1, 1, bias=False)
        >>> image(conv, {})(torch.ones(1, 1, 2), 3 * torch.ones(1, 1, 1), None).tolist()
        [[[3.0, 3.0]]]
    """
    again = Refilled()

    def run(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        present, wanted = (_mask(spec, end, x) for end in ("source", "target"))
        seen = x if present is None else again.of(x, torch.where(present.unsqueeze(1), x, 0))
        if type(side) is torch.nn.Conv2d and side.groups > 1:  # many times faster in this layout
            seen = seen.contiguous(memory_format=torch.channels_last)
        y: Tensor = called(side, _parameters(side, w, b), (seen,))
        return y if wanted is None else torch.where(wanted.unsqueeze(1), y, 0)

    return run


def truth(side: torch.nn.Module, spec: Mapping[str, Any]) -> Run:
    """Call a dense convolution as its space and footprint mean it, by the judge's own geometry.

    Args:
        side: a torch convolution; its parameters are `weight` and `bias`.
        spec: the integers of a record; masks, footprint and space are read.
    """
    return truth_of(image(side, spec), spec)


def truth_of(plain: Run, spec: Mapping[str, Any]) -> Run:
    """As `truth`, of a dense convolution f(x, w, b) -> y, which serves where taps do not bend."""
    bent = spread_out.convolution(spec) if spread_out.applies(spec) else None
    taps = _footprint(spec.get("footprint"), spec.get("space"), tuple(spec["kernel_size"]))

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        if taps is not None:
            w = torch.where(taps.to(x.device).view(w.shape[2:]), w, 0)
        if bent is None:
            return plain(x, w, b)
        present, wanted = (_mask(spec, end, x) for end in ("source", "target"))
        seen = x if present is None else torch.where(present.unsqueeze(1), x, 0)
        y = bent(seen, w, b)
        return y if wanted is None else torch.where(wanted.unsqueeze(1), y, 0)

    return run


def graph(
    side: torch.nn.Module,
    spec: Mapping[str, Any],
) -> Run:
    """Call a graph layer on the pixel graph of an image.

    Args:
        side: takes a PixelGraph.
        spec: the integers of a record; `source_mask` is read.
    """
    return _on_graph(side, spec, named=False)


def sites(
    side: torch.nn.Module,
    spec: Mapping[str, Any],
) -> Run:
    """Call a graph layer on the pixel graph of an image, with the output sites named.

    Args:
        side: takes a PixelGraph and `sites`.
        spec: the integers of a record; `source_mask` and `target_mask` are read.
    """
    return _on_graph(side, spec, named=True)


def relational(w: Tensor, b: Tensor | None) -> dict[str, Tensor]:
    """Lay a kernel out as PyG's RGCNConv keeps it: weight (taps, C_in, C_out), bias (C_out,).

    Args:
        w: (C_out, C_in, *kernel_size), groups=1.
        b: (C_out,) or None.

    Example:
        >>> relational(torch.zeros(4, 3, 3, 3), None)["weight"].shape
        torch.Size([9, 3, 4])
    """
    found = {"weight": w.flatten(2).permute(2, 1, 0)}
    return found if b is None else {**found, "bias": b}


@final
@dataclass(frozen=True, eq=False)
class AsNodes:
    """A layer that is called as `layer(x, edge_index, edge_type)`, with x (N, C) in raster order.

    Args:
        layer: a PyG layer, or any module called like one.
        parameters: lays weight and bias out as the layer keeps them; None hands them on as `weight`
            and `bias`.
        typed: whether the layer takes `edge_type`; a plain GNN layer does not.

    Example:
        >>> import convgraph as cg
        >>> from torch_geometric.nn import RGCNConv
        >>> conv = torch.nn.Conv2d(2, 3, 3, padding=1)
        >>> layer = RGCNConv(2, 3, 9, aggr="sum", root_weight=False)
        >>> layer.load_state_dict(relational(conv.weight, conv.bias))
        <All keys matched successfully>
        >>> cg.prove(cg.AsNodes(layer, relational), conv, size=(4, 4)).verdict
        'proven'
    """

    layer: torch.nn.Module
    parameters: ToParameters | None = None
    typed: bool = True

    def named(self, w: Tensor, b: Tensor | None) -> dict[str, Tensor]:
        """The parameters of the layer that stand for (w, b)."""
        return _parameters(self.layer, w, b) if self.parameters is None else self.parameters(w, b)

    def run(self, spec: Mapping[str, Any]) -> Run:
        """Return f(x, w, b) -> y on images, for the geometry of a record."""
        padding = tuple((before, after) for before, after in spec["padding"])
        geometry = KernelGeometry(
            tuple(spec["kernel_size"]), tuple(spec["stride"]), padding,
            tuple(spec["dilation"]), spec["padding_mode"], transposed=spec["transposed"],
            output_padding=tuple(spec["output_padding"]), d=len(spec["kernel_size"]),
            footprint=spec.get("footprint"),
        )  # fmt: skip
        again = Refilled()

        def run(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
            where: dict[str, Any] = {"d": geometry.d, "on": from_dict(spec.get("space"))}
            nodes = again.of(x, PixelGraph.from_image(x, _mask(spec, "source", x), **where))
            wanted = _mask(spec, "target", x)
            edges = connect(geometry, nodes, wanted)
            if edges.edge_weight is not None:
                raise ProofError(
                    "AsNodes: taps that lie between pixels have weights, and a layer called as "
                    "layer(x, edge_index, edge_type) takes none"
                )
            lists = (edges.edge_index, edges.edge_type) if self.typed else (edges.edge_index,)
            ends: Any = nodes.x
            if edges.target is not edges.source:
                ends = (nodes.x, nodes.x.new_zeros(edges.num_targets, nodes.num_channels))
            sent = {} if w is None else again.all_of(w, self.named(w, b))  # or it keeps its own
            rows: Tensor = called(self.layer, sent, (ends, *lists))
            return PixelGraph(rows, edges.target).to_image()

        return run


def nodes(side: AsNodes, spec: Mapping[str, Any]) -> Run:
    """Call a layer on nodes and typed edges; see `AsNodes`."""
    return side.run(spec)


def _on_graph(side: torch.nn.Module, spec: Mapping[str, Any], named: bool) -> Run:
    space = from_dict(spec.get("space"))
    again = Refilled()  # it holds the sites until the next call, which finds what follows from them

    def run(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        made = PixelGraph.from_image(x, _mask(spec, "source", x), d=x.ndim - 2, on=space)
        nodes = again.of(x, made)
        more = {"sites": _mask(spec, "target", x)} if named else {}
        out: PixelGraph = called(side, _parameters(side, w, b), (nodes,), more)
        return out.to_image()

    return run


def called(module: torch.nn.Module, sent: dict[str, Tensor], *how: Any) -> Any:
    """`functional_call`, which leaves what is sent behind in a module that stands in two places."""
    scripted = torch.jit.ScriptModule  # keeps its parameters itself, and puts them back
    plain = [part for part in module.modules() if not isinstance(part, scripted)]
    before = [(part, dict(part._parameters)) for part in plain]
    try:
        return functional_call(module, sent, *how)
    finally:
        for part, held in before:
            part._parameters.update(held)


def _parameters(side: torch.nn.Module, w: Tensor | None, b: Tensor | None) -> dict[str, Tensor]:
    """Both parameters; a bias that is not sent is none, whatever the module holds."""
    inner = "_orig_mod." if hasattr(side, "_orig_mod") else ""  # of a compiled module
    sent = {f"{inner}weight": w, f"{inner}bias": b}
    return {name: value for name, value in sent.items() if value is not None}


def _footprint(listed: Any, space: Any, kernel_size: tuple[int, ...]) -> Tensor | None:
    """(taps,) bool: the taps that are there, by the record and by the judge's own geometry."""
    found = spaces.footprint(space, kernel_size)
    taps = None if found is None else torch.from_numpy(found)
    if listed is None:
        return taps
    given = torch.tensor(listed, dtype=torch.bool)
    return given if taps is None else given & taps


def _mask(spec: Mapping[str, Any], end: str, x: Tensor) -> Tensor | None:
    found = spec.get(f"{end}_mask")
    return None if found is None else torch.as_tensor(found, dtype=torch.bool, device=x.device)
