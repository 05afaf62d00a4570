"""`cg.prove` of two networks on a graph with holes: absent pixels say nothing to any operator."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

import convgraph as cg
from convgraph.comparison.named import ADAPTERS, certify
from convgraph.comparison.on_mask import OnMask
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ProofError
from convgraph.proof import Certificate, verifier


class Residual(nn.Module):
    """Strides, a skip, a transposed convolution, a map as output."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False)
        self.skip = nn.Conv2d(4, 4, 1, stride=2)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.one(x)).relu()
        up: Tensor = self.up(nn.functional.relu6(self.down(y) + self.skip(y)))
        return up


def classifier(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *more,
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def prepared(net: nn.Module) -> Any:
    torch.manual_seed(0)
    return cg.excite(net.double().eval(), torch.randn(2, 2, 8, 8, dtype=torch.float64))


def holes() -> cg.PixelGraph:
    torch.manual_seed(1)
    mask = torch.rand(2, 8, 10) < 0.5
    mask[:, :4, :5] = False
    return cg.PixelGraph.from_image(torch.randn(2, 2, 8, 10, dtype=torch.float64), mask)


def statuses(cert: Any) -> dict[str, str]:
    return {part.name: part.status for part in cert.parts}


@pytest.mark.parametrize("make", [Residual, classifier])
def test_a_converted_network_is_proven_on_a_mask(make: Any) -> None:
    net, graph = prepared(make()), holes()
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", cert.reason
    found = statuses(cert)
    assert found["wiring"] == found["layers"] == found["operators"] == "proven"
    assert found["rounding"] == found["end to end"] == "proven"
    assert all(layer.spec["source_mask"] for layer in cert.layers[:2])
    assert found["gradients"] == "proven"
    assert cert.spec["mask"] == torch.stack(graph.sites.mask_images()).int().tolist()


def test_a_network_of_graph_layers_is_proven_on_a_mask() -> None:
    net = prepared(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)))
    cert = cg.prove(cg.nn.Sequential.from_dense(net), net, holes())
    assert cert.verdict == "proven", cert.reason


class Checkpointed(nn.Module):
    """Computes its second half anew in backward, perhaps otherwise."""

    def __init__(self, reentrant: bool, anew: float = 1.0) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.reentrant, self.anew = reentrant, anew

    def forward(self, x: Tensor) -> Tensor:
        before = [1.0]

        def half(y: Tensor) -> Any:
            times, before[0] = before[0], self.anew
            return self.two((y * times).relu())

        found: Any = checkpoint(half, self.one(x), use_reentrant=self.reentrant)
        return found


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have")  # torch's, of runs without gradients
def test_what_the_truth_computes_anew_knows_the_holes_too(reentrant: bool) -> None:
    """A checkpoint's second run comes in backward, where the mode that knows the holes is gone.

    The dense side then took holes for zeros there, and the right network was refuted. A layer that
    is followed as one function keeps by itself what it kept for its checkpoint to compute anew.
    """
    net, graph = prepared(Checkpointed(reentrant)), holes()
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", cert.reason
    other = Checkpointed(reentrant, anew=2.0).double()
    other.load_state_dict(net.state_dict())
    assert cg.prove(cg.to_graph(other), net, graph).verdict == "refuted"


def test_a_module_on_images_is_called_with_the_tensor_of_a_graph() -> None:
    """What is called so never hears the holes; what is called on zeros does."""
    net, graph = prepared(Stem(nn.Identity())), tiny()
    other = copy.deepcopy(net)
    cert = cg.prove(other, net, graph.tensor())
    assert cert.verdict == "proven", str(cert)
    assert cert.spec["tensors"]
    assert "the tensor of a graph" in cert.not_covered[-1]
    arrays = cg.prove(other, net, graph)
    assert (arrays.verdict, "tensors" in arrays.spec) == ("refuted", False)
    other.cut = True
    assert cg.prove(other, net, (graph.tensor(),)).verdict == "refuted"
    with pytest.raises(ProofError, match=r"of networks that take more than one, .* mask= and on="):
        cg.prove(other, net, (graph, graph))
    assert cg.prove(other, net, graph.tensor()).verdict == "refuted"
    whole = cg.PixelGraph.from_image(graph.to_image())
    for layer in (nn.Conv2d(2, 3, 3, padding=1).double(), nn.AvgPool2d(2)):
        assert cg.prove(layer, layer, whole.tensor()).verdict == "proven"
    with pytest.raises(ProofError, match="size are for one layer"):
        cg.prove(layer, layer, whole.tensor(), size=(5, 6))


def test_zeros_in_the_holes_are_refuted() -> None:
    """What everybody does first: biases and norms fill the holes, and neighbours hear them."""
    net = prepared(Residual())
    cert = cg.prove(net, net, holes())
    assert cert.verdict == "refuted"
    assert "rounding explains" in cert.reason
    mask = torch.stack(holes().sites.mask_images())
    assert cg.prove(net, net, holes().to_image(), mask=mask).verdict == "refuted"


def test_a_mean_that_counts_holes_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    net = prepared(classifier())
    other = copy.deepcopy(net)
    other[5] = Counted()
    cert = cg.prove(cg.to_graph(other), net, holes())
    assert cert.verdict == "refuted"


