"""The tensor whose pixels are nodes: any torch code on it, gradients, hooks, views, Functions."""

import copy
import importlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import convgraph as cg
from convgraph.convert import keys
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ConversionError, GraphError
from tests.cases import integers
from tests.convert.nets import build, image
from tests.convert.zoo.snap import snap
from tests.reversed_gradient import Reversed

SIZE = (8, 10)


def holes(batch: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    torch.manual_seed(3)
    return torch.rand(batch, *size) > 0.4


def graph(channels: int = 2, batch: int = 2) -> cg.PixelGraph:
    return cg.PixelGraph.from_image(image(batch, channels, *SIZE), mask=holes(batch))


def conv(inside: int = 2, outside: int = 4, **how: Any) -> nn.Conv2d:
    made = nn.Conv2d(inside, outside, 3, padding=1, **how).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(image(1, 1, *parameter.shape).reshape(parameter.shape))
    return made


def test_this_torch_has_the_names_that_are_needed() -> None:
    assert keys.missing() == []

    class Old:
        pass

    assert keys.missing(Old) == list(keys.NAMES)


def test_it_is_a_tensor_and_a_graph() -> None:
    g = graph()
    x = g.tensor()
    assert isinstance(x, Tensor)
    assert x.shape == (2, 2, *SIZE)
    assert (x.dtype, x.device, x.dim(), len(x)) == (g.dtype, g.device, 4, 2)
    assert x.graph.x.data_ptr() == g.x.data_ptr(), "nothing is copied"
    assert x.graph.sites is g.sites
    assert torch.equal(x.to_dense(), g.to_image())
    assert "GraphTensor((2, 2, 8, 10)" in repr(x)
    for other in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert torch.equal(other.to_dense(), x.to_dense())
    with pytest.raises(GraphError, match="are no image's"):
        _ = x.flatten(2).transpose(1, 2).graph
    with pytest.raises(ConversionError, match="to_dense"):
        x.numpy()
    with pytest.raises(ConversionError, match="no array; take to_dense"):
        x.as_subclass(nn.Parameter)  # as other libraries make tensors their own


@pytest.mark.parametrize("name", ["plain", "residual", "gate", "unet", "next block", "attention"])
def test_a_network_untouched_is_its_converted_self(name: str) -> None:
    model, g = build(name), cg.PixelGraph.from_image(image(2, 2, 33, 41), mask=holes(2, (33, 41)))
    net = cg.to_graph(model)
    one, two = model(g.tensor()), net(g)
    one = one.graph.x if isinstance(one, GraphTensor) else one
    two = two.x if isinstance(two, cg.PixelGraph) else two
    assert torch.equal(one, two)
    one.sum().backward()
    two.sum().backward()
    for mine, other in zip(model.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_gradients_live_on_the_rows() -> None:
    layer, g = conv(), graph()
    dense = torch.where(holes()[:, None], g.to_image(), 0.0).requires_grad_()
    x = g.tensor().requires_grad_()
    y = layer(x)
    y.retain_grad()
    want = torch.where(holes()[:, None], layer(dense), 0.0)
    (mine,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    (true,) = torch.autograd.grad(want.square().sum(), dense, retain_graph=True)
    assert torch.equal(mine.to_dense(), torch.where(holes()[:, None], true, 0.0))
    y.square().sum().backward()
    assert torch.equal(x.grad.to_dense(), mine.to_dense())
    assert torch.equal(y.grad.to_dense(), 4 * y.to_dense()), "asked twice"
    sent = torch.ones_like(want)
    (again,) = torch.autograd.grad(layer(x), x, sent)
    assert again.shape == x.shape
    with torch.no_grad():
        assert not layer(x).requires_grad
    assert not x.detach().requires_grad


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.width = width
        return x.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        assert ctx.needs_input_grad == (True, False)
        return grad * (x.abs() < ctx.width), None


class ByAnOlderName(Sign):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        with warnings.catch_warnings(action="ignore"):
            (x,) = ctx.saved_variables  # as networks of some age ask
        return grad * (x.abs() < ctx.width), None


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


BOUND_BEFORE = Reversed.apply

FUNCTIONS = {
    "gradient reversal": BOUND_BEFORE,
    "straight through": lambda x: Sign.apply(x, 1.5),
    "an older name": lambda x: ByAnOlderName.apply(x, 1.5),
    "setup_context": Rounded.apply,
    "by detach": lambda x: x + (x.sign() - x).detach(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_keeps_its_own_backward(name: str) -> None:
    call, layer, g = FUNCTIONS[name], conv(), graph()
    there = holes()[:, None]
    (mine,) = torch.autograd.grad((call(layer(g.tensor())) ** 2).sum(), layer.weight)
    want = torch.where(there, call(layer(g.to_image())) ** 2, 0.0)
    (true,) = torch.autograd.grad(want.sum(), layer.weight)
    assert torch.equal(mine, true)
    assert true.abs().max() > 0


def test_hooks_fire_on_maps() -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv(4, 3)).double()
    seen: list[Any] = []
    model[1].register_forward_hook(lambda m, i, o: seen.append(type(o)))
    model[1].register_full_backward_hook(lambda m, i, o: seen.append(tuple(o[0].shape)))
    y = model(graph().tensor())
    y.register_hook(lambda grad: seen.append(type(grad)))
    leaf = graph().tensor().requires_grad_()
    leaf.register_post_accumulate_grad_hook(lambda x: seen.append(tuple(x.grad.shape)))
    (y.sum() + leaf.sum()).backward()
    assert sorted(map(str, seen)) == sorted(
        map(str, [GraphTensor, GraphTensor, (2, 4, *SIZE), (2, 2, *SIZE)])
    )
    model[1].register_forward_hook(lambda m, i, o: o * 0)
    assert model(graph().tensor()).graph.x.unique().numel() <= 3  # the bias of each channel


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant: bool) -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv(4, 3)).double()
    grads, g = [], graph()
    for call in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        model.zero_grad()
        call(g.tensor().requires_grad_()).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *grads))


def _skip_inner(x: Tensor) -> None:
    x[:, :, 1:-1, 1:-1] += 1


def _one_channel(x: Tensor) -> None:
    x[:, 0] = 0


def _narrowed(x: Tensor) -> None:
    x.narrow(2, 1, 3).mul_(3)


def _every_second(x: Tensor) -> None:
    x[..., ::2, ::2] = x[..., ::2, ::2] * 2


def _of_a_view(x: Tensor) -> None:
    x[:, 1:].flip(2)
    x.permute(0, 2, 3, 1)[:, 2:5].mul_(2)
    x[:, 1:].relu_()


def _one_image(x: Tensor) -> None:
    x[1] *= 3


def _of_an_image(x: Tensor) -> None:
    x[0, 1] = 3
    x[1, :, 3:5, 2:] = 4


def _replaced(x: Tensor) -> None:
    x.set_(x * 2)


def _an_image_by_another(x: Tensor) -> None:
    x[0] = x[1]


def _without_rules_of_their_own(x: Tensor) -> None:
    x.cumsum_(1)
    x[:, :, 2:6].cumsum_(1)
    x.tril_(2)
    x[:, 1:].triu_(-1)


def _of_rows_among_channels(x: Tensor) -> None:
    x.flatten(1, 2)[:, ::2].sub_(3).neg_()
    x.view(2, 16, 10)[:, 1::2].mul_(2)


def _of_a_copy(x: Tensor) -> None:
    """What torch copies is nobody's view, though rows lie as they did."""
    x.permute(0, 2, 3, 1).reshape(2, 80, 2).zero_()
    x.permute(0, 2, 3, 1)[:, :, :, :1].reshape(2, 80).mul_(2)  # and this is a view
    x.transpose(2, 3).flatten(2).zero_()
    x.permute(0, 2, 3, 1).contiguous().zero_()
    x.view(2, 2, 4, 2, 5, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 2, 2, 2).zero_()
    x.to(torch.float64, copy=True).zero_()
    F.pad(x, (0, 0, 0, 0)).zero_()
    x.repeat(1, 1, 1, 1).zero_()
    x.tile((1,)).zero_()
    torch.rot90(x, 4, (2, 3)).zero_()
    F.adaptive_avg_pool2d(x, SIZE).zero_()


