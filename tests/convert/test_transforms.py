"""torch.func over networks on masks: an ensemble, gradients of each sample, forward mode."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import convgraph as cg
from tests.convert import nets

SIZE = (12, 16)

# Operators that torch's vmap calls one by one.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


def called(net: Any, state: dict[str, Tensor], graph: cg.PixelGraph) -> Tensor:
    """All that a network gives, as one row of numbers; on a map where it is no converted one."""
    given = graph if isinstance(net, cg.convert.GraphNetwork) else graph.tensor()
    out = functional_call(net, state, (given,))
    parts = out if isinstance(out, (tuple, list)) else [out]
    rows = [one.x if isinstance(one, cg.PixelGraph) else one for one in parts]
    rows = [one.graph.x if isinstance(one, cg.convert.GraphTensor) else one for one in rows]
    return torch.cat([one.reshape(-1) for one in rows])


def near(mine: Tensor, true: Tensor) -> bool:
    """Equal up to the order of sums: 2^16 roundings of what is at most this large."""
    scale = float(true.detach().abs().max()) + 1e-30
    off = (mine - true).detach().abs().max()
    return bool(off <= 2**16 * torch.finfo(torch.float64).eps * scale)


def graph_of(net: Any, seed: int = 1) -> cg.PixelGraph:
    torch.manual_seed(seed)
    mask = torch.rand(2, *SIZE) > 0.4
    mask[:, :2, :2] = True
    channels = next(one.in_channels for one in net.modules() if hasattr(one, "in_channels"))
    return cg.PixelGraph.from_image(torch.randn(2, channels, *SIZE).double(), mask=mask)


def state_of(net: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parameters = {name: one.detach() for name, one in net.named_parameters()}
    return parameters, dict(net.named_buffers())


def made(name: str, seed: int, converted: bool) -> Any:
    torch.manual_seed(seed)
    net = nets.excite(nets.NETS[name]())
    for module in list(net.modules()):
        for key, child in module.named_children():
            if isinstance(child, nets.Snap):  # torch.func asks more of a Function than it has
                setattr(module, key, nn.Identity())
    return cg.to_graph(net) if converted else net


def same(mine: Any, true: Any) -> bool:
    return all(near(one, other) for one, other in zip(mine, true, strict=True))


def by_autograd(net: Any, parameters: Any, buffers: Any, graph: Any, head: Any) -> list[Tensor]:
    leaves = {name: one.clone().requires_grad_() for name, one in parameters.items()}
    (called(net, {**leaves, **buffers}, graph) * head).sum().backward()
    return [torch.zeros_like(one) if one.grad is None else one.grad for one in leaves.values()]


@pytest.mark.parametrize("converted", [True, False])
@pytest.mark.parametrize("name", nets.NETS)
def test_transforms_are_the_loop(name: str, converted: bool) -> None:
    members = [made(name, seed, converted) for seed in range(2)]
    net, graph = members[0], graph_of(members[0])
    parameters, buffers = state_of(net)
    out = called(net, {**parameters, **buffers}, graph)
    head = torch.randn_like(out)

    def loss(p: Any, rows: Tensor) -> Tensor:
        return (called(net, {**p, **buffers}, graph.with_x(rows)) * head).sum()

    # an ensemble: weights of each member, one graph
    stacked = stack_module_state(members)
    each = torch.stack([called(one, dict(one.state_dict()), graph) for one in members])
    assert near(vmap(lambda p, b: called(net, {**p, **b}, graph))(*stacked), each)
    # gradients, and those of each sample: rows of each, one mask
    want = by_autograd(net, parameters, buffers, graph, head)
    assert same(grad(loss)(parameters, graph.x).values(), want)
    samples = torch.stack([graph.x, torch.randn_like(graph.x)])
    found = vmap(grad(loss), (None, 0))(parameters, samples)
    loop = [by_autograd(net, parameters, buffers, graph.with_x(one), head) for one in samples]
    assert same(found.values(), map(torch.stack, zip(*loop, strict=True)))
    # forward mode: <gradient, tangent>, of parameters and of rows
    rows = torch.randn_like(graph.x)
    tangents = {name: torch.randn_like(one) for name, one in parameters.items()}
    value, moved = jvp(loss, (parameters, graph.x), (tangents, rows))
    assert near(value, (out * head).sum())
    by_rows = grad(loss, argnums=1)(parameters, graph.x)
    terms = [(one * tangents[key]).sum() for key, one in zip(parameters, want, strict=True)]
    total = torch.stack([*terms, (by_rows * rows).sum()])
    scale = total.abs().sum() + (value.abs())
    assert abs(moved - total.sum()) <= 2**16 * torch.finfo(torch.float64).eps * scale


class Own(nn.Module):
    """Operators that have a rule beside those of the networks: of tokens, lines and pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.proj = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        x = x * x.cumsum(3).sigmoid() + x.roll(1, 2)
        rows = x.flatten(2).transpose(1, 2)
        rows = torch.cat([self.token.expand(len(rows), -1, -1), rows], 1)
        b, n, c = rows.shape
        q, k, v = self.qkv(rows).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(q, k, v)
        rows = rows + heard.transpose(1, 2).reshape(b, n, c)
        return torch.cat([rows[:, 0], rows[:, 1:].mean(1), F.softmax(self.proj(rows), -1)[:, 0]], 1)


