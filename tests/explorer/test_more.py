"""Pools, rectifiers, two layers, the graph as a graph, drawing, walking, addresses, and fingers."""

import json

import pytest
import torch
import torch.nn.functional as F

from tests.explorer.agreement import COMPUTE

STATE = "convgraphExplorer.view.state"
CONFIG = "convgraphExplorer.view.config"
ALL = "() => { const e = convgraphExplorer; return e.evaluate(e.view.state).result.output; }"


def pixels(config: dict[str, object]) -> torch.Tensor:
    """The image on the page, (1, C, H, W)."""
    numbers = torch.tensor(config["image"], dtype=torch.float64)
    return numbers.reshape(1, config["in_channels"], *config["size"])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_a_pool_is_torchs(kind, kernel, stride, show) -> None:
    tab = show()
    tab.click("[data-lesson=pool]")
    tab.select_option("[data-control=aggregate]", value=kind)
    for name, value in (("kernel", kernel), ("stride", stride), ("ins", 2), ("padding", 1)):
        tab.fill(f"[data-control={name}]", str(value))
    image = pixels(tab.evaluate(CONFIG))
    dense = (
        F.max_pool2d(image, kernel, stride, 1)
        if kind == "max"
        else F.avg_pool2d(image, kernel, stride, 1, count_include_pad=False)
    )
    assert tab.evaluate(COMPUTE)["output"] == dense.flatten().tolist()
    assert tab.is_hidden("[aria-label=Kernel]")
    tab.fill("[data-control=padding]", "4")
    assert "at most half of its kernel" in tab.inner_text("[role=alert]")


def test_a_rectifier_keeps_what_is_above_zero(show) -> None:
    tab = show()
    config = tab.evaluate(CONFIG)
    weight = torch.tensor(config["weight"], dtype=torch.float64).reshape(1, 1, 3, 3)
    dense = F.conv2d(pixels(config), weight, padding=1)
    assert dense.min() < 0
    tab.check("[data-control=relu]")
    assert tab.evaluate(COMPUTE)["output"] == dense.relu().flatten().tolist()
    low = int(dense.flatten().argmin())
    tab.hover(f"[data-lattice=output] rect[data-p='{low}']")
    totals = [row.get_attribute("data-value") for row in tab.locator(".cge-total td").all()]
    assert list(map(float, totals)) == [float(dense.min()), 0.0]


