"""Two layers on any typed graph, pixels or not: `cg.prove(a, b, edges=(edge_index, edge_type))`.

    y[p] = b + sum over edges q --t--> p of  W[:, :, t] x[q]

Both are called on two copies of the graph beside each other, and held against the same sum over the
edges as they were given. The graph is written down as a lattice of N nodes in a row whose R taps
hear what the list says.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convgraph.comparison import callers
from convgraph.comparison.refilled import Refilled
from convgraph.errors import ProofError
from convgraph.proof import ConvSpec

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
COPIES = 2
"""Graphs side by side, so that a fault of the second one shows."""


def spec_of(edges: Any, nodes: int | None, sides: tuple[Any, Any]) -> ConvSpec:
    """Return the integers of a sum over typed edges.

    Args:
        edges: (edge_index, edge_type), (2, E) and (E,) integers.
        nodes: N; None for the largest that an edge names.
        sides: candidate and reference; one of them says its channels.

    Raises:
        ProofError: the lists do not fit each other, or nobody says how many channels there are.
    """
    if not (isinstance(edges, (tuple, list)) and len(edges) == 2):
        raise ProofError("prove: expected edges=(edge_index, edge_type)")
    index, kind = (torch.as_tensor(part).cpu() for part in edges)
    whole = all(part.dtype in INTEGERS for part in (index, kind))
    if index.dim() != 2 or index.shape[0] != 2 or kind.shape != index.shape[1:] or not whole:
        raise ProofError(
            "prove: expected edges as integers edge_index (2, E) and edge_type (E,), got "
            f"{tuple(index.shape)} {index.dtype} and {tuple(kind.shape)} {kind.dtype}"
        )
    if not kind.numel() or int(index.min()) < 0 or int(kind.min()) < 0:
        raise ProofError("prove: expected at least one edge, and no negative node or type")
    least = int(index.max()) + 1
    count = least if nodes is None else nodes
    if count < least:
        raise ProofError(f"prove: expected size >= {least} nodes, as an edge names, got {count}")
    sized = next((s.layer for s in sides if _channels(s) is not None), None)
    if sized is None:
        raise ProofError(
            "prove: expected in_channels and out_channels of one of the layers, as PyG's have; "
            "give a layer without them as attributes"
        )
    said = (getattr(getattr(side, "layer", None), "num_relations", 0) for side in sides)
    taps = max(int(kind.max()) + 1, *map(int, said))
    before = (taps - 1) // 2
    source, target = index.tolist()
    return ConvSpec(
        int(sized.in_channels), int(sized.out_channels), (taps,), (count,), batch=COPIES,
        padding=((before, taps - 1 - before),),
        bias=isinstance(getattr(sized, "bias", None), Tensor),
        space={"kind": "edges", "source": source, "target": target, "tap": kind.tolist()},
    )  # fmt: skip


def _channels(side: Any) -> int | None:
    layer = getattr(side, "layer", None)
    both = (
        isinstance(getattr(layer, "in_channels", None), int),
        isinstance(getattr(layer, "out_channels", None), int),
    )
    return layer.out_channels if layer is not None and all(both) else None


def caller(side: callers.AsNodes, spec: ConvSpec) -> Callable[..., Tensor]:
    """Return f(x, w, b) -> y on (B, C, N), the graph copied beside itself for each image."""
    assert spec.space is not None
    space, count = spec.space, spec.size[0]
    one = torch.tensor([space["source"], space["target"]])
    index = torch.cat([one + copy * count for copy in range(spec.batch)], dim=1)
    kind = torch.tensor(space["tap"]).repeat(spec.batch)
    again = Refilled()

    def run(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        rows = again.of(x, x.movedim(1, -1).flatten(0, 1))
        lists = (index, kind) if side.typed else (index,)
        sent = {} if w is None else again.all_of(w, side.named(w, b))
        y = callers.called(side.layer, sent, (rows, *(t.to(x.device) for t in lists)))
        found: Tensor = y.unflatten(0, (spec.batch, count)).movedim(-1, 1)
        return found

    return run


def held_alike(one: callers.AsNodes, two: callers.AsNodes) -> bool:
    """Whether what both hold can be compared number by number."""
    pair = [{n: p.shape for n, p in side.layer.named_parameters()} for side in (one, two)]
    return pair[0] == pair[1] and one.parameters is two.parameters
