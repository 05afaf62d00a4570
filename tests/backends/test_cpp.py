"""Backend `cpp`: the contract of the fused kernels on the CPU, and how they come to be compiled.

The contract is that of tests/backends/fused/, which Triton's interpreter passes in a process of its
own.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import convgraph as cg
from convgraph.backends import matrices
from convgraph.backends.fused import (
    cpp_build,
    cpp_tables,
)
from convgraph.backends.fused import cpp_conv as cpp
from convgraph.backends.fused import operators as fused_operators
from convgraph.cli import main
from convgraph.functional.conv import conv_problem
from convgraph.graph.edges import connect
from tests.backends.fused.cases import (  # noqa: F401 - collected here
    run,
    test_forward_mode_and_vmap,
    test_graphs_without_nodes_without_edges_and_of_different_sizes,
    test_half_types_round_once,
    test_it_is_proven,
    test_results_do_not_depend_on_the_order_of_the_batch_and_repeat,
    test_the_smallest_lattice_of_all_taps_and_one_of_whole_blocks,
    test_values_and_derivatives_are_exact,
)
from tests.backends.fused.compilers import (  # noqa: F401 - collected here
    test_a_fake_has_the_shape_dtype_and_strides_of_the_real_one,
    test_autocast_chooses_the_dtype_of_the_kernel,
    test_it_compiles_to_one_graph_with_its_gradients,
    test_it_exports_and_what_is_exported_can_be_trained,
    test_torchs_own_checks_of_an_operator,
)
from tests.cases import CPP, holes, integer_weights, integers

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
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(run(layer, graph, "cpp", torch.float32))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    layer, whole = integer_weights(layer), graph.with_x(graph.x.mul(2).round().double())
    exact = run(layer, whole, "cpp", torch.float32, twice=False)
    truth = run(layer, whole, "gather", torch.float64, twice=False)
    assert all(torch.equal(a.double(), b) for a, b in zip(exact, truth, strict=True))


def test_rows_and_weights_need_not_lie_side_by_side() -> None:
    layer = integer_weights(cg.nn.GraphConv2d(6, 5, 3, padding=1))
    graph = graph_of(6, torch.float64)
    there, back = layer.edges(graph).memo_of(cpp_tables.sides)
    taps = matrices.of_taps(layer.weight.detach(), 1, transposed=False)
    truth = fused_operators.send(graph.x, taps.contiguous(), layer.bias.detach(), *there, *back, 0)
    x = torch.stack([graph.x, graph.x], 2)[..., 0]
    bias = torch.stack([layer.bias.detach()] * 2, 1)[:, 0]
    for odd in (taps, taps.mT.contiguous().mT, torch.stack([taps, taps], -1)[..., 1]):
        assert torch.equal(fused_operators.send(x, odd, bias, *there, *back, 0), truth)


def test_a_missing_edge_costs_nothing_and_says_nothing() -> None:
    """What is absent is no 0 times a weight: an infinite weight without a message is unseen."""
    layer = cg.nn.GraphConv2d(2, 3, 3, padding=1, backend="cpp")
    lone = torch.zeros(1, 5, 5, dtype=torch.bool)
    lone[0, 2, 2] = True
    with torch.no_grad():
        layer.weight[:, :, 0, 0] = torch.inf
    out = layer(cg.PixelGraph.from_image(torch.rand(1, 2, 5, 5), lone)).x
    assert bool(out.isfinite().all())


# The choice


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_counter_of_operations_sees_messages(groups: int, stride: int) -> None:
    """Forwards, and for each of both gradients: two a message, channel in and channel out."""
    graph = cg.PixelGraph.from_image(torch.randn(2, 4, 9, 8), mask=torch.rand(2, 9, 8) > 0.5)
    graph = graph.with_x(graph.x.requires_grad_())
    layer = cg.nn.GraphConv2d(4, 6, 3, stride, 1, groups=groups)
    with cg.backend("cpp"), FlopCounterMode(display=False) as counter:
        out = layer(graph)
        there = counter.get_total_flops()
        out.x.sum().backward()
    assert there == 2 * layer.edges(graph).num_edges * 4 * 6 // groups
    assert counter.get_total_flops() == 3 * there


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
    rounded_up = cg.nn.GraphConvNd(64, 64, cg.KernelGeometry(3, padding=1, ceil_mode=True, d=2))
    with pytest.raises(cg.errors.UnsupportedError, match="ceil_mode"):
        rounded_up(graph)


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


def test_without_a_compiler_the_error_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONVGRAPH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert main(["compile"]) == 2
    assert "need a C++ compiler" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_looked_at_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked as when the module is imported, which must not fail."""

    def closed(*_: Any) -> bool:
        raise PermissionError("closed")

    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CONVGRAPH_CACHE", str(tmp_path / "file"))
    lacks = cpp_build._trouble.__wrapped__
    assert "its kernels are not compiled" in lacks()
    monkeypatch.setattr(Path, "exists", closed)
    assert "cannot be looked at (closed)" in lacks()


def test_operands_that_do_not_fit_are_refused_by_the_operators() -> None:
    layer = integer_weights(cg.nn.GraphConv2d(6, 5, 3, padding=1))
    graph = graph_of(6, torch.float64)
    there, back = layer.edges(graph).memo_of(cpp_tables.sides)
    taps = matrices.of_taps(layer.weight.detach(), 1, transposed=False)
    for x in (graph.x[:5], graph.x[:, :5]):
        with pytest.raises(RuntimeError, match="do not fit together"):
            fused_operators.send(x, taps, None, *there, *back, 0)
        with pytest.raises(RuntimeError, match="do not fit together"):
            fused_operators.correlate(x[:5], graph.x, *there, *back, 1)


def test_images_of_very_different_sizes_go_another_way() -> None:
    images = [torch.rand(2, 400, 2), torch.rand(2, 2, 400)]
    masks: list[Any] = [torch.rand(400, 2) < 0.1, torch.rand(2, 400) < 0.1]
    layer = cg.nn.GraphConv2d(2, 2, 3, padding=1)
    graph = cg.PixelGraph.from_image(images, masks)
    refusals = {option.name: option.refusal for option in cg.explain(layer, graph).options}
    assert "nearly all margin" in str(refusals["cpp"])
    assert layer(graph).num_nodes == graph.num_nodes


def test_what_is_compiled_is_found_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert cpp_build.compile_kernels() == cpp_build.path()
    assert main(["compile"]) == 0
    assert capsys.readouterr().out.strip() == str(cpp_build.path())
