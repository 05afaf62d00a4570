"""Backend `cpp`: the contract of the fused kernels on the CPU, and how they come to be compiled.

The contract is that of tests/fused/, which Triton's interpreter passes in a process of its own.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import cpp_extension

import convgraph as cg
from convgraph.backends import cpp, cpp_build, fused_operators, rank_grid
from convgraph.edges import connect
from convgraph.functional.conv import conv_problem, tap_matrices
from tests.cases import CPP, holes, integer_weights, integers
from tests.fused.cases import (  # noqa: F401 - collected here
    run,
    test_forward_mode_and_vmap,
    test_graphs_without_nodes_without_edges_and_of_different_sizes,
    test_half_types_round_once,
    test_it_is_proven,
    test_results_do_not_depend_on_the_order_of_the_batch_and_repeat,
    test_values_and_derivatives_are_exact,
)
from tests.fused.compilers import (  # noqa: F401 - collected here
    test_a_fake_has_the_shape_dtype_and_strides_of_the_real_one,
    test_autocast_chooses_the_dtype_of_the_kernel,
    test_it_compiles_to_one_graph_with_its_gradients,
    test_it_exports_and_what_is_exported_can_be_trained,
    test_torchs_own_checks_of_an_operator,
)

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated.*")


@pytest.fixture(autouse=True)
def _kernels(request: pytest.FixtureRequest) -> None:
    if not CPP and "without" not in request.node.name:
        pytest.skip("the C++ kernels do not compile here")


# Every number of channels


def graph_of(channels: int, dtype: torch.dtype, batch: int = 2) -> cg.PixelGraph:
    image = integers(batch, channels, 9, 11, dtype=dtype)
    return cg.PixelGraph.from_image(image, holes(batch, (9, 11)))


@settings(max_examples=40)
@given(
    c_in=st.integers(1, 140),
    c_out=st.integers(1, 140),
    groups=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_number_of_channels_is_exact(
    c_in: int, c_out: int, groups: int, dtype: torch.dtype
) -> None:
    layer = integer_weights(cg.nn.GraphConv2d(groups * c_in, groups * c_out, 3, groups=groups))
    graph = graph_of(groups * c_in, dtype)
    found, truth = run(layer, graph, "cpp", dtype), run(layer, graph, "gather", torch.float64)
    assert all(torch.equal(a.double(), b) for a, b in zip(found, truth, strict=True))


@settings(max_examples=40)
@given(channels=st.integers(2, 140), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_number_of_depthwise_channels_is_exact(channels: int, dtype: torch.dtype) -> None:
    layer = integer_weights(cg.nn.DepthwiseConv(channels, (3, 2), padding=1))
    graph = graph_of(channels, dtype)
    found, truth = run(layer, graph, "cpp", dtype), run(layer, graph, "gather", torch.float64)
    assert all(torch.equal(a.double(), b) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("groups", [1, 40])
def test_many_sites_are_exact_and_do_not_depend_on_threads(groups: int) -> None:
    """More than one part of a weight gradient, and real numbers, whose sums would show an order."""
    layer = cg.nn.GraphConv2d(40, 40, 3, padding=1, groups=groups)
    graph = cg.PixelGraph.from_image(torch.randn(2, 40, 70, 61), torch.rand(2, 70, 61) < 0.6)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(run(layer, graph, "cpp", torch.float32))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    layer, whole = integer_weights(layer), graph.with_x(graph.x.mul(2).round().double())
    exact = run(layer, whole, "cpp", torch.float32, twice=False)
    truth = run(layer, whole, "gather", torch.float64, twice=False)
    assert all(torch.equal(a.double(), b) for a, b in zip(exact, truth, strict=True))


def test_rows_and_weights_need_not_lie_side_by_side() -> None:
    layer = integer_weights(cg.nn.GraphConv2d(6, 5, 3, padding=1))
    graph = graph_of(6, torch.float64)
    there, back = layer.edges(graph).form(rank_grid.sides)
    taps = tap_matrices(layer.weight.detach(), 1, transposed=False)
    truth = fused_operators.send(graph.x, taps.contiguous(), layer.bias.detach(), *there, *back, 0)
    x = torch.stack([graph.x, graph.x], 2)[..., 0]
    bias = torch.stack([layer.bias.detach()] * 2, 1)[:, 0]
    for odd in (taps, taps.mT.contiguous().mT, torch.stack([taps, taps], -1)[..., 1]):
        assert torch.equal(fused_operators.send(x, odd, bias, *there, *back, 0), truth)


def test_a_missing_edge_costs_nothing_and_says_nothing() -> None:
    """What is absent is not 0 times a weight: an infinite weight of a tap nobody hears is unseen."""
    layer = cg.nn.GraphConv2d(2, 3, 3, padding=1, backend="cpp")
    lone = torch.zeros(1, 5, 5, dtype=torch.bool)
    lone[0, 2, 2] = True
    with torch.no_grad():
        layer.weight[:, :, 0, 0] = torch.inf
    out = layer(cg.PixelGraph.from_image(torch.rand(1, 2, 5, 5), lone)).x
    assert bool(out.isfinite().all())


# The choice


def test_it_is_chosen_on_a_mask_and_never_on_a_full_grid() -> None:
    layer = cg.nn.GraphConv2d(64, 64, 3, padding=1)
    image = torch.rand(2, 64, 40, 40)
    assert cg.explain(layer, cg.PixelGraph.from_image(image)).backend == "dense"
    graph = cg.PixelGraph.from_image(image, torch.rand(2, 40, 40) < 0.4)
    assert cg.explain(layer, graph).backend == "cpp"
    with cg.backend("cpp"):
        forced = layer(graph).x
    assert torch.equal(layer(graph).x, forced), "the short way is the same kernel"


def test_the_short_way_leaves_what_does_not_fit_to_the_general_one() -> None:
    layer = cg.nn.GraphConv2d(64, 64, 3, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(2, 64, 20, 20), torch.rand(2, 20, 20) < 0.4)
    assert cg.explain(layer, graph).backend == "cpp"
    with pytest.raises(cg.errors.ShapeError, match="in_channels"):
        layer(graph.with_x(graph.x[:, :63].contiguous()))
    with pytest.raises(cg.errors.DtypeError, match="float64"):
        layer(graph.with_x(graph.x.double()))


def test_it_refuses_with_its_reason() -> None:
    layer = cg.nn.GraphConv2d(4, 4, 3)
    graph = cg.PixelGraph.from_image(torch.rand(1, 4, 5, 5), holes(1, (5, 5)))
    problem = conv_problem(
        graph.x, layer.weight, connect(layer.geometry, graph), layer.geometry, layer.groups
    )
    facts = {name: getattr(problem, name) for name in type(problem).__dataclass_fields__}
    assert cpp.refuses(problem) is None
    changes: dict[str, dict[str, Any]] = {
        "on the CPU, not on meta": {"device": torch.device("meta")},
        "not in torch.int64": {"dtype": torch.int64},
        "listen to single messages": {"tapped": True},
    }
    for text, change in changes.items():
        assert text in str(cpp.refuses(type(problem)(**{**facts, **change})))


# Compiling


def told(code: str, **environment: str) -> str:
    """What a program prints; it has no kernels but those that the environment names."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


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
"""  # noqa: E501


def test_without_kernels_another_serves_and_the_way_out_is_told(tmp_path: Path) -> None:
    lines = told(WITHOUT, CONVGRAPH_CACHE=str(tmp_path)).splitlines()
    assert re.match(r"(tiles|gather|masked) its kernels are not compiled; `convgraph compile`", lines[0])
    assert "'cpp' cannot serve this case: its kernels are not compiled" in lines[1]


def test_without_a_compiler_the_error_says_what_is_missing(tmp_path: Path) -> None:
    environment = {
        "CONVGRAPH_CACHE": str(tmp_path),
        "PATH": str(tmp_path),
        "CXX": str(tmp_path / "none"),
    }
    code = "import sys; from convgraph.cli import main; sys.exit(main(['compile']) != 1)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stderr
    assert "need a C++ compiler" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    code = "from convgraph.backends import cpp_build; print(cpp_build.path())"
    place = Path(told(code, CONVGRAPH_CACHE=str(tmp_path)).strip())
    place.write_bytes(b"no library")
    code = "from convgraph.backends import cpp_build; print(cpp_build.lacks())"
    assert "could not be loaded" in told(code, CONVGRAPH_CACHE=str(tmp_path))


def test_what_is_compiled_is_found_again() -> None:
    assert cpp_build.compile_kernels() == cpp_build.path()
    code = "from convgraph.cli import main; main(['compile'])"
    assert told(code).strip() == str(cpp_build.path())


# Faults planted in the source, compiled side by side

FAULTS = {
    "wrong tap": ("* K + side.kind[s])", "* K + side.kind[side.slots - 1 - s])"),
    "wrong weight": ("kinds[i] = side.kind[kinds[i]]", "kinds[i] = side.kind[0]"),
    "absent row read": ("return grid[base[site] + offset[slot]];", "return std::max(grid[base[site] + offset[slot]], 0);"),
    "wrong slot": ("offset[slot]]", "offset[slot > 1 ? slot - 1 : slot]]"),
    "no order": ("std::memcpy(y + side.order[m0 + m] *", "std::memcpy(y + (m0 + m) *"),
    "no order of heads": ("heads + side.order[m] *", "heads + m *"),
    "no order of lanes": ("heads + side.order[m + r] * C", "heads + (m + r) * C"),
    "wrong group": ("x + q * G * CI + g * CI", "x + q * G * CI"),
    "lost bias": ("      if (bias)\n", "      if (false)\n"),
    "lost depth": ("std::min(DEPTH, CI - k)", "std::min(DEPTH, std::max<int64_t>(1, CI - k - 1))"),
    "one depth only": ("k < CI; k += DEPTH", "k < std::min(CI, DEPTH); k += DEPTH"),
    "lost tail rows": ("  for (; i < rows; ++i) multiply_rows<T, 1, V>", "  for (; i + 1 < rows; ++i) multiply_rows<T, 1, V>"),
    "lost tail channels": ("  for (; i < channels; ++i) correlate_rows<T, 1, V>", "  for (; i + 1 < channels; ++i) correlate_rows<T, 1, V>"),
    "lost tail lanes": ("      for (; c < C; ++c)\n        for (int64_t r", "      for (; c + 1 < C; ++c)\n        for (int64_t r"),
    "wrong part": ("first = j / G / K * chunk", "first = 0"),
    "part cut short": ("last = std::min(side.sites, first + chunk)", "last = std::min(side.sites, first + chunk - 1)"),
    "half the sums": ("store(at + v * L, s[v] + t[v])", "store(at + v * L, s[v])"),
    "stale heads": ("            head[e] = &whole[e * padded];\n", "            head[e] = &whole[0];\n"),
}  # fmt: skip


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Fault -> its (send, correlate): one source with a namespace for each, compiled at once."""
    source = cpp_build.SOURCE.read_text("utf-8")
    start = source.index("namespace {")
    end = source.index("TORCH_LIBRARY_IMPL")
    head, body = source[:start], source[start:end]
    parts = [head]
    for number, (right, planted) in enumerate({"as it is": ("", ""), **FAULTS}.values()):
        assert body.count(right) == 1 or not right, right
        name = f"convgraph_fault_{number}"
        inner = body.replace(right, planted) if right else body
        registered = "".join(
            f'  m.def("{operator}{schema}");\n  m.impl("{operator}", c10::DispatchKey::CPU, '
            f"TORCH_FN({name}::{operator}));\n"
            for operator, schema in fused_operators.SCHEMAS.items()
        )
        parts.append(f"namespace {name} {{\n{inner}}}\n")
        parts.append(f"TORCH_LIBRARY({name}, m) {{\n{registered}}}\n")
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.cpp").write_text("".join(parts).replace("PART = 1024", "PART = 64"))
    flags = ["-O1", *cpp_build.flags()[1:]]
    cpp_extension.load(
        "faulty",
        [str(folder / "faulty.cpp")],
        extra_cflags=flags,
        build_directory=str(folder),
        is_python_module=False,
    )
    yield {
        fault: getattr(torch.ops, f"convgraph_fault_{number}")
        for number, fault in enumerate(("as it is", *FAULTS))
    }