class Counted(nn.Module):
    """A mean by the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3), keepdim=True) / 80


def test_a_gradient_that_is_wrong_is_refuted_on_a_mask() -> None:
    net = prepared(classifier())
    other = cg.to_graph(net)
    other[5].register_full_backward_hook(lambda module, by, of: (2 * by[0],))
    cert = cg.prove(other, net, holes())
    assert cert.verdict == "refuted"
    assert statuses(cert)["gradients"] == "refuted"
    assert "rounding explains" in cert.reason


class Cut(nn.Module):
    """A skip around a norm, whose gradient is cut or not."""

    def __init__(self, norm: nn.Module, act: nn.Module, cut: bool) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(2, 4, 3, padding=1), norm, nn.Conv2d(4, 4, 1)
        self.act, self.cut = act, cut

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.two(self.act(self.norm(y))) + (y.detach() if self.cut else y)


@pytest.mark.parametrize(
    ("norm", "act"),
    [
        (nn.GroupNorm(2, 4), nn.GELU()),
        (nn.InstanceNorm2d(4), nn.SiLU()),
        (nn.InstanceNorm2d(4, affine=True), nn.ELU()),
    ],
)
def test_a_skip_that_is_cut_beside_a_norm_is_refuted_on_a_mask(
    norm: nn.Module, act: nn.Module
) -> None:
    torch.manual_seed(5)
    net = Cut(norm, act, False).double().eval()
    cut = copy.deepcopy(net)
    cut.cut = True
    assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "proven"
    cert = cg.prove(cg.to_graph(cut), net, tiny())
    assert cert.verdict == "refuted", str(cert)
    assert statuses(cert)["gradients"] == "refuted"


CUTS: dict[str, Any] = {
    "softplus": nn.functional.softplus,
    "softmax": lambda y: y.softmax(1),
    "the larger": lambda y: torch.maximum(y, 1 - y),
    "unit length": lambda y: nn.functional.normalize(y, dim=1),
    "slopes of channels": lambda y: nn.functional.prelu(
        y - 0.5, torch.tensor([0.1, 0.2, 0.3, 0], dtype=y.dtype)
    ),
    "resized": lambda y: nn.functional.interpolate(y, scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_gradient_is_never_left_out_where_it_has_no_bound(name: str) -> None:
    """The same program is proven; another one is undecided, unless a number shows it."""

    def cut(whole: bool) -> Any:
        function = CUTS[name]

        def run(y: Tensor) -> Tensor:
            gate = function(y).mean((2, 3), keepdim=True)
            return function(y * 2) + (gate if whole else gate.detach())

        torch.manual_seed(0)
        return between(run)

    net = cut(True)
    right = cg.prove(cg.to_graph(net), net, tiny())
    assert right.verdict == "proven", str(right)
    wrong = cg.prove(cg.to_graph(cut(False)), net, tiny())
    choices = name in ("the larger", "unit length")  # which rounding can change
    assert wrong.verdict == ("undecided" if choices else "refuted"), str(wrong)
    assert statuses(right)["gradients"] == "proven"


def leaking(g: Any) -> Any:
    """What goes back, and next to nothing of it to the node beside."""
    return g + 1e-18 * g.roll(1, 0)


def reversed_(g: Any) -> Any:
    """What goes back to the first node goes to the last one."""
    return g.flip(0)


class Leaks(nn.Module):
    """What goes back behind a pool goes another way, or does not."""

    def __init__(self, pool: Any, other: Any) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.pool, self.other = pool, other

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.other is not None and y.requires_grad:
            y.register_hook(self.other)
        return self.two(self.pool(y))


POOLS: dict[str, Any] = {
    "maxima": nn.MaxPool2d(2),
    "means": nn.AvgPool2d(2),
    "means of who is there": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive": nn.AdaptiveAvgPool2d((2, 3)),
    "resized": nn.Upsample(scale_factor=2, mode="bilinear"),
    "the largest": nn.AdaptiveMaxPool2d(1),
}


@pytest.mark.parametrize(
    "name",
    [n if n == "maxima" else pytest.param(n, marks=pytest.mark.ci) for n in POOLS],
)
def test_gradients_behind_a_pool_are_compared_as_a_program(name: str) -> None:
    """Numbers alone did not show another one, which a bound is too wide for: it was proven.

    Where there was no bound at all, the same elements in another order were taken for the same.
    """
    torch.manual_seed(0)
    net: Any = Leaks(POOLS[name], None).double().eval()
    other = copy.deepcopy(net)
    right = cg.prove(cg.to_graph(net), net, tiny())
    assert (right.verdict, statuses(right)["gradients"]) == ("proven", "proven"), str(right)
    ties = any("equally large" in text for text in right.not_covered)
    assert ties == (name in ("maxima", "the largest"))
    other.other = leaking
    assert cg.prove(cg.to_graph(other), net, tiny()).verdict == "undecided"
    other.other = reversed_
    wrong = cg.prove(cg.to_graph(other), net, tiny()).verdict
    assert wrong == ("undecided" if name == "the largest" else "refuted")


class Flattened(nn.Module):
    """A linear layer of all pixels, as AlexNet and VGG have it behind an adaptive pool."""

    def __init__(self, flat: Any, act: Any = lambda y: y) -> None:
        super().__init__()
        self.one, self.pool = nn.Conv2d(2, 4, 3, padding=1), nn.AdaptiveAvgPool2d((3, 3))
        self.linear, self.drop = nn.Linear(36, 3), nn.Dropout()
        self.flat, self.act = [flat], [act]

    def forward(self, x: Tensor) -> Any:
        y = self.flat[0](self.pool(self.one(x).relu()))
        return self.linear(self.drop(self.act[0](y)))


def flattened(*how: Any) -> Any:
    torch.manual_seed(0)
    return Flattened(*how).double().eval()


def test_a_hook_of_gradients_on_both_sides_is_no_difference() -> None:
    """Torch looks at what a module takes and returns through views of them."""

    def twice(module: Any, to: Any, by: Any) -> Any:
        return (2 * to[0],)

    torch.manual_seed(0)
    plain: Any = Leaks(nn.MaxPool2d(2), None).double().eval()
    net = copy.deepcopy(plain)
    net.one.register_full_backward_hook(twice)
    net.pool.register_full_backward_hook(twice)
    assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "proven"
    assert cg.prove(cg.to_graph(plain), net, tiny()).verdict == "refuted"


FLAT: dict[str, Any] = {
    "flatten": (nn.Flatten(),),
    "view": (lambda y: y.view(len(y), -1),),
    "reshape": (lambda y: torch.reshape(y, (y.shape[0], 36)), torch.relu),
    "more of each": (lambda y: y.flatten(1), lambda y: y.add_(1)),
    "more of each, by name": (lambda y: y.flatten(1), lambda y: (y.add_(1), y)[1]),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_flattened_map_says_0_where_nobody_is(name: str) -> None:
    net, graph = flattened(*FLAT[name]), tiny()
    assert cg.prove(cg.to_graph(net), net, graph).verdict == "proven"
    # the pool's third map has a hole
    pooled = cg.to_graph(nn.Sequential(net.one, nn.ReLU(), net.pool))(graph)
    assert not bool(pooled.sites.mask.all())


def one_more(y: Tensor) -> Tensor:
    return y.add(1)


FLAT_FAULTS: dict[str, Any] = {
    "turned": (lambda y: y.permute(0, 1, 3, 2).flatten(1),),
    "rolled": (lambda y: y.roll(1, 3).flatten(1),),
    "more of nodes": (lambda y: (y + 1).flatten(1),),
    "more of holes too": (lambda y: y.flatten(1), lambda y: cg_dense(y) + 1),
}


def cg_dense(y: Any) -> Any:
    """A map's plain tensor: what is added next is added to holes."""
    return y.to_dense() if isinstance(y, GraphTensor) else y


@pytest.mark.parametrize("name", FLAT_FAULTS)
def test_a_map_that_is_flattened_otherwise_is_refuted(name: str) -> None:
    act = one_more if name.startswith("more") and "holes" in name else nn.Identity()
    net = flattened(lambda y: y.flatten(1), act)
    other = flattened(*FLAT_FAULTS[name])
    other.load_state_dict(net.state_dict())
    assert cg.prove(cg.to_graph(other), net, tiny()).verdict == "refuted"


def test_a_flattened_map_has_a_truth_for_what_is_done_entry_by_entry_alone() -> None:
    for act in (lambda y: y.softmax(1), lambda y: y.flip(1), lambda y: y[:, :36]):
        net = flattened(lambda y: y.flatten(1), act)
        cert = cg.prove(cg.to_graph(net), net, tiny())
        assert (cert.verdict, "of a flattened map" in cert.reason) == ("undecided", True)
    net = flattened(lambda y: y.view(len(y), 12, 3).sum(2).repeat(1, 3))
    cert = cg.prove(cg.to_graph(net), net, tiny())
    assert (cert.verdict, "in shape (2, 12, 3)" in cert.reason) == ("undecided", True)


def written_flat(y: Tensor) -> Tensor:
    """A view of a map is written to."""
    y.flatten(1).mul_(2)
    return y.flatten(1)


