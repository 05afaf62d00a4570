"""A flattened map says what the map says: pixels and channels on one axis, absent ones nowhere."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.errors import ConversionError
from tests.cases import integers as whole
from tests.convert.zoo.snap import snap

BATCHES = {"one image": 1, "three": 3, "three, one of them empty": 3}


def given(batch: str = "three") -> tuple[Any, Tensor, Tensor]:
    """A map whose numbers are all below zero, (B, 32) of it with 0 at holes, and who is there."""
    torch.manual_seed(4)
    mask = torch.rand(BATCHES[batch], 4, 4) > 0.4
    if "empty" in batch:
        mask[1] = False
    x = whole(BATCHES[batch], 2, 4, 4) - 9
    there = mask[:, None].expand_as(x).flatten(1)
    return cg.PixelGraph.from_image(x, mask=mask).tensor(), x.flatten(1) * there, there


SHARES = torch.tensor([0.125, 0.5, 0.75]).double()

PER_IMAGE: dict[str, tuple[Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "mean": (lambda t: t.flatten(1).mean(1), torch.mean),
    "largest": (lambda t: t.flatten(1).amax(1), torch.amax),
    "largest and where": (lambda t: t.flatten(1).max(1).values, torch.amax),
    "smallest and largest": (
        lambda t: sum(t.flatten(1).aminmax(dim=1)),
        lambda v: v.amin() + v.amax(),
    ),
    "each image's own": (
        lambda t: torch.stack([one.max(0).values for one in t.flatten(1)]),
        torch.amax,
    ),
    "norm": (lambda t: t.flatten(1).norm(dim=1), torch.norm),
    "sum of numbers": (lambda t: t.flatten(1).nansum(1), torch.nansum),
    "whether any": (lambda t: t.flatten(1).any(1), torch.any),
    "how many": (lambda t: t.flatten(1).count_nonzero(1), torch.count_nonzero),
    "channels last": (lambda t: t.permute(0, 2, 3, 1).flatten(1).mean(1), torch.mean),
    "sum of sizes": (lambda t: t.flatten(1).norm(1, dim=1), lambda v: v.norm(1)),
    "largest size": (lambda t: t.flatten(1).norm(math.inf, dim=1), lambda v: v.norm(math.inf)),
    "median": (lambda t: t.flatten(1).median(1).values, torch.median),
    "median of numbers": (lambda t: t.flatten(1).nanmedian(1)[0], torch.nanmedian),
    "a share": (lambda t: t.flatten(1).quantile(0.25, 1), lambda v: v.quantile(0.25)),
    "shares": (lambda t: t.flatten(1).quantile(SHARES, 1).mT, lambda v: v.quantile(SHARES)),
    "most frequent": (lambda t: t.flatten(1).mode(1).values, lambda v: v.mode().values),
    "after a gain of each position": (
        lambda t: (t.flatten(1) * torch.full((32,), 2.0).double()).mean(1),
        lambda v: 2 * v.mean(),
    ),
}


def of_those_there(one: Callable[[Tensor], Tensor], flat: Tensor, there: Tensor) -> Tensor:
    """What torch says of the entries of each image that are there; of nobody what it says of 0."""
    rows = (row[own] if own.any() else row[:1] for row, own in zip(flat, there, strict=True))
    return torch.stack([one(row) for row in rows])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", PER_IMAGE)
def test_reductions_count_who_is_there(name: str, batch: str) -> None:
    """Of numbers that are all below zero a hole read as 0 would be the largest."""
    run, one = PER_IMAGE[name]
    t, flat, there = given(batch)
    assert torch.equal(run(t), of_those_there(one, flat, there))


@pytest.mark.parametrize("batch", ["one image", "three"])
def test_the_largest_are_of_those_there(batch: str) -> None:
    t, flat, there = given(batch)
    want = of_those_there(lambda row: row.topk(3).values, flat, there)
    assert torch.equal(t.flatten(1).topk(3, 1).values, want)


@pytest.mark.parametrize("batch", ["one image", "three"])
def test_what_is_ranked_is_found_where_it_stands(batch: str) -> None:
    """Its gradient goes there; more than are there is refused."""
    t, flat, there = given(batch)
    leaf = (t * 1).detach().requires_grad_()
    for value, place in (leaf.flatten(1).median(1), leaf.flatten(1).kthvalue(3, 1)):
        assert torch.equal(flat.gather(1, place[:, None]).squeeze(1), value)
        assert bool(there.gather(1, place[:, None]).all())
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        one = torch.zeros_like(flat).scatter_(1, place[:, None], 1.0)
        assert torch.equal(grad.flatten(1).to_dense(), one)
    want = of_those_there(lambda row: row.kthvalue(3).values, flat, there)
    assert torch.equal(t.flatten(1).kthvalue(3, 1).values, want)
    assert torch.equal(t.median(), flat[there].median())
    nobody = cg.PixelGraph.from_image(flat.view(-1, 2, 4, 4), mask=torch.zeros(4, 4) > 0)
    assert torch.equal(nobody.tensor().quantile(SHARES), torch.zeros(3).double())
    with pytest.raises(ConversionError, match="fewer than the 31 that it takes are there"):
        t.flatten(1).kthvalue(31, 1)
    lines = [row[place].sort()[0] for row, place in zip(flat, there, strict=True)]
    if len(lines) == 1:
        assert torch.equal(t.flatten(1).sort(1)[0], lines[0][None])
    else:
        with pytest.raises(ConversionError, match="makes no array; sort each image by itself"):
            t.flatten(1).sort(1)


def test_of_all_axes_each_is_kept() -> None:
    t, flat, there = given()
    shares = flat[there].quantile(SHARES)
    assert torch.equal(t.quantile(SHARES, None, True), shares.view(3, 1, 1, 1, 1))
    assert torch.equal(t.nansum(None, True), flat[there].sum().view(1, 1, 1, 1))
    assert torch.equal((t < 0).all(None, True), torch.ones(1, 1, 1, 1) > 0)


@pytest.mark.parametrize("dim", [None, 1, 2, (2, 3)])
def test_a_sum_has_the_dtype_that_is_asked(dim: Any) -> None:
    t, _, _ = given()
    ones = (t * 0 + 99).to(torch.uint8)
    got, want = (one.sum(dim, dtype=torch.int8) for one in (ones, ones.to_dense()))
    assert got.dtype == torch.int8
    assert torch.equal(got.to_dense(), want)


@pytest.mark.parametrize("batch", ["one image", "three"])
def test_no_hole_is_drawn(batch: str) -> None:
    t, _, there = given(batch)
    drawn = torch.multinomial((t * 0 + 1).flatten(1), int(there.sum(1).min()))
    assert bool(there.gather(1, drawn).all())


@pytest.mark.parametrize("batch", BATCHES)
def test_windows_of_a_line_count_who_is_there(batch: str) -> None:
    t, flat, there = given(batch)
    windows = (one.unflatten(1, (8, 4)).flatten(0, 1) for one in (flat, there))
    want = of_those_there(torch.mean, *windows).view(-1, 1, 8)
    assert torch.equal(F.adaptive_avg_pool1d(t.flatten(1)[:, None], 8), want)
    assert torch.equal(F.adaptive_avg_pool1d(t.flatten(1), 8), want[:, 0])
    assert torch.equal(F.adaptive_avg_pool1d(t.flatten(1), 1), t.flatten(1).mean(1, keepdim=True))


@pytest.mark.parametrize("batch", BATCHES)
def test_a_network_returns_a_flattened_map_on_its_nodes(batch: str) -> None:
    """A plain tensor would say 0 at a hole, the largest of log-probabilities."""
    net = cg.to_graph(Positions())
    t, _, there = given(batch)
    found, want = net(t.graph), Positions()(t)
    assert torch.equal(found.to_dense(), want.to_dense())
    assert bool(there.gather(1, found.argmax(1)[:, None])[there.any(1)].all())
    assert torch.equal(found.exp().sum(1), want.exp().sum(1))


def test_a_compiled_network_returns_a_flattened_map_on_its_nodes_too() -> None:
    torch._dynamo.reset()
    net = cg.to_graph(Positions())
    t, _, _ = given()
    fast: Any = torch.compile(net, backend="aot_eager")
    found = fast(t.graph)
    assert torch.equal(found.to_dense(-torch.inf), net(t.graph).to_dense(-torch.inf))


class Positions(nn.Module):
    """The log-probability of every position of every channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).log_softmax(1)


