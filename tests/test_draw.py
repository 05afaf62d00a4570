"""Pictures: what they draw is what the edges say."""

import sys

import pytest
import torch

import convgraph as cg
from convgraph import draw
from convgraph.proof import ConvSpec, explain_refutation


def test_a_pixel_graph_has_a_spoke_per_edge_and_a_ring_per_loop() -> None:
    image = torch.rand(3, 5, 6)
    for dark in (False, True):
        axes = draw.pixel_graph(image, dark=dark)
        nodes, lines, rings = axes.collections[:3]
        assert len(nodes.get_offsets()) == 30
        edges = cg.connect(cg.KernelGeometry(3, padding=1), cg.PixelGraph.from_image(image))
        assert len(lines.get_segments()) + len(rings.get_offsets()) == edges.num_edges
        assert len(rings.get_offsets()) == 30
        axes.figure.canvas.draw()


def test_a_hole_has_no_edges() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1, 1] = False
    axes = draw.pixel_graph(cg.PixelGraph.from_image(torch.rand(1, 4, 4), mask))
    assert axes.get_title() == "pixel graph: 15 nodes, 83 typed edges"


def test_a_pointwise_kernel_has_only_rings() -> None:
    axes = draw.pixel_graph(torch.rand(1, 3, 3), cg.KernelGeometry(1))
    assert len(axes.collections[1].get_segments()) == 0


def test_messages_add_up_to_the_output() -> None:
    layer = cg.nn.GraphConv2d(2, 3, 3, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(2, 4, 4))
    axes = draw.messages(layer, graph, node=5, channel=1)
    assert len(axes.texts) == 9
    assert axes.get_title().endswith(f": {layer(graph).x[5, 1].item():.2f}")
    corner = draw.messages(layer, graph, node=0)
    assert len(corner.texts) == 4
    with pytest.raises(cg.errors.GraphError, match="groups=1"):
        draw.messages(cg.nn.DepthwiseConv(2, 3, padding=1), graph, node=0)


def test_a_stride_leaves_pixels_without_a_listener() -> None:
    axes = draw.pixel_graph(torch.rand(1, 6, 6), cg.KernelGeometry(3, stride=2, padding=1))
    speaks, _, rings, hears = (found.get_offsets() for found in axes.collections)
    places = [(x, y) for x in (0, 2, 4) for y in (0, 2, 4)]
    assert sorted(map(tuple, hears.tolist())) == places
    assert len(rings) == len(places)
    assert len(speaks) == 36  # the others speak all the same, and are seen
    for geometry in (
        cg.KernelGeometry(3, padding=2),
        cg.KernelGeometry(3, stride=2, padding=1, transposed=True),
    ):
        with pytest.raises(cg.errors.GraphError, match="every output site p at a pixel p"):
            draw.pixel_graph(torch.rand(1, 6, 6), geometry)


def test_what_is_not_there_is_not_drawn() -> None:
    layer = cg.nn.GraphConv2d(1, 2, 3, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(1, 4, 4))
    dense = torch.nn.Conv2d(1, 2, 3, padding=1)
    refused = cg.errors.GraphError
    with pytest.raises(refused, match=r"expected a node in \[0, 16\), got 99"):
        draw.messages(layer, graph, node=99)
    with pytest.raises(refused, match=r"expected a channel in \[0, 2\), got 2"):
        draw.messages(layer, graph, node=0, channel=2)
    with pytest.raises(refused, match=r"expected a tap in \[0, 9\), got 9"):
        draw.adjacency(layer, graph, 9)
    with pytest.raises(refused, match="draw a crop"):
        draw.adjacency(layer, cg.PixelGraph.from_image(torch.rand(1, 64, 64)))
    for picture in (lambda: draw.messages(dense, graph, 0), lambda: draw.adjacency(dense, graph)):
        with pytest.raises(refused, match=r"got Conv2d; of a dense one: cg.nn.GraphConv2d"):
            picture()
    with pytest.raises(refused, match="got Conv2d, whose edges are not known"):
        draw.receptive_field([dense], graph, 5)
    found = draw.reach(cg.nn.Sequential.from_dense(torch.nn.Sequential(dense)), graph, 5)
    assert [int(hop.sum()) for hop in found] == [9]


def test_an_adjacency_matrix_marks_every_edge() -> None:
    layer = cg.nn.GraphConv2d(1, 1, 3, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 4))
    every = draw.adjacency(layer, graph).images[0].get_array()
    assert every is not None
    assert int((every[..., 3] > 0).sum()) == layer.edges(graph).num_edges  # the rest is the page
    one = draw.adjacency(layer, graph, tap=0, dark=True)
    assert one.get_title() == "adjacency of tap 0, 6 edges"


def test_several_images_are_refused() -> None:
    with pytest.raises(cg.errors.GraphError, match="expected one 2-D image"):
        draw.pixel_graph(torch.rand(2, 1, 4, 4))


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(cg.errors.MissingExtraError, match="pip install matplotlib"):
        draw.pixel_graph(torch.rand(1, 3, 3))