def test_data_on_other_nodes_are_refused() -> None:
    """What only they have would be lost, where copy_() lives on the union."""
    x = graph().tensor()
    before = x.to_dense()
    with pytest.raises(ConversionError, match="data on other nodes"):
        x.data = x.roll(1, 3)
    x.data = x * 2
    assert torch.equal(x.to_dense(), 2 * before)


def _of_the_same(x: Tensor) -> None:
    x.detach()[:, :, 1:3].mul_(2)
    x.data[:, 1].mul_(3)
    x.to(torch.float64)[:, :, 2:5].add_(1)
    F.dropout(x, 0.5, False)[:, :, 3:5].mul_(2)
    x.contiguous()[..., 2:4].mul_(5)


def _by_numbers(x: Tensor) -> None:
    x[:, [-1, 0]] *= 2
    x[torch.tensor([1])] = x.new_tensor(4)
    x.index_fill_(1, torch.tensor([1]), 3)
    x.index_fill_(0, torch.tensor([-1]), 2)
    x.index_add_(1, torch.tensor([0]), x[:, 1:2] * 1, alpha=2)
    x.index_copy_(1, torch.tensor([1]), x[:, :1] * 5)
    x.scatter_(1, (x[:, :1] > 9).long(), 7)
    x.scatter_add_(1, (x[:, :1] > 9).long(), x[:, :1] * 3)


WRITES = (
    _skip_inner, _one_channel, _narrowed, _every_second, _of_a_view, _one_image, _of_an_image,
    _by_numbers, _replaced, _an_image_by_another, _of_a_copy, _of_the_same,
    _without_rules_of_their_own, _of_rows_among_channels,
)  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_into_a_view_reaches_its_base(write: Any, full: bool) -> None:
    there = torch.ones_like(holes()) if full else holes()
    found = []
    leaf, sent = image(2, 2, *SIZE), image(1, 2, *SIZE)
    leaf.requires_grad_(write is not _replaced)  # which torch does not derive
    for on_nodes in (True, False):
        g = cg.PixelGraph.from_image(leaf, mask=there)
        x = g.tensor() * 1 if on_nodes else g.to_image().contiguous() * 1
        write(x)
        out = torch.where(there[:, None], x.to_dense(), 0.0) if on_nodes else x * there[:, None]
        (grad,) = torch.autograd.grad((out * sent).sum(), leaf) if out.requires_grad else (None,)
        found.append((out, grad))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] is found[1][1] is None or torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1:],
        lambda x: x[:, :, 2:5],
        lambda x: x[1:],
        lambda x: x[:, :, 1:6].permute(0, 2, 3, 1),
        lambda x: x.detach()[..., 3:],
        lambda x: x.permute(0, 2, 3, 1).contiguous(),
        lambda x: x.permute(0, 2, 3, 1).reshape(2, 160),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: torch.cat([x.new_ones(2, 1, 2), x.flatten(2).transpose(1, 2)], 1)[:, 1:],
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_a_view_hears_what_is_written_into_its_base(view: Any, full: bool) -> None:
    """Of others too, and a copy does not."""
    there = torch.ones_like(holes()) if full else holes()
    g = cg.PixelGraph.from_image(image(2, 2, *SIZE), mask=there)
    mine, true = g.tensor() * 1, g.to_image().contiguous() * 1
    seen, shown = view(mine), view(true)
    for x in (mine, true):
        x[:, :, 3:7].mul_(2)
        x.data[..., 4:].mul_(3)
        x.mul_(5)
    dense = seen.to_dense() if isinstance(seen, GraphTensor) else seen
    assert torch.equal(dense, shown)


class Handed(nn.Module):
    """Returns a view, whose base was written into since, and asks it for its gradient."""

    def __init__(self, view: Any) -> None:
        super().__init__()
        self.view, self.gain = view, nn.Parameter(torch.tensor(2.0).double())

    def forward(self, x: Tensor) -> Tensor:
        whole = x * 1
        view: Tensor = self.view(whole)
        whole[whole < 0] = 0
        whole[:, :, [0]] = self.gain
        assert view.requires_grad
        return view


HANDED: dict[str, Any] = {
    "turned": lambda x: x.mT,
    "a channel": lambda x: x[:, :1],
    "a crop": lambda x: x[:, :, :3],
    "flattened": lambda x: x.flatten(1),
}


@pytest.mark.parametrize("name", HANDED)
def test_a_view_that_a_network_returns_hears_what_was_written(name: str) -> None:
    """A converted network hands on what its views say when it returns, also to autograd."""
    torch.manual_seed(0)
    mask, image = torch.rand(2, 5, 4) > 0.4, integers(2, 2, 5, 4)
    graph, net = cg.PixelGraph.from_image(image, mask=mask), Handed(HANDED[name])
    there = net.view(mask[:, None].expand_as(image) * 1.0)
    want = net(image * mask[:, None]) * there
    found = cg.to_graph(net)(graph)
    dense = found.to_image() if isinstance(found, cg.PixelGraph) else found.to_dense()
    assert torch.equal(dense, want)
    view = net(graph.tensor())
    grads = [torch.autograd.grad(one.sum(), net.gain)[0] for one in (want, view)]
    assert torch.equal(*grads)
    (grad,) = torch.autograd.grad([net(graph.tensor())], net.gain, [torch.ones_like(want)])
    assert torch.equal(grad, grads[0])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("write", [
    lambda x: x.fill_(0), lambda x: x[:, :, 0].zero_(), lambda x: x[:, :1].zero_(),
    lambda x: x.index_fill_(1, torch.tensor([0]), 1.0), lambda x: x.flatten(1).zero_(),
    lambda x: x.flatten(1).scatter_(1, torch.tensor([[3]]), 1.0),
])  # fmt: skip
def test_what_autograd_asks_is_not_written_into(write: Any, masked: bool) -> None:
    """A leaf would silently become none, and its gradient would be lost; torch's own words."""
    image = integers(1, 2, 5, 4)
    mask = torch.arange(20).view(1, 5, 4) % 3 > 0 if masked else None
    leaf = cg.PixelGraph.from_image(image, mask=mask).tensor().requires_grad_()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        write(leaf)
    with torch.no_grad():
        write(leaf)
    assert leaf.is_leaf


def test_what_may_be_a_copy_in_torch_is_not_guessed() -> None:
    """A map made of a permuted one lies as torch likes: who depends on it is refused."""
    x = graph().tensor().permute(0, 2, 3, 1) * 1
    part = x.reshape(2, 160)
    part.mul_(2)
    with pytest.raises(ConversionError, match="written into since"):
        x.relu()
    y = graph().tensor().permute(0, 2, 3, 1) * 1
    rows = y.reshape(2, 8, 20)
    y.mul_(2)
    with pytest.raises(ConversionError, match="may be a view or a copy"):
        rows.relu()


def test_a_write_without_grad_keeps_what_a_map_was_made_of() -> None:
    """As torch does, whose cosine similarity clamps norms so; gradients to 20 bits."""
    x = graph(4).with_x(torch.randn(graph(4).num_nodes, 4).double()).tensor().requires_grad_()
    dense = x.to_dense().detach().requires_grad_()
    grads = []
    for one in (x, dense):
        doubled = one * 2
        with torch.no_grad():
            doubled.mul_(3)
        similar = F.cosine_similarity(one, one.flip(1) * one, dim=1)
        (grad,) = torch.autograd.grad(doubled.sum() + similar.sum(), one)
        grads.append(grad)
    want = torch.where(x.graph.mask.view(dense[:, :1].shape), grads[1], 0.0)
    assert torch.equal(snap(grads[0].to_dense(), None), snap(want, None))


@pytest.mark.parametrize("part", [lambda x: x.flatten(1)[:, 3:], lambda x: x[:, :, 3, 4]])
def test_a_part_that_would_not_hear_a_write_is_not_left_behind(part: Any) -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            x = graph().tensor() * 1
            held = part(x)
            with pytest.raises(ConversionError, match="would not hear of it"):
                x.mul_(2)
            x = graph().tensor() * 1
            part(x)
            x.mul_(2)
            held = part(x)
            held.mul_(2)
            with pytest.raises(ConversionError, match="written into since"):
                x.relu()


def test_no_map_is_written_into_by_out_or_by_places_in_memory() -> None:
    x = graph().tensor()
    with pytest.raises(ConversionError, match="into out="):
        torch.add(x, 1, out=torch.zeros_like(x))
    with pytest.raises(ConversionError, match="counts numbers in memory"):
        cg.PixelGraph.from_image(image(2, 2, *SIZE)).tensor().as_strided((2, 2), (1, 2))