LAYERS: dict[str, tuple[int, dict[str, Any]]] = {
    "deep": (67, {}),
    "grouped": (10, {"groups": 2}),
    "depthwise": (37, {"groups": 37}),
}


def wrong(operators: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that now differ from the truth."""
    monkeypatch.setattr(fused_operators, "send", operators.send.default)
    monkeypatch.setattr(fused_operators, "correlate", operators.correlate.default)
    found = []
    for name, (channels, kwargs) in LAYERS.items():
        layer = integer_weights(cg.nn.GraphConv2d(channels, channels, 3, padding=1, **kwargs))
        image = integers(2, channels, 19, 21)
        mask = torch.rand(2, 19, 21, generator=torch.Generator().manual_seed(1)) < 0.7
        graph = cg.PixelGraph.from_image(image, mask)
        one = run(layer, graph, "cpp", torch.float32, twice=False)
        truth = run(layer, graph, "gather", torch.float64, twice=False)
        if not all(torch.equal(a.double(), b) for a, b in zip(one, truth, strict=True)):
            found.append(name)
    return found


@pytest.fixture
def _known_memory() -> Iterator[None]:
    """What nobody writes holds NaN, not the right answer of an earlier call."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("_known_memory")
@pytest.mark.parametrize("fault", ["as it is", *FAULTS])
def test_a_planted_fault_is_caught(
    fault: str, faulty: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bool(wrong(faulty[fault], monkeypatch)) == (fault != "as it is")


def test_the_judge_refutes_a_faulty_kernel(
    faulty: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in ("wrong tap", "absent row read", "no order of heads"):
        monkeypatch.setattr(fused_operators, "send", faulty[fault].send.default)
        monkeypatch.setattr(fused_operators, "correlate", faulty[fault].correlate.default)
        twin = torch.nn.Conv2d(3, 4, 3, padding=1)
        layer = cg.nn.GraphConv2d.from_dense(twin)
        space = f"convgraph_fault_{1 + list(FAULTS).index(fault)}"
        with cg.backend("cpp"):
            trust = (f"{space}::send", f"{space}::correlate")
            found = cg.prove(layer, twin, size=(12, 12), mask=holes(2, (12, 12)), trust=trust)
        assert found.verdict == "refuted", fault
