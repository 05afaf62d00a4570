"""Parts of a network's output equal the whole, bit for bit, values and all gradients."""

from itertools import product

import numpy as np
import pytest
import torch

from convgraph.errors import ConversionError
from convgraph.scale import travel_rules
from convgraph.scale.partial import run
from convgraph.scale.plan import plan
from tests.scale.nets import counted, networks, whole

TILES = (5, 1000)


def cuts(n, tile):
    return [np.arange(a, min(a + tile, n)) for a in range(0, n, tile)]


def by_parts(made, x, tile):
    """Every tile with what it asks for, run by itself and put in its place."""
    rows = torch.zeros(made.recording.shapes[made.out], dtype=x.dtype)
    for out in product(*(cuts(n, tile) for n in made.out_size)):
        ask = made.asks(made.out, out)
        part = x[np.ix_(range(len(x)), range(x.shape[1]), *ask[0])]
        place = tuple(slice(int(p[0]), int(p[-1]) + 1) for p in out)
        rows[(..., *place)] = run(made, part, ask, made.out)
    return rows


@pytest.mark.parametrize("name", networks())
def test_parts_equal_the_whole(name: str) -> None:
    net, x = whole(*networks()[name])
    made = plan(net, tuple(x.shape))
    made.refuse("test")
    want_x = x.clone().requires_grad_()
    want = net(want_x)
    head = torch.randint(-2, 3, want.shape, generator=torch.Generator().manual_seed(1)).double()
    head = head * counted(net)
    (want * head).sum().backward()
    grads = [p.grad for p in net.parameters()]
    assert want.unique().numel() > 3
    for tile in TILES:
        net.zero_grad(set_to_none=True)
        got_x = x.clone().requires_grad_()
        got = by_parts(made, got_x, tile)
        assert torch.equal(got, want)
        (got * head).sum().backward()
        assert torch.equal(got_x.grad, want_x.grad)
        for p, grad in zip(net.parameters(), grads, strict=True):
            assert torch.equal(p.grad, grad) if grad is not None else p.grad is None


@pytest.mark.parametrize("name", ["skips", "circular", "silent sites"])
def test_single_pixels_equal_the_whole(name: str) -> None:
    net, x = whole(*networks()[name])
    made = plan(net, tuple(x.shape))
    with torch.no_grad():
        want = net(x)
        for out in [(0, 0), (3, 2), tuple(n - 1 for n in made.out_size)]:
            ask = made.asks(made.out, tuple(np.array([p]) for p in out))
            got = run(made, x[np.ix_([0], range(2), *ask[0])], ask, made.out)
            assert torch.equal(got[..., 0, 0], want[(..., *out)])


def test_a_halo_that_is_short_by_one_is_no_silent_fault() -> None:
    net, x = whole(*networks()["skips"])
    made = plan(net, tuple(x.shape))
    ask = made.asks(made.out, (np.arange(20, 25), np.arange(20, 25)))
    short = {**ask, 0: (ask[0][0][1:], ask[0][1])}
    with pytest.raises(IndexError, match="halo is too short"):
        run(made, x[np.ix_([0], range(2), *short[0])], short, made.out)


class Pooled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(2, 4, 3)
        self.norm = torch.nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(self.body(x))


class Written(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.body(x)
        y[:, :1] += 1
        return y


class Asking(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (Pooled(), "first 'norm' .group_norm.: it hears the whole map"),
        (torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.AdaptiveAvgPool2d(1)), "first '1'"),
        (torch.nn.Sequential(torch.nn.BatchNorm2d(2)).train(), "statistics of the whole batch"),
        (torch.nn.Sequential(torch.nn.Dropout(0.5)).train(), "random numbers; call eval"),
        (Written(), "writes into memory that another value shares"),
        (Asking(), "depends on the values of the image"),
    ],
)
def test_what_has_no_plan_is_refused_by_its_path(net, text: str) -> None:
    with pytest.raises(ConversionError, match=text):
        plan(net, (1, 2, 8, 8)).refuse("cg.tiled")


class Positions(torch.nn.Module):
    """A table that is written where another view of it is read, and one that is not."""

    def __init__(self, lost: bool) -> None:
        super().__init__()
        self.body, self.lost = torch.nn.Conv2d(2, 2, 3, padding=1), lost

    def forward(self, x):
        table = torch.zeros(1, 2, *x.shape[2:], dtype=x.dtype, device=x.device)
        table += torch.arange(x.shape[3], dtype=x.dtype, device=x.device)
        if self.lost:
            table[:, 0] = 7
        return table + self.body(x)


class Counting(torch.nn.Module):
    """Writes into its own weight, by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(2, 2, 3)

    def forward(self, x):
        self.body.weight.detach().view(-1).mul_(2)
        return self.body(x)


class Places(torch.nn.Module):
    def forward(self, x):
        y, places = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
        return y + places


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (Positions(lost=True), "writes into memory that another value shares"),
        (Counting(), "writes into a parameter or a buffer"),
        (Places(), "names places of the whole map by number"),
        (
            torch.nn.utils.parametrizations.spectral_norm(torch.nn.Conv2d(2, 2, 3)).train(),
            "writes into a parameter or a buffer",
        ),
    ],
)
def test_what_a_part_would_lose_is_refused(net, text: str) -> None:
    with pytest.raises(ConversionError, match=text):
        plan(net.double(), (1, 2, 8, 8)).refuse("cg.streamed", by_passes=True)


def test_what_is_written_where_nobody_else_reads_is_the_whole_s() -> None:
    net, x = whole(Positions(lost=False), (9, 8))
    made = plan(net, tuple(x.shape))
    made.refuse("test")
    with torch.no_grad():
        assert torch.equal(by_parts(made, x, 3), net(x))


def test_a_tile_in_pads_alone_reads_nothing() -> None:
    seq = torch.nn.Sequential(
        torch.nn.Conv2d(2, 2, 3, padding=1),
        torch.nn.ConstantPad2d(4, 3.0),
        torch.nn.MaxPool2d(2, 1),
    )
    net, x = whole(seq, (5, 6))
    with torch.no_grad():
        assert torch.equal(by_parts(plan(net, tuple(x.shape)), x, 2), net(x))


def test_a_slide_costs_integers_only() -> None:
    net, _ = whole(*networks()["skips"])
    made = plan(net, (1, 2, 102400, 81920))
    ask = made.asks(made.out, (np.arange(51200, 53248), np.arange(4096, 6144)))
    assert [len(p) for p in ask[0]] == [len(ask[0][0])] * 2
    assert 2048 < len(ask[0][0]) < 2200


def test_channels_that_change_places_hear_no_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = whole(*networks()["turned channels"])
    plan(net, (1, 2, 512, 512)).refuse("test")
    monkeypatch.delitem(travel_rules._RULES, "roll")
    with pytest.raises(ConversionError, match="hears the whole map, and 262144 pixels"):
        plan(net, (1, 2, 512, 512)).refuse("test")