def test_tokens_are_a_copy_of_what_they_are_made_of() -> None:
    nodes = graph(6).tensor().flatten(2).transpose(1, 2) * 1
    before, token = nodes.to_dense(), torch.zeros(2, 1, 6).double()
    both = torch.cat([token, nodes], 1)
    both.add_(1)
    assert torch.equal(nodes.to_dense(), before)
    assert not token.any()
    assert torch.equal(both[:, 0], torch.ones(2, 6).double())


@pytest.mark.parametrize("full", [False, True])
def test_a_write_into_what_is_no_map_is_heard(full: bool) -> None:
    """One pixel of every image is a readout, a copy: what is written there would be lost."""
    there = torch.ones_like(holes()) if full else holes()
    x = cg.PixelGraph.from_image(image(2, 2, *SIZE), mask=there).tensor() * 1
    want = x.to_dense()
    for one in (x, want):
        one[:, :, 3, 4] = 7
        one[:, :, 3, 4] = one[:, :, 3, 5] * 2
        one.permute(0, 2, 3, 1)[:, 2, 4] = one[0, :, 1, 1].clone()
    assert torch.equal(x.to_dense(), want * there[:, None])


INTO_PLAIN: dict[str, Any] = {
    "a channel": lambda out, x: out[:, 0].copy_(x[:, 0]),
    "sum": lambda out, x: out.add_(x),
    "where it says": lambda out, x: out.masked_fill_(x > 0, 7),
    "images by number": lambda out, x: out.index_add_(0, torch.tensor([1, 0]), x),
    "several": lambda out, x: torch._foreach_add_([out, out], [x, x]),
}


LIES: dict[str, Any] = {
    "in order": lambda: torch.empty(2, 2, *SIZE).double(),
    "channels last": lambda: torch.empty(2, *SIZE, 2).double().permute(0, 3, 1, 2),
    "every second": lambda: torch.empty(2, 4, *SIZE).double()[:, ::2],
}


@pytest.mark.parametrize("name", INTO_PLAIN)
@pytest.mark.parametrize("lies", LIES)
def test_a_full_map_written_into_an_ordinary_tensor_arrives(name: str, lies: str) -> None:
    """However that lies in memory: a copy of it that lies as an image would be written instead."""
    x, given = image(2, 2, *SIZE), image(1, 2, *SIZE)
    found: list[Tensor] = []
    for one in (cg.PixelGraph.from_image(x).tensor(), x):
        out = LIES[lies]().copy_(given)
        INTO_PLAIN[name](out, one)
        found.append(out)
    assert torch.equal(*found)
    assert not torch.equal(found[0], given.expand_as(found[0]))


PARTS: dict[str, Any] = {
    "a row of a table": lambda w, x: w[1, 0, (x[:, 0] > 0).long()],
    "behind dots": lambda w, x: w[1, ..., 0, (x[:, 1] > 0).long()],
    "a table apart": lambda w, x: w[0, 1][(x[:, 0] > 0).long()],
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_an_ordinary_tensor_keeps_its_gradient(name: str, full: bool) -> None:
    """Whatever slices torch takes of it before a map names entries."""
    there = torch.ones_like(holes()) if full else holes()
    x, w = image(2, 2, *SIZE), image(1, 2, 2, 3)[0].requires_grad_()
    found = PARTS[name](w, cg.PixelGraph.from_image(x, mask=there).tensor())
    want = torch.where(there, PARTS[name](w, x), 0.0)
    assert torch.equal(found.to_dense(), want)
    grads = [torch.autograd.grad(one.square().sum(), w)[0] for one in (found, want)]
    assert torch.equal(*grads)
    assert grads[0].any()


@pytest.mark.parametrize("write", [
    lambda out, y: out.__setitem__((slice(None), 0), y[:, 0]),
    lambda out, y: out.__setitem__((slice(None), slice(1, None), 2), y[:, 1:, 3] * 2),
    lambda out, y: out.__setitem__((0, [1]), y[1, :1]),
    lambda out, y: out.add_(y),
])  # fmt: skip
@pytest.mark.parametrize("lies", LIES)
def test_what_a_full_map_has_written_keeps_its_gradient(write: Any, lies: str) -> None:
    leaf, sent = image(2, 2, *SIZE).requires_grad_(), image(1, 2, *SIZE)
    found = []
    for x in (cg.PixelGraph.from_image(leaf).tensor(), leaf):
        out = LIES[lies]().copy_(sent)
        write(out, x)
        found.append(torch.autograd.grad((out * sent).sum(), leaf)[0])
    assert torch.equal(*found)
    assert found[0].any()


@torch.library.custom_op("convgraph_tests::doubled", mutates_args={"x"})
def doubled(count: Tensor, x: Tensor) -> None:
    x.mul_(2)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("write", [
    lambda x: torch._foreach_mul_([x], 2.0), lambda x: doubled(torch.ones(1), x),
    lambda x: torch.optim.SGD([x.requires_grad_()], 1.0, foreach=True).step(x.sum().backward),
])  # fmt: skip
def test_a_write_that_no_map_would_hear_is_refused(write: Any, full: bool) -> None:
    """Into a list, as fused optimizers do, or into what is not the first operand."""
    there = torch.ones_like(holes()) if full else holes()
    x = cg.PixelGraph.from_image(image(2, 2, *SIZE), mask=there).tensor()
    with pytest.raises(ConversionError, match=r"would not hear of it.*foreach=False"):
        write(x)


def test_a_write_where_a_map_says_is_refused() -> None:
    """A hole says 0, and a number that it says would be a place."""
    x = graph().tensor() * 1
    with pytest.raises(ConversionError, match="no map of yes and no"):
        x.flatten(1)[0, x[0, 0].long().abs()] = 7


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x.flatten(1)[:, 3:],
        lambda x: x[:, :, 3, 4],
        lambda x: x.permute(0, 2, 3, 1)[:, 3, 4],
        lambda x: x[:, :2].unbind(2)[3].unbind(2)[4],
    ],
)
def test_a_map_that_does_not_hear_a_write_is_read_no_more(part: Any) -> None:
    """A part that is a readout is a copy here and a view in torch."""
    x = graph().tensor() * 1
    kept, view = part(x), x[:, 1:]
    assert torch.equal(part(x.to_dense().contiguous()), kept)
    kept.mul_(2)
    for read in (lambda: x + 1, lambda: view.relu(), lambda: x.graph, x.to_dense):
        with pytest.raises(ConversionError, match="written into since, which no map hears"):
            read()


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.clone().flatten(1).zero_(),
        lambda x: x.flatten(1).clone().zero_(),
        lambda x: x.permute(0, 2, 3, 1).flatten(1).zero_(),  # torch's own is a copy
    ],
)
def test_a_map_does_not_mind_writes_into_what_is_no_view_of_it(write: Any) -> None:
    g = graph()
    x = g.tensor() * 1
    write(x)
    assert torch.equal(x.graph.x, g.x)


def test_parts_that_are_gone_are_asked_no_more() -> None:
    x = graph().tensor() * 1
    for _ in range(4):
        x[:, :, 3, 4].sum()
    assert len(x.copies) == 1


def test_extremes_over_everything_are_one_number() -> None:
    x = graph().tensor()
    assert torch.equal(x.amax(), x.graph.x.max())
    assert torch.equal(x.amin(()), x.graph.x.min())


