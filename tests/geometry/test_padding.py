"""Padding modes are written several times, on purpose: every copy has the same ones."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

import convgraph
from convgraph.geometry.padding import PADDING_MODES
from convgraph.proof import verifier, verifier_spaces
from convgraph.proof.equation import spaces, spec
from convgraph.proof.symbolic import axis

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(convgraph.__file__).parent / "explorer" / "js"


def named(path: Path) -> list[str]:
    """The words of the tuple or list that a file calls MODES."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r"^(?:export const )?MODES = [(\[](.*)[)\]];?$", text, re.MULTILINE)
    return re.findall(r'"(\w+)"', found)


COPIES = {
    "spec": spec.PADDING_MODES, "axis": axis.MODES, "spaces": spaces._PADS,
    "verifier": verifier.PADS, "verifier_spaces": verifier_spaces._PADS,
    "geometry.js": named(PAGE / "geometry.js"),
    **{
        path: named(ROOT / "tests" / path)
        for path in (
            "graph/test_edges.py", "geometry/test_kernel.py",
            "proof/layer/premise/test_premise.py",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("copy", COPIES)
def test_every_copy_has_the_same_modes(copy: str) -> None:
    modes: Iterable[str] = COPIES[copy]
    assert set(modes) == set(PADDING_MODES)


@pytest.mark.parametrize("page", [PAGE / "chinese.js", ROOT / "docs" / "glossary.md"])
def test_every_mode_has_its_word(page: Path) -> None:
    text, folding = page.read_text(encoding="utf-8"), PADDING_MODES[1:]  # of zeros each says more
    assert [mode for mode in folding if not re.search(rf"\b{mode}\b", text)] == []
