"""The command line: arguments reach the call, and its answer becomes the exit code."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import convgraph
from convgraph.cli import main
from convgraph.comparison.named import certify
from convgraph.proof import Certificate
from tests import twins

HOME = Path(convgraph.__file__).resolve().parents[1]
"""Where the package lies, which need not be beside its tests."""


def fake_demo(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    monkeypatch.setitem(sys.modules, "convgraph.demo", SimpleNamespace(run=run))


@pytest.mark.parametrize("code", [0, 1])
def test_demo_passes_its_arguments_and_returns_its_code(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = {}

    def run(out: Path, fast: bool) -> int:
        seen.update(out=out, fast=fast)
        return code

    fake_demo(monkeypatch, run)
    assert main(["demo", "--out", "elsewhere", "--fast"]) == code
    assert seen == {"out": Path("elsewhere"), "fast": True}


def test_demo_writes_to_demo_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
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
    assert main(["demo"]) == 3
    assert "pip install scikit-learn" in capsys.readouterr().err


def test_a_missing_package_that_no_extra_brings_is_a_fault_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: Path, fast: bool) -> int:
        raise ModuleNotFoundError("No module named 'tyop'", name="tyop")

    fake_demo(monkeypatch, run)
    assert main(["demo"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "tyop" in said


def test_the_version_is_said_without_torch() -> None:
    ask = (
        "import sys, convgraph_start; sys.argv[1:] = ['--version']; code = convgraph_start.main();"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=HOME)
    assert (done.returncode, done.stdout) == (0, f"convgraph {convgraph.__version__}\n")


def test_exploring_says_where_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--out", str(tmp_path / "page.html")]) == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    assert main(["explore", "--out", str(tmp_path / "no" / "page.html")]) == 3
    assert "cannot write" in capsys.readouterr().err


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


TWINS = ["tests.twins:graph", "tests.twins:dense", "--size", "6", "5"]


def test_prove_writes_what_it_proved_and_verify_runs_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, page = tmp_path / "c.json", tmp_path / "c.html"
    argv = ["prove", *TWINS, "--dtype", "float64", "--seed", "5", "--epsilon", "1e-9"]
    assert main([*argv, "--json", str(record), "--html", str(page)]) == 0
    table = capsys.readouterr().out
    assert "tests.twins:graph" in table
    assert "float64 on cpu" in table
    assert max(map(len, table.splitlines())) <= 100
    assert "<svg" in page.read_text(encoding="utf-8")
    found = Certificate.from_json(record.read_text(encoding="utf-8"))
    assert (found.seed, found.epsilon, found.dtype) == (5, 1e-9, "float64")
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 0
    assert capsys.readouterr().out.startswith("verified\n")
    record.write_text(record.read_text(encoding="utf-8").replace('"trials": ', '"trials": 1'))
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 1
    assert "digest" in capsys.readouterr().out  # what is not sealed is not run


def test_prove_in_a_space_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "c.json"
    sphere = [*TWINS[:2], "--size", "24", "2", "--on", "healpix:corner=mean"]
    assert main(["prove", *sphere, "--json", str(record)]) == 0
    assert "locally square at 0 of" in capsys.readouterr().out
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 0
    assert capsys.readouterr().out.startswith("verified")


def test_what_only_the_prover_can_find_is_refused_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = certify("tests.twins:graph", "tests.twins:dense", size=(6, 5))
    parts = tuple(replace(part, facts=part.facts.replace("typed", "other")) for part in found.parts)
    replace(found, parts=parts).to_json(tmp_path / "c.json")
    assert main(["verify", str(tmp_path / "c.json"), "--trust", "tests.twins"]) == 1
    assert "parts: comes out otherwise" in capsys.readouterr().out


def test_what_a_module_draws_when_it_is_imported_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever imports a module, and when: a layer in it is the one that its factory makes."""
    monkeypatch.chdir(tmp_path)
    layer = "torch.nn.Conv2d(1, 1, 1)"
    Path("drawing.py").write_text(
        f"import torch\nlayer = {layer}\n\ndef made():\n    return {layer}\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for pair in (["drawing:layer", "drawing:made"], ["drawing:made", "drawing:layer"]):
        assert main(["prove", *pair, "--size", "2", "2", "--json", "c.json", "--quiet"]) == 0
        del sys.modules["drawing"]
        assert main(["verify", "c.json", "--trust", "drawing"]) == 0, capsys.readouterr().out
        del sys.modules["drawing"]


def test_prove_says_refuted_undecided_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "r.json"
    refuted = ["prove", "tests.twins:scaled", *TWINS[1:], "--quiet", "--json", str(record)]
    assert main(refuted) == 1
    assert capsys.readouterr().out == "refuted\n"
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 1
    assert capsys.readouterr().out == "verified\n  the record holds: refuted\n"
    np.save(tmp_path / "none.npy", np.zeros((6, 5), dtype=bool))
    assert main(["prove", *TWINS, "--mask", str(tmp_path / "none.npy")]) == 2
    assert "no edge to compare" in capsys.readouterr().out
    assert main(["prove", "tests.twins:raising", *TWINS[1:]]) == 2
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "the candidate raised RuntimeError: out of luck" in shown


@pytest.mark.parametrize("sides", [("exits", "dense"), ("dense", "exits")])
def test_a_side_that_ends_the_process_is_undecided(
    sides: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """1 means refuted; whoever calls `sys.exit(1)` in a layer refutes nothing."""
    assert main(["prove", *(f"tests.twins:{side}" for side in sides), *TWINS[2:]]) == 2
    assert "SystemExit: 1" in capsys.readouterr().out


class Stop(BaseException):
    """No Exception, as pytest's own `skip` is none."""


def test_a_side_that_raises_past_every_except_is_undecided(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stop(self: object, x: object) -> None:
        raise Stop("here")

    argv = ["prove", "tests.twins:exits", *TWINS[1:], "--quiet"]
    record = tmp_path / "c.json"
    monkeypatch.setattr(twins._Exits, "forward", torch.nn.Conv2d.forward)
    assert main([*argv, "--json", str(record)]) == 0
    monkeypatch.setattr(twins._Exits, "forward", stop)
    assert main(argv) == 2
    assert "Stop: here" in capsys.readouterr().out
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 1
    assert "refused\n  record: cannot be run, Stop: here" in capsys.readouterr().out


class _Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


@pytest.mark.parametrize("stream", [None, _Full(), io.TextIOWrapper(io.BytesIO())])
def test_an_answer_that_cannot_be_printed_is_still_the_exit_code(
    stream: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with `>&-`, with a full disk, and where somebody closed it."""
    if isinstance(stream, io.TextIOWrapper):
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["prove", *TWINS]) == 0
    assert main(["prove", "tests.twins:scaled", *TWINS[1:], "--quiet"]) == 1
    assert "cannot print the answer" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["prove", *TWINS, "--seed", "-1"]) == 3


def test_a_side_that_leaves_the_folder_takes_no_file_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def leave(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        os.chdir(tmp_path / "elsewhere")
        return torch.nn.Conv2d.forward(self, x)

    monkeypatch.setattr(twins._Exits, "forward", leave)
    assert main(["prove", "tests.twins:exits", *TWINS[1:], "--json", "c.json"]) in (0, 2)
    assert (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["prove", "tests.twins:nobody", *TWINS[1:]], "there is no 'nobody'"),
        (["prove", "no_such_package:x", *TWINS[1:]], "no_such_package"),
        (["prove", "dense", *TWINS[1:]], "expected module:object, got 'dense'"),
        (["prove", "./tests.twins:dense", *TWINS[1:]], "expected module:object, got './tests"),
        (["prove", "tests.twins:dense(", *TWINS[1:]], "expected module:object, got 'tests.twins:d"),
        (["prove", *TWINS, "--json", "c", "--html", "./c"], "expected two files, got c for both"),
        (["prove", "tests.twins:__doc__", *TWINS[1:]], "is no torch Module and no function"),
        (["prove", *TWINS[:2], "--size", "6"], "expected a size of 2 axes"),
        (["prove", *TWINS, "--batch", "1"], "batch"),
        (["prove", "tests.twins:raise_twice", "--size", "6"], "expected a torch.nn.Module"),
        (["prove", "tests.twins:network", "--size", "6"], "expected a convolution of 1 axes"),
        (["prove", *TWINS, "--epsilon", "2"], "expected 0 < epsilon < 1"),
        (["prove", *TWINS, "--on", "moebius"], "expected a space of a kind in"),
        (["prove", *TWINS, "--on", "torus:lines=true"], "torus: expected settings among"),
        (["prove", *TWINS, "--on", "healpix"], "twelve faces of n x n"),
        (["prove", *TWINS, "--mask", "no/such.npy"], "no/such.npy"),
        (["prove", *TWINS, "--mask", os.devnull], "expected an array that numpy.save wrote"),
        (["prove", *TWINS, "--device", "meta"], "hold no numbers"),
        (["prove", *TWINS, "--device", "privateuseone"], "privateuseone is not there"),
        (["prove", *TWINS, "--seed", "-1"], "expected a whole number from 0 on"),
        (["prove", *TWINS, "--json", "no/such/c.json"], "expected a file in a folder"),
        (["prove", *TWINS, "--html", "c" * 300], "cannot write ccc"),
        (["prove", *TWINS, "--json", "c\0"], "null byte"),
        (["demo", "--out", os.devnull], f"cannot write into {os.devnull}"),
        (["verify", "no/such.json"], "no/such.json"),
        (["verify", "c\0"], "null byte"),
    ],
)
def test_bad_usage_is_three(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 3
    assert says in capsys.readouterr().err


def test_one_model_is_converted_and_its_layers_are_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prove", "tests.twins:dense", "--size", "6", "5", "--quiet"]) == 0
    assert capsys.readouterr().out == "proven\n"
    record = tmp_path / "n.json"
    argv = ["prove", "tests.twins:network", "--size", "9", "8", "--json", str(record)]
    assert main(argv) == 0
    assert "convgraph:to_graph(tests.twins:network)" in capsys.readouterr().out
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith(
        "could not be decided\n  kind: network is recorded; here only its layers"
    )
    for layer in ("0", "2", "fc"):
        assert f"  layers: {layer}: the record holds: proven\n" in printed
    record.write_text(record.read_text(encoding="utf-8").replace('"dilation": ', '"dilatation": '))
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 1
    assert capsys.readouterr().out.startswith("refused\n")


def test_an_operator_without_parameters_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "p.json"
    argv = ["prove", "tests.twins:graph_pool", "tests.twins:pool", "--size", "6", "5"]
    assert main([*argv, "--json", str(record)]) == 0
    assert main(["verify", str(record), "--trust", "tests.twins"]) == 0
    assert capsys.readouterr().out.endswith("verified\n  the record holds: proven\n")


def test_a_process_imports_from_its_folder_and_shows_the_table_in_ascii(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch, convgraph as cg\n"
        "conv = torch.nn.Conv2d(1, 1, 1)\nlayer = cg.nn.GraphConv2d.from_dense(conv)\n"
    )
    command = "import sys; sys.path.remove(''); from convgraph.cli import main; sys.exit(main())"
    argv = ["prove", "mine:layer", "mine:conv", "--size", "4", "4"]
    run = subprocess.run(
        [sys.executable, "-c", command, *argv],
        cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(HOME),
                           "PYTHONWARNINGS": "ignore::FutureWarning"},  # of torch, of what PyG has
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert "proven" in run.stdout