PAIRS = {
    "a batch twice": (
        lambda x, c: F.conv2d(x.repeat(2, 1, 1, 1), c.weight),
        lambda x, c: torch.cat([F.conv2d(x, c.weight)] * 2),
    ),
    "each image twice": (
        lambda x, c: F.conv2d(x.repeat_interleave(2, 0), c.weight),
        lambda x, c: F.conv2d(x, c.weight)[[0, 0, 1, 1]],
    ),
    "one image as many": (
        lambda x, c: F.conv2d(x[:1].repeat(3, 1, 1, 1), c.weight),
        lambda x, c: F.conv2d(x, c.weight)[[0, 0, 0]],
    ),
    "zero pad": (
        lambda x, c: F.conv2d(F.pad(x, (1, 1, 1, 1)), c.weight),
        lambda x, c: F.conv2d(x, c.weight, padding=1),
    ),
    "zero pad, stride": (
        lambda x, c: F.conv2d(F.pad(x, (1, 1, 1, 1)), c.weight, stride=2),
        lambda x, c: F.conv2d(x, c.weight, stride=2, padding=1),
    ),
    "to a multiple and back": (
        lambda x, c: F.conv2d(F.pad(x, (0, 6, 0, 8)), c.weight, padding=1)[..., :8, :10],
        lambda x, c: F.conv2d(x, c.weight, padding=1),
    ),
    "to a multiple, down and up": (
        lambda x, c: F.interpolate(F.max_pool2d(F.pad(x, (0, 6, 0, 8)), 2), scale_factor=2)[
            ..., :8, :10
        ],
        lambda x, c: F.interpolate(F.max_pool2d(x, 2), scale_factor=2),
    ),
    "crop by a pad": (
        lambda x, c: F.pad(x, (-1, -2, -1, 0)),
        lambda x, c: x[:, :, 1:, 1:-2],
    ),
    "valid and cropped": (
        lambda x, c: F.conv2d(x, c.weight) + x[:, :1, 1:-1, 1:-1],
        lambda x, c: (F.conv2d(x, c.weight, padding=1) + x[:, :1])[:, :, 1:-1, 1:-1],
    ),
    "chunks": (lambda x, c: torch.cat(x.chunk(2, 2), 2), lambda x, c: x * 1),
    "split": (lambda x, c: torch.cat(x.split([3, 5, 2], 3), 3), lambda x, c: x * 1),
    "halves swapped": (lambda x, c: torch.cat(x.chunk(2, 3)[::-1], 3), lambda x, c: x.roll(5, 3)),
    "round by columns put beside": (
        lambda x, c: F.conv2d(torch.cat([x[..., -1:], x, x[..., :1]], 3), c.weight),
        lambda x, c: F.conv2d(F.pad(x, (1, 1, 0, 0), mode="circular"), c.weight),
    ),
    "rows and columns as one line": (
        lambda x, c: torch.cat([x.amax(3, True), x.amax(2, True).transpose(2, 3)], 2),
        lambda x, c: F.pad(x.amax(3, True), (0, 0, 0, 10))
        + F.pad(x.amax(2, True).transpose(2, 3), (0, 0, 8, 0)),
    ),
    "roll": (lambda x, c: x.roll((3, -2), (2, 3)).roll((-3, 2), (2, 3)), lambda x, c: x * 1),
    "roll within": (
        lambda x, c: F.conv2d(
            F.pad(x.roll(4, 3), (1, 1, 0, 0), mode="circular"), c.weight, padding=(1, 0)
        ),
        lambda x, c: F.conv2d(
            F.pad(x, (1, 1, 0, 0), mode="circular"), c.weight, padding=(1, 0)
        ).roll(4, 3),
    ),
    "flip": (
        lambda x, c: F.conv2d(x.flip(3), c.weight.flip(3), padding=1).flip(3),
        lambda x, c: F.conv2d(x, c.weight, padding=1),
    ),
    "two pads": (
        lambda x, c: F.conv2d(F.pad(x, (1, 1, 1, 1)), c.weight, padding=1),
        lambda x, c: F.conv2d(x, c.weight, padding=2),
    ),
    "image by image": (
        lambda x, c: torch.stack([F.conv2d(one, c.weight, padding=1) for one in x]),
        lambda x, c: F.conv2d(x, c.weight, padding=1),
    ),
    "an image again": (
        lambda x, c: torch.stack([x[0], x[1], x[0]]),
        lambda x, c: x[[0, 1, 0]],
    ),
    "image by image, counted from the end": (
        lambda x, c: torch.stack([F.conv2d(one, c.weight, padding=1) for one in x], -4),
        lambda x, c: F.conv2d(x, c.weight, padding=1),
    ),
    "the larger of two maps of an image": (
        lambda x, c: torch.stack([x[0], x[0].roll(1, 1)]).amax(0)[None],
        lambda x, c: torch.maximum(x[0], x[0].roll(1, 1))[None],
    ),
    "windows added up": (
        lambda x, c: F.fold(c.weight.view(1, 18).T @ x[:, :1].flatten(2), (10, 12), 3),
        lambda x, c: F.conv_transpose2d(x[:, :1], c.weight),
    ),
    "windows of windows": (
        lambda x, c: torch.einsum("bchwij,ocij->bohw", x.unfold(2, 3, 1).unfold(3, 3, 1), c.weight),
        lambda x, c: F.conv2d(x, c.weight),
    ),
    "windows of windows, rectified between": (
        lambda x, c: (x.unfold(2, 3, 1) - 2).relu().unfold(3, 3, 1).sum((4, 5)),
        lambda x, c: (x.unfold(2, 3, 1).unfold(3, 3, 1) - 2).relu().sum((4, 5)),
    ),
    "windows of windows, turned between": (
        lambda x, c: x.unfold(2, 3, 1).movedim(4, 2).flatten(1, 2).unfold(3, 3, 1).sum(4),
        lambda x, c: x.unfold(2, 3, 1).unfold(3, 3, 1).sum(5).movedim(4, 2).flatten(1, 2),
    ),
    "windows of windows, weighed and moved between": (
        lambda x, c: F.pad(x.unfold(2, 3, 1) * x[:, :, 1:-1, :, None], (0, 0, 1, 1))
        .flip(4)[:, 1:].unfold(3, 3, 1).sum((4, 5)),
        lambda x, c: (
            F.pad(x, (1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).sum(4)
            * F.pad(x[:, :, 1:-1], (1, 1)).unfold(3, 3, 1)
        ).sum(4)[:, 1:],
    ),
    "windows of windows along one axis": (
        lambda x, c: x.unfold(2, 3, 1).unfold(2, 2, 1).sum((4, 5)),
        lambda x, c: x.unfold(2, 4, 1) @ torch.tensor([1.0, 2, 2, 1]).double(),
    ),
    "columns of columns side by side": (
        lambda x, c: F.unfold(F.unfold(x, (3, 1)).view(2, 6, 6, 10), (1, 3)).view(2, 18, 6, 8),
        lambda x, c: F.unfold(x, 3).view(2, 18, 6, 8),
    ),
    "the largest of windows": (
        lambda x, c: (x.unfold(2, 3, 1).unfold(3, 3, 1) - 9).max(-1).values.amax(-1),
        lambda x, c: F.max_pool2d(x - 9, 3, 1),
    ),
    "the smallest of padded windows": (
        lambda x, c: F.unfold(x + 9, 3, padding=1).view(2, 2, 9, 8, 10).amin(2),
        lambda x, c: -F.max_pool2d(-F.pad(x + 9, (1,) * 4), 3, 1),
    ),
    "the largest of windows beside windows": (
        lambda x, c: torch.cat([(w := x.unfold(2, 3, 1) - 9), w.repeat(1, 1, 1, 1, 2)], 4).amax(4),
        lambda x, c: (x.unfold(2, 3, 1) - 9).amax(4),
    ),
    "the largest of stacked windows": (
        lambda x, c: torch.stack([(w := x.unfold(2, 3, 1) - 9), w * 2], 1).amax((1, 5)),
        lambda x, c: (x.unfold(2, 3, 1) - 9).amax(4),
    ),
    "the largest of some of windows, by number": (
        lambda x, c: (x.unfold(2, 3, 1) - 9)[..., [0, 2, 2]].amax(4),
        lambda x, c: (x.unfold(2, 3, 1) - 9)[..., ::2].amax(4),
    ),
    "the largest of windows of entries of windows": (
        lambda x, c: (x.unfold(2, 3, 1) - 9).unfold(4, 2, 1).amax(5).amax(4),
        lambda x, c: (x.unfold(2, 3, 1) - 9).repeat_interleave(2, 4).amax(4),
    ),
    "the largest of windows and a number": (
        lambda x, c: F.pad(x.unfold(2, 3, 1) - 5, (0, 1)).amax(4),
        lambda x, c: (x.unfold(2, 3, 1) - 5).amax(4).clamp(min=0),
    ),
    "a kernel as long as a row": (
        lambda x, c: F.conv2d(x, c.weight[:, :, :1, :1].expand(1, 2, 1, 10)),
        lambda x, c: torch.einsum("bchw,oc->boh", x, c.weight[:, :, 0, 0]).unsqueeze(3),
    ),
    "a row of windows as long as it": (
        lambda x, c: x.unfold(3, 10, 1) @ torch.arange(10.0).double(),
        lambda x, c: F.conv2d(
            x, torch.arange(10.0).double().expand(2, 1, 1, 10), stride=(1, 7), groups=2
        ),
    ),
    "a line meets an image": (
        lambda x, c: x.sum(3, True) - torch.ones(2, 2, 8, 10).double(),
        lambda x, c: x.sum(3, True) - torch.ones_like(x),
    ),
    "blocks with a halo": (
        lambda x, c: F.pad(x, (1,) * 4).unfold(3, 6, 4).unfold(2, 6, 4).sum((4, 5)),
        lambda x, c: F.conv2d(x, torch.ones(2, 1, 6, 6).double(), None, 4, 1, 1, 2),
    ),
    "a line backwards": (
        lambda x, c: x.flatten(2).flip(2).view_as(x),
        lambda x, c: x.flip(2, 3),
    ),
    "backwards within blocks": (
        lambda x, c: x.view(2, 2, 4, 2, 10).flip(3).reshape(x.shape),
        lambda x, c: x[:, :, [1, 0, 3, 2, 5, 4, 7, 6]],
    ),
    "rows out of a line": (
        lambda x, c: x.flatten(2)[..., 20:50].view(2, 2, 3, 10),
        lambda x, c: x[:, :, 2:5],
    ),
    "a row over and over": (
        lambda x, c: x.amax(2, True).repeat(1, 1, 8, 1),
        lambda x, c: x.amax(2, True).expand_as(x),
    ),
    "columns mixed, and themselves": (
        lambda x, c: x + F.linear(x, torch.ones(10, 10).double().tril()),
        lambda x, c: x + x.cumsum(3),
    ),
    "columns as channels": (
        lambda x, c: F.conv2d(
            x.permute(0, 3, 1, 2), torch.ones(10, 10).double().tril()[..., None, None]
        ).permute(0, 2, 3, 1) + x,
        lambda x, c: x.cumsum(3) + x,
    ),
    "rows and columns, taken apart again": (  # as a coordinate attention does
        lambda x, c: x
        * torch.cat([x.amax(3, True), x.amax(2, True).mT], 2).split([8, 10], 2)[1].mT,
        lambda x, c: x.amax(2, True) * x,
    ),
    "row by row": (
        lambda x, c: torch.stack(
            [F.conv1d(row, c.weight[:, :, 0], padding=1) for row in x.unbind(2)], 2
        ),
        lambda x, c: F.conv2d(x, c.weight[:, :, :1], padding=(0, 1)),
    ),
    "rows put beside": (
        lambda x, c: torch.cat(x.split(1, 2), 2).mean(2, True),
        lambda x, c: x.mean(2, True),
    ),
    "rows on another axis": (
        lambda x, c: torch.stack(x.unbind(2), 1).mean(1).unsqueeze(2),
        lambda x, c: x.mean(2, True),
    ),
    "copies, larger": (
        lambda x, c: F.interpolate(F.pad(x, (1, 1, 0, 0), mode="circular"), scale_factor=2),
        lambda x, c: F.pad(F.interpolate(x, scale_factor=2), (2, 2, 0, 0), mode="circular"),
    ),
    "copies, smaller": (
        lambda x, c: F.max_pool2d(F.pad(x, (4, 2, 0, 0), mode="circular"), 2),
        lambda x, c: F.pad(F.max_pool2d(x, 2), (2, 1, 0, 0), mode="circular"),
    ),
    "space to depth": (
        lambda x, c: torch.cat([x[..., a::2, b::2] for a in (0, 1) for b in (0, 1)], 1),
        lambda x, c: F.pixel_unshuffle(x, 2).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_one_function_written_two_ways(name: str) -> None:
    """Equal on a mask, bit for bit, sites included; and equal on images, so that it is a pair."""
    c = conv(2, 1, bias=False)
    one, two = PAIRS[name]
    x = graph().tensor()
    dense = x.to_dense()
    assert torch.equal(one(dense, c), two(dense, c))
    mine, other = one(x, c).graph, two(x, c).graph
    assert torch.equal(mine.mask, other.mask)
    assert torch.equal(mine.x, other.x)


@pytest.mark.parametrize("name", ["zero pad", "zero pad, stride", "valid and cropped", "two pads"])
def test_a_hexagonal_mask_moves_with_its_pixels(name: str) -> None:
    """A grid with a border has edges over which a valid convolution moves a mask."""
    c = conv(2, 1, bias=False)
    g = cg.PixelGraph.from_image(image(2, 2, *SIZE), holes(2, SIZE), on=cg.Hexagonal())
    mine, other = (way(g.tensor(), c).graph for way in PAIRS[name])
    assert mine.sites is other.sites
    assert torch.equal(mine.x, other.x)


def test_square_windows_are_none_of_hexagons() -> None:
    """A kernel there has seven taps, and windows of windows would have nine."""
    x = cg.PixelGraph.from_image(image(1, 2, *SIZE), on=cg.Hexagonal()).tensor()
    outer = x.unfold(2, 3, 1)
    assert outer.shape == (1, 2, 6, 10, 3)
    with pytest.raises(ConversionError, match=r"is none; take torch.nn.functional.unfold"):
        outer.unfold(3, 3, 1)


@pytest.mark.parametrize("change", [F.dropout, lambda w: w.softmax(4), lambda w: w.mul_(2)])
@pytest.mark.parametrize("extreme", [torch.amax, torch.min, torch.argmax, torch.any])
def test_extremes_are_taken_before_windows_are_more_than_moved(change: Any, extreme: Any) -> None:
    """Else an absent pixel would be an entry like any other."""
    hole = torch.ones(6, 7, dtype=torch.bool)
    hole[2, 3] = False
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 6, 7), mask=hole)
    windows = graph.tensor().unfold(2, 3, 1)
    with pytest.raises(ConversionError, match="of windows that were more than moved"):
        extreme(change(windows * 1), 4)


def test_windows_are_cut_before_maps_meet_in_them() -> None:
    """Where the middle of a window is absent, what was done with the others is nowhere kept."""
    x = graph().tensor().unfold(2, 3, 1)
    written = graph().tensor().clone()
    late = written.unfold(2, 3, 1) * 2
    written.add_(1)
    for between in (late, F.dropout(x), x.mean(1, True), x.softmax(4) + x, x.amax(1, True)):
        with pytest.raises(ConversionError, match="cut all of them first"):
            between.unfold(3, 3, 1)
    whole = cg.PixelGraph.from_image(image(1, 2, *SIZE))
    mine, true = (y.unfold(2, 3, 1) for y in (whole.tensor(), whole.to_image()))
    assert torch.equal((mine * mine).unfold(3, 3, 1).to_dense(), (true * true).unfold(3, 3, 1))


@pytest.mark.parametrize("space", [cg.Hexagonal(), cg.Torus(), cg.Equirectangular()])
def test_blocks_that_turn_are_no_turn_of_a_space(space: Any) -> None:
    """Both axes of hexagons may run backwards, a torus may be mirrored: none of their blocks."""
    x = cg.PixelGraph.from_image(image(1, 2, *SIZE), on=space).tensor()
    assert x.flip(2, 3).shape == x.shape
    for call in (lambda z: z.flip(3, 5), lambda z: z.roll(1, 5)):
        with pytest.raises(ConversionError, match="within blocks it is no symmetry"):
            call(x.view(1, 2, 4, 2, 5, 2))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layers_padding_is_a_pad_before_it(mode: str, stride: int) -> None:
    layer = nn.Conv2d(2, 3, 3, stride, padding=1, padding_mode=mode).double()
    with torch.no_grad():
        layer.weight.copy_(image(1, 1, *layer.weight.shape)[0, 0])
        layer.bias.fill_(1)
    g = graph()
    alone = cg.nn.GraphConv2d.from_dense(layer)(g, sites="network")
    inside = layer(g.tensor()).graph
    assert torch.equal(alone.mask, inside.mask)
    assert torch.equal(alone.x, inside.x)


def test_maps_of_other_sites_meet_on_the_union() -> None:
    whole = image(1, 1, 4, 4)
    top, left = torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    top[:, :2], left[:, :, :2] = True, True
    a, b = (cg.PixelGraph.from_image(whole, mask=m).tensor() for m in (top, left))
    both = (a + b).graph
    assert torch.equal(both.mask, top | left)
    assert torch.equal(both.to_image(), whole * (top.double() + left.double()))
    assert torch.equal(torch.cat([a, b], 1).graph.mask, top | left)
    one = torch.where(top, whole, 0.0)
    assert torch.equal((a * b).to_dense(), one * torch.where(left, whole, 0.0))


def _sequence(x: Tensor) -> Tensor:
    return x.flatten(2).mT


APART = {
    "keys and values": lambda x, y: F.scaled_dot_product_attention(
        torch.ones(2, 3, 2).double(), _sequence(x), _sequence(y)
    ),
    "scores by hand": lambda x, y: (_sequence(x) @ _sequence(y).mT).softmax(-1) @ _sequence(y),
    "bilinear": lambda x, y: F.bilinear(
        x.movedim(1, -1), y.movedim(1, -1), torch.ones(3, 2, 2).double()
    ),
    "looked up": lambda x, y: x.gather(1, y.argsort(1)),
    "pairs of each": lambda x, y: (
        _sequence(x) @ _sequence(x).mT - (_sequence(y) @ _sequence(y).mT).softmax(-1)
    ),
    "a map and pairs": lambda x, y: _sequence(x) + _sequence(y) @ _sequence(y).mT @ _sequence(x),
    "moved alike": lambda x, y: _sequence(x[:, :, 1:]) @ _sequence(y[:, :, 1:]).mT,
}


@pytest.mark.parametrize("name", APART)
def test_graphs_made_apart_of_one_mask_are_on_the_same_nodes(name: str) -> None:
    """As an image and its depth are, or two views of a siamese network."""
    call, g = APART[name], graph()
    other = cg.PixelGraph.from_image(g.to_image() * 2 - 1, mask=holes())
    assert other.sites is not g.sites
    mine = call(g.tensor(), other.tensor())
    true = call(g.tensor(), g.with_x(other.x).tensor())
    assert torch.equal(*(one if type(one) is Tensor else one.to_dense() for one in (mine, true)))


def test_a_product_over_pixels_takes_those_that_both_have() -> None:
    g, there = graph(), holes().flip(2)
    other = cg.PixelGraph.from_image(g.to_image() + 1, mask=there)
    x, y = g.tensor().flatten(2), other.tensor().flatten(2).mT
    assert torch.equal(x @ y, x.to_dense() @ y.to_dense())


def test_one_image_meets_each_of_several() -> None:
    """What one of them lacks says 0, and the result lives where either has a pixel."""
    torch.manual_seed(0)
    mask = torch.rand(3, 5, 4) > 0.5
    image = integers(3, 2, 5, 4)
    x, dense = cg.PixelGraph.from_image(image, mask=mask).tensor(), image * mask[:, None]
    for k in range(3):
        found = x - x[k : k + 1]
        assert torch.equal(found.graph.mask.view(mask.shape), mask | mask[k])
        assert torch.equal(found.to_dense(), dense - dense[k])
        assert torch.equal((x * x[k]).to_dense(), dense * dense[k])
        assert torch.equal(torch.where(x > 0, x, x[k]).to_dense(),
                           torch.where(dense > 0, dense, dense[k]))  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
def test_sizes_that_torch_refuses_are_refused(masked: bool) -> None:
    """One image is no batch of several where torch puts maps together, or asks one for places."""
    mask = torch.arange(60).view(3, 5, 4) % 3 > 0 if masked else None
    x = cg.PixelGraph.from_image(integers(3, 2, 5, 4), mask=mask).tensor()
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        torch.stack([x, x[:1]])
    with pytest.raises(RuntimeError, match="Sizes of tensors must match except in dimension 1"):
        torch.cat([x, x[:1]], 1)
    with pytest.raises((IndexError, ConversionError), match="mask"):
        (x * 1)[x[:1] > 0] = 0
    with pytest.raises(RuntimeError, match=r"value tensor of shape \[4\]|must match the existing"):
        (x * 1)[:, :, 1, 2] = torch.ones(4).double()
    with pytest.raises(RuntimeError, match=r"tensor a \(4\) must match .* tensor b \(7\)"):
        x + torch.ones(7)


@pytest.mark.parametrize("masked", [False, True])
def test_dtypes_are_those_of_torch(masked: bool) -> None:
    mask = torch.arange(60).view(3, 5, 4) % 3 > 0 if masked else None
    x = cg.PixelGraph.from_image(integers(3, 2, 5, 4), mask=mask).tensor()
    assert (x > 0).triu().dtype == torch.bool
    assert torch.linalg.vector_norm(torch.complex(x, x), 2, (2, 3)).dtype == torch.float64
    assert torch.dist(torch.complex(x, x), x).dtype == torch.float64


@pytest.mark.parametrize("size", [2, 3, (5, 2)])
def test_a_turned_map_is_pooled_as_the_turned_image(size: Any) -> None:
    """Adaptive windows leave a map, on the nodes that the turned image has."""
    mask, image = torch.rand(3, 6, 4) > 0.5, integers(3, 2, 6, 4)
    found = F.adaptive_avg_pool2d(cg.PixelGraph.from_image(image, mask=mask).tensor().mT, size)
    turned = cg.PixelGraph.from_image(image.mT.contiguous(), mask=mask.mT.contiguous())
    want = F.adaptive_avg_pool2d(turned.tensor(), size)
    assert torch.equal(found.sites.nodes, want.sites.nodes)
    assert torch.equal(found.to_dense(), want.to_dense())


def test_a_map_made_from_a_readout_has_no_holes() -> None:
    x = graph().tensor()
    vector = x.mean((2, 3))
    assert type(vector) is Tensor
    assert type(F.conv2d(vector.view(2, 2, 1, 1).expand(2, 2, 4, 4), conv().weight)) is Tensor


def test_what_asks_for_a_dtype_is_no_operator_of_two_maps() -> None:
    x, t = graph().tensor(), torch.arange(3)
    assert type(t.type_as(x)) is Tensor
    assert type(t.to(x)) is Tensor
    assert torch.arange(160.0).view_as(x[:1]).shape == (1, 2, *SIZE)
    assert type(x.new_zeros(3)) is Tensor
    last = torch.channels_last
    assert torch.equal(x.contiguous(memory_format=last).to_dense(), x.to_dense())


def test_sums_in_place_keep_their_dtype() -> None:
    x = cg.PixelGraph.from_image(image(2, 2, *SIZE).int(), mask=holes()).tensor()
    true = x.to_dense().cumsum_(1)
    assert x.cumsum_(1).to_dense().dtype == x.dtype == true.dtype
    assert torch.equal(x.to_dense(), true)


def test_memory_is_pinned_where_torch_pins_it() -> None:
    """As loaders ask; without such a device torch's own words are heard."""
    rows, x = graph().x, graph().tensor()
    if torch.accelerator.is_available():
        assert x.pin_memory().is_pinned()
        assert torch.equal(x.pin_memory().graph.x, rows.pin_memory())
        return
    with pytest.raises(RuntimeError) as own:
        rows.pin_memory()
    with pytest.raises(own.type) as got:
        x.pin_memory()
    assert str(got.value) == str(own.value)


def test_what_walks_through_memory_asks_the_rows_or_is_refused() -> None:
    x = graph().tensor()
    assert x.share_memory_() is x
    assert x.is_shared()
    assert x.graph.x.is_shared()
    assert not x.is_pinned()
    asks = (
        x.storage, lambda: np.from_dlpack(x), lambda: torch.from_dlpack(x),
        lambda: torch.utils.dlpack.to_dlpack(x), lambda: torch.to_dlpack(x),  # once a capsule
        lambda: x.apply_(abs), lambda: x.map_(x, max),
    )  # fmt: skip
    for ask in asks:
        with pytest.raises(ConversionError, match=r"no array; take to_dense\(\)"):
            ask()


ARRAY = np.arange(1.0, 11)


@pytest.mark.parametrize("call", [
    lambda x: x + ARRAY, lambda x: ARRAY / x, lambda x: np.exp(x),
])  # fmt: skip
def test_an_array_beside_a_map_is_refused_and_a_number_of_numpy_is_one(call: Any) -> None:
    x = graph().tensor()
    with pytest.raises(ConversionError, match=r"beside a map.* torch\.as_tensor"):
        call(x)
    assert torch.equal((np.float64(2) * x / np.float32(0.5)).to_dense(), x.to_dense() * 4)


def test_a_map_that_is_made_to_need_a_gradient_gets_one() -> None:
    """As noise does that is learned; torch would tell the wrapper alone."""
    x = graph().tensor()
    for make in (torch.zeros_like, torch.ones_like, torch.rand_like, torch.randn_like):
        noise = make(x, requires_grad=True)
        assert noise.is_leaf
        (noise * x).sum().backward()
        assert torch.equal(noise.grad.to_dense(), x.to_dense())
    assert x.new_ones(3, requires_grad=True).requires_grad
    assert not torch.ones_like(x, requires_grad=False).requires_grad


def test_several_gradients_at_once() -> None:
    """Each as if it was asked for alone, to and from maps and ordinary tensors."""
    layer, there = conv(), holes()[:, None]
    x, dense = graph().tensor().requires_grad_(), graph().to_image().requires_grad_()
    sent = image(3, 8, *SIZE).unflatten(1, (2, 4))
    found = torch.autograd.grad(
        [layer(x), x.sum((2, 3))], [x, layer.weight], [sent, sent[..., :2, 0, 0]],
        is_grads_batched=True,
    )  # fmt: skip
    assert found[0].shape == (3, *x.shape)
    for number, one in enumerate(sent):
        want = (layer(dense * there) * there * one).sum()
        want = want + ((dense * there).sum((2, 3)) * one[..., :2, 0, 0]).sum()
        true = torch.autograd.grad(want, [dense, layer.weight])
        assert torch.equal(found[0][number].to_dense(), true[0])
        assert torch.equal(found[1][number], true[1])
    (again,) = torch.autograd.grad(x * 2, x, found[0].detach(), is_grads_batched=True)
    assert torch.equal(again.to_dense(), found[0].to_dense() * 2)


@pytest.mark.parametrize("vectorize", [False, True])
def test_second_derivatives_by_torchs_functional(vectorize: bool) -> None:
    layer, there, ask = conv(2, 1), holes()[:, None], torch.autograd.functional
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(integers(*parameter.shape))
    dense, v = integers(2, 2, *SIZE) * there, integers(2, 2, *SIZE) * there
    x, on = (cg.PixelGraph.from_image(one, mask=there[:, 0]).tensor() for one in (dense, v))

    def cubes(one: Tensor) -> Tensor:
        return layer(one)[:, :, :2].pow(3).sum((1, 2))

    def true(one: Tensor) -> Tensor:
        return (layer(one * there) * there)[:, :, :2].pow(3).sum((1, 2))

    found = ask.jacobian(cubes, x, vectorize=vectorize)
    assert torch.equal(found.to_dense(), ask.jacobian(true, dense))
    assert torch.equal(ask.jvp(cubes, x, on)[1].to_dense(), ask.jvp(true, dense, v)[1])
    twice = ask.hvp(lambda one: cubes(one).sum(), x, on)[1].to_dense()
    assert torch.equal(twice, ask.hvp(lambda one: true(one).sum(), dense, v)[1])


def test_one_entry_of_a_map_is_a_number() -> None:
    """As a detector reads a heatmap where it is largest; of an absent site it is 0."""
    x = graph().tensor()
    dense = x.to_dense()
    for place in ((0, 1, 2, 3), (1, 0, 0, 0)):
        assert torch.equal(x[place], dense[place])


def test_an_empty_mask_and_one_node() -> None:
    model = build("plain")
    for count in (0, 1):
        mask = torch.zeros(2, 33, 41, dtype=torch.bool)
        mask[0, 5, 5] = count == 1
        out = model(cg.PixelGraph.from_image(image(2, 2, 33, 41), mask=mask).tensor())
        assert out.shape == (2, 3)
        assert out.isfinite().all()


OF_NOBODY = {
    "cropped": lambda y: y[:, :, 1:-1],
    "padded": lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"),
    "attention": lambda y: F.scaled_dot_product_attention(*[y.flatten(2).mT] * 3),
    "by hand": lambda y: (y.flatten(2).mT @ y.flatten(2)).softmax(-1) @ y.flatten(2).mT,
    "median": lambda y: y.flatten(2).median(2)[0],
    "maximum": lambda y: y.max(),
    "beside others": lambda y: torch.cat([y, graph(4).tensor()], 1),
}


@pytest.mark.parametrize("name", OF_NOBODY)
def test_gradients_are_sent_where_nobody_is(name: str) -> None:
    """A step of a batch without any node is a step: its gradients are 0, not missing."""
    layer = conv()
    nobody = cg.PixelGraph.from_image(image(2, 2, *SIZE), mask=torch.zeros_like(holes()))
    OF_NOBODY[name](layer(nobody.tensor())).sum().backward()
    assert not layer.weight.grad.any()


def test_a_single_node_has_no_variance() -> None:
    norm = nn.Sequential(conv(), nn.BatchNorm2d(4).double()).train()
    one = torch.zeros(1, *SIZE, dtype=torch.bool)
    one[0, 3, 3] = True
    with pytest.raises(ValueError, match="got one node"):
        norm(cg.PixelGraph.from_image(image(1, 2, *SIZE), mask=one).tensor())


def test_an_operator_without_a_rule_names_itself() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x).real

    model = nn.Sequential(conv(), nn.Sequential(Inner()))
    with pytest.raises(
        ConversionError, match=r"_fft_r2c in module '1\.0' has no meaning on a mask"
    ):
        model(graph().tensor())
    full = cg.PixelGraph.from_image(image(2, 2, *SIZE))
    assert torch.equal(model(full.tensor()), model(full.to_image()))


