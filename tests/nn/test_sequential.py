"""Sequential: the same network on a full grid, and the dense interpreter's on a mask."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof.equation.map_positions import MapPositions
from tests import interpreter
from tests.interpreter import interpret
from tests.networks import NETS, OwnSites, build, exact, integers, masks


def result(graph: cg.PixelGraph, like: Tensor) -> Tensor:
    return graph.x if like.dim() == 2 else graph.to_image()


def agree(net: Any, dense: Any, image: Tensor, root: Tensor | None, expected: Any) -> bool:
    """Whether values and all gradients are those of `expected(dense, image, root)`, bit for bit."""
    one, two = image.clone().requires_grad_(), image.clone().requires_grad_()
    truth = expected(dense, one, root)
    found = result(net(cg.PixelGraph.from_image(two, root, d=image.dim() - 2)), truth)
    if not torch.equal(found, truth):
        return False
    g = integers(*truth.shape)
    left = torch.autograd.grad(truth, [one, *dense.parameters()], g)
    right = torch.autograd.grad(found, [two, *net.parameters()], g)
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# The same network


@pytest.mark.parametrize("name", NETS)
def test_on_a_full_grid_it_is_the_dense_network(name: str) -> None:
    size, dense, net = build(name)
    assert agree(net, dense, integers(3, 2, *size), None, lambda f, x, _: f(x))


@pytest.mark.parametrize("backend", [None, "gather", "messages"])
@pytest.mark.parametrize("name", NETS)
def test_on_a_mask_it_is_the_interpreters(name: str, backend: str | None) -> None:
    size, dense, net = build(name)
    for part in net.modules():
        if backend is not None and hasattr(part, "backend"):
            part.backend = backend
    for _ in range(2):
        assert agree(net, dense, integers(3, 2, *size), masks(name, size), interpret)


def test_a_ragged_batch_equals_its_images() -> None:
    _, _, net = build("odd sizes")
    sizes = [(7, 5), (6, 9), (8, 8)]
    images = [integers(2, *size) for size in sizes]
    roots = [torch.rand(size) > 0.5 for size in sizes]
    together = net(cg.PixelGraph.from_image(images, roots)).to_images()
    for image, root, found in zip(images, roots, together, strict=True):
        assert torch.equal(found, net(cg.PixelGraph.from_image(image, root)).to_image())


def test_training_follows_torch_step_by_step() -> None:
    """Batch statistics, running statistics and the loss: one operator, so one number, bit for bit.

    Only the layout of memory decides the order of torch's sums; both sides run channels last.
    """
    dense = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    net = cg.nn.Sequential.from_dense(dense)
    pairs = [(f, torch.optim.SGD(f.parameters(), 0.1)) for f in (dense, net)]
    for _ in range(3):
        image, label = torch.rand(5, 2, 4, 4).double(), torch.randint(3, (5,))
        image = image.contiguous(memory_format=torch.channels_last)
        logits = (dense(image), net(cg.PixelGraph.from_image(image)).x)
        assert torch.equal(*logits)
        for (_, optimizer), out in zip(pairs, logits, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(out, label).backward()
            optimizer.step()
    for key, value in dense.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key


# The comparison can fail


def fill(x: Tensor, root: Tensor, identity: float) -> Tensor:
    place = MapPositions.of(root).scaled(x.shape[2:]) if x.dim() == root.dim() + 1 else None
    return interpreter.fill(x, place, identity)


def after(dense: Any, image: Tensor, root: Tensor) -> Tensor:
    """Fill after every operator that moves values, not before: what a norm adds then leaks."""
    x = fill(image, root, 0)
    for module in interpreter.leaves(dense):
        x = module(x)
        if isinstance(module, interpreter.MOVES):
            x = fill(x, root, 0)
    return fill(x, root, 0)


def zeros_for_maxima(dense: Any, image: Tensor, root: Tensor) -> Tensor:
    x = image
    for module in interpreter.leaves(dense):
        if isinstance(module, interpreter.MOVES):
            x = fill(x, root, 0)
        x = module(x)
    return fill(x, root, 0)


def nothing_filled(dense: Any, image: Tensor, root: Tensor) -> Tensor:
    return fill(dense(fill(image, root, 0)), root, 0)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("classifier", after),
        ("classifier", nothing_filled),
        ("down and up", after),
        ("down and up", zeros_for_maxima),
        ("signal", zeros_for_maxima),
        ("readout", nothing_filled),
    ],
)
def test_another_meaning_is_told_apart(name: str, wrong: Any) -> None:
    size, dense, net = build(name)
    image, root = integers(3, 2, *size), masks(name, size)
    assert agree(net, dense, image, root, interpret)
    assert not agree(net, dense, image, root, wrong)


def test_sites_of_a_single_layer_are_told_apart() -> None:
    size, dense, net = build("odd sizes")
    root = torch.zeros(3, *size, dtype=torch.bool)
    root[:, 3, 2] = True
    image = integers(3, 2, *size)
    assert agree(net, dense, image, root, interpret)
    net[1] = OwnSites(net[1])
    assert not agree(net, dense, image, root, interpret)


def test_a_lost_repetition_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    act, conv = nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1)
    dense = exact(nn.Sequential(conv, act, conv, act))
    net = cg.nn.Sequential.from_dense(dense)
    image = integers(1, 2, 5, 5)
    assert agree(net, dense, image, None, lambda f, x, _: f(x))
    assert net[0] is net[2]
    del net[2:]
    assert not agree(net, dense, image, None, lambda f, x, _: f(x))


# Readouts


def test_flatten_has_torchs_order_and_reads_holes_as_zeros() -> None:
    image, mask = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 5) > 0.5
    layer = cg.nn.GraphFlatten()
    graph = layer(cg.PixelGraph.from_image(image, mask))
    assert torch.equal(graph.x, torch.where(mask.unsqueeze(1), image, 0).flatten(1))
    assert graph.sites.sizes == ((1, 1), (1, 1))
    assert layer(cg.PixelGraph.from_image(image[0])).x.shape == (1, 60)
    assert layer(cg.PixelGraph.from_image(image[:0])).x.shape == (0, 60)
    assert layer(graph).x.shape == (2, 60)
    again = cg.PixelGraph(torch.rand(graph.num_nodes, 3), graph.sites)
    assert layer(again).sites.num_nodes == 2


def test_logits_are_the_features_of_the_readout_nodes() -> None:
    net = cg.nn.Sequential(cg.nn.GraphConv2d(1, 4, 3), cg.nn.GraphGlobalAvgPool(), nn.Linear(4, 10))
    images = [torch.rand(1, 8, 8), torch.rand(1, 5, 6)]
    assert net(cg.PixelGraph.from_image(images)).x.shape == (2, 10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_channel_dropout_draws_as_torch_does(d: int) -> None:
    dense = getattr(nn, f"Dropout{d}d")(0.5)
    layer = getattr(cg.nn, f"GraphDropout{d}d").from_dense(dense)
    assert str(layer.to_dense()) == str(dense)
    image = torch.rand(3, 6, *(4, 3, 2)[:d])
    torch.manual_seed(1)
    expected = dense(image)
    torch.manual_seed(1)
    assert torch.equal(layer(cg.PixelGraph.from_image(image, d=d)).to_image(), expected)
    mask = torch.rand(3, *image.shape[2:]) > 0.3
    torch.manual_seed(1)
    found = layer(cg.PixelGraph.from_image(image, mask, d=d)).to_image()
    assert torch.equal(found, torch.where(mask.unsqueeze(1), expected, 0))
    graph = cg.PixelGraph.from_image(image, d=d)
    assert layer.eval()(graph) is graph
