"""The checker of links finds what is broken, and only that; pages are listed, pictures drawn."""

import json
import re
from pathlib import Path

import pytest

from tests.docs.links import broken
from tests.docs.pictures import pixel_graph

ROOT = Path(__file__).resolve().parents[2]


def test_every_page_is_in_the_navigation() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    pages |= {f"lessons/{path.stem}.md" for path in (ROOT / "notebooks").glob("[0-9]*.py")}
    pages |= {f"zh/lessons/{path.name}" for path in (ROOT / "notebooks" / "zh").glob("[0-9]*.md")}
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").splitlines()
    listed = {line.split()[-1] for line in lines if line.endswith(".md")}
    assert pages | {"contributing.md"} == listed


def test_an_example_of_a_docstring_is_read_as_code() -> None:
    pytest.importorskip("griffe", reason="the API pages need the extra `docs`")
    from tests.docs.examples import renamed

    text = "Say.\n\n    Example:\n        >>> 1\n        1\n\n    Example: none.\n"
    assert renamed(text) == text.replace("Example:\n", "Examples:\n")


def test_the_pictures_of_the_tutorial_are_drawn(tmp_path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    files = pixel_graph(tmp_path)
    assert [f"images/{file.name}" in text and file.stat().st_size > 0 for file in files] == [
        True
    ] * 2


def test_what_a_page_prints_and_draws_follows_its_code(tmp_path) -> None:
    from tests.docs.shown import with_outputs

    blocks = (
        "print(6 * 7)",
        "from matplotlib.figure import Figure\nfigure = Figure()\n# shows: An empty figure.",
        "assert figure",
    )
    text = "\n\n".join(f"```python\n{block}\n```" for block in blocks) + "\n"
    with pytest.raises(NameError):  # a figure is shown once, and then gone
        with_outputs(text, tmp_path, "page")
    shown = with_outputs(text.replace("assert figure", "assert True"), tmp_path, "page")
    assert "\n\n```{ .text .shown }\n42\n```\n" in shown
    assert "![An empty figure.](images/page-1.png)" in shown
    assert (tmp_path / "images" / "page-1.png").stat().st_size > 0


def test_the_switch_of_languages_leads_to_the_same_page(tmp_path) -> None:
    from tests.docs.languages import link_languages

    switch = '<html lang="en"><a href="/">English</a><a href="/zh/">other</a>'
    for folder in ("", "zh", "tutorial", "zh/tutorial", "guide"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "index.html").write_text(switch, encoding="utf-8")
    link_languages(tmp_path)
    found = {
        folder: (tmp_path / folder / "index.html").read_text(encoding="utf-8")
        for folder in ("tutorial", "zh/tutorial", "guide")
    }
    assert 'href="../zh/tutorial/"' in found["tutorial"]
    assert 'href="../../tutorial/"' in found["zh/tutorial"]
    assert found["zh/tutorial"].startswith('<html lang="zh">')
    assert 'href="../zh/"' in found["guide"]  # not translated: the home page
    assert broken(tmp_path) == []


def test_both_glossaries_have_one_terminology() -> None:
    def rows(path: Path, head: str) -> list[list[str]]:
        table = path.read_text(encoding="utf-8").split(head)[1].split("\n\n")[0]
        return [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
        ]

    chinese = {
        word: term
        for english, terms, _ in rows(ROOT / "docs" / "zh" / "glossary.md", "意思 |")
        for word, term in zip(english.split(", "), terms.split("\N{FULLWIDTH COMMA}"), strict=True)
    }
    asked = [
        (word, chinese[word], third)
        for dense, _, third, _ in rows(ROOT / "docs" / "glossary.md", "changes |")
        for word in chinese
        if re.search(rf"\b{word}\b", dense)
    ]
    assert len(asked) >= 12
    assert [found for found in asked if found[1] not in found[2]] == []


def test_one_setting_turns_on_the_links_to_the_repository(tmp_path) -> None:
    from tests.docs.addresses import edit_the_text, variables

    urls = '[project.urls]\nRepository = "https://gitlab.example.org/a/b"\nDocumentation = "https://example.org/"'
    found = variables(urls)
    assert found["CONVGRAPH_EDIT"] == "https://gitlab.example.org/a/b/-/edit/main/docs/"
    asked = set(re.findall(r"!ENV \[(\w+),", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert asked == set(found)
    assert variables("[project]") == {}
    there = {}
    for page in ("lessons/01_an_image", "zh/lessons/01_an_image", "contributing", "glossary"):
        (tmp_path / page).mkdir(parents=True)
        link = f'<a href="{found["CONVGRAPH_EDIT"]}{page}.md" title="Edit this page">'
        (tmp_path / page / "index.html").write_text(link, encoding="utf-8")
    edit_the_text(tmp_path)
    for path in tmp_path.rglob("index.html"):
        (end,) = re.findall(r'/edit/main/([^"]*)"', path.read_text(encoding="utf-8"))
        assert (ROOT / end).exists() or "01_an_image" in end
        there[str(path.parent.relative_to(tmp_path))] = end
    assert there["lessons/01_an_image"] == "notebooks/01_an_image.py"
    assert there["zh/lessons/01_an_image"] == "notebooks/zh/01_an_image.md"
    assert there["contributing"] == "CONTRIBUTING.md"


def test_versions_lie_beside_each_other(tmp_path) -> None:
    from tests.docs.versions import publish

    site, folder = tmp_path / "site", tmp_path / "all"
    (site / "guide").mkdir(parents=True)
    for page in (site, site / "guide"):
        (page / "index.html").write_text("<html><body>old</body></html>", encoding="utf-8")
    (folder / ".git").mkdir(parents=True)
    for version in ("0.9.0", "0.10.0", "0.10.0rc1"):
        found = publish(site, folder, version)
    assert found == ["0.10.0", "0.10.0rc1", "0.9.0"]
    listed = (folder / "versions.js").read_text(encoding="utf-8").partition(";")[0]
    pages = json.loads(listed.removeprefix("const PAGES = "))
    assert list(pages) == found
    assert pages["0.9.0"] == ["", "guide/"]
    assert "url=0.10.0/" in (folder / "index.html").read_text(encoding="utf-8")
    assert broken(folder) == []  # the switch of every page is there
    text = (folder / "0.9.0" / "guide" / "index.html").read_text(encoding="utf-8")
    assert '<script src="../../versions.js" data-version="0.9.0" data-page="guide/">' in text
    assert publish(site, folder, "0.10.0") == found
    assert (site / "index.html").read_text(encoding="utf-8").count("script") == 0


def test_a_formula_becomes_mathml() -> None:
    pytest.importorskip("latex2mathml", reason="formulas need the extra `docs`")
    from tests.docs.formulas import typeset

    text = (
        '<p><span class="arithmatex">\\(a &lt; b\\)</span></p>'
        '<div class="arithmatex">\\[\\frac{1}{k}\\]</div>'
    )
    made = typeset(text)
    assert "arithmatex" not in made
    assert "<mo>&lt;</mo>" in made.replace("&#x0003C;", "&lt;")
    assert "<mfrac>" in made


def test_links_frames_and_anchors(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a id="top" href="a/">page</a><a href="a/#part">part</a><a href="https://example.org/x">out</a>'
        '<a href="#top">top</a><img src="data:,">'
    )
    (tmp_path / "a" / "index.html").write_text('<h2 id="part"></h2><a href="..">home</a>')
    assert broken(tmp_path) == []
    (tmp_path / "a" / "index.html").write_text(
        '<h2 id="twice"></h2><p id="twice"></p><iframe src="../../page.html"></iframe>'
    )
    assert broken(tmp_path) == [
        "a/index.html: two of #twice",
        "a/index.html: ../../page.html does not exist",
        "index.html: a/#part has no such anchor",
    ]
