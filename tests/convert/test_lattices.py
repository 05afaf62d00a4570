"""Lattices that a network makes for itself: the same integers as where they are written out.

Frames and channels folded into the batch, a line or a plane read as an image of one axis more,
sequences with tokens of their own. Masks are scattered; entries are whole numbers: no sum rounds.
"""

import gc
from collections.abc import Callable
from itertools import product
from typing import Any
from weakref import ref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.convert import lattices
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ConversionError

SIZE = (7, 8)


def whole(*shape: int) -> Tensor:
    return torch.randint(-4, 5, shape).double()


def plane(channels: int = 6) -> tuple[Any, Tensor]:
    """A map on scattered pixels, and its mask."""
    torch.manual_seed(0)
    mask = torch.rand(2, *SIZE) > 0.4
    return cg.PixelGraph.from_image(whole(2, channels, *SIZE), mask=mask).tensor(), mask


def frame_by_frame(x: Any, call: Callable[[Any], Any]) -> Any:
    return torch.stack([call(x[:, :3]), call(x[:, 3:])], 1)


def test_channels_in_the_batch_are_filtered_one_by_one() -> None:
    x, _ = plane()
    kernel = whole(1, 1, 3, 3)
    out = F.conv2d(x.reshape(12, 1, *SIZE), kernel, padding=1).reshape(2, 6, *SIZE)
    want = F.conv2d(x, kernel.expand(6, 1, 3, 3), padding=1, groups=6)
    assert torch.equal(out.to_dense(), want.to_dense())
    assert torch.equal(out.graph.mask, want.graph.mask)
    assert torch.equal((out.relu() + x).to_dense(), (want.relu() + x).to_dense())


def test_frames_in_the_batch() -> None:
    """Strided, pooled, and moved on by one frame, as temporal shifts do."""
    x, _ = plane()
    kernel, other = whole(4, 3, 3, 3), whole(5, 4, 1, 1)

    def one(frame: Any) -> Any:
        return F.max_pool2d(F.conv2d(frame, kernel, stride=2, padding=1), 2)

    many = one(x.view(4, 3, *SIZE))
    frames = frame_by_frame(x, one)
    apart = many.view(2, 2, *many.shape[1:])
    assert torch.equal(apart.to_dense(), frames.to_dense())
    shifted = torch.cat([apart[:, 1:], apart[:, :1]], 1).view(many.shape)
    want = torch.stack([F.conv2d(frames[:, 1], other), F.conv2d(frames[:, 0], other)], 1)
    assert torch.equal(F.conv2d(shifted, other).view(want.shape).to_dense(), want.to_dense())
    means = many.sum((2, 3)).view(2, 2, 4)
    assert torch.equal(means, torch.stack([frames[:, 0].sum((2, 3)), frames[:, 1].sum((2, 3))], 1))


def test_gradients_go_back_to_their_frame() -> None:
    x, mask = plane()
    kernel = whole(4, 3, 3, 3)
    found = []
    for fold in (True, False):
        image = x.to_dense().requires_grad_()
        t = cg.PixelGraph.from_image(image, mask=mask).tensor()
        out = F.conv2d(t.view(4, 3, *SIZE), kernel).view(2, 2, 4, 5, 6) if fold else (
            frame_by_frame(t, lambda one: F.conv2d(one, kernel)))  # fmt: skip
        send = torch.arange(out.numel()).view(out.shape).double()
        (out * send).sum().backward()
        found.append(image.grad)
    assert found[0].abs().max() > 0
    assert torch.equal(*found)


