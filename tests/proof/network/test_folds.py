"""Folded batch norms: proven pair by pair, a wrong fold never; the truth is decimal arithmetic."""

import copy
import json
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import convgraph as cg
from convgraph.proof import Certificate
from convgraph.proof.network.end_to_end import NetworkSide, end_to_end
from convgraph.proof.network.folds import Fold, find_folds

DTYPES = [torch.float32, torch.float64]


class Net(nn.Module):
    """Two convolutions with their norms; the first has no bias."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.one = kind(4, 6, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(6, eps=1e-3)
        self.two = nn.Conv2d(6, 3, 1)
        self.last = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.two(self.norm(self.one(x)).relu()))
        z: Tensor = self.head(y.mean((2, 3)))
        return z


def image(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1)).to(dtype)


def original(dtype: torch.dtype, transposed: bool = False) -> Net:
    torch.manual_seed(0)
    net = cg.excite(Net(transposed).to(dtype).eval(), image(dtype))
    for norm in (net.norm, net.last):  # statistics of others than these images
        norm.running_var.mul_(torch.linspace(0.01, 0.05, norm.num_features).to(dtype))
        with torch.no_grad():
            norm.weight.mul_(torch.linspace(0.5, -2, norm.num_features).to(dtype))
    return net


def scaled(conv: Any, norm: Any, transposed: bool = False) -> Any:
    """The fold in float64, of any groups, for which torch has none where it is transposed."""
    made = copy.deepcopy(conv)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    groups = conv.groups if transposed else 1
    each = scale.view(groups, 1, -1, 1, 1) if transposed else scale.view(1, -1, 1, 1, 1)
    table = conv.weight.double().unflatten(0, (groups, -1)) * each
    before = 0 if conv.bias is None else conv.bias.double()
    bias = (before - norm.running_mean.double()) * scale + norm.bias.double()
    made.weight = nn.Parameter(table.flatten(0, 1).to(conv.weight.dtype))
    made.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return made


def folded(net: Net, transposed: bool = False) -> Net:
    found = copy.deepcopy(net)
    first = scaled(net.one, net.norm, True) if transposed else fuse_conv_bn_eval(net.one, net.norm)
    found.one, found.norm = first, nn.Identity()  # type: ignore[assignment]
    found.two, found.last = fuse_conv_bn_eval(net.two, net.last), nn.Identity()  # type: ignore[assignment]
    return found


def facts(cert: Certificate) -> dict[str, str]:
    return {part.name: part.facts for part in cert.parts}


# -- honest folds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_fold_is_proven_in_both_directions(dtype: torch.dtype, transposed: bool) -> None:
    net = original(dtype, transposed)
    other = folded(net, transposed)
    for one, two, side in ((other, net, "candidate"), (net, other, "reference")):
        cert = cg.prove(one, two, image(dtype))
        assert cert.verdict == "proven", cert.reason
        assert cert.spec["folds"] == [f"'last' into 'two' of the {side}",
                                      f"'norm' into 'one' of the {side}"]  # fmt: skip
        assert "for these weights" in facts(cert)["parameters"]
        assert "2 tensors, 8 numbers, bit for bit" in facts(cert)["parameters"]  # the head's
        assert any("norm is folded" in line for line in cert.not_covered)
        assert any(line.startswith("gradients of the network") for line in cert.not_covered)
        assert {p.name: p.status for p in cert.parts}["gradients"] == "not asked"
        assert Certificate.from_json(cert.to_json()) == cert
        assert json.loads(cert.to_json())["spec"]["folds"] == cert.spec["folds"]


def test_graphs_are_proven_against_folds() -> None:
    net = original(torch.float32)
    other = folded(net)
    for one, two in ((cg.to_graph(other), net), (cg.to_graph(net), other)):
        cert = cg.prove(one, two, image(torch.float32))
        assert cert.verdict == "proven", cert.reason
        assert len(cert.layers) == 3


def test_what_fx_fuses_is_proven() -> None:
    net = original(torch.float32)
    cert = cg.prove(fuse(net), net, image(torch.float32))
    assert cert.verdict == "proven", cert.reason
    assert len(cert.spec["folds"]) == 2


def test_one_fold_of_two_is_proven() -> None:
    net = original(torch.float64)
    other = folded(net)
    other.two, other.last = copy.deepcopy(net.two), copy.deepcopy(net.last)
    cert = cg.prove(other, net, image(torch.float64))
    assert cert.verdict == "proven", cert.reason
    assert cert.spec["folds"] == ["'norm' into 'one' of the candidate"]


def test_a_norm_without_weight_is_folded() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU()).eval()
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.1, 2)
    other = copy.deepcopy(net)
    other[0], other[1] = fuse_conv_bn_eval(net[0], net[1]), nn.Identity()
    for one, two in ((other, net), (net, other)):
        cert = cg.prove(one, two, image(torch.float32))
        assert cert.verdict == "proven", cert.reason


class Tokens(nn.Module):
    """A linear map of rows (B, T, C), normed as (B, C, T)."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4, bias=bias)  # square: its weight turned over has its shape
        self.norm: nn.Module = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.map(x.flatten(2).mT.contiguous()).mT)
        return y.relu()


