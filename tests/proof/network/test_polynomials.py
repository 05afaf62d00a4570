"""Networks that are written by other operators: proven where they are the same, never else."""

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof.network import polynomials, terms
from convgraph.proof.network.meanings import points
from convgraph.proof.network.polynomials import Constant, Points, Polynomial, constant, exactly
from convgraph.proof.network.value_numbers import Numbering
from convgraph.proof.record.certificate import Certificate
from tests import zoo


class Net(nn.Module):
    """Something between two convolutions, and layers of all kinds to write it with."""

    def __init__(self, between: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm2d(4)
        self.row, self.group = nn.LayerNorm(4), nn.GroupNorm(2, 4)
        self.between = [between]
        for norm in (self.norm, self.row, self.group):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        nn.init.normal_(self.norm.running_mean), nn.init.uniform_(self.norm.running_var, 0.1, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.two(self.between[0](self, self.one(x)))
        return made


def rows(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda y: call(y.flatten(2).mT).mT.unflatten(2, y.shape[2:])


def channels(t: Tensor) -> Tensor:
    return t.view(1, -1, 1, 1)


def scaled(n: Net) -> Tensor:
    return n.norm.weight / torch.sqrt(n.norm.running_var + n.norm.eps)


def by_hand(y: Tensor, eps: float, dims: Any = -1, correction: int = 0) -> Tensor:
    apart = y - y.mean(dims, keepdim=True)
    var = (apart**2).sum(dims, keepdim=True)
    count = apart[0].numel() // var[0].numel() - correction
    return apart * torch.rsqrt(var / count + eps)


def by_moments(y: Tensor, eps: float, dims: Any) -> Tensor:
    """With the variance that torch has; the factor 2 / n of its gradient is no exact float."""
    return (y - y.mean(dims, keepdim=True)) / torch.sqrt(
        y.var(dims, keepdim=True, correction=0) + eps
    )


def heads(n: Net, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = y.flatten(2).mT[:, None].contiguous()
    return x, x * 2 + n.linear.bias, x * n.linear.weight[0]


def joined(y: Tensor, out: Tensor) -> Tensor:
    return out.transpose(1, 2).flatten(2).mT.reshape(y.shape)


def attended(n: Net, y: Tensor, scale: float = 0.5) -> Tensor:
    q, k, v = heads(n, y)
    return joined(y, (q @ k.mT * scale).softmax(-1) @ v)


Way = Callable[[Net, Tensor], Tensor]

SAME: dict[str, list[Way]] = {
    "convolution": [
        lambda n, y: n.conv(y),
        lambda n, y: F.conv2d(F.pad(y, (1, 1, 1, 1)), n.conv.weight, n.conv.bias, groups=2),
        lambda n, y: F.conv2d(y, n.conv.weight, padding=1, groups=2) + channels(n.conv.bias),
        lambda n, y: torch.cat([
            F.conv2d(y[:, a:b], n.conv.weight[a:b], n.conv.bias[a:b], padding=1)
            for a, b in ((0, 2), (2, 4))
        ], 1),
        lambda n, y: sum(
            F.conv2d(F.pad(y, (1 - j, j - 1, 1 - i, i - 1)), n.conv.weight[:, :, i:i + 1, j:j + 1],
                     groups=2) for i in range(3) for j in range(3)
        ) + channels(n.conv.bias),
        lambda n, y: torch.cat([
            (w.flatten(1) @ F.unfold(x, 3, padding=1)).unflatten(2, y.shape[2:])
            for w, x in zip(n.conv.weight.split(2), y.split(2, 1), strict=True)
        ], 1) + channels(n.conv.bias),
    ],
    "linear": [
        lambda n, y: rows(n.linear)(y),
        lambda n, y: rows(lambda x: x @ n.linear.weight.t() + n.linear.bias)(y),
        lambda n, y: torch.einsum("bchw,oc->bohw", y, n.linear.weight) + channels(n.linear.bias),
        lambda n, y: F.conv2d(y, n.linear.weight[..., None, None], n.linear.bias),
        lambda n, y: rows(lambda x: torch.cat(
            [F.linear(x, n.linear.weight[a:a + 2], n.linear.bias[a:a + 2]) for a in (0, 2)], -1)
        )(y),
    ],
    "batch norm": [
        lambda n, y: n.norm(y),
        lambda n, y: y * channels(scaled(n))
        + channels(n.norm.bias - n.norm.running_mean * scaled(n)),
        lambda n, y: (y - channels(n.norm.running_mean)) / channels(
            (n.norm.running_var + n.norm.eps) ** 0.5
        ) * channels(n.norm.weight) + channels(n.norm.bias),
    ],
    "layer norm": [
        lambda n, y: rows(n.row)(y),
        lambda n, y: rows(lambda x: by_hand(x, n.row.eps) * n.row.weight + n.row.bias)(y),
        lambda n, y: by_hand(y, n.row.eps, 1) * channels(n.row.weight) + channels(n.row.bias),
        lambda n, y: rows(lambda x: n.row.bias + n.row.weight * (
            x - x.mean(-1, keepdim=True)) / torch.sqrt(
            x.var(-1, keepdim=True, correction=0) + n.row.eps))(y),
        lambda n, y: rows(lambda x: n.row.bias + n.row.weight * (
            x - x.mean(-1, keepdim=True)) * (
            torch.var_mean(x, -1, keepdim=True, correction=0)[0] + n.row.eps) ** -0.5)(y),
    ],
    "group norm": [
        lambda n, y: n.group(y),
        lambda n, y: by_hand(y.unflatten(1, (2, 2)), n.group.eps, (2, 3, 4)).flatten(1, 2)
        * channels(n.group.weight) + channels(n.group.bias),
        lambda n, y: by_moments(y.unflatten(1, (2, 2)), n.group.eps, (2, 3, 4)).flatten(1, 2)
        * channels(n.group.weight) + channels(n.group.bias),
    ],
    "group norm of all": [
        lambda n, y: F.group_norm(y, 1, n.group.weight, n.group.bias),
        lambda n, y: by_moments(y, 1e-5, (1, 2, 3)) * channels(n.group.weight)
        + channels(n.group.bias),
    ],
    "instance norm": [
        lambda n, y: F.instance_norm(y, weight=n.group.weight, bias=n.group.bias),
        lambda n, y: by_moments(y, 1e-5, (2, 3)) * channels(n.group.weight)
        + channels(n.group.bias),
        lambda n, y: by_hand(y, 1e-5, (2, 3)) * channels(n.group.weight) + channels(n.group.bias),
    ],
    "batch norm of the batch": [
        lambda n, y: F.batch_norm(y, None, None, n.norm.weight, n.norm.bias, True, eps=1e-5),
        lambda n, y: by_moments(y, 1e-5, (0, 2, 3)) * channels(n.norm.weight)
        + channels(n.norm.bias),
    ],
    "attention": [
        lambda n, y: joined(y, F.scaled_dot_product_attention(*heads(n, y))),
        attended,
    ],
    "relu": [
        lambda n, y: F.relu(y),
        lambda n, y: y * (y > 0),
        lambda n, y: torch.where(y > 0, y, 0),
        lambda n, y: F.relu(F.relu(y)),
        lambda n, y: F.threshold(y, 0, 0),
    ],
    "hard swish": [
        lambda n, y: F.hardswish(y),
        lambda n, y: y * F.relu6(y + 3) / 6,
        lambda n, y: y * (F.hardtanh(y + 3, 0, 6) / 6),
    ],
    "hard sigmoid": [
        lambda n, y: F.hardsigmoid(y),
        lambda n, y: F.relu6(y + 3) / 6,
    ],
    "leaky": [
        lambda n, y: F.leaky_relu(y, 0.1),
        lambda n, y: torch.where(y > 0, y, 0.1 * y),
    ],
    "relu6": [
        lambda n, y: F.relu6(y),
        lambda n, y: -F.hardtanh(-y, -6, 0),
    ],
    "between": [
        lambda n, y: y.clamp(-0.5, 2),
        lambda n, y: y.clamp(min=-0.5).clamp(max=2),
        lambda n, y: y.clamp(max=2).clamp(min=-0.5),
    ],
    "silu": [
        lambda n, y: F.silu(y),
        lambda n, y: y * y.sigmoid(),
        lambda n, y: y / (1 + torch.exp(-y)),
    ],
    "mish": [
        lambda n, y: F.mish(y),
        lambda n, y: y * torch.tanh(F.softplus(y)),
        lambda n, y: F.softplus(y).tanh() * y,
    ],
    "sigmoid": [
        lambda n, y: torch.sigmoid(y),
        lambda n, y: 1 / (1 + torch.exp(-y)),
        lambda n, y: (torch.exp(-y) + 1).reciprocal(),
        lambda n, y: y.exp() / (1 + y.exp()),
        lambda n, y: 0.5 / (0.5 + 0.5 / y.exp()),
    ],
    "mean": [
        lambda n, y: y * y.mean((2, 3), keepdim=True),
        lambda n, y: y * (y.sum(3, keepdim=True).sum(2, keepdim=True) / (y.shape[2] * y.shape[3])),
        lambda n, y: y * F.adaptive_avg_pool2d(y, 1),
        lambda n, y: y * y.flatten(2).mean(2)[..., None, None],
    ],
    "mean of channels": [
        lambda n, y: y * y.mean(1, keepdim=True),
        lambda n, y: y * y[:, :1].index_add(1, torch.tensor([0, 0, 0]), y[:, 1:]) / 4,
        lambda n, y: y * y[:, :1].scatter_add(
            1, torch.zeros(1, 1, 1, 1).long().expand(2, 3, 6, 4), y[:, 1:]) / 4,
    ],
    "norm of pixels": [
        lambda n, y: F.instance_norm(y),
        lambda n, y: F.group_norm(y, 4),
    ],
    "upsample": [
        lambda n, y: F.interpolate(y, scale_factor=2),
        lambda n, y: y[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(2, 4, 12, 8),
    ],
    "pool": [
        lambda n, y: F.avg_pool2d(y, 2),
        lambda n, y: y.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)),
        lambda n, y: (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2]
                      + y[..., 1::2, 1::2]) / 4,
        lambda n, y: F.adaptive_avg_pool2d(y, (3, 2)),
        lambda n, y: F.conv2d(y, torch.full((4, 1, 2, 2), 0.25), stride=2, groups=4),
    ],
    "sum": [
        lambda n, y: y + 2 * y * y,
        lambda n, y: y * (1 + 2 * y),
        lambda n, y: torch.addcmul(y, y, y, value=2),
    ],
}  # fmt: skip

PAIRS = [
    pytest.param(ways[a], ways[b], id=f"{name} {a} {b}")
    for name, ways in SAME.items()
    for a, b in [(0, k) for k in range(1, len(ways))] + [(1, 0)]
]


def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 2, 6, 4)


def proof(one: Way, two: Way) -> Certificate:
    """Of the second, held against the first."""
    net, other = Net(one), Net(two)
    other.load_state_dict(net.state_dict())
    return cg.prove(other, net, images())


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_one_function_that_is_written_in_two_ways_is_proven(one: Way, two: Way) -> None:
    found = proof(one, two)
    status = {part.name: part.status for part in found.parts}
    assert found.verdict == "proven", str(found)
    assert (status["wiring"], status["gradients"]) == ("proven", "proven"), str(found)
    assert found.log2_epsilon <= -100


def quarters(y: Tensor) -> list[Tensor]:
    return [y[..., i::2, j::2] for i in range(2) for j in range(2)]


def windows(y: Tensor, size: int) -> Tensor:
    return F.pad(y, (1, 1, 1, 1)).unfold(2, size, 1).unfold(3, size, 1)


def pools(y: Tensor, *sizes: int) -> Tensor:
    for size in sizes:
        y = F.max_pool2d(y, size, 1, size // 2)
    return y


TIES: dict[str, list[Way]] = {
    "relu": [
        lambda n, y: F.relu(y),
        lambda n, y: torch.maximum(y, torch.zeros_like(y)),
        lambda n, y: y.clamp(min=0),
        lambda n, y: torch.stack([torch.zeros_like(y), y, y]).amax(0),
        lambda n, y: -torch.minimum(-y, torch.zeros(1)),
        lambda n, y: torch.maximum(y, F.relu(y)),
    ],
    "relu6": [
        lambda n, y: F.relu6(y),
        lambda n, y: y.clamp(0, 6),
        lambda n, y: F.relu(y).clamp(max=6),
        lambda n, y: F.relu(y.clamp(max=6)),
        lambda n, y: torch.minimum(F.relu(y), torch.full_like(y, 6)),
    ],
    "between": [
        lambda n, y: y.clamp(-0.1, 0.3),
        lambda n, y: torch.minimum(torch.maximum(y, torch.tensor(-0.1)), torch.tensor(0.3)),
        lambda n, y: F.hardtanh(F.hardtanh(y, -0.1, 0.7), -0.3, 0.3),
    ],
    "leaky": [
        lambda n, y: F.leaky_relu(y, 0.1),
        lambda n, y: torch.maximum(y, 0.1 * y),
        lambda n, y: torch.maximum(y * 0.1, y),
    ],
    "pool": [
        lambda n, y: F.max_pool2d(y, 2),
        lambda n, y: torch.maximum(*(torch.maximum(*quarters(y)[k:k + 2]) for k in (0, 2))),
        lambda n, y: y.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5)),
        lambda n, y: y.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).max(-1)[0],
        lambda n, y: -(-torch.stack(quarters(y))).amin(0),
        lambda n, y: F.max_pool2d(F.max_pool2d(y, (2, 1)), (1, 2)),
    ],
    "pools of pools": [
        lambda n, y: pools(y, 5),
        lambda n, y: pools(y, 3, 3),
        lambda n, y: pools(pools(y, 3), 3),
        lambda n, y: torch.maximum(pools(y, 3, 3), pools(y, 3)),
    ],
    "pool of what is cut": [
        lambda n, y: pools(F.relu(y), 3),
        lambda n, y: F.relu(pools(y, 3)),
        lambda n, y: windows(F.relu(y), 3).amax((-1, -2)),
        lambda n, y: F.max_pool2d(F.pad(F.relu(y), (1, 1, 1, 1)), 3, 1),
    ],
    "dilated": [
        lambda n, y: F.max_pool2d(y, 3, 2, 1, 2, ceil_mode=True),
        lambda n, y: F.max_pool2d(F.max_pool2d(y, (3, 1), (2, 1), (1, 0), (2, 1), ceil_mode=True),
                                  (1, 3), (1, 2), (0, 1), (1, 2), ceil_mode=True),
    ],
    "of channels": [
        lambda n, y: y * y.amax(1, keepdim=True),
        lambda n, y: y * torch.maximum(y[:, :2], y[:, 2:]).max(1, keepdim=True)[0],
        lambda n, y: -y * (-y).amin(1)[:, None],
    ],
    "a largest of two": [
        lambda n, y: torch.maximum(y, y.flip(1)) * 0.5,
        lambda n, y: torch.stack([y, y.flip(1)], 2).amax(2) / 2,
    ],
}  # fmt: skip

