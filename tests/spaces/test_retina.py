"""A retina, dense in the middle and sparse outside: fovi's layers along `cg.TypedEdges`."""

import warnings
from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph.functional import typed_avg_pool, typed_max_pool
from tests.spaces import referees
from tests.spaces.cases import integers, whole

BATCH = 2


def retinas(fine: int = 12, coarse: int = 8) -> tuple[Any, Any, Any]:
    """Layers of fovi, and a fine and a coarse retina of 16 degrees."""
    knn, coords = referees.fovi()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [coords.SamplingCoords(16.0, 0.5, n) for n in (fine, coarse)]
    return knn, *made


def heard(layer: Any, share: Any, taps: int, sources: int) -> cg.TypedEdges:
    """The edges of a fovi layer, image after image.

    Args:
        layer: it names the neighbours of each target, (k, targets), some of them padding.
        share: (targets, k, taps) how much each neighbour says through each tap.
        taps: number of taps.
        sources: pixels of the retina that speaks.
    """
    near = layer.knn_indices_pad_token
    target, neighbour, tap = share.nonzero().T
    source = near[neighbour, target]
    there = source < sources
    source, target, tap = source[there], target[there], tap[there]
    targets = near.shape[1]
    index = torch.cat(
        [torch.stack([source + n * sources, target + n * targets]) for n in range(BATCH)], dim=1
    )
    return cg.TypedEdges(index, tap.repeat(BATCH), None, (BATCH * sources, BATCH * targets),
                         num_taps=taps)  # fmt: skip


def rows(x: torch.Tensor) -> torch.Tensor:
    """(B, C, P) -> (B P, C)."""
    return x.movedim(1, -1).flatten(0, 1)


def test_a_knn_convolution_is_fovis_bit_for_bit() -> None:
    """Values and every gradient; several neighbours at one tap are one message."""
    knn, fine, coarse = retinas()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = knn.KNNConvLayer(3, 4, 9, fine, coarse, device="cpu", bias=True)
    whole(theirs.double())
    share = theirs.local_rf
    taps, sources = share.shape[2], fine.shape[0]
    edges = heard(theirs, share, taps, sources)
    assert edges.num_edges < BATCH * share.shape[0] * 9, "the border lacks neighbours"
    layer = cg.nn.GraphConv1d(3, 4, taps).double()
    weight = theirs.weight.detach().unflatten(1, (3, taps))
    layer.load_state_dict({"weight": weight, "bias": theirs.bias.detach()})
    x = integers(BATCH, 3, sources).requires_grad_()
    truth = theirs(x)
    found = layer(rows(x), edges)
    assert torch.equal(found, rows(truth))
    g = integers(*truth.shape, seed=7)
    true = torch.autograd.grad(truth, [x, theirs.weight, theirs.bias], g)
    mine = torch.autograd.grad(found, [x, layer.weight, layer.bias], rows(g))
    assert torch.equal(mine[0], true[0])
    assert torch.equal(mine[1].flatten(1), true[1])
    assert torch.equal(mine[2], true[2])
    index, tap = edges.edge_index, (edges.edge_type + 1) % taps
    wrong = cg.TypedEdges(index, tap, None, (edges.num_sources, edges.num_targets), num_taps=taps)
    assert not torch.equal(layer(rows(x), wrong), found), "a turned kernel is seen"


@pytest.mark.parametrize("mode", ["max", "avg", "sum"])
def test_a_knn_pool_is_fovis_bit_for_bit(mode: str) -> None:
    """The padding beyond the retina is no neighbour, whatever it holds."""
    knn, fine, coarse = retinas()
    theirs = knn.KNNPoolingLayer(9, fine, coarse, mode=mode, device="cpu")
    sources, targets = fine.shape[0], coarse.shape[0]
    slots = torch.eye(9).expand(targets, 9, 9)
    edges = heard(theirs, slots, 9, sources)
    x = integers(BATCH, 3, sources, most=50)
    truth = rows(theirs(x))
    found = (typed_max_pool if mode == "max" else typed_avg_pool)(rows(x), edges)
    if mode == "sum":
        counts = torch.bincount(edges.edge_index[1], minlength=edges.num_targets)
        found = (found * counts[:, None]).round()
    assert torch.equal(found, truth)
