"""The halo that `cg.halo` names is the least one that works, and what cannot work is said."""

import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import ConversionError, GeometryError
from tests.scale.nets import networks, whole


def cropped(net, x, found, tile: int, less: int = 0):
    """Crop with overlap along the last axis: run, keep the middle, put together."""
    n, ratio = x.shape[-1], x.shape[-1] // net(x).shape[-1]
    rows = []
    for start in range(0, n, tile):
        low = max(0, start - found.before[-1] + less)
        high = min(n, start + tile + found.behind[-1] - less)
        y = net(x[..., low:high])
        first = (start - low) // ratio
        rows.append(y[..., first : first + tile // ratio])
    return torch.cat(rows, -1)


class Ups(nn.Module):
    """Down by 4 and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(2, 3, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(3, 3, 3, padding=1)
        )
        self.up = nn.ConvTranspose2d(3, 2, 4, 4)

    def forward(self, x):
        return self.up(self.down(x))


def test_crops_with_the_halo_equal_the_whole_and_one_step_less_does_not() -> None:
    net, x = whole(Ups(), (16, 96))
    found = cg.halo(net, (16, 96))
    assert found.exact, found
    assert found.grid == (4, 4)
    with torch.no_grad():
        assert torch.equal(cropped(net, x, found, 16), net(x))
        assert not torch.equal(cropped(net, x, found, 16, less=4), net(x))


def test_a_halo_is_the_reach_of_three_by_three() -> None:
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(5)))
    found = cg.halo(net, (100, 80))
    assert (found.before, found.behind, found.reads) == ((5, 5), (5, 5), (11, 11))
    assert found.overlap == (5, 5)
    assert found.exact
    assert "halo before 5 x 5" in str(found)


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("circular", (200, 200), "reads other pixels on a crop"),
        ("skips", (201, 201), "no crop with this halo is smaller"),
    ],
)
def test_where_no_crop_is_exact_it_says_so(name: str, size, text: str) -> None:
    import re

    net, _ = whole(*networks()[name])
    found = cg.halo(net, size)
    assert not found.exact
    assert re.search(text, found.why), found.why


def test_norms_over_the_map_make_crops_differ() -> None:
    found = cg.halo(
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.InstanceNorm2d(2), nn.Conv2d(2, 2, 3)), (50, 50)
    )
    assert not found.exact
    assert found.why == "'1' (instance_norm) hears the whole map"


def test_a_slide_of_eight_gigapixels_is_read_in_integers() -> None:
    net, _ = whole(*networks()["skips"])
    found = cg.halo(net, (102400, 81920))
    assert found.exact, found
    assert found.grid == (8, 8)


@pytest.mark.parametrize("size", [(), (0, 5), (2.5, 5)])
def test_what_is_no_size_is_refused(size) -> None:
    with pytest.raises(GeometryError, match="expected size as pixels"):
        cg.halo(nn.Conv2d(1, 1, 3), size)


def test_unknown_channels_are_asked_for() -> None:
    with pytest.raises(ConversionError, match="say channels="):
        cg.halo(nn.MaxPool2d(2), (8, 8))
    assert cg.halo(nn.MaxPool2d(2), (8, 8), channels=3).reads == (2, 2)
