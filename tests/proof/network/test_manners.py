"""A network that does otherwise once a tensor is asked for more than its numbers is refuted."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof import Certificate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.kept: tuple[Any, ...] = ()
        self.skip: Callable[[Any, Tensor, Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).relu()
        return self.two(y) + (y if self.skip is None else self.skip(self, x, y))


class Once(torch.autograd.Function):
    """Right as long as backward runs once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.left = 1
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        ctx.left -= 1
        return heads[0] if ctx.left == 0 else 0 * heads[0]


class Square(torch.autograd.Function):
    """Backward needs y: of this call, or of whichever was the last."""

    @staticmethod
    def forward(ctx: Any, net: Any, y: Tensor, last: bool) -> Tensor:
        ctx.net, ctx.last, net.kept = net, last, (y,)
        ctx.save_for_backward(y)
        return y * y

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        (y,) = ctx.net.kept if ctx.last else ctx.saved_tensors
        return None, 2 * y * heads[0], None


def cached(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """By the tensor, whatever it holds by now."""
    if not net.kept or net.kept[0] is not x:
        net.kept = (x, y.detach())
        return y
    found: Tensor = y - y.detach() + net.kept[1]
    return found


def hooked(net: Any, x: Tensor, y: Tensor) -> Tensor:
    def twice(leaf: Any) -> None:
        leaf.grad *= 2

    if x.is_leaf and x.requires_grad:
        x.register_post_accumulate_grad_hook(twice)
    return y


def asks(question: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda net, x, y: y.detach() if question(net, x) else y


WRONG: dict[str, Any] = {
    "a leaf": asks(lambda n, x: x.is_leaf and x.requires_grad),
    "a plain leaf of no gradient yet": (
        lambda n, x, y: y + (type(x) is Tensor and x.is_leaf and x.requires_grad and x.grad is None)
    ),
    "a gradient that is there": asks(lambda n, x: x.is_leaf and x.grad is not None),
    "a gradient of a weight": asks(lambda n, x: n.one.weight.grad is not None),
    "no history": asks(lambda n, x: x.grad_fn is None and x.requires_grad),
    "a frozen weight": asks(lambda n, x: not n.one.weight.requires_grad),
    "another layout": asks(lambda n, x: not x.is_contiguous()),
    "an offset": asks(lambda n, x: x.storage_offset()),
    "a kept gradient": asks(lambda n, x: x.retains_grad),
    "a parameter": asks(lambda n, x: isinstance(x, nn.Parameter)),
    "a version": asks(lambda n, x: x._version > 0),
    "inference mode": lambda n, x, y: 2 * y if torch.is_inference_mode_enabled() else y,
    "a tensor of before": cached,
    "a hook on a leaf": hooked,
    "backward once more": lambda n, x, y: Once.apply(y),
    "what the last call saved": lambda n, x, y: Square.apply(n, y, True),
}
LONG = ("no history", "an offset", "a kept gradient", "a version", "a parameter", "a frozen weight")


def prove(skip: Any, of: Any = None) -> Certificate:
    torch.manual_seed(0)
    dense = Net().double()
    other = copy.deepcopy(dense)
    dense.skip, other.skip = of, skip
    return cg.prove(other, dense, torch.randn(2, 2, 4, 4).double())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.ci) if n in LONG else n for n in WRONG]
)
def test_what_does_otherwise_when_it_is_asked_is_refuted(name: str) -> None:
    right = (lambda n, x, y: Square.apply(n, y, False)) if "saved" in name else None
    cert = prove(WRONG[name], right)
    parts = {part.name: part.status for part in cert.parts}
    assert (cert.verdict, parts["wiring"]) == ("refuted", "proven"), str(cert)
    assert " is " in cert.reason


def test_two_that_do_alike_when_they_are_asked_are_proven() -> None:
    """Both cut the skip of a leaf: one function all the same."""
    assert prove(WRONG["a leaf"], WRONG["a leaf"]).verdict == "proven"
    assert prove(None, WRONG["a leaf"]).verdict == "refuted"


def test_what_only_rounds_otherwise_in_inference_mode_is_proven() -> None:
    """Nobody has a gradient there: that the candidate has none is no fault of it."""
    found = prove(lambda n, x, y: y * 3 / 3 if torch.is_inference_mode_enabled() else y)
    assert found.verdict == "proven", found.reason


def test_a_flag_that_one_manner_alone_moves_is_seen() -> None:
    def moves(net: Any, x: Tensor, y: Tensor) -> Tensor:
        if x.is_leaf and x.requires_grad:
            torch.set_default_dtype(torch.float64)
        return y

    cert = prove(moves)
    assert (cert.verdict, torch.get_default_dtype()) == ("undecided", torch.float32)
    assert "it leaves torch.get_default_dtype() at torch.float64" in cert.reason


def test_what_is_called_is_left_as_it_was() -> None:
    dense = Net().double()
    dense.one.weight.requires_grad_(False)
    cert = cg.prove(copy.deepcopy(dense), dense, torch.randn(2, 2, 4, 4).double())
    assert cert.verdict == "proven", cert.reason
    assert not dense.one.weight.requires_grad
    assert dense.one.bias is not None
    assert dense.one.bias.requires_grad
    assert all(p.grad is None for p in dense.parameters())


class Lies(nn.Module):
    """Notes how what it is given lies in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(x.stride())
        return x


@pytest.mark.parametrize(
    ("channels", "stride", "last"), [(3, 2, False), (3, 1, True), (16, 2, True)]
)
def test_a_strided_point_of_few_channels_is_sent_no_image_that_lies_channels_last(
    channels: int, stride: int, last: bool
) -> None:
    """There oneDNN writes beyond its memory; elsewhere that is one of the manners."""
    net = nn.Sequential(Lies(), nn.Conv2d(channels, 2, 1, stride), nn.ReLU()).eval()
    cert = cg.prove(copy.deepcopy(net), net, torch.rand(2, channels, 4, 6))
    assert cert.verdict == "proven", str(cert)
    seen = net[0].seen
    assert ((24 * channels, 1, 6 * channels, channels) in seen) == last
    assert any(steps[-1] != 1 for steps in seen)


@pytest.mark.parametrize("train", [False, True])
def test_on_a_mask_no_image_lies_channels_last(train: bool) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), Lies(),
        nn.Conv2d(4, 8, 1, 2),
    ).train(train)  # fmt: skip
    graph = cg.PixelGraph.from_image(torch.rand(2, 3, 8, 8), mask=torch.rand(2, 8, 8) > 0.3)
    cg.prove(cg.to_graph(net), net, graph)
    assert all(steps[1] != 1 for steps in net[3].seen)
