"""Rules by which nodes meet in published networks: products, cut lattices, digits, token mixers.

Each is a small network of one idea. On a grid it gives the dense bits; on a mask, the answer and
the gradients of the dense interpreter of the zoo, rounded to 20 bits as it says.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.convert.tensor import GraphTensor
from convgraph.convert.value import Spatial
from tests.convert.planting import plant
from tests.convert.zoo.judge import mask_of, matters, rounded, same
from tests.convert.zoo.snap import snap
from tests.convert.zoo.truth import Truth

SIZE = 16


class Merging(nn.Module):
    """Four neighbours become channels of one patch, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.last = nn.Linear(16, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.last(self.norm(x)).permute(0, 3, 1, 2)


class Depths(nn.Module):
    """Space to depth and back by views alone, a convolution behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(32, 8, 3, padding=1)
        self.last = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 3, 5, 1, 2, 4)
        x = self.first(x.reshape(b, c * 16, h // 4, w // 4))
        x = x.view(b, 2, 2, 2, h // 4, w // 4).permute(0, 1, 4, 2, 5, 3)
        return self.last(x.reshape(b, 2, h // 2, w // 2))


class Attentive(nn.Module):
    """Queries, keys and values of patches of 2 x 2 pixels, two heads of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 2, 2)
        self.qkv = nn.Linear(6, 18)

    def three(self, x: Tensor) -> Any:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.qkv(tokens).reshape(-1, tokens.shape[1], 3, 2, 3).permute(2, 0, 3, 1, 4)


class OverChannels(Attentive):
    """Attention among channels: what a product sums over are the nodes."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x).transpose(-2, -1)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return (weights.softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2)


class Talking(Attentive):
    """Heads hear each other before and after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(2, 2, 1, bias=False)
        self.after = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        weights = self.before(q @ k.transpose(-2, -1)).softmax(-1)
        weights = self.after(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return (weights @ v).transpose(1, 2).flatten(2)


class Shared(Attentive):
    """All heads hear the keys and values of the first."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1]).transpose(1, 2).flatten(2)


class Cosine(Attentive):
    """Queries and keys of length one, as Swin's second version."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Columns(Attentive):
    """Tokens as columns: values stand before their weights."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x).transpose(-2, -1)
        weights = (q.transpose(-2, -1) @ k).softmax(-1)
        return (v @ weights.transpose(-2, -1)).permute(0, 3, 1, 2).flatten(2)


class Einsums(Attentive):
    """Attention in the words of einsum, in windows of 4 x 4 patches."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            one.reshape(-1, 2, 2, 4, 2, 4, 3).permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, 4, 2, 16, 3)
            for one in self.three(x)
        )
        score = torch.einsum("bwhid,bwhjd->bwhij", q, k)
        return torch.einsum("bwhij,bwhjd->bwhid", score.softmax(-1), v)


class Context(nn.Module):
    """One readout that all pixels are weighed into, and that speaks to all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.weigh = nn.Conv2d(4, 1, 1, bias=False)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = self.weigh(x).flatten(2).softmax(2).unsqueeze(3)
        found = torch.matmul(x.flatten(2).unsqueeze(1), weights)
        return x * self.last(found.view(-1, 4, 1, 1))


class Mixer(nn.Module):
    """A linear layer over tokens, as MLP-Mixer's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 4, 4)
        self.first = nn.Linear(16, 5)
        self.second = nn.Linear(5, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2)
        return (x + self.second(F.gelu(self.first(x)))).transpose(1, 2)


class Patches(nn.Module):
    """A softmax over patches, for each place within a patch: a part of each lattice axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c, 4, -1)
        weights = x[:, :1].softmax(-1)
        return x * (x * weights).sum(-1, keepdim=True)


class Enclosed(Attentive):
    """Linear attention that is kept out of autocast, as EfficientViT's."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        with torch.autocast("cpu", enabled=False):
            found = F.relu(q) @ (F.relu(k).transpose(-2, -1) @ v)
            total = found / (found.sum(-1, keepdim=True) + 9)
        return total.transpose(1, 2).flatten(2)


class Deviations(nn.Module):
    """Divided by the deviation of a group of channels and all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        groups = x.unflatten(1, (2, 2))
        wide = groups.var((2, 3, 4), unbiased=False, keepdim=True).add(0.5).sqrt()
        return x / wide.expand_as(groups).reshape(x.shape)


class Thin(nn.Module):
    """A readout of one channel meets maps of many; zeros of its own; channel dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.gate = nn.Linear(4, 1)
        self.drop = nn.Dropout2d(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.stem(x)).flatten(2).transpose(1, 2)
        return x * self.gate(x) + x.new_zeros(1, 4)