def test_a_flattened_map_that_is_written_to_is_undecided() -> None:
    net = flattened(written_flat)
    assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "undecided"


class Everybody(nn.Module):
    """Its result says 0 for the holes, which are then nodes to whoever goes on."""

    def __init__(self, net: Any, all_of_them: bool) -> None:
        super().__init__()
        self.one, self.all_of_them = net[0], all_of_them

    def forward(self, x: Any) -> Any:
        graph = self.one(x).graph
        return cg.PixelGraph.from_image(graph.to_image()) if self.all_of_them else graph


def test_zeros_that_became_nodes_are_undecided() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)).double()
    assert cg.prove(Everybody(net, False), _owned(net), tiny().tensor()).verdict == "proven"
    cert = cg.prove(Everybody(net, True), _owned(net), tiny().tensor())
    assert (cert.verdict, cert.reason) == (
        "undecided",
        "output 0 has other nodes than the judge says",
    )


def _owned(net: Any) -> Any:
    """The same network under the names of `Everybody`."""
    made = nn.Sequential()
    made.add_module("one", copy.deepcopy(net[0]))
    return made


class Writes(nn.Module):
    """Writes to its input, or to a copy."""

    def __init__(self, to: bool, times: float = 1.0) -> None:
        super().__init__()
        self.one, self.to, self.times = nn.Conv2d(2, 2, 3, padding=1), to, times

    def forward(self, x: Tensor) -> Any:
        y = nn.functional.relu(x, inplace=self.to)
        x = x.mul_(self.times) if self.times != 1 else x
        return self.one(y / self.times if self.times != 1 else y)


@pytest.mark.parametrize("tensors", [False, True])
def test_what_inputs_hold_afterwards_is_compared_on_a_mask(tensors: bool) -> None:
    torch.manual_seed(0)
    nets = {name: Writes(*how).double() for name, how in
            {"to it": (True,), "to a copy": (False,), "twice": (True, 2.0)}.items()}  # fmt: skip
    for net in nets.values():
        net.load_state_dict(nets["to it"].state_dict())

    def prove(one: str, two: str) -> Any:
        if tensors:
            return cg.prove(copy.deepcopy(nets[one]), nets[two], tiny().tensor())
        return cg.prove(cg.to_graph(nets[one]), nets[two], tiny())

    assert prove("to it", "to it").verdict == "proven"
    assert prove("to a copy", "to a copy").verdict == "proven"
    for pair in (("to it", "to a copy"), ("to a copy", "to it")):
        cert = prove(*pair)
        assert (cert.verdict, cert.reason) == (
            "undecided",
            "input 0 is written to on one side alone",
        )
    assert prove("twice", "to it").verdict == "refuted"


def test_a_backward_that_raises_is_undecided_on_a_mask() -> None:
    def fails(module: nn.Module, by: Any, of: Any) -> None:
        raise RuntimeError("no way back")

    net = prepared(classifier())
    other = cg.to_graph(net)
    other[5].register_full_backward_hook(fails)
    cert = cg.prove(other, net, holes())
    assert cert.verdict == "undecided"
    assert "no way back" in cert.reason


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1))


def test_layers_on_a_mask_are_verified_from_their_record() -> None:
    name = f"{__name__}:small"
    mask = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    cert = certify(None, name, size=(6, 5), mask=mask)
    assert cert.verdict == "proven", cert.reason
    _, found = verifier.verify(cert.to_json(), trust=[*ADAPTERS, __name__])
    held = [line for line in found if line.endswith("the record holds: proven")]
    assert len(held) == len(cert.layers) == 2, found


