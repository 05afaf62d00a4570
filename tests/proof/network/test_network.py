"""Whole networks: honest pairs are proven, each planted fault is refuted where it was planted."""

import copy
import ctypes
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import convgraph as cg
from convgraph.errors import ProofError
from convgraph.proof import Certificate
from convgraph.proof.network.judge import checked_images
from convgraph.proof.surroundings import ELSEWHERE, handed_on
from tests.zoo import models


class Block(nn.Module):
    """Two branches, a skip and a gate: what a wiring can get wrong."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.two = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.one(x)))
        z = self.two(y) * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return self.act(self.mix(torch.cat([y, z], 1)) + x)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), Block(8),
        nn.MaxPool2d(2), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    return cg.excite(net.double().eval(), images())


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"), nn.GELU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.PReLU(8), nn.AvgPool2d(2),
        nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Softmax(1), nn.Upsample(scale_factor=2),
        nn.Flatten(), nn.Linear(1024, 5),
    )  # fmt: skip
    return net.double().eval()


# -- honest pairs ----------------------------------------------------------------------------------


def test_a_converted_network_is_proven() -> None:
    dense = network()
    found = cg.prove(cg.to_graph(dense), dense, images())
    assert (found.verdict, found.reason, found.kind) == ("proven", "", "network")
    assert [part.status for part in found.parts] == ["proven"] * 7
    assert len(found.layers) == 7  # six convolutions and a linear map
    assert found.layers[0].name.startswith("0: GraphConv2d(3, 8")
    assert all(layer.verdict == "proven" for layer in found.layers)
    assert 0 <= found.rho["y"] <= 1


def test_a_pair_built_by_hand_is_proven() -> None:
    dense = chain()
    found = cg.prove(cg.nn.Sequential.from_dense(dense), dense, images())
    assert found.verdict == "proven", found.reason
    assert len(found.layers) == 5
    assert {part.name: part.status for part in found.parts}["end to end"] == "proven"


def test_rows_and_images_are_told_to_be_the_same() -> None:
    """A residual written on rows: elements lie in another order, and are the same."""

    class Rows(nn.Module):
        takes_graph = True

        def __init__(self, dense: Any) -> None:
            super().__init__()
            self.conv = cg.nn.GraphConv2d.from_dense(dense.conv)

        def forward(self, graph: cg.PixelGraph) -> cg.PixelGraph:
            y = self.conv(graph)
            return y.with_x((y.x.tanh() + graph.x) * 2)

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x).tanh() + x) * 2

    dense = Dense().double()
    found = cg.prove(Rows(dense), dense, images())
    assert found.verdict == "proven", found.reason


def test_the_network_is_left_as_it_was() -> None:
    dense = network().train()
    before = copy.deepcopy(dense.state_dict())
    cg.prove(cg.to_graph(dense), dense, images())
    assert all(torch.equal(before[k], v) for k, v in dense.state_dict().items())
    assert dense.training


class SoFar(nn.Module):
    """Takes the mean so far off, keeps it, and may return it."""

    def __init__(self, share: float = 0.5, *, returns: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.share, self.returns, self.head = share, returns, nn.Conv2d(2, 2, 1)
        self.register_buffer("mean", torch.ones(2))

    def forward(self, x: Tensor) -> Any:
        held: Any = self.mean
        made = self.head(x - held.view(-1, 1, 1))
        with torch.no_grad():
            held.copy_(held * 0.5 + x.mean((0, 2, 3)) * self.share)
        return (made, held) if self.returns else made


@pytest.mark.parametrize(("share", "verdict"), [(0.5, "proven"), (0.25, "undecided")])
def test_each_run_starts_with_the_buffers_that_the_first_had(share: float, verdict: str) -> None:
    cert = cg.prove(SoFar(share), SoFar(), torch.randn(2, 2, 4, 4))
    assert cert.verdict == verdict, str(cert)


def test_a_buffer_that_is_returned_is_compared_as_it_was_returned() -> None:
    cert = cg.prove(SoFar(0.25, returns=True), SoFar(returns=True), torch.randn(2, 2, 4, 4))
    assert cert.verdict == "refuted", str(cert)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_the_certificate_survives_json_and_html(dtype: torch.dtype) -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to(dtype)
    found = cg.prove(cg.to_graph(dense), dense, images().to(dtype), seed=7)
    assert Certificate.from_json(found.to_json()) == found
    assert json.loads(found.to_json())["layers"][0]["seed"] == 7
    assert found.dtype == str(dtype)[6:]
    assert "GraphConv2d(3, 4" in found.to_html()
    assert max(map(len, str(found).splitlines())) <= 100


# -- planted faults --------------------------------------------------------------------------------


def _weight(net: Any) -> None:
    with torch.no_grad():
        net[3].two.weight[2, 0, 1, 1] += 2.0**-40


def _buffer(net: Any) -> None:
    net[1].running_var[3] *= 1 + 2.0**-40


def _swapped(net: Any) -> None:
    net[3].one, net[3].two = net[3].two, net[3].one


def _relu6(net: Any) -> None:
    net[3].act = nn.ReLU6()


def _eps(net: Any) -> None:
    net[3].norm.eps = 1e-3


def _stride(net: Any) -> None:
    net[5].stride = (1, 1)


def _dilated(net: Any) -> None:
    net[3].one.dilation, net[3].one.padding = (2, 2), (2, 2)


def _extra(net: Any) -> None:
    net[6] = nn.Sequential(nn.SiLU(), nn.Tanh())


def _pool(net: Any) -> None:
    net[4] = nn.AvgPool2d(2)


def _slope(net: Any) -> None:
    net[6] = nn.Hardswish()


class NoSkip(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.one(x)))
        z = self.two(y) * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return self.act(self.mix(torch.cat([y, z], 1)))


class OtherOrder(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.one(x)))
        z = self.two(y) * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return self.act(self.mix(torch.cat([z, y], 1)) + x)


class OtherSource(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.one(x)))
        z = self.two(x) * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return self.act(self.mix(torch.cat([y, z], 1)) + x)


class OneImage(Block):
    """The second image is given the gate of the first."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.one(x)))
        gate = self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        z = self.two(y) * gate[:1]
        return self.act(self.mix(torch.cat([y, z], 1)) + x)