# Tokens: readouts beside nodes


class Vit(nn.Module):
    """Patches of 2 x 2, a class token and a register, positions, a bias on pairs, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 2, 6))
        self.place = nn.Parameter(torch.randn(1, 22, 6))
        self.bias = nn.Parameter(torch.randn(1, 2, 22, 22))
        self.norm = nn.ModuleList(nn.LayerNorm(6) for _ in range(5))
        self.qkv = nn.ModuleList(nn.Linear(6, 18) for _ in range(2))
        self.mlp = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, visible: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """With `visible`, the numbers of the patches of one image that are there: others go."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        bias = self.bias
        if visible is not None:
            kept = torch.cat([torch.arange(2), visible + 2])
            x, bias = x[:, kept], bias[:, :, kept][..., kept]
        for number in range(2):
            b, n, c = x.shape
            y = self.qkv[number](self.norm[number](x)).reshape(b, n, 3, 2, 3)
            q, k, v = y.permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            x = x + y.transpose(1, 2).reshape(b, n, c)
            x = x + F.gelu(self.mlp[number](self.norm[2 + number](x)))
        x = self.norm[4](x)
        return self.head(x[:, 0]), x[:, 2:].mean(1), x.mean(1)


@pytest.mark.parametrize("even", [False, True])
def test_tokens_beside_nodes_are_the_visible_tokens_alone(even: bool) -> None:
    """Each image by itself, its absent patches dropped: answers and gradients to 20 bits."""
    torch.manual_seed(0)
    model = Vit().double()
    x = torch.randn(2, 2, *SIZE).double()
    coarse = torch.rand(2, 4, 5) > 0.5
    if even:
        coarse[1] = coarse[0].flip(0)
    mask = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    got = model(cg.PixelGraph.from_image(x, mask=mask).tensor())
    want = [model(x[n : n + 1], coarse[n].flatten().nonzero()[:, 0]) for n in range(2)]
    grads = []
    for outs in (got, [torch.cat(parts) for parts in zip(*want, strict=True)]):
        loss = sum((out**2).sum() for out in outs)
        grads.append([*outs, *torch.autograd.grad(loss, model.parameters())])
    for mine, true in zip(*grads, strict=True):
        assert true.abs().max() > 0
        assert torch.equal(snap(mine.detach(), None), snap(true.detach(), None))


