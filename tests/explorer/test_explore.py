"""cg.explore: layers and images become the page's numbers, or an error says why not."""

import json
import sys

import pytest
import torch

import convgraph as cg
from convgraph.cli import main
from convgraph.explorer import page, state_of
from convgraph.explorer.source import PARTS, module


def test_weights_and_pixels_arrive_exactly() -> None:
    conv, image = torch.nn.Conv2d(2, 3, (3, 1)), torch.rand(2, 5, 4)
    config = json.loads(json.dumps(state_of(conv, image)))["config"]
    assert torch.equal(torch.tensor(config["weight"]).view_as(conv.weight), conv.weight)
    assert torch.equal(torch.tensor(config["image"]).view_as(image), image)
    graph_layer = cg.nn.GraphConv2d.from_dense(conv)
    assert state_of(graph_layer, cg.PixelGraph.from_image(image))["config"] == config


def test_a_mask_travels() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    graph = cg.PixelGraph.from_image(torch.ones(1, 2, 2), mask=mask)
    config = state_of(torch.nn.Conv2d(1, 1, 1), graph)["config"]
    assert config["mask"] == [True, False, True, True]


@pytest.mark.parametrize(
    ("layer", "image", "error", "text"),
    [
        (torch.nn.Linear(2, 2), None, cg.errors.ConversionError, "got Linear"),
        (torch.nn.Conv1d(1, 1, 1), None, cg.errors.ConversionError, "got Conv1d"),
        (cg.nn.GraphConv1d(1, 1, 1), None, cg.errors.ConversionError, "d = 1"),
        (torch.nn.Conv2d(1, 65, 1), None, cg.errors.ConversionError, "at most 64 channels, got 65"),
        (torch.nn.Conv2d(1, 1, 1), torch.ones(1, 17, 3), cg.errors.GraphError, "pass a crop"),
        (torch.nn.Conv2d(1, 1, 1), torch.ones(2, 1, 3, 3), cg.errors.GraphError, "got 2"),
        (torch.nn.Conv2d(1, 1, 1), torch.ones(2, 3, 3), cg.errors.ShapeError, "got 2"),
        (torch.nn.Conv2d(1, 1, 9), None, cg.errors.GeometryError, "reaches over 9"),
        (None, torch.ones(1, 3, 3), cg.errors.ConversionError, "expected a layer"),
        (torch.nn.Conv2d(1, 1, 1), torch.full((1, 2, 2), torch.nan), cg.errors.GraphError, "NaN"),
    ],
)
def test_what_cannot_be_shown_is_refused(layer, image, error, text) -> None:
    with pytest.raises(error, match=text):
        state_of(layer, image)


def test_the_parts_join_to_one_module_without_imports() -> None:
    assert "import {" not in module()
    assert 'from "./' not in module()
    assert len(PARTS) == len(set(PARTS))


def test_a_page_needs_nothing_else(tmp_path) -> None:
    assert main(["explore", "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text == page()
    assert "src=" not in text
    assert '<link rel="stylesheet' not in text


def test_without_anywidget_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "convgraph.explorer.widget", raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(cg.errors.MissingExtraError, match="pip install anywidget"):
        cg.explore(torch.nn.Conv2d(1, 1, 1))


def test_the_widget_carries_its_state_and_a_page_for_export() -> None:
    pytest.importorskip("anywidget")
    widget = cg.explore(torch.nn.Conv2d(1, 2, 3), torch.ones(1, 4, 4))
    assert widget.get_state()["state"]["config"]["size"] == [4, 4]
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "<iframe" in data["text/html"]
    assert "convgraph-state" in data["text/html"]
    widget.close()