class Stem(nn.Module):
    """The entrance of a ResNet, and a skip around what follows."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.one, self.norm, self.pool = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), pool
        self.two, self.cut, self.act = nn.Conv2d(2, 2, 1), False, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.act(self.norm(self.one(x))))
        return self.two(y) + (y.detach() if self.cut else y)


def few() -> cg.PixelGraph:
    """Four windows of 2 x 2 pixels, one of which is empty."""
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(2, 4, 4, generator=generator) < 0.6
    mask[0, :2, :2] = False
    image = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=generator)
    return cg.PixelGraph.from_image(image, mask)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(2), pytest.param(nn.MaxPool2d(3, 2, 1), marks=pytest.mark.ci)],
)
def test_a_max_pool_within_a_network_is_proven_on_a_mask(pool: nn.Module) -> None:
    net = prepared(Stem(pool))
    cert = cg.prove(cg.to_graph(net), net, few())
    assert cert.verdict == "proven", str(cert)
    assert statuses(cert)["end to end"] == "proven"
    assert [layer.kind for layer in cert.layers] == ["convolution", "maximum", "convolution"]
    assert Certificate.from_json(cert.to_json()) == cert


def test_a_max_pool_of_many_channels_takes_as_many_runs_as_one_of_few() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 48, 3, padding=1), nn.MaxPool2d(3, 2, 1)).double().eval()
    graph = cg.PixelGraph.from_image(
        torch.rand(2, 2, 12, 12).double(), mask=torch.rand(2, 12, 12) > 0.3
    )
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", str(cert)


def test_a_skip_that_is_cut_beside_a_max_pool_is_refuted_on_a_mask() -> None:
    net = prepared(Stem(nn.MaxPool2d(2)))
    other = copy.deepcopy(net)
    other.cut = True
    cert = cg.prove(cg.to_graph(other), net, few())
    assert (cert.verdict, statuses(cert)["gradients"]) == ("refuted", "refuted"), str(cert)


def test_a_gradient_that_a_pool_sends_twice_is_refuted_on_a_mask() -> None:
    net = prepared(Stem(nn.MaxPool2d(2)))
    other = cg.to_graph(net)
    other.pool.register_full_backward_hook(lambda module, to, by: (2 * to[0],))
    cert = cg.prove(other, net, few())
    assert (cert.verdict, statuses(cert)["gradients"]) == ("refuted", "refuted"), str(cert)


@pytest.mark.parametrize("pool", [nn.MaxPool2d((2, 1), (2, 2)), nn.MaxPool2d(2, dilation=(1, 2))])
def test_another_window_is_refuted_on_a_mask(pool: nn.Module) -> None:
    net = prepared(Stem(nn.MaxPool2d(2)))
    other = copy.deepcopy(net)
    other.pool = pool
    assert cg.prove(cg.to_graph(other), net, few()).verdict == "refuted"


def test_holes_that_win_as_zeros_are_refuted_where_no_number_shows_it() -> None:
    """Behind a relu nothing is below 0, so a hole that is 0 wins only where all are 0."""
    net, graph = prepared(Stem(nn.MaxPool2d(2))), few()
    mask = torch.stack(graph.sites.mask_images())
    there = mask.unsqueeze(1).double()

    class Filled(Stem):
        def forward(self, x: Tensor) -> Tensor:
            y = self.pool(self.act(self.norm(self.one(x) * there) * there))
            y = y * (nn.functional.max_pool2d(there, 2) > 0)
            return (self.two(y) + y) * (nn.functional.max_pool2d(there, 2) > 0)

    other = Filled(nn.MaxPool2d(2)).double().eval()
    other.load_state_dict(net.state_dict())
    cert = cg.prove(other, net, graph.to_image(), mask=mask)
    assert cert.verdict != "proven", str(cert)


class Of(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.function = [function]

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.two(self.function[0](self.one(x)))
        return made


def of(function: Any) -> Any:
    torch.manual_seed(5)
    return Of(function).double().eval()


resize = nn.functional.interpolate
FUNCTIONS: dict[str, Any] = {
    "max": lambda x: nn.functional.max_pool2d(x, 2),
    "mean": lambda x: nn.functional.avg_pool2d(x, 2),
    "mean, padded": lambda x: nn.AvgPool2d((2, 4), (1, 2), (1, 2))(x),
    "divided by 8": lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=8),
    "bilinear": lambda x: resize(x, scale_factor=2, mode="bilinear"),
    "bilinear, of a size": lambda x: resize(x, (8, 8), mode="bilinear"),
    "nearest": lambda x: nn.Upsample(scale_factor=2)(x),
    "nearest, of a size": lambda x: resize(x, (3, 5)),
}


@pytest.mark.parametrize(
    "name",
    [n if n in ("mean", "bilinear") else pytest.param(n, marks=pytest.mark.ci) for n in FUNCTIONS],
)
def test_pools_and_resizes_are_layers_whether_modules_or_not(name: str) -> None:
    net = of(FUNCTIONS[name])
    cert = cg.prove(cg.to_graph(net), net, few())
    assert cert.verdict == "proven", str(cert)
    assert statuses(cert)["end to end"] == "proven"
    kinds = [layer.kind for layer in cert.layers]
    assert kinds == ["convolution", "maximum" if name == "max" else "linear", "convolution"]
    assert Certificate.from_json(cert.to_json()) == cert


def test_pools_and_resizes_by_hand_are_held_at_the_sites_of_the_mask() -> None:
    """A dense network that fills holes by itself, and asks a pool of the mask who is there."""
    net, graph = of(FUNCTIONS["mean"]), few()
    mask = torch.stack(graph.sites.mask_images()).unsqueeze(1).double()

    class Filled(Of):
        def forward(self, x: Tensor) -> Tensor:
            there = (nn.functional.max_pool2d(mask, 2) > 0).double()
            return self.two(self.function[0](self.one(x) * mask) * there) * there

    other = Filled(FUNCTIONS["mean"]).double().eval()
    other.load_state_dict(net.state_dict())
    cert = cg.prove(other, net, graph.to_image(), mask=mask.squeeze(1).bool())
    assert cert.verdict == "proven", str(cert)
    other.function = [lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=3)]
    assert cg.prove(other, net, graph.to_image(), mask=mask.squeeze(1).bool()).verdict == "refuted"


def on_nodes(function: Any) -> Any:
    """What runs on the image of a graph, and comes back to the nodes of what the twin returns."""

    def run(x: Any) -> Any:
        y = FUNCTIONS["bilinear"](x).graph
        image = function(x.graph.to_image())
        return y.with_x(image.movedim(1, -1)[torch.stack(y.sites.mask_images())]).tensor()

    return run


WRONG: dict[str, Any] = {
    "nearest": lambda x: resize(x, scale_factor=2),
    "corners": lambda x: resize(x, scale_factor=2, mode="bilinear", align_corners=True),
    "renormalised": lambda x: resize(x, scale_factor=2, mode="bilinear") / resize(
        (x != 0).double(), scale_factor=2, mode="bilinear").clamp(min=0.1),
    "clamped": lambda x: resize(x, scale_factor=2, mode="bilinear").clamp(-1e6, 1e6),
    "halved": lambda x: resize(x.float(), scale_factor=2, mode="bilinear").double(),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_resize_that_is_wrong_is_not_proven(name: str) -> None:
    net = of(FUNCTIONS["bilinear"])
    other: Any = cg.to_graph(net)
    other.function = [on_nodes(WRONG[name])]
    cert = cg.prove(other, net, few())
    assert cert.verdict == ("undecided" if name == "clamped" else "refuted"), str(cert)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (nn.AdaptiveMaxPool2d((2, 3)), "adaptive windows on masks"),
        (nn.LPPool2d(2, 2), "on masks"),
    ],
)
def test_what_has_no_rule_on_masks_is_undecided(more: nn.Module, why: str) -> None:
    net = prepared(classifier(more))
    cert = cg.prove(cg.to_graph(net), net, holes())
    assert cert.verdict == "undecided"
    assert why in cert.reason


def test_autocast_is_named_where_a_layer_computes_in_another_type() -> None:
    class Cast(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    net, graph = Cast(nn.Conv2d(2, 2, 1), nn.ReLU()), tiny()
    cert = cg.prove(cg.to_graph(net), net, graph.with_x(graph.x.float()))
    assert cert.verdict == "undecided"
    assert cert.reason.startswith("autocast is on at '0'"), str(cert)
    net.double()  # which it leaves as it is
    assert cg.prove(cg.to_graph(net), net, graph).verdict == "proven"


class Mapped(nn.Module):
    """A move or a norm between two convolutions."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.norm = between if isinstance(between, nn.Module) else nn.Identity()
        self.between = None if isinstance(between, nn.Module) else between

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.one(x).relu())
        made: Tensor = self.two(y if self.between is None else self.between(y))
        return made