def _layers() -> tuple[Any, Any, Tensor]:
    """A torch layer of its own, a class token beside nodes, and who is there."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True).double()
    token = torch.randn(2, 1, 6).double().requires_grad_()
    nodes = graph(6).tensor().flatten(2).transpose(1, 2)
    there = torch.cat([torch.ones(2, 1, dtype=torch.bool), holes().flatten(1)], 1)
    return layer, layer(torch.cat([token, nodes], 1)), there


def test_the_gradient_of_tokens_beside_nodes_is_theirs() -> None:
    """torch.autograd.grad, .grad and a hook agree with each image's own tokens, to 20 bits."""
    layer, tokens, there = _layers()
    seen: list[Any] = []
    tokens.retain_grad()
    tokens.register_hook(lambda grad: seen.append(grad.to_dense()))
    loss = layer(tokens)[:, 0].square().sum()
    (grad,) = torch.autograd.grad(loss, tokens, retain_graph=True)
    seen.clear()
    tokens.grad = None
    loss.backward()
    assert torch.equal(grad.to_dense(), seen[0])
    assert torch.equal(grad.to_dense(), tokens.grad.to_dense())
    for n in range(2):
        own = tokens.to_dense()[n : n + 1][:, there[n]].detach().requires_grad_()
        (true,) = torch.autograd.grad(layer(own)[:, 0].square().sum(), own)
        mine = grad.to_dense()[n : n + 1][:, there[n]]
        assert torch.equal(snap(mine, None), snap(true, None))