@pytest.mark.parametrize("batch", ["one image", "three"])
def test_a_class_for_every_position_is_one_of_those_there(batch: str) -> None:
    """Cross entropy over flattened scores, as keypoints are trained: a hole is no class."""
    t, flat, there = given(batch)
    assert torch.equal(t.flatten(1).argmax(1), flat.masked_fill(~there, -99).argmax(1))
    label = there.double().argmax(1)
    scores = torch.zeros_like(flat).masked_fill(~there, -torch.inf).requires_grad_()
    leaf = (t * 0).detach().requires_grad_()  # equal scores, so that every sum is exact
    loss, want = F.cross_entropy(leaf.flatten(1), label), F.cross_entropy(scores, label)
    assert torch.equal(loss, want)
    loss.backward()
    want.backward()
    assert leaf.grad is not None
    assert scores.grad is not None
    # One side may say exp(-log n), log n rounded, for 1 / n; three more roundings on either side.
    bound = (math.log(32) + 6) * 2.0**-53
    apart = leaf.grad.flatten(1).to_dense() - scores.grad
    assert bool((apart.abs() <= bound * (scores.grad.abs() + there.double())).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 2])
def test_sums_over_half_types_run_in_float32(dtype: torch.dtype, images: int) -> None:
    """In float16 a sum ends at 65504, in bfloat16 ones are lost from 256 on; torch's are wider."""
    torch.manual_seed(0)
    mask = torch.rand(images, 64, 64) > 0.4
    x = torch.full((images, 24, 64, 64), 100.0, dtype=dtype)
    t = cg.PixelGraph.from_image(x, mask=mask).tensor()
    f, mean = t.flatten(1), torch.full((images,), 100.0, dtype=dtype)
    assert torch.equal(f.mean(1), mean)
    assert torch.equal(t.mean((1, 2, 3)), mean)
    assert torch.equal(t.mean((2, 3)), mean[:, None].expand(-1, 24))
    alike = (1 / (24.0 * mask.sum((1, 2)))).to(dtype)
    assert torch.equal(f.softmax(1).amax(1), alike)
    squares = 24e4 * mask.sum((1, 2))
    assert torch.equal(f.norm(dim=1), squares.sqrt().to(dtype))
    # Every other channel is 0, so the mean is 500, and all that is summed is exact in float32.
    x = torch.tensor([0.0, 1000.0], dtype=dtype).view(1, 2, 1, 1).expand(images, 2, 8, 8)
    t = cg.PixelGraph.from_image(x, mask=mask[:, :8, :8]).tensor()
    assert torch.equal(t.flatten(1).std(1, correction=0), 5 * mean)


