"""Norms: torch's own on full grids, and statistics over nodes alone where pixels are missing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.backends.messages import take
from convgraph.proof import dot_bound

SIZES = {1: (7,), 2: (4, 5), 3: (3, 2, 4)}
LAYERS: dict[str, tuple[int, Callable[[], torch.nn.Module]]] = {
    **{
        f"BatchNorm{d}d": (d, lambda d=d: getattr(torch.nn, f"BatchNorm{d}d")(4)) for d in (1, 2, 3)
    },
    "BatchNorm2d, momentum None": (2, lambda: torch.nn.BatchNorm2d(4, momentum=None)),
    "BatchNorm2d, no statistics": (2, lambda: torch.nn.BatchNorm2d(4, track_running_stats=False)),
    "BatchNorm2d, no affine": (2, lambda: torch.nn.BatchNorm2d(4, affine=False, eps=1e-3)),
    **{
        f"InstanceNorm{d}d": (
            d,
            lambda d=d: getattr(torch.nn, f"InstanceNorm{d}d")(
                4, affine=True, track_running_stats=True
            ),
        )
        for d in (1, 2, 3)
    },
    "InstanceNorm2d, plain": (2, lambda: torch.nn.InstanceNorm2d(4)),
    "GroupNorm": (2, lambda: torch.nn.GroupNorm(2, 4)),
    "GroupNorm of one": (1, lambda: torch.nn.GroupNorm(1, 4, affine=False)),
    "LayerNorm over images": (2, lambda: torch.nn.LayerNorm((4, 4, 5))),
}
PER_IMAGE = [name for name in LAYERS if "Batch" not in name]


def build(name: str) -> tuple[int, Any, Any]:
    d, make = LAYERS[name]
    dense = make().double()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    kind = type(dense).__name__
    return d, dense, getattr(cg.nn, f"Graph{kind}").from_dense(dense)


@pytest.mark.parametrize("name", LAYERS)
def test_on_a_full_grid_it_is_torch_bit_for_bit(name: str) -> None:
    d, dense, layer = build(name)
    for training in (True, True, False):
        dense.train(training)
        layer.train(training)
        image = torch.rand(3, 4, *SIZES[d]).double()
        last = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}[d]
        one = image.clone(memory_format=torch.contiguous_format)
        if d > 1:
            one = one.contiguous(memory_format=last)
        else:  # a signal has no named layout: channels-last is a transposed view
            one = one.transpose(1, 2).contiguous().transpose(1, 2)
        one = one.detach().requires_grad_()
        two = image.clone().requires_grad_()
        expected = dense(one)
        found = layer(cg.PixelGraph.from_image(two, d=d)).to_image()
        assert torch.equal(found, expected)
        g = torch.rand_like(expected)
        left = torch.autograd.grad(expected, [one, *dense.parameters()], g)
        right = torch.autograd.grad(found, [two, *layer.parameters()], g)
        for a, b in zip(left, right, strict=True):
            # A signal's gradient comes in as rows; torch adds a transposed view in another order.
            scale = 64 * torch.ones_like(a)
            assert torch.equal(a, b) if d > 1 else within(b, a, image.numel(), scale)
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in dense.state_dict().items())


def by_pixel(name: str, dense: Any, image: Tensor, mask: Tensor) -> Tensor:
    """The truth on a mask, image by image: torch's norm on the list of pixels that exist."""
    out = torch.zeros_like(image)
    if "Batch" in name:
        rows = image.movedim(1, -1)[mask]  # (N, C)
        trail = (1,) * max(image.dim() - 2, 1)
        seen = dense(rows.view(*rows.shape, *trail)[..., 0] if image.dim() == 3 else
                     rows.view(*rows.shape, *trail))  # fmt: skip
        return out.movedim(1, -1).masked_scatter(mask.unsqueeze(-1), seen.flatten(1)).movedim(-1, 1)
    for b in range(len(image)):
        x = image[b][:, mask[b]]  # (C, n)
        if x.shape[1] == 0:
            continue
        if "Layer" in name:
            y = (x - x.mean()) / (x.var(correction=0) + dense.eps).sqrt()
            y = y * dense.weight[:, mask[b]] + dense.bias[:, mask[b]]
        else:
            groups = dense.num_groups if "Group" in name else x.shape[0]
            z = x.reshape(groups, -1)
            z = (z - z.mean(1, keepdim=True)) / (
                z.var(1, correction=0, keepdim=True) + dense.eps
            ).sqrt()
            y = z.view_as(x)
            if dense.weight is not None:
                y = y * dense.weight.unsqueeze(1) + dense.bias.unsqueeze(1)
        out[b] = out[b].masked_scatter(mask[b].unsqueeze(0), y)
    return out