def test_who_does_not_hear_tokens_gives_them_no_gradient() -> None:
    _, tokens, _ = _layers()
    with pytest.raises(RuntimeError, match="used in the graph"):
        torch.autograd.grad(torch.ones(1, requires_grad=True).sum(), tokens)
    (grad,) = torch.autograd.grad(tokens[:, 0].sum(), tokens)
    assert torch.equal(grad[:, 0], torch.ones(2, 6).double())
    assert not grad[:, 1:].to_dense().any()


def test_tokens_beside_nodes_are_copied_and_pickled_whole(tmp_path: Path) -> None:
    _, tokens, _ = _layers()
    tokens = tokens.detach()
    torch.save(tokens, tmp_path / "tokens.pt")
    for made in (
        copy.deepcopy(tokens), pickle.loads(pickle.dumps(tokens)),
        torch.load(tmp_path / "tokens.pt"),
    ):  # fmt: skip
        assert torch.equal(made.to_dense(), tokens.to_dense())
        assert torch.equal(made.sum((1, 2)), tokens.sum((1, 2)))


def test_nodes_hear_tokens_that_are_no_nodes_and_the_other_way_round() -> None:
    """Text beside an image, queries of a decoder: cross-attention, to 20 bits."""
    torch.manual_seed(0)
    g, there = graph(6), holes().flatten(1)
    nodes = g.tensor().flatten(2).transpose(1, 2).reshape(2, 80, 2, 3).transpose(1, 2)
    text = torch.randn(2, 2, 7, 3).double()
    dense = nodes.to_dense()
    mine = F.scaled_dot_product_attention(nodes, text, text)
    true = F.scaled_dot_product_attention(dense, text, text)
    true = torch.where(there[:, None, :, None], true, 0.0)
    assert torch.equal(snap(mine.to_dense(), None), snap(true, None))
    mine = F.scaled_dot_product_attention(text, nodes, nodes)
    true = F.scaled_dot_product_attention(text, dense, dense, there[:, None, None])
    assert torch.equal(snap(mine, None), snap(true, None))


