"""Whole networks in spaces, by `to_graph`: the tiling, and the network built on physicsnemo."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from tests import zoo
from tests.spaces import referees
from tests.spaces.cases import UNet, integers, middle, tiled, whole


def test_a_network_on_a_torus_is_the_network_on_the_tiling() -> None:
    """Bit for bit on integers; circular padding set on the convolutions alone is not."""
    net = whole(UNet().double())
    for parameter in net.parameters():
        parameter.data = parameter.data.clamp(-1, 1)
    x = integers(2, 2, 16, 24)
    truth = middle(net(tiled(x)))
    found = cg.to_graph(net)(cg.PixelGraph.from_image(x, on=cg.Torus()))
    assert torch.equal(found.to_image(), truth)
    hack = copy.deepcopy(net)
    for module in (hack.first, hack.down, hack.deep, hack.last):
        module.padding_mode = "circular"
        module._reversed_padding_repeated_twice = [1, 1, 1, 1]
    assert not torch.equal(hack(x), truth)


class Faces(torch.nn.Module):
    """A dense network on stacked faces (B 12, C, n, n), padded by physicsnemo before it looks."""

    def __init__(self, net: Any, padding: Any) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        self.net.avgpool = torch.nn.Identity()
        self.net.fc = torch.nn.Identity()
        self.head = copy.deepcopy(net.fc)
        for module in [*self.net.modules()]:
            for name, child in [*module.named_children()]:
                pad = getattr(child, "padding", 0)
                deep = pad[0] if isinstance(pad, tuple) else pad
                if isinstance(child, (torch.nn.Conv2d, torch.nn.MaxPool2d)) and deep:
                    child.padding = (0, 0) if isinstance(child, torch.nn.Conv2d) else 0
                    around = torch.nn.Sequential(padding.HEALPixPadding(deep), child)
                    setattr(module, name, around)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[-1]
        faces = x.unflatten(2, (12, n)).transpose(1, 2).flatten(0, 1)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            faces = getattr(self.net, name)(faces)
        return self.head(faces.mean((2, 3)).unflatten(0, (-1, 12)).mean(1))


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_on_healpix_is_the_network_on_physicsnemos_padding(training: bool) -> None:
    """Values and all 62 gradients within roundings, in training mode too."""
    padding = referees.physicsnemo_padding()
    models = zoo.models()
    torch.manual_seed(0)
    net = models.resnet18(num_classes=5).double().train(training)
    theirs, mine = Faces(net, padding).train(training), cg.to_graph(net)
    x = torch.randn(2, 3, 12 * 32, 32, dtype=torch.float64)
    expected = theirs(x)
    found = mine(cg.PixelGraph.from_image(x, on=cg.HEALPix()))
    g = torch.randn_like(expected)
    pairs = [(found, expected)]
    by_name = {k.replace(".1.weight", ".weight"): v for k, v in theirs.named_parameters()}
    grads = torch.autograd.grad(found, [*mine.parameters()], g)
    others = torch.autograd.grad(expected, [*theirs.parameters()], g)
    assert len(grads) == len(others) == len(by_name) == 62
    pairs += [*zip(grads, others, strict=True)]
    for one, two in pairs:
        assert one.shape == two.shape
        assert (one - two).norm() <= 1e-13 * two.norm()
