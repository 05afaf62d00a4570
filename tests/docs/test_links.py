"""The checker of the documentation's links finds what is broken, and only that."""

from tests.docs.links import broken


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
