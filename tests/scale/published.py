"""Published networks on whole numbers, in front of their last pool, with gradients modulo a prime.

Forward, every activation keeps values below 8. Backward it keeps gradients below a prime P, so that
depth makes no sum too large to be exact: what is compared is congruent to the gradient, and sums of
congruent parts are congruent to the sum.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import zoo

P = 8191
"""A wrong gradient is congruent to the right one by chance once in so many entries."""

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU)

TORCHVISION = (
    "resnet18", "densenet121", "shufflenet_v2_x0_5", "squeezenet1_0", "resnet34", "resnet50",
    "resnext50_32x4d", "wide_resnet50_2", "alexnet", "vgg11", "vgg11_bn", "vgg13", "vgg16",
    "densenet169", "mobilenet_v2", "mnasnet0_5", "mnasnet1_0", "shufflenet_v2_x1_0",
    "squeezenet1_1", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf",
)  # fmt: skip
TIMM = (
    "resnet26", "resnet14t", "res2net50_14w_8s", "hrnet_w18_small", "dla34", "dla46_c",
    "darknet53", "cspresnet50", "repvgg_a0", "regnetx_002", "mobilenetv2_050",
    "tf_efficientnet_lite0", "efficientnet_lite0", "mobileone_s0", "spnasnet_100", "selecsls42",
    "vovnet39a", "dpn48b", "fbnetc_100", "xception41",
)  # fmt: skip
SEGMENTATION = tuple(
    f"{name} {encoder}"
    for name in ("Unet", "Linknet", "UnetPlusPlus")
    for encoder in ("resnet18", "vgg11_bn", "mobilenet_v2")
)
NAMES = (*TORCHVISION, *TIMM, *SEGMENTATION)
HEAVY = (
    "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg13", "vgg16", "darknet53", "xception41",
    "mobileone_s0",
)  # fmt: skip
"""By tiles only; the others run on ranks too."""

SIZES = {"alexnet": (69, 79), **dict.fromkeys(("hrnet_w18_small", "dla34", "dla46_c"), (32, 64))}
FEW = ("resnet18", "squeezenet1_0")
LIGHT = tuple(name for name in NAMES if name not in HEAVY)
ALIKE = ("wide_resnet50_2", "vgg13")
"""Of the same calls as resnet50, of more channels, and of some of vgg16's."""
BY_TILES = (
    (*(name for name in HEAVY if name not in ALIKE), *LIGHT[::3]) if os.environ.get("CI") else NAMES
)
"""CI asks a third of those that it also asks on ranks, and of those alike one."""


@torch.library.custom_op("tests::stay", mutates_args=(), tags=(torch.Tag.pointwise,))
def stay(x: Tensor) -> Tensor:
    """The positive part, modulo 8."""
    return torch.remainder(torch.relu(x), 8.0)


@stay.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


stay.register_autograd(
    lambda ctx, grad: torch.remainder(grad * ctx.saved_tensors[0], P),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0] > 0),
)


class Stay(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return stay(x)


class Front(nn.Module):
    """What a network computes in front of its last pool."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x)  # type: ignore[operator]


def front(net: nn.Module) -> nn.Module:
    """Return the part of a network of torchvision in front of its last pool."""
    for name in ("features", "layers"):
        if hasattr(net, name):
            return getattr(net, name)
    kept = [m for m in net.children() if not isinstance(m, (nn.AdaptiveAvgPool2d, nn.Linear))]
    return nn.Sequential(*kept)


@contextmanager
def undrawn() -> Iterator[None]:
    """Leave weights as memory is: whole numbers follow, and drawing others first takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"):
            patch.setattr(nn.init, name, lambda one, *_, **__: one)
        for name in ("normal_", "uniform_", "trunc_normal_"):
            patch.setattr(nn.init, name, lambda one, *_, **__: one)
        yield


def network(name: str) -> nn.Module:
    """Return a network of small whole weights in float64; skip where its library is not."""
    with undrawn():
        return _network(name)


def _network(name: str) -> nn.Module:
    models = zoo.models()
    if name in TORCHVISION:
        return exact(front(getattr(models, name)(weights=None)))
    if name in TIMM:
        return exact(Front(pytest.importorskip("timm").create_model(name)))
    library = pytest.importorskip("segmentation_models_pytorch")
    kind, encoder = name.split()
    return exact(
        getattr(library, kind)(
            encoder, encoder_depth=3, decoder_channels=(16, 8, 4), encoder_weights=None
        )
        if kind != "Linknet"
        else library.Linknet(encoder, encoder_depth=3, encoder_weights=None)
    )


def exact(net: nn.Module) -> nn.Module:
    """Small whole weights, norms that change nothing, activations that keep numbers small."""
    draw = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = torch.randint(-1, 2, p.shape, generator=draw).double()
    for module in list(net.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 2.0**-60  # lost beside a variance of 1; not every torch takes 0
            module.weight.data.fill_(1)
            module.running_mean.zero_()  # type: ignore[union-attr]
            module.running_var.fill_(1)  # type: ignore[union-attr]
        for name, child in list(module.named_children()):
            if isinstance(child, ACTIVATIONS):
                setattr(module, name, Stay())
            if isinstance(child, nn.AvgPool2d):  # a sum: what is divided is congruent no more
                child.divisor_override = 1
    return net.double().eval()


def image(name: str) -> Tensor:
    """Return an image of small whole numbers, of a size that strides of 32 do not divide."""
    size = (32, 40) if name in SEGMENTATION else SIZES.get(name, (33, 63))
    draw = torch.Generator().manual_seed(1)
    return torch.randint(-3, 4, (1, 3, *size), generator=draw).double()


def gradients(net: nn.Module, loss: Tensor, x: Tensor) -> list[Tensor]:
    """Return all gradients modulo P, the image's last."""
    parameters = list(net.parameters())
    found = torch.autograd.grad(loss, [*parameters, x], allow_unused=True)
    for one in found:
        assert one is None or float(one.abs().max()) < 2**53
    return [
        torch.zeros_like(given) if one is None else torch.remainder(one, P)
        for given, one in zip([*parameters, x], found, strict=True)
    ]


def whole(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor, list[Tensor]]:
    """Return a network, an image, its output, weights of a loss, and all gradients of the loss."""
    net, x = network(name), image(name).requires_grad_()
    y = net(x)
    assert float(y.detach().abs().max()) < 2**53
    head = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(2)).double()
    return net, x, y.detach(), head, gradients(net, (y * head).sum(), x)


def equal(some: Any, others: Any) -> bool:
    """Whether all are the same, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))