TIED = [
    pytest.param(ways[a], ways[b], id=f"{name} {a} {b}")
    for name, ways in TIES.items()
    for a, b in [(0, k) for k in range(1, len(ways))] + [(1, 0)]
]


@pytest.mark.parametrize(("one", "two"), TIED)
def test_values_of_largest_elements_are_one_and_gradients_may_part_at_ties(
    one: Way, two: Way
) -> None:
    found = proof(one, two)
    status = {part.name: part.status for part in found.parts}
    assert status["wiring"] == "proven", str(found)
    assert (found.verdict, status["gradients"]) == ("undecided", "undecided"), str(found)
    assert "the values are proven; where what is compared is equal" in found.reason


def test_largest_elements_are_one_set_under_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        monkeypatch.setattr(polynomials, "_SEED", seed)
        found = points(Numbering())
        x = drawn(found, (40,), "x")
        rows = torch.arange(38)[:, None]
        pairs = found.maxima.largest(x, rows + torch.tensor([0, 1]))
        nested = found.maxima.largest(pairs, rows[:37] + torch.tensor([0, 1]))
        flat = found.maxima.largest(x, rows[:37] + torch.tensor([2, 0, 1]))
        assert torch.equal(nested.at, flat.at)
        assert not (pairs.at[:, :37] == flat.at).all(0).any()
        zero, six = constant(0.0), constant(6.0)
        cuts = [
            found.maxima.between(p, None, six) for p in (x, found.maxima.between(x, zero, None))
        ]
        cuts[0] = found.maxima.between(cuts[0], zero, None)
        assert torch.equal(cuts[0].at, cuts[1].at)
        assert torch.equal((-found.maxima.between(-x, constant(-6.0), zero)).at, cuts[0].at)
        assert not (found.maxima.between(x, zero, None).at == cuts[0].at).all(0).any()


