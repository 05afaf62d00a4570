"""The page on hexagons and on a torus: numbers, sites and edges are our layers' and torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F

import convgraph as cg
from convgraph.explorer import page, state_of
from convgraph.geometry.footprint import hexagon
from tests.explorer.agreement import COMPUTE, differences, numbers
from tests.explorer.geometries import drawn

ON = {"hexagon": cg.Hexagonal(), "torus": cg.Torus()}
CONFIG = "convgraphExplorer.view.config"
ALL = "() => { const e = convgraphExplorer; return e.evaluate(e.view.state).result.output; }"

TABLE = {
    "hexagon": (
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 5, "padding": 2, "groups": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": 2},
        {"kernel_size": (1, 3), "padding": (0, 1)},
        {"transposed": True, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    ),
    "torus": (
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 5, "padding": 2, "groups": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "dilation": 2, "padding": 2, "stride": (1, 3)},
        {"kernel_size": 2, "stride": 2},
    ),
}
CASES = [(space, row) for space, rows in TABLE.items() for row in range(len(rows))]


def build(space, row, masked):
    """A torch layer with whole weights, the graph of an image in a space, and torch's answer."""
    layer, graph = drawn(TABLE[space][row], 2, (6, 6), row, masked, ON[space])
    with torch.no_grad():
        return layer, graph, by_torch(space, layer, graph.to_image(fill=0.0))


def by_torch(space, layer, image):
    """What torch says: corners of the kernel set to 0, or the image wrapped around."""
    if space == "torus":
        top, left = layer.padding
        wide = F.pad(image, (left, left, top, top), mode="circular")
        return F.conv2d(
            wide, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
        )
    kernel = layer.kernel_size
    weight = layer.weight
    if kernel[0] == kernel[1] and kernel[0] % 2:
        weight = weight * torch.tensor(hexagon(kernel)).reshape(kernel)
    dense = copy.deepcopy(layer)
    dense.weight.copy_(weight)
    return dense(image)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize(("space", "row"), CASES)
def test_numbers_sites_and_edges_are_those_of_the_space(space, row, masked, computed) -> None:
    layer, graph, expected = build(space, row, masked)
    assert differences(computed(layer, graph), layer, graph, expected) == set()


FAULTS = {
    "the other two corners": (
        "hexagon",
        "+ (t % kw) - radius) <= radius",
        "- (t % kw) + radius) <= radius",
        {"output", "edges"},
    ),
    "the torus has a border": (
        "torus",
        'config.space === "torus" ? "circular" : config.padding_mode',
        "config.padding_mode",
        {"output", "edges"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, show) -> None:
    space, old, new, expected = FAULTS[name]
    layer, graph, dense = build(space, 0, False)
    faulty = show(layer, graph, planted=(old, new))
    assert differences(faulty.evaluate(COMPUTE), layer, graph, dense) == expected


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("space", ON)
def test_a_pool_is_our_layers(space, kind, show) -> None:
    tab = show()
    tab.click("[data-lesson=pool]")
    tab.select_option("[data-control=space]", value=space)
    tab.select_option("[data-control=aggregate]", value=kind)
    tab.check("[data-control=same]")
    for name, value in (("stride", 1), ("kernel", 3)):
        tab.fill(f"[data-control={name}]", str(value))
    config = tab.evaluate(CONFIG)
    image = torch.tensor(config["image"]).double().reshape(1, 1, *config["size"])
    pool = (
        cg.nn.GraphMaxPool2d(3, 1, 1)
        if kind == "max"
        else cg.nn.GraphAvgPool2d(3, 1, 1, count_include_pad=False)
    )
    ours = pool(cg.PixelGraph.from_image(image, on=ON[space])).to_image()
    drawn = torch.tensor(tab.evaluate(COMPUTE)["output"]).double()
    # A mean is rounded; times every possible number of pixels it is whole again.
    count = 1 if kind == "max" else 9 * 8 * 7 * 5
    assert torch.equal((drawn * count).round(), (ours.flatten() * count).round())


def test_two_layers_on_a_torus_wrap_twice(show) -> None:
    tab = show()
    tab.click("[data-lesson=hops]")
    tab.select_option("[data-control=space]", value="torus")
    config = tab.evaluate(CONFIG)
    x = torch.tensor(config["image"]).double().reshape(1, 1, *config["size"])
    w = torch.tensor(config["weight"]).double().reshape(1, 1, 3, 3)
    for _ in range(2):
        x = F.conv2d(F.pad(x, (1,) * 4, mode="circular"), w)
    assert tab.evaluate(ALL) == x.flatten().tolist()


def test_a_hexagon_hears_six_neighbours_and_itself(show) -> None:
    tab = show()
    tab.click("[data-lesson=hexagon]")
    assert tab.locator("[data-lattice=output] polygon[data-p]").count() == 64
    assert tab.locator("path.cge-link").count() == 7
    assert tab.locator(".cge-tile[data-tap='0']").inner_text().split() == ["0", "\u2013"]
    assert "all 7 taps" in tab.get_attribute("canvas", "aria-label")
    tab.select_option("[data-control=picturing]", value="graph")
    assert tab.locator(".cge-arrow").count() == 7
    tab.select_option("[data-control=space]", value="plane")
    assert tab.locator(".cge-arrow").count() == 9


def test_a_corner_of_a_torus_hears_nine(show) -> None:
    tab = show()
    tab.click("[data-lesson=torus]")
    assert tab.locator("path.cge-link").count() == 9
    assert tab.get_attribute("canvas", "data-edges") == str(9 * 64)
    tab.select_option("[data-control=picturing]", value="graph")
    assert tab.locator(".cge-arrow").count() == 9
    tab.fill("[data-control=stride]", "3")
    assert "on a torus the 8 pixels" in tab.inner_text("[role=alert]")


@pytest.mark.parametrize("space", ON)
def test_without_scripts_the_tables_are_those_of_the_space(space) -> None:
    from convgraph.explorer.still import tables

    layer, graph, expected = build(space, 0, False)
    assert numbers(tables(state_of(layer, graph)), "output, channel 1") == [
        [f"{v:.4g}" for v in row] for row in expected[0, 0].tolist()
    ]


def test_a_footprint_of_the_layer_is_kept(show) -> None:
    layer = cg.nn.GraphConv2d(2, 2, 3, padding=1, footprint="cross")
    x = torch.randint(0, 9, (1, 2, 5, 5)).float()
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-5, 6, layer.weight.shape))
        layer.bias.zero_()
        ours = layer(cg.PixelGraph.from_image(x)).to_image()
    found = show(layer, x).evaluate(COMPUTE)
    assert found["output"] == ours.flatten().tolist()
    assert {tap for _, _, tap in found["edges"]} == {1, 3, 4, 5, 7}


def test_what_the_page_does_not_draw_is_refused() -> None:
    conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    for space, words in (
        (cg.Torus(rows=False), "expected an image in the plane"),
        (cg.Torus(), "closed surface"),
    ):
        graph = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4), on=space)
        layer = conv if "plane" in words else torch.nn.Conv2d(1, 1, 3)
        with pytest.raises(cg.errors.ConvgraphError, match=words):
            page(layer, graph)
