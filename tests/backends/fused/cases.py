"""Every case of the fused kernels, against `gather` in float64.

Once through Triton's interpreter, in a process of its own (tests/backends/test_triton.py), and once
with the kernels of the CPU (tests/backends/test_cpp.py). Small integers: float32 sums are exact in
every order, and half types round once, at the end.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jvp, vmap

import convgraph as cg
from convgraph import backends
from convgraph.backends.fused import triton_launch
from convgraph.functional import prepared
from tests.cases import holes, integer_weights, integers

BACKEND = "triton" if triton_launch.interpreted() else "cpp"
IDENTITY = "probabilistic" if BACKEND == "triton" else "auto"
"""A basis takes hundreds of calls more: its every pair is asked of the kernels of the CPU alone."""

nn = cg.nn
LAYERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: nn.GraphConv2d(4, 6, 3, padding=1),
    "no bias": lambda: nn.GraphConv2d(4, 6, 3, padding=1, bias=False),
    "wide": lambda: nn.GraphConv2d(70, 17, (1, 2)),
    "wider": lambda: nn.GraphConv2d(5, 130, (1, 2)),
    "strided": lambda: nn.GraphConv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "dilated": lambda: nn.GraphConv2d(4, 6, (3, 2), dilation=(2, 3), padding=(2, 1)),
    "reflect": lambda: nn.GraphConv2d(4, 4, 3, padding=2, padding_mode="reflect"),
    "replicate": lambda: nn.GraphConv2d(4, 4, 3, padding=3, padding_mode="replicate"),
    "circular": lambda: nn.GraphConv2d(4, 4, 3, padding=1, padding_mode="circular", dilation=2),
    "depthwise": lambda: nn.DepthwiseConv(4, 3, padding=1),
    "wide depthwise": lambda: nn.DepthwiseConv(70, (1, 2)),
    "folded depthwise": lambda: nn.GraphConv2d(
        4, 4, 3, padding=2, padding_mode="replicate", groups=4
    ),
    "multiplied depthwise": lambda: nn.GraphConv2d(4, 8, (1, 3), groups=4),
    "transposed": lambda: nn.GraphConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed in place": lambda: nn.GraphConvTranspose2d(4, 6, 3, padding=1),
    "grouped transposed": lambda: nn.GraphConvTranspose2d(4, 6, (2, 3), stride=2, groups=2),
    "line": lambda: nn.GraphConv1d(4, 6, 3, padding=1),
    "space": lambda: nn.GraphConv3d(4, 2, 2, padding=1),
}
SIZES = {1: (13,), 2: (6, 11), 3: (3, 4, 5)}
SMALL = SIZES if BACKEND == "cpp" else {1: (13,), 2: (4, 5), 3: (2, 3, 4)}
LARGE = ("plain", "folded depthwise")
"""The interpreter takes milliseconds a block of rows and tap: these alone have several blocks."""


def run(
    layer: Any, graph: cg.PixelGraph, backend: str, dtype: torch.dtype, *, twice: bool = True
) -> list[Tensor]:
    """Value, gradients, and the derivatives of the gradients."""
    layer = layer.to(dtype)
    x = graph.x.to(dtype).requires_grad_()
    with cg.backend(backend):
        y = layer(graph.with_x(x)).x
        g = (torch.arange(y.numel()).view_as(y) ** 2 // 3 % 5 - 2).to(dtype).requires_grad_()
        leaves = [x, *layer.parameters()]
        grads = torch.autograd.grad(y, leaves, g, create_graph=twice)
        if not twice:
            return [y.detach(), *grads]
        firsts = grads[:2]
        along = [part.detach().sign() for part in firsts]
        second = torch.autograd.grad(firsts, [x, layer.weight, g], along)
    return [t.detach() for t in (y, *grads, *second)]


@pytest.mark.parametrize(
    ("name", "masked"),
    [(name, True) for name in LAYERS] + [(name, False) for name in ("plain", "replicate")],
)
def test_values_and_derivatives_are_exact(name: str, masked: bool) -> None:
    layer = integer_weights(LAYERS[name]())
    size, channels = (SIZES if name in LARGE else SMALL)[layer.geometry.d], layer.in_channels
    mask = holes(2, size) if masked else None
    graph = cg.PixelGraph.from_image(integers(2, channels, *size), mask, d=len(size))
    found = run(layer, graph, BACKEND, torch.float32)
    truth = run(layer, graph, "gather", torch.float64)
    assert all(torch.equal(a.double(), b) for a, b in zip(found, truth, strict=True))
    assert all(bool(t.any()) for t in truth), "a comparison of zeros compares nothing"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["wide", "strided", "depthwise"])
def test_half_types_round_once(name: str, dtype: torch.dtype) -> None:
    layer = integer_weights(LAYERS[name]())
    graph = cg.PixelGraph.from_image(integers(2, layer.in_channels, 6, 11), holes(2, (6, 11)))
    # Once: what is derived from the gradients starts from rounded values.
    truth = run(layer, graph, "gather", torch.float64, twice=False)
    found = run(layer, graph, BACKEND, dtype, twice=False)
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("size", [(2, 2), (4, 16)])
def test_the_smallest_lattice_of_all_taps_and_one_of_whole_blocks(
    size: tuple[int, int], groups: int
) -> None:
    layer = integer_weights(nn.GraphConv2d(4, 4, 3, padding=1, groups=groups))
    graph = cg.PixelGraph.from_image(integers(2, 4, *size))
    found = run(layer, graph, BACKEND, torch.float32)
    truth = run(layer, graph, "gather", torch.float64)
    assert all(torch.equal(a.double(), b) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("name", ["plain", "depthwise"])
def test_graphs_without_nodes_without_edges_and_of_different_sizes(name: str) -> None:
    layer = integer_weights(LAYERS[name]())
    lone = torch.zeros(1, 5, 5, dtype=torch.bool)
    image = integers(1, 4, 5, 5)
    graphs = [cg.PixelGraph.from_image(image, lone)]
    lone = lone.clone()
    lone[0, 2, 3] = True
    graphs += [cg.PixelGraph.from_image(image, lone)]
    graphs += [cg.PixelGraph.from_image([integers(4, 3, 9), integers(4, 7, 2)])]
    corner = torch.zeros(1, 5, 5, dtype=torch.bool)
    corner[0, 4, 4] = True
    for graph in graphs:
        found = run(layer, graph, BACKEND, torch.float32)
        truth = run(layer, graph, "gather", torch.float64)
        assert all(torch.equal(a.double(), b) for a, b in zip(found, truth, strict=True))
    layer = layer.float()
    with cg.backend(BACKEND):  # sites where no message arrives carry the bias
        y = layer(graphs[1].with_x(graphs[1].x.float()), sites=corner).x
    assert torch.equal(y, layer.bias.detach().expand(1, -1))


def test_results_do_not_depend_on_the_order_of_the_batch_and_repeat() -> None:
    layer = nn.GraphConv2d(4, 8, 3, padding=1, backend=BACKEND)
    image, mask = torch.rand(3, 4, 6, 6), torch.rand(3, 6, 6) > 0.5
    if (
        BACKEND == "triton"
    ):  # the interpreter's products are NumPy's, whose order of sums is its own
        layer = integer_weights(layer).float()
        image = (image * 8).floor()
    order = torch.tensor([2, 0, 1])
    one = layer(cg.PixelGraph.from_image(image, mask)).to_image()
    two = layer(cg.PixelGraph.from_image(image[order], mask[order])).to_image()
    assert torch.equal(one[order], two)
    assert torch.equal(one, layer(cg.PixelGraph.from_image(image, mask)).to_image())


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_forward_mode_and_vmap(mode: str) -> None:
    layer = nn.GraphConv2d(2, 3, (1, 3), padding=(0, 1), padding_mode=mode)
    layer = integer_weights(layer).float()
    graph = cg.PixelGraph.from_image(integers(1, 2, 3, 4, dtype=torch.float32), holes(1, (3, 4)))

    def call(backend: str) -> Callable[..., Tensor]:
        def f(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            with cg.backend(backend):
                values = {"weight": weight, "bias": bias}
                return functional_call(layer, values, (graph.with_x(x),)).x

        return f

    at = (graph.x, layer.weight.detach(), layer.bias.detach())
    along = tuple(integers(*t.shape, dtype=torch.float32) for t in at)
    several = [torch.stack([t, -t, 2 * t]) for t in at]
    loss = lambda f: lambda *args: f(*args).square().sum()  # noqa: E731
    found, truth = (
        [
            *jvp(f, at, along),
            vmap(f)(*several),
            vmap(f, in_dims=(None, 0, None))(at[0], several[1], at[2]),
            *torch.func.grad(loss(f), argnums=(0, 1, 2))(*at),
            *vmap(torch.func.grad(loss(f), argnums=(0, 1)), in_dims=(0, None, None))(
                several[0], *at[1:]
            ),
            jvp(torch.func.grad(loss(f), argnums=1), at, along)[1],
        ]
        for f in (call(BACKEND), call("gather"))
    )
    assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))


PROVEN: list[tuple[dict[str, Any], bool]] = [
    ({"kernel_size": (1, 2), "stride": 2, "groups": 2}, True),
    ({"kernel_size": (1, 2), "groups": 4}, False),
]
if BACKEND == "cpp":  # a proof calls its layer some ninety times
    PROVEN += [({}, True), ({"padding": 2, "padding_mode": "reflect"}, False)]


@pytest.mark.parametrize(("kwargs", "masked"), PROVEN)
def test_it_is_proven(kwargs: dict[str, Any], masked: bool) -> None:
    twin = torch.nn.Conv2d(4, 4, **{"kernel_size": 2, "padding": 1, **kwargs})
    layer = nn.GraphConv2d.from_dense(twin)
    with cg.backend(BACKEND):
        mask = holes(2, (5, 6)) if masked else None
        found = cg.prove(layer, twin, size=(5, 6), mask=mask, identity=IDENTITY)
    assert found.verdict == "proven", str(found)
    assert any("convgraph::send" in line for line in found.assumed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_prepared_call_is_the_general_one(
    groups: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short way, which is taken where the choice falls on a fused kernel."""
    layer = integer_weights(nn.GraphConv2d(4, 8, (1, 3), padding=(0, 1), groups=groups))
    graph = cg.PixelGraph.from_image(integers(2, 4, 6, 11), holes(2, (6, 11)))
    general = run(layer, graph, BACKEND, dtype, twice=False)
    monkeypatch.setattr(backends, "choose", lambda *_: BACKEND)
    x = graph.x.to(dtype).requires_grad_()
    args = (layer.weight, layer.bias, layer.geometry, groups)
    short = prepared.convolved(graph.with_x(x), *args)
    if BACKEND == "cpp" and dtype == torch.bfloat16:
        assert short is None, "half types are widened by the general way"
        return
    assert short is not None
    y = short.x
    g = (torch.arange(y.numel()).view_as(y) ** 2 // 3 % 5 - 2).to(dtype)
    grads = torch.autograd.grad(y, [x, *layer.parameters()], g)
    assert all(torch.equal(a, b) for a, b in zip((y.detach(), *grads), general, strict=True))
    with torch.no_grad():
        assert torch.equal(prepared.convolved(graph.with_x(x), *args).x, y)  # type: ignore[union-attr]
