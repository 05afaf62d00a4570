"""Triton alone: faults planted in the kernels' source, each run interpreted, each to be caught."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph.backends.fused import triton_launch
from tests.backends.fused.cases import LAYERS, run
from tests.cases import holes, integer_weights, integers
from tests.planting import planted

SOURCE = Path(triton_launch.__file__).with_name("triton_kernels.py")

# None leaves its memory: the interpreter would read, or crash, wherever it pointed.
FAULTS = {
    "wrong tap": ("tl.load(kind + s)", "tl.load(kind + num_slots - 1 - s)"),
    "lost tail row": ("live = m < num_rows\n", "live = m < num_rows - 1\n"),
    "absent row read": (
        "q = tl.load(row, mask=live, other=-1)",
        "q = tl.maximum(tl.load(row, mask=live, other=-1), 0)",
    ),
    "no order": ("tl.load(order + m, mask=live, other=0)", "m"),
    "wrong group": ("(GROUPS * CI) + g * CI", "(GROUPS * CI)"),
    "lost tail channel": ("(c < CI)[None, :]", "(c < CI - 1)[None, :]"),
    "lost bias": ("if HAS_BIAS:\n        total +=", "if HAS_BIAS:\n        total + "),
    "wrong part": ("m = part * chunk + start", "m = start"),
    "part lost": ("(part * TAPS + t)", "((part - part % 2) * TAPS + t)"),
    "chunk cut short": (
        "for start in range(0, chunk, BM)",
        "for start in range(0, chunk - BM, BM)",
    ),
}
KINDS = {"plain": 2, "depthwise": 6}
ONE_ONLY = {"wrong group": "plain", "lost tail channel": "plain"}


@pytest.fixture(autouse=True)
def _known_memory() -> Iterator[None]:
    """What nobody writes holds NaN, not the right answer of an earlier call."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def wrong(groups: int) -> bool:
    """Whether the backend now differs from the truth on two images, a grid with a hole."""
    layer = integer_weights(cg.nn.GraphConv2d(6, 6, (1, 2), padding=(0, 1), groups=groups))
    mask = torch.ones(2, 7, 10, dtype=torch.bool)
    mask[1, 3, 4] = False
    graph = cg.PixelGraph.from_image(integers(2, 6, 7, 10), mask)
    found = run(layer, graph, "triton", torch.float32, twice=False)
    truth = run(layer, graph, "gather", torch.float64, twice=False)
    return not all(torch.equal(a.double(), b) for a, b in zip(found, truth, strict=True))


def use(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "planted_kernels.py"
    path.write_text(source, encoding="utf-8")
    spec: Any = importlib.util.spec_from_file_location("planted_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(triton_launch, "_kernels", lambda: module)
    monkeypatch.setattr(triton_launch, "PART_ROWS", 128)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, (right, wrong_text) = SOURCE.read_text(encoding="utf-8"), FAULTS[name]
    use(planted(source, right, wrong_text, times=None), tmp_path, monkeypatch)
    assert wrong(KINDS[kind]) == (ONE_ONLY.get(name, kind) == kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_as_they_are_pass(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(SOURCE.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    assert not wrong(KINDS[kind])


def test_the_judge_refutes_a_faulty_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, (right, wrong_text) = SOURCE.read_text(encoding="utf-8"), FAULTS["wrong tap"]
    use(planted(source, right, wrong_text, times=None), tmp_path, monkeypatch)
    twin = torch.nn.Conv2d(3, 4, (1, 2))
    layer = cg.nn.GraphConv2d.from_dense(twin)
    with cg.backend("triton"):
        assert cg.prove(layer, twin, size=(5, 6)).verdict == "refuted"


@pytest.mark.parametrize("name", ["depthwise", "wide"])
def test_a_weight_gradient_in_many_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "PART_ROWS", 128)
    layer = integer_weights(LAYERS[name]())
    graph = cg.PixelGraph.from_image(integers(2, layer.in_channels, 11, 13))
    assert triton_launch.parts(graph.num_nodes, 1)[0] > 2
    found = run(layer, graph, "triton", torch.float32)
    truth = run(layer, graph, "gather", torch.float64)
    assert all(torch.equal(a.double(), b) for a, b in zip(found, truth, strict=True))


def test_it_serves_and_is_never_chosen_while_it_is_interpreted() -> None:
    layer = cg.nn.GraphConv2d(4, 6, 3, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(2, 4, 8, 8), holes(2, (8, 8)))
    found = cg.explain(layer, graph)
    assert {o.name: o.refusal for o in found.options}["triton"] is None
    assert found.backend != "triton"
