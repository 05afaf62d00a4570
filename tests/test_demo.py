"""The demo in its fast form: every check holds, and it says where its picture is."""

import json
from pathlib import Path

import pytest
import torch

from convgraph import demo
from convgraph.demo import digits, photograph, picture, worlds


@pytest.mark.ci  # `make demo` is the same, and CI runs both
def test_the_fast_demo_holds_what_it_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = demo.run(out=tmp_path / "out", fast=True)
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    held = summary["checks"]
    missed = [what for what, held_it in held.items() if not held_it and "accuracy" not in what]
    assert missed == []
    # Four epochs may or may not reach the goal of fifteen; the exit code says which.
    assert code == (0 if all(held.values()) else 1)
    for name in ("demo.png", "worlds.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
        assert name in said.replace("\n", "")  # a long path is broken into lines
    assert set(summary["certificates"].values()) == {"proven", "same operator"}
    assert len(summary["photograph"]) == 6


def test_a_fault_in_one_form_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph form with one weight nudged must not pass for the same network."""
    from rich.console import Console

    real = digits.graph_network

    def nudged() -> torch.nn.Module:
        net = real()
        with torch.no_grad():
            net.stem.weight.view(-1)[0] += 1e-12
        return net

    monkeypatch.setattr(digits, "graph_network", nudged)
    learned = digits.learn(Console(quiet=True), epochs=1)
    assert not all(learned.checks().values())


def test_every_operator_of_the_photograph_is_within_its_bound() -> None:
    filtered = photograph.filter_all(size=64)
    assert [f.name for f in filtered][:2] == ["luminance", "red minus green"]
    assert all(photograph.checks(filtered).values())
    assert filtered[0].edges == 64 * 64, "a 1x1 has self-loops only"


def test_the_pictures_of_the_readme_are_drawn_as_the_demo_draws_them() -> None:
    image = pytest.importorskip("PIL.Image")
    shown = Path(__file__).resolve().parents[1] / "docs" / "images"
    for name, drawn in (("demo.png", picture), ("worlds.png", worlds)):
        with image.open(shown / name) as opened:
            assert opened.text.get("Description") == drawn.description()


def test_the_worlds_of_the_photograph_are_proven_and_a_wrong_layer_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visited = worlds.visit(side=32)
    assert [world.certificate.verdict for world in visited] == ["proven"] * 4
    assert all(world.contours.shape == (world.pixels.num_nodes, 1) for world in visited)
    made = worlds.cg.nn.GraphConv2d.from_dense

    def turned(conv: torch.nn.Conv2d) -> torch.nn.Module:
        layer = made(conv)
        forward = layer.forward
        layer.forward = lambda *inputs: forward(*inputs).with_x(-forward(*inputs).x)
        return layer

    monkeypatch.setattr(worlds.cg.nn.GraphConv2d, "from_dense", turned)
    assert not any(worlds.checks(worlds.visit(side=32)).values())


def test_a_smaller_photograph_is_averaged_and_not_aliased() -> None:
    whole, small = photograph.load(512), photograph.load(128)
    means = whole.view(3, 128, 4, 128, 4).double().mean((2, 4))
    u = torch.finfo(torch.float32).eps / 2
    # 15 sums, none above 16, round by at most 16 u each; a sixteenth of that, and one division.
    assert (small.double() - means).abs().max() <= 16 * u
    with pytest.raises(ValueError, match="divides 512, got 100"):
        photograph.load(100)