def within(found: Tensor, expected: Tensor, n: int, scale: Tensor) -> bool:
    """Both are sums of at most n terms at a few places in a row, each off by at most n u |scale|.

    A norm is a mean, a centred square, a mean, a root and a product: fewer than 8 sums or products
    one after the other, each of relative size below `scale`; both sides may be off.
    """
    bound = torch.as_tensor(2 * 8 * dot_bound(n + 8, torch.float64, scale.double().numpy()))
    return bool(((found - expected).abs() <= bound).all())


@pytest.mark.parametrize("name", LAYERS)
def test_on_a_mask_statistics_run_over_nodes(name: str) -> None:
    d, dense, layer = build(name)
    torch.manual_seed(3)
    image = torch.rand(3, 4, *SIZES[d]).double() - 0.5
    mask = torch.rand(3, *SIZES[d]) > 0.4
    mask[2] = False  # an image without nodes must not spoil the others
    one, two = image.clone().requires_grad_(), image.clone().requires_grad_()
    expected = by_pixel(name, dense, one, mask)
    found = layer(cg.PixelGraph.from_image(two, mask, d=d)).to_image()
    assert torch.isfinite(found).all()
    n = mask.numel() * 4
    # Divided by a standard deviation, values and gradients grow by at most 1 / sqrt(eps) here;
    # measured: the largest |x| / sigma that occurs.
    grow = 1 + 1 / image.movedim(1, -1)[mask].std(0).min()
    assert within(found, expected, n, 4 * grow**2 * torch.ones_like(found))
    g = torch.rand_like(expected)
    left = torch.autograd.grad(expected, [one, *dense.parameters()], g)
    right = torch.autograd.grad(found, [two, *layer.parameters()], g)
    for a, b in zip(left, right, strict=True):
        assert within(b, a, n, 16 * n * grow**3 * torch.ones_like(a))


def test_zeros_are_not_statistics() -> None:
    """The planted fault: a norm over the zero-filled image. The comparison must see it."""
    _, dense, layer = build("InstanceNorm2d, plain")
    image = torch.rand(1, 4, 4, 5).double() + 3
    mask = torch.rand(1, 4, 5) > 0.4
    wrong = torch.where(mask.unsqueeze(1), dense(torch.where(mask.unsqueeze(1), image, 0)), 0)
    found = layer(cg.PixelGraph.from_image(image, mask)).to_image()
    assert not within(wrong, found, 80, 64 * torch.ones_like(found))


@pytest.mark.parametrize("name", [n for n in PER_IMAGE if "images" not in n])
def test_a_ragged_batch_equals_its_images(name: str) -> None:
    d, _, layer = build(name)
    layer.eval()
    images = [torch.rand(4, *SIZES[d]).double(), torch.rand(4, *(n + 1 for n in SIZES[d])).double()]
    both = layer(cg.PixelGraph.from_image(images, d=d)).to_images()
    for image, found in zip(images, both, strict=True):
        alone = layer(cg.PixelGraph.from_image(image, d=d)).to_image()
        assert within(found, alone, image.numel(), 64 * torch.ones_like(alone))