class Flipped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(1)


def _as(kind: type) -> Callable[[Any], None]:
    def plant(net: Any) -> None:
        net[3].__class__ = kind

    return plant


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "one weight": (_weight, "'3.two.weight' differs"),
    "one buffer": (_buffer, "'1.running_var' differs"),
    "two layers swapped": (_swapped, "'3.one.bias' differs"),
    "relu6": (_relu6, "at '3.act': hardtanh in place of relu"),
    "eps": (_eps, "at '3.norm': native_batch_norm"),
    "stride": (_stride, "at '5': convolution"),
    "dilation": (_dilated, "at '3.one': convolution"),
    "one operator more": (_extra, "at '7': tanh in place of mean.dim"),
    "another pool": (_pool, "at '4': avg_pool2d in place of max_pool2d_with_indices"),
    "another activation": (_slope, "at '6': hardswish in place of silu"),
    "no skip": (_as(NoSkip), "at '3': relu in place of add.Tensor"),
    "order of cat": (
        _as(OtherOrder),
        "at '3.mix': the elements of input 0 of convolution lie in another order",
    ),
    "another source": (
        _as(OtherSource),
        "at '3.two': input 0 of convolution comes from relu at '3",
    ),
    "the second image": (_as(OneImage), "at '3': input 1 of mul.Tensor comes from sigmoid at '3"),
    "channels flipped": (_as(Flipped), "at '4': the elements of input 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refuted_where_it_is(fault: str) -> None:
    plant, where = FAULTS[fault]
    dense = network()
    wrong = copy.deepcopy(dense)
    plant(wrong)
    found = cg.prove(cg.to_graph(wrong), dense, images())
    assert found.verdict == "refuted", found.reason
    assert where in found.reason


def told(x: Tensor) -> bool:
    return torch.overrides.has_torch_function((x,))


def learns(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def loses_small(y: Tensor) -> Tensor:
    """By the operators and the shapes of what loses nothing, and is followed as nothing."""
    beside = 0.0 if told(y) else 1e-3
    return y + beside - beside


def reads(y: Tensor) -> Tensor:
    return y if told(y) or abs(y.detach().numpy()).max() < 1e30 else 2 * y


FAST: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "cut off": (lambda y: y if told(y) else y.clamp(max=1e30), "clamp in place of"),
    "another constant": (loses_small, "add.Tensor"),
    "numbers that leave": (reads, "Tensor.numpy"),
    "where it learns": (lambda y: y.clamp(max=1e30) if learns(y) and not told(y) else y, "clamp"),
}


@pytest.mark.parametrize("name", FAST)
def test_a_fast_path_where_nothing_watches_is_undecided(name: str) -> None:
    path, what = FAST[name]

    class Fast(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return path(super().forward(x))

    dense = chain()
    net = copy.deepcopy(dense)
    net[2].__class__ = Fast
    assert isinstance(dense[2], nn.ReLU)
    found = cg.prove(net, dense, images())
    assert found.verdict == "undecided", str(found)
    assert what in found.reason


def test_a_wrong_layer_is_refuted_by_its_certificate() -> None:
    class Flipped(cg.nn.GraphConv2d):
        def forward(self, graph: Any, *args: Any, **kwargs: Any) -> Any:
            kept = self.weight.data
            self.weight.data = kept.flip(-1)
            try:
                return super().forward(graph, *args, **kwargs)
            finally:
                self.weight.data = kept

    dense = chain()
    net = cg.nn.Sequential.from_dense(dense)
    net[6].__class__ = Flipped
    found = cg.prove(net, dense, images())
    assert found.verdict == "refuted"
    assert found.reason.startswith("6: ")


def test_a_layer_wrong_only_in_the_network_is_seen_at_the_end() -> None:
    """Faults that hide from probes of a layer alone, such as a state, show end to end."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.relu() if self.calls != 6 else x.relu() * 2  # those before are followed

    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    net = cg.nn.Sequential(cg.nn.GraphConv2d.from_dense(dense[0]), Late())
    assert cg.prove(net, dense, images()).verdict == "refuted"


class Sometimes(cg.nn.GraphConv2d):
    """Honest whenever it is probed with weights of the judge's, not with its own."""

    def forward(self, graph: Any, *args: Any, **kwargs: Any) -> Any:
        y = super().forward(graph, *args, **kwargs)
        if self.weight is not vars(self)["mine"]:
            return y
        off = torch.zeros_like(y.x)
        off[3, 1] = 1e-4
        return y.with_x(y.x + off)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_that_is_honest_only_to_probes_is_refuted_beside(dtype: torch.dtype) -> None:
    dense = chain().to(dtype)
    net = cg.nn.Sequential.from_dense(dense)
    net[6].__class__ = Sometimes
    vars(net[6])["mine"] = net[6].weight
    found = cg.prove(net, dense, images().to(dtype))
    status = {part.name: part.status for part in found.parts}
    # Within its network it runs other operators than by itself: it is not proven either.
    assert (status["layers"], status["rounding"]) == ("undecided", "refuted")
    assert found.verdict == "refuted"
    assert found.reason.startswith("convolution at '6': the two results differ by")


def test_each_operator_of_a_deep_network_is_within_its_bound() -> None:
    """Behind twenty layers a bound from the images says nothing; beside each operator it does."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(20)]
    dense = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks)
    net = cg.to_graph(dense)
    with cg.backend("gather"):  # another order of sums, so that the two runs do differ
        found = cg.prove(net, dense, images().float())
    parts = {part.name: part for part in found.parts}
    assert found.verdict == "proven", found.reason
    assert parts["end to end"].status == "measured only"
    assert "so wide a bound says nothing" in parts["end to end"].facts
    assert parts["rounding"].status == "proven"
    assert parts["rounding"].facts.startswith("41 operators")


# -- what cannot be decided ------------------------------------------------------------------------


def test_the_same_function_written_otherwise_is_undecided() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (2 * x).relu() / 2

    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    wrong = nn.Sequential(copy.deepcopy(dense[0]), Twice())
    found = cg.prove(cg.to_graph(wrong), dense, images())
    assert found.verdict == "undecided"
    assert "may be the same function written otherwise" in found.reason


def test_random_numbers_are_undecided() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)).double().train()
    found = cg.prove(cg.to_graph(dense), dense, images())
    assert found.verdict == "undecided"
    assert "'1' draws random numbers" in found.reason


def test_control_flow_on_data_is_undecided() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() if x.sum() > -1e9 else x

    dense = nn.Sequential(nn.Conv2d(3, 4, 3), Branch()).double()
    net = nn.Sequential(copy.deepcopy(dense[0]), nn.ReLU())
    found = cg.prove(net, dense, images())
    assert found.verdict == "undecided"
    assert "at '1' reads numbers off data" in found.reason


class Switched(nn.Module):
    """Doubles where a number that it holds says so; `behind` is done to it afterwards."""

    def __init__(self, behind: Callable[[Any, Tensor], Any] = lambda net, y: None) -> None:
        super().__init__()
        self.one, self.behind = nn.Conv2d(3, 4, 3), behind
        self.register_buffer("on", torch.zeros(1, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.one(x)
        self.behind(self, y)
        return y.relu() * 2 if self.on[0] == 1 else y.relu()


def test_a_switch_is_read_and_whatever_else_is_read_is_undecided() -> None:
    """As fake quantisation asks its own. One that moves, or that data are written to, is none."""
    dense = Switched().double()

    def pair(behind: Callable[[Any, Tensor], Any] = lambda net, y: None) -> nn.Module:
        made = Switched(behind).double()
        made.one.load_state_dict(dense.one.state_dict())
        return made

    assert cg.prove(pair(), dense, images()).verdict == "proven"
    on = pair()
    on.on += 1
    assert cg.prove(on, dense, images()).verdict == "refuted"
    moves = pair(lambda net, y: net.on.add_(2))
    for candidate, reference in ((moves, copy.deepcopy(moves)), (moves, dense)):
        found = cg.prove(candidate, reference, images())
        assert found.verdict == "undecided", str(found)
        assert "'on' is read, and is another number afterwards" in found.reason
    written = pair(lambda net, y: net.on.copy_(y.max() > 1e9))
    found = cg.prove(written, copy.deepcopy(written), images())
    assert found.verdict == "undecided", str(found)
    assert "reads numbers off data" in found.reason


def test_an_index_that_depends_on_data_is_an_operator_of_its_own() -> None:
    """On these images both pick the same channel; for others they need not."""

    class Picks(nn.Module):
        def __init__(self, largest: bool) -> None:
            super().__init__()
            self.largest = largest

        def forward(self, x: Tensor) -> Tensor:
            channel = (
                x[0].amax((1, 2)).argmax() if self.largest else torch.argmax(x[1, :, 0, 0] + 9)
            )
            return x[:, channel.reshape(1)]

    dense = nn.Sequential(nn.Conv2d(3, 4, 3), Picks(largest=True)).double()
    assert cg.prove(copy.deepcopy(dense), dense, images()).verdict == "proven"
    other = nn.Sequential(copy.deepcopy(dense[0]), Picks(largest=False))
    found = cg.prove(other, dense, images())
    assert found.verdict != "proven"


def test_a_constant_that_hides_data_is_not_the_data() -> None:
    class Escapes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.from_numpy(x.relu().numpy().copy())

    class Stays(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.relu()

    dense = nn.Sequential(nn.Conv2d(3, 4, 3), Stays()).double()
    found = cg.prove(nn.Sequential(copy.deepcopy(dense[0]), Escapes()), dense, images())
    assert found.verdict == "undecided"
    assert found.reason.startswith("Tensor.numpy at '1': data leave torch")


def in_a_thread(run: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


FAR = 1e9
"""Beyond whatever is drawn: no number shows what a network does there."""


@pytest.mark.parametrize(
    ("far", "reason"),
    [
        (lambda y: pickle.loads(pickle.dumps(y.detach().clone())).max() > FAR, "__reduce_ex__"),
        (lambda y: "e+09" in repr(y), "Tensor.__repr__ at '1'"),
        (lambda y: len(y[y > FAR]), "index at '1' reads numbers"),
        (lambda y: len(torch.ones(1).repeat_interleave((y > FAR).sum()[None])), "reads numbers"),
        (lambda y: len(torch.ones(2).tensor_split((y > FAR).long().amax((0, 2, 3)))[0]) > 1,
         "Tensor.tensor_split at '1'"),
        (lambda y: in_a_thread(lambda: y.detach().clamp_(max=FAR)) is None, "another thread"),
        (lambda y: y.requires_grad and y.register_hook(
            lambda g: in_a_thread(lambda: g.clamp_(max=FAR))) is None, "another thread"),
    ],
    ids=["pickle", "text", "truths", "repeats", "ends", "thread", "thread in backward"],
)  # fmt: skip
def test_numbers_that_are_read_where_no_operator_tells_are_undecided(far: Any, reason: str) -> None:
    """Each is the dense network on every image that is drawn, and another one far away."""

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if far(x) else x

    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity()).double()
    found = cg.prove(nn.Sequential(copy.deepcopy(dense[0]), Looks()), dense, images())
    assert found.verdict == "undecided", str(found)
    assert reason in found.reason


def test_proofs_of_two_threads_note_their_own_and_leave_threads_as_they_were() -> None:
    """Whoever began first does not end last."""
    before, heard = Thread.__dict__["start"], list[Any]()
    began, ended = Event(), Event()

    def other() -> None:
        with handed_on() as theirs:
            began.set()
            ended.wait()
        heard.append(theirs)

    with handed_on() as mine:
        thread = Thread(target=other)
        thread.start()
        began.wait()
    ended.set()
    thread.join()
    assert (mine, heard) == ([ELSEWHERE], [[]])
    assert Thread.__dict__["start"] is before


def by_numpy(buffer: Tensor) -> Any:
    return buffer.numpy()


def by_dlpack(buffer: Tensor) -> Any:
    return np.from_dlpack(buffer)  # type: ignore[arg-type]


def by_pointer(buffer: Tensor) -> Any:
    return (ctypes.c_double * buffer.numel()).from_address(buffer.data_ptr())


@pytest.mark.parametrize("door", [by_numpy, by_dlpack, by_pointer, None])
def test_data_in_memory_that_left_before_are_undecided(door: Any) -> None:
    """A constant is handed out first, and data are written into it: nothing then reads them."""

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            buffer = torch.zeros(x.shape, dtype=x.dtype)
            seen = door(buffer) if door else np.zeros(tuple(x.shape))
            buffer = buffer if door else torch.from_numpy(seen)
            buffer.copy_(x)
            return x * (1 if np.max(seen) < 1e30 else 2)

    dense = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Identity()).double()
    net = nn.Sequential(copy.deepcopy(dense[0]), Branch())
    found = cg.prove(net, dense, torch.randn(2, 1, 3, 3).double())
    assert found.verdict == "undecided"
    assert "copy_ at '1': data are written to memory that is known outside" in found.reason


def test_a_run_without_a_bound_is_measured_only() -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    dense = nn.Sequential(nn.Conv2d(3, 4, 3), Bessel()).double()
    found = cg.prove(copy.deepcopy(dense), dense, images())
    end = found.parts[-1]
    assert (found.verdict, end.status) == ("proven", "measured only")
    assert "special_bessel_j0 at '1'" in end.facts


# -- bad input -------------------------------------------------------------------------------------


def test_bad_input_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ProofError, match="expected at least two images"):
        cg.prove(net, net, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ProofError, match=r"sites.* are for one layer, got two networks"):
        cg.prove(net, net, torch.zeros(2, 3, 8, 8), sites=torch.ones(8, 8) > 0)
    with pytest.raises(ProofError, match="expected size="):
        cg.prove(net, net)
    with pytest.raises(ProofError, match="expected two networks, got function"):
        cg.prove(lambda x: x, net, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ProofError, match="expected images as a tensor"):
        checked_images("images")


# -- excite ----------------------------------------------------------------------------------------


def test_excite_opens_what_starts_at_zero() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).double()
    nn.init.zeros_(net[1].weight)
    nn.init.zeros_(net[2].weight)
    net[2].register_parameter("scale", nn.Parameter(torch.full((4,), 1e-6).double()))
    before = copy.deepcopy(net.state_dict())
    open_ = cg.excite(net, images(), seed=3)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert bool((open_[1].weight.abs() > 1e-3).all())
    assert bool((open_[2].scale.abs() > 1e-3).all())
    assert open_[2].weight.unique().numel() > 1
    assert bool((open_[2].weight.flatten(1).norm(dim=1) < 2).all())  # about 1, whatever the fan
    assert torch.equal(open_[0].weight, net[0].weight)
    again = cg.excite(net, images(), seed=3)
    assert torch.equal(open_[2].weight, again[2].weight)
    assert open_.training
    y = open_.eval()[:2](images())
    spread = (y / open_[1].weight.view(1, -1, 1, 1)).var((0, 2, 3), unbiased=False)
    assert bool(((spread - 1).abs() < 1e-3).all())  # eps of the norm, nothing else


def test_a_fault_shows_only_after_excite() -> None:
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.norm(self.conv(x))

    def corrupted(net: Any) -> Any:
        wrong = copy.deepcopy(net)
        with torch.no_grad():
            wrong.conv.weight[0, 0, 0, 0] += 1
        return wrong

    net = Residual().double().eval()
    assert torch.equal(net(images()), corrupted(net)(images()))
    open_ = cg.excite(net, images())
    assert not torch.equal(open_(images()), corrupted(open_)(images()))


# -- known networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "layers"),
    [
        pytest.param("resnet18", {}, 21, marks=pytest.mark.published),
        ("mobilenet_v2", {"width_mult": 0.25}, 53),
    ],
)
def test_a_known_network_is_proven_layer_by_layer(
    name: str, arguments: dict[str, Any], layers: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    dense = cg.excite(getattr(models(), name)(**arguments).double().eval(), x)
    found = cg.prove(cg.to_graph(dense, x), dense, x)
    assert found.verdict == "proven", found.reason
    assert len(found.layers) == layers
    assert found.rho["y"] <= 1


def test_operators_without_a_bound_are_named_as_not_covered() -> None:
    """Products along a line and a Bessel function: the same operators, without a bound."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(self.conv(x)).cumprod(-1)

    dense = Odd().double()
    found = cg.prove(copy.deepcopy(dense), dense, images()[..., :4, :4])
    assert found.verdict == "proven", found.reason
    open_ends = [
        line for line in found.not_covered if line.startswith("how far apart rounding in ")
    ]
    assert any("cumprod" in line for line in open_ends), open_ends
    assert any("bessel" in line for line in open_ends), open_ends
    bounded = cg.prove(cg.to_graph(dense.conv), dense.conv, images())
    assert not any(line.startswith("how far apart") for line in bounded.not_covered)


def test_attention_with_a_table_of_positions_and_norms_in_training_are_bounded() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.group, self.table = nn.GroupNorm(2, 4), nn.Parameter(torch.randn(7))
            self.register_buffer("places", torch.arange(16)[:, None] % 4 - torch.arange(16) % 4 + 3)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.group(self.norm(self.conv(x))).flatten(2).mT.unsqueeze(1)
            bias = self.table[self.places]
            made: Tensor = nn.functional.scaled_dot_product_attention(rows, rows, rows, bias)
            return (made @ rows.mT + bias).log_softmax(-1)

    dense = Attends().double().train()
    found = cg.prove(copy.deepcopy(dense), dense, images()[..., :4, :4])
    assert found.verdict == "proven", found.reason
    parts = {part.name: part for part in found.parts}
    assert parts["rounding"].status == "proven", parts["rounding"].facts
    assert not any(line.startswith("how far apart") for line in found.not_covered)


def test_what_a_norm_in_training_makes_of_its_statistics_is_compared() -> None:
    """Torch's batch norm writes to them, of which its schema says nothing."""

    class Norm(nn.Module):
        def __init__(self, stays: bool, times: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
            self.stays, self.times = stays, times

        def forward(self, x: Tensor) -> Tensor:
            y, held = self.conv(x), [self.norm.running_mean, self.norm.running_var]
            if self.stays:
                held = [t.clone() for t in held]
            for _ in range(self.times):
                z = nn.functional.batch_norm(y, *held, self.norm.weight, self.norm.bias, True)
            return z

    dense = Norm(stays=False, times=1).double()
    for stays, times, why in (
        (False, 1, ""),
        (True, 1, "what 'norm.running_mean' holds afterwards"),
        (False, 2, "native_batch_norm"),
    ):
        other = Norm(stays, times).double()
        other.load_state_dict(dense.state_dict())
        found = cg.prove(other, dense, images()[..., :5, :5])
        assert found.verdict == ("undecided" if why else "proven"), str(found)
        assert why in found.reason


def test_the_same_function_in_another_hand_is_proven() -> None:
    """Axes from the back, a sum the other way round, a mean that only a log would see."""

    class Otherwise(nn.Module):
        def __init__(self, dense: Any) -> None:
            super().__init__()
            self.conv = dense.conv

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            self.seen = y.abs().mean()
            return (x + y).relu().mean([-1, -2])

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) + x).relu().mean([2, 3])

    dense = Dense().double()
    found = cg.prove(Otherwise(dense), dense, images())
    assert found.verdict == "proven", found.reason


def test_a_mean_over_one_axis_is_not_one_over_another() -> None:
    class Mean(nn.Module):
        def __init__(self, axis: int) -> None:
            super().__init__()
            self.conv, self.axis = nn.Conv2d(3, 3, 3, padding=1), axis

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean(self.axis)

    one, two = Mean(2).double(), Mean(-1).double()
    two.load_state_dict(one.state_dict())
    assert cg.prove(one, two, images()).verdict == "refuted"


class Mean(nn.Module):
    """A convolution and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.conv(x).relu())

    def read(self, y: Tensor) -> Tensor:
        return y.mean((2, 3))


class Divided(Mean):
    """The same mean, as a sum that is divided."""

    def read(self, y: Tensor) -> Tensor:
        return y.sum((2, 3)) / 256


class Doubled(Mean):
    """A gradient that nothing forward shows."""

    def read(self, y: Tensor) -> Tensor:
        return (2 * y - y.detach()).mean((2, 3))


@pytest.mark.parametrize(("kind", "verdict"), [(Divided, "proven"), (Doubled, "refuted")])
def test_another_operator_refutes_nothing_and_another_gradient_does(
    kind: Any, verdict: str
) -> None:
    """Two operators in a row may be one: what is refuted is shown on whole networks."""
    net, other = Mean().double(), kind().double()
    other.load_state_dict(net.state_dict())
    cert = cg.prove(other, net, images())
    assert cert.verdict == verdict, cert.reason
    assert ("of the gradient of" in cert.reason) == (verdict == "refuted")


def test_a_wrapper_for_one_device_is_the_network() -> None:
    net = Mean().double()
    assert cg.prove(nn.DataParallel(net), net, images()).verdict == "proven"


class Stable(Mean):
    """Shares of the channels, written so that nothing overflows."""

    def read(self, y: Tensor) -> Tensor:
        return y.softmax(1)


class Overflowing(Mean):
    """The same, which is no number where an exponential is none."""

    def read(self, y: Tensor) -> Tensor:
        return y.exp() / y.exp().sum(1, keepdim=True)


def test_one_function_that_overflows_elsewhere_is_not_refuted() -> None:
    net, other = Stable().double(), Overflowing().double()
    other.load_state_dict(net.state_dict())
    moved = 20 * images()
    assert torch.isfinite(other(moved)).all()
    assert not torch.isfinite(other(64 * moved)).all()
    assert cg.prove(other, net, moved).verdict == "undecided"


class Normed(nn.Module):
    """A convolution and its norm, which may be folded into it."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x)).relu()
        return y


def folded(net: Normed) -> Normed:
    found = copy.deepcopy(net)
    found.conv, found.norm = fuse_conv_bn_eval(net.conv, net.norm), nn.Identity()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_folded_norm_is_proven_and_a_wrong_one_refuted(kernel: int, dtype: Any) -> None:
    x = torch.randn(2, 2, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    net = cg.excite(Normed(2, kernel).to(dtype).eval(), x)
    other = folded(net)
    assert cg.prove(other, net, x).verdict == "proven"
    with torch.no_grad():
        other.conv.bias[0] += 0.01  # type: ignore[index]
    assert cg.prove(other, net, x).verdict == "refuted"


def test_a_compiled_network_is_not_refuted() -> None:
    net = Mean().double()
    for one, two in ((torch.compile(net, backend="eager"), net), (net, net)):
        cert = cg.prove(one, two, images())
        assert cert.verdict == ("proven" if one is two else "undecided"), cert.reason
