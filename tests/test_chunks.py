"""Tiles chunk after chunk, as large images go: bit for bit what all tiles at once give."""

import pytest
import torch

import convgraph as cg
from convgraph.backends import windows
from tests.cases import integer_weights, integers
from tests.test_slots import LAYERS, MASKS, found


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "CHUNK", 1)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", LAYERS)
def test_chunks_give_what_all_tiles_give(
    name: str, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, options = LAYERS[name]
    own = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "backend": "tiles"} | options
    layer = integer_weights(kind(**own))
    graph = cg.PixelGraph.from_image(integers(2, 4, 7, 9), MASKS[mask]())
    one = found(layer, graph)
    one_by_one(monkeypatch)
    assert all(map(torch.equal, one, found(layer, graph)))
    with torch.no_grad():
        assert torch.equal(one[0], layer(graph).x)


def test_rows_of_a_chunk_in_another_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = integer_weights(cg.nn.GraphConv2d(4, 4, 3, padding=1, backend="tiles"))
    graph = cg.PixelGraph.from_image(integers(2, 4, 7, 9), MASKS["scattered"]())
    one = layer(graph).x
    one_by_one(monkeypatch)
    right = windows.as_rows
    monkeypatch.setattr(windows, "as_rows", lambda tiles: right(tiles).roll(1, 0))
    assert not torch.equal(one, layer(graph).x)