def tokens(dtype: torch.dtype, bias: bool = True) -> tuple[Tokens, Tokens]:
    torch.manual_seed(0)
    net = cg.excite(Tokens(bias).to(dtype).eval(), image(dtype))
    other = copy.deepcopy(net)
    norm: Any = net.norm
    other.map, other.norm = fuse_linear_bn_eval(net.map, norm), nn.Identity()
    return net, other


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_folded_into_a_linear_map_is_proven(dtype: torch.dtype, bias: bool) -> None:
    net, other = tokens(dtype, bias)
    for one, two in ((other, net), (net, other)):
        cert = cg.prove(one, two, image(dtype))
        assert cert.verdict == "proven", cert.reason
        assert cert.spec["folds"][0].startswith("'norm' into 'map'")
        assert "2 operators, each" in facts(cert)["wiring"]


def test_a_wrong_fold_of_a_linear_map_is_refuted() -> None:
    net, other = tokens(torch.float64)
    other.map.weight = nn.Parameter(other.map.weight.detach().t().contiguous())
    turned = cg.prove(other, net, image(torch.float64))
    assert "the fold of 'norm' is" in turned.reason
    net, other = tokens(torch.float64)
    norm = copy.deepcopy(net.norm)
    norm.eps = 0.0
    other.map = fuse_linear_bn_eval(net.map, norm)
    for cert in (turned, cg.prove(other, net, image(torch.float64))):
        assert cert.verdict == "refuted", cert.reason
        assert "rounding explains" in cert.reason


# -- planted faults --------------------------------------------------------------------------------


def _no_eps(net: Net, other: Net) -> None:
    norm = copy.deepcopy(net.norm)
    norm.eps = 0.0
    other.one = fuse_conv_bn_eval(net.one, norm)


def _bias_forgotten(net: Net, other: Net) -> None:
    bare = copy.deepcopy(net.two)
    bare.bias = None
    other.two = fuse_conv_bn_eval(bare, net.last)


def _no_bias(net: Net, other: Net) -> None:
    other.one.bias = None


def _other_variance(net: Net, other: Net) -> None:
    norm = copy.deepcopy(net.norm)
    norm.running_var = norm.running_var.flip(0)
    other.one = fuse_conv_bn_eval(net.one, norm)


def _other_gamma(net: Net, other: Net) -> None:
    norm = copy.deepcopy(net.norm)
    norm.weight = nn.Parameter(norm.weight.detach().roll(1))
    other.one = fuse_conv_bn_eval(net.one, norm)


def _unscaled_mean(net: Net, other: Net) -> None:
    with torch.no_grad():
        other.one.bias.copy_(net.norm.bias - net.norm.running_mean)  # type: ignore[union-attr]


def _not_scaled(net: Net, other: Net) -> None:
    other.one.weight = copy.deepcopy(net.one.weight)


def _twice(net: Net, other: Net) -> None:
    other.norm = copy.deepcopy(net.norm)


def _stride(net: Net, other: Net) -> None:
    other.one.dilation, other.one.padding = (2, 2), (2, 2)


def _skipped(net: Net, other: Net) -> None:
    other.two, other.last = copy.deepcopy(net.two), nn.Identity()  # type: ignore[assignment]


WRONG = [
    _no_eps, _bias_forgotten, _no_bias, _other_variance, _other_gamma, _unscaled_mean, _not_scaled,
    _twice, _stride, _skipped,
]  # fmt: skip


@pytest.mark.parametrize("plant", WRONG)
def test_a_wrong_fold_is_refuted_with_a_number(plant: Callable[[Net, Net], None]) -> None:
    net = original(torch.float32)
    other = folded(net)
    plant(net, other)
    for one, two in ((other, net), (net, other)):
        cert = cg.prove(one, two, image(torch.float32))
        assert cert.verdict == "refuted", cert.reason
        assert "copy it first" not in cert.reason
        assert "rounding explains" in cert.reason


def test_why_a_fold_is_wrong_is_said() -> None:
    net = original(torch.float32)
    other = folded(net)
    _other_gamma(net, other)
    said = cg.prove(other, net, image(torch.float32)).reason
    assert said.startswith("'one.weight' differs; a batch norm looks folded into it, but entry ")
    assert "the fold of 'norm' is" in said
    assert said.count("on the reference and") == 1  # the output that shows it


def test_a_norm_that_trains_is_not_folded() -> None:
    net = original(torch.float32)
    other = folded(net)
    net.norm.train()
    for one, two in ((other, net), (net, other)):
        cert = cg.prove(one, two, image(torch.float32))
        assert cert.verdict != "proven"
        assert "but 'norm' is in training mode: it norms by the images" in cert.reason


