"""Losses on maps with holes are torch's own on the entries of the nodes, values and gradients."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.errors import ConversionError
from tests.convert.zoo.snap import snap

SIZE = (5, 6)


def whole(*shape: int) -> Tensor:
    return torch.randint(-4, 5, shape).double()


def nodes(image: Tensor, mask: Tensor) -> Tensor:
    return image.movedim(1, -1)[mask]


REGRESSIONS: dict[str, Callable[..., Any]] = {
    "mse": F.mse_loss,
    "smooth l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "logits": lambda x, t, **how: F.binary_cross_entropy_with_logits(x, t / 8 + 0.5, **how),
    "cross entropy": lambda x, t, **how: F.binary_cross_entropy(x.sigmoid(), t / 8 + 0.5, **how),
    "margin": lambda x, t, **how: F.soft_margin_loss(x, t.sign(), **how),
}


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("target", ["image", "map"])
def test_entry_by_entry(name: str, reduction: str, target: str) -> None:
    torch.manual_seed(0)
    loss, mask = REGRESSIONS[name], torch.rand(2, *SIZE) > 0.4
    x, t = whole(2, 3, *SIZE).requires_grad_(), whole(2, 3, *SIZE)
    graph = cg.PixelGraph.from_image(x, mask=mask)
    other = cg.PixelGraph(nodes(t, mask), graph.sites).tensor() if target == "map" else t
    got = loss(graph.tensor(), other, reduction=reduction)
    want = loss(nodes(x, mask), nodes(t, mask), reduction=reduction)
    if reduction == "none":
        assert torch.equal(got.graph.x, want)
        got = got.sum()
    else:
        assert torch.equal(got, want)
    mine, true = (torch.autograd.grad(one.sum(), x)[0] for one in (got, want))
    assert true.abs().max() > 0
    assert torch.equal(snap(mine, None), snap(true, None))  # a mean divides before or behind


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.huber_loss])
def test_an_absent_pixel_has_no_weight(loss: Any, reduction: str) -> None:
    """A mean divides by the weights of nodes; torch's l1_loss hands itself over without any."""
    torch.manual_seed(0)
    if "weight" not in inspect.signature(loss).parameters:
        pytest.skip("this torch's loss takes no weights")
    mask = torch.rand(2, *SIZE) > 0.4
    x, t, w = (whole(2, 3, *SIZE).requires_grad_() for _ in range(3))
    graph = cg.PixelGraph.from_image(x, mask=mask)
    on_nodes = [cg.PixelGraph(nodes(one, mask), graph.sites).tensor() for one in (t, w)]
    want = loss(nodes(x, mask), nodes(t, mask), reduction=reduction, weight=nodes(w, mask))
    true = torch.autograd.grad(want.sum(), (x, t, w))
    for target in (t, on_nodes[0]):
        for weight in (w, on_nodes[1]):
            got = loss(graph.tensor(), target, reduction=reduction, weight=weight)
            assert torch.equal(got.graph.x if reduction == "none" else got, want)
            mine = torch.autograd.grad(got.sum(), (x, t, w), retain_graph=True)
            assert all(
                torch.equal(snap(a, None), snap(b, None)) for a, b in zip(mine, true, strict=True)
            )
    with pytest.raises((RuntimeError, ValueError), match="must have the same size"):
        loss(graph.tensor(), t, weight=w[:1])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("target", ["image", "map", "map of its own"])
def test_classes(reduction: str, target: str) -> None:
    """Labels of 255 are ignored; classes have weights."""
    torch.manual_seed(0)
    mask = torch.rand(2, *SIZE) > 0.4
    x, t = whole(2, 3, *SIZE).requires_grad_(), torch.randint(0, 3, (2, *SIZE))
    t[:, 0] = 255
    how: Any = {"reduction": reduction, "ignore_index": 255, "weight": torch.tensor([1.0, 2, 4])}
    how["weight"] = how["weight"].double()
    graph = cg.PixelGraph.from_image(x, mask=mask)
    labels = cg.PixelGraph(t[mask].unsqueeze(1), graph.sites).tensor()[:, 0]
    if target == "map of its own":  # on more nodes, whose labels nobody asks for
        more = mask | (torch.rand(2, *SIZE) > 0.5)
        labels = cg.PixelGraph.from_image(t.unsqueeze(1), mask=more).tensor()[:, 0]
    got = F.cross_entropy(graph.tensor(), t if target == "image" else labels, **how)
    want = F.cross_entropy(nodes(x, mask), t[mask], **how)
    assert torch.equal(got.to_dense()[mask] if reduction == "none" else got, want)
    mine, true = (torch.autograd.grad(one.sum(), x)[0] for one in (got, want))
    assert torch.equal(mine, true)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["shares", "shares on a map", "smoothed", "shares of one"])
