"""Compilers, exporters and functional transforms, whoever is the first to ask for a topology."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from tests.cases import (
    BACKENDS,
    CONV_BACKENDS,
    MOVERS,
    holes,
    integer_weights,
    integers,
    typed_graph,
)

# Dynamo instantiates torch_geometric's own helpers while it traces and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated.*")

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
TAPS, NODES, EDGES = 9, 12, 60


@pytest.fixture
def layer() -> Any:
    return integer_weights(cg.nn.GraphConv2d(4, 6, 3, padding=1, groups=2))


@pytest.fixture
def typed() -> tuple[Tensor, Tensor, Tensor]:
    return integers(NODES, 4), *typed_graph(NODES, EDGES, TAPS)


@pytest.mark.parametrize("backend", CONV_BACKENDS)
def test_derivatives_of_every_order(backend: str) -> None:
    layer = cg.nn.GraphConv2d(2, 2, 3, padding=1, padding_mode="reflect").double()
    mask = None if backend == "dense" else holes(2, (3, 4))
    graph = cg.PixelGraph.from_image(torch.rand(2, 2, 3, 4).double(), mask)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = {"weight": weight, "bias": bias}
        with cg.backend(backend):
            return torch.func.functional_call(layer, values, (graph.with_x(x),)).x

    leaves = [t.detach().clone().requires_grad_() for t in (graph.x, layer.weight, layer.bias)]
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)
    loss = lambda *args: run(*args).square().sum()  # noqa: E731
    by_func = torch.func.grad(loss, argnums=(0, 1, 2))(*[leaf.detach() for leaf in leaves])
    plain = torch.autograd.grad(loss(*leaves), leaves)
    assert all(torch.equal(a, b) for a, b in zip(by_func, plain, strict=True))


@pytest.mark.parametrize("backend", CONV_BACKENDS)
def test_gradients_of_each_sample(layer: Any, backend: str) -> None:
    """torch.func's recipe: vmap over images, then over weights."""
    mask = None if backend == "dense" else holes(1, (5, 6))
    sites = cg.PixelGraph.from_image(integers(1, 4, 5, 6), mask)
    several = integers(3, sites.num_nodes, 4)
    layer.backend = backend

    def loss(weight: Tensor, x: Tensor) -> Tensor:
        values = {"weight": weight, "bias": layer.bias.detach()}
        return torch.func.functional_call(layer, values, (sites.with_x(x),)).x.square().sum()

    weight = layer.weight.detach()
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, several)
    singles = [torch.func.grad(loss)(weight, x) for x in several]
    assert torch.equal(found, torch.stack(singles))
    weights = torch.stack([weight, 2 * weight, -weight])
    found = torch.func.vmap(loss, in_dims=(0, None))(weights, several[0])
    assert torch.equal(found, torch.stack([loss(w, several[0]) for w in weights]))


