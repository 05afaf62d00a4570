"""The cache of compiled kernels: no damaged library and none of a stranger's is ever loaded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import convgraph as cg
from convgraph.backends.fused import cpp_build, cpp_cache
from convgraph.cli import main
from tests.cases import CPP, holes

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not CPP, reason="the C++ kernels do not compile here")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100_000])


def one_bit(file: Path) -> None:
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)


def writable(file: Path) -> None:
    file.chmod(0o666)


def elsewhere(file: Path) -> None:
    file.parent.chmod(0o777)


def of_another(file: Path) -> None:
    os.chown(file, 12345, 12345)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "bytes of"),
    "empty": (lambda file: file.write_bytes(b""), "it has 0 bytes"),
    "no library": (lambda file: file.write_bytes(b"no library"), "bytes of"),
    "one bit": (one_bit, "its digest is another"),
    "no facts": (lambda file: cpp_cache.beside(file).unlink(), "json"),
    "half of the facts": (
        lambda file: cpp_cache.beside(file).write_text("{"),
        "does not tell its size",
    ),
    "facts of another kind": (lambda file: cpp_cache.beside(file).write_text("[1]"), "does not"),
    "written by others": (writable, "others may write to"),
    "facts written by others": (lambda f: writable(cpp_cache.beside(f)), "others may write to"),
    "a folder of others": (elsewhere, "others may write to"),
    "a folder above of others": (
        lambda file: file.parent.parent.chmod(0o777),
        "others may put a folder in the place of",
    ),
    "of another user": (of_another, "belongs to user 12345"),
}


FORKS = """
import json, os, sys, traceback, convgraph
for line in sys.stdin:
    cache, program = json.loads(line)
    os.environ["CONVGRAPH_CACHE"] = cache
    child = os.fork()
    if not child:
        try:
            exec(program)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    print("ended with", os.waitpid(child, 0)[1], end="\\0", flush=True)
"""
"""Imports it once, without kernels; each program has a process: half a library would end it."""

LOADS = """
import importlib
from convgraph.backends.fused import cpp_build
print(importlib.reload(cpp_build).lacks())
"""

WITHOUT = """
import torch, convgraph as cg
layer = cg.nn.GraphConv2d(64, 64, 3, padding=1)
graph = cg.PixelGraph.from_image(torch.rand(2, 64, 20, 20), torch.rand(2, 20, 20) < 0.4)
print(cg.explain(layer, graph).backend, {o.name: o.refusal for o in cg.explain(layer, graph).options}["cpp"])
layer(graph).x.sum().backward()
try:
    with cg.backend("cpp"):
        layer(graph)
except cg.errors.BackendError as error:
    print(error)
from convgraph.backends.fused import cpp_build, cpp_tables, operators as fused_operators
there, back = layer.edges(graph).memo_of(cpp_tables.sides)
call = lambda: fused_operators.send(graph.x, torch.rand(9, 1, 64, 64), None, *there, *back, 0)
try:
    call()
except cg.errors.BackendError as error:
    print(error)
import os
os.environ["CONVGRAPH_CACHE"] = os.environ["CACHE_WITH_KERNELS"]
cpp_build.compile_kernels()
print(repr(cpp_build.lacks()), call().shape[1])
"""  # noqa: E501


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each damaged cache, of a whole one, and of one without kernels."""
    programs = []
    for damage in (None, *(damage for damage, _ in DAMAGES.values())):
        cache = tmp_path_factory.mktemp("above") / "cache"
        cache.mkdir()
        for file in (cpp_build.path(), cpp_cache.beside(cpp_build.path())):
            shutil.copy(file, cache)
        if damage is not None and (damage is not of_another or os.getuid() == 0):
            damage(cache / cpp_build.path().name)
        programs.append((str(cache), LOADS))
    empty, kernels = str(tmp_path_factory.mktemp("empty")), str(cpp_build.path().parent)
    programs.append((empty, WITHOUT))
    ran = subprocess.run(
        [sys.executable, "-c", FORKS], input="\n".join(map(json.dumps, programs)),
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "CONVGRAPH_CACHE": empty, "CACHE_WITH_KERNELS": kernels},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return dict(zip(("whole", *DAMAGES, "without"), ran.stdout.split("\0"), strict=False))