def test_classes_by_shares(kind: str, reduction: str) -> None:
    """Holes are no part of the number that a mean divides by, whatever the labels are."""
    torch.manual_seed(0)
    mask = torch.rand(2, *SIZE) > 0.4
    count = 1 if kind == "shares of one" else 3
    x, t = whole(2, count, *SIZE).requires_grad_(), torch.rand(2, count, *SIZE).double()
    graph = cg.PixelGraph.from_image(x, mask=mask)
    how: Any = {"reduction": reduction, "weight": torch.tensor([1.0, 2, 4])[:count].double()}
    labels: Any = t if kind == "shares" else cg.PixelGraph(nodes(t, mask), graph.sites).tensor()
    true = nodes(t, mask)
    if kind == "smoothed":
        labels = t.argmax(1).masked_fill(t[:, 0] > 0.9, 255)
        true = labels[mask]
        how |= {"ignore_index": 255, "label_smoothing": 0.25}
    got = F.cross_entropy(graph.tensor(), labels, **how)
    want = F.cross_entropy(nodes(x, mask), true, **how)
    assert torch.equal(got.to_dense()[mask] if reduction == "none" else got, want)
    mine, other = (torch.autograd.grad(one.sum(), x)[0] for one in (got, want))
    assert torch.equal(mine, other)


def test_labels_of_single_images_are_collated_as_the_images_are() -> None:
    """Of a mask each, without channels; they lived on all nodes of all, and said 0 there."""
    torch.manual_seed(0)
    mask = torch.rand(2, *SIZE) > 0.4
    x, t = whole(2, 3, *SIZE).requires_grad_(), torch.randint(0, 3, (2, *SIZE))
    graphs = [cg.PixelGraph.from_image(*pair) for pair in zip(x, mask, strict=True)]
    samples = [
        (graph.tensor()[0], cg.PixelGraph(t[n][mask[n]].unsqueeze(1), graph.sites).tensor()[0, 0])
        for n, graph in enumerate(graphs)
    ]
    images, labels = torch.utils.data.default_collate(samples)
    assert torch.equal(labels.graph.mask, mask)
    assert labels.double().mean() == t[mask].double().mean()
    assert (images.argmax(1) == labels).sum() == (x.argmax(1) == t)[mask].sum()
    got, want = F.cross_entropy(images, labels), F.cross_entropy(nodes(x, mask), t[mask])
    assert torch.equal(got, want)
    assert torch.equal(*(torch.autograd.grad(one, x)[0] for one in (got, want)))


def test_an_image_without_a_batch_has_its_classes_along_an_axis() -> None:
    """As torch reads it: channels are images, and rows classes, whose logits lie in no order."""
    x, labels = whole(3, *SIZE).requires_grad_(), torch.randint(0, SIZE[0], (3, SIZE[1]))
    losses = [F.cross_entropy(one, labels) for one in (cg.PixelGraph.from_image(x).tensor()[0], x)]
    assert torch.equal(*losses)
    mine, true = (torch.autograd.grad(one, x)[0] for one in losses)
    assert torch.equal(snap(mine, None), snap(true, None))


