"""Faults planted in every space: the judge's own geometry finds each of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph.memo import forget
from convgraph.spaces import KINDS
from tests.spaces.cases import SPACES
from tests.spaces.faults import FAULTS, Patch


def test_every_space_is_tested_and_has_a_planted_fault() -> None:
    kinds = set(KINDS.values())
    assert {type(space) for space, _ in SPACES} == kinds
    assert {type(space) for _, space, _ in FAULTS} == kinds


@pytest.mark.parametrize(
    ("fault", "space", "size"), FAULTS, ids=lambda f: getattr(f, "__name__", "")
)
def test_the_judge_finds_it(
    fault: Callable[[Patch], None], space: Any, size: tuple[int, int], monkeypatch: Patch
) -> None:
    """By its edges and by its values, where the same layer ran before and its graph is held."""
    held = cg.PixelGraph.from_image(torch.ones(2, 2, *size), on=space)
    cg.nn.GraphConv2d(2, 2, 3, padding=1)(held)
    forget()
    fault(monkeypatch)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 2, 3, padding=1)
    layer = cg.nn.GraphConv2d.from_dense(conv)
    try:
        cert = cg.prove(layer, conv, size=size, on=space, seed=3)
        by_value = cg.prove(lambda x, w, b: run(layer, x, w, b, space), conv, size=size, on=space)
    finally:
        monkeypatch.undo()
        forget()
    assert cert.verdict == "refuted"
    assert cert.parts[0].status == "refuted"
    assert cert.counterexample, "an input on which they differ, not only an edge"
    assert by_value.verdict == "refuted"


def run(layer: torch.nn.Module, x: Any, w: Any, b: Any, space: Any) -> torch.Tensor:
    """The layer as a function, so that no edges are shown."""
    graph = cg.PixelGraph.from_image(x, on=space)
    y = torch.func.functional_call(layer, {"weight": w, "bias": b}, (graph,))
    image: torch.Tensor = y.to_image()
    return image
