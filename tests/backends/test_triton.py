"""Backend `triton`: where it is interpreted, what it refuses, and what only a GPU can show.

Triton decides when it is imported whether it interprets, so what runs through its interpreter
stands in files of its own, `tests/backends/fused/`, and runs in a process of its own.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.backends import TABLES, tf32
from convgraph.backends.fused import triton_conv, triton_launch
from convgraph.functional.conv import conv_problem
from convgraph.graph.edges import connect
from tests.backends.fused.assembled import CAPABILITIES, RESERVED, SHARED, assembled, launches
from tests.cases import holes, integer_weights, integers

ROOT = Path(__file__).resolve().parents[2]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_are_right_in_the_interpreter() -> None:
    files = [f"tests/backends/fused/{name}.py" for name in ("cases", "faults", "compilers")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


# What the compiler makes of the kernels, which needs no GPU


def atomics(ptx: str) -> bool:
    return bool(re.search(r"^\s*(@!?%p\d+ )?(atom|red)\.", ptx, re.MULTILINE))


@pytest.fixture(scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for what is compiled here: what two tests ask for is compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(triton_launch.interpreted(), reason="triton interprets")
@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("dtype", "precision"), [("fp16", "tf32"), ("bf16", "tf32"), ("fp32", "tf32"), ("fp32", "ieee")]
)
def test_the_kernels_compile_for_devices_without_atomics(
    dtype: str, precision: str, capability: int
) -> None:
    """Of few channels that no block divides: off tensor cores, each product is a line of code."""
    for channels, groups in ((40, 2), (96, 96)):
        for name, (constants, warps) in launches(dtype, channels, precision, groups).items():
            ptx = assembled(name, dtype, capability, constants, warps).ptx
            on_tensor_cores = "mma.sync" in ptx or "wgmma" in ptx
            assert on_tensor_cores == (precision == "tf32" and groups < channels), name
            assert not atomics(ptx), name


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(triton_launch.interpreted(), reason="triton interprets")
@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("channels", "groups"), [(128, 1), (96, 96)])
@pytest.mark.parametrize(("dtype", "precision"), [("bf16", "tf32"), ("fp32", "tf32")])
def test_nothing_spills_and_shared_memory_is_there(
    dtype: str, precision: str, channels: int, groups: int, capability: int
) -> None:
    for name, (constants, warps) in launches(dtype, channels, precision, groups).items():
        made = assembled(name, dtype, capability, constants, warps)
        assert made.spilled == 0, name
        assert made.shared + RESERVED <= SHARED[capability], name
        assert made.blocks >= 1, (name, made.registers, made.shared)
        assert not atomics(made.ptx), name


# What it refuses


def problem(layer: Any, graph: cg.PixelGraph, **changes: Any) -> Any:
    edges = connect(layer.geometry, graph)
    found = conv_problem(graph.x, layer.weight, edges, layer.geometry, layer.groups)
    facts = {name: getattr(found, name) for name in type(found).__dataclass_fields__}
    return type(found)(**{**facts, **changes})


@pytest.mark.parametrize(
    ("kernel", "changes", "text"),
    [
        (3, {}, "CUDA, not on cpu"),
        (3, {"device": torch.device("meta")}, "CUDA, not on meta"),
        (3, {"dtype": torch.float64}, "not in torch.float64"),
        (3, {"tapped": True}, "listen to single messages"),
        (1, {}, "one matrix product"),
    ],
)
def test_it_refuses_with_its_reason(
    kernel: int, changes: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    layer = cg.nn.GraphConv2d(4, 4, kernel)
    graph = cg.PixelGraph.from_image(torch.rand(1, 4, 5, 5), holes(1, (5, 5)))
    assert text in str(triton_conv.refuses(problem(layer, graph, **changes)))


def test_it_refuses_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_launch, "_has_triton", lambda: False)
    assert "pip install triton" in triton_launch.lacks(torch.device("cpu"))


def test_a_forced_backend_raises_and_any_typed_graph_is_refused() -> None:
    layer = cg.nn.GraphConv2d(4, 4, 3, backend="triton")
    graph = cg.PixelGraph.from_image(torch.rand(1, 4, 5, 5))
    with pytest.raises(cg.errors.BackendError, match="'triton' cannot serve"):
        layer(graph)
    edges = layer.edges(graph)
    with pytest.raises(cg.errors.BackendError, match="kernel on a lattice"):
        layer(graph.x, edges.edge_index, edges.edge_type)
    assert "triton" not in TABLES["pool"]


# What the table says, for CUDA without having one


def test_the_table_takes_tf32_to_the_kernel_and_ieee_float32_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = cg.nn.GraphConv2d(512, 512, 3, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(8, 512, 32, 32), holes(8, (32, 32)))
    monkeypatch.setattr(triton_launch, "lacks", lambda device: "")
    cost = {}
    for ieee in (False, True):
        asked = problem(layer, graph, device=torch.device("cuda"), ieee=ieee)
        cost[ieee] = {o.name: o.cost for o in cg.backends.options(asked) if o.refusal is None}
    assert cost[False]["triton"] < cost[False]["gather"]
    assert cost[True]["triton"] > cost[True]["gather"]


@pytest.fixture
def _flags() -> Iterator[None]:
    conv: Any = getattr(torch.backends.cudnn, "conv", None)
    if not hasattr(conv, "fp32_precision"):
        pytest.skip("an older torch says it through allow_tf32")
    before = conv.fp32_precision
    yield
    conv.fp32_precision = before


@pytest.mark.usefixtures("_flags")
def test_tf32_is_as_torch_says_of_convolutions() -> None:
    conv: Any = torch.backends.cudnn.conv
    conv.fp32_precision = "ieee"
    assert not tf32.allowed()
    conv.fp32_precision = "tf32"
    assert tf32.allowed()


def test_parts_cover_every_row_and_stay_within_memory() -> None:
    for rows in (1, 127, 128, 129, 1024, 1025, 5000, 10**6 + 1):
        for weights in (9, 9 * 64 * 64, 2**23, 2**26):
            count, chunk = triton_launch.parts(rows, weights)
            assert (count - 1) * chunk < rows <= count * chunk
            assert chunk % 128 == 0
            assert count == 1 or count * weights <= triton_launch.PART_ELEMENTS


# What only a GPU can show


def on_gpu(dtype: torch.dtype, **kwargs: Any) -> tuple[Any, cg.PixelGraph]:
    layer = integer_weights(cg.nn.GraphConv2d(8, 8, 3, padding=1, **kwargs)).to("cuda", dtype)
    graph = cg.PixelGraph.from_image(integers(2, 8, 21, 22, dtype=dtype), holes(2, (21, 22)))
    return layer, graph.to("cuda")


def results(layer: Any, graph: cg.PixelGraph, backend: str) -> list[Tensor]:
    with cg.backend(backend):
        x = graph.x.detach().requires_grad_()
        y = layer(graph.with_x(x)).x
        g = (torch.arange(y.numel(), device=y.device).view_as(y) % 5 - 2).to(y.dtype)
        return [y, *torch.autograd.grad(y, [x, *layer.parameters()], g)]


@pytest.mark.gpu
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_are_exact_on_a_gpu(dtype: torch.dtype, mode: str, groups: int) -> None:
    """Small integers are exact in TF32 too."""
    layer, graph = on_gpu(dtype, groups=groups, padding_mode=mode)
    found = results(layer, graph, "triton")
    truth = results(layer.double(), graph.with_x(graph.x.double()), "gather")
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(found, truth, strict=True))


@pytest.mark.gpu
@pytest.mark.usefixtures("_flags")
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_tf32_shows_where_it_is_allowed_only(precision: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = precision
    layer, graph = on_gpu(torch.float32, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0)[:, 0, 1, 1] = 1  # a copy of the first channel
    x = torch.full_like(graph.x, 1 + 2.0**-20)  # 21 bits: TF32 keeps 11
    with cg.backend("triton"):
        y = layer(graph.with_x(x)).x
    assert bool((y == 1 + 2.0**-20).all()) == (precision == "ieee")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_repeat_on_a_gpu(dtype: torch.dtype) -> None:
    layer, graph = on_gpu(dtype, padding_mode="replicate")
    graph = graph.with_x(torch.rand_like(graph.x))
    first = results(layer, graph, "triton")
    for _ in range(3):
        again = results(layer, graph, "triton")
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_warm_call_never_waits_for_the_device(dtype: torch.dtype) -> None:
    layer, graph = on_gpu(dtype)
    results(layer, graph, "triton")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results(layer, graph, "triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("groups", [1, 8])
def test_it_is_proven_on_a_gpu(groups: int) -> None:
    twin = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups, device="cuda")
    layer = cg.nn.GraphConv2d.from_dense(twin)
    with cg.backend("triton"):
        trusted = ("convgraph::send", "convgraph::correlate")
        found = cg.prove(layer, twin, size=(8, 9), mask=holes(2, (8, 9)).cuda(), trust=trusted)
    assert found.verdict == "proven", str(found)