CAST: dict[str, Callable[[Tensor], Any]] = {
    **{
        mode: lambda x, mode=mode: F.pad(x, (1,) * 4, mode=mode)  # type: ignore[misc]
        for mode in ("constant", "reflect", "replicate", "circular")
    },
    "pad lines": lambda x: F.pad(x.flatten(0, 1).mT, (1, 1), mode="reflect"),
    "layer": nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"),
    "vector": lambda x: torch.mv(x.movedim(1, 3).reshape(-1, 3), torch.ones(3).to(x.dtype)),
    "matrix": lambda x: x.movedim(1, 3) @ torch.ones(3, 2).to(x.dtype),
    "powers": lambda x: x.prod(1) + x.logsumexp(1),
    "means": lambda x: F.avg_pool2d(x, 2) + F.adaptive_avg_pool2d(x, (2, 3)),
    "sizes": lambda x: F.interpolate(x, size=(3, 4), mode="bilinear"),
    "norms": lambda x: F.group_norm(F.layer_norm(x.movedim(1, 3), (3,)).movedim(3, 1), 1),
    "ranks": lambda x: x.median(1)[0] + x.softmax(1).amax(1),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT[:, None]] * 3),
}


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CAST)
def test_autocast_asks_for_the_dtypes_of_dense(name: str, lower: torch.dtype) -> None:
    """Also of what a rule knows whole and torch makes of operators with a policy of their own."""
    mask = torch.rand(2, *SIZE) > 0.4
    for x in (torch.ones(2, 3, *SIZE), torch.ones(2, 3, *SIZE, dtype=lower)):
        graphs = cg.PixelGraph.from_image(x, mask=mask), cg.PixelGraph.from_image(x)
        with torch.autocast("cpu", lower):
            found = {CAST[name](one).dtype for one in (x, *(g.tensor() for g in graphs))}
        assert len(found) == 1


def test_a_node_without_a_label_is_refused() -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, *SIZE) > 0.4
    x = cg.PixelGraph.from_image(whole(2, 3, *SIZE), mask=mask).tensor()
    labels = cg.PixelGraph.from_image(whole(2, 1, *SIZE).abs().long(), mask=mask.flip(1)).tensor()
    with pytest.raises(ConversionError, match="its labels live on other nodes"):
        F.cross_entropy(x, labels[:, 0])


@pytest.mark.parametrize("shape", [(1, *SIZE), (2, 1, 6), (1, 2, *SIZE), (2, 2, 1, 1), (2, *SIZE)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_labels_are_not_broadcast(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Shares of some images were every image's; as many images as classes hid a missing axis."""
    x, labels = whole(2, 2, *SIZE), torch.zeros(shape, dtype=dtype)
    if shape == (2, *SIZE) and dtype == torch.int64:
        labels = labels.unsqueeze(1)
    mask = torch.ones(2, *SIZE) > 0
    mask[0, 0] = False
    told = []
    for one in (cg.PixelGraph.from_image(x, mask=mask).tensor(), x):
        with pytest.raises((ValueError, RuntimeError)) as error:
            F.cross_entropy(one, labels)
        told.append(str(error.value))
    assert told[0] == told[1]


def test_holes_that_count_are_seen() -> None:
    """The mean of the dense image is another number."""
    torch.manual_seed(0)
    mask = torch.rand(2, *SIZE) > 0.4
    x, t = whole(2, 3, *SIZE), whole(2, 3, *SIZE)
    graph = cg.PixelGraph.from_image(x, mask=mask).tensor()
    assert not torch.equal(F.mse_loss(graph, t), F.mse_loss(graph.to_dense(), t))


MIXED: dict[str, Callable[..., Any]] = {
    "classes": lambda x, t: F.cross_entropy(x, t[:, 0].long()),
    "shares": lambda x, t: F.cross_entropy(x, t),
    "distance": F.l1_loss,
    "divergence": lambda x, t: F.kl_div(x, t, log_target=True, reduction="sum"),
    "counts": F.poisson_nll_loss,
    "slopes": lambda x, _: F.prelu(x, torch.tensor([0.5, 0.25, 2.0])).float().sum(),
    "classes, not cast": lambda x, t: torch.autocast("cpu", enabled=False)(MIXED["classes"])(x, t),
}


@pytest.mark.parametrize("name", MIXED)
def test_autocast_casts_what_torch_takes_apart(name: str) -> None:
    """Its policy stands above the operators that rules know: a loss of half types was rounded."""
    torch.manual_seed(0)
    mask = torch.rand(2, *SIZE) > 0.4
    x, t = torch.randn(2, 3, *SIZE, requires_grad=True), torch.rand(2, 3, *SIZE)
    graph = cg.PixelGraph.from_image(x, mask=mask)
    target = cg.PixelGraph(nodes(t, mask), graph.sites).tensor()
    with torch.autocast("cpu"):
        got = MIXED[name](graph.tensor().bfloat16(), target)
        want = MIXED[name](nodes(x, mask).bfloat16(), nodes(t, mask))
    mine, true = (torch.autograd.grad(one, x)[0] for one in (got, want))
    assert got.dtype == want.dtype
    assert torch.equal(got, want)
    assert torch.equal(mine, true)