def test_two_layers_hear_two_hops(show) -> None:
    tab = show()
    tab.click("[data-lesson=hops]")
    config = tab.evaluate(CONFIG)
    weight = torch.tensor(config["weight"], dtype=torch.float64).reshape(1, 1, 3, 3)
    dense = F.conv2d(F.conv2d(pixels(config), weight, padding=1), weight, padding=1)
    assert tab.evaluate(ALL) == dense.flatten().tolist()
    tab.wait_for_timeout(300)
    assert "25 pixels of the input, two hops away" in tab.inner_text("[aria-live]")
    tab.fill("[data-control=kernel]", "1")
    tab.wait_for_timeout(300)
    assert "1 pixel of the input" in tab.inner_text("[aria-live]")


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("sharpen", [[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
        ("sobel", [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        ("blur", [[1, 1, 1]] * 3),
    ],
)
def test_named_kernels_are_what_they_are_called(name, kernel, show) -> None:
    tab = show()
    tab.select_option("[data-control=kernelKind]", value=name)
    assert tab.evaluate(CONFIG)["weight"] == [v for row in kernel for v in row]


def test_the_graph_shows_nine_arrows_and_a_loop(show) -> None:
    tab = show()
    tab.click("[data-lesson=graph]")
    assert tab.locator(".cge-arrow").count() == 9
    assert tab.locator(".cge-head-of-arrow").count() == 9
    assert tab.locator(".cge-web path").count() == 484
    tab.hover("[data-lattice=output] circle[data-p='0']")
    assert tab.locator(".cge-arrow").count() == 4
    assert float(tab.get_attribute("[data-y]", "data-y")) == tab.evaluate(COMPUTE)["output"][0]
    tab.fill("[data-control=kernel]", "1")
    (path,) = tab.locator(".cge-arrow").all()
    numbers = [float(v) for v in path.get_attribute("d")[1:].replace("C", " ").split()]
    start, end = numbers[:2], numbers[-2:]
    assert start != end  # it leaves the node and comes back to it: no line of length 0
    assert max(abs(a - b) for a, b in zip(start, end, strict=True)) < 40


def test_no_two_edges_of_a_pixel_lie_on_each_other(show) -> None:
    tab = show()
    ends = [p.get_attribute("d").split("C") for p in tab.locator("path.cge-link").all()]
    assert len(ends) == 9
    assert len({curve.split()[-1] for _, curve in ends}) == 9  # each arrives at a height of its own
    assert tab.locator(".cge-head-of-arrow").count() == 9


def test_a_swipe_erases_nothing_and_a_tap_does(show) -> None:
    tab = show(has_touch=True, viewport={"width": 390, "height": 844})
    place = tab.locator("[data-lattice=input] rect[data-p='27']").bounding_box()
    at = {"clientX": place["x"] + 5, "clientY": place["y"] + 5, "pointerType": "touch"}
    more = {"bubbles": True, "isPrimary": True, "pointerId": 7}
    cell = "[data-lattice=input] rect[data-p='27']"
    tab.dispatch_event(cell, "pointerdown", {**at, **more})
    tab.dispatch_event(cell, "pointercancel", {**at, **more})  # the browser scrolls
    assert tab.evaluate(f"{STATE}.mask") is None
    tab.tap(cell)
    assert tab.evaluate(f"{STATE}.mask")[27] is False


def test_pixels_can_be_drawn_and_undone(show) -> None:
    tab = show()
    tab.select_option("[data-control=brush]", value="-9")
    tab.click("[data-lattice=input] rect[data-p='10']")
    assert tab.evaluate(CONFIG)["image"][10] == -9
    tab.click("text=Undo drawing and erasing")
    assert tab.evaluate(CONFIG)["image"][10] != -9


def test_the_window_walks_until_it_is_stopped(show) -> None:
    tab = show()
    tab.click("text=Walk")
    first = tab.evaluate(f"{STATE}.pixel")
    tab.wait_for_timeout(1600)
    assert tab.evaluate(f"{STATE}.pixel") != first
    tab.click("text=Stop")
    rests = tab.evaluate(f"{STATE}.pixel")
    tab.wait_for_timeout(900)
    assert tab.evaluate(f"{STATE}.pixel") == rests


def test_the_address_opens_what_was_seen(show) -> None:
    tab = show()
    tab.click("[data-lesson=stride]")
    tab.fill("[data-control=kernel]", "5")
    tab.click(".cge-tile[data-tap='3']")
    tab.fill("[data-control=weight]", "7")
    tab.click("[data-lattice=output] rect[data-p='4']")
    tab.wait_for_timeout(600)
    address, seen = tab.url, tab.evaluate(CONFIG)
    assert "#stride=" in address
    other = show()
    other.goto(address)
    other.reload()
    assert other.evaluate(CONFIG) == seen
    other.click("text=Start again")
    assert other.evaluate(CONFIG) != seen


@pytest.mark.parametrize(
    "end",
    [
        "#nothing",
        "#stride=%7B",
        '#stride={"size":[999,999]}',
        '#stride={"size":"8"}',
        "#messages=[]",
    ],
)
def test_a_wrong_address_opens_the_page_all_the_same(end, show) -> None:
    tab = show()
    tab.goto(tab.url.split("#")[0] + end)
    tab.reload()
    assert tab.evaluate(f"{STATE}.size") in ([8, 8], [9, 9])
    assert tab.get_attribute("[data-y]", "data-y")


def test_an_uploaded_picture_is_three_channels(show, tmp_path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (40, 30), (200, 10, 90)).save(tmp_path / "mine.png")
    tab = show()
    tab.set_input_files("[data-control=upload]", tmp_path / "mine.png")
    tab.wait_for_function(f"{STATE}.in_channels === 3")
    assert set(map(tuple, pixels(tab.evaluate(CONFIG))[0].flatten(1).T.tolist())) == {(200, 10, 90)}


def test_the_picture_can_be_kept(show, tmp_path) -> None:
    tab = show(accept_downloads=True)
    with tab.expect_download() as started:
        tab.click("text=Save picture")
    started.value.save_as(tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert text.count("data-p=") == 128
    assert "--ink:" in text


def test_controls_and_picture_are_seen_together(show) -> None:
    for width, height in ((1366, 768), (390, 844)):
        tab = show(viewport={"width": width, "height": height})
        slider = tab.locator("[data-control=kernel]").bounding_box()
        picture = tab.locator(".cge-stage").bounding_box()
        assert slider["y"] + slider["height"] <= picture["y"]
        assert picture["y"] + 200 < height


def test_there_is_one_live_region(show) -> None:
    tab = show()
    assert tab.locator("[aria-live], output, [role=status]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "lesson", ["messages", "graph", "photo", "split", "holes", "hops", "hexagon"]
)
def test_axe_finds_nothing_serious(lesson, scheme, show) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    tab = show(color_scheme=scheme, reduced_motion="reduce")
    tab.click(f"[data-lesson={lesson}]")
    found = axe.Axe().run(tab).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert json.dumps([(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in serious]) == "[]"


# Words that stand in Chinese texts too: names, symbols and keys.
NAMES = {"ReLU", "Sobel", "Escape", "Tab", "C_out", "C_in"}


@pytest.mark.parametrize(
    "lesson",
    [
        "messages",
        "graph",
        "pointwise",
        "bars",
        "photo",
        "pool",
        "hops",
        "split",
        "stride",
        "fold",
        "holes",
        "walls",
        "hexagon",
        "torus",
    ],
)
def test_the_chinese_page_says_everything_in_chinese(lesson, browser, tmp_path) -> None:
    import re

    from convgraph.explorer import page

    (tmp_path / "page.html").write_text(page(language="zh"), encoding="utf-8")
    surroundings = browser.new_context(offline=True, reduced_motion="reduce")
    tab = surroundings.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.click(f"[data-lesson={lesson}]")
    tab.check("[data-control=relu]")
    tab.click("[data-lattice=output] [data-p='0']")
    tab.wait_for_timeout(300)
    text = tab.inner_text("body") + " ".join(
        tab.evaluate(
            "[...document.querySelectorAll('main [aria-label], main [title]')]"
            ".flatMap((e) => [e.getAttribute('aria-label') ?? '', e.getAttribute('title') ?? ''])"
        )
    )
    assert set(re.findall(r"[A-Za-z_]{3,}", text)) - NAMES == set()
    assert tab.get_attribute("html", "lang") == "zh"
    surroundings.close()