def test_a_refutation_has_a_line_for_each_offending_edge() -> None:
    spec = ConvSpec(1, 1, (3, 3), (5, 5), padding=((1, 1), (1, 1)))
    run = torch.nn.functional.conv2d
    found = explain_refutation(
        lambda x, w, b: run(x, w.mT, b, 1, 1), lambda x, w, b: run(x, w, b, 1, 1), spec
    )
    assert found is not None
    axes = draw.counterexample(found)
    assert len(axes.lines) == len(found.edges) + len(found.found_edges) == 1
    assert axes.get_title() == "height and width are swapped in the kernel"
    axes.figure.canvas.draw()


def test_the_reach_of_a_stack_is_counted_hop_by_hop() -> None:
    graph = cg.PixelGraph.from_image(torch.zeros(1, 9, 9))
    middle = 4 * 9 + 4
    three, one = cg.nn.GraphConv2d(1, 1, 3, padding=1), cg.nn.PointwiseConv(1, 1)
    hops = draw.reach([three, torch.nn.ReLU(), one, three], graph, middle)
    assert [int(hop.sum()) for hop in hops] == [9, 9, 25]
    down = cg.nn.GraphConv2d(1, 1, 3, stride=2, padding=1)
    assert int(draw.reach([down, three], graph, 12)[-1].sum()) == 49
    with pytest.raises(cg.errors.GraphError, match=r"expected a node in \[0, 25\), got 25"):
        draw.reach([down, three], graph, 25)


def test_a_receptive_field_has_a_square_for_every_pixel_of_it() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(3, 9, 9))
    layers = [cg.nn.GraphConv2d(1, 1, 3, padding=1)] * 2
    axes = draw.receptive_field(layers, graph, 40)
    assert len(axes.patches) == 25 + 1  # and the node itself
    assert [text.get_text() for text in axes.texts].count("2") == 16
    with pytest.raises(cg.errors.GraphError, match="keep the size"):
        draw.receptive_field([cg.nn.GraphConv2d(1, 1, 3)], graph, 0)


def test_a_certificate_is_drawn_with_its_bound() -> None:
    conv = torch.nn.Conv2d(1, 2, 3)
    cert = cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(5, 5))
    axes = draw.certificate(cert, dark=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(cert.rho)
    assert axes.get_title().startswith("proven\nfloat32 on cpu, wrong with probability at most 2^-")
    axes.figure.canvas.draw()


def test_one_node_has_an_arrow_a_number_and_a_loop_for_its_edges() -> None:
    image = torch.rand(3, 5, 6)
    axes = draw.node(image, 14)
    assert len(axes.patches) == 9
    assert sorted(text.get_text() for text in axes.texts) == list("012345678")
    alone = draw.node(image, 14, cg.KernelGeometry(1))
    assert len(alone.patches) == 1
    assert alone.get_title() == "node 14 hears 1 edge"
    start, *_, end = alone.patches[0].get_path().vertices.tolist()
    assert start != end
    corner = draw.node(image, 0)
    assert len(corner.patches) == 4
    with pytest.raises(cg.errors.GraphError, match=r"expected a node in \[0, 30\)"):
        draw.node(image, 30)
    axes.figure.canvas.draw()


def test_an_arrow_goes_the_way_of_the_message() -> None:
    axes = draw.node(torch.rand(1, 5, 5), 12)
    for patch in axes.patches[:4]:  # from the row above and from the left
        begins, *rest = (abs(complex(*at) - complex(2, 2)) for at in patch.get_path().vertices)
        assert begins > 2 * min(rest)


def test_whole_messages_are_written_as_weight_times_pixel() -> None:
    layer = cg.nn.GraphConv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3) - 4)
    graph = cg.PixelGraph.from_image(torch.arange(25.0).view(1, 5, 5))
    axes = draw.messages(layer, graph, node=12)
    assert {text.get_text() for text in axes.texts} >= {"-4 x 6", "0 x 12", "4 x 18"}
    assert axes.get_title() == f"sum of 9 messages: {int(layer(graph).x[12])}"


def luminance(colour: str) -> float:
    """Of WCAG: what contrast is a ratio of."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", [draw.LIGHT["page"], draw.DARK["page"]])
def test_every_colour_stands_out_from_a_light_and_from_a_dark_page(page: str) -> None:
    for colour in draw.tap_colours(cg.KernelGeometry(3, padding=1)):
        low, high = sorted((luminance(colour), luminance(page)))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 1.4.11 for graphics


def test_the_explorer_has_the_colours_of_the_pictures() -> None:
    from convgraph.explorer.source import module

    assert all(f'"{colour}"' in module() for colour in draw.PALETTE)


def test_pictures_follow_matplotlibs_own_colours() -> None:
    from matplotlib import rc_context

    with rc_context({"text.color": "#757575", "axes.facecolor": "none"}):
        assert draw.pixel_graph(torch.rand(1, 3, 3)).title.get_color() == "#757575"
    assert draw.pixel_graph(torch.rand(1, 3, 3), dark=True).title.get_color() == draw.DARK["ink"]
