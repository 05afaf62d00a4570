"""What hears the whole map, in passes: bit for bit where its statistics are whole numbers."""

import numpy as np
import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import ConversionError, GraphError
from convgraph.scale import passes as passes_of
from convgraph.scale import streamed
from convgraph.scale.passes import passes, times
from convgraph.scale.plan import plan
from tests.scale import masked
from tests.scale.hearing import Gated, Tokens, attending, classifier, signed
from tests.scale.nets import whole

pytest.importorskip("dask")


@pytest.mark.parametrize("tile", [3, 100])
def test_gates_equal_the_whole(tile: int) -> None:
    net, x = whole(Gated(), (16, 16))
    with torch.no_grad():
        want = net(x)[0].numpy()
    out = cg.tiled(net, x[0].numpy(), tile=tile, statistics="passes")
    assert np.array_equal(out.compute(scheduler="synchronous"), want)
    assert len(np.unique(want)) > 4


def test_a_classifier_ends_in_a_readout() -> None:
    net, x = whole(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2, inplace=True),
            nn.Linear(4, 3),
        ),
        (16, 8),
    )
    with torch.no_grad():
        want = net(x)[0].numpy()
    out = cg.tiled(net, x[0].numpy(), tile=5, statistics="passes")
    assert out.shape == (3,)
    assert np.array_equal(out.compute(scheduler="threads"), want)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4)])
def test_norms_over_the_map_of_exact_statistics_equal_the_whole(norm) -> None:
    net, x = signed(norm)
    with torch.no_grad():
        want = net(x)[0].numpy()
    out = cg.tiled(net, x[0].numpy(), tile=4, statistics="passes")
    assert np.array_equal(out.compute(scheduler="synchronous"), want)
    apart = [cg.tiled(net, x[0, :, :4].numpy(), tile=4, statistics="passes").compute()]
    x[0, 0, 4:] = 7  # the statistics of the upper half are no more the whole's
    moved = cg.tiled(net, x[0].numpy(), tile=4, statistics="passes").compute()
    assert not np.array_equal(moved[:, :3], apart[0][:, :3])


def test_passes_are_asked_for_and_their_cost_is_said() -> None:
    net, x = whole(Gated(), (16, 16))
    found = plan(net, tuple(x.shape))
    assert [one.step.operator for one in passes(found)] == ["mean", "adaptive_avg_pool2d"]
    assert 2 < times(found) < 3
    with pytest.raises(ConversionError, match=r"2 operators hear more, first .*\(mean\)"):
        cg.tiled(net, x[0].numpy(), tile=8)
    with pytest.raises(GraphError, match="'tiles' or 'passes'"):
        cg.tiled(net, x[0].numpy(), tile=8, statistics="patches")
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Softmax(3))
    with pytest.raises(ConversionError, match=r"first '1' \(softmax\).*90000 pixels are more"):
        cg.tiled(net, np.ones((2, 300, 300), np.float32), statistics="passes")
    with pytest.raises(ConversionError, match=r"first '1' \(softmax\): it hears the whole map"):
        cg.tiled(net, np.ones((2, 30, 30), np.float32))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("tile", [5, 100])
def test_attention_over_few_tokens_equals_the_whole(dense: bool, tile: int) -> None:
    net, x = whole(Tokens(dense), (16, 24))
    net.attention.in_proj_weight.data /= 64
    with torch.no_grad():
        want = net(x)[0].numpy()
    assert len(np.unique(want)) > 4
    found = plan(net, tuple(x.shape))
    assert [one.key[0] for one in passes(found)] == ["map"]
    out = cg.tiled(net, x[0].numpy(), tile=tile, statistics="passes")
    assert np.array_equal(out.compute(scheduler="synchronous"), want)


