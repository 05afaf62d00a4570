"""Forward mode and vmap, over each other, of every operator that brings its own derivative.

On small integers sums are exact in every order, so that two ways of differentiating agree bit for
bit: forward over vmap (`jacfwd`) with backward over vmap (`jacrev`), and both with one backward an
entry of the output, which none of torch.func's machinery touches.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import convgraph as cg
from convgraph.backends.compiled import operators
from convgraph.backends.dense import resize as dense_resize
from convgraph.backends.gather import edges as gather
from convgraph.backends.gather import typed_nodes
from convgraph.geometry.resize import ResizeGeometry
from tests.cases import (
    CONV_OFF_GRID,
    MOVERS,
    OFF_GRID,
    holes,
    integer_weights,
    integers,
    typed_graph,
)

# torch says so where it runs an operator once a sample.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

Function = Callable[..., Tensor]


def by_rows(run: Function, *at: Tensor) -> list[Tensor]:
    """The Jacobian in each argument, (*out, *in): one plain backward per entry of the output."""
    leaves = [t.clone().requires_grad_() for t in at]
    out = run(*leaves)
    rows = [torch.autograd.grad(entry, leaves, retain_graph=True) for entry in out.flatten()]
    return [
        torch.stack(column).view(*out.shape, *leaf.shape)
        for column, leaf in zip(zip(*rows, strict=True), leaves, strict=True)
    ]


def disagreements(run: Function, *at: Tensor) -> list[str]:
    """Names of what differs from the plain backward."""
    truth, found = by_rows(run, *at), []
    places = tuple(range(len(at)))
    for name, way in (("jacfwd", jacfwd), ("jacrev", jacrev)):
        if not all(map(torch.equal, way(run, argnums=places)(*at), truth)):
            found.append(name)
    tangents = tuple(integers(*t.shape) for t in at)
    out, moved = jvp(run, at, tangents)
    sums = [j.flatten(out.dim()) @ t.flatten() for j, t in zip(truth, tangents, strict=True)]
    if not (torch.equal(out, run(*at)) and torch.equal(moved, sum(sums))):
        found.append("jvp")
    for place in places:  # a tangent in one argument only: the others have none
        alone = lambda one, n=place: run(*at[:n], one, *at[n + 1 :])  # noqa: E731
        if not torch.equal(jvp(alone, (at[place],), (tangents[place],))[1], sums[place]):
            found.append(f"jvp in argument {place}")
    several = [torch.stack([t, -t, integers(*t.shape)]) for t in at]
    singles = torch.stack([run(*each) for each in zip(*several, strict=True)])
    if not torch.equal(vmap(run)(*several), singles):
        found.append("vmap")
    doubled = tuple(torch.stack([t, t, t]) for t in tangents)
    turned = vmap(lambda *both: jvp(run, both[: len(at)], both[len(at) :])[1])(*several, *doubled)
    if not torch.equal(jvp(vmap(run), tuple(several), doubled)[1], turned):
        found.append("jvp over vmap")
    loss = lambda *args: run(*args).square().sum()  # noqa: E731
    slope = grad(loss, argnums=places)
    bent = jvp(lambda *args: slope(*args), at, tangents)[1]
    leaves = [t.clone().requires_grad_() for t in at]
    firsts = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    product = sum((f * t).sum() for f, t in zip(firsts, tangents, strict=True))
    if not all(map(torch.equal, bent, torch.autograd.grad(product, leaves))):
        found.append("forward over reverse")
    return found


def on_nodes(layer: Any, graph: cg.PixelGraph, backend: str) -> tuple[Function, tuple[Tensor, ...]]:
    """A layer as a function of features and parameters, and where to differentiate it."""
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        with cg.backend(backend):
            values = dict(zip(names, parameters, strict=True))
            out: Tensor = functional_call(layer, values, (graph.with_x(x),)).x
        return out

    return run, (graph.x, *(p.detach() for p in layer.parameters()))


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize("name", MOVERS)
def test_layers_in_every_mode(name: str, backend: str) -> None:
    layer = MOVERS[name]().double()
    size = (2, 3) if name == "fold" else (3, 4)
    mask = None if name == "fold" else holes(1, size)
    if name == "fold":
        layer = cg.nn.GraphFold((3, 4), 2)
    if "average" in name:  # divisors that are powers of two: 2 nodes a window, 8 in all
        mask = torch.ones(1, *size, dtype=torch.bool)
        mask[0, 0] = False
    graph = cg.PixelGraph.from_image(integers(1, 4, *size) * 16, mask)
    run, at = on_nodes(layer, graph, backend)
    assert disagreements(run, *at) == []


CONVOLUTIONS: dict[str, Callable[[], Any]] = {
    "strided": lambda: cg.nn.GraphConv2d(2, 3, 3, stride=2, padding=1),
    "depthwise": lambda: cg.nn.GraphConv2d(2, 2, 3, padding=1, groups=2),
    "transposed": lambda: cg.nn.GraphConvTranspose2d(2, 2, 3, stride=2, groups=2),
}


@pytest.mark.parametrize("backend", CONV_OFF_GRID)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_in_every_mode(name: str, backend: str) -> None:
    layer = integer_weights(CONVOLUTIONS[name]())
    graph = cg.PixelGraph.from_image(integers(1, 2, 3, 4), holes(1, (3, 4)))
    run, at = on_nodes(layer, graph, backend)
    assert disagreements(run, *at) == []


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("weighed", [False, True])
def test_typed_edges_in_every_mode(groups: int, weighed: bool) -> None:
    layer = integer_weights(cg.nn.GraphConv2d(4, 4, 2, groups=groups, backend="gather"))
    index, kind = typed_graph(5, 14, 4)
    weight = integers(14) if weighed else None

    def run(x: Tensor, w: Tensor) -> Tensor:
        out: Tensor = functional_call(layer, {"weight": w}, (x, index, kind, weight))
        return out

    assert disagreements(run, integers(5, 4), layer.weight.detach()) == []


@pytest.mark.parametrize("backend", CONV_OFF_GRID)
@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_folded_padding_in_every_mode(padding_mode: str, backend: str) -> None:
    layer = integer_weights(
        cg.nn.GraphConv2d(1, 2, 3, stride=2, padding=2, padding_mode=padding_mode)
    )
    graph = cg.PixelGraph.from_image(integers(1, 1, 3, 4), holes(1, (3, 4)))
    run, at = on_nodes(layer, graph, backend)
    assert disagreements(run, *at) == []


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_resize_that_repeats_in_every_mode(mode: str) -> None:
    """It runs on CUDA only, but its functions are the same everywhere."""
    edges = cg.connect(
        ResizeGeometry(scale_factor=2.0, mode=mode, d=2),
        cg.PixelGraph.from_image(integers(1, 2, 2, 3)),
    )
    run = lambda image: dense_resize.repeatable(image, edges)  # noqa: E731
    assert disagreements(run, integers(1, 2, 2, 3) * 4096) == []


def test_curvature_of_weights() -> None:
    layer = integer_weights(cg.nn.GraphConv2d(2, 2, 2, backend="gather"))
    graph = cg.PixelGraph.from_image(integers(1, 2, 3, 3), holes(1, (3, 3)))

    def loss(w: Tensor) -> Tensor:
        out: Tensor = functional_call(layer, {"weight": w}, (graph,)).x
        return out.square().sum()

    weight = layer.weight.detach()
    assert torch.equal(hessian(loss)(weight), jacrev(jacrev(loss))(weight))


@pytest.mark.parametrize("backend", CONV_OFF_GRID)
def test_forward_mode_asks_for_no_gradients(backend: str) -> None:
    layer = integer_weights(cg.nn.GraphConv2d(2, 2, 3, padding=1, backend=backend))
    graph = cg.PixelGraph.from_image(integers(1, 2, 3, 4), holes(1, (3, 4)))
    tangent = integers(*graph.x.shape)
    found = []
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), forward_ad.dual_level():
            moved = layer(graph.with_x(forward_ad.make_dual(graph.x, tangent))).x
            found.append(forward_ad.unpack_dual(moved).tangent)
    assert torch.equal(
        found[0], layer(graph.with_x(tangent)).x - layer(graph.with_x(tangent * 0)).x
    )
    assert torch.equal(*found)


FAULTS: dict[str, Callable[..., Any]] = {
    "a factor's part lost": lambda op, ctx, ts: (
        op(ts[0], *ctx.saved_tensors[1:], *ctx.plain)
        if ts[0] is not None
        else op(*ctx.saved_tensors, *ctx.plain) * 0
    ),
    "the tangent doubled": lambda op, ctx, ts: op(
        *[s if t is None else 2 * t for s, t in zip(ctx.saved_tensors, ts, strict=False)],
        *ctx.plain,
    ),
}


@pytest.mark.parametrize("way", [gather, typed_nodes])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_forward_mode_is_seen(
    fault: str, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way is gather:
        monkeypatch.setattr(typed_nodes, "MOST", 0)
    monkeypatch.setattr(way, "_send", operators(way._Send, FAULTS[fault])[0])
    layer = integer_weights(cg.nn.GraphConv2d(1, 1, 2))
    graph = cg.PixelGraph.from_image(integers(1, 1, 3, 3) + 9, holes(1, (3, 3)))
    run, at = on_nodes(layer, graph, "gather")
    found = disagreements(run, *at)
    assert "jacfwd" in found
    assert "jvp" in found
    assert "jacrev" not in found
