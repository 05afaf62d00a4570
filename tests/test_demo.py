"""The demo in its fast form: every check holds, and it says where its picture is."""

import json
from pathlib import Path

import pytest
import torch

from convgraph import demo
from convgraph.demo import digits, photograph, picture


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
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000
    assert "demo.png" in said.replace("\n", "")  # a long path is broken into lines
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


def test_the_picture_of_the_readme_is_drawn_as_the_demo_draws_it() -> None:
    image = pytest.importorskip("PIL.Image")
    shown = Path(__file__).resolve().parents[1] / "docs" / "images" / "demo.png"
    with image.open(shown) as opened:
        assert opened.text.get("Description") == picture.description()


def test_a_smaller_photograph_is_averaged_and_not_aliased() -> None:
    whole, small = photograph.load(512), photograph.load(128)
    means = whole.view(3, 128, 4, 128, 4).double().mean((2, 4))
    u = torch.finfo(torch.float32).eps / 2
    # 15 sums, none above 16, round by at most 16 u each; a sixteenth of that, and one division.
    assert (small.double() - means).abs().max() <= 16 * u
    with pytest.raises(ValueError, match="divides 512, got 100"):
        photograph.load(100)
