"""What is left without a kernel, without a network and without frames."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convgraph as cg
from convgraph.explorer import state_of
from convgraph.explorer.still import tables
from tests.explorer.agreement import numbers
from tests.explorer.geometries import TABLE, build


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("row", range(len(TABLE)))
def test_the_tables_are_torch(row, masked) -> None:
    layer, graph, dense = build(row, masked)
    html = tables(state_of(layer, graph))
    kind = cg.nn.GraphConvTranspose2d if layer.transposed else cg.nn.GraphConv2d
    mask = kind.from_dense(layer).edges(graph).target.mask
    whole = torch.ones(dense.shape[2:], dtype=torch.bool)
    sites = whole if mask is None else mask.reshape(whole.shape)
    expected = [
        [f"{v:.4g}" if here else "·" for v, here in zip(values, there, strict=True)]
        for values, there in zip(dense[0, 0].tolist(), sites.tolist(), strict=True)
    ]
    assert numbers(html, "output, channel 1") == expected
    weight = [[f"{v:.4g}" for v in line] for line in layer.weight[0, 0].tolist()]
    assert numbers(html, "weight of output channel 1") == weight


def test_a_split_layer_is_tabled_by_its_stages() -> None:
    layer = cg.nn.DepthwiseSeparableConv(2, 3, 3, padding=1, padding_mode="reflect")
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 4, 5))
    html = tables(state_of(layer, graph))
    expected = layer.double()(cg.PixelGraph.from_image(graph.to_image().double())).to_image()
    assert numbers(html, "output, channel 1") == [
        [f"{v:.4g}" for v in line] for line in expected[0, 0].tolist()
    ]
    assert numbers(html, "depthwise weight")[1][1] == f"{layer.depthwise.weight[0, 0, 1, 1]:.4g}"


def test_a_live_view_hides_the_still_page_as_long_as_it_lives(show) -> None:
    tab = show()
    hidden = tab.evaluate(
        "() => { const still = document.createElement('p'), el = document.createElement('div');"
        "still.dataset.convgraphStill = 'a1'; document.body.append(still, el);"
        "const model = { get: (name) => name === 'still' ? 'a1' : {}, set() {},"
        "save_changes() {}, on() {}, off() {} };"
        "const seen = () => getComputedStyle(still).display === 'none';"
        "const before = seen(), close = convgraphExplorer.render({ model, el }), during = seen();"
        "close(); return [before, during, seen(), el.childElementCount]; }"
    )
    assert hidden == [False, True, False, 0]


@pytest.mark.ci  # a kernel of its own executes the notebook
def test_an_exported_notebook_shows_the_page_offline(browser, tmp_path) -> None:
    for package in ("anywidget", "ipykernel", "nbconvert"):
        pytest.importorskip(package)
    import nbformat

    code = (
        "import torch, convgraph as cg\ncg.explore(torch.nn.Conv2d(1, 2, 3), torch.ones(1, 4, 4))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "book.ipynb")
    export = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", "book.ipynb"]
    # The kernel is a process of its own, and imports the package that is tested here.
    env = {**os.environ, "PYTHONPATH": str(Path(cg.__file__).parents[1])}
    done = subprocess.run(
        export, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    surroundings = browser.new_context(offline=True)
    tab = surroundings.new_page()
    tab.goto((tmp_path / "book.html").as_uri(), wait_until="domcontentloaded")
    frame = tab.frame_locator("iframe[title='convgraph explorer']")
    frame.locator("[data-lattice=output] rect[data-p='3']").hover()
    assert frame.locator("[data-y]").get_attribute("data-y")
    assert tab.inner_text("summary") == "The same as tables"
    surroundings.close()
