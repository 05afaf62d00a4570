"""Ordinary tensors that nodes write into, add up in or look up: classes, regions, bins.

The truth is the same code on an image of one line of the nodes alone, to whom nobody is absent.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ConversionError

SIZE = (5, 6)
CLASSES = 4


def rows(x: Tensor) -> Tensor:
    """(pixels of all images, 3)."""
    return x.movedim(1, -1).reshape(-1, 3)


def regions(labels: Tensor) -> Tensor:
    """(B, 3, pixels): the region of every entry of a flattened image."""
    return labels.flatten(1)[:, None].expand(-1, 3, -1)


def sums(x: Tensor, labels: Tensor) -> Tensor:
    table = torch.zeros(x.shape[0], 3, CLASSES).double()
    return table.scatter_add_(2, regions(labels), x.flatten(2))


def of_a_part(x: Tensor, labels: Tensor) -> Tensor:
    table = torch.zeros(2, CLASSES, 3).double()
    table[1].index_add_(0, labels.flatten(), rows(x))
    return table


ALL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sums of classes": lambda x, c: torch.zeros(4, 3).double().index_add(0, c.flatten(), rows(x)),
    "twice": lambda x, c: torch.ones(4, 3).double().index_add_(0, c.flatten(), rows(x), alpha=2),
    "classes last": lambda x, c: (
        torch.zeros(3, 4).double().index_add(1, c.flatten(), x.transpose(0, 1).flatten(1))
    ),
    "a part of a table": of_a_part,
    "weights": lambda x, c: torch.zeros(4).double().scatter_add(0, c.flatten(), x[:, 0].flatten()),
    "pairs of classes": lambda x, c: torch.zeros(4, 3).double().index_put(
        (c.flatten(), c.flatten() % 3), x[:, 1].flatten(), accumulate=True
    ),
    "confusion": lambda x, c: torch.zeros(4, 4).index_put_(
        (c.flatten(), 3 - c.flatten()), torch.tensor(1.0), accumulate=True
    ) + 0 * x.sum(),
    "weighted counts": lambda x, c: torch.bincount(
        c.flatten(), weights=x[:, 0].detach().flatten(), minlength=6
    ) + 0 * x.sum(),
    "one of each": lambda x, c: (
        torch.zeros(x.shape).double().scatter_(1, c[:, None] % 3, 1) * x
    ).sum((0, 2, 3)),
    "another of each": lambda x, c: (
        torch.ones(x.shape).double().scatter(1, c[:, None] % 3, 5.0) * x
    ).sum((0, 2, 3)),
}  # fmt: skip
EACH: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "regions": sums,
    "the largest of regions": lambda x, c: torch.full((x.shape[0], 3, 4), -9.0).double(
    ).scatter_reduce(2, regions(c), x.detach().flatten(2), "amax") + 0 * x.sum(),
    "back to pixels": lambda x, c: (
        sums(x, c).gather(2, regions(c)).view(x.shape).square().sum((2, 3))
    ),
}  # fmt: skip


def given() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randint(-4, 5, (2, 3, *SIZE)).double().requires_grad_()
    return x, torch.randint(0, CLASSES, (2, *SIZE)), torch.rand(2, *SIZE) > 0.4


def maps(x: Tensor, labels: Tensor, mask: Tensor) -> tuple[GraphTensor, GraphTensor]:
    graph = cg.PixelGraph.from_image(x, mask=mask)
    return graph.tensor(), graph.with_x(labels[mask].unsqueeze(1)).tensor()[:, 0]


def alone(x: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 3, 1, N) and (1, 1, N)."""
    return x.movedim(1, -1)[mask].T[None, :, None], labels[mask][None, None]


def same(got: Tensor, want: Tensor, x: Tensor) -> bool:
    send = torch.arange(got.numel()).view(got.shape) % 7 - 3.0
    grads = [torch.autograd.grad((one * send).sum(), x)[0] for one in (got, want)]
    return torch.equal(got, want) and torch.equal(*grads)


@pytest.mark.parametrize("name", ALL)
def test_nodes_alone_are_counted(name: str) -> None:
    x, labels, mask = given()
    got = ALL[name](*maps(x, labels, mask))
    assert type(got) is Tensor
    assert same(got, ALL[name](*alone(x, labels, mask)), x)


@pytest.mark.parametrize("name", EACH)
def test_nodes_of_each_image_are_counted(name: str) -> None:
    x, labels, mask = given()
    want = [EACH[name](*alone(x[n : n + 1], labels[n : n + 1], mask[n : n + 1])) for n in (0, 1)]
    assert same(EACH[name](*maps(x, labels, mask)), torch.cat(want), x)


def test_a_map_of_yes_and_no_says_where() -> None:
    """Labels that a network is sure of; an absent pixel says no."""
    x, labels, mask = given()
    found, yes = labels.clone(), maps(x, labels, mask)[0][:, 0] > 0
    found[yes] = 255
    there = (x[:, 0] > 0) & mask
    assert torch.equal(found, labels.masked_fill(there, 255))
    table = torch.zeros(2, *SIZE).double()
    table[yes] = maps(x, labels, mask)[0][:, 1][yes]
    assert torch.equal(table, torch.where(there, x[:, 1], 0))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x, c: torch.zeros(3, 3).double().index_add(0, c.flatten(), rows(x)), "out of"),
        (lambda x, c: torch.zeros(4, 2).double().index_add(0, c.flatten(), rows(x)), "shape"),
        (lambda x, c: torch.zeros(4, 3).index_add(0, c.flatten(), rows(x)), "same scalar type"),
        (lambda x, c: torch.zeros(1, 3, *SIZE).scatter(1, c[:, None], 1), "(?i)expected index"),
        (lambda x, c: torch.zeros(2, 2, *SIZE).gather(1, c[:, None]), "out of bounds"),
    ],
)
def test_what_torch_refuses_it_refuses_here(call: Any, text: str) -> None:
    """A number beyond an axis would be another cell of the table."""
    x, labels, mask = given()
    for one in ((x, labels), maps(x, labels, mask)):
        with pytest.raises((RuntimeError, IndexError), match=text):
            call(*one)


def test_labels_of_other_nodes_are_refused() -> None:
    """They would say class 0 where they are not."""
    x, labels, mask = given()
    other = maps(x, labels, mask.flip(2))[1]
    for table in (torch.zeros(4, 3).double(), torch.zeros(4, 3).double().index_add_):
        add = table if callable(table) else table.index_add
        with pytest.raises(ConversionError, match="live on other nodes"):
            add(0, other.flatten(), rows(maps(x, labels, mask)[0]))
