"""The page of a certificate: whole, parsable, self-contained, and no name runs as code."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from convgraph.comparison.named import certify
from convgraph.proof import Certificate, Part
from convgraph.proof.record.page import index

VOID = {"meta", "line", "rect", "br"}
EVIL = "<script>alert('1')</script>\"&"


class Page(HTMLParser):
    """Every tag must be closed by its own; text and attributes are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def proven() -> Certificate:
    return certify("tests.twins:graph", "tests.twins:dense", size=(5, 4), seed=1)


def test_it_says_what_the_record_says(proven: Certificate, tmp_path: Path) -> None:
    text = proven.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    page = Page(text)
    assert page.open == []
    said = [proven.name, proven.candidate, proven.reference, str(proven.seed), proven.digest]
    said += [word for part in proven.parts for word in (part.name, part.facts)]
    said += [*proven.assumed, *proven.not_covered, *proven.rho, *proven.versions.values()]
    assert [word for word in said if word not in page.text] == []
    assert "svg" in page.tags


def test_it_needs_no_network_and_no_script(proven: Certificate) -> None:
    text = proven.to_html()
    page = Page(text)
    policy = """<meta http-equiv="Content-Security-Policy" content="default-src 'none';"""
    assert text.count(policy) == 1, "the page forbids itself to load anything"
    assert "http" not in text.replace(policy, "")
    assert "url(" not in text
    assert "@import" not in text
    assert page.links == []
    assert {"script", "link", "img", "iframe"} & {*page.tags} == set()
    assert "prefers-color-scheme:dark" in text


def test_every_text_is_escaped(proven: Certificate) -> None:
    evil = replace(
        proven,
        name=EVIL, verdict="refuted", reason=EVIL, parts=(Part(EVIL, EVIL, EVIL),), dtype=EVIL,
        device=EVIL, spec={EVIL: EVIL}, rho={EVIL: 0.5}, rho_exact={EVIL: float("nan")},
        counterexample={EVIL: EVIL}, versions={EVIL: EVIL}, flags={EVIL: EVIL}, assumed=(EVIL,),
        not_covered=(EVIL,), candidate=EVIL, reference=EVIL, adapter={EVIL: EVIL}, trace=EVIL,
        cause=EVIL, excluded=(EVIL,),
    )  # fmt: skip
    nested = replace(evil, kind="network", layers=(evil,))
    for text in (evil.to_html(), nested.to_html(), index([(EVIL, EVIL, EVIL)])):
        page = Page(text)
        assert page.open == []
        assert "<script" not in text
        assert EVIL in page.text
    assert "script" not in Page(nested.to_html()).tags


def test_a_network_lists_its_layers(proven: Certificate) -> None:
    broken = replace(proven, verdict="refuted", reason="no", name="the broken one")
    text = replace(proven, kind="network", layers=(proven, broken), verdict="refuted").to_html()
    page = Page(text)
    assert page.tags.count("details") == 2
    assert "the broken one" in page.text
    assert text.count("<details open>") == 1, "what failed is shown first"


def test_a_ratio_above_the_bound_stands_out(proven: Certificate) -> None:
    assert "bar over" not in proven.to_html()
    assert "bar over" in replace(proven, rho={"y": 1.5}).to_html()
    assert "bar over" in replace(proven, rho={"y": float("nan")}).to_html()
    assert "bar over" in replace(proven, rho={"y": float("inf")}).to_html()


def test_a_page_claims_what_its_kind_has_shown_and_no_more() -> None:
    pair = "tests.twins:graph", "tests.twins:dense"
    pages = {
        "convolution": certify(*pair, size=(6, 5)).to_html(),
        "linear": certify("tests.twins:graph_pool", "tests.twins:pool", size=(6, 5)).to_html(),
        "network": certify(None, "tests.twins:network", size=(9, 8)).to_html(),
    }
    says = {
        "convolution": "every image, every weight and every incoming gradient",
        "linear": "the same linear function of every image",
        "network": "Gradients of the whole network are claimed where their part is proven",
    }
    for kind, text in pages.items():
        assert [name for name, claim in says.items() if claim in text] == [kind]
        assert "[-0, 0]" not in text
        assert "white-space:pre-wrap" in text
