"""Networks that two libraries have written, each in its own way: they are proven one function."""

import copy
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


WHOLE = [
    (r"^.*embeddings\.cls_token", "cls_token"), (r"^.*embeddings\.position_emb.*", "pos_embed"),
    (r"^.*embeddings\.distillation_token", "dist_token"),
    (r"^.*embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^(\w+\.)?layernorm", "norm"), (r"^(cls_)?classifier", "head"),
    (r"^distillation_classifier", "head_dist"), (r"^.*encoder\.layer\.(\d)", r"blocks.\1"),
    (r"layernorm_before", "norm1"), (r"layernorm_after", "norm2"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"), (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.attention\.(query|key|value)", "attn.qkv"),
    (r"intermediate\.dense", "mlp.fc1"), (r"output\.dense", "mlp.fc2"),
]  # fmt: skip
"""Names of transformers, and what timm calls that or has it in."""


class Returned(nn.Module):
    """What a network of transformers returns as a tensor."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net, self.name = net, name

    def forward(self, x: Tensor) -> Any:
        return self.net(x)[self.name]


def carried(net: nn.Module, of: dict[str, Tensor], changes: list[tuple[str, Any]]) -> None:
    """Fill it with the numbers of one that has queries, keys and values in one."""
    state = {}
    for name, own in net.state_dict().items():
        held = of.get(named(name, changes), own)
        if held.shape != own.shape:
            part = [place for place, word in enumerate(("query", "key", "value")) if word in name]
            held = held.chunk(3)[part[0]]
        state[name] = held
    net.load_state_dict(state)


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


def of_timm(timm: Any, kind: str = "VisionTransformer", **more: Any) -> nn.Module:
    found: nn.Module = getattr(timm.models.deit, kind)(
        img_size=SIDE, patch_size=16, embed_dim=48, depth=1, num_heads=3, mlp_ratio=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), **more,
    )  # fmt: skip
    return found


def of_transformers(kind: str, of: str, **more: Any) -> nn.Module:
    library = pytest.importorskip("transformers")
    settings = getattr(library, f"{of}Config")(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=3, image_size=SIDE, patch_size=16,
        layer_norm_eps=1e-6, **more,
    )  # fmt: skip
    found: nn.Module = getattr(library, kind)(settings)
    return found


def vit(timm: Any, models: Any) -> Any:
    two = of_transformers("ViTForImageClassification", "ViT", intermediate_size=96, num_labels=10)
    return of_timm(timm, num_classes=10), two, "logits"


def torchs_vit(timm: Any, models: Any) -> Any:
    _, two, name = vit(timm, models)
    return models.VisionTransformer(SIDE, 16, 1, 3, 48, 96, num_classes=10), two, name


def deit(timm: Any, models: Any) -> Any:
    kind = "DeiTForImageClassificationWithTeacher"
    two = of_transformers(kind, "DeiT", intermediate_size=96, num_labels=10)
    return of_timm(timm, "VisionTransformerDistilled", num_classes=10), two, "logits"


def dinov2(timm: Any, models: Any) -> Any:
    one = of_timm(timm, num_classes=0, global_pool="token", init_values=1e-5)
    return one, of_transformers("Dinov2Model", "Dinov2", mlp_ratio=2), "pooler_output"


def crossed(net: nn.Module) -> None:
    """Queries where keys belong, and keys where queries do."""
    found = {name.rpartition(".")[2]: module for name, module in net.named_modules()}
    one, two = found["query"].state_dict(), found["key"].state_dict()
    one, two = ({n: t.clone() for n, t in state.items()} for state in (one, two))
    found["query"].load_state_dict(two)
    found["key"].load_state_dict(one)


def heads(net: nn.Module) -> None:
    """The heads of the queries in another order."""
    with torch.no_grad():
        for name, own in net.named_parameters():
            if ".query." in name:
                own.copy_(own.unflatten(0, (3, -1)).flip(0).flatten(0, 1).clone())


def moved(net: nn.Module) -> None:
    with torch.no_grad():
        next(p for n, p in net.named_parameters() if "key.weight" in n)[5, 7] += 1e-6


@pytest.mark.published
@pytest.mark.parametrize("pair", [vit, torchs_vit, deit, dinov2])
def test_queries_keys_and_values_in_one_or_in_three_are_one_network(pair: Any) -> None:
    """The library transformers has three linear maps where timm and torchvision have one."""
    models = zoo.models()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    images = torch.randn(2, 3, SIDE, SIDE)
    one, two, name = pair(timm, models)
    one, two = cg.excite(one.eval(), images), two.eval()
    changes = BLOCKS["vit"] if pair is torchs_vit else []
    state = {named(n, changes): t for n, t in one.state_dict().items()}
    carried(two, state, WHOLE)
    for found in (cg.prove(Returned(two, name), one, images),
                  cg.prove(one, Returned(two, name), images)):  # fmt: skip
        assert found.verdict == "proven", found.reason
        parts = {part.name: part.status for part in found.parts}
        assert parts["gradients"] == parts["rounding"] == "proven", str(found)
        assert "cut or joined: " in found.parts[0].facts
    for change in (crossed, heads, moved):
        carried(two, state, WHOLE)
        change(two)
        found = cg.prove(Returned(two, name), one, images)
        assert found.verdict == "refuted", (change.__name__, found.reason)


@pytest.mark.published
def test_a_network_as_it_starts_is_cut_too() -> None:
    """Biases are 0 there, and are cut as their weights are."""
    zoo.models()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    one, two, name = vit(timm, None)
    carried(two, one.state_dict(), WHOLE)
    found = cg.prove(Returned(two, name).eval(), one.eval(), torch.randn(2, 3, SIDE, SIDE))
    assert found.verdict == "proven", found.reason


class Each(nn.Module):
    """A convolution for each group."""

    def __init__(self, of: nn.Conv2d) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(w.shape[1], w.shape[0], 3, padding=1, bias=False)
            for w in of.weight.chunk(of.groups)
        )
        for conv, w in zip(self.convs, of.weight.chunk(of.groups), strict=True):
            conv.load_state_dict({"weight": w.detach()})

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.convs, x.chunk(len(self.convs), 1), strict=True)
        return torch.cat([conv(part) for conv, part in pairs], 1)


@pytest.mark.published
def test_the_groups_of_resnext_may_be_convolutions_of_their_own() -> None:
    block = zoo.models().resnet.Bottleneck
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 4)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), block(16, 4, groups=32, base_width=32))
    reference = cg.excite(net.eval(), images)
    candidate: Any = copy.deepcopy(reference)
    candidate[1].conv2 = each = Each(candidate[1].conv2)
    for one, two in [(candidate, reference), (reference, candidate)]:
        found = cg.prove(one, two, images)
        assert found.verdict == "proven", found.reason
    each.convs[3], each.convs[4] = each.convs[4], each.convs[3]
    assert cg.prove(candidate, reference, images).verdict == "refuted"
