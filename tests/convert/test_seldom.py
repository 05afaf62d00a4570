"""Operators that networks seldom call: each says at the nodes what torch says of the image there.

Absent pixels are 0 in that image, and none of these lets one node hear another that it should not:
what they say of absent pixels alone differs.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import convgraph as cg
from convgraph.convert.tensor import GraphTensor

DRAW = torch.Generator().manual_seed(1)
MASK = torch.rand(2, 6, 7, generator=DRAW) > 0.3
IMAGE = torch.randint(-4, 5, (2, 2, 6, 7), generator=DRAW).double()
WEIGHT = torch.randint(-2, 3, (3, 2, 2), generator=DRAW).double()
LINE = torch.tensor([-2.0, 0, 1]).double()
SAME = F.affine_grid(torch.eye(2, 3).double().expand(2, 2, 3), (2, 2, 6, 7), align_corners=False)

MAPS: dict[str, Callable[[Any], Any]] = {
    "bilinear": lambda x: F.bilinear(x.movedim(1, -1), x.movedim(1, -1) * 2, WEIGHT),
    "tril": lambda x: x.tril(1),
    "triu": lambda x: x.triu(-1),
    "bucketize": lambda x: torch.bucketize(x.contiguous(), LINE),
    "searchsorted": lambda x: torch.searchsorted(LINE, x.contiguous(), right=True),
    "isin": lambda x: torch.isin(x, LINE),
    "cross": lambda x: torch.linalg.cross(
        torch.cat([x, x[:, :1] * 2], 1), torch.cat([x * 3, x[:, 1:]], 1), dim=1
    ),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "rot90 back": lambda x: x.rot90(-1, (2, 3)),
    "grid_sample": lambda x: F.grid_sample(x, SAME, mode="nearest", align_corners=False),
    "between pixels": lambda x: F.grid_sample(x, SAME * 0.9, align_corners=False),
    "smaller, smoothed": lambda x: F.interpolate(
        x, scale_factor=0.5, mode="bilinear", antialias=True
    ),
    "trapezoid": lambda x: torch.trapezoid(x, dim=1),
    "diff": lambda x: x.diff(dim=3),
    "gradient": lambda x: torch.gradient(x, dim=3)[0],
    "kron": lambda x: torch.kron(x, torch.ones(1, 1, 2, 2).double()),
    "tensordot": lambda x: torch.tensordot(x, WEIGHT, dims=([1], [1])),
    "renorm": lambda x: x.renorm(2, 1, 3.0),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([0]), x[:, 1:] * 2),
    "index_add": lambda x: x.index_add(1, torch.tensor([0]), x[:, 1:]),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0]), 3.0),
    "scatter_add": lambda x: x.scatter_add(1, (x[:, :1] * 0).long(), x[:, 1:]),
    "take_along_dim": lambda x: torch.take_along_dim(x, (x[:, :1] * 0 + 1).long(), 1),
}


def matrices(x: Any) -> Any:
    """(2, 6, 7, 2, 2): symmetric, and positive."""
    rows = x.movedim(1, -1).unsqueeze(-1)
    return rows @ rows.mT + 9 * torch.eye(2).double()


def recomposed(x: Any) -> Any:
    values, vectors = torch.linalg.eigh(matrices(x))
    return vectors @ values.sqrt().diag_embed() @ vectors.mT


OF_MATRICES: dict[str, Callable[[Any], Any]] = {
    "inverse": lambda x: torch.linalg.inv(matrices(x)),
    "determinant": lambda x: torch.linalg.det(matrices(x)),
    "its logarithm": lambda x: torch.linalg.slogdet(matrices(x)).logabsdet,
    "root of Cholesky": lambda x: torch.linalg.cholesky(matrices(x)),
    "root of a structure tensor": recomposed,
    "spectrum": lambda x: torch.linalg.svdvals(matrices(x)),
    "exponential": lambda x: torch.linalg.matrix_exp(matrices(x) / 16),
    "orthogonal": lambda x: torch.linalg.qr(matrices(x)).Q,
    "on a diagonal": lambda x: x.movedim(1, -1).diag_embed(1),
}


def kept(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """To 20 bits behind the point: how many matrices there are may choose another kernel."""
    return lambda x: call(x).mul(2.0**20).round()


MAPS |= {name: kept(call) for name, call in OF_MATRICES.items()}


def graph() -> cg.PixelGraph:
    return cg.PixelGraph.from_image(IMAGE, mask=MASK)


@pytest.mark.parametrize("name", MAPS)
def test_it_says_at_the_nodes_what_it_says_of_the_image(name: str) -> None:
    x = graph().tensor()
    found, true = MAPS[name](x), MAPS[name](x.to_dense().contiguous())
    assert isinstance(found, GraphTensor)
    there = found.value.there()
    assert there.any()
    assert torch.equal(found.to_dense()[there], true[there])


def test_numbers_of_nodes_are_told_and_counted_without_absent_ones() -> None:
    x = graph().tensor()
    rows = graph().x
    found, where = torch.unique(x, return_inverse=True)
    assert torch.equal(found, rows.unique())
    assert torch.equal(found[where.graph.x], rows)
    counts = torch.bincount((x + 4).long().flatten(), minlength=9)
    assert torch.equal(counts, torch.bincount((rows + 4).long().flatten(), minlength=9))
    assert torch.equal(torch.histc(x, 5, -4, 4), torch.histc(rows, 5, -4, 4))


def test_maps_are_equal_where_they_say_the_same_on_the_same_nodes() -> None:
    x = graph().tensor()
    assert torch.equal(x, x * 1)
    assert not torch.equal(x, x + 1)
    assert not torch.equal(x, cg.PixelGraph.from_image(x.to_dense()).tensor())
    grouped = x.view(2, 2, 1, 6, 7).flatten(1, 2)  # other names of the same channels
    assert torch.equal(grouped, x)
    assert not torch.equal(x[:, :1], x)
    assert torch.equal(x, IMAGE)
    assert torch.equal(IMAGE, x)
    assert not torch.equal(x, IMAGE + 1)


def test_channels_that_are_none_meet_others() -> None:
    """A slice may leave none, which torch adds, compares and puts beside others."""
    x = graph().tensor()
    for none in (x[:, 2:], x[:, 2:] + x[:, 2:], x[:, 2:] * IMAGE[:, 2:], x[:, 2:] - IMAGE[:1, :1]):
        assert none.shape == (2, 0, 6, 7)
        assert torch.equal(torch.cat([none, x], 1), x)
        assert torch.equal(torch.maximum(none, none), none)
        assert not none.sum((2, 3)).numel()
    for both in (lambda: x[:, 2:] + x, lambda: x[:, 2:] + IMAGE):
        with pytest.raises(RuntimeError, match=r"size of tensor a \(0\) must match"):
            both()


def test_a_matrix_of_a_node_without_an_inverse_is_refused_by_torch() -> None:
    with pytest.raises(RuntimeError, match="singular"):
        torch.linalg.inv(matrices(graph().tensor()) * 0)


def test_plain_entries_vary_together_over_the_nodes() -> None:
    x = graph().tensor()
    flat, rows = x.transpose(0, 1).flatten(1), graph().x
    assert torch.equal(torch.cov(flat), torch.cov(rows.T))
    assert torch.equal(torch.cov(flat, correction=0), torch.cov(rows.T, correction=0))
    assert torch.equal(torch.corrcoef(flat), torch.corrcoef(rows.T))
    assert torch.equal(torch.cov(flat[0]), torch.cov(rows[:, :1].T))
