"""The command line: arguments reach the call, and its answer becomes the exit code."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import convgraph
from convgraph.cli import main


def fake_demo(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    monkeypatch.setitem(sys.modules, "convgraph.demo", SimpleNamespace(run=run))


@pytest.mark.parametrize("code", [0, 1])
def test_demo_passes_its_arguments_and_returns_its_code(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def run(out: Path, fast: bool) -> int:
        seen.update(out=out, fast=fast)
        return code

    fake_demo(monkeypatch, run)
    assert main(["demo", "--out", "elsewhere", "--fast"]) == code
    assert seen == {"out": Path("elsewhere"), "fast": True}


def test_demo_writes_to_demo_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def run(out: Path, fast: bool) -> int:
        seen.update(out=out, fast=fast)
        return 0

    fake_demo(monkeypatch, run)
    main(["demo"])
    assert seen == {"out": Path("demo"), "fast": False}


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: Path, fast: bool) -> int:
        raise ModuleNotFoundError("No module named 'sklearn.datasets'", name="sklearn.datasets")

    fake_demo(monkeypatch, run)
    assert main(["demo"]) == 1
    assert 'pip install "convgraph[viz]"' in capsys.readouterr().err


def test_a_missing_package_that_no_extra_brings_is_a_fault_and_stays_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(out: Path, fast: bool) -> int:
        raise ModuleNotFoundError("No module named 'tyop'", name="tyop")

    fake_demo(monkeypatch, run)
    with pytest.raises(ModuleNotFoundError, match="tyop"):
        main(["demo"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"convgraph {convgraph.__version__}\n"


@pytest.mark.parametrize("argv", [[], ["unknown"], ["demo", "--size", "3"]])
def test_wrong_arguments_end_with_three(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 3
    assert "usage: convgraph" in capsys.readouterr().err


def test_python_m_convgraph_is_the_command() -> None:
    import convgraph.__main__

    assert isinstance(convgraph.__main__, ModuleType)
    assert convgraph.__main__.main is main
