"""What a conversion refuses: the text names the module, and the original is left alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

import convgraph as cg
from convgraph.convert import registry
from convgraph.errors import ConversionError, ConvgraphError, GraphError
from tests.convert.nets import build, image


class Inner(nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def around(call: Any) -> nn.Module:
    """A network whose module "1.0" does something."""
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Sequential(Inner(call))).double()


def turned(x: Tensor) -> Tensor:
    return torch.fft.fft(x).real


def graph(size: tuple[int, int] = (8, 8), channels: int = 2) -> cg.PixelGraph:
    mask = torch.ones(2, *size, dtype=torch.bool)
    mask[:, 2:4, 2:4] = False
    return cg.PixelGraph.from_image(image(2, channels, *size), mask=mask)


def test_strict_names_operator_and_module() -> None:
    with pytest.raises(ConversionError, match=r"_fft_r2c in module '1\.0' has no rule for graphs"):
        cg.to_graph(around(turned), image(2, 2, 8, 8), strict=True)


def test_without_strict_it_runs_on_the_view_and_the_report_says_so() -> None:
    model = around(turned)
    x = image(2, 2, 8, 8)
    net = cg.to_graph(model, x)
    assert torch.equal(net(x), model(x))
    (line,) = net.conversion.fallbacks
    assert (line.operator, line.path) == ("_fft_r2c", "1.0")
    assert not net.conversion.is_strict
    assert "image view" in str(net.conversion)


def test_on_a_mask_it_always_raises() -> None:
    net = cg.to_graph(around(turned))
    with pytest.raises(
        ConversionError, match=r"_fft_r2c in module '1\.0' has no meaning on a mask"
    ):
        net(graph())


def test_control_flow_that_depends_on_data_is_pythons() -> None:
    model = around(lambda x: x if x.sum() > 0 else -x)
    net = cg.to_graph(model)
    for sign in (1, -1):
        x = image(2, 2, 8, 8) * sign
        assert torch.equal(net(x), model(x))
        assert net(cg.PixelGraph.from_image(x, mask=graph().mask)).x.sum() >= 0


def test_wrong_channels() -> None:
    net = cg.to_graph(build("residual"))
    with pytest.raises(RuntimeError, match=r"to have 2 channels, but got 5 channels"):
        net(image(2, 5, 8, 8))
    with pytest.raises(ConvgraphError, match=r"conv2d.*got \(120, 5\)"):
        net(graph(channels=5))


def test_a_size_that_the_network_cannot_take() -> None:
    net = cg.to_graph(nn.Sequential(nn.Conv2d(2, 3, 5), nn.Conv2d(3, 3, 5)).double())
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        net(image(2, 2, 6, 6))
    with pytest.raises(ConvgraphError, match="reaches over 5 pixels"):
        net(graph((6, 6)))


def test_no_image() -> None:
    with pytest.raises(ConversionError, match=r"expected an image \(B, C, \*size\)"):
        cg.to_graph(build("plain"), torch.ones(3))


def test_mixed_sizes() -> None:
    mixed = cg.PixelGraph.from_image([image(1, 2, 8, 8)[0], image(1, 2, 6, 8)[0]])
    with pytest.raises(GraphError, match="expected images of one size"):
        cg.to_graph(build("residual"))(mixed)


def test_a_batch_norm_that_averages_over_all_steps() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=None)).double().train()
    net = cg.to_graph(model)
    for _ in range(3):
        x = image(2, 2, 8, 8)
        assert torch.equal(net(x), model(x))
    for key, value in model.state_dict().items():
        assert torch.equal(value, net.state_dict()[key])


def test_a_recording_leaves_the_statistics_alone() -> None:
    model = build("residual").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net = cg.to_graph(model, image(2, 2, 8, 8))
    cg.summary(net, graph())
    for key, value in before.items():
        assert torch.equal(value, model.state_dict()[key])
        assert torch.equal(value, net.state_dict()[key])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: cg.to_graph(torch.relu), "expected a torch.nn.Module"),
        (lambda: cg.to_graph(cg.to_graph(build("plain"))), "graph network already"),
        (lambda: cg.to_graph(nn.Sequential(nn.LazyConv2d(2, 3))), "is not initialized"),
        (lambda: cg.to_dense(build("plain")), "expected what cg.to_graph"),
        (lambda: cg.receptive_field(build("plain"), (0, 0)), "expected size= beside a dense"),
        (lambda: cg.to_graph(build("plain")).conversion, "nothing recorded yet"),
        (lambda: cg.summary(build("plain"), graph()), "expected what cg.to_graph"),
        (lambda: cg.summary(cg.to_graph(build("plain")), image(1, 2, 8, 8)), "a PixelGraph"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_bad_calls(call: Any, text: str) -> None:
    with pytest.raises(ConvgraphError, match=text):
        call()


def test_one_rule_an_operator() -> None:
    names = [entry.name for entry in registry.table()]
    assert len(names) == len(set(names)) > 100
    with pytest.raises(ConversionError, match="'conv2d' has a rule already, in 'convolution'"):
        registry.rule("conv2d")(print)
    with pytest.raises(ConversionError, match="expected hop as one of"):
        registry.rule("a_new_one", hop="far")
    assert registry.find("a_new_one") is None


class Halo(torch.nn.Module):
    """Blocks of 4 x 4 hear windows of 6 x 6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.reshape(-1, 4, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 16, 4)
        windows = torch.nn.functional.pad(x, [1, 1, 1, 1]).unfold(2, 6, 4).unfold(3, 6, 4)
        k = windows.reshape(-1, 4, 4, 36).permute(0, 2, 1, 3)
        return q @ k


