"""Tokens beside nodes: whatever is done to a sequence is done to the tokens that are there.

The truth is torch's own operator on each image's tokens alone, absent ones dropped. Entries are
whole numbers, and what is divided or rooted is compared after rounding to 20 bits.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.convert.tensor import GraphTensor
from tests.convert.zoo.snap import snap

SIZE, BEFORE, BEHIND = (3, 4), 2, 1
COUNT = BEFORE + 12 + BEHIND


def heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, 3)).transpose(1, 2)


def pairs(x: Tensor) -> Tensor:
    return heads(x) @ heads(x).mT


def first_doubled(x: Tensor) -> Tensor:
    x = x * 1
    x[:, 0] *= 2
    x[:, BEFORE:-BEHIND] += 1
    return x


def one_less(x: Tensor) -> Tensor:
    scores = pairs(x)
    scores[:, :, 0] -= 1
    scores[..., 1:] += 2
    return scores


CASES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "slice": (lambda x: x[:, 1:], (1,)),
    "slice nodes": (lambda x: x[:, BEFORE:-BEHIND], (1,)),
    "readouts": (lambda x: x[:, :BEFORE].flip(1), ()),
    "last": (lambda x: x[:, -1], ()),
    "by number": (lambda x: x[:, [1, 0]], ()),
    "split": (lambda x: x.tensor_split((1,), 1)[1] * 2, (1,)),
    "written": (first_doubled, (1,)),
    "mean": (lambda x: x.mean(1), ()),
    "mean of all": (lambda x: x.mean((1, 2)), ()),
    "variance": (lambda x: x.var((1, 2)), ()),
    "largest": (lambda x: x.max(1)[0], ()),
    "smallest": (lambda x: x.min(1)[0], ()),
    "length": (lambda x: x.norm(dim=1), ()),
    "sum of exponents": (lambda x: x.logsumexp(1), ()),
    "running sum": (lambda x: x.cumsum(1), (1,)),
    "softmax": (lambda x: x.softmax(1), (1,)),
    "sorted": (lambda x: x.sort(2)[0], (1,)),
    "doubled": (lambda x: torch.cat([x, x * 2], 2), (1,)),
    "stacked": (lambda x: torch.stack([x, x], 1), (2,)),
    "more beside": (lambda x: torch.cat([x[:, :1] + 1, x, x[:, -1:]], 1), (1,)),
    "pad": (lambda x: F.pad(x, (0, 0, 1, 2)), (1,)),
    "heads shared": (lambda x: x[:, None].expand(-1, 2, -1, -1) * 2, (2,)),
    "pairs": (pairs, (2, 3)),
    "pairs written": (one_less, (2, 3)),
    "one head": (lambda x: pairs(x)[:, 1], (1, 2)),
    "over heads": (lambda x: pairs(x).amax(1), (1, 2)),
    "turned": (lambda x: pairs(x * 2).mT + 1, (2, 3)),
    "first asks": (lambda x: pairs(x)[:, :, 0, BEFORE:-BEHIND], (2,)),
    "first is heard": (lambda x: pairs(x)[..., 1:, 0], (2,)),
    "among nodes": (lambda x: pairs(x)[:, :, 2:-1, 2:-1], (2, 3)),
    "among readouts": (lambda x: pairs(x)[:, :, :2, :2], ()),
    "one row": (lambda x: pairs(x).softmax(-1)[:, :, :1] @ heads(x), ()),
    "softmax of pairs": (lambda x: pairs(x).softmax(-1), (2, 3)),
    "its logarithm": (lambda x: pairs(x).log_softmax(-1), (2, 3)),
    "over who asks": (lambda x: pairs(x).softmax(-2), (2, 3)),
    "sum over who is heard": (lambda x: pairs(x).sum(-1, keepdim=True) + 1, (2,)),
    "sum over who asks": (lambda x: pairs(x).sum(2), (2,)),
    "largest of pairs": (lambda x: pairs(x).max(-1)[0], (2,)),
    "heard by hand": (lambda x: pairs(x).softmax(-1) @ heads(x), (2,)),
    "heard": (lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3, scale=0.25), (2,)),
    "heard in three axes": (lambda x: F.scaled_dot_product_attention(x, x, x), (1,)),
    "nodes ask": (lambda x: heads(x[:, 2:-1]) @ heads(x).mT, (2, 3)),
    "over channels": (lambda x: heads(x).mT @ heads(x), ()),
    "by letters": (lambda x: torch.einsum("bic,cd,bjd->bij", x, torch.ones(6, 6).double(), x),
                   (1, 2)),
}  # fmt: skip
"""What is done to tokens (B, T, 6), and the axes of the result along which tokens stand."""


def tokens(images: Tensor, readouts: Tensor, mask: Tensor | None = None) -> Any:
    nodes: Any = cg.PixelGraph.from_image(images, mask=mask).tensor().flatten(2).transpose(1, 2)
    return torch.cat([readouts[:, :BEFORE], nodes, readouts[:, BEFORE:]], 1)


def given() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    images = torch.randint(-4, 5, (3, 6, *SIZE)).double()
    mask = torch.rand(3, *SIZE) > 0.4
    mask[1] = True
    mask[2] = False
    return images, torch.randint(-4, 5, (3, 3, 6)).double(), mask


def there(mask: Tensor, count: int, own: int) -> Tensor:
    """(count,) bool: which tokens of an image are there, where so many stand before its nodes."""
    found = torch.ones(count, dtype=torch.bool)
    found[own : own + mask.numel()] = mask.flatten()
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_is_done_to_tokens_is_done_to_those_that_are_there(name: str) -> None:
    run, axes = CASES[name]
    images, readouts, mask = given()
    images.requires_grad_()
    readouts.requires_grad_()
    got = run(tokens(images, readouts, mask))
    got = got.to_dense() if isinstance(got, GraphTensor) else got
    own = tokens(images, readouts, torch.ones_like(mask)).to_dense()
    want = []
    for n in range(3):
        some = run(own[n : n + 1][:, there(mask[n], COUNT, BEFORE)])
        full = got.new_zeros((1, *got.shape[1:]))
        index: list[Any] = [torch.arange(size) for size in full.shape]
        for axis in axes:
            before = 0 if full.shape[axis] == 12 else name.count("first is") or BEFORE
            before = {"slice": 1, "split": 1, "more beside": 3, "pad": 3}.get(name, before)
            index[axis] = there(mask[n], full.shape[axis], before).nonzero().squeeze(1)
        want.append(full.index_put(torch.meshgrid(*index, indexing="ij"), some))
    true = torch.cat(want)
    send = torch.randint(-3, 4, got.shape).double()
    assert bool(true.any())
    assert torch.equal(snap(got.detach(), None), snap(true.detach(), None))
    mine, other = (
        torch.autograd.grad((one * send).sum(), [images, readouts], materialize_grads=True)
        for one in (got, true)
    )
    for one, two in zip(mine, other, strict=True):
        assert torch.equal(snap(one, None), snap(two, None))


def test_tokens_of_some_images_and_of_several_batches() -> None:
    images, readouts, mask = given()
    x = tokens(images, readouts, mask)
    dense = x.to_dense()
    for some in ([2, 0], [1], [0, 0, 2]):
        assert torch.equal(x[some].to_dense(), dense[some])
    both = torch.cat([x, x[1:] * 2])
    assert torch.equal(both.to_dense(), torch.cat([dense, dense[1:] * 2]))
    assert torch.equal(x.repeat(2, 1, 1)[3:].to_dense(), dense)
    assert both.mean(1).shape == (5, 6)


def test_the_first_of_equal_tokens_is_the_largest() -> None:
    images, readouts, mask = given()
    x = tokens(images * 0, readouts * 0, mask)
    assert torch.equal(x.argmax(1), torch.zeros(3, 6, dtype=torch.int64))


def test_pieces_of_one_lattice_and_of_two_become_one_batch() -> None:
    images, _, _ = given()
    images.requires_grad_()
    rows = [torch.arange(3).view(1, 3, 1).expand(1, *SIZE) == n for n in range(3)]
    one, two, three = (
        cg.PixelGraph.from_image(images[n : n + 1], mask=rows[n]).tensor().flatten(2)
        for n in range(3)
    )
    got = torch.cat([torch.cat([one, one], 2), torch.cat([two, three], 2)]).to_dense()
    a, b, c = (images[n : n + 1].mul(rows[n]).flatten(2) for n in range(3))
    true = torch.cat([torch.cat([a, a], 2), torch.cat([b, c], 2)])
    assert torch.equal(got, true)
    send = torch.arange(true.numel()).view(true.shape).double()
    mine, other = (torch.autograd.grad((x * send).sum(), images)[0] for x in (got, true))
    assert torch.equal(mine, other)


def test_labels_of_the_same_tokens_are_compared_where_they_are() -> None:
    images, readouts, mask = given()
    images.requires_grad_()
    x = tokens(images, readouts, mask)
    got = F.cross_entropy(x.mT, x.detach().argmin(-1))
    own = tokens(images, readouts, torch.ones_like(mask)).to_dense()
    own = torch.cat([own[n, there(mask[n], COUNT, BEFORE)] for n in range(3)])
    true = F.cross_entropy(own, own.argmin(-1))
    assert torch.equal(snap(got.detach().clone(), None), snap(true.detach().clone(), None))
    mine, other = (torch.autograd.grad(one, images)[0] for one in (got, true))
    assert torch.equal(snap(mine, None), snap(other, None))


def test_a_function_with_its_own_backward_gets_tokens() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return -grad

    images, readouts, mask = given()
    readouts.requires_grad_()
    Reversed.apply(tokens(images, readouts, mask)).sum((1, 2)).sum().backward()
    assert torch.equal(readouts.grad, -torch.ones_like(readouts))


def test_a_map_that_is_written_into_behind_its_own_sum_has_its_gradient() -> None:
    images, _, mask = given()
    images.requires_grad_()
    x = cg.PixelGraph.from_image(images, mask=mask).tensor() * 1
    y = x.abs() + 1
    y /= y.sum((2, 3), keepdim=True)
    (grad,) = torch.autograd.grad(y.to_dense().square().sum(), images)
    there = mask[:, None]
    z = torch.where(there, images.abs() + 1, 0)
    z = z / z.sum((2, 3), keepdim=True).clamp(min=1)
    (true,) = torch.autograd.grad(z.square().sum(), images)
    assert torch.equal(snap(grad, None), snap(true, None))


def test_the_receptive_field_of_tokens_is_the_whole_image() -> None:
    class Hears(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x.new_ones(1, 1, 6), x.flatten(2).transpose(1, 2)], 1)
            weights = pairs(x).softmax(-1)
            weights = weights / weights.sum(-1, keepdim=True)
            return (weights @ heads(x))[:, :, 1:].transpose(1, 2).reshape(1, *SIZE, 6)

    images, _, mask = given()
    g = cg.PixelGraph.from_image(images[:1], mask=mask[:1])
    net = cg.to_graph(Hears())
    row, column = mask[0].nonzero()[0].tolist()
    found = cg.receptive_field(net, (row, column), g)
    assert torch.equal(found.mask, mask[0])
    assert cg.summary(net, g).flops > 0
