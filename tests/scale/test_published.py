"""Published networks by tiles, on whole numbers, to their last answer: every bit the whole's."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.scale.passes import passes
from convgraph.scale.plan import plan
from tests import zoo
from tests.scale.nets import Stay

pytest.importorskip("dask")

FEW = ("resnet18", "densenet121", "shufflenet_v2_x0_5", "squeezenet1_0")
MORE = [
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg16",
    "densenet169",
    "mobilenet_v2",
    "mnasnet0_5",
    "mnasnet1_0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_1_6gf",
]
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU)


def exact(net: nn.Module) -> nn.Module:
    """Small whole weights, norms that change nothing, activations that keep numbers small."""
    draw = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = torch.randint(-1, 2, p.shape, generator=draw).double()
    for module in list(net.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            module.weight.data.fill_(1)
            module.running_mean.zero_()
            module.running_var.fill_(1)
        for name, child in list(module.named_children()):
            if isinstance(child, ACTIVATIONS):
                setattr(module, name, Stay())
    return net.double().eval()


def same(net: nn.Module, size: tuple[int, int], tile: int) -> Any:
    x = torch.randint(-3, 4, (1, 3, *size), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        want = net(x)[0]
    assert float(want.abs().max()) < 2**53
    assert want.unique().numel() > 2
    out = cg.tiled(net, x[0].numpy(), tile=tile, statistics="passes")
    return np.array_equal(out.compute(scheduler="synchronous"), want.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FEW, *(pytest.param(n, marks=pytest.mark.ci) for n in MORE)])
def test_classifiers_equal_the_whole(name: str) -> None:
    net = exact(getattr(zoo.models(), name)(weights=None))
    found = plan(net, (1, 3, 70, 101))
    assert found.whole
    assert len(passes(found)) == (not name.startswith("vgg"))
    if name.startswith("vgg"):  # a pool to 7 x 7 hears the map in windows of its own: the trunk
        net = net.features
    assert same(net, (70, 101), 2)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", ["Unet", "Linknet", "UnetPlusPlus"])
@pytest.mark.parametrize("encoder", ["resnet18", "vgg11_bn", "mobilenet_v2"])
def test_segmentation_equals_the_whole(name: str, encoder: str) -> None:
    zoo.models()
    library = pytest.importorskip("segmentation_models_pytorch")
    try:
        net = exact(getattr(library, name)(encoder, encoder_weights=None, decoder_use_norm=True))
    except (KeyError, ValueError, TypeError) as error:
        pytest.skip(str(error))
    assert same(net, (64, 96), 40)