@pytest.mark.parametrize("form", ["yes or no", "numbers"])
@pytest.mark.parametrize("nodes_ask", [False, True])
def test_a_map_says_who_hears_whom(form: str, nodes_ask: bool) -> None:
    """Each query hears the nodes that its own mask has, as in Mask2Former; to 20 bits."""
    torch.manual_seed(1)
    g, queries = graph(4), torch.randn(2, 3, 4).double()

    def asked(x: Tensor, query: Tensor) -> Tensor:
        masks = torch.einsum("bqc,bchw->bqhw", query, x).flatten(2)
        masks = masks.mT if nodes_ask else masks
        masks = masks if form == "numbers" else masks > 0
        nodes = x.flatten(2).mT
        q, k = (nodes, query) if nodes_ask else (query, nodes)
        return F.scaled_dot_product_attention(q, k, k, attn_mask=masks)

    mine = asked(g.tensor(), queries)
    for b, there in enumerate(holes()):
        one = g.to_image()[b : b + 1, :, there].unsqueeze(2)
        true = asked(one, queries[b : b + 1])[0]
        found = mine.to_dense()[b][there.flatten()] if nodes_ask else mine[b]
        assert torch.equal(snap(found, None), snap(true, None))


def test_distributions_of_nodes() -> None:
    g, there = graph(), holes()
    numbers = torch.distributions.Normal(g.tensor(), g.tensor().exp())
    rows = torch.distributions.Normal(g.x, g.x.exp())
    zero = torch.zeros(()).double()
    assert torch.equal(numbers.log_prob(zero).graph.x, rows.log_prob(zero))
    with pytest.raises(ValueError, match="invalid values"):
        torch.distributions.Normal(g.tensor(), -g.tensor().exp(), validate_args=True)
    shares = torch.distributions.Categorical(logits=g.tensor().movedim(1, -1) * 1e4)
    sure = there & (g.to_image().diff(dim=1)[:, 0] != 0)
    assert sure.any()
    assert torch.equal(shares.sample().to_dense()[sure], g.to_image().argmax(1)[sure])
    counts, _ = torch.histogram(g.tensor(), 3)
    assert torch.equal(counts, torch.histogram(g.x, 3)[0])


def test_a_sequence_is_not_cut_through_its_nodes() -> None:
    x = graph(6).tensor().flatten(2).transpose(1, 2)
    both = torch.cat([torch.zeros(2, 1, 6).double(), x], 1)
    assert both.shape == (2, 81, 6)
    assert torch.equal(both[:, 1:].to_dense(), x.to_dense())
    assert both[:, 0].shape == (2, 6)
    with pytest.raises(ConversionError, match="takes a part of the nodes out of a sequence"):
        both[:, 3:]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (-4, 2), (1, 2), (3, 3), (0, 6), (2, 0)])
def test_narrow_takes_what_torch_takes(start: int, length: int) -> None:
    """Also counted from the end: of channels, of a lattice axis, and of tokens beside nodes."""
    x = image(2, 6, 8, 10)
    x = cg.PixelGraph.from_image(x).tensor()
    both = torch.cat([torch.zeros(2, 1, 6).double(), x.flatten(2).transpose(1, 2)], 1)
    for maps, dims in ((x, (1, 2) if length else (1,)), (both, (2,))):
        for dim in dims:
            found = maps.narrow(dim, start, length).to_dense()
            assert torch.equal(found, maps.to_dense().narrow(dim, start, length))


def test_narrow_beyond_the_end_is_torchs_error() -> None:
    x = graph(6).tensor()
    for dim, size in ((1, 6), (2, 8)):
        with pytest.raises(RuntimeError, match=rf"length \(4\) exceeds dimension size \({size}\)"):
            x.narrow(dim, size - 3, 4)


def test_a_transposed_map_is_a_lattice() -> None:
    c = conv(2, 3)
    x = graph().tensor()
    for stride in (1, 2):
        turned = F.conv2d(x.transpose(2, 3), c.weight.transpose(2, 3), c.bias, stride, padding=1)
        straight = F.conv2d(x, c.weight, c.bias, stride, padding=1)
        assert torch.equal(turned.transpose(2, 3).to_dense(), straight.to_dense())
        assert torch.equal(turned.graph.mask.transpose(1, 2), straight.graph.mask)


@pytest.mark.parametrize("last", [lambda x: x.contiguous(), lambda x: x.flatten(1)])
def test_views_of_a_map_that_may_be_laid_otherwise_are_views(last: Any) -> None:
    """Heads of a map made of permuted ones: torch splits what is dense, in whatever order."""

    def heads(x: Any) -> Any:
        moved = F.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        turned = torch.add(moved, moved)
        return last(turned.view(2, 2, 2, -1).transpose(2, 3)[:, 1:])

    g = graph()
    found = heads(g.tensor())
    want = heads(g.tensor().to_dense().contiguous())
    assert torch.equal(found.to_dense(), want)


def test_a_full_map_is_an_image_where_values_are_trees_too() -> None:
    """Tiles make a tree of what stands for a map, whose leaves are its parts."""
    importlib.import_module("convgraph.scale.nodes")
    image = torch.randn(1, 2, 4, 5)
    made = cg.PixelGraph.from_image(image).tensor()
    assert torch.equal(torch.fft.fft2(made), torch.fft.fft2(image))
