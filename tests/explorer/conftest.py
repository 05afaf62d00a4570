"""A headless browser for the explorer's page; where there is none, the tests say so and skip."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convgraph.explorer import page, state_of
from tests import planting
from tests.explorer.agreement import COMPUTE

STILL = {"reduced_motion": "reduce"}


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that opens the page of a layer and an image; a script error fails the test.

    `planted` is a piece of the source and the fault that takes its place. Nothing moves unless a
    test asks for it, `reduced_motion=`: edges that flow are drawn anew sixty times a second.
    """
    opened, errors = [], []

    def open_page(
        layer: Any = None,
        image: Any = None,
        *,
        planted: tuple[str, str] | None = None,
        **context: Any,
    ) -> Any:
        path = tmp_path / f"page{len(opened)}.html"
        text = page(layer, image)
        if planted is not None:
            text = planting.planted(text, *planted)
        path.write_text(text, encoding="utf-8")
        surroundings = browser.new_context(offline=True, **{**STILL, **context})
        opened.append(surroundings)
        tab = surroundings.new_page()
        tab.on("pageerror", lambda error: errors.append(error))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for surroundings in opened:
        surroundings.close()
    assert errors == []


@pytest.fixture(scope="module")
def computed(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that hands a layer and an image to one page and returns what it computes."""
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    path.write_text(page(), encoding="utf-8")
    surroundings = browser.new_context(offline=True, **STILL)
    tab = surroundings.new_page()
    tab.goto(path.as_uri())

    def compute(layer: Any, image: Any) -> Any:
        tab.evaluate("state => convgraphExplorer.view.open(state)", state_of(layer, image))
        return tab.evaluate(COMPUTE)

    yield compute
    surroundings.close()