class OfChannels(nn.LayerNorm):
    """A layer norm of each pixel's channels, with a linear map, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__(4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(super().forward(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def respond(y: Tensor, pixels: tuple[int, int], channels: int, p: float = 2) -> Tensor:
    """A response of each channel by its norm over the image, as ConvNeXt V2 has it."""
    size = torch.norm(y, p=p, dim=pixels, keepdim=True)
    return y * (size / (size.mean(channels, keepdim=True) + 1e-6)) + y


def shuffled(y: Tensor) -> Tensor:
    return nn.functional.pixel_unshuffle(nn.functional.pixel_shuffle(y, 2).flip(3), 2)


class Standardised(nn.Conv2d):
    """A convolution by a weight that is computed."""

    def forward(self, x: Tensor) -> Tensor:
        off = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = off / off.square().mean((1, 2, 3), keepdim=True).sqrt()
        return nn.functional.conv2d(x, weight, self.bias, padding=self.padding)


pad, mean = nn.functional.pad, nn.functional.avg_pool2d


def two_means(y: Tensor, *counts: bool) -> Tensor:
    """Two means in one network, which differ in what no module prints."""
    one, two = (mean(z, 3, 1, 1, False, n) for z, n in zip((y, y * 2), counts, strict=True))
    return one + two


BETWEEN: dict[str, Any] = {
    "softmax": lambda y: y.softmax(1),
    "mean and largest channel": lambda y: y * (y.mean(1, keepdim=True) + y.amax(1, keepdim=True)),
    "halves": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "unit length": lambda y: nn.functional.normalize(y, dim=1),
    "norm by hand": lambda y: (
        (y - y.mean(1, keepdim=True))
        / ((y - y.mean(1, keepdim=True)).square().mean(1, keepdim=True) + 1e-6).sqrt()
    ),
    "gate": lambda y: y * nn.functional.adaptive_avg_pool2d(y, 1).sigmoid(),
    "pad": lambda y: pad(y, (1, 2, 0, 1)),
    "negative pad": lambda y: pad(y, (1, -2, 0, 1)),
    "copies": lambda y: pad(
        pad(pad(y, (1, 2, 1, 1), mode="reflect"), (1, 2, 1, 0), mode="circular"),
        (0, 2, 1, 1),
        mode="replicate",
    ),
    "crop": lambda y: y[:, :, 1:-1, 2:],
    "flip": lambda y: y.flip(2, 3),
    "roll": lambda y: y.roll((1, -2), (2, 3)),
    "channels, of every second": lambda y: torch.cat([y[:, 2:], y[:, :2]], 1)[..., ::2],
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "instance norm of before": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "instance norm, the operator": lambda y: torch.instance_norm(
        y, None, None, *torch.full((2, 4), 0.5, dtype=y.dtype), False, 0.0, 1e-5, False
    ),
    "layer norm": OfChannels(),
    "shuffle and back": lambda y: shuffled(y.roll(1, 3)),
    "channels in groups": lambda y: nn.functional.channel_shuffle(y, 2),
    "gated": lambda y: nn.functional.glu(torch.cat([y, y - 1], 1), 1),
    "channels beside": nn.LocalResponseNorm(3),
    "batch norm of who is there": lambda y: nn.functional.batch_norm(y, None, None, training=True),
    "weights of variance 1": Standardised(4, 4, 3, padding=1),
    "off the mean of who is there": lambda y: (
        nn.functional.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y
    ),
    "means of strided windows": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "two means": lambda y: two_means(y, True, False),
    "a window of all, by 8": lambda y: y * mean(y, (5, 6), divisor_override=8),
    "adaptive means": nn.AdaptiveAvgPool2d((2, 3)),
    "means of areas": lambda y: nn.functional.interpolate(y, (2, 3), mode="area"),
    "adaptive means of more": nn.AdaptiveAvgPool2d((7, None)),
    "responses": lambda y: respond(y, (2, 3), 1),
    "responses, channels last": lambda y: respond(y.permute(0, 2, 3, 1), (1, 2), -1).permute(
        0, 3, 1, 2
    ),
    "dropped, channels last": lambda y: nn.functional.dropout(
        2 - y.permute(0, 2, 3, 1), 0.1, training=False
    ).permute(0, 3, 1, 2),
}
MEASURED = {"channels beside"}
"""Those that have no bound from end to end."""


def between(made: Any) -> Any:
    net = Mapped(made)
    with torch.no_grad():
        for one in net.norm.parameters():
            one.normal_()
    return net.double().eval()


def tiny() -> cg.PixelGraph:
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(2, 5, 6, generator=generator) < 0.6
    image = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=generator)
    return cg.PixelGraph.from_image(image, mask)


FEW = (
    "pad", "crop", "roll", "group norm", "layer norm", "shuffle and back",
    "off the mean of who is there", "adaptive means", "responses, channels last",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.ci) for n in BETWEEN]
)
def test_moves_and_norms_are_proven_on_a_mask(name: str) -> None:
    net = between(copy.deepcopy(BETWEEN[name]))
    cert = cg.prove(cg.to_graph(net), net, tiny())
    assert cert.verdict == "proven", str(cert)
    assert statuses(cert)["end to end"] == ("measured only" if name in MEASURED else "proven")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("shuffle and back", lambda y: shuffled(y.roll(-1, 3))),
        ("channels in groups", lambda y: y),
        ("instance norm of before", nn.InstanceNorm2d(4, affine=True)),
        ("gated", lambda y: nn.functional.glu(torch.cat([y - 1, y], 1), 1)),
        ("channels beside", lambda y: nn.functional.local_response_norm(y, 5)),
        ("batch norm of who is there", lambda y: y.graph.with_x(
            nn.functional.batch_norm(torch.cat([y.graph.x, y.graph.x[:1] * 0]), None, None,
                                     training=True)[:-1]).tensor()),
        ("weights of variance 1", lambda y: nn.functional.conv2d(y, torch.ones(
            4, 4, 3, 3, dtype=y.dtype), padding=1)),
        ("off the mean of who is there", lambda y: nn.functional.avg_pool2d(y, 3, 1, 1) - y),
        ("off the mean of who is there", lambda y: nn.functional.avg_pool2d(
            y, 3, 1, 1, count_include_pad=False, divisor_override=9) - y),
        ("instance norm, the operator", nn.InstanceNorm2d(4)),
        ("two means", lambda y: two_means(y, True, True)),
        ("two means", lambda y: two_means(y, False, True)),
        ("a window of all, by 8", lambda y: y * y.mean((2, 3), keepdim=True)),
        ("adaptive means", lambda y: nn.functional.adaptive_avg_pool2d(y.roll(1, 3), (2, 3))),
        ("means of areas", lambda y: nn.functional.interpolate(y, (2, 3))),
        ("responses", lambda y: respond(y, (2, 3), 1, p=1)),
        ("responses, channels last", lambda y: respond(y.roll(1, 1), (2, 3), 1)),
        ("dropped, channels last", lambda y: 2 + y),
    ],
)  # fmt: skip
def test_what_moves_or_weighs_otherwise_is_not_proven_on_a_mask(name: str, wrong: Any) -> None:
    net, other = between(copy.deepcopy(BETWEEN[name])), between(wrong)
    other.load_state_dict(net.state_dict(), strict=False)
    cert = cg.prove(other, net, tiny().tensor())
    assert cert.verdict in ("refuted", "undecided"), str(cert)
    if name not in MEASURED:
        assert cert.verdict == "refuted", str(cert)


def written(y: Tensor, part: Any, write: Any) -> Tensor:
    """A map of whose memory a part is written to."""
    write(part(y))
    return y


def doubled(y: Tensor) -> Tensor:
    """A view that is read, after its base was written to."""
    part = y[:, :1]
    y.mul_(2)
    return torch.cat([part] * 4, 1)


VIEWS: dict[str, Any] = {
    "rows": lambda y: y[:, :, ::2],
    "a channel": lambda y: y[:, :1],
    "chunks": lambda y: y.chunk(2, 1)[0],
    "a line": lambda y: y.narrow(2, 1, 2),
    "channels last": lambda y: y.permute(0, 2, 3, 1),
    "there and back": lambda y: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "a view of a view": lambda y: y[:, :2][:, :, 1:],
    "itself, written to": lambda y: y.relu_(),
    "detached": lambda y: y[:, :1].detach(),
    "in its own order": lambda y: y[:, :1].permute(0, 1, 2, 3),
}


@pytest.mark.parametrize("name", [*VIEWS, "a base"])
@pytest.mark.parametrize("write", [lambda y: y.mul_(2), lambda y: y.__iadd__(1)])
def test_a_view_that_is_written_to_is_not_lost(name: str, write: Any) -> None:
    """The truth holds copies in the place of views: which neither proves nor refutes."""
    if name == "a base":
        net, other = between(doubled), between(lambda y: torch.cat([y[:, :1]] * 4, 1))
    else:
        net = between(lambda y: written(y, VIEWS[name], write))
        other = between(torch.relu if name == "itself, written to" else nn.Identity())
    other.load_state_dict(net.state_dict(), strict=False)
    right, lost = cg.prove(cg.to_graph(net), net, tiny()), cg.prove(other, net, tiny().tensor())
    assert (right.verdict, lost.verdict) == ("undecided", "undecided"), (str(right), str(lost))
    assert "a write into what is a view" in right.reason


class Last(nn.Conv2d):
    """A map is what comes out, and its memory was written to by another name."""

    writes = True

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return written(y, VIEWS["a channel"], lambda part: part.mul_(2)) if self.writes else y


def test_a_view_that_is_written_to_last_is_not_lost() -> None:
    net = nn.Sequential(Last(2, 3, 3, padding=1)).double()
    other = copy.deepcopy(net)
    other[0].writes = False  # type: ignore[assignment]
    assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "undecided"
    assert cg.prove(other, net, tiny().tensor()).verdict == "undecided"


def copied(y: Tensor) -> Tensor:
    """Of a part of a map `contiguous()` is a copy in torch, and the part itself of a copy of it."""
    part = y[:, :2]
    part.contiguous().mul_(2)
    return torch.cat([part, part], 1)


def of_its_size(y: Tensor) -> Tensor:
    y = y * 1
    nn.functional.adaptive_avg_pool2d(y, y.shape[2:]).mul_(2)
    return y


def with_more_nodes(y: Tensor) -> Tensor:
    z = pad(y[:, :, 1:], (0, 0, 1, 0))
    z.add_(y)
    return z


def test_a_copy_in_torch_is_one_here_where_a_copy_stands_for_a_view() -> None:
    for function in (copied, of_its_size):
        net, other = between(function), between(lambda y: y)
        if function is copied:
            other = between(lambda y: torch.cat([y[:, :2]] * 2, 1))
        other.load_state_dict(net.state_dict())
        for graph in (tiny(), cg.PixelGraph.from_image(tiny().to_image())):
            assert cg.prove(cg.to_graph(net), net, graph.tensor()).verdict != "refuted"
            assert cg.prove(other, net, graph.tensor()).verdict != "refuted"


def test_a_full_grid_stays_one_whatever_it_is_padded_with() -> None:
    """Without holes the truth is the dense network, whose pads hear a bias."""
    net, graph = (
        between(lambda y: pad(y, (1, 2, 0, 1))),
        cg.PixelGraph.from_image(tiny().to_image()),
    )
    assert cg.prove(copy.deepcopy(net), net, graph.tensor()).verdict == "proven"
    other = between(lambda y: pad(y, (1, 2, 0, 1), value=1e-3))
    other.load_state_dict(net.state_dict())
    assert cg.prove(other, net, graph.tensor()).verdict == "refuted"


def test_a_write_that_brings_nodes_is_undecided() -> None:
    """A map that was written to by name lay where it had been before."""
    net = between(with_more_nodes)
    cert = cg.prove(cg.to_graph(net), net, tiny())
    assert cert.verdict == "undecided"
    assert "a write that brings nodes" in cert.reason


def test_a_resize_that_integers_do_not_prove_is_undecided() -> None:
    net = of(lambda x: resize(x, scale_factor=2, mode="bilinear", align_corners=True))
    cert = cg.prove(cg.to_graph(net), net, tiny())
    assert (cert.verdict, "no sums of powers of two" in cert.reason) == ("undecided", True)


def test_a_view_that_nobody_reads_any_more_may_be_written_to() -> None:
    def unread(y: Tensor) -> Tensor:
        base = y * 1
        return base[:, :].mul_(2) + 1

    net = between(unread)
    cert = cg.prove(cg.to_graph(net), net, tiny())
    assert cert.verdict == "proven", str(cert)


class Astray(nn.Module):
    """A dense network that leaves holes out before what is between, and never behind it."""

    def __init__(self, net: Any, between: Any, graph: cg.PixelGraph) -> None:
        super().__init__()
        self.one, self.two, self.between = net.one, net.two, between
        self.there = torch.stack(graph.sites.mask_images()).unsqueeze(1).double()

    def forward(self, x: Tensor) -> Any:
        y = (self.one(x) * self.there).relu() * self.there
        return self.two(self.between(y))


def set_into(y: Tensor) -> Tensor:
    """A map in what was an ordinary tensor."""
    z = torch.zeros(y.shape, dtype=y.dtype)
    z[:] = y
    return z


def caught(y: Tensor) -> Tensor:
    """A network that goes on without what it cannot have."""
    try:
        return torch.where(y > 1, y, 1.0)
    except ProofError:
        return y + 1


def largest_last(y: Tensor) -> Tensor:
    z = y.permute(0, 2, 3, 1)
    return (z.max(-1)[0].unsqueeze(-1) + z).permute(0, 3, 1, 2)


def other_data(y: Tensor) -> Tensor:
    z = y * 1
    z.data = y.flip(3)
    return z


def sigmoid(y: Tensor) -> Tensor:
    """Not what torch calls so."""
    return handle_torch_function(sigmoid, (y,), y) if has_torch_function((y,)) else 1 - y.flip(3)


def half(value: Any) -> Any:
    """Of a map or of a graph."""
    return value.with_x(value.x * 0.5) if isinstance(value, cg.PixelGraph) else value * 0.5


def hooked(net: Any, at: int, kind: str) -> Any:
    """With a hook of a layer that is one node, before it or behind it."""
    if kind == "before":
        net[at].register_forward_pre_hook(lambda module, given: (half(given[0]),))
    else:
        net[at].register_forward_hook(lambda module, given, made: half(made))
    return net


@pytest.mark.parametrize("kind", ["before", pytest.param("behind", marks=pytest.mark.ci)])
@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.ci), 2])
def test_what_a_layer_hooks_do_is_around_it_and_not_within(at: int, kind: str) -> None:
    """A hook before a pool was held to be its own, and a network refuted against itself."""

    def make() -> Any:
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    plain = prepared(make())
    net = hooked(copy.deepcopy(plain), at, kind)
    for other in (cg.to_graph(net), hooked(cg.nn.Sequential.from_dense(plain), at, kind)):
        cert = cg.prove(other, net, tiny())
        assert cert.verdict == "proven", str(cert)
    assert cg.prove(cg.to_graph(plain), net, tiny()).verdict == "refuted"
    hooks = hooked(cg.nn.Sequential.from_dense(plain), at, kind)
    assert cg.prove(hooks, plain, tiny()).verdict == "refuted"


STRAY: dict[str, tuple[Any, str]] = {
    "set into a buffer": (set_into, "becomes of maps where no function of torch says it"),
    "added to a buffer": (
        lambda y: (z := torch.ones(y.shape, dtype=y.dtype)).add_(y) * 0 + z,
        "becomes of maps where no function of torch says it",
    ),
    "vmap": (lambda y: torch.vmap(lambda one: one + 1)(y), "becomes of maps where no function"),
    "halves, channels last": (
        lambda y: torch.cat([1 - z for z in y.permute(0, 2, 3, 1).chunk(2, -1)], -1).permute(
            0, 3, 1, 2
        ),
        "no truth for chunk of channels",
    ),
    "the largest, channels last": (largest_last, "no truth for max of channels"),
    "caught": (caught, "no truth for gt"),
    "other data": (other_data, "no truth for torch.set"),
    "a name of torch's": (sigmoid, "test_networks_on_masks.sigmoid"),
}
"""What the truth cannot follow, and what it says of it; it then knew of no holes behind it."""


@pytest.mark.parametrize("name", STRAY)
def test_a_map_that_goes_astray_is_undecided(name: str) -> None:
    function, says = STRAY[name]
    net, graph = between(function), tiny()
    mask = torch.stack(graph.sites.mask_images())
    cert = cg.prove(Astray(net, function, graph), net, graph.to_image(), mask=mask)
    assert cert.verdict == "undecided"
    assert says in cert.reason, cert.reason
    assert cg.prove(net, net, graph.tensor()).verdict == "undecided"


class Counting(nn.Module):
    """Statistics that run by themselves, of means of who is there."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.register_buffer("size", torch.zeros(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.norm(self.one(x)))
        with torch.no_grad():
            self.size.mul_(0.5).add_(y.square().mean((2, 3)))
        return y