def test_layer_norm_per_node_is_torch_on_rows() -> None:
    dense = torch.nn.LayerNorm(4)
    image, mask = torch.rand(2, 4, 3, 3), torch.rand(2, 3, 3) > 0.5
    graph = cg.PixelGraph.from_image(image, mask)
    assert torch.equal(cg.nn.GraphLayerNorm.from_dense(dense)(graph).x, dense(graph.x))


def test_running_statistics_of_a_masked_batch_are_those_of_its_nodes() -> None:
    dense = torch.nn.BatchNorm1d(4).double()
    layer = cg.nn.GraphBatchNorm2d(4).double()
    for _ in range(3):
        graph = cg.PixelGraph.from_image(torch.rand(2, 4, 5, 5).double(), torch.rand(2, 5, 5) > 0.5)
        dense(graph.x)
        layer(graph)
    # One row a node; the same sums in another order of the loops.
    assert within(layer.running_mean, dense.running_mean, 150, torch.ones(4).double())
    assert within(layer.running_var, dense.running_var, 150, torch.ones(4).double())
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("name", LAYERS)
def test_twins_go_both_ways(name: str) -> None:
    _, dense, layer = build(name)
    back = layer.to_dense()
    assert str(back) == str(dense)
    assert type(back) is type(dense)
    assert all(torch.equal(back.state_dict()[k], v) for k, v in dense.state_dict().items())
    assert str(layer) == f"Graph{dense}"


def test_bad_input_has_its_own_error() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 4, 4))
    with pytest.raises(cg.errors.ShapeError, match=r"expected x of shape \(N, 4\), got \(16, 3\)"):
        cg.nn.GraphBatchNorm2d(4)(graph)
    with pytest.raises(cg.errors.GraphError, match="expected a PixelGraph, got Tensor"):
        cg.nn.GraphGroupNorm(1, 3)(torch.rand(1, 3, 4, 4))
    with pytest.raises(cg.errors.UnsupportedError, match="neither"):
        cg.nn.GraphLayerNorm((3, 4))(graph)
    with pytest.raises(cg.errors.ShapeError, match="expected images of shape"):
        cg.nn.GraphLayerNorm((3, 5, 5))(graph)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        cg.nn.GraphBatchNorm2d(3)(cg.PixelGraph.from_image(torch.rand(1, 3, 1, 1)))
    with pytest.raises(cg.errors.ConversionError, match=r"expected a torch\.nn\.BatchNorm2d"):
        cg.nn.GraphBatchNorm2d.from_dense(torch.nn.BatchNorm1d(3))


@pytest.mark.parametrize("name", LAYERS)
def test_a_graph_without_nodes_stays_one(name: str) -> None:
    d, _, layer = build(name)
    nobody = torch.zeros(2, *SIZES[d], dtype=torch.bool)
    graph = cg.PixelGraph.from_image(torch.rand(2, 4, *SIZES[d]).double(), nobody, d=d)
    assert layer(graph).x.shape == (0, 4)


def test_half_types_are_summed_in_float32() -> None:
    mask = torch.ones(1, 40, 40, dtype=torch.bool)
    mask[0, 0, 0] = False
    image = 100 + torch.rand(1, 2, 40, 40)
    half = image.to(torch.float16)
    layer = cg.nn.GraphInstanceNorm2d(2)
    found = layer(cg.PixelGraph.from_image(half, mask)).x
    wide = layer(cg.PixelGraph.from_image(half.float(), mask)).x
    assert torch.equal(found, wide.half())


def test_take_adds_what_it_took_twice() -> None:
    rows = torch.rand(3, 2, requires_grad=True)
    take(rows, torch.tensor([0, 2, 2])).sum().backward()
    assert rows.grad is not None
    assert rows.grad[:, 0].tolist() == [1, 0, 2]