LISTS: dict[str, Callable[[Any], Any]] = {
    "of all positions": lambda x: x.flatten(1)[:, torch.arange(32) % 3 == 0],
    "of pixels": lambda x: x.flatten(2)[:, :, torch.arange(16) % 3 == 0],
    "of a class token and pixels": lambda x: torch.cat(
        [torch.ones(len(x), 1, 2).double(), x.flatten(2).mT], 1
    )[:, torch.arange(17) % 3 == 0],
    "of the batch too": lambda x: x.flatten()[torch.arange(32 * len(x)) % 3 == 0],
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_yes_and_no_has_the_same_shape_for_every_batch(name: str, batch: str) -> None:
    """As its numbers would: a hole says 0, so that a batch of one is no shorter."""
    t, flat, _ = given(batch)
    found, want = LISTS[name](t), LISTS[name](flat.unflatten(1, (2, 4, 4)))
    assert torch.equal(found.to_dense(), want)


W = whole(5, 32)
AS_ZERO: dict[str, Callable[[Any], Any]] = {
    "a product": lambda f: F.linear(f, W),
    "with a matrix": lambda f: f @ W.T,
    "by letters": lambda f: torch.einsum("bi,oi->bo", f, W),
    "with itself": lambda f: f @ f.T,
    "beside readouts": lambda f: F.linear(
        torch.cat([W[: len(f), :7], f], 1), torch.cat([W[:, :7], W], 1)
    ),
    "twice": lambda f: F.linear(torch.cat([f, 2 * f], 1), torch.cat([W, W], 1)),
    "two at once": lambda f: F.bilinear(f, f, torch.ones(2, 32, 32).double()),
    "added to another": lambda f: torch.addmm(W[:, 0], f, W.T, beta=2, alpha=3),
    "of which nothing is read": lambda f: torch.addmm(W[:, 0] * math.nan, f, W.T, beta=0),
    "with a vector": lambda f: torch.mv(f, W[0]),
    "added to a vector": lambda f: torch.addmv(f[:, 0] * 0 + 1, f, W[1]),
    "of two vectors": lambda f: torch.dot(f[0], W[0]),
    "of an image with itself": lambda f: torch.dot(f[-1], f[-1]),
    "of a matrix and an image": lambda f: W @ f[0],
    "inner": lambda f: torch.inner(f, W),
    "a distance": lambda f: torch.dist(f, 2 * f, 1),
    "after a norm in evaluation": lambda f: F.batch_norm(f, W[0], W[1].abs(), eps=1.0),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", AS_ZERO)
def test_products_hear_nothing_of_holes(name: str, batch: str) -> None:
    t, flat, there = given(batch)
    found, want = AS_ZERO[name](t.flatten(1)), AS_ZERO[name](flat)
    if want.shape == flat.shape:
        found, want = found.to_dense(), want * there
    assert torch.equal(found, want)


MIXED: dict[str, Callable[[Any, Tensor], Any]] = {
    "flattened": lambda x, w: w @ x.flatten(1),
    "by letters": lambda x, w: torch.einsum("ab,bcyx->acyx", w, x),
    "of each channel": lambda x, w: w[None, None] @ x.flatten(2).movedim(0, 1)[None],
    "by likeness": lambda x, _: (x.flatten(1) @ x.flatten(1).T) @ x.flatten(1),
}


@pytest.mark.parametrize("name", MIXED)
def test_images_that_are_mixed_are_no_longer_those_images(name: str) -> None:
    """A square matrix over the batch: on the nodes of one image others would lose their pixels."""
    t, flat, _ = given()
    w = whole(3, 3)
    found, want = MIXED[name](t, w), MIXED[name](flat.view(3, 2, 4, 4), w)
    assert type(found) is Tensor
    assert torch.equal(found, want)


def at(place: Any, value: Any) -> Callable[[Any], Any]:
    """What writes into a copy."""

    def write(f: Any) -> Any:
        f = f * 1
        f[place] = value(f) if callable(value) else value
        return f

    return write


WRITES: dict[str, Callable[[Any], Any]] = {
    "a position": at((slice(None), 3), 7.0),
    "the last one": at((slice(None), -1), lambda f: W[0, : len(f)]),
    "a stretch": at((slice(None), slice(3, 9)), 7.0),
    "every other": at((slice(None), slice(None, None, 2)), lambda f: W[: len(f), :16]),
    "one of an image": at((0, 5), 7.0),
    "of another": at((slice(None), slice(0, 5)), lambda f: f[:, 20:25] * 2),
    "by number": lambda f: f.scatter(1, torch.tensor([[3, 5]]).expand(len(f), 2), 7.0),
    "added by number": lambda f: f.scatter_add(
        1, torch.tensor([[3, 5]]).expand(len(f), 2), W[: len(f), :2]
    ),
    "on one side of a diagonal": lambda f: f.tril(4) + f.triu(9),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", WRITES)
def test_what_is_absent_stays_absent(name: str, batch: str, full: bool) -> None:
    """A part of a flattened map is no map; written into, the map hears it all the same."""
    t, flat, there = given(batch)
    if full:
        t, there = cg.PixelGraph.from_image(flat.view(t.shape)).tensor(), there | True
    found = WRITES[name](t.flatten(1))
    assert torch.equal(found.to_dense(), WRITES[name](flat) * there)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("write", [
    lambda x: x.flatten(2).__setitem__((..., 0), 7),
    lambda x: x.flatten(2).mT.__setitem__((slice(None), 5), torch.tensor([1, 2])),
    lambda x: x.flatten(1).__setitem__((slice(None), 3), torch.ones(3).int()),
])  # fmt: skip
def test_what_is_written_over_is_asked_for_no_gradient(write: Any, full: bool) -> None:
    """On full grids a part shares memory with the rows; autograd did not see the write."""
    t, flat, there = given()
    if full:
        t, there = cg.PixelGraph.from_image(flat.view(t.shape)).tensor(), there | True
    send = torch.arange(1.0, t.shape.numel() + 1).double().view(t.shape)
    grads = []
    for leaf in (t.detach().clone(), flat.view(t.shape).clone()):
        x = leaf.requires_grad_() * 1
        write(x)
        grads.append(torch.autograd.grad((x * send).sum(), leaf)[0])
    assert torch.equal(grads[0].to_dense(), grads[1] * there.view(t.shape))


def test_what_is_written_into_a_position_hears_of_it() -> None:
    t, _, there = given()
    value = W[0, :3].clone().requires_grad_()
    f = t.flatten(1) * 1
    f[:, 3] = value
    f.sum().backward()
    assert value.grad is not None
    assert torch.equal(value.grad, there[:, 3].double())


@pytest.mark.parametrize("write", [
    lambda x: x.flatten(1).__setitem__((slice(None), 7), 3.0),
    lambda x: x.flatten(2).mT.__setitem__((slice(None), 7), 3.0),
    lambda x: x.flatten(1).scatter_(1, torch.full((3, 1), 7), 3.0),
])  # fmt: skip
def test_a_write_into_a_flattened_view_is_differentiated(write: Any) -> None:
    """Autograd still knows the rows as they were read."""
    t, flat, there = given()
    sent = whole(3, 2, 4, 4)
    leaf, dense = t.detach().requires_grad_(), flat.view(3, 2, 4, 4).requires_grad_()
    for one in (leaf, dense):
        image = one * 1
        write(image)
        (image * image * sent).sum().backward()
    assert leaf.grad is not None
    assert dense.grad is not None
    assert torch.equal(leaf.grad.to_dense(), dense.grad * there.view(dense.shape))


def test_frames_that_are_flattened_are_steps_of_a_recurrence() -> None:
    """A CNN on frames in the batch, and an LSTM over the flattened frames of each film."""
    torch.manual_seed(0)
    t, flat, _ = given()
    lstm, cell = nn.LSTM(32, 4, batch_first=True).double(), nn.GRUCell(32, 4).double()
    for frames in (1, 3):
        film, want = t.flatten(1).view(-1, frames, 32), flat.view(-1, frames, 32)
        assert torch.equal(lstm(film)[0], lstm(want)[0])
        assert torch.equal(cell(film[:, -1]), cell(want[:, -1]))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
def test_every_node_has_a_series_of_its_own(kind: Any, first: bool) -> None:
    """As the years of a pixel are: the truth is the recurrence on the rows of the nodes."""
    torch.manual_seed(0)
    mask = torch.rand(2, 4, 5) > 0.4
    x = torch.randn(2, 6, 4, 5).double().requires_grad_()
    net = kind(2, 3, 2, batch_first=first, bidirectional=True).double()

    def run(series: Any) -> Any:  # (pixels, 3, 2)
        given = series if first else series.transpose(0, 1)
        start = torch.zeros(4, series.shape[0], 3).double()
        state = (start, start + 1) if kind is torch.nn.LSTM else start + 1
        _, last = net(given, state)
        again, _ = net(given, last)  # whose state is a map
        return (again if first else again.transpose(0, 1)).reshape(series.shape[0], -1)

    graph = cg.PixelGraph.from_image(x, mask=mask)
    got = run(graph.tensor().movedim(1, -1).reshape(-1, 3, 2)).value.x.flatten(1)
    want = run(x.movedim(1, -1)[mask].view(-1, 3, 2))
    assert torch.equal(got, want)
    sent = torch.arange(want.numel()).view(want.shape) % 7 - 3.0
    mine, true = (
        torch.autograd.grad((one * sent).sum(), [x, *net.parameters()]) for one in (got, want)
    )
    pairs = zip(mine, true, strict=True)  # steps first are added up in another order
    assert all(torch.equal(snap(a, None), snap(b, None)) for a, b in pairs)


def test_a_norm_over_all_of_it_is_that_of_the_image() -> None:
    t, _, _ = given()
    weight, bias = whole(2, 4, 4), whole(2, 4, 4)
    want = F.layer_norm(t, [2, 4, 4], weight, bias)
    found = F.layer_norm(t.flatten(1), [32], weight.flatten(), bias.flatten())
    assert torch.equal(found.view(3, 2, 4, 4).to_dense(), want.to_dense())
    apart = F.layer_norm(t.flatten(2), [16], weight[0].flatten(), bias[0].flatten())
    want = F.layer_norm(t, [4, 4], weight[0], bias[0])
    assert torch.equal(apart.view(3, 2, 4, 4).to_dense(), want.to_dense())


@pytest.mark.parametrize("batch", [1, 3])
def test_whole_channels_of_a_flattened_map_stay_on_its_nodes(batch: int) -> None:
    t = given()[0][:batch]
    f = t.flatten(1)
    for channel, *parts in zip(t.chunk(2, 1), f.chunk(2, 1), (f[:, :16], f[:, 16:]), strict=True):
        for part in parts:
            assert torch.equal(part.amax(1), channel.flatten(1).amax(1))
            assert torch.equal(part.view(batch, 1, 4, 4).to_dense(), channel.to_dense())
    w = (f * 1).detach()
    w[:, 16:] = 0.0
    assert torch.equal(w.view(t.shape)[:, 1].to_dense(), 0 * t[:, 1].to_dense())
    assert torch.equal(w.view(t.shape)[:, 0].to_dense(), t[:, 0].to_dense())


FRAMES = [(3, 32), (1, 3, 32), (3, 1, 32)]


@pytest.mark.parametrize("shape", FRAMES)
@pytest.mark.parametrize("size", [(4, 4), (1, 16), (16, 1)])
def test_norms_over_flattened_frames_are_those_of_who_is_there(size: Any, shape: Any) -> None:
    """Two channels stand 2 to 8 above and below a mean of their frame, so each becomes 1 or -1."""
    mask = torch.rand(3, *size, generator=torch.Generator().manual_seed(2)) > 0.4
    far, one = torch.tensor([2.0, 4.0, 8.0]).double().view(3, 1, 1, 1), torch.ones(2).double()
    one[1] = -1
    up_down = one.view(1, 2, 1, 1) * far
    weight, bias, there = whole(32), whole(32), mask[:, None].expand(3, 2, *size).flatten(1)

    def flat(mean: float) -> Any:
        images = (up_down + mean * far).expand(3, 2, *size)
        return cg.PixelGraph.from_image(images, mask=mask).tensor().flatten(1).view(shape)

    sign = one.repeat_interleave(16)
    found = F.layer_norm(flat(3.0), [32], weight, bias, eps=0.0).to_dense().view(3, 32)
    assert torch.equal(found, (sign * weight + bias) * there)
    found = F.rms_norm(flat(0.0), [32], weight, eps=0.0).to_dense().view(3, 32)
    assert torch.equal(found, sign * weight * there)
    if len(shape) == 2:
        found = F.group_norm(flat(3.0), 1, weight, bias, eps=0.0).to_dense()
        assert torch.equal(found, (sign * weight + bias) * there)
        found = F.group_norm(flat(3.0), 2, weight, bias).to_dense()  # of one channel, all alike
        assert torch.equal(found, bias * there)


@pytest.mark.parametrize("masked", [False, True])
def test_a_flattened_sphere_meets_readouts_and_falls_into_parts(masked: bool) -> None:
    """Faces that lie under each other in the array are no neighbours; a whole map has them all."""
    image = whole(2, 2, 48, 4)
    mask = torch.rand(2, 48, 4) > 0.4 if masked else None
    f = cg.PixelGraph.from_image(image, mask=mask, on=cg.HEALPix()).tensor().flatten(1)
    dense = f.to_dense()
    beside = torch.cat([f, W[:2, :3]], 1)
    assert torch.equal(F.linear(beside, W[:1, :1].expand(4, 387)).sum(), dense.sum() * 4 * W[0, 0]
                       + W[:2, :3].sum() * 4 * W[0, 0])  # fmt: skip
    for part, want in zip(f.chunk(3, 1), dense.chunk(3, 1), strict=True):
        assert torch.equal(F.linear(part, W[:1, :1].expand(4, 128)),
                           F.linear(want, W[:1, :1].expand(4, 128)))  # fmt: skip


@pytest.mark.parametrize(
    "run",
    [
        lambda f: F.batch_norm(f, None, None, training=True),
        lambda f: F.group_norm(f, 4),
        lambda f: F.conv1d(f[:, None], torch.ones(1, 1, 3).double()),
        lambda f: F.max_pool1d(f[:, None], 2),
    ],
)
def test_statistics_and_neighbours_of_flattened_pixels_are_refused(run: Any) -> None:
    """A hole would be one more sample, or one more neighbour."""
    with pytest.raises(ConversionError, match="no meaning on a mask"):
        run(given()[0].flatten(1))


def test_a_flattened_map_is_a_view() -> None:
    t, _, there = given()
    t = t * 1
    t.flatten(1).neg_()
    assert torch.equal(t.to_dense().flatten(1) > 0, there)
