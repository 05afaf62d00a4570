"""The page in a real browser: its numbers are torch's bit for bit, and its parts can be used."""

import pytest
import torch

import convgraph as cg
from tests.explorer.agreement import COMPUTE, differences
from tests.explorer.geometries import TABLE, build


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("row", range(len(TABLE)))
def test_numbers_sites_and_edges_are_those_of_torch_and_convgraph(row, masked, computed) -> None:
    layer, graph, expected = build(row, masked)
    assert differences(computed(layer, graph), layer, graph, expected) == set()
    assert expected.count_nonzero() > expected.numel() // 2


@pytest.mark.parametrize("row", [9, len(TABLE) - 1])
def test_a_mask_without_holes_is_no_mask(row, show) -> None:
    # The padding exceeds the reach: some outputs receive no message, and are sites all the same.
    layer, graph, expected = build(row, False)
    whole = cg.PixelGraph.from_image(graph.to_image(), mask=torch.ones(1, 7, 6, dtype=torch.bool))
    tab = show(layer, whole)
    assert differences(tab.evaluate(COMPUTE), layer, whole, expected) == set()
    found = tab.evaluate(COMPUTE)
    assert len({target for _, target, _ in found["edges"]}) < len(found["sites"])
    # Erased and restored by hand: the page holds a mask, all of it true.
    erase = "[data-lattice=input] rect[data-p='9']"
    tab.click(erase)
    assert differences(tab.evaluate(COMPUTE), layer, whole, expected) >= {"edges"}
    tab.click(erase)
    assert tab.evaluate("convgraphExplorer.view.state.mask.every(Boolean)")
    assert differences(tab.evaluate(COMPUTE), layer, whole, expected) == set()


def test_hovering_explains_the_pixel_and_its_messages_add_up(show) -> None:
    layer, graph, expected = build(1, False)
    tab = show(layer, graph)
    for p in (0, 8, 41):
        tab.hover(f"[data-lattice=output] rect[data-p='{p}']")
        assert float(tab.get_attribute("[data-y]", "data-y")) == expected[0, 0].flatten()[p]
        rows = tab.locator(".cge-ledger :is(tbody tr, tfoot tr:not(.cge-total)) .cge-number")
        said = [text.replace("\u2212", "-") for text in rows.all_inner_texts()]
        assert sum(float(text) for text in said if text != "\u2013") == expected[0, 0].flatten()[p]
    tab.wait_for_timeout(300)
    assert "row 6, column 5" in tab.inner_text("[aria-live]")


def test_keys_choose_a_pixel_and_erase_one(show) -> None:
    tab = show()
    tab.focus("[data-lattice=output]")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("convgraphExplorer.view.state.pixel") == [3, 4]
    tab.focus("[data-lattice=input]")
    before = int(tab.get_attribute("canvas", "data-edges"))
    tab.keyboard.press("Space")
    assert tab.evaluate("convgraphExplorer.view.state.mask")[0] is False
    # The corner spoke to 4 pixels and heard 3 others: its node goes, and so do both.
    assert before - int(tab.get_attribute("canvas", "data-edges")) == 7


def test_touch_asks_and_erases(show) -> None:
    tab = show(has_touch=True, viewport={"width": 390, "height": 844})
    tab.tap("[data-lattice=output] rect[data-p='0']")
    assert tab.evaluate("convgraphExplorer.view.state.pixel") == [0, 0]
    tab.tap("[data-lattice=input] rect[data-p='9']")
    assert tab.evaluate("convgraphExplorer.view.state.mask")[9] is False
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_a_kernel_of_one_tap_leaves_self_loops(show) -> None:
    tab = show()
    tab.fill("[data-control=kernel]", "1")
    assert "self-loops only" in tab.inner_text("[aria-label='Adjacency matrix'] p")
    assert tab.get_attribute("canvas", "data-edges") == "64"