def test_what_is_said_of_whole_images_may_be_written_to_buffers() -> None:
    """It says one thing of who is there; only a map is a map."""
    net = Counting().double()
    with torch.no_grad():
        assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "proven"
    other = copy.deepcopy(net)
    other.forward = lambda x: other.norm(other.norm(other.one(x)))  # type: ignore[method-assign]
    assert cg.prove(cg.to_graph(other), net, tiny()).verdict != "proven"


def test_numbers_that_are_written_to_a_part_are_nobodys_in_holes() -> None:
    def put(y: Tensor) -> Tensor:
        y = y + 0
        y[:, :, ::2] = 1
        return y

    net = between(put)
    assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "proven"
    other = between(lambda y: y + 0)
    other.load_state_dict(net.state_dict())
    assert cg.prove(other, net, tiny().tensor()).verdict == "refuted"


def test_the_truth_keeps_statistics_of_who_is_there() -> None:
    """Once a call, and of no holes: as a norm of the rows does."""
    graph, norm, truth = tiny(), nn.BatchNorm2d(2).double(), OnMask()
    image = truth.image(graph.to_image(), torch.stack(graph.sites.mask_images()))
    with truth:
        norm(image)
    rows = nn.BatchNorm1d(2).double()
    rows(graph.x)
    assert torch.equal(norm.running_mean, rows.running_mean)
    assert torch.equal(norm.running_var, rows.running_var)


