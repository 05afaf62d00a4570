"""A headless browser for the explorer's page; where there is none, the tests say so and skip."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convgraph.explorer import page

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=list(ARGS))
        yield started
        started.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that opens the page of a layer and an image; a script error fails the test.

    `planted` is a piece of the source and the fault that takes its place.
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
            assert text.count(planted[0]) == 1
            text = text.replace(*planted)
        path.write_text(text, encoding="utf-8")
        surroundings = browser.new_context(offline=True, **context)
        opened.append(surroundings)
        tab = surroundings.new_page()
        tab.on("pageerror", lambda error: errors.append(error))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for surroundings in opened:
        surroundings.close()
    assert errors == []