@pytest.mark.parametrize("over", [(4, 8, 8), (8, 8)])
def test_layer_norm_over_space_of_exact_statistics_equals_the_whole(over, monkeypatch) -> None:
    norm = nn.LayerNorm(over)
    net, x = signed(norm)
    assert norm.weight.unique().numel() > 2  # a weight a pixel
    with torch.no_grad():
        want = net(x)[0].numpy()
    out = cg.tiled(net, x[0].numpy(), tile=3, statistics="passes")
    assert np.array_equal(out.compute(scheduler="synchronous"), want)
    monkeypatch.setattr("convgraph.scale.passes._affine", lambda *_: torch.ones(()).double())
    assert not np.array_equal(out.compute(scheduler="synchronous"), want)


class Watched:
    """An image that counts how often it is read."""

    def __init__(self, rows) -> None:
        self.rows, self.shape, self.reads = rows, rows.shape, 0

    def __getitem__(self, key):
        self.reads += 1
        return self.rows[key]


def test_maps_between_passes_lie_in_zarr_and_the_image_is_read_once(tmp_path) -> None:
    zarr = pytest.importorskip("zarr")
    net, x = whole(Gated(), (16, 16))
    with torch.no_grad():
        want = net(x)[0].numpy()
    found = plan(net, tuple(x.shape))
    assert 1 <= times(found, kept=True) < 1.1 < times(found)
    image = Watched(x[0].numpy())
    out = cg.tiled(net, image, tile=4, statistics="passes", between=str(tmp_path / "maps"))
    assert np.array_equal(out.compute(scheduler="synchronous"), want)
    assert image.reads == 4  # the tiles of the first pass
    maps = zarr.open_group(str(tmp_path / "maps"), mode="r")
    assert [one.shape for _, one in sorted(maps.arrays())] == [(4, 8, 8), (4, 8, 8)]
    assert cg.prove(out.plan).verdict == "proven"
    again = Watched(x[0].numpy())
    cg.tiled(net, again, tile=4, statistics="passes").compute(scheduler="synchronous")
    assert again.reads == 12


def learned(net, x, call):
    """Return what a call gives, and all gradients of a loss."""
    image = x.clone().requires_grad_()
    y = call(image)
    head = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(3)).double()
    found = torch.autograd.grad((y * head).sum(), [image, *net.parameters()])
    return [y.detach(), *found]


@pytest.mark.parametrize("made", [lambda: whole(Gated(), (16, 16)), classifier])
@pytest.mark.parametrize("tile", [3, 100])
def test_gradients_through_gates_and_readouts_equal_the_whole(made, tile: int) -> None:
    net, x = made()
    want = learned(net, x, net)
    got = learned(net, x, cg.streamed(net, tile=tile, statistics="passes"))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert all(bool(one.any()) for one in want)


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4), nn.LayerNorm((4, 8, 8))]
)
def test_gradients_through_norms_of_exact_statistics_equal_the_whole(norm, monkeypatch) -> None:
    net, x = signed(norm)
    want = learned(net, x, net)
    got = learned(net, x, cg.streamed(net, tile=4, statistics="passes"))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    # without the way back through the statistics, the gradient is another one
    monkeypatch.setattr(streamed._Gradients, "pass_back", lambda self, stage, heard: heard)
    cut = learned(net, x, cg.streamed(net, tile=4, statistics="passes"))
    assert torch.equal(cut[0], want[0])
    assert not torch.equal(cut[1], want[1])


def test_a_norm_of_the_image_itself_learns_too() -> None:
    net = nn.Sequential(nn.InstanceNorm2d(2, affine=True, eps=1e-30), nn.Conv2d(2, 2, 3))
    net, x = whole(net, (8, 8))
    x[:] = torch.tensor([2.0, -2.0]).double().repeat(64).view(1, 2, 8, 8)
    want = learned(net, x, net)
    got = learned(net, x, cg.streamed(net, tile=3, statistics="passes"))
    assert torch.equal(got[0], want[0])
    assert all(torch.equal(a, b) for a, b in zip(got[2:], want[2:], strict=True))