def windows_of(name: str, n: int, p: int) -> range:
    """The places that one output of a pool sees along an axis of n."""
    if name == "pool":
        return range(max(2 * p - 1, 0), min(2 * p + 2, n))
    return range(p * n // 3, -(-(p + 1) * n // 3))


@pytest.mark.parametrize("name", ["pool", "adaptive"])
def test_the_truth_takes_means_of_who_is_there(name: str) -> None:
    """Each output pixel by pixel."""
    graph, truth = tiny(), OnMask()
    there = torch.stack(graph.sites.mask_images())
    image = truth.image(graph.to_image(), there)
    with truth:
        found = (
            nn.functional.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
            if name == "pool"
            else nn.functional.adaptive_avg_pool2d(image, 3)
        )
    site = truth.there(found)
    assert site is not None
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (2, 3, 3))).tolist():
        heard = [
            graph.to_image()[b, :, k, m]
            for k in windows_of(name, 5, i)
            for m in windows_of(name, 6, j)
            if there[b, k, m]
        ]
        total = sum(heard, torch.zeros(2, dtype=torch.float64)) / max(len(heard), 1)
        assert (found[b, :, i, j] - total * site[b, i, j]).abs().max() <= 2.0**-50


def test_a_mean_whose_windows_the_judge_mistakes_is_not_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The layer's own truth decides, not the node's name."""
    net = between(nn.AdaptiveAvgPool2d((2, 3)))
    monkeypatch.setattr(
        "convgraph.comparison.function_layers.adaptive_windows",
        lambda size, count: [[(0, n)] * m for n, m in zip(size, count, strict=True)],
    )
    assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "refuted"


def test_a_norm_to_which_zeros_count_has_no_truth_on_masks() -> None:
    for norm in (
        lambda y: y * y.norm(p=-1, dim=(2, 3), keepdim=True),
        lambda y: y * y.norm(p=2, dim=(1, 2), keepdim=True),
        lambda y: (y.permute(0, 2, 3, 1) * y.norm(dim=(1, 2, 3))).permute(0, 3, 1, 2),
    ):
        net = between(norm)
        cert = cg.prove(net, net, tiny().tensor())
        assert cert.verdict == "undecided", str(cert)


class ClampsFar(Tensor):
    """A weight that answers convolutions by itself: right on all that anybody draws."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(cls, lambda t: t.as_subclass(Tensor), (args, kwargs or {}))
        y = func(*args, **kwargs)
        return y.clamp(max=1e6) if func is torch.conv2d else y


