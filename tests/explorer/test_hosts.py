"""The page inside of another page: the frame of the documentation, with the script it has there."""

from pathlib import Path

import pytest

from convgraph.explorer import page

DOCUMENT = Path(__file__).parents[2] / "docs" / "explorer.md"


def test_the_frame_of_the_documentation_fits_and_follows_its_light(browser, tmp_path) -> None:
    if not DOCUMENT.exists():
        pytest.skip("needs docs/, which is not here")
    text = DOCUMENT.read_text(encoding="utf-8")
    inside = text[text.index("<iframe") : text.index("</script>") + len("</script>")]
    (tmp_path / "explorer-page.html").write_text(page(), encoding="utf-8")
    outside = f'<!doctype html><body data-md-color-scheme="slate">{inside}'
    (tmp_path / "explorer.html").write_text(outside, encoding="utf-8")
    surroundings = browser.new_context(offline=True, color_scheme="light")
    tab = surroundings.new_page()
    tab.goto((tmp_path / "explorer.html").as_uri())
    root = tab.frame_locator("iframe").locator("html")
    root.locator("css=[data-y]").wait_for()
    tab.wait_for_function("document.querySelector('iframe').style.height !== '1180px'")
    inner = root.evaluate("element => [element.scrollHeight, window.innerHeight]")
    assert inner[0] == inner[1]  # nothing to scroll inside of the frame
    tab.frame_locator("iframe").locator("html[data-theme=dark]").wait_for()
    tab.evaluate("document.body.dataset.mdColorScheme = 'default'")
    tab.frame_locator("iframe").locator("html[data-theme=light]").wait_for()
    surroundings.close()
