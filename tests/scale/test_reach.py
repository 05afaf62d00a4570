"""A receptive field looked up in tables is the one that the edges of the graph walk back to."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import GeometryError, GraphError
from convgraph.scale import reach
from tests.scale.nets import networks, whole

NAMES = (
    "strides 2 and 3",
    "dilated",
    "reflect",
    "circular",
    "transposed",
    "ceil",
    "skips",
    "volume",
)


class Cross(nn.Module):
    """A row and a column: what they hear together is no rectangle."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Conv2d(2, 2, (1, 5), padding=(0, 2))
        self.column = nn.Conv2d(2, 2, (5, 1), padding=(2, 0))

    def forward(self, x):
        return self.row(x) + self.column(x)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 2, 3)

    def forward(self, x):
        return self.body(x) * x.mean((2, 3), keepdim=True)


def spread(found: reach.Reach) -> torch.Tensor:
    """The mask of the whole image."""
    full = torch.zeros(found.image_size, dtype=torch.bool)
    full[tuple(slice(a, b + 1) for a, b in found.box)] = found.mask
    return full


@pytest.mark.parametrize("name", NAMES)
def test_tables_say_what_edges_say(name: str) -> None:
    net, x = whole(*networks()[name])
    graph = cg.PixelGraph.from_image(x, d=x.dim() - 2)
    size = net(x).shape[2:]
    for pixel in (tuple(0 for _ in size), tuple(n // 2 for n in size), tuple(n - 1 for n in size)):
        want = cg.receptive_field(cg.to_graph(net), pixel, graph)
        found = cg.receptive_field(net, pixel, size=x.shape[2:])
        assert torch.equal(spread(found), want.mask), pixel
        assert (found.box, found.num_pixels) == (want.box, want.num_pixels)
        assert found.exact


def test_branches_hear_a_union_and_no_rectangle(monkeypatch) -> None:
    found = cg.receptive_field(Cross(), (8, 8), size=(20, 20))
    assert found.num_pixels == 9
    assert found.size == (5, 5)
    assert found.exact
    monkeypatch.setattr(reach, "MOST", 1)
    coarse = cg.receptive_field(Cross(), (8, 8), size=(20, 20))
    assert coarse.num_pixels == 25
    assert not coarse.exact


def test_gates_and_readouts_hear_all_and_what_has_no_rule_is_a_bound() -> None:
    assert cg.receptive_field(Gate(), (1, 1), size=(9, 7)).num_pixels == 63
    head = nn.Sequential(nn.Conv2d(2, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1))
    found = cg.receptive_field(head, (), size=(9, 7))
    assert (found.num_pixels, found.exact) == (63, True)
    net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Softmax(3), nn.Conv2d(2, 2, 3))
    assert not cg.receptive_field(net, (1, 1), size=(9, 9)).exact


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="its own peak is told by Linux alone")
def test_a_slide_takes_megabytes() -> None:
    """Its own peak: `resource` would count that of the process that started it, which is larger."""
    code = """
import convgraph as cg
from tests.scale.nets import Skips
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])
net = Skips()
cg.receptive_field(net, (3, 3), size=(64, 64))
before = peak()
found = cg.receptive_field(net, (51201, 40960), size=(102400, 81920))
print(found.size, peak() - before)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    size, _, kibibytes = said.stdout.strip().rpartition(" ")
    assert size.startswith("(")
    assert int(kibibytes) < 2**16  # 64 MiB; its bools alone would be 7.8 GiB


@pytest.mark.parametrize(
    ("pixel", "size", "error", "text"),
    [
        ((99, 0), (9, 9), GraphError, "expected a pixel of the output"),
        ((0, 0), (9, -1), GeometryError, "expected size as pixels"),
    ],
)
def test_bad_input_is_refused(pixel, size, error, text: str) -> None:
    with pytest.raises(error, match=text):
        cg.receptive_field(nn.Conv2d(2, 2, 3), pixel, size=size)
    with pytest.raises(GraphError, match="got both"):
        cg.receptive_field(nn.Conv2d(2, 2, 3), (0, 0), object(), size=(9, 9))
