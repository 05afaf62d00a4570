"""Padding modes are written several times, on purpose: every copy has the same ones."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from convgraph.geometry.padding import PADDING_MODES
from convgraph.proof import verifier, verifier_spaces
from convgraph.proof.equation import spaces, spec
from convgraph.proof.symbolic import axis

ROOT = Path(__file__).resolve().parents[2]


def named(path: str) -> list[str]:
    """The words of the tuple or list that a file calls MODES."""
    text = (ROOT / path).read_text(encoding="utf-8")
    (found,) = re.findall(r"^(?:export const )?MODES = [(\[](.*)[)\]];?$", text, re.MULTILINE)
    return re.findall(r'"(\w+)"', found)


COPIES = {
    "spec": spec.PADDING_MODES, "axis": axis.MODES, "spaces": spaces._PADS,
    "verifier": verifier.PADS, "verifier_spaces": verifier_spaces._PADS,
    **{
        path: named(path)
        for path in (
            "convgraph/explorer/js/geometry.js", "tests/graph/test_edges.py",
            "tests/geometry/test_kernel.py", "tests/proof/layer/premise/test_premise.py",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("copy", COPIES)
def test_every_copy_has_the_same_modes(copy: str) -> None:
    modes: Iterable[str] = COPIES[copy]
    assert set(modes) == set(PADDING_MODES)


@pytest.mark.parametrize("page", ["convgraph/explorer/js/chinese.js", "docs/glossary.md"])
def test_every_mode_has_its_word(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    folding = PADDING_MODES[1:]  # of zeros each page says more
    assert [mode for mode in folding if not re.search(rf"\b{mode}\b", text)] == []