WRONG: dict[str, tuple[Way, Way]] = {
    "pads of one side": (SAME["convolution"][0], lambda n, y: F.conv2d(
        F.pad(y, (2, 0, 1, 1)), n.conv.weight, n.conv.bias, groups=2)),
    "a bias too few": (SAME["convolution"][0], lambda n, y: F.conv2d(
        y, n.conv.weight, padding=1, groups=2)),
    "a bias twice": (SAME["convolution"][0], lambda n, y: n.conv(y) + channels(n.conv.bias)),
    "groups exchanged": (SAME["convolution"][0], lambda n, y: F.conv2d(
        y.flip(1), n.conv.weight, n.conv.bias, padding=1, groups=2)),
    "a weight turned over": (SAME["linear"][0], lambda n, y: rows(
        lambda x: x @ n.linear.weight + n.linear.bias)(y)),
    "no eps": (SAME["batch norm"][0], lambda n, y: (y - channels(n.norm.running_mean)) / channels(
        n.norm.running_var**0.5) * channels(n.norm.weight) + channels(n.norm.bias)),
    "eps behind the root": (SAME["layer norm"][0], lambda n, y: rows(
        lambda x: n.row.bias + n.row.weight * (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, keepdim=True, correction=0).sqrt() + n.row.eps))(y)),
    "a variance without bias": (SAME["layer norm"][0], lambda n, y: rows(
        lambda x: by_hand(x, n.row.eps, correction=1) * n.row.weight + n.row.bias)(y)),
    "groups of channels": (SAME["group norm"][0], lambda n, y: by_hand(
        y.unflatten(1, (2, 2)).transpose(1, 2), n.group.eps, (2, 3, 4)).transpose(1, 2).flatten(
        1, 2) * channels(n.group.weight) + channels(n.group.bias)),
    "another axis": (lambda n, y: y.softmax(1), lambda n, y: y.softmax(2)),
    "another scale": (SAME["attention"][0], lambda n, y: attended(n, y, 0.25)),
    "no scale": (SAME["attention"][0], lambda n, y: attended(n, y, 1.0)),
    "cut elsewhere": (SAME["relu"][0], lambda n, y: y * (y > 1e-3)),
    "not cut": (SAME["relu"][0], lambda n, y: y * (y != 0)),
    "cut in the gradient alone": (SAME["relu"][0], lambda n, y: y * (y > 0) + (
        y - y.detach()) * (y > 2)),
    "a gradient that is cut": (SAME["silu"][0], lambda n, y: y * y.sigmoid().detach()),
    "a norm that nobody sends back": (SAME["layer norm"][0], lambda n, y: rows(
        lambda x: (x - x.mean(-1, keepdim=True)) * torch.rsqrt(
            x.var(-1, keepdim=True, correction=0) + n.row.eps).detach() * n.row.weight
        + n.row.bias)(y)),
    "a group norm without bias": (SAME["group norm of all"][0], lambda n, y: (
        y - y.mean((1, 2, 3), keepdim=True)) / torch.sqrt(
        y.var((1, 2, 3), keepdim=True) + 1e-5) * channels(n.group.weight)
        + channels(n.group.bias)),
    "a pixel too few": (SAME["mean"][0], lambda n, y: y * (
        y.sum((2, 3), keepdim=True) / (y.shape[2] * y.shape[3] - 1))),
    "another softplus": (SAME["mish"][0], lambda n, y: y * torch.tanh(F.softplus(y, 1.001))),
    "a softplus that nobody sends back": (SAME["mish"][0], lambda n, y: y * torch.tanh(
        F.softplus(y).detach())),
    "a square": (SAME["sum"][0], lambda n, y: y * (1 + 2 * y * y)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_another_function_is_refuted(name: str) -> None:
    found = proof(*WRONG[name])
    assert found.verdict == ("undecided" if name in UNSEEN else "refuted"), str(found)


UNSEEN = ("cut elsewhere", "cut in the gradient alone")
"""What no number shows here."""

TINY: dict[str, Way] = {
    "a factor": lambda n, y: y * (1 + 2 * y) * (1 + 2.0**-23),
    "a summand": lambda n, y: y * (1 + 2 * y) + 1e-12,
    "one entry": lambda n, y: y * (1 + 2 * y) + F.pad(1e-9 * y[..., :1, :1], (0, 3, 0, 5)),
    "its square": lambda n, y: y * (1 + 2 * y) + 1e-12 * y * y * y,
}


@pytest.mark.parametrize("name", TINY)
def test_what_is_off_by_less_than_float32_shows_is_not_proven(name: str) -> None:
    found = proof(SAME["sum"][0], TINY[name])
    assert found.verdict == "refuted", str(found)
    assert "in float64" in found.reason


@pytest.mark.parametrize("size", [8.0, 1.0, 1e-3])
def test_what_cancels_is_no_direct_sum(size: float) -> None:
    """Equal as polynomials, and every digit may be lost."""
    found = proof(lambda n, y: y + y * y, lambda n, y: y * (1 + y) + size - size)
    assert found.verdict == "undecided"
    assert "no direct sum" in found.reason


def test_what_overflows_where_the_other_does_not_is_undecided() -> None:
    found = proof(lambda n, y: y.softmax(1), lambda n, y: y.exp() / y.exp().sum(1, keepdim=True))
    assert found.verdict == "undecided"


@pytest.mark.parametrize("factor", [1, 100, 1000])
def test_a_number_where_the_reference_has_none_is_not_proven(factor: float) -> None:
    """The reference overflows on these very images: inf / inf is no number, a sigmoid is one."""
    found = proof(
        lambda n, y: (factor * y).exp() / (1 + (factor * y).exp()),
        lambda n, y: (factor * y).sigmoid(),
    )
    (end,) = (part for part in found.parts if part.name == "end to end")
    assert (found.verdict == "proven") == (factor == 1), str(found)
    assert (end.status == "undecided") == ("is nan on the reference" in end.facts) == (factor != 1)


def lost(y: Tensor) -> Tensor:
    """0 as a polynomial, and what rounding leaves in real numbers."""
    far = 64 * y.flip(1)
    return (y + far) - far - y


@pytest.mark.parametrize(
    "way",
    [
        lambda n, y: y * (1 + 2 * y) + lost(y),
        lambda n, y: y * (1 + 2 * y) * (1 + lost(y)),
        lambda n, y: y * (1 + 2 * y) + lost(y).mean((2, 3), keepdim=True),
    ],
)
def test_nothing_that_comes_of_what_cancels_is_no_direct_sum(way: Way) -> None:
    found = proof(SAME["sum"][0], way)
    assert found.verdict != "proven", str(found)
    assert "no direct sum" in found.reason or "rounding explains" in found.reason


def by_variance(
    variance: Callable[[Tensor], Tensor], root: Callable[[Tensor], Tensor] = torch.rsqrt
) -> Way:
    """A layer norm with a variance, and what is done to it, of one's own."""
    return lambda n, y: rows(lambda x: (x - x.mean(-1, keepdim=True)) * root(
        variance(x) + n.row.eps) * n.row.weight + n.row.bias)(y)  # fmt: skip


def steps(y: Tensor, factor: float) -> Tensor:
    """Far away and back, by factors that are exact."""
    for step in [factor] * 6 + [1 / factor] * 6:
        y = y * step
    return y


def apart(y: Tensor, dtype: torch.dtype) -> Tensor:
    """By how much channels differ, in a dtype."""
    sums = y.to(dtype).pow(4).sum((2, 3), keepdim=True)
    return y * (sums - sums.flip(1)).to(y.dtype)


def chosen(y: Tensor) -> tuple[Tensor, Tensor]:
    return y, 1e6 * y * y


LOSES: dict[str, tuple[Way, Way]] = {
    "a variance of squares": (SAME["layer norm"][0], by_variance(
        lambda x: (x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2)),
    "a variance half of squares": (SAME["layer norm"][0], by_variance(
        lambda x: ((x - x.mean(-1, keepdim=True)) * x).mean(-1, keepdim=True))),
    "within a root": (SAME["layer norm"][0], by_variance(
        lambda x: x.var(-1, keepdim=True, correction=0), lambda v: torch.rsqrt(v + 64 - 64))),
    "within a divisor": (SAME["layer norm"][0], by_variance(
        lambda x: x.var(-1, keepdim=True, correction=0), lambda v: 1 / (v.sqrt() + 64 - 64))),
    "a square of a difference": (
        lambda n, y: (y - y.mean(1, keepdim=True)) ** 2,
        lambda n, y: y * y - 2 * y * y.mean(1, keepdim=True) + y.mean(1, keepdim=True) ** 2),
    "what another sum loses": (
        lambda n, y: (y + 64 - 64) * 0.5 + y.exp(),
        lambda n, y: (y + 64 - 64) * 0.5 + (y + 64 - 64).exp()),
    "an exponential that vanishes": (
        SAME["sum"][0],
        lambda n, y: y * (1 + 2 * y) * torch.exp(y + 2.0**12 - 2.0**12) * torch.exp(-y)),
    "a divisor that vanishes": (
        lambda n, y: y * y.sigmoid(),
        lambda n, y: y * y.sigmoid() * (1 + torch.exp(y)) / (1 + torch.exp(y) + 2.0**12 - 2.0**12)),
    "a sigmoid from 1": (lambda n, y: y.sigmoid(), lambda n, y: 1 - torch.sigmoid(-y)),
    "a sigmoid far from 0": (
        lambda n, y: y.sigmoid(), lambda n, y: 1 / (1 + torch.exp(64 - y - 64))),
    "a choice": (
        lambda n, y: torch.where(y > 0, *chosen(y)),
        lambda n, y: chosen(y)[1] + (y > 0) * (chosen(y)[0] - chosen(y)[1])),
    "too large on the way": (SAME["sum"][0], lambda n, y: steps(y, 2.0**20) + 2 * y * y),
    "too small on the way": (SAME["sum"][0], lambda n, y: steps(y, 2.0**-20) + 2 * y * y),
    "a sum of few bits": (lambda n, y: apart(y, torch.float64), lambda n, y: apart(y, y.dtype)),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSES)
def test_what_loses_digits_that_the_other_keeps_is_not_proven(name: str) -> None:
    found = proof(*LOSES[name])
    assert found.verdict != "proven", str(found)


def test_what_a_variable_is_made_of_is_held_at_each_entry() -> None:
    numbering = Numbering()
    points = Points(numbering)
    x = points.of(numbering.named("x", (50,)))
    points.put(numbering.take((50,)), points.atom("exp", x))
    points._indexed()
    for place in range(50):
        points.larger = 1.0
        one = x.moved(lambda t, place=place: t[:, place : place + 1])  # type: ignore[misc]
        points.atom("exp", one + constant(64.0) + constant(-64.0))
        assert points.larger > 1


def test_large_whole_numbers_are_told_apart() -> None:
    """Float64 takes them for one."""
    found = proof(
        lambda n, y: y * (y.long() == torch.tensor(2**53)),
        lambda n, y: y * (y.long() == torch.tensor(2**53 + 1)),
    )
    assert found.verdict == "undecided", str(found)


def test_constants_of_float64_are_told_apart() -> None:
    """Float32 takes them for one; as an argument each is what it is in a tensor."""
    one, two = (torch.tensor(v, dtype=torch.float64) for v in (0.1, 0.1 + 2.0**-54))
    assert one != two

    def found(way: Way) -> Certificate:
        net, other = Net(lambda n, y: y * one).double(), Net(way).double()
        other.load_state_dict(net.state_dict())
        return cg.prove(other, net, images().double())

    assert found(lambda n, y: y * 0.1).verdict == "proven"
    assert found(lambda n, y: two * y).verdict == "undecided"
    assert "the outputs do not show it" in found(lambda n, y: two * y).reason


def test_what_nobody_can_weigh_is_infinitely_large() -> None:
    some = torch.tensor([0.0, 1.0, torch.inf, torch.nan], dtype=torch.float64)
    assert terms.larger(some[:2], some[:2]) == 1
    for k in (2, 3):
        assert terms.larger(some[: k + 1], some[: k + 1]) == torch.inf


class Sent(Net):
    """Its output is sent through something, which no convolution follows."""

    def __init__(self, to: Callable[[Tensor], Tensor]) -> None:
        super().__init__(SAME["sum"][0])
        self.to_ = [to]

    def forward(self, x: Tensor) -> Tensor:
        return self.to_[0](super().forward(x))


def test_an_output_of_another_dtype_is_another_output() -> None:
    net, other = Sent(lambda t: t > 0), Sent(lambda t: (t > 0).float())
    found = cg.prove(other, net, images())
    assert found.verdict == "undecided"
    assert "output 0 is of torch.float32, the reference's of torch.bool" in found.reason


def test_the_record_names_what_it_takes_for_granted() -> None:
    found = proof(SAME["mean"][0], SAME["mean"][1])
    assert any("torch's convolution, div.Tensor, mean.dim" in text for text in found.assumed)
    assert any("2 sum.dim_IntList, 1 div.Tensor: held end" in text for text in found.not_covered)
    assert Certificate.from_json(found.to_json()) == found


def test_what_the_reference_alone_writes_otherwise_is_named_too() -> None:
    class Last(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.between[0](self, self.one(x))

    found = cg.prove(
        Last(lambda n, y: y), Last(lambda n, y: y * (y.exp() * (-y).exp())), images()
    )  # fmt: skip
    assert found.verdict == "proven", str(found)
    assert any("0 of the candidate and 5 of the reference" in part.facts for part in found.parts)
    assert any("torch's" in text and "exp, mul.Tensor, neg" in text for text in found.assumed)
    assert any("2 exp, 2 mul.Tensor, 1 neg: held" in text for text in found.not_covered)
    assert "where an exponential on the way overflows" in found.not_covered


def test_a_float_that_is_read_as_a_fraction_is_named() -> None:
    found = proof(*SAME["group norm of all"])
    assert any("the factors 1/48 that" in part.facts for part in found.parts)
    times = torch.ops.aten.mul.Scalar
    for off in (-1, 1):  # by the last bit of a float64 it is none
        near = float(np.nextafter(2 / 7, off))
        found = proof(lambda n, y: y * 2 / 7, lambda n, y: times(y, near))  # noqa: B023
        assert found.verdict == "undecided", str(found)
    found = proof(lambda n, y: y * 2 / 7, lambda n, y: times(y, 2 / 7))
    assert any("the factors 2/7 that" in text for text in found.assumed)


def test_the_verdict_is_the_same_under_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        monkeypatch.setattr(polynomials, "_SEED", seed)
        assert proof(*SAME["layer norm"][:2]).verdict == "proven"
        assert proof(*WRONG["cut elsewhere"]).verdict == "undecided"


class Padded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        high, wide = self.padding
        y = F.conv2d(F.pad(x, (wide, wide, high, high)), self.weight, None, self.stride)
        return y if self.bias is None else y + channels(self.bias)


class Scaled(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight / torch.sqrt(self.running_var + self.eps)
        return x * channels(scale) + channels(self.bias - self.running_mean * scale)


class Product(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + self.bias


class Row(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return by_hand(x, self.eps) * self.weight + self.bias


@pytest.mark.published
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_published_networks_that_are_written_by_hand_are_proven(name: str) -> None:
    torch.manual_seed(0)
    models = zoo.models()  # also torchvision for timm, without its compiled operators
    if name == "vit":
        timm = pytest.importorskip("timm")
        net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    else:
        net = models.resnet18().eval()
    other = copy.deepcopy(net)
    written = {nn.Conv2d: Padded, nn.BatchNorm2d: Scaled, nn.Linear: Product}
    for module in other.modules():
        module.__class__ = written.get(type(module), type(module))
        if isinstance(module, nn.LayerNorm):
            module.__class__ = Row
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    found = cg.prove(other, net, torch.randn(2, 3, 32, 32))
    status = {part.name: part.status for part in found.parts}
    assert (found.verdict, status["gradients"]) == ("proven", "proven"), str(found)


# -- on masks --------------------------------------------------------------------------------------


def masked() -> cg.PixelGraph:
    torch.manual_seed(2)
    mask = torch.rand(2, 6, 4) > 0.3
    return cg.PixelGraph.from_image(torch.randn(2, 2, 6, 4).double(), mask=mask)


def strided() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    ).double().eval()  # fmt: skip


def test_gradients_on_a_mask_are_the_same_polynomials() -> None:
    """What goes back to the pixels is added up in another order than in an image."""
    net = strided()
    found = cg.prove(cg.to_graph(net), net, masked())
    status = {part.name: part.status for part in found.parts}
    assert (found.verdict, status["gradients"]) == ("proven", "proven"), str(found)


def test_a_wrong_gradient_on_a_mask_is_refuted() -> None:
    net = strided()
    other = cg.to_graph(net)
    other[1].register_full_backward_hook(lambda module, to, by: (2 * to[0],))
    found = cg.prove(other, net, masked())
    assert found.verdict == "refuted", str(found)


# -- arithmetic ------------------------------------------------------------------------------------


def drawn(found: Points, shape: tuple[int, ...], name: str) -> Polynomial:
    return found.of(found.numbering.named(name, shape))


def test_reciprocals_of_multiples_are_multiples() -> None:
    found = points(Numbering())
    x = drawn(found, (50,), "x")
    for value in (-3.5, 4.0, 1 / 3):
        factor = exactly(Fraction(value).limit_denominator(9))
        one = found.units.reciprocal(x * factor)
        two = found.units.reciprocal(x) * exactly(1 / factor.value)
        assert torch.equal(one.at, two.at)
        assert torch.equal(one.terms, two.terms)
    assert not (found.units.reciprocal(x).at == found.units.reciprocal(x * x).at).all(0).any()


def test_products_are_those_of_whole_numbers() -> None:
    found = points(Numbering())
    x, w = drawn(found, (5, 300), "x"), drawn(found, (300, 4), "w")
    made = polynomials.product(x, w).at
    for k, p in enumerate(polynomials.PRIMES):
        a, b = (t[k].numpy().astype(object) for t in (x.at, w.at))
        assert np.array_equal(made[k].numpy(), (a @ b) % p)


def test_a_multiple_of_a_prime_is_not_nothing() -> None:
    """A factor that one field takes for 0 is none in the others."""
    found = points(Numbering())
    x = drawn(found, (3,), "x")
    for p in polynomials.PRIMES:
        for factor in (Constant(Fraction(p), False), constant(float(p))):
            assert ((x + x * x * factor).at != x.at).any(0).all()


def test_constants_of_a_tensor_are_those_of_arguments() -> None:
    found, values = points(Numbering()), [0.5, -3.0, 0.1, -0.1, 1e-30, 2.0**21, 0.0]
    many = torch.tensor(values + [k + 0.123 for k in range(100)], dtype=torch.float64)
    held = found.of(found.numbering.literal(many))
    for k, value in enumerate(values):
        assert torch.equal(held.at[:, k], constant(value).at)
    assert torch.equal(held.at[:, 2], polynomials.reduced(-held.at[:, 3:4])[:, 0])


def test_primes_are_primes() -> None:
    assert len({*polynomials.PRIMES}) == polynomials.POINTS
    assert all(2**23 < p < 2**24 for p in polynomials.PRIMES)
    assert not any(p % k == 0 for p in polynomials.PRIMES for k in range(2, 4097))


def test_sums_of_too_many_products_have_no_meaning() -> None:
    found = points(Numbering())
    x = drawn(found, (1, polynomials.TERMS + 1), "x")
    with pytest.raises(polynomials.NoMeaning):
        polynomials.product(x, x.transposed())


def random_program(
    rng: np.random.Generator, steps: int
) -> Callable[[list[Any], Callable[[int], Any]], Any]:
    plan = [
        (rng.integers(4), rng.integers(2**30, size=2), rng.integers(-3, 4)) for _ in range(steps)
    ]

    def run(values: list[Any], number: Callable[[int], Any]) -> Any:
        known = list(values)
        for kind, places, factor in plan:
            a, b = (known[n % len(known)] for n in places)
            known.append([a + b, a * b, a - b, a * number(int(factor))][kind])
        return known[-1]

    return run


def test_random_programs_are_one_where_whole_numbers_say_so() -> None:
    """Python's whole numbers at large random points are the truth."""
    rng, same, other = np.random.default_rng(0), 0, 0
    for _ in range(400):
        programs = [random_program(rng, int(rng.integers(1, 5))) for _ in range(2)]
        found = points(Numbering())
        values: list[Any] = [drawn(found, (1,), name) for name in "xy"]
        one, two = (run(values, lambda n: constant(n)) for run in programs)
        big = [int(n) for n in rng.integers(1, 2**62, size=2)]
        truth = programs[0](big, int) == programs[1](big, int)
        assert torch.equal(one.at, two.at) == truth
        same, other = same + truth, other + (not truth)
    assert same > 10
    assert other > 10


class Whole:
    """A whole number where a program of largest elements expects a polynomial."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __add__(self, other: Any) -> "Whole":
        return Whole(self.value + (other.value if isinstance(other, Whole) else other))

    def __neg__(self) -> "Whole":
        return Whole(-self.value)


def largest_of(found: Points | None, one: Any, two: Any) -> Any:
    if found is None:
        return Whole(torch.maximum(one.value, two.value))
    return found.maxima.largest(one.beside(two), torch.tensor([[0, 1]]))


def held(found: Points | None, x: Any, low: int | None, high: int | None) -> Any:
    if found is None:
        return Whole(x.value.clamp(low, high))
    return found.maxima.between(x, *(k if k is None else constant(float(k)) for k in (low, high)))


def steps_of_maxima(rng: np.random.Generator) -> list[Any]:
    kinds = rng.integers(6, size=int(rng.integers(1, 4)))
    return [(int(k), rng.integers(64, size=2), sorted(rng.integers(-1, 2, size=2))) for k in kinds]


def ran(steps: list[Any], values: list[Any], found: Points | None) -> Any:
    known, moved = list(values), (lambda n: n) if found is None else (lambda n: constant(float(n)))
    for kind, places, (low, high) in steps:
        a, b = (known[n % len(known)] for n in places)
        made = [
            lambda: largest_of(found, a, b), lambda: -largest_of(found, -a, -b),  # noqa: B023
            lambda: held(found, a, low, None), lambda: held(found, a, None, high),  # noqa: B023
            lambda: held(found, a, low, high + 1), lambda: a + moved(low),  # noqa: B023
        ][kind]()  # fmt: skip
        known.append(made)
    return known[-1]


def test_random_programs_of_largest_elements_are_one_only_where_numbers_say_so() -> None:
    """Whole numbers, small ones, so that there are many ties, are the truth."""
    rng, same, other = np.random.default_rng(0), 0, 0
    numbers = torch.cartesian_prod(*[torch.arange(-3, 4)] * 2).T
    for _ in range(150):
        found = points(Numbering())
        programs = [steps_of_maxima(rng) for _ in range(2)]
        values: list[Any] = [drawn(found, (1,), name) for name in "xy"]
        try:
            one, two = (ran(steps, values, found) for steps in programs)
        except polynomials.NoMeaning:
            continue
        true = [ran(steps, [*map(Whole, numbers)], None).value for steps in programs]
        if torch.equal(one.at, two.at):
            assert torch.equal(*true), programs
            assert torch.equal(one.terms[terms.VALUE], two.terms[terms.VALUE]), programs
            same += 1
        other += not torch.equal(*true)
    assert same > 5
    assert other > 50


def test_inverses_of_exponentials_are_what_numbers_say() -> None:
    found = points(Numbering())
    x, y = (drawn(found, (50,), name) for name in "xy")
    one = constant(1.0)
    e, f, back = (found.units.exponential(p) for p in (x, y, -x))
    r = found.units.reciprocal(e + one)
    for same in (
        (e * back, e * e * back * back), (e * r, r * e * e * back), (r + e * r, e * back),
        (found.units.reciprocal(e), back), (found.units.reciprocal(back + one), e * r),
        (found.units.reciprocal(e * constant(4.0)), back * constant(0.25)),
    ):  # fmt: skip
        assert torch.equal(same[0].at, same[1].at)
    other = found.units.reciprocal(f + one)
    for apart in (e, e * e, e + e, r, f, other, e * f, e * r, back, e + one, r * r, f * other):
        assert sum(int((apart.at == p.at).all(0).any())
                   for p in (e, e * e, e + e, r, f, other, e * f, e * r, back, e + one, r * r,
                             f * other)) == 1  # fmt: skip
    assert found.divided
    for k, p in enumerate(polynomials.PRIMES):
        assert 0 < int(e.at[k].min()) <= int(e.at[k].max()) < p - 1


def test_what_can_vanish_from_a_product_is_the_references_or_shows_what_it_lost() -> None:
    found = points(Numbering())
    x = drawn(found, (50,), "x")
    e = found.units.exponential(x)
    found.put(found.numbering.take((50,)), e)
    one, far = (e + constant(1.0) + constant(v) + constant(-v) for v in (0.0, 64.0))
    sizes = [found.units.reciprocal(p).terms[terms.SIZE] for p in (one, far)]
    assert bool((sizes[1] > 16 * sizes[0]).all())
    found._indexed()  # whoever asks from here on is the candidate
    found.units.exponential(-x)
    assert found.larger == 1
    found.units.exponential(x + x)
    assert found.larger == float("inf")


def test_sets_of_one_sum_are_other_sets() -> None:
    found = points(Numbering())
    x, y = (drawn(found, (20,), name) for name in "xy")
    places = torch.arange(20)[:, None] + torch.tensor([0, 20])
    one = found.maxima.largest(x.beside(y), places)
    two = found.maxima.largest((x + constant(1.0)).beside(y + constant(-1.0)), places)
    assert not (one.at == two.at).all(0).any()


def test_what_was_held_is_compared_as_before_within_its_ends_alone() -> None:
    found = points(Numbering())
    x = drawn(found, (20,), "x")
    low, high = constant(-1.0), constant(2.0)
    for y in (found.maxima.between(x, low, high), x):
        negative = -y
        for value in (-2.0, -1.0, 0.0, 2.0, 3.0):
            than = constant(value)
            inside = y is x or -1 <= value < 2
            above = found.maxima.above(y, than)
            assert torch.equal(above.at, found.maxima.above(x, than).at) == inside
            below = found.maxima.below(y, than)
            assert torch.equal(below.at, found.maxima.below(x, than).at) == (
                y is x or -1 < value <= 2
            )
            turned = found.maxima.below(negative, constant(-value))
            assert torch.equal(turned.at, above.at)


def test_a_residue_of_an_exponential_is_none_that_has_no_inverse() -> None:
    state = torch.arange(2000).expand(polynomials.POINTS, -1)
    primes = polynomials._MODULI
    try:
        polynomials._MODULI = torch.full_like(primes, 7)  # so few that each is met
        at = Points(Numbering()).variable(state, "exp", unit=True).at
    finally:
        polynomials._MODULI = primes
    assert at.unique().tolist() == [1, 2, 3, 4, 5]


def test_too_many_elements_are_told() -> None:
    net = Net(SAME["relu"][0])
    other = Net(SAME["relu"][1])
    other.load_state_dict(net.state_dict())
    before = polynomials.MOST
    try:
        polynomials.MOST = 100
        found = cg.prove(other, net, images())
    finally:
        polynomials.MOST = before
    assert found.verdict == "undecided"
    assert "prove it on smaller images" in found.reason