def test_gradients_through_attention_equal_the_whole() -> None:
    net, x = attending()
    want = learned(net, x, net)
    got = learned(net, x, cg.streamed(net, tile=7, statistics="passes"))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_passes_of_a_stream_are_asked_for() -> None:
    net, x = whole(Gated(), (16, 16))
    with pytest.raises(ConversionError, match=r"cg.streamed: .*first .*\(mean\)"):
        cg.streamed(net, tile=8)(x)
    with pytest.raises(GraphError, match="'tiles' or 'passes'"):
        cg.streamed(net, statistics="patches")
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).train()
    with pytest.raises(ConversionError, match=r"first '1' \(batch_norm\)"):
        cg.streamed(net, statistics="passes")(torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize("name", masked.cases())
@pytest.mark.parametrize("tile", [4, 100])
def test_what_hears_a_masked_map_equals_the_masked_network_with_all_gradients(
    name: str, tile: int
) -> None:
    net, x = masked.cases()[name]
    coarse, mask = masked.masks(tuple(x.shape[2:]))
    want, head, *grads = masked.truth(net, x, mask)
    assert want.unique().numel() > 2
    image = x[0].clone().numpy()
    image[:, ~mask.numpy()] = np.nan  # what is absent is nobody's number
    given = {"tile": tile, "statistics": "passes"}
    out = cg.tiled(net, image, mask=coarse.numpy(), **given)
    assert np.array_equal(out.compute(scheduler="synchronous"), want[0].numpy())
    leaf = torch.from_numpy(image)[None].requires_grad_()
    y = cg.streamed(net, **given)(leaf, mask=mask.numpy())
    assert torch.equal(y.detach(), want)
    found = torch.autograd.grad((y * head).sum(), [leaf, *net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, grads, strict=True))


def test_what_follows_attention_lies_where_pixels_are_again() -> None:
    class Upwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.last = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 2, 3, padding=1)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            p = self.one(x)
            t = p.flatten(2).transpose(1, 2)
            t = torch.round(self.attention(t, t, t)[0] / 64).transpose(1, 2).reshape(p.shape)
            return self.last(nn.functional.interpolate(t, size=x.shape[2:]))

    net, x = whole(Upwards(), (10, 12))
    mask = torch.rand(10, 12, generator=torch.Generator().manual_seed(1)) > 0.5
    with torch.no_grad():  # a mask finer than its tokens is there again behind them
        want = cg.to_graph(net)(cg.PixelGraph.from_image(x, mask)).to_image()
        got = cg.streamed(net, tile=5, statistics="passes")(x, mask=mask.numpy())
    assert torch.equal(got, want)
    assert want.unique().numel() > 4


@pytest.mark.parametrize("name", ["gates", "layer norm"])
def test_statistics_that_count_absent_pixels_are_seen(name: str, monkeypatch) -> None:
    net, x = masked.cases()[name]
    coarse, mask = masked.masks(tuple(x.shape[2:]))
    want, *_ = masked.truth(net, x, mask)
    pixels = passes_of.pixels
    monkeypatch.setattr(passes_of, "pixels", lambda y, axes, here=None: pixels(y, axes))
    y = cg.streamed(net, tile=100, statistics="passes")(x * mask, mask=coarse.numpy())
    assert not torch.equal(y, want)


def test_over_no_pixel_statistics_are_0_and_only_tiles_with_a_site_are_summed() -> None:
    net, x = whole(Gated(), (16, 16))
    none, some = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    some[0, 0] = True
    given = {"tile": 2, "statistics": "passes"}
    assert not cg.tiled(net, x[0].numpy(), mask=none, **given).compute().any()
    image = Watched(x[0].numpy())
    cg.tiled(net, image, mask=some, **given).compute(scheduler="synchronous")
    assert image.reads == 3  # two passes and the output, one tile of sixteen


def test_a_mean_over_pixels_that_lie_first_is_a_pass_too() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.one(x).permute(0, 2, 3, 1).mean((1, 2)))

    net, x = whole(First(), (8, 16))
    want = learned(net, x, net)
    got = learned(net, x, cg.streamed(net, tile=8, statistics="passes"))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