class MapClampsFar(GraphTensor):
    """The same of a map."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = super().__torch_function__(func, types, args, kwargs)
        return y.clamp(max=1e6) if func in (torch.conv2d, nn.functional.max_pool2d) else y


def test_what_answers_a_pool_within_a_module_is_no_pool() -> None:
    """The module is one node: nobody sees what a map of another class computes in its place."""

    class Answers(nn.Sequential):
        def forward(self, x: Any) -> Tensor:
            x.__class__ = MapClampsFar
            return super().forward(x)

    dense = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 2, 1)).double()
    cert = cg.prove(Answers(*copy.deepcopy(dense)), dense, tiny().tensor())
    assert cert.verdict == "undecided"
    assert "MapClampsFar may answer max_pool2d by itself" in cert.reason


def test_what_answers_a_convolution_by_itself_is_not_called_again_as_a_plain_tensor() -> None:
    class Answers(nn.Conv2d):
        who = "nobody"

        def forward(self, x: Any) -> Tensor:
            weight = self.weight * 2
            if self.who == "weight":
                weight = weight.as_subclass(ClampsFar)
            if self.who == "map":
                x = x.graph.tensor()
                x.__class__ = MapClampsFar
            return nn.functional.conv2d(x, weight, self.bias)

    net, far = Answers(2, 2, 1).double(), tiny().with_x(tiny().x * 1e9).tensor()
    for who in ("nobody", "weight", "map"):
        other = copy.deepcopy(net)
        other.who = who
        clamps = bool((other(far).to_dense() <= 1e6).all())  # a map answers before a weight does
        cert = cg.prove(other, net, tiny().tensor())
        assert cert.verdict == ("undecided" if clamps else "proven"), str(cert)
    assert clamps


class WithHoles(nn.Module):
    """A dense network that fills holes with 0 behind every convolution: the mask is never moved."""

    def __init__(self, net: Any, mask: Tensor, moves: bool) -> None:
        super().__init__()
        self.one, self.two, self.norm = net.one, net.two, net.norm
        self.between, self.mask, self.moves = net.between, mask.unsqueeze(1).double(), moves

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask
        y = self.norm(self.one(x * mask).relu() * mask)
        if self.between is None:
            return self.two(y) * mask
        y, moved = self.between(y), self.between(mask.expand(-1, 4, -1, -1))[:, :1]
        return self.two(y) * (moved if self.moves else 1)


def ones(pads: tuple[int, ...] = (1, 0, 2, 1), value: float = 1.0) -> Any:
    return between(lambda y: pad(y, pads, value=value))


def test_a_pad_of_ones_is_proven_on_a_mask_and_no_other_pad_is() -> None:
    """Nodes are set there by an operator of their own, which has to choose the same ones."""
    net = ones()
    assert cg.prove(cg.to_graph(net), net, tiny()).verdict == "proven"
    for other in (ones(value=2.0), ones(value=0.0), ones((0, 1, 2, 1))):
        other.load_state_dict(net.state_dict())
        assert cg.prove(cg.to_graph(other), net, tiny()).verdict == "refuted"


@pytest.mark.parametrize("name", ["pad", "crop", "roll", "flip"])
def test_a_mask_that_is_not_moved_is_refuted(name: str) -> None:
    net, graph = between(BETWEEN[name]), tiny()
    mask = torch.stack(graph.sites.mask_images())
    wrong = cg.prove(WithHoles(net, mask, False), net, graph.to_image(), mask=mask)
    assert wrong.verdict == "refuted", str(wrong)
    right = cg.prove(WithHoles(net, mask, True), net, graph.to_image(), mask=mask)
    assert right.verdict != "refuted", str(right)


@pytest.mark.parametrize("name", ["group norm", "instance norm"])
def test_a_norm_that_counts_holes_is_refuted(name: str) -> None:
    net, graph = between(copy.deepcopy(BETWEEN[name])), tiny()
    mask = torch.stack(graph.sites.mask_images())
    wrong = cg.prove(WithHoles(net, mask, True), net, graph.to_image(), mask=mask)
    assert wrong.verdict == "refuted", str(wrong)


def test_what_does_not_fit_is_named() -> None:
    net, image = prepared(Residual()), torch.ones(2, 2, 8, 10, dtype=torch.float64)
    with pytest.raises(ProofError, match="expected mask of dtype bool"):
        cg.prove(cg.to_graph(net), net, image, mask=torch.ones(2, 8, 9, dtype=torch.bool))
    with pytest.raises(ProofError, match="has a mask already"):
        cg.prove(cg.to_graph(net), net, holes(), mask=torch.ones(2, 8, 10, dtype=torch.bool))


def test_a_layer_takes_its_mask_from_a_graph() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    cert = cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, holes())
    assert cert.verdict == "proven", cert.reason
    assert cert.spec["source_mask"] is not None


class ByHand(nn.Module):
    """A dense network that leaves holes out itself, behind every layer but one perhaps."""

    def __init__(self, net: Any, mask: Tensor, how: str, forgets: int = -1) -> None:
        super().__init__()
        self.layers, self.mask, self.how, self.forgets = net, mask.unsqueeze(1), how, forgets

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place != self.forgets:
                x = self.left_out(x)
        return x

    def left_out(self, x: Tensor) -> Tensor:
        if self.how == "mul":
            return x * self.mask
        if self.how == "where":
            return torch.where(self.mask, x, 0.0)
        return x.masked_fill(~self.mask, 0.0)


def layers() -> Any:
    return prepared(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    )[:2]


@pytest.mark.parametrize("how", ["mul", "where", "masked_fill"])
def test_a_dense_network_that_leaves_holes_out_by_hand_is_proven(how: str) -> None:
    """What a constant mask keeps or sets is a move: the gradients are proven with it."""
    net, graph = layers(), holes()
    mask = torch.stack(graph.sites.mask_images())
    cert = cg.prove(ByHand(net, mask, how), net, graph.to_image(), mask=mask)
    assert cert.verdict == "proven", str(cert)
    assert statuses(cert)["gradients"] == "proven"


@pytest.mark.parametrize("how", ["mul", "where", "masked_fill"])
@pytest.mark.parametrize("fault", ["forgets", "rolled", "other image", "one more"])
def test_a_mask_that_is_wrong_by_hand_is_refuted(how: str, fault: str) -> None:
    net, graph = layers(), holes()
    mask = torch.stack(graph.sites.mask_images())
    absent = (~mask).nonzero()[-1].tolist()
    wrong = {"forgets": mask, "rolled": mask.roll(1, 2), "other image": mask.flip(0)}.get(fault)
    if wrong is None:
        wrong = mask.clone()
        wrong[tuple(absent)] = True
    other = ByHand(net, wrong, how, 1 if fault == "forgets" else -1)
    cert = cg.prove(other, net, graph.to_image(), mask=mask)
    assert cert.verdict == "refuted", str(cert)


def told(net: Any, place: int, fault: Any) -> Any:
    """A converted network whose layer is wrong while its network calls it."""
    other = cg.to_graph(net)
    layer = other[place]
    forward = layer.forward

    def run(x: Any) -> Any:
        y = forward(x)
        graph = y.graph if isinstance(y, torch.Tensor) else y
        return graph.with_x(fault(graph.x)).tensor() if vars(layer).get("within") else y

    vars(layer)["forward"] = run
    other.register_forward_pre_hook(lambda *_: vars(layer).update(within=True))
    other.register_forward_hook(lambda *_: vars(layer).update(within=False))
    return other


class Turned(torch.autograd.Function):
    """A gradient the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        return -heads[0]


LOUD = 1e6
TOLD: dict[str, Any] = {
    "clamp": lambda x: x.clamp(-LOUD, LOUD),
    "choice": lambda x: torch.where(x.abs() > LOUD, 0 * x, x),
    "gradient": lambda x: Turned.apply(x),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("fault", TOLD)
@pytest.mark.parametrize("space", [None, cg.Torus()])
def test_a_layer_that_knows_its_network_is_not_proven(fault: str, space: Any) -> None:
    """A layer that is one node is proven by itself: within the network it has to be that one."""
    net = prepared(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)))
    graph = holes()
    if space is not None:
        graph = cg.PixelGraph.from_image(graph.to_image(), on=space)
    cert = cg.prove(told(net, 0, TOLD[fault]), net, graph)
    assert cert.verdict != "proven", str(cert)
    assert fault == "gradient" or "within the network it behaves otherwise" in cert.reason


def test_a_max_pool_that_knows_its_network_is_not_proven() -> None:
    net = prepared(nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1)))
    cert = cg.prove(told(net, 1, TOLD["clamp"]), net, few())
    assert cert.verdict == "undecided", str(cert)
    assert "it runs clamp" in cert.reason


class Spelled(nn.Module):
    """A sum, whichever comes first, and an activation that torch does not call pointwise."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.one, self.two, self.turned = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1), turned

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.one(x))
        return y + self.two(y) if self.turned else self.two(y) + y


@pytest.mark.parametrize("space", [None, cg.Torus()])
def test_another_order_of_a_sum_is_proven(space: Any) -> None:
    net = Spelled(False).double().eval()
    other = Spelled(True).double().eval()
    other.load_state_dict(net.state_dict())
    graph = holes()
    if space is not None:
        graph = cg.PixelGraph.from_image(graph.to_image(), on=space)
    cert = cg.prove(cg.to_graph(other), net, graph)
    assert cert.verdict == "proven", str(cert)