class Beside(Attentive):
    """A class token beside the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.head = nn.Linear(6, 5)

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.three(x)[0].transpose(1, 2).flatten(2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return x, x.reshape(*x.shape[:2], 2, 3).transpose(1, 2)


class ByHand(Beside):
    """Every product of attention written out, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, 2, 65, 65))

    def forward(self, x: Tensor) -> Tensor:
        x, q = self.tokens(x)
        heard = (q @ q.transpose(-2, -1) * 0.5 + self.bias).softmax(-1) @ q
        x = x + heard.transpose(1, 2).flatten(2)
        return self.head(x[:, 0] + x[:, 1:].mean(1))


class ByLetters(Beside):
    """The same products as einsums."""

    def forward(self, x: Tensor) -> Tensor:
        x, q = self.tokens(x)
        weights = torch.einsum("bhxd,bhyd->bhxy", q, q).softmax(-1)
        heard = torch.einsum("bhxy,bhyd->bhxd", weights, q)
        return self.head((x + heard.transpose(1, 2).flatten(2))[:, 1:])


class OneGroup(nn.Module):
    """A norm over channels, the pixels of a patch and all patches, as MobileViT-V2's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        parts = torch.stack([x.flatten(2), x.flatten(2) * 2], 2)
        return self.norm(parts)[:, :, 0] + x.flatten(2)


class ClassAsks(Beside):
    """The class token alone asks, as in CrossViT and CaiT."""

    def forward(self, x: Tensor) -> Tensor:
        x, k = self.tokens(x)
        q = self.head(x[:, :1])[:, None, :, :3].expand(-1, 2, -1, -1)
        return ((q @ k.transpose(-2, -1)).softmax(dim=-1) @ k).flatten(1)


class OverTokens(Beside):
    """A softmax over all tokens, and channels that meet over them, as in CoaT and XCiT."""

    def forward(self, x: Tensor) -> Tensor:
        x, k = self.tokens(x)
        mixed = k.softmax(2).transpose(-2, -1) @ k
        return self.head((k @ mixed).transpose(1, 2).flatten(2)[:, 1:])


class Causal(Attentive):
    """Each patch hears itself and those before it, whoever of them is there."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class CausalBeside(Beside):
    """The same behind a class token."""

    def forward(self, x: Tensor) -> Tensor:
        _, k = self.tokens(x)
        out = F.scaled_dot_product_attention(k, k, k, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(out[:, 1:])


class ByImage(nn.Module):
    """Each image is convolved by a kernel of its own, which it chooses itself, as in CondConv."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.choice = nn.Linear(4, 3)
        self.experts = nn.Parameter(torch.randn(3, 6 * 4 * 9))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        kernels = self.choice(x.mean((2, 3))).sigmoid() @ self.experts
        out = F.conv2d(
            x.reshape(1, b * c, h, w), kernels.view(b * 6, c, 3, 3), stride=2, padding=1, groups=b
        )
        return out.view(b, 6, *out.shape[2:]).relu()


def deaf(count: int) -> Tensor:
    """Every seventh of so many tokens is heard by nobody."""
    return torch.zeros(3, count).index_fill(1, torch.arange(3, count, 7), -torch.inf)


class Encoder(Beside):
    """torch's own encoder layers, a class token among the patches."""

    def __init__(self) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(6, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True)
        self.inner = nn.TransformerEncoder(one, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.tokens(x)[0]))[:, 0]


class Decoder(Beside):
    """Two queries hear a class token and patches, and these hear what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(6, 2, batch_first=True)
        self.back = nn.TransformerDecoderLayer(6, 2, 8, 0.0, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, 2, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)[0]
        asked, _ = self.first(self.queries.expand(len(x), -1, -1), x, x)
        return self.head(self.back(x, asked)[:, 1:]).transpose(1, 2)


class Weighted(Beside):
    """Attention whose weights are used, sequence first; some are never heard, others less."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, add_bias_kv=True, add_zero_attn=True)
        self.less = nn.Parameter(torch.randn(6, 65, 65))
        self.register_buffer("deaf", deaf(65))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)[0].transpose(0, 1)
        y, weights = self.inner(x, x, x, self.deaf, attn_mask=self.less)
        first = weights[:, 0, :65]
        heard = first[:, :, None] * y.transpose(0, 1)
        return self.head(heard[:, 0] + heard[:, 1:].mean(1))