class Lambda(torch.nn.Module):
    """The values of every channel are sent as one image, beside each other in a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 2, (3, 3, 1), padding=(1, 1, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.permute(0, 2, 3, 1).reshape(-1, 1, 8, 8, 4))


class Recurrent(torch.nn.Module):
    """Along the lines of the image."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.cell: Any = kind(4, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.cell(x.permute(0, 2, 3, 1).reshape(-1, 8, 4))[0]
        return out


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (lambda: Recurrent(torch.nn.LSTM), "lstm .* a recurrence runs from position to position"),
        (lambda: Recurrent(torch.nn.GRU), "gru .* a recurrence runs from position to position"),
        (Lambda, "conv3d in module 'conv' .* one more, as lambda layers do"),
        (Halo, "cut in two ways, as blocks beside windows with a halo are"),
    ],
)
def test_what_has_no_meaning_on_a_mask_is_named(net: Any, text: str) -> None:
    mask = torch.rand(2, 8, 8) > 0.4
    graph = cg.PixelGraph.from_image(torch.rand(2, 4, 8, 8), mask=mask)
    with pytest.raises(ConversionError, match=text):
        net()(graph.tensor())
    assert net()(cg.PixelGraph.from_image(torch.rand(2, 4, 8, 8)).tensor()).shape


@pytest.mark.filterwarnings("ignore:flex_attention called")
def test_an_operator_of_functions_is_refused_in_words() -> None:
    """Where a compiler reads it, too: flex attention is compiled, whoever calls it."""
    q = cg.PixelGraph.from_image(torch.rand(2, 4, 4, 4), mask=torch.rand(2, 4, 4) > 0.4).tensor()
    q = q.flatten(2).mT.unsqueeze(1)
    with torch.no_grad(), pytest.raises(Exception, match=r"takes functions .* has no rule"):
        flex_attention(q, q, q)


def test_a_report_of_images_says_what_windows_refuse_on_masks() -> None:
    """Where nothing is absent the windows are made all the same."""
    net = cg.to_graph(Halo())
    net(torch.rand(2, 4, 8, 8))
    assert [line.operator for line in net.conversion.fallbacks] == ["matmul"]
    assert "blocks beside windows with a halo" in net.conversion.fallbacks[0].reason