@pytest.mark.parametrize("name", ["whole", *DAMAGES])
def test_what_is_damaged_or_a_strangers_is_not_loaded(name: str, said: dict[str, str]) -> None:
    damage, text = DAMAGES.get(name, (None, ""))
    if damage is of_another and os.getuid() != 0:
        pytest.skip("only root can give a file away")
    refusal, _, end = said[name].partition("\n")
    assert (bool(refusal), end) == (damage is not None, "ended with 0")
    assert text in refusal


def test_another_serves_until_they_are_compiled_and_the_way_out_is_told(
    said: dict[str, str],
) -> None:
    lines = said["without"].splitlines()
    chosen, refusal = lines[0].split(maxsplit=1)
    assert chosen in ("tiles", "gather", "masked")
    assert refusal.startswith("its kernels are not compiled; `convgraph compile`")
    for line in lines[1:3]:
        assert "'cpp' cannot serve this case: its kernels are not compiled" in line
    assert lines[3:] == ["'' 64", "ended with 0"]


def test_the_cache_is_for_everybody() -> None:
    for file in (cpp_build.path(), cpp_cache.beside(cpp_build.path())):
        assert file.stat().st_mode & 0o777 == 0o644


def test_relative_folders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONVGRAPH_CACHE", "here")
    assert main(["compile"]) == 2
    assert "no absolute path" in capsys.readouterr().err
    monkeypatch.delenv("CONVGRAPH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cpp_cache.folder() == Path("~/.cache/convgraph").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cpp_cache.folder() == Path("/there/convgraph")


def test_nothing_is_left_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    made = tmp_path / "made.so"
    made.write_bytes(b"library")
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cpp_cache.keep(made, tmp_path / "cache" / "kernels.so")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_compiling_process_imports_nothing_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first words, run in a folder with a `random.py`, and without the compiling."""
    (tmp_path / "random.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVGRAPH_CACHE", str(tmp_path / "cache"))
    begun = []

    def instead(arguments: list[str], **options: object) -> SimpleNamespace:
        begun.append((arguments, options["cwd"]))
        return SimpleNamespace(returncode=1, stdout="no more", stderr="")

    monkeypatch.setattr(cpp_build.subprocess, "run", instead)
    with pytest.raises(cg.errors.BackendError, match="they need a C"):
        cpp_build.compile_kernels()
    ((arguments, place),) = begun
    assert Path(place) != tmp_path
    monkeypatch.undo()
    start = arguments[: arguments.index("-c")]
    ran = subprocess.run(
        [*start, "-c", "import random"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_wide_margins_go_another_way() -> None:
    """A rank grid for an 8 x 8 mask with such taps would have 36 million cells."""
    layer = cg.nn.GraphConv2d(2, 2, 3, padding=3000, dilation=3000)
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 8, 8), holes(1, (8, 8)))
    refusals = {option.name: option.refusal for option in cg.explain(layer, graph).options}
    assert "nearly all margin" in str(refusals["cpp"])
    assert layer(graph).num_nodes == graph.num_nodes
    near = cg.nn.GraphConv2d(2, 2, 3, padding=3, dilation=3)
    assert {o.name: o.refusal for o in cg.explain(near, graph).options}["cpp"] is None


def test_the_name_tells_the_compiler_and_any_other_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their++").write_text("")
    (tmp_path / "their++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CONVGRAPH_CACHE", str(tmp_path))
    ours = cpp_cache.named("versions")
    monkeypatch.setenv("CXX", "ccache their++ -m64")
    theirs = cpp_cache.named("versions")
    assert theirs.name.endswith("-their++.so")
    assert cpp_cache.there("versions") == theirs
    ours.write_bytes(b"library")
    assert ours != theirs
    assert cpp_cache.there("versions") == ours
    assert cpp_cache.there("other versions") != ours
    theirs.write_bytes(b"library")
    assert cpp_cache.there("versions") == theirs
    monkeypatch.setenv("CXX", "nowhere++")
    assert cpp_cache.named("versions").name.endswith("-none.so")
