"""Networks that two libraries have written, each in its own way: they are proven one function."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from tests import zoo

SIDE = 64

BLOCKS: dict[str, list[tuple[str, str]]] = {
    "vit": [
        (r"^class_token", "cls_token"), (r"^encoder\.pos_embedding", "pos_embed"),
        (r"^conv_proj", "patch_embed.proj"), (r"^encoder\.ln", "norm"), (r"^heads\.head", "head"),
        (r"^encoder\.layers\.encoder_layer_(\d)", r"blocks.\1"), (r"ln_(\d)", r"norm\1"),
        (r"self_attention\.in_proj_", "attn.qkv."), (r"self_attention\.out_proj", "attn.proj"),
        (r"mlp\.0", "mlp.fc1"), (r"mlp\.3", "mlp.fc2"),
    ],
    "convnext": [
        (r"^features\.0", "stem"), (r"^classifier\.0", "head.norm"), (r"^classifier\.2", "head.fc"),
        (r"^features\.([246])\.", lambda m: f"stages.{int(m[1]) // 2}.downsample."),
        (r"^features\.([1357])\.(\d)", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}"),
        (r"layer_scale", "gamma"), (r"block\.0", "conv_dw"), (r"block\.2", "norm"),
        (r"block\.3", "mlp.fc1"), (r"block\.5", "mlp.fc2"),
    ],
}  # fmt: skip
"""Torchvision's names, and what timm calls them."""


def named(name: str, changes: list[tuple[str, Any]]) -> str:
    for pattern, other in changes:
        name = re.sub(pattern, other, name)
    return name


def filled(net: nn.Module, of: dict[str, Tensor], changes: list[tuple[str, Any]]) -> nn.Module:
    """With these numbers under its own names, in its own shapes."""
    own = net.state_dict()
    net.load_state_dict({
        new: tensor.reshape(own[new].shape)
        for new, tensor in ((named(name, changes), t) for name, t in of.items())
    })  # fmt: skip
    return net.eval()


def resnet(timm: Any, models: Any) -> Any:
    return timm.create_model("resnet18"), models.resnet18(), []


def mobilenet(timm: Any, models: Any) -> Any:
    one, two = timm.create_model("mobilenetv2_100"), models.mobilenet_v2()
    pairs = zip(two.state_dict(), one.state_dict(), strict=True)  # in one order
    return one, two, [(f"^{re.escape(a)}$", b) for a, b in pairs]


def transformer(timm: Any, models: Any) -> Any:
    norm = partial(nn.LayerNorm, eps=1e-6)
    one = timm.models.vision_transformer.VisionTransformer(
        img_size=SIDE, patch_size=16, embed_dim=48, depth=3, num_heads=3, mlp_ratio=2,
        num_classes=10, norm_layer=norm,
    )  # fmt: skip
    two = models.VisionTransformer(SIDE, 16, 3, 3, 48, 96, num_classes=10)
    return one, two, BLOCKS["vit"]


def convnext(timm: Any, models: Any) -> Any:
    widths = 8, 12, 16, 20
    blocks = [models.convnext.CNBlockConfig(a, b, 2)
              for a, b in zip(widths, (*widths[1:], None), strict=True)]  # fmt: skip
    one = timm.models.ConvNeXt(depths=(2, 2, 2, 2), dims=widths, num_classes=5)
    return one, models.ConvNeXt(blocks, num_classes=5), BLOCKS["convnext"]


@pytest.mark.published
@pytest.mark.parametrize("pair", [resnet, mobilenet, transformer, convnext])
def test_timms_and_torchvisions_are_one_network(pair: Callable[[Any, Any], Any]) -> None:
    models = zoo.models()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    images = torch.randn(2, 3, SIDE, SIDE)
    one, two, changes = pair(timm, models)
    reference = cg.excite(two.eval(), images)
    candidate = filled(one, reference.state_dict(), changes)
    found = cg.prove(candidate, reference, images)
    assert found.verdict == "proven", found.reason
    parts = {part.name: part.status for part in found.parts}
    assert parts["gradients"] == parts["rounding"] == "proven", str(found)
    last = [t for t in candidate.parameters() if t.dim() > 1][-1]
    with torch.no_grad():
        last[0, 0] += 1e-6
    assert cg.prove(candidate, reference, images).verdict == "refuted"
