"""The README keeps its word: its code runs as printed, its commands and its links exist."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import convgraph
from convgraph import backends, draw
from tests.convert.trained import library

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def code_blocks(text: str, language: str) -> list[tuple[int, str]]:
    """Return each fenced block of a language with the number of its first line."""
    fences = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, fence.start(1)) + 1, fence[1]) for fence in fences]


BLOCKS = code_blocks(README.read_text(encoding="utf-8"), "python")
PAGES = (
    "docs/index.md",
    "docs/gallery.md",
    "docs/tutorial.md",
    "docs/all-of-convgraph.md",
    "docs/certificates.md",
    "docs/guide/prove.md",
    "docs/guide/masks.md",
    "docs/guide/spaces.md",
    "docs/guide/hexagonal-cameras.md",
    "docs/guide/healpix.md",
    "docs/guide/convert.md",
    "docs/guide/safety.md",
    "docs/guide/own-layer.md",
    "docs/guide/faces.md",
    "docs/guide/pretraining.md",
    "docs/guide/large-images.md",
    "docs/guide/how-many-workers.md",
)


def test_there_is_code_to_run() -> None:
    assert BLOCKS


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_the_documentation_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = code_blocks((ROOT / page).read_text(encoding="utf-8"), "python")
    assert blocks
    if any("facenet_pytorch" in source for _, source in blocks):
        library()  # or skip
    # A module with a file of its own, which PyG reads; lines keep the numbers of the page.
    lines: list[str] = []
    for line, source in blocks:
        lines += [""] * (line - 1 - len(lines)) + source.splitlines()
    file = tmp_path / "page.py"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("page_of_the_documentation", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)


@pytest.mark.parametrize(("line", "source"), BLOCKS, ids=[f"line {line}" for line, _ in BLOCKS])
def test_python_runs_as_printed(line: int, source: str) -> None:
    # Empty lines in front make a traceback name the README's own line.
    exec(compile("\n" * (line - 1) + source, str(README), "exec"), {"__name__": "__readme__"})


def test_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", README.read_text("utf-8"), re.MULTILINE))
    assert named >= {"demo", "test"}
    assert named <= targets


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_all_of_convgraph_is_on_its_page() -> None:
    page = (ROOT / "docs/all-of-convgraph.md").read_text("utf-8")
    layers = [re.sub("[123]d$|Nd$", "", name) for name in convgraph.nn.__all__]
    pictures = [name for name in draw.__all__ if name.islower() and name != "tap_colours"]
    names = {*convgraph.__all__, *layers, *backends.NAMES, *pictures}
    assert {name for name in names if not re.search(rf"\b{name}", page)} == set()


def unpublished(text: str) -> list[str]:
    """Return the commands that install the project from an index, where nobody has put it."""
    return re.findall(r"pip install (?:-\S+ )*[\"']?convgraph\b.*", text)


def texts() -> list[Path]:
    """Every text that a reader may meet."""
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "notebooks").rglob("*.md"),
    ]
    scripts = (ROOT / "convgraph").rglob("*")
    pages += [*(ROOT / "notebooks").glob("*.py")]
    return pages + [path for path in scripts if path.suffix in (".py", ".js")]


def test_no_page_and_no_message_installs_what_is_not_published() -> None:
    found = {str(p.relative_to(ROOT)): unpublished(p.read_text("utf-8")) for p in texts()}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('pip install "convgraph[viz]"', True),
        ("run pip install -U convgraph", True),
        ('pip install ".[viz]"', False),
        ("pip install anywidget, or convgraph explore", False),
    ],
)
def test_an_unpublished_name_is_found(text: str, found: bool) -> None:
    assert bool(unpublished(text)) is found


def other_edges(text: str) -> list[str]:
    """Return where "edge" is not one of the graph: a change of brightness is a contour."""
    kinds = "vertical|horizontal|sharp|soft|blurred|image|picture|Sobel|Canny"
    wrong = rf"(?i)\b(?:{kinds})[ -]edges?\b|\bedge[ -](?:detect\w*|filters?|maps?|finding)|边缘"
    elsewhere = "别处常.{1,3}边缘"  # what others call it
    return [found[0] for found in re.finditer(wrong, re.sub(elsewhere, "", text))]


def test_an_edge_is_an_edge_of_the_graph_in_both_languages() -> None:
    found = {str(p.relative_to(ROOT)): other_edges(p.read_text("utf-8")) for p in texts()}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("vertical edges and an edge detector", ["vertical edges", "edge detector"]),
        ("复制边缘", ["边缘"]),
        ("轮廓, 别处常说边缘", []),
        ("horizontal contours over typed edges", []),
    ],
)
def test_another_edge_is_found(text: str, found: list[str]) -> None:
    assert other_edges(text) == found


def test_every_folder_named_exists() -> None:
    named = re.findall(r"`((?:convgraph|tests|docs)/[\w./]*)`", README.read_text("utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no code", []),
        ("```python\na = 1\n```\n", [(2, "a = 1\n")]),
        ("x\n\n```sh\nls\n```\n```python\na\n\nb\n```\n", [(7, "a\n\nb\n")]),
    ],
)
def test_blocks_are_found_with_their_lines(text: str, expected: list[tuple[int, str]]) -> None:
    assert code_blocks(text, "python") == expected