def graphs() -> dict[str, cg.PixelGraph]:
    mask = holes(2, (5, 6))
    image = integers(2, 4, 5, 6)
    return {"full": cg.PixelGraph.from_image(image), "mask": cg.PixelGraph.from_image(image, mask)}


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_typed_call_compiles_to_one_graph(layer: Any, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for nodes in (NODES, NODES + 3, NODES + 7) if dynamic else (NODES,):
        index = torch.randint(0, nodes, (2, 4 * nodes))
        x, kind = integers(nodes, 4), torch.randint(0, TAPS, (4 * nodes,))
        y = compiled(x, index, kind)
        expected = layer(x, index, kind)
        assert torch.equal(y, expected)
        left = torch.autograd.grad(y.square().sum(), layer.weight)
        right = torch.autograd.grad(expected.square().sum(), layer.weight)
        assert torch.equal(left[0], right[0])


ASKED = (None, "tiles", "gather", "masked", "messages")
"""Backends of the tests that cross them with something else."""


def crossed(ways: dict[Any, str]) -> list[Any]:
    """Return every way with every backend; of a way that is "rare", forced ones are CI's share."""
    return [
        pytest.param(way, backend, marks=[pytest.mark.ci] * bool(how == "rare" and backend))
        for way, how in ways.items()
        for backend in ASKED
    ]


@pytest.mark.parametrize("kind", ["full", "mask"])
@pytest.mark.parametrize(
    ("dynamic", "backend"), [(False, None), *((True, backend) for backend in ASKED)]
)
def test_a_pixel_graph_compiles_to_one_graph(kind: str, backend: str | None, dynamic: bool) -> None:
    if (
        dynamic
        and TORCH < (2, 11)
        and (backend in ("tiles", "gather") or (backend is None and kind == "mask"))
    ):
        pytest.skip("torch 2.8 loses the symbolic sizes of an autograd function; 2.11 does not")
    torch._dynamo.reset()
    # A row of taps, each of which is operators of its own to "gather".
    layer = integer_weights(cg.nn.GraphConv2d(4, 6, (1, 3), padding=(0, 1), groups=2))
    layer.backend = backend
    graph = graphs()[kind]
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for x in (graph.x, graph.x.clone().requires_grad_()):
        expected, found = layer(graph.with_x(x)).x, compiled(graph.with_x(x)).x
        assert torch.equal(found, expected)
        leaves = [layer.weight, layer.bias, *([x] if x.requires_grad else [])]
        left = torch.autograd.grad(found.square().sum(), leaves)
        right = torch.autograd.grad(expected.square().sum(), leaves)
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", ["full", "mask", "ragged"])
@pytest.mark.parametrize(
    ("how", "backend"),
    crossed(
        dict.fromkeys(("export", "compile", "grad", "inference"), "often")
        | {"strict export": "rare"}
    ),
)
def test_the_first_to_ask_may_be_a_tracer(how: str, kind: str, backend: str | None) -> None:
    """What is kept are plain tensors: the next caller trains on the same topology.

    What was compiled trains too.
    """
    if backend == "masked" and kind == "ragged":
        pytest.skip("images of different sizes are no one image")
    torch._dynamo.reset()
    layer = integer_weights(cg.nn.GraphConv2d(4, 6, 3, stride=2, padding=1, backend=backend))
    image = integers(2, 4, 5, 13)
    graph = {
        "full": lambda: cg.PixelGraph.from_image(image),
        "mask": lambda: cg.PixelGraph.from_image(image, holes(2, (5, 13))),
        "ragged": lambda: cg.PixelGraph.from_image([image[0], image[1, :, :3]]),
    }[kind]()
    if how == "grad":
        loss = lambda w: torch.func.functional_call(layer, {"weight": w}, (graph,)).x.sum()  # noqa: E731
        first = torch.func.grad(loss)(layer.weight.detach())
    elif how == "compile":
        graph = graph.with_x(graph.x.requires_grad_())
        leaves = [layer.weight, layer.bias, graph.x]
        first = torch.compile(layer, fullgraph=True, backend="aot_eager")(graph).x
        left = torch.autograd.grad(first.square().sum(), leaves)
        right = torch.autograd.grad(layer(graph).x.square().sum(), leaves)
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    elif how == "inference":
        with torch.inference_mode():
            first = layer(cg.PixelGraph(graph.x, graph.sites)).x.clone()
    else:
        first = (
            torch.export.export(layer, (graph,), strict=how == "strict export").module()(graph).x
        )
    y = layer(graph).x
    (grad,) = torch.autograd.grad(y.sum(), layer.weight)
    assert torch.equal(first, grad if how == "grad" else y)


def pairs() -> Iterator[Any]:
    """Every layer with every backend; each layer once and each backend in turn, the rest in CI."""
    for number, name in enumerate(MOVERS):
        for turn, backend in enumerate(BACKENDS):
            marks = () if turn == number % len(BACKENDS) else pytest.mark.ci
            yield pytest.param(name, backend, marks=marks)


@pytest.mark.parametrize(("name", "backend"), list(pairs()))
def test_layers_without_weights_compile_with_their_gradients(name: str, backend: str) -> None:
    torch._dynamo.reset()
    layer = MOVERS[name]()
    size = (5, 7) if name == "fold" else (6, 8)
    mask = None if backend == "dense" or name == "fold" else holes(2, size)
    graph = cg.PixelGraph.from_image(integers(2, 4, *size) * 16, mask)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    grads = []
    with cg.backend(backend):
        for run in (layer, compiled):
            x = graph.x.clone().requires_grad_()
            y = run(graph.with_x(x)).x
            grads.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


INDUCTOR = {"cpp.vec_isa_ok": False, "layout_optimization": False}
"""Few kernels of plain C++: its compiler, which costs a second a kernel, builds no vectors."""

cxx = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@cxx
@pytest.mark.slow
def test_inductor_compiles_it_too(layer: Any) -> None:
    torch._dynamo.reset()
    graph = graphs()["mask"]
    layer(graph)
    compiled = torch.compile(layer, fullgraph=True, options=INDUCTOR)
    assert torch.equal(compiled(graph).x, layer(graph).x)


@cxx
@pytest.mark.slow
def test_inductor_compiles_a_converted_network_with_its_gradients() -> None:
    """On small integers, where no order of sums and no fused step can round."""
    torch._dynamo.reset()
    layers = [nn.Conv2d(2, 4, 3, 2, groups=2), nn.ReLU6(), nn.Conv2d(4, 3, 1)]
    model = nn.Sequential(*map(integer_weights, layers))
    x = integers(2, 2, 8, 10)
    net = cg.to_graph(model, x)
    got, want = torch.compile(net, options=INDUCTOR)(x), model(x)
    assert torch.equal(got, want)
    grads = (
        torch.autograd.grad((out * out).sum(), part.parameters())
        for out, part in ((got, net), (want, model))
    )
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("strict", [False, True])
def test_it_exports(layer: Any, typed: Any, strict: bool) -> None:
    x, index, kind = typed
    program = torch.export.export(layer, (x, index, kind), strict=strict)
    assert torch.equal(program.module()(x, index, kind), layer(x, index, kind))
    for graph in graphs().values():
        expected = layer(graph).x
        exported = torch.export.export(layer, (graph,), strict=strict).module()
        assert torch.equal(exported(graph).x, expected)


@pytest.mark.parametrize("strict", [False, True])
def test_it_exports_with_sizes_left_open(layer: Any, typed: Any, strict: bool) -> None:
    x, index, kind = typed
    nodes, edges = torch.export.Dim("nodes"), torch.export.Dim("edges")
    shapes = {"x": {0: nodes}, "edge_index": {1: edges}, "edge_type": {0: edges}}
    arguments = (x, index, kind)
    exported = torch.export.export(layer, arguments, dynamic_shapes=shapes, strict=strict)
    program = exported.module()
    more = integers(NODES + 5, 4)
    assert torch.equal(
        program(more, index[:, :40], kind[:40]), layer(more, index[:, :40], kind[:40])
    )
