"""Tiles chunk after chunk, as large images go: bit for bit what all tiles at once give."""

import pytest
import torch
from torch.func import functional_call, vmap

import convgraph as cg
from convgraph.backends.tiles import cutting
from tests.backends.small import LAYERS, MASKS, SHAPES, found, layer_of
from tests.cases import integer_weights, integers


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "CHUNK", 1)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", LAYERS)
def test_chunks_give_what_all_tiles_give(
    name: str, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(name, "tiles")
    graph = cg.PixelGraph.from_image(integers(2, 4, 7, 9), MASKS[mask]())
    one = found(layer, graph)
    one_by_one(monkeypatch)
    assert all(map(torch.equal, one, found(layer, graph)))
    with torch.no_grad():
        assert torch.equal(one[0], layer(graph).x)


@pytest.mark.parametrize("name", SHAPES)
def test_images_of_other_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, graph = SHAPES[name]()
    layer = integer_weights(layer)
    layer.backend = "tiles"
    one = found(layer, graph)
    one_by_one(monkeypatch)
    assert all(map(torch.equal, one, found(layer, graph)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_chunks_for_each_of_several_arguments(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of("strided", "tiles")
    graph = cg.PixelGraph.from_image(integers(2, 4, 7, 9), MASKS["scattered"]())
    given = [graph.x, layer.weight.detach(), layer.bias.detach()]

    def run(one: torch.Tensor) -> torch.Tensor:
        x, weight, bias = [*given[:place], one, *given[place + 1 :]]
        values = {"weight": weight, "bias": bias}
        out: torch.Tensor = functional_call(layer, values, (graph.with_x(x),)).x
        return out

    one_by_one(monkeypatch)
    several = torch.stack([given[place], given[place] * 2])
    with torch.no_grad():
        assert torch.equal(vmap(run)(several), torch.stack([run(one) for one in several]))


def test_rows_of_a_chunk_in_another_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of("plain", "tiles")
    graph = cg.PixelGraph.from_image(integers(2, 4, 7, 9), MASKS["scattered"]())
    one = layer(graph).x
    one_by_one(monkeypatch)
    right = cutting.as_rows
    monkeypatch.setattr(cutting, "as_rows", lambda tiles: right(tiles).roll(1, 0))
    assert not torch.equal(one, layer(graph).x)
