"""Norms where pixels are missing: statistics over the nodes, never the zeros, never the batch."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.functional import norm as functional
from convgraph.nn import synced
from tests.networks import EPS
from tests.nn.norms import DTYPES, LAYERS, PER_IMAGE, SIZES, TRACKED, build, norm, some
from tests.running import Bounded, holds


def agrees(
    name: str, dense: Any, image: Tensor, mask: Tensor, y: Tensor, grads: list[Tensor], g: Tensor
) -> bool:
    """Whether values and gradients are within the running bound of the truth."""

    def truth(quantity: str) -> Callable[[float], Bounded]:
        return lambda u: norm(name, dense, image, mask, g, u)[quantity]

    names = ["x", *(key for key, _ in dense.named_parameters())]
    return holds(y, truth("y")) and all(
        holds(grad, truth(key)) for key, grad in zip(names, grads, strict=True)
    )


def evaluate(layer: Any, image: Tensor, mask: Tensor, g: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaf = image.clone().requires_grad_()
    y = layer(cg.PixelGraph.from_image(leaf, mask, d=image.dim() - 2)).to_image()
    return y, list(torch.autograd.grad(y, [leaf, *layer.parameters()], g))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_on_a_mask_statistics_run_over_nodes(name: str, dtype: torch.dtype) -> None:
    d, dense, layer = build(name, dtype)
    image, mask = some(d, dtype)
    g = torch.where(mask.unsqueeze(1), torch.rand_like(image), 0)
    y, grads = evaluate(layer, image, mask, g)
    assert torch.isfinite(y).all()
    assert agrees(name, dense, image, mask, y, grads, g)


class _ZeroFilled(torch.nn.Module):
    """The dense norm on an image with zeros for holes: the fault that masks are there to avoid."""

    def __init__(self, dense: Any, mask: Tensor) -> None:
        super().__init__()
        self.dense, self.mask = dense, mask

    def forward(self, graph: cg.PixelGraph) -> cg.PixelGraph:
        size = self.mask.shape[1:]
        y = self.dense(graph.to_image()).movedim(1, -1)
        assert y.shape[1:-1] == size
        return graph.with_x(y[self.mask])


def faults(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Plant one fault in the functions that every per-image norm is made of."""
    right = functional.normalize
    mean = functional.image_mean

    def whole_batch(x: Any, sites: Any, groups: int, eps: float) -> Any:
        count = sites.num_nodes
        block = x.unflatten(1, (groups, -1))
        m, v = block.mean((0, 2)), block.var((0, 2), correction=0)
        y = (block - m[:, None]) * (v[:, None] + eps).rsqrt()
        shape = (sites.batch_size, groups)
        return y.reshape(count, -1), m.expand(shape), v.expand(shape)

    def unbiased(x: Any, sites: Any, groups: int, eps: float) -> Any:
        y, m, v = right(x, sites, groups, eps)
        n = (sites.counts.unsqueeze(1) * (x.shape[1] // groups)).clamp(min=2)
        return y * ((n - 1) / n).sqrt()[sites.batch], m, v

    def divided_by_cells(x: Any, sites: Any) -> Any:
        return mean(x, sites) * (sites.counts / (sites.num_cells / sites.batch_size)).unsqueeze(1)

    def one_channel_a_group(x: Any, sites: Any, groups: int, eps: float) -> Any:
        other = 1 if groups > 1 else x.shape[1]
        y, m, v = right(x, sites, other, eps)
        return y, m[:, :1].expand(-1, groups), v[:, :1].expand(-1, groups)

    def detached(x: Any, sites: Any, groups: int, eps: float) -> Any:
        y, m, v = right(x, sites, groups, eps)
        r = (v.detach() + eps).rsqrt()[sites.batch].repeat_interleave(x.shape[1] // groups, 1)
        return (y.detach() - (x * r).detach()) + x * r, m, v

    planted = {
        "whole batch": ("normalize", whole_batch),
        "unbiased variance": ("normalize", unbiased),
        "holes counted": ("image_mean", divided_by_cells),
        "groups mistaken": ("normalize", one_channel_a_group),
        "statistics detached": ("normalize", detached),
        "eps lost": ("normalize", lambda x, s, groups, eps: right(x, s, groups, 0.0)),
    }
    monkeypatch.setattr(functional, *planted[fault])


@pytest.mark.parametrize("name", ["InstanceNorm2d", "GroupNorm", "LayerNorm over images"])
@pytest.mark.parametrize(
    "fault",
    [
        "whole batch", "unbiased variance", "holes counted", "groups mistaken",
        "statistics detached", "eps lost",
    ],
)  # fmt: skip
def test_a_planted_fault_is_caught(name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    d, dense, layer = build(name, torch.float32)
    image, mask = some(d, torch.float32)
    g = torch.where(mask.unsqueeze(1), torch.rand_like(image), 0)
    faults(monkeypatch, fault)
    y, grads = evaluate(layer, image, mask, g)
    assert not agrees(name, dense, image, mask, y, grads, g)


@pytest.mark.parametrize("name", LAYERS)
def test_zeros_taken_for_statistics_are_caught(name: str) -> None:
    d, dense, _ = build(name, torch.float32)
    image, mask = some(d, torch.float32)
    g = torch.where(mask.unsqueeze(1), torch.rand_like(image), 0)
    y, grads = evaluate(_ZeroFilled(dense, mask), image, mask, g)
    assert not agrees(name, dense, image, mask, y, grads, g)


@pytest.mark.parametrize("name", [n for n in PER_IMAGE if "images" not in n])
def test_a_ragged_batch_equals_its_images(name: str) -> None:
    d, dense, layer = build(name)
    shapes = [SIZES[d], tuple(n + 1 for n in SIZES[d]), tuple(n + 40 // d for n in SIZES[d])]
    images = [torch.rand(4, *shape).double() - 0.5 for shape in shapes]
    both = layer(cg.PixelGraph.from_image(images, d=d)).to_images()
    for image, found in zip(images, both, strict=True):
        # Another length of the padded block may change the order of a sum; both are bounded.
        everywhere = torch.ones(1, *image.shape[1:], dtype=torch.bool)
        one = image.unsqueeze(0)
        assert holds(
            found.unsqueeze(0),
            lambda u, i=one, m=everywhere: norm(name, dense, i, m, torch.zeros_like(i), u)["y"],
        )


def test_evaluation_uses_running_statistics_exactly() -> None:
    image, mask = some(2)
    whole = (image * 8).round()
    for kind in ("BatchNorm2d", "InstanceNorm2d"):
        layer = getattr(cg.nn, f"Graph{kind}")(4, eps=EPS, affine=True, track_running_stats=True)
        layer = layer.double().eval()
        layer.running_mean.copy_(torch.tensor([1.0, 0, -2, 3]))
        power = torch.tensor([4.0, 1, 0.25, 16]).double()
        layer.running_var.copy_(power - EPS)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([2.0, -1, 3, 1]))
            layer.bias.copy_(torch.tensor([0.0, 1, 5, -7]))
        x = cg.PixelGraph.from_image(whole, mask).x
        expected = (x - layer.running_mean) / power.sqrt() * layer.weight + layer.bias
        assert torch.equal(layer(cg.PixelGraph.from_image(whole, mask)).x, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRACKED)
def test_running_statistics_of_masks_follow_the_nodes(name: str, dtype: torch.dtype) -> None:
    """The mean over images that have nodes; batch norm has one column for all of them."""
    d, dense, layer = build(name, dtype)
    steps = []
    for _ in range(3):
        image = torch.rand(3, 4, *SIZES[d]).to(dtype)
        mask = torch.rand(3, *SIZES[d]) > 0.3
        mask[2] = False
        steps.append((image, mask))
        layer(cg.PixelGraph.from_image(image, mask, d=d))

    def truth(which: str) -> Callable[[float], Bounded]:
        def follow(u: float) -> Bounded:
            start = torch.full((4,), 0.0 if which == "mean" else 1.0)
            running = Bounded.exactly(start, u)
            for number, (image, mask) in enumerate(steps, start=1):
                found = norm(name, dense, image, mask, torch.zeros_like(image), u)[which]
                counts = [int(mask.sum())] if "Batch" in name else mask.flatten(1).sum(1).tolist()
                new = []
                for part, n in zip(found, [n for n in counts if n], strict=True):
                    flat = part.map(lambda t: t.reshape(-1))
                    new.append(flat if which == "mean" else flat.times(n).over(n - 1))
                total = new[0]
                for part in new[1:]:
                    total = total + part
                share = layer.momentum if layer.momentum is not None else 1 / number
                step = total.over(len(new))
                # share and 1 - share are themselves rounded: one more rounding each.
                kept = running.times(1 - share)
                kept = kept.rounded(kept.value, kept.error, 2)
                moved = step.times(share)
                running = kept + moved.rounded(moved.value, moved.error, 2)
            return running

        return follow

    assert holds(layer.running_mean, truth("mean"))
    assert holds(layer.running_var, truth("var"))
    if "Batch" in name:
        assert layer.num_batches_tracked == 3


def test_an_image_without_nodes_leaves_running_statistics_alone() -> None:
    layer = cg.nn.GraphInstanceNorm2d(4, track_running_stats=True)
    image = torch.rand(2, 4, 3, 3)
    layer(cg.PixelGraph.from_image(image, torch.zeros(2, 3, 3, dtype=torch.bool)))
    assert torch.equal(layer.running_mean, torch.zeros(4))
    assert torch.equal(layer.running_var, torch.ones(4))


# Sums


@pytest.mark.parametrize("sizes", [[(3, 4)] * 3, [(2, 2), (3, 5), (1, 4)], [(1, 1), (40, 40)]])
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_sums_per_image_are_exact_on_integers(sizes: list[Any], density: float) -> None:
    """Padded blocks and, where those would be too big, sums by target."""
    images = [torch.randint(-9, 9, (2, *size)).double().requires_grad_() for size in sizes]
    masks = [torch.rand(size) < density for size in sizes]
    graph = cg.PixelGraph.from_image(images, masks)
    total = functional.image_sum(graph.x, graph.sites)
    expected = torch.stack([(i * m).sum((1, 2)) for i, m in zip(images, masks, strict=True)])
    assert torch.equal(total, expected)
    g = torch.randint(-9, 9, total.shape).double()
    for mask, grad, row in zip(masks, torch.autograd.grad(total, images, g), g, strict=True):
        assert torch.equal(grad, row.view(2, 1, 1) * mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PER_IMAGE)
def test_half_types_are_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    d, _, layer = build(name, torch.float32)
    image, mask = some(d, torch.float32)
    image = (100 + image).to(dtype)
    found = layer(cg.PixelGraph.from_image(image, mask, d=d)).x
    wide = layer(cg.PixelGraph.from_image(image.float(), mask, d=d)).x
    assert found.dtype == dtype
    assert torch.equal(found, wide.to(dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYERS)
def test_on_cuda_masks_mean_the_same_and_results_repeat(name: str) -> None:
    d, dense, layer = build(name, torch.float32)
    image, mask = some(d, torch.float32)
    g = torch.where(mask.unsqueeze(1), torch.rand_like(image), 0)
    layer = layer.cuda()
    runs = [evaluate(layer, image.cuda(), mask.cuda(), g.cuda()) for _ in range(2)]
    for one, two in zip((runs[0][0], *runs[0][1]), (runs[1][0], *runs[1][1]), strict=True):
        assert torch.equal(one, two)
    y, grads = runs[0]
    assert agrees(name, dense, image, mask, y.cpu(), [grad.cpu() for grad in grads], g)


@pytest.mark.parametrize("kind", ["graph", "tensor", "Sequential"])
@pytest.mark.parametrize("name", [name for name in LAYERS if "BatchNorm2d" in name])
def test_what_torch_makes_a_synced_norm_is_the_norm_on_nodes(name: str, kind: str) -> None:
    """In one process; running statistics too."""
    d, dense, layer = build(name)
    image, mask = some(d)
    g = torch.where(mask.unsqueeze(1), torch.rand_like(image), 0)
    made = torch.nn.SyncBatchNorm.convert_sync_batchnorm(cg.nn.Sequential(copy.deepcopy(layer)))
    assert type(made[0]) is torch.nn.SyncBatchNorm
    call = {"graph": lambda x: made[0](x), "tensor": lambda x: made[0](x.tensor()).graph}.get(kind)
    made.forward = call or made.forward
    y, grads = evaluate(made, image, mask, g)
    assert agrees(name, dense, image, mask, y, grads, g)
    evaluate(layer, image, mask, g)
    for mine, true in zip(made.buffers(), layer.buffers(), strict=True):
        assert torch.equal(mine.float(), true.float())
    assert not synced.runs(made[0])


def test_a_synced_norm_stays_one_in_the_dense_twin_and_back() -> None:
    chain = cg.nn.Sequential(cg.nn.GraphConv2d(3, 3, 1), torch.nn.SyncBatchNorm(3))
    dense = chain.to_dense()
    assert type(dense[1]) is torch.nn.SyncBatchNorm
    assert type(cg.nn.Sequential.from_dense(dense)[1]) is torch.nn.SyncBatchNorm


def test_a_synced_norm_without_nodes_learns_nothing() -> None:
    norm = torch.nn.SyncBatchNorm(3)
    graph = cg.PixelGraph.from_image(torch.randn(1, 3, 4, 4), mask=torch.zeros(4, 4).bool())
    assert norm(graph).num_nodes == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))
    with pytest.raises(cg.errors.ShapeError, match="SyncBatchNorm"):
        norm(cg.PixelGraph.from_image(torch.randn(1, 2, 4, 4)))
