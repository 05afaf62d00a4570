"""TypedEdges: any graph, several sources a tap, weights; against sums written out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.functional import typed_avg_pool, typed_max_pool, typed_resize
from tests.spaces.cases import integers, whole

N, P, K, E = 9, 7, 5, 60


def graph(*, weights: bool, seed: int = 0) -> tuple[cg.TypedEdges, Tensor]:
    """Return random edges, and (K, P, N) what each tap of each target takes of each source."""
    q, p, t = (integers(E, seed=seed + i, most=50).long() % n for i, n in enumerate((N, P, K)))
    t = torch.where(t == 3, 0, t)  # a tap that nobody uses
    w = integers(E, seed=9) / 4 if weights else None
    matrix = torch.zeros(K, P, N, dtype=torch.float64)
    loud = torch.ones(E, dtype=torch.float64) if w is None else w
    matrix.index_put_((t, p, q), loud, accumulate=True)
    return cg.TypedEdges(torch.stack([q, p]), t, w, (N, P), num_taps=K), matrix


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("backend", [None, "gather", "resample", "messages"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_sums_what_is_listed(weights: bool, backend: str | None, groups: int) -> None:
    """Values and gradients bit for bit; the same call again finds the list sorted."""
    edges, matrix = graph(weights=weights)
    layer = whole(cg.nn.GraphConv1d(4, 6, K, groups=groups, backend=backend).double())
    x = integers(N, 4).requires_grad_()
    full = torch.zeros(6, 4, K, dtype=torch.float64)
    for g in range(groups):
        rows, columns = 6 // groups, 4 // groups
        block = layer.weight[g * rows : (g + 1) * rows]
        full[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = block
    expected = torch.einsum("tpn,nc,oct->po", matrix, x, full) + layer.bias
    found = layer(x, edges)
    assert torch.equal(found * 2**8, expected * 2**8)
    assert layer(x, edges).equal(found)
    g = integers(P, 6, seed=3)
    leaves = [x, layer.weight]
    one, two = (torch.autograd.grad(y, leaves, g) for y in (found, expected))
    assert all(torch.equal(a * 2**8, b * 2**8) for a, b in zip(one, two, strict=True))


def test_weights_may_be_learnt() -> None:
    """A gradient of the weights comes back, twice in a row."""
    edges, matrix = graph(weights=True)
    assert edges.edge_weight is not None
    loud = edges.edge_weight.requires_grad_()
    layer, x = whole(cg.nn.GraphConv1d(2, 2, K).double()), integers(N, 2)
    for _ in range(2):
        loud.grad = None
        layer(x, edges).sum().backward()
        q, p, t = *edges.edge_index, edges.edge_type
        assert torch.equal(loud.grad, torch.einsum("ec,oce->e", x[q], layer.weight[:, :, t]))
        assert len(p) == E
    assert matrix.shape == (K, P, N)


@pytest.mark.parametrize("weights", [False, True])
def test_pools_and_resizes(weights: bool) -> None:
    """A maximum is over what taps read; a mean divides by what was heard."""
    edges, matrix = graph(weights=weights)
    x = integers(N, 3)
    read = torch.einsum("tpn,nc->tpc", matrix, x)
    heard = torch.zeros(K, P, dtype=torch.bool)
    heard[edges.edge_type, edges.edge_index[1]] = True
    loudest = torch.where(heard.unsqueeze(2), read, -torch.inf).amax(0)
    assert torch.equal(typed_max_pool(x, edges), torch.where(heard.any(0)[:, None], loudest, 0))
    assert torch.equal(typed_resize(x, edges) * 2**8, read.sum(0) * 2**8)
    share = matrix.sum((0, 2))[:, None]
    mean = torch.where(share != 0, read.sum(0) / torch.where(share == 0, 1, share), 0)
    assert torch.equal(typed_avg_pool(x, edges), mean)


def test_a_pixel_graphs_edges_serve_too() -> None:
    """The list of a kernel's edges gives the layer's own output."""
    layer = whole(cg.nn.GraphConv2d(2, 3, 3, padding=1).double())
    image = cg.PixelGraph.from_image(integers(1, 2, 4, 5), on=cg.Torus())
    listed = layer.edges(image)
    count: Any = np.int64(20)
    edges = cg.TypedEdges(listed.edge_index, listed.edge_type, sizes=count)
    assert torch.equal(layer(image.x, edges), layer(image).x)
    assert repr(edges) == "TypedEdges(20 -> 20 nodes, 9 taps, 180 edges)"


GOOD: tuple[Any, ...] = (torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: cg.TypedEdges(*GOOD), cg.errors.GraphError, "never inferred"),
        (lambda: cg.TypedEdges(*GOOD, sizes=1), cg.errors.EdgeError, r"in \[0, 1\), got 0 to 1"),
        (lambda: cg.TypedEdges(*GOOD, sizes=2, num_taps=1), cg.errors.EdgeError, "edge_type"),
        (lambda: cg.TypedEdges(GOOD[0].T[:1], GOOD[1], sizes=2), cg.errors.ShapeError, r"\(2, E\)"),
        (lambda: cg.TypedEdges(GOOD[0].float(), GOOD[1], sizes=2), cg.errors.DtypeError, "dtype"),
        (
            lambda: cg.TypedEdges(*GOOD, torch.ones(3), sizes=2),
            cg.errors.ShapeError,
            r"edge_weight of shape \(E,\) = \(2,\)",
        ),
        (
            lambda: cg.nn.GraphConv1d(1, 1, 1)(torch.ones(2, 1), cg.TypedEdges(*GOOD, sizes=2)),
            cg.errors.EdgeError,
            "at most 1 taps, got 2",
        ),
        (
            lambda: cg.nn.GraphConv1d(1, 1, 2)(torch.ones(3, 1), cg.TypedEdges(*GOOD, sizes=2)),
            cg.errors.ShapeError,
            "N = 2 sources",
        ),
        (
            lambda: cg.nn.GraphConv1d(1, 1, 2)(
                torch.ones(2, 1), cg.TypedEdges(*GOOD, sizes=2), GOOD[1]
            ),
            cg.errors.GraphError,
            "pass features x alone",
        ),
        (
            lambda: typed_max_pool(torch.ones(3, 1), cg.TypedEdges(*GOOD, sizes=2)),
            cg.errors.ShapeError,
            "N = 2 sources",
        ),
    ],
)
def test_lists_that_do_not_fit_are_refused(call: Any, error: type, said: str) -> None:
    """The text says who, what was expected and what came."""
    with pytest.raises(error, match=said):
        call()
