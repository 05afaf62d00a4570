"""One convolution for several operators: proven where it is one; the truth is each pixel alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import convgraph as cg
from convgraph.proof.network import affine
from convgraph.proof.network.end_to_end import NetworkSide
from convgraph.proof.network.node import Node
from convgraph.proof.network.recorder import trace
from convgraph.proof.network.region_wiring import RegionWiring
from convgraph.proof.network.regions import find_regions
from convgraph.proof.network.value_numbers import Numbering, Undecided
from tests import zoo

C = 4


class Branches(nn.Module):
    """RepVGG's and MobileOne's: norms of kernels, of a 1 x 1 and of x itself, added."""

    def __init__(self, kernels: int = 1, groups: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(
            nn.Conv2d(C, C, 3, stride, 1, groups=groups, bias=False) for _ in range(kernels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(C) for _ in range(kernels))
        self.point = nn.Conv2d(C, C, 1, stride, groups=groups, bias=False)
        self.point_norm = nn.BatchNorm2d(C)
        self.skip = nn.BatchNorm2d(C) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.point_norm(self.point(x))
        for kernel, norm in zip(self.kernels, self.norms, strict=True):
            y = y + norm(kernel(x))
        return y if self.skip is None else y + self.skip(x)


class Around(nn.Module):
    """Something before and behind what is folded."""

    def __init__(self, body: nn.Module, channels: int = C) -> None:
        super().__init__()
        self.body, self.head = body, nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).relu())
        return y


class Of(nn.Module):
    """A few operators of a convolution and something beside it."""

    def __init__(self, how: Callable[..., Tensor], conv: nn.Module, **held: Any) -> None:
        super().__init__()
        self.how, self.conv = how, conv
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def filled(net: nn.Module) -> Any:
    """In evaluation, with statistics of others than these images."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.2, 2)  # type: ignore[union-attr]
            with torch.no_grad():
                module.weight.normal_()
                module.bias.normal_()
    return net.eval()


def factor(norm: Any, eps: float | None = None) -> tuple[Tensor, Tensor]:
    scale = norm.weight / (norm.running_var + (norm.eps if eps is None else eps)).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def conv_of(weight: Tensor, bias: Tensor | None, **more: Any) -> nn.Conv2d:
    groups = more.get("groups", 1)
    made = nn.Conv2d(
        weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]), bias=bias is not None,
        **more,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None and made.bias is not None:
            made.bias.copy_(bias)
    return made


