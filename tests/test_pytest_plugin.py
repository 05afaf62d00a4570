"""The plugin, as another suite meets it: its fixture, its options, its failure, and its price."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import convgraph
from convgraph.proof import Certificate
from convgraph.proof.record.sealed import kind_of
from convgraph.pytest_plugin import ProveEqual

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(convgraph.__file__).resolve().parents[1]
"""Where the package lies, which need not be beside its tests."""

SUITE = """
import torch
import convgraph as cg
from convgraph.comparison.callers import relational
from torch_geometric.nn import RGCNConv

conv = torch.nn.Conv2d(2, 3, 3, padding=1)


def test_equal(prove_equal):
    cert = prove_equal(cg.nn.GraphConv2d.from_dense(conv), conv, size=(5, 5))
    assert cert.log2_epsilon > -100 or cert.epsilon == 2.0**-100


def test_different(prove_equal):
    other = torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate")
    prove_equal(cg.nn.GraphConv2d.from_dense(conv), other, size=(5, 5))


def test_whatever_prove_takes(prove_equal):
    pair = cg.nn.GraphConv2d.from_dense(conv), conv
    images = torch.randn(2, 2, 5, 5)
    assert prove_equal(*pair, images).spec["size"] == [5, 5]
    assert prove_equal(*pair, cg.PixelGraph.from_image(images)).verdict == "proven"
    prove_equal(*pair, size=5, second=True, on=cg.Torus())
    layer = cg.AsNodes(RGCNConv(2, 3, 1, aggr="sum", root_weight=False), relational)
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.zeros(3, dtype=torch.long)
    prove_equal(layer, layer, edges=edges)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.ReLU())
    assert "parts of an image" in str(prove_equal(cg.tiled(net, torch.rand(1, 9, 9), tile=4).plan))


def test_undecided(prove_equal):
    tiny = torch.nn.Conv2d(1, 1, 1)
    none = torch.zeros(5, 5, dtype=torch.bool)
    prove_equal(cg.nn.GraphConv2d.from_dense(tiny), tiny, size=(5, 5), mask=none)
"""


TWICE = """
import os, pytest
for folder, *options in (
    ("told", "--convgraph-report=certificates", "--convgraph-epsilon=1e-6"),
    ("plain", "-k", "test_equal"),
):
    os.chdir(folder)
    pytest.main(["-p", "pytest_convgraph", "-p", "no:cacheprovider", "--rootdir=.", *options])
    os.chdir("..")
    print("\\0")
"""
"""One process, which imports torch once, runs a suite with options, and then one without."""


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The folder of both suites, and what pytest printed of each."""
    folder = tmp_path_factory.mktemp("suites")
    for name in ("told", "plain"):
        (folder / name).mkdir()
        (folder / name / f"test_{name}.py").write_text(SUITE, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, check=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )  # fmt: skip
    return folder, [part.splitlines() for part in ran.stdout.split("\0")]


def outcomes(said: list[str]) -> dict[str, int]:
    """How many tests ended how; warnings are torch's own."""
    found = pytest.RunResult.parse_summary_nouns(said)
    return {what: count for what, count in found.items() if what != "warnings"}


def test_the_fixture_proves_and_fails_with_what_differs(
    suites: tuple[Path, list[list[str]]],
) -> None:
    folder, (said, *_) = suites
    assert outcomes(said) == {"passed": 2, "failed": 2}
    lines = pytest.LineMatcher(said)
    lines.fnmatch_lines(["*: refuted", "*edge image 0 pixel*", "*to replay: float32 on cpu*"])
    lines.fnmatch_lines(["*: undecided", "*there is no edge to compare*"])
    folder = folder / "told" / "certificates"
    texts = [path.read_text() for path in sorted(folder.glob("*.json"))]
    plans = [text for text in texts if kind_of(text)]
    assert len(plans) == 1
    records = [Certificate.from_json(text) for text in texts if text not in plans]
    assert {record.verdict for record in records} == {"proven", "refuted", "undecided"}
    assert {record.epsilon for record in records if record.trials} == {1e-6}
    listed = (folder / "index.html").read_text(encoding="utf-8")
    assert listed.count(".json") == 1
    for path in folder.glob("*.html"):
        assert path.name == "index.html" or f'href="{path.name}"' in listed
    assert len([*folder.glob("*.html")]) == len(texts)  # the index in place of the plan's page


def test_without_options_it_writes_nothing_and_asks_for_the_default(
    suites: tuple[Path, list[list[str]]],
) -> None:
    folder, (_, said, _) = suites
    assert outcomes(said) == {"passed": 1, "deselected": 3}
    plain = folder / "plain"
    assert [path for path in plain.rglob("*") if path.suffix in (".json", ".html")] == []


def test_a_record_that_cannot_be_read_fails_no_other_test(tmp_path: Path) -> None:
    """A folder keeps what other versions wrote, and what another process has half written."""
    conv = torch.nn.Conv2d(1, 1, 1)
    (tmp_path / "test-old-1.json").write_text("{", encoding="utf-8")
    prove_equal = ProveEqual("test_new", report=str(tmp_path))
    assert prove_equal(conv, conv, size=(3, 3)).verdict == "proven"
    listed = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="test-old-1.json"' in listed
    assert "unreadable" in listed
    assert "proven" in listed


def test_nobody_sees_a_record_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of one run share the folder, and each reads what the others write."""
    conv, seen = torch.nn.Conv2d(1, 1, 1), []
    plain = Path.write_text

    def looks(path: Path, *args: Any, **kwargs: Any) -> int:
        seen.append(path.name)
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", looks)
    ProveEqual("test_new", report=str(tmp_path))(conv, conv, size=(3, 3))
    assert not [name for name in seen if name.endswith(".json") or name == "index.html"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".html"}


def test_a_suite_that_does_not_use_it_pays_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HOME))
    pytester.makepyfile(
        """
        import sys

        def test_nothing():
            assert "pytest_convgraph" in sys.modules
            assert not {"torch", "numpy", "convgraph"} & set(sys.modules)
        """
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others' plugins
    found = pytester.runpytest_subprocess("-p", "pytest_convgraph")
    found.assert_outcomes(passed=1)
    said = pytester.runpytest_subprocess("-p", "pytest_convgraph", "--help").stdout.str()
    assert "convgraph" in said


def test_the_entry_point_names_the_light_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    points = project["project"]["entry-points"]["pytest11"]
    assert points == {"pytest_convgraph": "pytest_convgraph"}
    assert (
        "pytest_convgraph.py"
        in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    )
    code = "import sys, pytest_convgraph; print({'torch', 'convgraph'} & set(sys.modules))"
    bare = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HOME
    )
    assert bare.stdout.strip() == "set()"