def test_a_fold_that_nothing_shows_is_undecided() -> None:
    """An entry that is off by thrice what rounding explains, and by too little for any output."""
    net = original(torch.float64)
    other = folded(net)
    with torch.no_grad():
        other.one.weight[0, 0, 0, 0] *= 1 + 60 * 2.0**-52
    cert = cg.prove(other, net, image(torch.float64))
    assert cert.verdict == "undecided"
    assert "a batch norm looks folded into it, but entry 0 of 'one.weight'" in cert.reason


def test_what_reads_between_convolution_and_norm_is_another_network() -> None:
    """The convolution's own output leaves too: no fold may stand for it."""

    class Both(nn.Module):
        def __init__(self, net: Net) -> None:
            super().__init__()
            self.one, self.norm = net.one, net.norm

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.one(x)
            return self.norm(y), y

    net = original(torch.float64)
    for one, two in ((folded(net), net), (net, folded(net))):
        assert cg.prove(Both(one), Both(two), image(torch.float64)).verdict == "refuted"


def test_another_network_behind_a_fold_is_refuted() -> None:
    net = original(torch.float64)
    other = folded(net)
    other.last = nn.Sigmoid()  # type: ignore[assignment]
    assert cg.prove(other, net, image(torch.float64)).verdict == "refuted"
    other = folded(net)
    with torch.no_grad():
        other.head.bias[0] += 2.0**-40
    assert cg.prove(other, net, image(torch.float64)).verdict == "refuted"


# -- the bounds ------------------------------------------------------------------------------------


def sides(one: nn.Module, two: nn.Module) -> tuple[NetworkSide, NetworkSide]:
    def run(net: nn.Module, images: Any, shapes: Any) -> list[Tensor]:
        return [net(*images)]

    return NetworkSide(one, run), NetworkSide(two, run)


def exact(net: Net) -> tuple[list[Decimal], list[Decimal]]:
    """The fold of 'one' and 'norm' to 60 digits."""
    norm = net.norm
    rows = [[Decimal(v) for v in t.tolist()] for t in
            (norm.weight, norm.running_var, norm.running_mean, norm.bias)]  # fmt: skip
    with localcontext() as context:
        context.prec = 60
        scale = [g / (v + Decimal(norm.eps)).sqrt() for g, v in zip(*rows[:2], strict=True)]
        weight = [
            Decimal(w) * s
            for s, row in zip(scale, net.one.weight.flatten(1).tolist(), strict=True)
            for w in row
        ]
        bias = [b - m * s for m, b, s in zip(rows[2], rows[3], scale, strict=True)]
    return weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_fold_is_off_by_covers_the_truth(dtype: torch.dtype) -> None:
    net = original(dtype)
    other = folded(net)
    found, reason = find_folds(*sides(other, net), (image(dtype),))
    fold = next(f for f in found if f.path == "one")
    assert not reason
    for held, off, truth in zip(fold.tensors, fold.off, exact(net), strict=True):
        for one, most, true in zip(
            held.flatten().tolist(), off.flatten().tolist(), truth, strict=True
        ):
            assert abs(Decimal(one) - true) <= Decimal(most)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_than_rounding_is_no_fold(dtype: torch.dtype) -> None:
    """Every entry of the bias and some of the weight, each moved alone by 400 epsilon."""
    net = original(dtype)
    for name in ("weight", "bias"):
        for entry in range(6):
            other = folded(net)
            held = getattr(other.one, name)
            with torch.no_grad():
                size = held.abs().max() if name == "bias" else held.reshape(-1)[entry].abs()
                held.reshape(-1)[entry] += 400 * torch.finfo(dtype).eps * (1 + size)
            found, reason = find_folds(*sides(other, net), (image(dtype),))
            assert [fold.path for fold in found] == ["two"]
            assert f"entry {entry} of 'one.{name}'" in reason["one.weight"]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_running_bound_covers_the_other_run(reverse: bool) -> None:
    """Weights at the rim of what a fold may be: the bound of the outputs grows with them."""
    net = original(torch.float32)
    other = folded(net)
    with torch.no_grad():
        for conv in (other.one, other.two):
            conv.weight.mul_(1 + 2.0**-22)
    pair = sides(net, other) if reverse else sides(other, net)
    found, _ = find_folds(*pair, (image(torch.float32),))
    off = {name: error for fold in found for name, error in fold.carried.items()}
    assert len(off) == 4
    wide, bare = (end_to_end(*pair, (image(torch.float32),), held) for held in (off, {}))
    assert wide[0].status == "proven"
    assert 0 < wide[1]["y"] < bare[1]["y"]


def test_a_fold_names_its_tensors() -> None:
    net = original(torch.float64)
    found, _ = find_folds(*sides(folded(net), net), (image(torch.float64),))
    fold: Fold = next(f for f in found if f.path == "two")
    assert fold.pair[0] == ("two.weight", "two.bias")
    assert fold.renamed() == {
        "two.weight": "two.weight, folded", "two.bias": "two.bias, folded"
    }  # fmt: skip
    assert set(fold.carried) == {"two.weight", "last.bias"}
