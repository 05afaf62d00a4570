"""What hears the whole map, in passes: bit for bit where its statistics are whole numbers."""

import numpy as np
import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import ConversionError, GraphError
from convgraph.scale.passes import passes, times
from convgraph.scale.plan import plan
from tests.scale.nets import Stay, whole

pytest.importorskip("dask")


class Gated(nn.Module):
    """Two gates of whole numbers: a mean over the map, two linear maps, a product."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.gate, self.again = nn.Linear(4, 4), nn.Conv2d(4, 4, 1)
        self.stay = Stay()

    def forward(self, x):
        x = self.stay(self.one(x)) * 64  # so that means over 64 pixels are whole
        x = x * self.stay(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = self.stay(self.two(x)) * 64
        return x + self.again(nn.functional.adaptive_avg_pool2d(x, 1))


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
    norm.eps = 1e-30
    net = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), norm, nn.Conv2d(4, 2, 3, padding=1))
    net, x = whole(net, (8, 8))
    net[0].weight.data.zero_()
    net[0].weight.data[:, 0] = 2
    x[:, 0] = torch.tensor([1.0, -1.0]).double().repeat(32).view(8, 8)  # mean 0, variance 4 behind
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
    with pytest.raises(ConversionError, match="no plan with a mask"):
        cg.tiled(net, x[0].numpy(), tile=8, statistics="passes", mask=np.ones((16, 16), bool))
    with pytest.raises(ConversionError, match=r"first '1' \(softmax\)"):
        cg.tiled(
            nn.Sequential(nn.Conv2d(2, 2, 1), nn.Softmax(3)), x[0].numpy(), statistics="passes"
        )
