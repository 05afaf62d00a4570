"""Layers on any typed graph: right ones are proven, wrong ones refuted with a number."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import FastRGCNConv, RGCNConv

import convgraph as cg
from convgraph.comparison.callers import relational
from convgraph.errors import ConvgraphError, ProofError

EDGES = torch.randint(0, 7, (2, 20), generator=torch.Generator().manual_seed(1))
TYPES = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(2))


class Own(nn.Module):
    """The sum, written out; its weight is laid out as torch's."""

    in_channels, out_channels = 4, 5

    def __init__(self, peer: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(peer.weight.detach().permute(2, 1, 0).clone())
        self.bias = nn.Parameter(peer.bias.detach().clone())

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        source, target = edge_index
        said = torch.einsum("ec,eoc->eo", x[source], self.weight.permute(2, 0, 1)[edge_type])
        return self.bias.expand(len(x), -1).index_add(0, target, said)


class Flowing(Own):
    """The other way round."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        return super().forward(x, edge_index.flip(0), edge_type)


def relations(kind: Any = RGCNConv, aggr: str = "sum", **how: Any) -> Any:
    torch.manual_seed(0)
    return kind(4, 5, 3, aggr=aggr, **{"root_weight": False, **how}).double()


def prove(layer: Any, layout: Any = None, **how: Any) -> Any:
    reference = cg.AsNodes(relations(), relational)
    return cg.prove(cg.AsNodes(layer, layout), reference, edges=(EDGES, TYPES), **how)


@pytest.mark.parametrize("size", [None, 9])
def test_two_layers_are_the_same_on_a_graph_of_no_lattice(size: int | None) -> None:
    found = prove(relations(FastRGCNConv), relational, size=size)
    assert found.verdict == "proven", str(found)
    assert found.spec["size"] == [size or int(EDGES.max()) + 1]
    one_type = EDGES, TYPES * 0  # of the three that the reference has
    sides = cg.AsNodes(Own(relations())), cg.AsNodes(relations(), relational)
    few = cg.prove(*sides, edges=one_type, size=size)
    assert few.verdict == "proven", str(few)
    other = prove(Own(relations()), size=size)
    assert other.verdict == "proven", str(other)
    assert any("layouts differ" in text for text in other.assumed)


@pytest.mark.parametrize(
    ("layer", "layout"),
    [
        (relations(aggr="mean"), relational),
        (relations(root_weight=True), relational),
        (Flowing(relations()), None),
    ],
    ids=["mean for sum", "a root weight", "flow"],
)
def test_another_function_is_refuted(layer: Any, layout: Any) -> None:
    found = prove(layer, layout)
    assert (found.verdict, bool(found.counterexample)) == ("refuted", True), str(found)


def test_the_reference_is_held_against_the_sum_first() -> None:
    mean = cg.AsNodes(relations(aggr="mean"), relational)
    found = cg.prove(cg.AsNodes(relations(), relational), mean, edges=(EDGES, TYPES))
    assert found.verdict == "undecided"
    assert "the reference is not what its own integers say" in found.reason


def test_bad_edges_are_named() -> None:
    side = cg.AsNodes(relations(), relational)
    for edges, text in (
        ((EDGES, TYPES[1:]), r"edge_index \(2, E\) and edge_type \(E,\)"),
        ((EDGES.double(), TYPES), "as integers"),
        ((EDGES, TYPES > 1), "as integers"),
        ((EDGES[:, :0], TYPES[:0]), "at least one edge"),
        (EDGES, r"edges=\(edge_index, edge_type\)"),
    ):
        with pytest.raises(ProofError, match=text):
            cg.prove(side, side, edges=edges)
    for size, text in ((3, "size >= 7"), ((3, 3), "one number of nodes"), (2**40, "at most")):
        with pytest.raises(ConvgraphError, match=text):
            cg.prove(side, side, edges=(EDGES, TYPES), size=size)
    with pytest.raises(ProofError, match="both sides as AsNodes"):
        cg.prove(side, nn.Conv2d(4, 5, 1), edges=(EDGES, TYPES))
    with pytest.raises(ProofError, match="stands alone"):
        cg.prove(side, side, edges=(EDGES, TYPES), mask=torch.ones(7, dtype=torch.bool))


class Keeps(Own):
    """Keeps what it made of rows and of a weight, by what comes again."""

    def forward(self, x: Any, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        rows = x[0] if isinstance(x, tuple) else x
        held = getattr(self, "held", None)
        if held is None or not (held[0] is rows and held[1] is self.weight):
            self.held = rows, self.weight, super().forward(rows, edge_index, edge_type)
        found: Tensor = self.held[2]
        return found


@pytest.mark.parametrize("channels", [1, 4], ids=["rows are a view", "rows are copied"])
def test_of_an_image_that_is_filled_anew_the_rows_are_the_same_object(channels: int) -> None:
    """A layer that asks by `is` whether its rows come again is wrong where they are refilled."""
    peer = RGCNConv(channels, 5, 3, aggr="sum", root_weight=False).double()
    layer = Keeps(peer)
    layer.in_channels = channels
    sides = cg.AsNodes(layer), cg.AsNodes(peer, relational)
    found = cg.prove(*sides, edges=(EDGES, TYPES))
    assert (found.verdict, found.counterexample["manner"]) == ("refuted", "refilled"), str(found)
    with torch.no_grad():  # the weight that it keeps is laid out anew for each call
        conv = nn.Conv2d(channels, 5, (1, 3), padding=(0, 1)).double()
        conv.weight.copy_(layer.weight.unsqueeze(2))
        conv.bias.copy_(layer.bias)
    side = cg.AsNodes(layer, lambda w, b: {"weight": w.squeeze(2), "bias": b})
    found = cg.prove(side, conv, size=(3, 4))
    assert (found.verdict, found.counterexample["manner"]) == ("refuted", "refilled"), str(found)


@pytest.mark.parametrize("size", [10**9, 2**27])
def test_more_nodes_than_anybody_draws_at_once_are_refused(size: int) -> None:
    with pytest.raises(ProofError, match=r"at most 268435456 numbers at once.*a smaller size"):
        prove(relations(FastRGCNConv), relational, size=size)
