"""Parts of a network's output equal the whole, bit for bit, values and all gradients."""

from itertools import product

import numpy as np
import pytest
import torch

from convgraph.errors import ConversionError
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


def test_a_slide_costs_integers_only() -> None:
    net, _ = whole(*networks()["skips"])
    made = plan(net, (1, 2, 102400, 81920))
    ask = made.asks(made.out, (np.arange(51200, 53248), np.arange(4096, 6144)))
    assert [len(p) for p in ask[0]] == [len(ask[0][0])] * 2
    assert 2048 < len(ask[0][0]) < 2200