class WeightedAlone(Attentive):
    """The same among patches alone, each head for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=True)
        self.less = nn.Parameter(torch.randn(64, 64))
        self.register_buffer("deaf", deaf(64))

    def forward(self, x: Tensor) -> Tensor:
        x = self.three(x)[0].transpose(1, 2).flatten(2)
        y, weights = self.inner(x, x, x, self.deaf, attn_mask=self.less, average_attn_weights=False)
        return y * weights.amax(3).amax(1)[:, :, None]


class Cells(Attentive):
    """Windows of 4 x 4 patches in which the largest of every 2 x 2 asks all, as Hiera's units."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        units = x.view(b, h // 4, 2, 2, w // 4, 2, 2, c).permute(0, 3, 6, 2, 5, 1, 4, 7)
        qkv = self.qkv(units.reshape(b, 16, h * w // 16, c))
        q, k, v = qkv.view(b, 16, h * w // 16, 3, 2, 3).permute(3, 0, 4, 2, 1, 5)
        q = q.reshape(b, 2, h * w // 16, 4, 4, 3).amax(3)
        out = F.scaled_dot_product_attention(q, k, v).permute(0, 3, 2, 1, 4)
        cells = units.reshape(b, 4, 4, h * w // 16, c).mean(1)
        return out.flatten(3) + cells.sum(-1, keepdim=True)


class ByTable(Attentive):
    """Heads pooled in the batch; scores plus what who asks has in a table, in place: MViTv2's."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Conv2d(3, 3, 3, 2, 1, groups=3)
        self.rows, self.columns = (nn.Parameter(torch.randn(4, 4, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        b, heads, n, c = q.shape
        side = int(n**0.5)
        q, k, v = (
            self.pool(one.reshape(b * heads, side, side, c).permute(0, 3, 1, 2))
            .reshape(b, heads, c, n // 4).transpose(2, 3)
            for one in (q, k, v)
        )  # fmt: skip
        scores = q @ k.transpose(-2, -1)
        each = q.reshape(b, heads, side // 2, side // 2, c)
        rows = torch.einsum("bhyxc,ykc->bhyxk", each, self.rows)
        columns = torch.einsum("bhyxc,xkc->bhyxk", each, self.columns)
        shape = (b, -1, *(side // 2,) * 4)
        scores[:, :, 0:, 0:] = (
            scores[:, :, 0:, 0:].view(shape) + rows.unsqueeze(-1) + columns.unsqueeze(-2)
        ).view(b, -1, n // 4, n // 4)
        out = scores.softmax(-1) @ v
        return out.transpose(1, 2).reshape(b, n // 4, heads * c)


class Positional(Attentive):
    """Two kinds of weights, mixed by a gate and divided in place by who is heard, as ConViT's."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.randn(2, 64, 64))
        self.gate = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        gate = self.gate.sigmoid().view(1, -1, 1, 1)
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        weights = (1 - gate) * weights + gate * self.near.softmax(-1)
        weights /= weights.sum(-1, keepdim=True)
        top = weights.amax(-1).mean(1)
        out = (weights - weights.mean(-1, keepdim=True)) @ v
        return out.transpose(1, 2).flatten(2) * top.unsqueeze(-1)


class Inside(nn.Module):
    """Every patch is an image of its own, convolved, pooled and normalized, as in TNT."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.last = nn.Conv2d(16, 3, 3, padding=1)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        patches = F.unfold(x, 4, stride=4).transpose(1, 2).reshape(-1, c, 4, 4)
        y = F.avg_pool2d(self.norm(self.inner(patches)).relu(), 2)
        y = y.reshape(b, h // 4 * w // 4, 16).transpose(1, 2)
        return self.last(y.reshape(b, 16, h // 4, w // 4))


NETS = (
    Encoder, Decoder, Weighted, WeightedAlone,
    Cells, ByTable, Positional, Inside, ByLetters, OneGroup, ByImage, Causal, CausalBeside, ByHand,
    ClassAsks, OverTokens, Merging, Depths, OverChannels, Talking, Shared, Cosine, Columns, Einsums,
    Context, Mixer, Patches, Enclosed, Deviations, Thin,
)  # fmt: skip


def ready(kind: Any) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    model = kind().double().eval().to(memory_format=torch.channels_last)
    x = torch.randn(3, 2, SIZE, SIZE).double().to(memory_format=torch.channels_last)
    return model, x, mask_of(3, SIZE)


def agree(kind: Any) -> bool:
    """Whether a masked run says what the interpreter says."""
    model, x, root = ready(kind)
    with torch.no_grad():
        net = cg.to_graph(model, x, strict=True)
        exported = torch.export.export(model, (x,), strict=False)
        got, want = rounded(net, exported, x, root)
        assert matters(exported, x, want)
    return same(got, want)


@pytest.mark.parametrize("kind", NETS)
def test_the_dense_bits_on_a_grid(kind: Any) -> None:
    model, x, _ = ready(kind)
    net = cg.to_graph(model, x, strict=True)
    assert torch.equal(net(x), model(x))


@pytest.mark.parametrize("kind", NETS)
def test_the_refilled_network_on_a_mask(kind: Any) -> None:
    assert agree(kind)


@pytest.mark.parametrize("kind", NETS)
def test_its_gradients_on_a_mask(kind: Any) -> None:
    model, x, root = ready(kind)
    net = cg.to_graph(model)
    exported = torch.export.export(model, (x,), strict=False)
    (want,) = Truth(exported, root, grain=False)(one := x.clone().requires_grad_())
    graph = cg.PixelGraph.from_image(two := x.clone().requires_grad_(), mask=root)
    got = net(graph.tensor())
    got = got.to_dense() if isinstance(got, GraphTensor) else got
    send = torch.randn_like(want)
    mine = torch.autograd.grad((got * send).sum(), [two, *net.parameters()])
    state = [exported.state_dict[key] for key, _ in net.named_parameters()]
    true = torch.autograd.grad((want * send).sum(), [one, *state])
    for a, b in zip(mine, true, strict=True):
        assert b.abs().max() > 0
        assert torch.equal(snap(a, None), snap(b, None))


@pytest.mark.parametrize("kind", [ByHand, ClassAsks, OverTokens, ByLetters])
def test_tokens_are_counted(kind: Any) -> None:
    """The rows of a summary name the products of attention, and their operations."""
    model, x, _ = ready(kind)
    rows = cg.summary(cg.to_graph(model), cg.PixelGraph.from_image(x)).rows
    products = [row for row in rows if row.layer.endswith(("matmul", "bmm"))]
    assert len(products) == 2
    assert all(row.flops >= 2 * 3 * 2 * 3 * 65 for row in products)


def test_attention_of_torch_is_counted() -> None:
    """Of three images, two heads of width 3, over a class token and 64 patches, in two layers."""
    model, x, _ = ready(Encoder)
    rows = cg.summary(cg.to_graph(model), cg.PixelGraph.from_image(x)).rows
    found = [row.flops for row in rows if row.layer.endswith("scaled_dot_product_attention")]
    assert found == [2 * 2 * 3 * 2 * 65 * 65 * 3] * 2


def test_a_dropped_channel_is_dropped_at_every_node_of_its_image() -> None:
    model, x, root = ready(Thin)
    model.gate, model.stem.bias = nn.Linear(4, 1).double(), None
    net = cg.to_graph(model.train())
    torch.manual_seed(1)
    out = net(cg.PixelGraph.from_image(x, mask=root))
    x, batch = out.value.x, out.sites.batch
    for rows in (x[batch == number] for number in range(3)):
        gone = (rows == 0).all(0)
        assert torch.equal((rows == 0).any(0), gone)
    silent = [bool((x[batch == n] == 0).all(0).any()) for n in range(3)]
    assert any(silent)


# Faults that the comparison has to see


def _ones_in_holes(old: Any) -> Any:
    """A product in which an absent node says 1."""

    def fault(call: Any, x: Any, other: Any) -> Any:
        if not isinstance(x, Spatial) or not isinstance(other, Spatial):
            return old(call, x, other)
        if x.axes[-1] == () or any(n.kind == "plain" for n in x.axes[-1]):
            return old(call, x, other)
        return x.tensor(1.0) @ other.tensor(1.0)

    return fault


def _zeros_in_softmax(old: Any) -> Any:
    """A softmax over sites to which an absent one says exp(0)."""

    def fault(call: Any, x: Any, dim: int, *rest: Any) -> Any:
        out = old(call, x, dim, *rest)
        return out.with_x(out.x * 0.9)

    return fault


def _biased(old: Any) -> Any:
    """A linear layer over tokens that hears holes."""

    def fault(call: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        if not isinstance(x, Spatial) or x.axes[-1][0].kind == "plain":
            return old(call, x, weight, bias)
        return call.target(x.tensor(0.5), weight, bias)

    return fault


def _one_for_all(old: Any) -> Any:
    """Attention by hand in which everybody's bias is that of the first."""
    return lambda call, bias, x, other, **more: old(call, bias[:, :1], x, other, **more)


@pytest.mark.parametrize(
    ("kind", "operator", "fault"),
    [
        (WeightedAlone, "baddbmm", _one_for_all),
        (OverChannels, "matmul", _ones_in_holes),
        (Context, "softmax", _zeros_in_softmax),
        (Patches, "softmax", _zeros_in_softmax),
        (Mixer, "linear", _biased),
    ],
)
def test_a_planted_fault_is_seen(
    kind: Any, operator: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, operator, fault)
    assert not agree(kind)


def test_shuffled_pixels_are_refused() -> None:
    """Tokens read as an image in another order are no lattice."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(2, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.stem(x).flatten(2).transpose(1, 2)
            return F.conv2d(tokens.reshape(-1, 4, SIZE, SIZE), x.new_ones(1, 4, 1, 1))

    model, x, root = ready(Shuffled)
    net = cg.to_graph(model, x)
    assert torch.equal(net(x), model(x))
    with pytest.raises(cg.errors.ConversionError, match="no meaning on a mask"):
        net(cg.PixelGraph.from_image(x, mask=root))
