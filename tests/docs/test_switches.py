"""The site's switches in a real browser: another version, another language, and the search.

`make docs-browser` builds the site, says where and runs this; elsewhere nothing is tried.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import served
from tests.docs.versions import publish

SITE = Path(os.environ.get("CONVGRAPH_SITE", os.devnull))

pytestmark = pytest.mark.skipif(
    not (SITE / "index.html").exists(), reason="needs a site: make docs-browser"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two versions beside each other in a folder of a server; the older one lacks a page."""
    shelf = tmp_path_factory.mktemp("shelf")
    older = shutil.copytree(SITE, tmp_path_factory.mktemp("older") / "site")
    shutil.rmtree(older / "guide" / "spaces")
    for version, site in (("0.9.0", older), ("0.10.0", SITE)):
        publish(site, shelf / "docs", version)
    (shelf / "docs" / ".git").mkdir()  # what else lies there is no version
    with served(shelf) as place:
        yield f"{place}/docs"


@pytest.fixture(params=[390, 1366], ids=["phone", "desk"])
def tab(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A tab as wide as a phone or a desk."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    yield page
    page.close()


def test_the_switch_of_versions_leads_to_the_same_page(tab, address) -> None:
    tab.goto(f"{address}/", wait_until="load")
    tab.wait_for_url(f"{address}/0.10.0/")  # who names no version gets the newest
    choice = tab.get_by_label("version", exact=True)
    assert choice.locator("option").all_inner_texts() == ["0.10.0", "0.9.0"]
    for page in ("", "guide/prove/", "zh/lessons/01_an_image_is_a_graph/", "glossary/#__skip"):
        tab.goto(f"{address}/0.10.0/{page}", wait_until="load")
        heading = tab.locator("h1").inner_text()
        assert choice.input_value() == "0.10.0"
        assert 0 <= choice.bounding_box()["x"] < tab.viewport_size["width"] - 40
        choice.select_option("0.9.0")
        tab.wait_for_url(f"{address}/0.9.0/{page}")
        assert choice.input_value() == "0.9.0"
        assert tab.locator("h1").inner_text() == heading
    tab.go_back()
    tab.wait_for_url(f"{address}/0.10.0/**")
    assert choice.input_value() == "0.10.0"


def test_a_page_that_the_other_version_lacks_leads_to_its_first(tab, address) -> None:
    tab.goto(f"{address}/0.10.0/guide/spaces/", wait_until="load")
    tab.get_by_label("version", exact=True).select_option("0.9.0")
    tab.wait_for_url(f"{address}/0.9.0/")
    assert tab.get_by_label("version", exact=True).input_value() == "0.9.0"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("", "zh/"),
        ("tutorial/", "zh/tutorial/"),
        ("lessons/03_the_art_of_mixing_channels/", "zh/lessons/03_the_art_of_mixing_channels/"),
        ("explorer/", "zh/explorer/"),
    ],
)
def test_the_switch_of_languages_leads_to_the_same_page(tab, address, english, chinese) -> None:
    def switch(name: str) -> None:
        tab.get_by_label("Select language").click()
        tab.get_by_role("link", name=name, exact=True).locator("visible=true").first.click()

    home = f"{address}/0.10.0"
    tab.goto(f"{home}/{english}", wait_until="load")
    switch("中文")
    tab.wait_for_url(f"{home}/{chinese}")
    assert tab.evaluate("document.documentElement.lang") == "zh"
    assert re.search("[\u4e00-\u9fff]", tab.locator("h1").inner_text())
    switch("English")
    tab.wait_for_url(f"{home}/{english}")
    assert tab.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ("separability hypothesis", "lessons/05_the_separability_hypothesis/"),
        ("可分离假设", "zh/lessons/05_the_separability_hypothesis/"),
        ("GraphConv2d", "api/"),
    ],
    ids=["english", "chinese", "api"],
)
def test_the_search_finds_a_page_and_leads_there(tab, address, asked, page) -> None:
    tab.goto(f"{address}/0.10.0/", wait_until="load")
    tab.keyboard.press("/")
    search = tab.get_by_role("dialog", name="Search")
    search.get_by_role("combobox").fill(asked)
    search.get_by_role("option").first.wait_for()
    search.locator(f'a[href*="{page}"]').first.click()
    tab.wait_for_url(f"{address}/0.10.0/{page}**")
