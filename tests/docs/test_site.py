"""Every page of the built site in a real browser: three widths, light and dark.

`make docs-browser` builds the site, says where and runs this; elsewhere nothing is tried, not even
a site that an earlier build left behind.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import served

SITE = Path(os.environ.get("CONVGRAPH_SITE", os.devnull))
PAGES = sorted(str(path.parent.relative_to(SITE)) for path in SITE.rglob("index.html"))
WIDTHS = {"phone": 390, "tablet": 820, "desk": 1366}

pytestmark = pytest.mark.skipif(not PAGES, reason="needs a site: make docs-browser")

WIDER = """() => {
  const room = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= room) return [];
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.getBoundingClientRect().right > room + 1)
    .filter((e) => !e.closest("pre, table, math, nav, .md-sidebar"))
    .map((e) => e.outerHTML.slice(0, 90)).slice(0, 3);
}"""
SILENT = """() => [...document.images]
  .filter((image) => image.closest("article") && image.alt.trim().length < 15)
  .map((image) => image.getAttribute("src"))"""
BROKEN = """() => [...document.images]
  .filter((image) => image.complete && !image.naturalWidth && image.offsetParent)
  .map((image) => image.getAttribute("src"))"""
OPEN_ABOVE = """() => {
  const article = document.querySelector("article"), range = document.createRange();
  range.setStart(article, 0);
  range.setEndBefore([...article.querySelectorAll("details")][1]);
  const part = range.cloneContents();
  part.querySelectorAll("details").forEach((fold) => fold.remove());
  return part.textContent;
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The site on this machine alone, since a page of it asks for its parts by http."""
    with served(SITE) as place:
        yield place


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    """A tab, which all pages take turns in."""
    surroundings = browser.new_context(color_scheme="light", reduced_motion="reduce")
    # The theme keeps the light that it was first seen in; here every page is seen anew.
    surroundings.add_init_script("localStorage.clear()")
    yield surroundings.new_page()
    surroundings.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_at_three_widths_and_is_read_in_light_and_dark(page, tab, address) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    for scheme, named in (("light", "default"), ("dark", "slate")):
        tab.emulate_media(color_scheme=scheme)
        tab.goto(f"{address}/{page}/", wait_until="load")
        assert tab.evaluate("document.body.dataset.mdColorScheme") == named
        # Widths change under a page as they do when a phone is turned.
        for name, width in WIDTHS.items():
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate(WIDER) == [], (scheme, name)
        assert tab.evaluate(SILENT) == []
        assert tab.evaluate(BROKEN) == []
        tab.wait_for_timeout(400)  # the page's own script makes what scrolls reachable
        # What the theme itself brings is not ours to mend; what stands in the article is.
        found = axe.Axe().run(tab, context={"include": [["article"]], "exclude": [["iframe"]]})
        serious = [
            (scheme, v["id"], [n["html"][:100] for n in v["nodes"]][:3])
            for v in found.response["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert json.dumps(serious) == "[]"


def test_an_answer_is_folded_until_it_is_asked_for(tab, address) -> None:
    tab.goto(f"{address}/lessons/01_an_image_is_a_graph/", wait_until="load")
    folds = tab.locator("article details")
    assert folds.count() >= 6
    assert not [fold for fold in folds.all() if fold.get_attribute("open") is not None]
    # The number that the reader is asked for stands nowhere above the fold that holds it.
    before = tab.evaluate(OPEN_ABOVE)
    assert "how many edges?" in before
    assert "1,156" not in before.replace("1,156 typed", "")
    assert "1156" not in before


def test_formulas_are_set_without_a_script(tab, address) -> None:
    tab.goto(f"{address}/lessons/05_the_separability_hypothesis/", wait_until="load")
    fraction = tab.locator("article math mfrac").first
    assert fraction.bounding_box()["height"] > 20
    assert "\\frac" not in tab.inner_text("article")


def test_pages_show_what_they_praise(tab, address) -> None:
    tab.goto(f"{address}/", wait_until="load")
    text = tab.inner_text("article")
    assert "S2 identity" in text
    assert "smallest case" in text
    tab.goto(f"{address}/api/convolutions/", wait_until="load")
    text = tab.inner_text("article")
    for words in ("GraphConv2d(", "in_channels", "padding_mode", "from_dense", "to_dense", "edges"):
        assert words in text