@pytest.mark.parametrize("converted", [True, False])
def test_tokens_under_transforms(converted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's fused attention has no forward mode on CPUs; where one transforms, sums are plain."""
    monkeypatch.setitem(nets.NETS, "own", Own)
    test_transforms_are_the_loop("own", converted)


def test_a_map_made_outside_of_what_is_transformed_is_refused() -> None:
    """It would reach the tensor past its protocol; made inside, it is right."""
    net = made("plain", 0, False)
    graph = graph_of(net)
    for transform in (
        lambda f, x: grad(lambda t: f(t).sum())(x),
        lambda f, x: jvp(f, (x,), (x,)),
        lambda f, x: vmap(f)(x),
    ):
        with pytest.raises(cg.errors.ConversionError, match="make it inside"):
            transform(net, graph.tensor())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: vmap(lambda t: t * 2 + t.square())(x),
        lambda x: vmap(lambda t: t * 2 + t.square(), 1, 1)(x),
        lambda x: vmap(lambda t: t * 2 + t.square())(x.movedim(1, -1).reshape(-1, 2)),
        lambda x: vmap(lambda n: (x * n).square().sum())(torch.ones(3).double()),
        lambda x: x.as_subclass(torch.Tensor) * x,
    ],
)
def test_a_map_past_the_protocol_keeps_its_gradient(call: Any) -> None:
    """Numbers were right, and no gradient arrived."""
    rows = torch.arange(24.0).double().requires_grad_()
    mask = torch.rand(2, 3, 4) > 0.3
    image = rows.view(1, 2, 3, 4).expand(2, -1, -1, -1)
    found = []
    for x in (cg.PixelGraph.from_image(image, mask=mask).tensor(), image * mask[:, None]):
        found.append(torch.autograd.grad(call(x).sum(), rows)[0])
    assert torch.equal(*found)
    assert found[0].any()


def test_a_dual_map_is_read_off_its_rows() -> None:
    """Of a map itself there is none; of its rows, or of what was reduced, there is."""
    layer = torch.nn.Conv2d(2, 3, 3).double()
    graph = graph_of(layer)
    forward = torch.autograd.forward_ad
    weight = layer.weight.detach()
    with forward.dual_level():
        dual = forward.make_dual(weight, torch.ones_like(weight))
        out = torch.nn.functional.conv2d(graph.tensor(), dual)
        with pytest.raises(cg.errors.ConversionError, match="return rows"):
            forward.unpack_dual(out)
        tangent = forward.unpack_dual(out.graph.x).tangent
    given = torch.ones_like(weight)
    assert near(tangent, torch.nn.functional.conv2d(graph.tensor(), given).graph.x)