def test_a_tap_shows_its_adjacency(show) -> None:
    tab = show()
    assert tab.get_attribute("canvas", "data-edges") == "484"  # (3 * 8 - 2) ** 2
    tab.click(".cge-tile[data-tap='0']")
    assert tab.get_attribute("canvas", "data-edges") == "49"
    assert tab.get_attribute(".cge-tile[data-tap='0']", "aria-pressed") == "true"


def test_only_the_difference_tells_the_bars_apart(show) -> None:
    tab = show()
    tab.click("[data-lesson=bars]")
    apart = [int(n.get_attribute("data-apart")) for n in tab.locator("[data-apart]").all()]
    assert apart == [0, 14]  # two bars of 8 pixels, less the one where they cross, twice
    outputs = []
    for _ in range(2):
        outputs.append(tab.evaluate(COMPUTE)["output"])
        tab.click(".cge-bars button")
    assert outputs[0][:64] == outputs[1][:64]
    assert outputs[0][64:] == [-v for v in outputs[1][64:]]


def test_the_split_is_the_kernel_and_counts_less(show) -> None:
    tab = show()
    tab.click("[data-lesson=split]")
    same = tab.evaluate(
        "() => { const e = convgraphExplorer, v = e.view, whole = e.compute(v.config);"
        "const last = document.querySelector('[data-y]').dataset.y, s = v.state;"
        "return Number(last) === whole.output[s.pixel[0] * 8 + s.pixel[1]]; }"
    )
    assert same
    assert tab.inner_text("[data-fact=dense]") == "2,904"  # 484 edges * 2 * 3
    assert tab.inner_text("[data-fact=split]") == "1,352"  # 484 * 2 + 64 * 2 * 3
    assert tab.inner_text("[data-fact=slices]") == "1, 1"
    assert tab.inner_text("[data-fact=split-rank]").startswith("2 of at most 2")


def test_what_is_not_possible_is_said_and_not_done(show) -> None:
    tab = show(torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), torch.ones(1, 4, 4))
    tab.fill("[data-control=padding]", "5")
    assert "reflect padding must be smaller" in tab.inner_text("[role=alert]")
    assert tab.evaluate("convgraphExplorer.view.state.padding") == [[1, 1], [1, 1]]


def test_rank_is_exact(show) -> None:
    tab = show()
    matrices = [
        [[1, 2], [2, 4]],
        [[0.1, 0.2], [0.3, 0.4]],
        [[0, 0], [0, 0]],
        [[67108859, 0], [0, 1]],
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    ]
    assert [tab.evaluate("m => convgraphExplorer.rank(m)", m) for m in matrices] == [1, 2, 0, 2, 2]


def test_reduced_motion_holds_still(show) -> None:
    moving = "getComputedStyle(document.querySelector('.cge-link')).animationName"
    assert show(reduced_motion="reduce").evaluate(moving) == "none"
    assert show(reduced_motion="no-preference").evaluate(moving) == "cge-flow"


def test_a_photograph_is_seen_in_its_colours(show) -> None:
    image = torch.zeros(3, 4, 4)
    image[0], image[2, 1, 2] = 1.0, 1.0
    tab = show(torch.nn.Conv2d(3, 1, 1), image)
    tab.select_option("[data-control=view]", "colour")
    fills = [tab.get_attribute(f"[data-lattice=input] rect[data-p='{p}']", "fill") for p in (0, 6)]
    assert fills == ["rgb(255,0,0)", "rgb(255,0,255)"]


def test_a_notebook_is_told_what_the_page_shows(show) -> None:
    tab = show()
    sent = tab.evaluate(
        "() => { let seen; const el = document.createElement('div'); document.body.append(el);"
        "const model = { get: () => ({}), set: (_, v) => { seen = v; }, save_changes() {},"
        "on() {}, off() {} };"
        "convgraphExplorer.render({ model, el })(); return seen; }"
    )
    assert sent["pixel"] == [3, 3]
    assert sent["value"] == tab.evaluate(COMPUTE)["output"][3 * 8 + 3]
