"""Pairs of nodes in another order than attention's: what torch says, or no number.

On a full grid a value and its gradient are torch's own, to 20 bits. On a mask they are those of
the image with 0 in its holes, where that is what each image's own nodes say; else it is refused.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.convert import node_pairs
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ConversionError
from tests.convert.zoo.snap import snap

MIX = torch.tensor([[1.0, -2.0], [3.0, 1.0]]).double()


def tokens(x: Tensor) -> Tensor:
    """(2, 12, 2)."""
    return x.flatten(2).mT


def rows(x: Tensor) -> Tensor:
    """(24, 2): the nodes of all images."""
    return tokens(x).flatten(0, 1)


def weights(x: Tensor) -> Tensor:
    """(2, 12, 12); no symmetric matrices."""
    return tokens(x) @ MIX @ tokens(x).mT


def heads(x: Tensor) -> Tensor:
    """(2, 2, 12, 1): as many heads as images."""
    return tokens(x).unflatten(2, (2, 1)).transpose(1, 2)


def of_heads(x: Tensor) -> Tensor:
    return heads(x) @ (heads(x) + 1).mT


def halves(x: Tensor) -> Tensor:
    """(2, 2, 6, 2): as many windows as images."""
    return x.unflatten(3, (2, 2)).permute(0, 3, 2, 4, 1).reshape(2, 2, 6, 2)


def of_halves(x: Tensor) -> Tensor:
    return halves(x) @ MIX @ halves(x).mT


def two_lattices(x: Tensor) -> Tensor:
    """(4, 6, 3): windows of a map hear those of a smaller one."""
    small = F.avg_pool2d(x, (1, 2)).permute(0, 3, 2, 1).reshape(4, 3, 2)
    return halves(x).reshape(4, 6, 2) @ small.mT


def beside(x: Tensor) -> Tensor:
    """(2, 13, 2): a class token first."""
    return torch.cat([torch.ones(2, 1, 2).double(), tokens(x)], 1)


def windows_first(x: Tensor) -> Tensor:
    """(2, 2, 7, 7): windows before images, a class token in each."""
    more = torch.arange(8).view(2, 2, 1, 2).double()
    own = torch.cat([more, halves(x).transpose(0, 1)], 2)
    return own @ MIX @ own.mT


def attended(*given: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*given)


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "keys of other heads": lambda x: attended(heads(x), *[heads(x).transpose(0, 1)] * 2),
    "values of other heads": lambda x: attended(heads(x), heads(x), heads(x).transpose(0, 1)),
    "scores of other heads": lambda x: heads(x) @ heads(x).transpose(0, 1).mT,
    "weights of other heads": lambda x: (heads(x) @ heads(x).mT) @ heads(x).transpose(0, 1),
    "weights of other windows": lambda x: of_halves(x).transpose(0, 1) @ halves(x),
    "values of other windows": lambda x: of_halves(x) @ halves(x).transpose(0, 1),
    "pairs of all images": lambda x: torch.einsum("bnc,amc->banm", tokens(x), tokens(x)),
    "one softmax of all images": lambda x: (rows(x) @ rows(x).mT).softmax(-1) @ rows(x),
    "levels of other axes": lambda x: torch.cat([x.flatten(2), x.flatten(2).transpose(0, 1)], 2),
    "columns that ask": lambda x: weights(x).view(2, 3, 4, 12).sum((1, 3)),
    "the largest of them": lambda x: weights(x).view(2, 3, 4, 12).amax((1, 3)),
    "columns that are heard": lambda x: weights(x).view(2, 12, 3, 4).sum((1, 3)),
    "softmax of a row": lambda x: weights(x).view(2, 12, 3, 4).softmax(-1),
    "over who asks of another lattice": lambda x: two_lattices(x).sum(1),
    "images out of pairs": lambda x: weights(x)[[1, 0]],
    "instance norm of tokens": lambda x: F.instance_norm(beside(x).mT),
    "group norm of tokens": lambda x: F.group_norm(beside(x).mT, 1),
    "instance norm of pairs": lambda x: F.instance_norm(weights(x)[:, None]),
}
OWN: dict[str, Callable[[Tensor], Tensor]] = {
    "weights": lambda x: weights(x) @ tokens(x),
    "rows of windows that ask": lambda x: of_halves(x).unflatten(2, (3, 2)) @ halves(x)[:, :, None],
    "class of windows asks": lambda x: windows_first(x)[:, :, 0],
    "class of windows is heard": lambda x: windows_first(x)[:, :, :, 0],
    "classes of windows": lambda x: windows_first(x)[:, :, :1, :1],
    "pixels of all images": lambda x: torch.einsum("bn,bc->nc", x[:, 0].flatten(1), MIX),
    "and their sum": lambda x: torch.einsum("bn,bc->nc", x[:, 0].flatten(1), MIX).sum(),
}
ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "one softmax over all pairs": lambda x: (
        weights(x).flatten(1).softmax(1).view(weights(x).shape) @ tokens(x)
    ),
    "the loudest pair": lambda x: weights(x).amax((1, 2)),
    "the mean of all pairs": lambda x: weights(x).mean((1, 2), keepdim=True) + tokens(x),
    "the largest of all": lambda x: weights(x).max()[None],
    "the norm of all": lambda x: weights(x).norm()[None],
    "one channel": lambda x: torch.einsum("bnc,bmc->bnm", *[tokens(x)[:, :, :1]] * 2) @ tokens(x),
    "distances": lambda x: (
        (-(tokens(x)[:, :, None] - tokens(x)[:, None]).square().sum(3)).softmax(2) @ tokens(x)
    ),
    "who is heard comes first": lambda x: (tokens(x)[:, None] - tokens(x)[:, :, None]).mean(2),
    "transposed weights": lambda x: weights(x).mT @ tokens(x),
    "features by weights": lambda x: (tokens(x).mT @ weights(x)).mT,
    "who asked is summed": lambda x: torch.einsum("bnm,bnc->bmc", weights(x), tokens(x)),
    "who is heard hears in turn": lambda x: weights(x) @ weights(x) @ tokens(x),
    "who asked is asked": lambda x: weights(x).mT @ weights(x).square() @ tokens(x),
    "by two ways": lambda x: (weights(x) @ (weights(x) - 1).mT).diagonal(dim1=1, dim2=2),
    "heads in turn": lambda x: (of_heads(x) @ of_heads(x).mT).sum((1, 3)),
    "what each place is said": lambda x: weights(x) @ torch.ones(tokens(x).shape[1], 2).double(),
    "of each image": lambda x: weights(x) @ torch.ones_like(tokens(x)[:, :, :1]),
    "by a vector": lambda x: weights(x) @ torch.ones(tokens(x).shape[1]).double(),
    "a table by weights": lambda x: (torch.ones(3, tokens(x).shape[1]).double() @ weights(x)).mT,
    "less than the loudest asks": lambda x: (
        (weights(x) - weights(x).amax(1, keepdim=True)) @ tokens(x)
    ),
    "columns of one": lambda x: ((weights(x) * 0 + 1).sum(1, keepdim=True) * weights(x)).sum(2),
    "the loudest both ways": lambda x: (
        (
            (weights(x) == weights(x).amax(1, keepdim=True))
            & (weights(x) == weights(x).amax(2, keepdim=True))
        ).double()
        @ tokens(x)
    ),
    "how far apart": lambda x: torch.cdist(tokens(x), 3 - tokens(x), p=1).sum(2),
    "as told by the nearest": lambda x: tokens(x).gather(
        1, torch.cdist(tokens(x), -tokens(x), p=1).argmin(2, keepdim=True).expand(-1, -1, 2)
    ),
    "each with itself": lambda x: weights(x).diagonal(dim1=1, dim2=2).mean(1),
    "of whom one knows who": lambda x: (weights(x).mT.diagonal(dim1=2, dim2=1) - 1).square(),
    "the trace of squares": lambda x: torch.einsum("bii->b", weights(x).square()),
    "lines": lambda x: (x.unsqueeze(4) * x.unsqueeze(3)).sum((3, 4)),
}


def given() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randint(-4, 5, (2, 2, 3, 4)).double()
    return x.requires_grad_(), torch.rand(2, 3, 4) > 0.3


def mapped(x: Tensor, mask: Tensor | None = None) -> Any:
    return cg.PixelGraph.from_image(x, mask=mask).tensor()


def said(got: Any, x: Tensor) -> list[Tensor]:
    """An answer as a tensor, and the gradient of some sum of it, each kept to 20 bits."""
    got = got.to_dense() if isinstance(got, GraphTensor) else got
    send = torch.arange(got.numel()).view(got.shape) % 7 - 3.0
    (grad,) = torch.autograd.grad((got * send).sum(), x)
    return [snap(got.detach().clone(), None), snap(grad, None)]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", {**REFUSED, **OWN})
def test_a_full_grid_says_what_images_say(name: str) -> None:
    run, (x, _) = {**REFUSED, **OWN}[name], given()
    assert same(said(run(mapped(x)), x), said(run(x), x))


@pytest.mark.parametrize("name", OWN)
def test_a_mask_says_what_its_nodes_say(name: str) -> None:
    x, mask = given()
    assert same(said(OWN[name](mapped(x, mask)), x), said(OWN[name](x * mask[:, None]), x))


@pytest.mark.parametrize("name", REFUSED)
def test_what_nodes_cannot_say_is_refused_on_a_mask(name: str) -> None:
    x, mask = given()
    with pytest.raises(ConversionError, match="has no meaning on a mask") as refused:
        REFUSED[name](mapped(x, mask))
    assert ("out of pairs" in str(refused.value)) == (name == "images out of pairs")


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("name", ALONE)
def test_pairs_are_those_of_the_nodes_alone(name: str, count: int) -> None:
    """The truth is an image of the nodes alone, in one line, to whom nobody is absent."""
    x, mask = given()
    image, mask = x[:1], mask[:1]
    mask[0] = torch.arange(12).view(3, 4) % 7 < count if name != "lines" else mask[0]
    mask &= torch.tensor(count > 0)
    run, there = ALONE[name], mask[0].flatten()
    got = run(mapped(image, mask))
    if isinstance(got, GraphTensor):
        got = got.value.x
    if not count:
        assert not bool(got.any())
        return
    alone = image.flatten(2)[:, :, there].unsqueeze(2)
    want = run(image * mask if name == "lines" else alone)  # whose sums hear no 0
    assert same(said(got.reshape(-1), x), said(want.reshape(-1), x))


@pytest.mark.parametrize("full", [True, False])
def test_who_may_hear_nobody_hears_nothing(full: bool) -> None:
    x, mask = given()
    mask |= torch.tensor(full)
    mask[:, 0, 1] = True
    may = torch.ones(12, 12, dtype=torch.bool)
    may[1] = False
    may[2] = ~mask[0].flatten()  # on a mask, only who is absent in the first image
    there = mask.flatten(1)
    got = attended(*[tokens(mapped(x, None if full else mask))] * 3, may)
    true = attended(*[tokens(x)] * 3, may & there[:, None]) * there[:, :, None]
    assert not bool(got.to_dense()[:, 1].any())
    assert same(said(got, x), said(true, x))


@pytest.mark.parametrize("full", [True, False])
def test_a_mask_and_a_causal_one_are_refused_as_torch_does(full: bool) -> None:
    x, mask = given()
    own = tokens(mapped(x, None if full else mask))
    may = torch.ones(12, 12, dtype=torch.bool)
    with pytest.raises((ConversionError, RuntimeError), match=r"is_causal|causal and has a mask"):
        F.scaled_dot_product_attention(own, own, own, may, is_causal=True)


def test_heads_that_are_only_counted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_pairs, "lead_of", lambda axes, group=(): [[]] * len(axes))
    x, _ = given()
    run = REFUSED["scores of other heads"]
    assert not same(said(run(mapped(x)), x), said(run(x), x))