def deployed(net: Any, **fault: Any) -> nn.Conv2d:
    """The one 3 x 3 convolution, as RepVGG's own code puts it together."""
    groups = net.point.groups
    weights, biases = [], []
    for kernel, norm in zip(net.kernels, net.norms, strict=True):
        scale, shift = factor(norm, fault.get("eps"))
        weights.append(kernel.weight * scale.view(-1, 1, 1, 1))
        biases.append(shift)
    scale, shift = factor(net.point_norm)
    pad = fault.get("pad", (1, 1, 1, 1))
    weights.append(F.pad(net.point.weight * scale.view(-1, 1, 1, 1), pad))
    biases.append(shift)
    if net.skip is not None:
        scale, shift = factor(net.skip)
        own = torch.zeros(C, C // groups, 3, 3)
        for out in range(C):
            own[out, (out + fault.get("rolled", 0)) % (C // groups), 1, 1] = scale[out]
        weights.append(own)
        biases.append(shift)
    for gone in fault.get("without", ()):
        weights[gone] = torch.zeros_like(weights[0])
    weight, bias = torch.stack(weights).sum(0), torch.stack(biases).sum(0)
    for tensor, which in ((weight, "weight"), (bias, "bias")):
        if which in fault:
            tensor.view(-1)[3] += fault[which]
    return conv_of(weight, bias, stride=net.point.stride, padding=1, groups=groups)


def image(channels: int = C, size: tuple[int, int] = (6, 5)) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def prove(one: nn.Module, two: nn.Module, x: Tensor | None = None, out: int = C) -> Any:
    torch.manual_seed(0)
    reference = Around(two, out)
    candidate = Around(one, out)
    candidate.head.load_state_dict(reference.head.state_dict())
    return cg.prove(candidate.eval(), reference.eval(), image() if x is None else x)


# -- what is one convolution -----------------------------------------------------------------------


def branches(**how: Any) -> Callable[[], tuple[nn.Module, nn.Module]]:
    def make() -> tuple[nn.Module, nn.Module]:
        net = filled(Branches(**how))
        return deployed(net), net

    return make


def asymmetric() -> tuple[nn.Module, nn.Module]:
    """ACNet: 3 x 3, 1 x 3 and 3 x 1."""
    kernels = [nn.Conv2d(C, C, k, padding=(k[0] // 2, k[1] // 2)) for k in ((3, 3), (1, 3), (3, 1))]
    net = Of(lambda s, x: s.conv(x) + s.flat(x) + s.tall(x), kernels[0], flat=kernels[1],
             tall=kernels[2])  # fmt: skip
    pads = (0, 0, 0, 0), (0, 0, 1, 1), (1, 1, 0, 0)
    weight = sum(F.pad(k.weight, pad) for k, pad in zip(kernels, pads, strict=True))
    bias = sum(k.bias for k in kernels if k.bias is not None)
    return conv_of(weight, bias, padding=1), net  # type: ignore[arg-type]


def in_a_row(bias: bool, padding: int, norm: bool = False) -> tuple[nn.Module, nn.Module]:
    """1 x 1, perhaps its norm, then 3 x 3."""
    one, two = nn.Conv2d(C, 6, 1, bias=bias), nn.Conv2d(6, C, 3, padding=padding)
    between = nn.BatchNorm2d(6) if norm else nn.Identity()
    net = filled(nn.Sequential(one, between, two))
    first = one.weight[:, :, 0, 0]
    shift = torch.zeros(6) if one.bias is None else one.bias
    if norm:
        scale, more = factor(between)
        first, shift = first * scale[:, None], shift * scale + more
    weight = torch.einsum("omyx,mi->oiyx", two.weight, first)
    assert two.bias is not None
    return conv_of(weight, two.bias + two.weight.sum((2, 3)) @ shift, padding=padding), net


def larger(padding: int) -> tuple[nn.Module, nn.Module]:
    """Two 3 x 3, the second of which reads what the first one made beyond the border, or not."""
    net = nn.Sequential(*(nn.Conv2d(C, C, 3, padding=padding, bias=False) for _ in range(2)))
    weight = torch.zeros(C, C, 5, 5)
    one, two = (layer.weight.detach() for layer in net)
    for y in range(3):
        for x in range(3):
            weight[:, :, y : y + 3, x : x + 3] += torch.einsum(
                "om,miyx->oiyx",
                two[:, :, y, x],  # type: ignore[operator]
                one,
            )
    return conv_of(weight, None, padding=2 * padding), net


def scale_behind() -> tuple[nn.Module, nn.Module]:
    """A skip and a layer scale."""
    torch.manual_seed(2)
    conv, scale = nn.Conv2d(C, C, 3, padding=1), nn.Parameter(torch.randn(C, 1, 1))
    net = Of(lambda s, x: x + s.conv(x) * s.scale, conv, scale=scale)
    weight = conv.weight * scale[:, None]
    weight = weight + F.pad(torch.eye(C)[:, :, None, None], (1, 1, 1, 1))
    assert conv.bias is not None
    return conv_of(weight, conv.bias * scale.flatten(), padding=1), net


def norm_before(padding: int, shift: bool = True) -> tuple[nn.Module, nn.Module]:
    norm, conv = filled(nn.BatchNorm2d(C)), nn.Conv2d(C, C, 3, padding=padding)
    if not shift:
        with torch.no_grad():
            norm.running_mean.zero_()
            norm.bias.zero_()
    scale, more = factor(norm)
    assert conv.bias is not None
    bias = conv.bias + conv.weight.sum((2, 3)) @ more
    weight = conv.weight * scale.view(1, -1, 1, 1)
    return conv_of(weight, bias, padding=padding), nn.Sequential(norm, conv)


def normalised(padding: int, pad: str = "never") -> tuple[nn.Module, nn.Module]:
    """(x - mean) / std, and perhaps a pad with zeros before or behind it."""
    mean, std = torch.rand(C, 1, 1), torch.rand(C, 1, 1) + 0.5
    conv = nn.Conv2d(C, C, 3, 2, padding)

    def run(self: Any, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1)) if pad == "before" else x
        x = (x - self.mean) / self.std
        made: Tensor = self.conv(F.pad(x, (1, 1, 1, 1)) if pad == "behind" else x)
        return made

    assert conv.bias is not None
    bias = conv.bias - conv.weight.sum((2, 3)) @ (mean / std).flatten()
    whole = conv_of(conv.weight / std, bias, stride=2, padding=max(padding, int(pad != "never")))
    net = Of(run, conv)
    net.register_buffer("mean", mean)
    net.register_buffer("std", std)
    return whole, net


def pooled() -> tuple[nn.Module, nn.Module]:
    one, norm = nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C)
    net = filled(nn.Sequential(one, nn.AvgPool2d(3, 1, 1), norm))
    scale, shift = factor(norm)
    weight = (one.weight * scale.view(-1, 1, 1, 1) / 9).expand(C, C, 3, 3)
    return conv_of(weight, shift, padding=1), net


def norm_alone() -> tuple[nn.Module, nn.Module]:
    norm = filled(nn.BatchNorm2d(C))
    scale, shift = factor(norm)
    return conv_of(scale.view(-1, 1, 1, 1), shift, groups=C), norm


def weight_normed() -> tuple[nn.Module, nn.Module]:
    conv: Any = weight_norm(nn.Conv2d(C, C, 3, padding=1))
    return conv_of(conv.weight, conv.bias, padding=1), conv


RIGHT: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "three branches": branches(),
    "grouped": branches(groups=2),
    "strided": branches(stride=2),
    "several kernels, channel by channel": branches(kernels=3, groups=C),
    "3 x 3, 1 x 3 and 3 x 1": asymmetric,
    "1 x 1 then 3 x 3": lambda: in_a_row(True, 0, norm=True),
    "1 x 1 without a bias, then 3 x 3 padded": lambda: in_a_row(False, 1),
    "3 x 3 twice": lambda: larger(0),
    "a layer scale and a skip": scale_behind,
    "a norm before": lambda: norm_before(0),
    "a norm without a shift before a pad": lambda: norm_before(1, shift=False),
    "images normalised": lambda: normalised(0),
    "images padded, then normalised": lambda: normalised(0, "before"),
    "an average pool": pooled,
    "a norm as a convolution": norm_alone,
    "a weight norm": weight_normed,
}


@pytest.mark.parametrize("name", RIGHT)
def test_one_convolution_for_a_region_is_proven(name: str) -> None:
    one, two = RIGHT[name]()
    cert = prove(one, two)
    assert cert.verdict == "proven", cert.reason
    assert len(cert.spec["folds"]) == 1
    assert cert.spec["folds"][0].endswith("into 'body' of the candidate")
    status = {part.name: part.status for part in cert.parts}
    assert status["gradients"] == "not asked"
    assert status["rounding"] == status["end to end"] == "proven"
    assert any("one operator stands for several" in line for line in cert.not_covered)
    assert any(line.startswith("gradients of the network") for line in cert.not_covered)


@pytest.mark.parametrize("name", ["three branches", "images normalised", "a norm before"])
def test_the_reference_may_be_the_one_that_is_folded(name: str) -> None:
    one, two = RIGHT[name]()
    cert = prove(two, one)
    assert cert.verdict == "proven", cert.reason
    assert cert.spec["folds"][0].endswith("into 'body' of the reference")


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_kernel_is_off_by_covers_every_pixel(name: str) -> None:
    """Each pixel alone, at the border too, in float64: what the region makes, and the kernel."""
    one, two = RIGHT[name]()

    def run(net: nn.Module, images: Any, shapes: Any) -> list[Tensor]:
        return [net(*images)]

    (found,), _ = find_regions(NetworkSide(one.eval(), run), NetworkSide(two, run), (image(),), ())
    x = torch.eye(C * 30, dtype=torch.float64).view(-1, C, 6, 5)
    x = torch.cat([torch.zeros_like(x[:1]), x])
    with torch.no_grad():
        gap = (copy.deepcopy(one).double()(x) - copy.deepcopy(two).double()(x)).abs()
        limit: Any = copy.deepcopy(one).double()
        limit.weight.copy_(found.off[0])
        if limit.bias is not None:
            limit.bias.copy_(found.off[1])
        assert bool((gap <= limit(x)).all())


@pytest.mark.parametrize("groups", [1, 2])
def test_one_graph_layer_stands_for_branches_where_pixels_are_absent(groups: int) -> None:
    """The branches have no layer under the one layer's name: it is proven by its numbers alone."""
    net = filled(Branches(stride=2, groups=groups))
    torch.manual_seed(0)
    reference, candidate = Around(net).eval(), Around(deployed(net)).eval()
    candidate.head.load_state_dict(reference.head.state_dict())
    mask = torch.ones(2, 6, 5, dtype=torch.bool)
    mask[:, 2, 2] = False
    graph = cg.PixelGraph.from_image(image(), mask=mask)
    mine = cg.to_graph(candidate)
    cert = cg.prove(mine, reference, graph)
    assert cert.verdict == "proven", cert.reason
    assert cert.layers[0].name.startswith("body")
    layer: Any = mine.get_submodule("body")
    layer.forward = lambda *args, **more: type(layer).forward(layer, *args, **more) * 1.001
    assert cg.prove(mine, reference, graph).verdict == "refuted"


def test_a_graph_layer_stands_for_a_function_where_pixels_are_absent() -> None:
    """The reference calls a function: values are proven, and gradients are of other operators."""
    torch.manual_seed(0)
    conv, mask = nn.Conv2d(C, C, 3, padding=1), torch.ones(2, 6, 5, dtype=torch.bool)
    mask[:, 2, 2] = False
    graph = cg.PixelGraph.from_image(image(), mask=mask)

    def called(padding: int) -> nn.Module:
        net = nn.Module()
        net.weight, net.bias = conv.weight, conv.bias
        return Of(lambda s, x: F.conv2d(x, net.weight, net.bias, 1, padding), net)  # type: ignore[arg-type]

    candidate = cg.to_graph(Of(lambda s, x: s.conv(x), conv))
    status = {part.name: part.status for part in cg.prove(candidate, called(1), graph).parts}
    assert (status["wiring"], status["layers"]) == ("proven", "proven")
    assert status["gradients"] == "undecided"
    assert cg.prove(candidate, called(0), graph).verdict == "refuted"


def test_linear_maps_behind_norms_are_one() -> None:
    """Two heads, each behind its norm, and their mean, as RepViT has them."""
    norms, maps = ([kind() for _ in range(2)] for kind in (
        lambda: nn.BatchNorm1d(C), lambda: nn.Linear(C, 5)))  # fmt: skip
    heads = filled(nn.ModuleList(nn.Sequential(n, m) for n, m in zip(norms, maps, strict=True)))
    net = Of(lambda s, x: (s.conv[0](x) + s.conv[1](x)) / 2, heads)
    one = nn.Linear(C, 5)
    with torch.no_grad():
        parts = [(m.weight * factor(n)[0], m.weight @ factor(n)[1] + m.bias)
                 for n, m in zip(norms, maps, strict=True)]  # fmt: skip
        one.weight.copy_((parts[0][0] + parts[1][0]) / 2)
        one.bias.copy_((parts[0][1] + parts[1][1]) / 2)
    wrong = copy.deepcopy(one)
    with torch.no_grad():
        wrong.bias.copy_(parts[0][1])
    x = torch.randn(3, C)

    def judged(candidate: nn.Module) -> Any:
        return cg.prove(nn.Sequential(candidate, nn.ReLU()), nn.Sequential(net, nn.ReLU()), x)

    assert judged(one).verdict == "proven"
    assert judged(wrong).verdict == "refuted"


def test_a_summand_of_each_row_is_no_bias() -> None:
    linear = nn.Linear(C, 5)
    rows = nn.Parameter(linear.bias.detach().expand(3, 5).clone())
    net = Of(lambda s, x: torch.addmm(s.rows, x, s.conv.weight.t()) * 2, linear, rows=rows)
    one = nn.Linear(C, 5)
    with torch.no_grad():
        one.weight.copy_(2 * linear.weight)
        one.bias.copy_(2 * linear.bias)
    assert cg.prove(one, net, torch.randn(3, C)).verdict == "undecided"


class Two(nn.Module):
    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.one(x).relu()) + x
        return y


def test_several_regions_and_one_that_is_used_twice() -> None:
    one, two = filled(Branches()), filled(Branches(2, 2))
    pairs = [
        (Two(deployed(one), deployed(two)), Two(one, two), 2),
        (Two(one, deployed(two)), Two(one, two), 1),
        (Two(deployed(one), two), Two(one, deployed(two)), 2),
    ]
    shared = deployed(one)
    pairs.append((Two(shared, shared), Two(one, one), 2))
    for candidate, reference, folds in pairs:
        cert = prove(candidate, reference)
        assert cert.verdict == "proven", cert.reason
        assert len(cert.spec["folds"]) == folds


def test_graphs_are_proven_against_what_was_folded() -> None:
    net = filled(Around(Branches()))
    other = copy.deepcopy(net)
    other.body = deployed(net.body)
    cert = cg.prove(cg.to_graph(other), net, image())
    assert cert.verdict == "proven", cert.reason
    assert len(cert.layers) == 2


# -- what is none ----------------------------------------------------------------------------------

FAULTS: dict[str, dict[str, Any]] = {
    "a number": {"weight": 1e-3},
    "a number of the bias": {"bias": 1e-3},
    "a number by too little to show": {"weight": 1e-6},
    "eps left out": {"eps": 0.0},
    "no kernel": {"without": [0]},
    "no 1 x 1": {"without": [-2]},
    "no skip": {"without": [-1]},
    "the skip at the next channel": {"rolled": 1},
    "the 1 x 1 at the first tap": {"pad": (0, 2, 0, 2)},
    "the 1 x 1 at the last tap": {"pad": (2, 0, 2, 0)},
    "the 1 x 1 beside the middle": {"pad": (1, 1, 2, 0)},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_wrong_fold_is_not_proven(fault: str, groups: int) -> None:
    net = filled(Branches(groups=groups))
    found = prove(deployed(net, **FAULTS[fault]), net).verdict
    little = "little" in fault or "eps" in fault
    assert found in (("refuted", "undecided") if little else ("refuted",))


def test_what_is_off_is_said() -> None:
    net = filled(Branches())
    said = prove(deployed(net, weight=1e-3), net).reason
    assert said.startswith("'body.weight' differs; what 'body.point', 'body.point_norm', ")
    assert "make looks folded into it, but entry 3 of 'body.weight' is " in said
    assert "rounding explains" in said


BORDERS = {
    "1 x 1 with a bias, then 3 x 3 padded": lambda: in_a_row(True, 1),
    "1 x 1 and its norm, then 3 x 3 padded": lambda: in_a_row(False, 1, norm=True),
    "3 x 3 padded twice": lambda: larger(1),
    "a norm before a pad": lambda: norm_before(1),
    "images normalised before a pad": lambda: normalised(1),
    "images normalised, then padded": lambda: normalised(0, "behind"),
}  # fmt: skip


@pytest.mark.parametrize("name", BORDERS)
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_another_map_at_the_border_is_refuted(name: str, turned: bool) -> None:
    pair = BORDERS[name]()
    assert prove(*(pair[::-1] if turned else pair)).verdict == "refuted"


def test_a_border_that_shows_in_no_number_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, conv = filled(nn.BatchNorm2d(C)), nn.Conv2d(C, C, 3, padding=1)
    with torch.no_grad():
        norm.running_mean.zero_()
        norm.bias.zero_()
        norm.bias[1] = 1e-9
    weight = conv.weight * factor(norm)[0].view(1, -1, 1, 1)
    whole = conv_of(weight, conv.bias, padding=1)
    cert = prove(whole, nn.Sequential(norm, conv))
    assert cert.verdict == "undecided"
    assert "zeros are padded around what has a summand" in cert.reason
    monkeypatch.setattr(affine, "_reads", lambda *given: None)  # who does not look is deceived
    assert prove(whole, nn.Sequential(norm, conv)).verdict == "proven"


def of_data(self: Any, x: Tensor) -> Tensor:
    made: Tensor = self.conv(x) * (1 + 1e-30 * x.amax())
    return made


def read_within(self: Any, x: Tensor) -> Tensor:
    y = self.conv.point(x)
    made: Tensor = self.conv(x) + self.conv.point_norm(y) - self.conv.point_norm(y) + 0 * y.mean()
    return made


def of_another(self: Any, x: Tensor) -> Tensor:
    other = x + 1e-3
    made: Tensor = self.conv.point_norm(self.conv.point(x)) + self.conv.skip(other)
    return made + self.conv.norms[0](self.conv.kernels[0](x))


def of_the_other_image(self: Any, x: Tensor) -> Tensor:
    made: Tensor = self.conv.point_norm(self.conv.point(x)) + self.conv.skip(x.flip(0))
    return made + self.conv.norms[0](self.conv.kernels[0](x))


def cut_within(self: Any, x: Tensor) -> Tensor:
    made: Tensor = self.conv.point_norm(self.conv.point(x)) + self.conv.skip(x)
    return made + self.conv.norms[0](self.conv.kernels[0](x)).relu()


@pytest.mark.parametrize("how", [of_data, of_another, of_the_other_image, cut_within])
def test_what_is_affine_in_no_one_image_is_not_proven(how: Callable[..., Tensor]) -> None:
    net = filled(Branches())
    for pair in ((deployed(net), Of(how, net)), (Of(how, net), deployed(net))):
        assert prove(*pair).verdict != "proven"


def test_a_norm_that_trains_stands_for_nothing() -> None:
    net = filled(Branches())
    one = deployed(net)
    torch.manual_seed(0)
    reference, candidate = Around(net).eval(), Around(one).eval()
    candidate.head.load_state_dict(reference.head.state_dict())
    net.norms[0].train()
    assert cg.prove(candidate, reference, image()).verdict != "proven"


class Moving(nn.Module):
    """Its scale is another one behind each call."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("scale", torch.full((C, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x) * self.scale
        self.scale += 0.25
        return made


def test_what_a_region_holds_is_looked_at_where_it_is_read() -> None:
    conv = nn.Conv2d(C, C, 3, padding=1)
    assert conv.bias is not None
    one = conv_of(conv.weight * 0.75, conv.bias * 0.75, padding=1)  # as it is afterwards
    for pair in ((one, Moving(conv)), (Moving(conv), one)):
        assert prove(*pair).verdict != "proven"


def turned_skip(net: Any) -> Any:
    """The same operators; one of them reads the other image."""
    other = copy.deepcopy(net)
    other.skip.register_forward_pre_hook(lambda module, args: (args[0].flip(0),))
    return other


def dilated(net: Any) -> Any:
    other = copy.deepcopy(net)
    other.kernels[0].dilation = other.kernels[0].padding = (2, 2)
    return other


def more_outside(net: Any) -> Any:
    """One operator more before the others."""
    other = copy.deepcopy(net)
    other.register_forward_pre_hook(lambda module, args: (args[0].relu(),))
    return other


def moved(net: Any) -> Any:
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.norms[0].running_var[2] += 1e-6
    return other


def test_a_run_is_one_node_where_it_is_the_region_that_was_read() -> None:
    net = filled(Branches())

    def run(one: nn.Module, images: Any, shapes: Any) -> list[Tensor]:
        return [one(*images)]

    sides = NetworkSide(deployed(net).eval(), run), NetworkSide(net, run)
    regions, _ = find_regions(*sides, (image(),), ())

    def settled(other: nn.Module) -> list[Node]:
        numbering, nodes = Numbering(), list[Node]()

        def settle(node: Node) -> None:
            node.outputs = [numbering.take(shape) for shape in node.shapes]
            nodes.append(node)

        wiring = RegionWiring(regions, numbering, settle, lambda call: None)
        trace(
            other, lambda images: [other(*images)], (image(),), numbering, {}, wiring.settle,
            wiring.observe,
        )  # fmt: skip
        return nodes

    assert [(n.name, n.folded) for n in settled(net)] == [("convolution", True)]
    for other in (turned_skip, dilated):
        assert not any(node.folded for node in settled(other(net)))
    for other in (moved, more_outside):
        with pytest.raises(Undecided, match="holds other numbers than were read before"):
            settled(other(net))


# -- published networks ----------------------------------------------------------------------------


@pytest.mark.published
@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "repvit_m1", "fastvit_t8"])
def test_reparametrised_networks_are_proven(name: str) -> None:
    zoo.models()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    reference = cg.excite(timm.create_model(name).eval(), images)
    other = timm.utils.model.reparameterize_model(copy.deepcopy(reference)).eval()
    other.requires_grad_()  # FastViT's are frozen on the way
    cert = cg.prove(other, reference, images)
    assert cert.verdict == "proven", cert.reason
    assert len(cert.spec["folds"]) >= 20
    wrong = next(m for m in other.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)
    with torch.no_grad():
        wrong.weight.view(-1)[4] += 1e-3
    assert cg.prove(other, reference, images).verdict != "proven"