def test_frames_that_change_places_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = lattices.placed

    def turned(dense: Tensor, sites: Any, *axes: Any) -> Any:
        order = torch.arange(len(dense)).view(sites.batch_size // 2, 2).flip(1).flatten()
        return real(dense[order], sites, *axes)

    monkeypatch.setattr(lattices, "placed", turned)
    with pytest.raises(AssertionError):
        test_frames_in_the_batch()


def line() -> tuple[Any, Tensor]:
    torch.manual_seed(1)
    mask = torch.rand(2, 12) > 0.3
    return cg.PixelGraph.from_image(whole(2, 5, 12), mask=mask, d=1).tensor(), mask


def test_a_line_of_channels_is_an_image() -> None:
    """(B, C, T) read as (B, 1, C, T): a filter in time, then one over all channels."""
    x, mask = line()
    first, second = whole(4, 1, 1, 3), whole(8, 1, 5, 1)
    there = mask[:, None, None].double()

    def run(t: Any, hole: Any) -> Any:
        y = hole(F.conv2d(t.unsqueeze(1), first, padding=(0, 1)))
        return F.max_pool2d(hole(F.conv2d(y, second, groups=4)).relu(), (1, 4)).flatten(1)

    got = run(x, lambda one: one).to_dense()
    assert torch.equal(got, run(x.to_dense(), lambda one: one * there))


def test_images_are_taken_out_of_a_line_that_is_one() -> None:
    """As rows or as columns; put together in their order, they are all of them again."""
    x, _ = line()
    for call in (
        lambda: F.conv2d(x.unsqueeze(-1), whole(4, x.shape[1], 3, 1), padding=(1, 0)),
        lambda: F.conv2d(x.unsqueeze(2), whole(4, x.shape[1], 1, 3), padding=(0, 1)),
    ):
        y = call()
        parts = [y[:1], y[1:]]
        assert torch.equal(parts[0].to_dense(), y.to_dense()[:1])
        assert torch.equal((torch.cat(parts) + y).to_dense(), 2 * y.to_dense())


def test_channels_are_an_axis_of_a_volume() -> None:
    """A kernel over neighbouring channels, and back to a plane."""
    x, mask = plane()
    kernel, last = whole(1, 1, 3, 1, 1), whole(2, 6, 3, 3)
    there = mask[:, None].double()
    out = F.conv2d(F.conv3d(x.unsqueeze(1), kernel, padding=(1, 0, 0)).squeeze(1), last, padding=1)
    dense = F.conv3d(x.to_dense().unsqueeze(1), kernel, padding=(1, 0, 0)).squeeze(1) * there
    assert torch.equal(out.to_dense(), F.conv2d(dense, last, padding=1) * there)
    assert out.graph.num_nodes == int(mask.sum())


def test_a_kernel_of_one_mixes_tokens_whatever_the_lattice() -> None:
    x, mask = plane()
    weight = whole(4, 6, 1)
    out = F.conv1d(x.flatten(2), weight).unflatten(2, SIZE)
    want = F.conv2d(x.to_dense(), weight.unsqueeze(3)) * mask[:, None]
    assert torch.equal(out.to_dense(), want)


def test_a_codebook_is_asked_by_every_node() -> None:
    x, mask = plane(3)
    book = whole(9, 3)
    nodes = x.permute(0, 2, 3, 1).reshape(-1, 3)
    found = torch.argmin(torch.cdist(nodes, book), 1)
    dense = torch.argmin(torch.cdist(x.to_dense().permute(0, 2, 3, 1).reshape(-1, 3), book), 1)
    mine = F.embedding(found, book).view(2, *SIZE, 3).permute(0, 3, 1, 2)
    want = F.embedding(dense, book).view(2, *SIZE, 3).permute(0, 3, 1, 2) * mask[:, None]
    assert torch.equal(mine.to_dense(), want)


def test_scans_along_a_line_hear_who_is_there() -> None:
    x, mask = plane()
    for name, nothing in (("cumsum", 0.0), ("cumprod", 1.0), ("cummax", -torch.inf)):
        filled = torch.where(mask[:, None], x.to_dense(), nothing)
        mine, want = (getattr(torch, name)(one, 2) for one in (x, filled))
        if name == "cummax":
            mine, want = mine[0], want[0]
        assert torch.equal(mine.to_dense(), torch.where(mask[:, None], want, 0.0)), name


def test_a_recurrence_is_refused_by_its_name() -> None:
    x, _ = plane()
    layer = torch.nn.LSTM(6, 3, batch_first=True).double()
    rows = x.permute(0, 2, 3, 1).reshape(14, 8, 6)
    with pytest.raises(ConversionError, match=r"lstm .* a recurrence runs from position"):
        layer(rows)


CELLS = [torch.nn.GRUCell, torch.nn.LSTMCell, torch.nn.RNNCell]


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_is_one_step_of_every_node(kind: Any) -> None:
    """From states of its own, of nobody or of a whole image, which is a plain tensor."""
    x, _ = plane()
    torch.manual_seed(0)
    cell, spread = kind(6, 4).double(), torch.rand(1, 4).double()

    def step(rows: Any) -> Any:
        several = kind is torch.nn.LSTMCell
        state = cell(rows)[0] if several else cell(rows)
        states = (state, spread.expand(len(rows), 4)) if several else state
        out = cell(rows, states)
        return out[0] + 2 * out[1] if several else out

    found = step(x.permute(0, 2, 3, 1).reshape(-1, 6))
    assert torch.equal(found.value.x, step(x.graph.x))
    both = (torch.autograd.grad(out.sum(), cell.parameters()) for out in (found, step(x.graph.x)))
    assert all(map(torch.equal, *both))


def test_a_state_of_other_nodes_is_refused() -> None:
    x, _ = plane()
    rows = x.permute(0, 2, 3, 1).reshape(-1, 6)
    other = x.roll(1, 2).permute(0, 2, 3, 1).reshape(-1, 6)
    with pytest.raises(ConversionError, match="states live on other nodes"):
        torch.nn.GRUCell(6, 6).double()(rows, other)


def test_attention_among_nobody() -> None:
    graph = cg.PixelGraph.from_image(whole(2, 6, *SIZE), mask=torch.zeros(2, *SIZE).bool())
    q = graph.tensor().flatten(2).transpose(1, 2).unsqueeze(1)
    assert F.scaled_dot_product_attention(q, q, q).shape == (2, 1, 56, 6)
    token = torch.cat([q.new_ones(2, 1, 1, 6), q], 2)
    assert torch.equal(F.scaled_dot_product_attention(token, token, token)[:, :, 0], token[:, :, 0])


def test_zeros_before_all_tokens_are_a_token() -> None:
    x, _ = plane()
    tokens = x.flatten(2).transpose(1, 2)
    padded = F.pad(tokens, (0, 0, 1, 0))
    assert padded.shape == (2, 57, 6)
    assert not padded[:, 0].any()
    assert torch.equal(padded[:, 1:].to_dense(), tokens.to_dense())


def test_a_rule_that_breaks_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours is a sentence about the operator; torch's own refusal stays torch's."""
    from tests.convert.planting import plant

    x, _ = plane()
    with pytest.raises((RuntimeError, ValueError)):
        x.reshape(3, 5)
    plant(monkeypatch, "relu", lambda old: lambda *args: [].pop())
    with pytest.raises(ConversionError, match=r"relu .* its rule broke off .IndexError"):
        F.relu(x)


def _blocks(y: Any, d: int) -> Any:
    """Wider, pooled, narrower and back: what a network has for images of d axes."""
    conv: Any = (F.conv1d, F.conv2d)[d - 1]
    back: Any = (F.conv_transpose1d, F.conv_transpose2d)[d - 1]
    largest: Any = (F.max_pool1d, F.max_pool2d)[d - 1]
    mean: Any = (F.avg_pool1d, F.avg_pool2d)[d - 1]
    torch.manual_seed(1)
    y = conv(y, whole(4, 3, *(3,) * d), whole(4), padding="same").relu()
    low = back(
        conv(largest(y, 3, 1, 1), whole(4, 4, *(3,) * d), None, 2, 1),
        whole(4, 4, *(2,) * d),
        stride=2,
    )
    mode = ("linear", "bilinear")[d - 1]
    high = F.interpolate(mean(y * 4**d, 2), scale_factor=2)
    return low + high + F.interpolate(F.interpolate(y, scale_factor=2, mode=mode), scale_factor=0.5)


FOLDED: dict[str, tuple[int, Any, Any]] = {
    "frames": (2, lambda x: x.transpose(1, 2), lambda y: y.transpose(1, 2)),
    "lines of frames": (1, lambda x: x.permute(0, 2, 3, 1, 4), lambda y: y.permute(0, 3, 1, 2, 4)),
    "pixels over time": (1, lambda x: x.permute(0, 4, 3, 1, 2), lambda y: y.permute(0, 3, 4, 2, 1)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_axes_that_are_folded_into_the_batch(name: str) -> None:
    """Each frame, row or pixel is an image of its own: as if it alone were one, with its mask."""
    torch.manual_seed(0)
    d, apart, back = FOLDED[name]
    mask = torch.rand(2, 4, 4, 6) > 0.4
    mask[0, 1] = False  # an empty frame
    ends = []
    image = whole(2, 3, 4, 4, 6)
    for single in (False, True):
        x = image.clone().requires_grad_()
        if single:
            many, own = apart(x), apart(mask[:, None])
            many, own = (one.flatten(0, -d - 2) for one in (many, own))
            y = _blocks(cg.PixelGraph.from_image(many, mask=own.squeeze(1), d=d).tensor(), d)
            out = back(y.to_dense().unflatten(0, apart(x).shape[: -d - 1]))
        else:
            volume = apart(cg.PixelGraph.from_image(x, mask=mask, d=3).tensor())
            y = _blocks(volume.flatten(0, -d - 2), d)
            y = back(y.unflatten(0, volume.shape[: -d - 1]))
            assert y.graph.sites.size == tuple(y.shape[2:])
            out = y.to_dense()
        ends.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    assert all(map(torch.equal, *ends))
    assert bool(ends[0][1].any())


WINDOWS: dict[str, Any] = {
    "windows": (lambda x: x.unflatten(3, (2, 6)).unflatten(2, (3, 4)), (2, 0, 4, 1, 3, 5)),
    "stripes": (lambda x: x.unflatten(2, (3, 4)), (2, 0, 1, 3, 4)),
    "a dilated grid": (lambda x: x.unflatten(3, (4, 3)).unflatten(2, (4, 3)), (3, 0, 5, 1, 2, 4)),
}


def in_windows(name: str, x: Any) -> Any:
    """(windows and batch, C, y, x) of (batch, C, 12, 12)."""
    cut, order = WINDOWS[name]
    return cut(x).permute(order).flatten(0, -4)


def out_of_windows(name: str, y: Any) -> Any:
    """The way back."""
    cut, order = WINDOWS[name]
    whole = cut(torch.empty(2, 1, 12, 12)).permute(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    one = y.reshape(*whole.shape[:-3], *y.shape[1:]).permute(back)
    return one.reshape(2, y.shape[1], 12, 12)


def _among_channels(y: Any) -> Any:
    """Channels that hear each other, each window for itself."""
    rows = y.flatten(2)
    return ((rows @ rows.mT) @ rows).reshape(y.shape)


ALONE: dict[str, Any] = {
    "a network": lambda y: _blocks(y, 2),
    "sums that each hears": lambda y: y * y.sum((2, 3), True) - y.amax((2, 3), keepdim=True),
    "a squeeze": lambda y: y * F.conv2d(F.adaptive_max_pool2d(y, 1), SQUARE).expand_as(y),
    "among channels": _among_channels,
    "a readout beside": lambda y: torch.cat([y, y.sum((2, 3), True).expand_as(y)], 1)[:, 1:4],
    "mixed positions": lambda y: y.flatten(2) @ (torch.arange(y[0, 0].numel()) % 3 - 1.0).double(),
}
SQUARE = whole(3, 3, 1, 1)


@pytest.mark.parametrize(
    ("name", "what"),
    [pair for pair in product(WINDOWS, ALONE) if pair != ("a dilated grid", "mixed positions")],
)
def test_a_window_is_an_image_of_its_own(name: str, what: str) -> None:
    """As if it alone were one, with its mask; and its pixels go back to where they were."""
    ends = []
    torch.manual_seed(0)
    image, mask = whole(2, 3, 12, 12), torch.rand(2, 12, 12) > 0.4
    mask[1, :4, :6] = False  # an empty window
    for single in (False, True):
        x = image.clone().requires_grad_()
        graph = cg.PixelGraph.from_image(x, mask=mask).tensor()
        apart = in_windows(name, graph)
        if single:
            own = in_windows(name, mask[:, None]).squeeze(1)
            apart = cg.PixelGraph.from_image(in_windows(name, x), mask=own).tensor()
        y = ALONE[what](apart)
        if what == "mixed positions":  # a number of each window and channel
            out = y.to_dense() if isinstance(y, GraphTensor) else y
        elif single:
            out = out_of_windows(name, y.to_dense())[:, :3] + 2 * x * mask[:, None]
        else:
            out = (out_of_windows(name, y)[:, :3] + 2 * graph).to_dense()
        ends.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    assert all(map(torch.equal, *ends))
    assert bool(ends[0][1].any())


def test_tokens_of_windows_are_mixed_in_their_window() -> None:
    """A window's pixels as a line, and packed alone it is one."""
    torch.manual_seed(0)
    x = cg.PixelGraph.from_image(whole(2, 3, 12, 12), mask=torch.rand(2, 12, 12) > 0.4).tensor()
    lines, weight = in_windows("windows", x).flatten(2), whole(3, 3, 1)
    packed = torch.cat([lines.mT], 1)
    assert torch.equal(packed.mT.to_dense(), lines.to_dense())
    packed.mul_(0)
    assert bool(lines.to_dense().any())
    own = out_of_windows("windows", F.conv1d(lines, weight).unflatten(2, (4, 6)))
    assert torch.equal((own + x).to_dense(), (F.conv2d(x, weight.unsqueeze(3)) + x).to_dense())


@pytest.mark.parametrize("name", WINDOWS)
def test_pixels_that_moved_within_windows_are_a_mask_of_their_own(name: str) -> None:
    """Who convolves them next hears those, and a sum with others lives on both."""
    torch.manual_seed(0)
    image, mask, weight = whole(2, 3, 12, 12), torch.rand(2, 12, 12) > 0.4, whole(3, 3, 3, 3)
    ends = []
    for alone in (False, True):
        x = image.clone().requires_grad_()
        graph = cg.PixelGraph.from_image(x, mask=mask).tensor()
        y = in_windows(name, graph)
        if alone:
            own = in_windows(name, mask[:, None]).squeeze(1)
            y = cg.PixelGraph.from_image(in_windows(name, x), mask=own).tensor()
        y = F.conv2d(F.conv2d(y, weight, padding=1).roll(1, 2), weight, padding=1)
        if alone:
            moved = out_of_windows(name, y.graph.mask[:, None]).squeeze(1)
            y = cg.PixelGraph.from_image(out_of_windows(name, y.to_dense()), mask=moved).tensor()
        else:
            y = out_of_windows(name, y)
        y = F.conv2d(y, weight, padding=1) + graph
        ends.append((y.graph.mask, y.to_dense(), *torch.autograd.grad(y.square().sum(), x)))
    assert all(map(torch.equal, *ends))
    assert not torch.equal(ends[0][0], mask)


def test_windows_a_few_at_a_time_are_all_windows() -> None:
    """As networks do that save memory; in another order they are no map's."""
    torch.manual_seed(0)
    x = cg.PixelGraph.from_image(whole(2, 3, 12, 12), mask=torch.rand(2, 12, 12) > 0.4).tensor()
    many, weight = in_windows("windows", x), whole(3, 3, 3, 3)
    few = [F.max_pool2d(F.conv2d(one, weight, padding=1), 2) for one in many.split(5)]
    found = torch.cat(few).reshape(3, 2, 2, 3, 2, 3).permute(1, 3, 0, 4, 2, 5).reshape(2, 3, 6, 6)
    all_at_once = F.max_pool2d(F.conv2d(many, weight, padding=1), 2)
    true = all_at_once.reshape(3, 2, 2, 3, 2, 3).permute(1, 3, 0, 4, 2, 5).reshape(2, 3, 6, 6)
    other = F.max_pool2d(x, 2)
    assert torch.equal((found + other).to_dense(), (true + other).to_dense())
    mixed = torch.cat(few[::-1]).reshape(3, 2, 2, 3, 2, 3).permute(1, 3, 0, 4, 2, 5)
    with pytest.raises(ConversionError, match="no meaning on a mask"):
        mixed.reshape(2, 3, 6, 6) + other


@pytest.mark.parametrize("rows", [8, 9])
def test_windows_in_another_order_are_others_though_all_pixels_are_there(rows: int) -> None:
    """Full grids of one size are one record, also those that are windows in two ways."""
    torch.manual_seed(0)
    mask, image = torch.ones(3, rows, 8).bool(), whole(3, 3, rows, 8)
    mask[0, 8:, 3] = False
    x = cg.PixelGraph.from_image(image, mask=mask).tensor()[:, :, :8]
    kept = []
    for order, sizes in (((0, 2, 4, 1, 3, 5), (3, 2, 2)), ((4, 2, 0, 1, 3, 5), (2, 2, 3))):
        y, true = (
            one.reshape(3, 3, 2, 4, 2, 4).permute(order).reshape(12, 3, 4, 4).cumsum(2)
            for one in (x, image[:, :, :8])
        )
        kept.append(F.max_pool2d(y, 3, 1, 1))
        back = sorted(range(6), key=order.__getitem__)
        found, want = (
            one.reshape(*sizes, 3, 4, 4).permute(back).reshape(3, 3, 8, 8)
            for one in (kept[-1], F.max_pool2d(true, 3, 1, 1))
        )
        assert torch.equal((found + x).graph.to_image(), want + image[:, :, :8])


def test_a_stream_of_windows_leaves_no_masks_behind() -> None:
    """They know whose they are, who does not hold them."""
    gone = []
    gc.collect()
    gc.disable()
    try:
        for line in (False, True):
            mask = torch.rand(2, 12, 12) > 0.4
            x = cg.PixelGraph.from_image(whole(2, 3, 12, 12), mask=mask).tensor()
            if line:
                x = cg.PixelGraph.from_image(whole(2, 3, 12), mask=mask[:, 0], d=1).tensor()
                y = F.conv2d(x.unsqueeze(2), whole(3, 3, 1, 3)).squeeze(2)
            else:
                y = out_of_windows("windows", F.max_pool2d(in_windows("windows", x), 3, 1, 1)) + x
            gone += [ref(x.sites), ref(y.sites)]
            del x, y
        assert not any(one() for one in gone)
    finally:
        gc.enable()


@pytest.mark.parametrize("alike", [False, True])
def test_stripes_of_one_image_go_back(alike: bool) -> None:
    """Their number stands beside their lines alone, and they are no frames of a stripe."""
    torch.manual_seed(0)
    image, mask, weight = whole(1, 3, 12, 12), torch.rand(1, 12, 12) > 0.4, whole(3, 3, 3, 3)
    mask = mask[:, :4].repeat(1, 3, 1) if alike else mask
    x = cg.PixelGraph.from_image(image, mask=mask).tensor()
    stripes = x.unflatten(2, (3, 4)).transpose(1, 2).flatten(0, 1)
    own = image.view(3, 3, 4, 12).transpose(0, 1)
    alone = cg.PixelGraph.from_image(own, mask=mask.view(3, 4, 12)).tensor()
    found = F.conv2d(stripes, weight, padding=1).transpose(0, 1).reshape(1, 3, 12, 12)
    true = F.conv2d(alone, weight, padding=1).to_dense().transpose(0, 1).reshape(1, 3, 12, 12)
    assert torch.equal(found.graph.mask, x.graph.mask)
    assert torch.equal((found + x).to_dense(), true + x.to_dense())


def test_windows_that_grow_are_those_of_a_larger_map() -> None:
    """And those that shrink of a smaller one; dilated grids that grow are no map's."""
    torch.manual_seed(0)
    x = cg.PixelGraph.from_image(whole(2, 3, 12, 12), mask=torch.rand(2, 12, 12) > 0.4).tensor()
    ways: list[Any] = [lambda y: F.interpolate(y, scale_factor=2), lambda y: F.max_pool2d(y, 2)]
    for way, factor in zip(ways, (2.0, 0.5), strict=True):
        y = way(in_windows("windows", x)).reshape(3, 2, 2, 3, int(4 * factor), int(6 * factor))
        y = y.permute(1, 3, 0, 4, 2, 5).reshape(way(x).shape)
        assert torch.equal((y + way(x)).to_dense(), 2 * way(x).to_dense())
        assert torch.equal(y.graph.mask, way(x).graph.mask)
    grown = ways[0](in_windows("a dilated grid", x))
    whole_again = grown.reshape(3, 2, 3, 3, 8, 8).permute(1, 3, 4, 0, 5, 2).reshape(2, 3, 24, 24)
    with pytest.raises(ConversionError, match="no meaning on a mask"):
        whole_again + ways[0](x)


@pytest.mark.parametrize("size", [(2, 1, 5, 6), (1, 3, 5, 6), (1, 1, 5, 1), (2, 1, 3, 3)])
def test_one_frame_is_folded_as_several_are(size: tuple[int, ...]) -> None:
    """An axis of one frame has no name, and was taken for none."""
    torch.manual_seed(0)
    x, mask, weight = (
        whole(size[0], 2, *size[1:]).requires_grad_(),
        torch.rand(size) > 0.3,
        whole(2, 2, 3, 3),
    )
    volume = cg.PixelGraph.from_image(x, mask=mask, d=3).tensor()
    other = x * mask[:, None]
    for how in ((1, 1), (2, 1), (1, 0)) if size[3] >= 3 else ((1, 1),):
        ends = []
        for one in (volume, other):
            frames = one.transpose(1, 2).flatten(0, 1)
            ends.append(F.conv2d(frames, weight, None, *how).unflatten(0, size[:2]).transpose(1, 2))
        mine, true = ends
        dense = mine.to_dense() if isinstance(mine, GraphTensor) else mine
        there = mine.graph.mask[:, None] if isinstance(mine, GraphTensor) else True
        assert torch.equal(dense, true * there)
        mine, true = (
            torch.autograd.grad((one * there).sum(), x, retain_graph=True)[0]
            for one in (dense, true)
        )
        assert torch.equal(mine, true)


KERNEL = whole(5, 3, 3, 3)
APART: dict[str, tuple[Any, Any]] = {
    "convolutions": (
        lambda x: torch.stack([F.conv2d(one, KERNEL, None, 2, 1) for one in x.unbind(2)], 2),
        lambda x: F.conv3d(x, KERNEL.unsqueeze(2), None, (1, 2, 2), (0, 1, 1)),
    ),
    "pools, resizes": (
        lambda x: torch.stack(
            [F.interpolate(F.max_pool2d(x[:, :, n], 2), scale_factor=3) for n in range(4)], 2
        ),
        lambda x: F.interpolate(F.max_pool3d(x, (1, 2, 2)), scale_factor=(1, 3, 3)),
    ),
    "means": (
        lambda x: torch.stack([F.adaptive_avg_pool2d(one, 1) for one in x.unbind(2)], 2).squeeze(),
        lambda x: x.mean((3, 4)),
    ),
    "frames first": (
        lambda x: torch.stack([(2 * one).relu() for one in x.transpose(1, 2).unbind(1)], 1).mean(1),
        lambda x: (2 * x).relu().mean(2),
    ),
    "frames as channels": (
        lambda x: F.conv2d(x.flatten(1, 2), KERNEL.repeat(1, 4, 1, 1), padding=1),
        lambda x: F.conv2d(
            x.transpose(1, 2).flatten(1, 2),
            KERNEL.repeat(1, 4, 1, 1).view(5, 3, 4, 3, 3).transpose(1, 2).flatten(1, 2), padding=1,
        ),
    ),
    "a line as one row": (
        lambda x: F.max_pool2d(x.flatten(2).unsqueeze(2), (1, 2)).squeeze(2),
        lambda x: F.max_pool1d(x.flatten(2), 2),
    ),
    "a line as one column": (
        lambda x: F.conv2d(x.flatten(2).unsqueeze(3), KERNEL[:, :, :1].mT, None, 2).squeeze(3),
        lambda x: F.conv1d(x.flatten(2), KERNEL[:, :, 0], None, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_frames_one_after_the_other(name: str) -> None:
    """As all at once: a frame keeps its own mask, and takes it back into the volume."""
    torch.manual_seed(0)
    image, mask = whole(2, 3, 4, 4, 6), torch.rand(2, 4, 4, 6) > 0.4
    mask[0, 1] = False  # an empty frame
    d = 3
    if name.startswith("a line"):
        image, mask, d = image[:, :, 0, 0], mask[:, 0, 0], 1
    ends = []
    for way in APART[name]:
        x = image.clone().requires_grad_()
        y = way(cg.PixelGraph.from_image(x, mask=mask, d=d).tensor())
        rows, y = (y.value.x, y.to_dense()) if isinstance(y, GraphTensor) else (y, y)
        ends.append((len(rows), y, *torch.autograd.grad(y.sum(), x)))
    (mine, one, back), (other, two, there) = ends
    assert torch.equal(one, two)
    assert torch.equal(back, there)
    assert mine == other or name == "means"  # which are a map on one side
    assert torch.equal(*(way(image) for way in APART[name]))


@pytest.mark.parametrize("batch", [1, 2])
def test_an_image_without_a_batch_is_no_fold(batch: int) -> None:
    """Its windows have an axis more than lines in a batch: one of 2 x 2 became one of 2."""
    x = whole(batch, 3, *SIZE)
    calls: tuple[Any, ...] = (
        lambda y: F.max_pool2d(y, 2),
        lambda y: F.avg_pool2d(y * 4, 2),
        lambda y: F.conv2d(y, torch.ones(2, batch * SIZE[0], 3, 3).double()),
    )
    for call in calls:
        mine, true = (
            call(one.transpose(1, 2).flatten(0, 1))
            for one in (cg.PixelGraph.from_image(x).tensor(), x)
        )
        assert torch.equal(mine, true)


def test_readouts_beside_a_line_make_it_longer() -> None:
    """The moving average of Autoformer, which puts copies of its ends beside a series."""
    torch.manual_seed(0)
    there = torch.rand(2, 9) > 0.3
    there[:, 0] = there[:, -1] = True
    series = torch.randint(-8, 9, (2, 3, 9)).double().requires_grad_()

    def trend(x: Tensor) -> Tensor:
        x = x.mT
        whole = torch.cat([x[:, :1], x, x[:, -1:].repeat(1, 2, 1)], 1)
        return x - F.avg_pool1d(whole.mT, 4, 1).mT

    mine = trend(cg.PixelGraph.from_image(series, mask=there, d=1).tensor())
    filled = torch.where(there[:, None], series, 0.0)
    true = torch.where(there[:, :, None], trend(filled), 0.0)
    assert torch.equal(mine.to_dense(), true)
    grads = [torch.autograd.grad(one.square().sum(), series)[0] for one in (mine, true)]
    assert torch.equal(*grads)
    tokens = torch.cat([torch.ones(2, 1, 3).double(), mine], 1)
    assert torch.equal(tokens[:, 1:].to_dense(), true), "tokens are tokens still"
