"""Gradients of one huge image by tiles: every one of them the whole's, bit for bit."""

import numpy as np
import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import ArgumentError, ConversionError
from tests.scale.nets import Masked, Volume, blocks, counted, networks, whole

NAMES = ("strides 2 and 3", "circular", "transposed", "skips", "in place", "volume", "silent sites")


def head(y, w):
    return (y.flatten(2).sum(2) @ w).square().sum() + (y * y).sum()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tile", [3, 1000])
def test_loss_and_all_gradients_equal_the_whole(name: str, tile: int) -> None:
    net, x = whole(*networks()[name])
    assert counted(net) == 1
    want_x = x.clone().requires_grad_()
    y = net(want_x)
    w = torch.randint(-2, 3, (y.shape[1], 2), generator=torch.Generator().manual_seed(2)).double()
    want = head(y, w)
    want.backward()
    grads = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none=True)
    got_x = x.clone().requires_grad_()
    got = head(cg.streamed(net, tile=tile)(got_x), w)
    got.backward()
    assert torch.equal(got, want)
    assert torch.equal(got_x.grad, want_x.grad)
    assert any(bool(g.any()) for g in grads)
    for p, g in zip(net.parameters(), grads, strict=True):
        assert torch.equal(p.grad, g)


def test_an_image_on_disk_trains_the_weights() -> None:
    net, x = whole(*networks()["skips"])
    head(net(x), torch.ones(2, 2).double()).backward()
    grads = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none=True)
    stream = cg.streamed(net, tile=16)
    head(stream(x[0].numpy()), torch.ones(2, 2).double()).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))


def test_frozen_weights_get_none() -> None:
    net, x = whole(*networks()["3x3"])
    net[0].requires_grad_(False)
    cg.streamed(net, tile=5)(x).sum().backward()
    assert net[0].weight.grad is None
    assert net[2].weight.grad is not None


def test_a_batch_streams_too() -> None:
    net, x = whole(*networks()["skips"])
    both = torch.cat([x, x.flip(2)])
    with torch.no_grad():
        assert torch.equal(cg.streamed(net, tile=16)(both), net(both))


def test_what_hears_the_whole_map_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)).train()
    with pytest.raises(ConversionError, match=r"cg.streamed: .*first '1' .batch_norm."):
        cg.streamed(net)(np.ones((2, 9, 9), np.float32))


@pytest.mark.parametrize(("kind", "size"), [(Masked, (24, 36)), (Volume, (8, 8, 12))])
def test_a_masked_image_streams_as_the_masked_graph(kind, size) -> None:
    net, x = whole(kind(), size)
    coarse, mask = blocks(size, 0.6)
    want_x = x.clone().requires_grad_()
    graph = cg.to_graph(net)
    y = graph(cg.PixelGraph.from_image(want_x, mask=mask[None], d=len(size))).to_image()
    w = torch.ones(y.shape[1], 2).double()
    want = torch.autograd.grad(head(y, w), [want_x, *graph.parameters()])
    got_x = x.clone().requires_grad_()
    got = cg.streamed(net, tile=5)(got_x, mask=coarse.numpy())
    assert torch.equal(got, y)
    found = torch.autograd.grad(head(got, w), [got_x, *net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    assert bool(want[0].any())
    if len(size) == 3:
        pytest.importorskip("dask")
        out = cg.tiled(net, x[0].numpy(), tile=5, mask=coarse.numpy())
        assert np.array_equal(out.compute(scheduler="synchronous"), y[0].detach().numpy())


@pytest.mark.parametrize("net", ["resnet18", None, 3])
def test_what_is_no_network_is_told_before_the_first_image(net) -> None:
    with pytest.raises(ArgumentError, match=r"streamed: expected net as torch\.Module"):
        cg.streamed(net, tile=4)
