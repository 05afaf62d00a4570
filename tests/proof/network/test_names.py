"""One set of numbers under other names is one network; another set, or another use, is not."""

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
        self.one, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.two, self.three = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.one(x)).relu()
        return self.head(self.three(self.two(y).relu()).mean((2, 3)))


class Other(nn.Module):
    """The same under other names, in another order."""

    def __init__(self, of: Net) -> None:
        super().__init__()
        self.fc, self.b, self.a = of.head, of.three, of.two
        self.stem = nn.Sequential(of.one, of.norm, nn.ReLU())
        self.cut = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y.detach() if self.cut else y
        made: Tensor = self.fc(self.b(self.a(y).relu()).mean((2, 3)))
        return made


class Inner(nn.Module):
    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.model = of

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


def dense() -> Net:
    torch.manual_seed(0)
    found: Any = cg.excite(Net().double().eval(), torch.randn(2, 2, 4, 4).double())
    return found


def prove(candidate: nn.Module, reference: nn.Module) -> Certificate:
    torch.manual_seed(1)
    found: Certificate = cg.prove(candidate, reference, torch.randn(2, 2, 4, 4).double())
    return found


def unused(net: nn.Module) -> nn.Module:
    net.spare = nn.Linear(2, 2).double()
    return net


def folded(net: Net) -> nn.Module:
    other: Any = Other(net)
    other.stem = nn.Sequential(nn.utils.fuse_conv_bn_eval(net.one, net.norm), nn.ReLU())
    return other


RIGHT: dict[str, Callable[[Net], nn.Module]] = {
    "renamed": Other,
    "wrapped": Inner,
    "averaged": lambda net: torch.optim.swa_utils.AveragedModel(net).eval(),
    "nothing reads it": unused,
    "on graphs": lambda net: cg.to_graph(Other(net)),
    "folded": folded,
}


LONG = ("wrapped", "averaged", "folded")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.ci) if n in LONG else n for n in RIGHT]
)
def test_the_same_under_other_names_is_proven(name: str) -> None:
    net = dense()
    cert = prove(RIGHT[name](copy.deepcopy(net)), net)
    assert cert.verdict == "proven", str(cert)
    assert Certificate.from_json(cert.to_json()) == cert
    if name in ("renamed", "folded"):
        assert prove(net, RIGHT[name](copy.deepcopy(net))).verdict == "proven"


def test_other_names_in_training_are_no_other_numbers() -> None:
    """Who reads what is seen on runs that move a norm's buffers, on one side more than once."""
    net = dense().train()
    cert = prove(Inner(copy.deepcopy(net)), net)
    assert cert.verdict == "proven", str(cert)
    net.norm.running_mean += 1
    assert prove(Inner(dense().train()), net).verdict == "refuted"


def moved(net: Net) -> nn.Module:
    other = Other(net)
    with torch.no_grad():
        other.a.weight[1, 2] += 1e-6
    return other


def crossed(net: Net) -> nn.Module:
    other = Other(net)
    other.a, other.b = other.b, other.a
    return other


def cut(net: Net) -> nn.Module:
    other = Other(net)
    other.cut = True
    return other


def fold_is_off(net: Net) -> nn.Module:
    other: Any = folded(net)
    with torch.no_grad():
        other.stem[0].weight[0, 0, 0, 0] += 1e-6
    return other


class OnGraph(nn.Module):
    """Built by hand of graph layers, which are nodes as wholes, under names of its own."""

    def __init__(self, of: Net, cut: bool) -> None:
        super().__init__()
        self.stem = cg.nn.GraphConv2d.from_dense(of.one)
        self.norm, self.a, self.b, self.fc = of.norm, of.two, of.three, of.head
        self.cut = cut

    def forward(self, graph: cg.PixelGraph) -> Tensor:
        x = self.norm(self.stem(graph).to_image()).relu()
        x = x.detach() if self.cut else x
        made: Tensor = self.fc(self.b(self.a(x).relu()).mean((2, 3)))
        return made


@pytest.mark.parametrize(("cut", "verdict"), [(False, "proven"), (True, "refuted")])
def test_graph_layers_may_have_other_names(cut: bool, verdict: str) -> None:
    net = dense()
    cert = prove(OnGraph(copy.deepcopy(net), cut), net)
    assert cert.verdict == verdict, str(cert)


@pytest.mark.parametrize("change", [moved, crossed, cut, fold_is_off])
def test_what_differs_under_other_names_is_refuted(change: Callable[[Net], nn.Module]) -> None:
    net = dense()
    cert = prove(change(copy.deepcopy(net)), net)
    assert cert.verdict == "refuted", str(cert)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler asks what is no leaf
def test_what_is_compiled_is_proven_where_compilers_are_trusted() -> None:
    net = dense()
    made = torch.compile(copy.deepcopy(net), backend="eager")
    torch.manual_seed(1)
    x = torch.randn(2, 2, 4, 4).double()
    cert = cg.prove(made, net, x)
    assert (cert.verdict, "torch.compile" in cert.reason) == ("undecided", True), str(cert)
    cert = cg.prove(made, net, x, trust=("torch.compile",))
    assert cert.verdict == "proven", str(cert)
    assert any("torch.compile" in line for line in cert.assumed)
    assert cg.prove(net, made, x, trust=("torch.compile",)).verdict == "proven"
    with torch.no_grad():
        made._orig_mod.two.weight[0, 0] += 1e-6
    assert cg.prove(made, net, x, trust=("torch.compile",)).verdict == "refuted"


class Reads(Inner):
    """Adds nothing, and teaches what adds it."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__(of)
        self.spare = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        return self.model(x) + self.spare


def test_what_is_read_on_one_side_alone_is_not_dropped() -> None:
    net = dense()
    cert = prove(Reads(copy.deepcopy(net)), net)
    assert cert.verdict == "undecided", str(cert)
    assert "'spare' is on the candidate alone" in cert.reason


def test_one_that_is_frozen_is_not_one_that_is_trained() -> None:
    net = dense()
    other = Other(copy.deepcopy(net))
    other.a.weight.requires_grad_(False)
    assert prove(other, net).verdict == "undecided"
